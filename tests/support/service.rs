//! A service on loopback, on a simulated cluster.

use std::{
    fmt,
    net::SocketAddr,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use actix::{Arbiter, System};
use actix_quorum::{
    QuorumActor, QuorumBuilder, QuorumHandle,
    sim::Cluster,
    web::{QuorumGate, drop_stalled_clients, routes},
};
use actix_web::{
    App, HttpServer,
    web::{self, ServiceConfig},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Client, DEADLINE, eventually};

/// A service with a gated `/write`, on a cluster of three.
pub struct Service {
    pub cluster: Cluster,
    pub quorum: QuorumHandle,
    pub server: SocketAddr,
    system: System,
    thread: Option<JoinHandle<()>>,
}

/// The settings in which services differ.
pub struct Setup {
    /// How its actor starts.
    pub start: Box<dyn FnOnce(QuorumBuilder) -> QuorumHandle + Send>,
    /// The routes that replace the default ones.
    pub instead: fn(&mut ServiceConfig),
}

impl Default for Setup {
    fn default() -> Self {
        Self { start: Box::new(QuorumBuilder::start), instead: |_| {} }
    }
}

impl Service {
    pub fn start() -> Self {
        Self::start_with(Setup::default())
    }

    /// Runs the actor on the returned arbiter, which a test can block.
    pub fn on_arbiter(lease: Duration) -> (Self, Arbiter) {
        let (send, received) = mpsc::channel();
        let start = move |builder: QuorumBuilder| {
            let arbiter = Arbiter::new();
            let quorum = builder.lease(lease).start_in_arbiter(&arbiter.handle());
            send.send(arbiter).unwrap();
            quorum
        };
        let service = Self::start_with(Setup { start: Box::new(start), ..Setup::default() });
        (service, received.recv().unwrap())
    }

    pub fn start_with(setup: Setup) -> Self {
        let Setup { start, instead } = setup;
        // Some tests connect more clients than there are descriptors by default.
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
        let cluster = Cluster::new(3);
        let node = cluster.node(1);
        let (send, received) = mpsc::channel();
        let thread = thread::spawn(move || {
            let runner = System::new();
            runner.block_on(async {
                let quorum = start(QuorumActor::builder().source(node));
                let state = quorum.clone();
                let server = HttpServer::new(move || {
                    let write = web::resource("/write").wrap(QuorumGate::new(state.clone()));
                    App::new()
                        .configure(instead)
                        .configure(routes(state.clone()))
                        .service(write.post(async || "written"))
                })
                .on_connect(drop_stalled_clients)
                // On a busy machine a client may connect long before it sends its request.
                .client_request_timeout(DEADLINE)
                .workers(2)
                .disable_signals()
                .shutdown_timeout(1)
                .bind(("127.0.0.1", 0))
                .unwrap();
                let addr = server.addrs()[0];
                let server = server.run();
                Arbiter::current().spawn(async { server.await.unwrap() });
                send.send((quorum, addr, System::current())).unwrap();
            });
            runner.run().unwrap();
        });
        let (quorum, server, system) = received.recv().unwrap();
        let service = Self { cluster, quorum, server, system, thread: Some(thread) };
        service.until(true);
        service
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.server)
    }

    pub fn until(&self, quorate: bool) {
        eventually(&format!("quorate is {quorate}"), || {
            (self.quorum.is_quorate() == quorate).then_some(())
        });
    }

    /// Ends quorum and returns when the handle reports that.
    pub fn lose(&self) {
        self.cluster.partition(&[&[1], &[2, 3]]).unwrap();
        self.until(false);
    }

    pub fn regain(&self) {
        self.cluster.heal();
        self.until(true);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.system.stop();
        let ended = self.thread.take().unwrap().join();
        if !thread::panicking() {
            ended.unwrap();
        }
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("server", &self.server).finish_non_exhaustive()
    }
}
