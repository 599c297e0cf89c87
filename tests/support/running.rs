//! The examples, run as the documentation says.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use super::Netns;

/// It may have to be built first.
const PATIENCE: Duration = Duration::from_secs(300);

/// A program, killed on drop.
#[derive(Debug)]
pub struct Running {
    /// Each program on the way replaced itself by the next, so this is the program's own process
    /// once it has printed something.
    pub child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    /// `cargo run` with these arguments, in a network namespace if there is one.
    #[track_caller]
    pub fn cargo_run(netns: Option<&Netns>, arguments: &str) -> Self {
        let mut command = match netns {
            Some(netns) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", netns.name(), env!("CARGO")]);
                command
            }
            None => Command::new(env!("CARGO")),
        };
        command.args(["run", "--quiet"]).args(arguments.split(' '));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let prints = BufReader::new(child.stdout.take().unwrap()).lines();
        let (send, lines) = mpsc::channel();
        thread::spawn(move || {
            // The test may have ended.
            prints.map_while(Result::ok).try_for_each(|line| send.send(line))
        });
        Self { child, lines }
    }

    /// Reads lines up to one that contains `text`.
    #[track_caller]
    pub fn until(&mut self, text: &str) -> String {
        self.until_line(text, |line| line.contains(text))
    }

    /// Reads lines up to one that starts with `text`.
    #[track_caller]
    pub fn until_start(&mut self, text: &str) -> String {
        self.until_line(text, |line| line.starts_with(text))
    }

    #[track_caller]
    fn until_line(&mut self, text: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if wanted(&line) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("{error} before {text:?}: {seen:#?}"),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
