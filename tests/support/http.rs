//! A plain HTTP client that shows a test what arrives and when.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
};

use super::DEADLINE;

/// One connection to a server.
#[derive(Debug)]
pub struct Client(BufReader<TcpStream>);

/// The head of a response.
#[derive(Debug)]
pub struct Head {
    pub status: u16,
    pub fields: Vec<(String, String)>,
}

/// A server-sent event.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Event {
    pub event: String,
    /// The sequence in its id.
    pub id: Option<u64>,
    pub whole_id: String,
    /// The delay in milliseconds.
    pub retry: Option<u64>,
    pub data: String,
}

impl Client {
    #[track_caller]
    pub fn connect(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).expect("the server listens");
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Self(BufReader::new(stream))
    }

    pub fn stream(&self) -> &TcpStream {
        self.0.get_ref()
    }

    /// Sends a request without a body. `fields` are whole lines.
    #[track_caller]
    pub fn send(&mut self, method: &str, path: &str, fields: &[&str]) {
        self.send_body(method, path, fields, "");
    }

    #[track_caller]
    pub fn send_body(&mut self, method: &str, path: &str, fields: &[&str], body: &str) {
        let length = body.len();
        let mut request = format!("{method} {path} HTTP/1.1\r\nContent-Length: {length}\r\n");
        for field in ["Host: localhost"].iter().chain(fields) {
            request.push_str(field);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        request.push_str(body);
        self.0.get_mut().write_all(request.as_bytes()).expect("the server reads");
    }

    /// Reads the head of a response.
    #[track_caller]
    pub fn head(&mut self) -> Head {
        let status = self.line().expect("the server answers");
        let status = status.split(' ').nth(1).and_then(|status| status.parse().ok());
        let mut fields = Vec::new();
        while let Some((name, value)) = self.line().unwrap().split_once(':') {
            fields.push((name.to_lowercase(), value.trim().to_owned()));
        }
        Head { status: status.expect("the answer has a status line"), fields }
    }

    /// Reads a whole response and returns its status and body.
    #[track_caller]
    pub fn response(&mut self) -> (u16, String) {
        let head = self.head();
        let length = head.field("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("the body has the announced length");
        (head.status, String::from_utf8(body).unwrap())
    }

    /// Requests a stream of events and returns the status.
    #[track_caller]
    pub fn open_events(&mut self, fields: &[&str]) -> u16 {
        self.send("GET", "/quorum/events", fields);
        self.head().status
    }

    /// Returns the next event of a stream, or `None` at its end.
    pub fn event(&mut self) -> Option<Event> {
        let mut event = Event::default();
        loop {
            let line = self.line()?;
            match line.split_once(": ") {
                Some(("event", name)) => event.event = name.to_owned(),
                Some(("id", id)) => {
                    event.id = id.rsplit('-').next().and_then(|sequence| sequence.parse().ok());
                    event.whole_id = id.to_owned();
                }
                Some(("retry", retry)) => event.retry = retry.parse().ok(),
                Some(("data", data)) => event.data = data.to_owned(),
                None if line.is_empty() && !event.event.is_empty() => return Some(event),
                // The length of a chunk, the end of a chunk, or a field that is not needed.
                _ => {}
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).expect("the connection is open");
        line.truncate(line.trim_end().len());
        // The last chunk ends a stream whose connection stays open.
        (read > 0 && line != "0").then_some(line)
    }
}

impl Head {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}
