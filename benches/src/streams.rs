//! Measures the delivery of one change to a thousand clients of `/quorum/events`, compared with
//! streams of the same bytes from a `tokio::sync::broadcast`.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use actix::System;
use actix_quorum::{QuorumActor, sim::Cluster, web::routes};
use actix_web::{
    App, HttpResponse, HttpServer,
    web::{self, Bytes},
};
use futures_util::stream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::broadcast,
};

use crate::{
    clock,
    report::Report,
    stats::Sample,
    support::{Client, eventually},
};

const DEADLINE: Duration = Duration::from_secs(30);
const CLIENTS: usize = 1_000;
const ROUNDS: usize = 30;

/// The text in each event that is counted, a flip. The changes of votes that follow a flip do not
/// contain it.
const MARK: &str = r#""cause":"quorum""#;

pub(crate) fn run(report: &mut Report) {
    let limit = libc::rlimit { rlim_cur: 16_384, rlim_max: 16_384 };
    // SAFETY: `limit` is a local.
    let code = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    assert_eq!(code, 0, "root may raise the limit");
    let cluster = Cluster::new(3);
    let (plain, _) = broadcast::channel(16);
    let server = serve(&cluster, &plain);
    let flip = |quorate: bool| {
        cluster.expected_votes(if quorate { 3 } else { 9 }).expect("the number of votes is valid");
    };

    let mut one = Client::connect(server);
    assert_eq!(one.open_events(&[]), 200);
    flip(false);
    let event = std::iter::from_fn(|| one.event()).find(|event| event.data.contains(MARK));
    let event = event.expect("the stream does not end");
    let (id, data) = (event.id.unwrap_or_default(), event.data);
    let bytes = Bytes::from(format!("event: changed\nid: {id}\nretry: 1000\ndata: {data}\n\n"));
    flip(true);
    drop(one);

    let (ours, theirs) =
        (Clients::start(server, "/quorum/events"), Clients::start(server, "/plain"));
    let (mut times, mut plain_times) = (Sample::default(), Sample::default());
    for round in 0..ROUNDS {
        // The change of the votes follows up to 50 ms later.
        thread::sleep(Duration::from_millis(200));
        let start = clock::now();
        flip(round % 2 == 1);
        times.push((ours.wait_read() - start) as f64 / 1e6);
        thread::sleep(Duration::from_millis(200));
        let start = clock::now();
        assert!(plain.send(bytes.clone()).is_ok());
        plain_times.push((theirs.wait_read() - start) as f64 / 1e6);
    }
    report.sample("until 1,000 clients of /quorum/events have read a change", "ms", &times);
    report.sample(
        "until 1,000 clients of a broadcast channel have read the same bytes",
        "ms",
        &plain_times,
    );
}

/// Starts a server with `/quorum/events` and with `/plain`, the stream of the broadcast channel.
fn serve(cluster: &Cluster, plain: &broadcast::Sender<Bytes>) -> SocketAddr {
    let (sender, server) = mpsc::channel();
    let (node, plain) = (cluster.node(1), plain.clone());
    thread::spawn(move || {
        System::new().block_on(async move {
            let lease = Duration::from_secs(3600);
            let quorum = QuorumActor::builder().lease(lease).source(node).start();
            quorum.wait_quorate().await.unwrap();
            let streams = move || {
                let events = stream::unfold(plain.subscribe(), |mut events| async {
                    let event = events.recv().await.ok()?;
                    Some((Ok::<_, io::Error>(event), events))
                });
                let response =
                    HttpResponse::Ok().content_type("text/event-stream").streaming(events);
                std::future::ready(response)
            };
            let server = HttpServer::new(move || {
                App::new()
                    .configure(routes(quorum.clone()))
                    .route("/plain", web::get().to(streams.clone()))
            });
            let server = server.workers(1).disable_signals().bind(("127.0.0.1", 0));
            let server = server.expect("a port is free");
            sender.send(server.addrs()[0]).expect("the caller waits");
            server.run().await.expect("the server runs");
        });
    });
    server.recv().expect("the server starts")
}

/// A thousand clients on one thread.
struct Clients {
    finished: mpsc::Receiver<u64>,
}

impl Clients {
    fn start(server: SocketAddr, path: &'static str) -> Self {
        let (sender, finished) = mpsc::channel();
        let connected = Arc::new(AtomicUsize::new(0));
        let all = Arc::clone(&connected);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
            runtime.expect("a runtime").block_on(async {
                let have_read = Arc::new(AtomicUsize::new(0));
                let clients = (0..CLIENTS).map(|_| {
                    read(server, path, Arc::clone(&all), Arc::clone(&have_read), sender.clone())
                });
                let clients: Vec<_> = clients.map(tokio::spawn).collect();
                for client in clients {
                    client
                        .await
                        .expect("a client does not panic")
                        .expect("the stream does not end");
                }
            });
        });
        eventually("all are connected", || {
            (connected.load(Ordering::Acquire) == CLIENTS).then_some(())
        });
        Self { finished }
    }

    /// Waits until all clients have read the event, and returns that time.
    fn wait_read(&self) -> u64 {
        self.finished.recv_timeout(DEADLINE).expect("all clients read the event")
    }
}

/// Reads a stream and counts its marks. The last of all clients to read a mark sends the time.
async fn read(
    server: SocketAddr,
    path: &str,
    connected: Arc<AtomicUsize>,
    have_read: Arc<AtomicUsize>,
    finished: mpsc::Sender<u64>,
) -> io::Result<()> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await?;
    let mut bytes = vec![0; 4096];
    let mut kept = 0;
    let mut is_first = true;
    loop {
        let read = stream.read(&mut bytes[kept..]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if std::mem::take(&mut is_first) {
            connected.fetch_add(1, Ordering::AcqRel);
        }
        let filled = kept + read;
        for _ in bytes[..filled].windows(MARK.len()).filter(|bytes| *bytes == MARK.as_bytes()) {
            if have_read.fetch_add(1, Ordering::AcqRel) + 1 == CLIENTS {
                have_read.store(0, Ordering::Release);
                // The measurement may have ended.
                let _ = finished.send(clock::now());
            }
        }
        // The end of these bytes may be the beginning of a mark.
        kept = filled.min(MARK.len() - 1);
        bytes.copy_within(filled - kept..filled, 0);
    }
}
