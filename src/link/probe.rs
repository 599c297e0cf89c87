use std::{fmt, pin::Pin};

use crate::{
    error::{Code, Error},
    libquorum::{
        Handle, Library, Model, NodeId, Votes,
        canceller::Canceller,
        votequorum::{Info, Votequorum},
    },
    link::{
        clock::{Clock, Moment},
        trust::TrustPolicy,
        worker::{Pending, Responder, Worker},
    },
};

/// What a round trip to the daemon told.
#[derive(Clone, Debug)]
pub struct Answer {
    /// When the request was sent: the answer proves that the daemon lived after it.
    pub(crate) asked_at: Moment,
    /// Whether votequorum, or what was asked in its place, holds this node for quorate.
    pub(crate) quorate: bool,
    /// What only votequorum tells.
    pub(crate) votes: Option<Votes>,
    pub(crate) local: Option<NodeId>,
}

/// An answer that is waited for.
pub(crate) type PendingProbe = Pending<Answer>;

/// Asks a daemon whether it lives.
pub trait Probe: fmt::Debug + Send + Sync {
    /// Asks for one answer, and for the votes of these members. It may never come.
    fn ask(&self, members: Vec<NodeId>) -> PendingProbe;

    /// Ends an answer that does not come, with the connection: asks once more on another.
    fn interrupt(&self) {}

    /// Closes its connection, and ends what it waits for. Returns when that is done.
    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Makes one round trip to Corosync at a time, each asked for, on a thread of its own and on a
/// connection of its own.
#[derive(Debug)]
pub(crate) struct ProbeThread {
    worker: Worker<Prober>,
    canceller: Canceller,
}

/// How to reach the daemon.
#[derive(Clone, Debug)]
pub(crate) struct ProbeConfig {
    pub(crate) library: Library,
    pub(crate) trust: TrustPolicy,
    pub(crate) clock: Clock,
}

impl ProbeThread {
    pub(crate) fn new(config: ProbeConfig) -> Self {
        let canceller = Canceller::default();
        let used = canceller.clone();
        let prober =
            move || Prober { config: config.clone(), canceller: used.clone(), connection: None };
        Self { worker: Worker::new("quorum-probe", prober), canceller }
    }
}

impl Probe for ProbeThread {
    fn ask(&self, members: Vec<NodeId>) -> PendingProbe {
        self.worker.ask(members)
    }

    fn interrupt(&self) {
        self.canceller.interrupt();
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        // Also if nobody waits until it is closed.
        self.canceller.cancel();
        let (canceller, closed) = (self.canceller.clone(), self.worker.close());
        Box::pin(async move { canceller.cancel_until(closed).await })
    }
}

/// What the thread works with.
struct Prober {
    config: ProbeConfig,
    canceller: Canceller,
    connection: Option<Service>,
}

/// Who is asked.
enum Service {
    Votequorum(Votequorum),
    /// Where there is no votequorum. It does not answer while Corosync synchronises.
    Quorum(Handle),
}

impl Responder for Prober {
    type Request = Vec<NodeId>;
    type Answer = Answer;

    fn answer(&mut self, members: &Vec<NodeId>) -> Result<Answer, Error> {
        // A connection from before may have died with its daemon, and another one be there.
        let is_old = self.connection.is_some();
        self.ask(members).or_else(|error| match is_old {
            true => self.ask(members),
            false => Err(error),
        })
    }
}

impl Prober {
    /// Makes one round trip. The connection is kept if it worked.
    fn ask(&mut self, members: &[NodeId]) -> Result<Answer, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.config, &self.canceller)?,
        };
        let asked_at = self.config.clock.now();
        let answer = match &mut connection {
            Service::Votequorum(votequorum) => {
                let Info { quorate, local, votes } = votequorum.info(members)?;
                Answer { asked_at, quorate, votes: Some(votes), local: Some(local) }
            }
            Service::Quorum(handle) => {
                Answer { asked_at, quorate: handle.quorate()?, votes: None, local: None }
            }
        };
        self.connection = Some(connection);
        Ok(answer)
    }
}

fn connect(config: &ProbeConfig, canceller: &Canceller) -> Result<Service, Error> {
    let peer = config.trust.peer(canceller);
    match Votequorum::initialize(peer) {
        Ok(votequorum) => {
            config.trust.check_server(votequorum.server())?;
            return Ok(Service::Votequorum(votequorum));
        }
        // The library is not installed, or another provider decides.
        Err(error @ (Error::Load(_) | Error::Connect(Code::LIBRARY))) => {
            crate::foreign::log!(
                log::Level::Debug,
                "asking quorum's service, which tells no votes: {error}"
            );
        }
        Err(error) => return Err(error),
    }
    let handle = Handle::connect(config.library, Model::V0, peer)?;
    config.trust.check_server(handle.server())?;
    Ok(Service::Quorum(handle))
}
