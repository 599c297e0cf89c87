//! One change, told to a thousand browsers: `/quorum/events`, beside streams of the same bytes that a
//! `tokio::sync::broadcast` feeds.

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

const PATIENCE: Duration = Duration::from_secs(30);
const CLIENTS: usize = 1_000;
const ROUNDS: usize = 30;

/// What is counted: a flip, and not what is told of votes after it.
const MARK: &str = r#""cause":"quorum""#;

pub(crate) fn run(report: &mut Report) {
    let limit = libc::rlimit { rlim_cur: 16_384, rlim_max: 16_384 };
    // SAFETY: `limit` is a local.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0, "as root");
    let cluster = Cluster::new(3);
    let (plain, _) = broadcast::channel(16);
    let server = serve(&cluster, &plain);
    let flip = |quorate: bool| {
        cluster.expected_votes(if quorate { 3 } else { 9 }).expect("a number of votes");
    };

    let mut one = Client::connect(server);
    assert_eq!(one.open_events(&[]), 200);
    flip(false);
    let event = std::iter::from_fn(|| one.event()).find(|event| event.data.contains(MARK));
    let event = event.expect("the stream goes on");
    let (id, data) = (event.id.unwrap_or_default(), event.data);
    let bytes = Bytes::from(format!("event: changed\nid: {id}\nretry: 1000\ndata: {data}\n\n"));
    flip(true);
    drop(one);

    let (ours, theirs) =
        (Readers::start(server, "/quorum/events"), Readers::start(server, "/plain"));
    let (mut times, mut plain_times) = (Sample::default(), Sample::default());
    for round in 0..ROUNDS {
        // What is told of votes comes up to 50 ms later.
        thread::sleep(Duration::from_millis(200));
        let start = clock::now();
        flip(round % 2 == 1);
        times.push((ours.all_have_read() - start) as f64 / 1e6);
        thread::sleep(Duration::from_millis(200));
        let start = clock::now();
        assert!(plain.send(bytes.clone()).is_ok());
        plain_times.push((theirs.all_have_read() - start) as f64 / 1e6);
    }
    report.sample("a change, until 1,000 clients of /quorum/events have read it", "ms", &times);
    report.sample("the same bytes from a broadcast channel", "ms", &plain_times);
}

fn serve(cluster: &Cluster, plain: &broadcast::Sender<Bytes>) -> SocketAddr {
    let (give, server) = mpsc::channel();
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
            give.send(server.addrs()[0]).expect("it waits");
            server.run().await.expect("it serves");
        });
    });
    server.recv().expect("it starts")
}

/// A thousand clients, on a thread of their own.
struct Readers {
    finished: mpsc::Receiver<u64>,
}

impl Readers {
    fn start(server: SocketAddr, path: &'static str) -> Self {
        let (tell, finished) = mpsc::channel();
        let connected = Arc::new(AtomicUsize::new(0));
        let all = Arc::clone(&connected);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
            runtime.expect("a runtime").block_on(async {
                let have_read = Arc::new(AtomicUsize::new(0));
                let clients = (0..CLIENTS).map(|_| {
                    read(server, path, Arc::clone(&all), Arc::clone(&have_read), tell.clone())
                });
                let clients: Vec<_> = clients.map(tokio::spawn).collect();
                for client in clients {
                    client.await.expect("it does not panic").expect("the stream goes on");
                }
            });
        });
        eventually("all are connected", || {
            (connected.load(Ordering::Acquire) == CLIENTS).then_some(())
        });
        Self { finished }
    }

    fn all_have_read(&self) -> u64 {
        self.finished.recv_timeout(PATIENCE).expect("all have read it")
    }
}

async fn read(
    server: SocketAddr,
    path: &str,
    connected: Arc<AtomicUsize>,
    have_read: Arc<AtomicUsize>,
    tell: mpsc::Sender<u64>,
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
                // The measuring may be over.
                let _ = tell.send(clock::now());
            }
        }
        // What may be the beginning of one.
        kept = filled.min(MARK.len() - 1);
        bytes.copy_within(filled - kept..filled, 0);
    }
}
