use actix::{Actor, Context, Handler};
use actix_web::dev::ServerHandle;

use crate::QuorumChanged;

/// Has a server accept connections only while this node has quorum, so that a load balancer turns to
/// another node. An actor to [subscribe](crate::QuorumHandle::subscribe).
///
/// Connections that are there already go on, and the ones that come wait in the socket's queue until
/// there is quorum: it takes a [`QuorumGate`](super::QuorumGate) beside it. Health checks on the same
/// server are not answered either; give them a server of their own.
///
/// ```no_run
/// use actix::Actor;
/// use actix_quorum::{QuorumActor, web::PauseServer};
/// use actix_web::{App, HttpServer};
///
/// # #[actix_web::main]
/// # async fn main() -> std::io::Result<()> {
/// let quorum = QuorumActor::builder().start();
/// let server = HttpServer::new(App::new).bind(("127.0.0.1", 8080))?.run();
/// quorum.subscribe(PauseServer::new(server.handle()).start().recipient());
/// server.await
/// # }
/// ```
#[derive(Debug)]
pub struct PauseServer {
    server: ServerHandle,
    paused: bool,
}

impl PauseServer {
    /// Pauses this server, and resumes it.
    pub fn new(server: ServerHandle) -> Self {
        Self { server, paused: false }
    }
}

impl Actor for PauseServer {
    type Context = Context<Self>;
}

impl Handler<QuorumChanged> for PauseServer {
    type Result = ();

    fn handle(&mut self, change: QuorumChanged, _: &mut Context<Self>) {
        let pause = !change.current.quorum.is_quorate();
        if std::mem::replace(&mut self.paused, pause) == pause {
            return;
        }
        // Either is on its way when the call returns, in order; nothing is to be done when it has
        // arrived.
        if pause {
            drop(self.server.pause());
        } else {
            drop(self.server.resume());
        }
    }
}
