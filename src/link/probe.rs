use std::{fmt, pin::Pin};

use crate::{
    error::{Code, Error},
    libquorum::{
        Handle, Library, Model, NodeId, VoteFlags, Votes,
        canceller::Canceller,
        votequorum::{Info, Votequorum},
    },
    link::{
        clock::{Clock, Moment},
        trust::TrustPolicy,
        worker::{Pending, Responder, Worker},
    },
};

/// The result of one round trip to the daemon.
#[derive(Clone, Debug)]
pub struct Answer {
    /// When the request was sent. The answer proves that the daemon was alive after that.
    pub(crate) asked_at: Moment,
    /// Whether votequorum, or the quorum service in its place, reports this node as quorate.
    pub(crate) quorate: bool,
    /// The votes, which only votequorum reports.
    pub(crate) votes: Option<Votes>,
    pub(crate) local: Option<NodeId>,
}

/// A future for an answer.
pub(crate) type PendingProbe = Pending<Answer>;

/// Checks whether a daemon is alive.
pub trait Probe: fmt::Debug + Send + Sync {
    /// Requests one answer, with the votes of these members. The answer may never arrive.
    fn ask(&self, members: Vec<NodeId>) -> PendingProbe;

    /// Closes the connection of a request that is not answered. The request is then repeated on a
    /// new connection, or fails if it was still opening its first connection. Returns `false` if no
    /// connection can be closed yet: the caller should then interrupt again later.
    fn interrupt(&self) -> bool {
        true
    }

    /// Closes the connection and cancels waiting requests. Returns when that is done.
    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Makes one round trip to Corosync at a time, on request, on its own thread and its own
/// connection.
#[derive(Debug)]
pub(crate) struct ProbeThread {
    worker: Worker<Prober>,
    canceller: Canceller,
}

/// The parameters of a probe.
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
        let prober = move || Prober {
            config: config.clone(),
            canceller: used.clone(),
            connection: None,
            master_wins: false,
        };
        Self { worker: Worker::new("quorum-probe", prober), canceller }
    }
}

impl Probe for ProbeThread {
    fn ask(&self, members: Vec<NodeId>) -> PendingProbe {
        self.worker.ask(members)
    }

    fn interrupt(&self) -> bool {
        self.canceller.interrupt()
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        // The waiting call is cancelled now, even if the returned future is not awaited.
        self.canceller.cancel();
        let (canceller, closed) = (self.canceller.clone(), self.worker.close());
        Box::pin(async move { canceller.cancel_until(closed).await })
    }
}

/// Cancels the thread's call: the thread may still be waiting for an answer when the actor is
/// dropped.
impl Drop for ProbeThread {
    fn drop(&mut self) {
        self.canceller.cancel_to_the_end();
    }
}

/// The state of the thread.
struct Prober {
    config: ProbeConfig,
    canceller: Canceller,
    connection: Option<Service>,
    /// Whether a member has had a quorum device with `master_wins`.
    master_wins: bool,
}

/// The service that answers the probe.
enum Service {
    Votequorum(Votequorum),
    /// The quorum service, for a daemon without votequorum. It does not answer while Corosync is
    /// synchronising.
    Quorum(Handle),
}

impl Responder for Prober {
    type Request = Vec<NodeId>;
    type Answer = Answer;

    fn answer(&mut self, members: &Vec<NodeId>) -> Option<Result<Answer, Error>> {
        // An old connection may have ended with its daemon, and a new daemon may be running.
        let is_old = self.connection.is_some();
        Some(self.ask(members).or_else(|error| match is_old {
            true => self.ask(members),
            false => Err(error),
        }))
    }
}

impl Prober {
    /// Makes one round trip. The connection is kept if the round trip succeeds.
    fn ask(&mut self, members: &[NodeId]) -> Result<Answer, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.config, &self.canceller)?,
        };
        let asked_at = self.config.clock.now();
        let answer = match &mut connection {
            Service::Votequorum(votequorum) => {
                let Info { quorate, local, mut votes } = votequorum.info(members)?;
                let master_wins = VoteFlags::QDEVICE_MASTER_WINS;
                self.master_wins |=
                    votes.qdevices.iter().any(|(_, flags)| flags.contains(master_wins));
                votes.flags.set(master_wins, self.master_wins || votes.flags.contains(master_wins));
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
        // The library is not installed, or another provider decides about quorum.
        Err(error @ (Error::Load(_) | Error::Connect(Code::LIBRARY))) => {
            crate::foreign::log!(
                log::Level::Debug,
                "cannot connect to votequorum: {}. If corosync is running, its quorum service is \
                 probed instead, and the votes are unknown",
                // The text of a code would report that corosync is not running, but corosync may
                // have another quorum provider.
                error.code().map_or_else(|| error.to_string(), |code| code.to_string())
            );
        }
        Err(error) => return Err(error),
    }
    let handle = Handle::connect(config.library, Model::V0, peer)?;
    config.trust.check_server(handle.server())?;
    Ok(Service::Quorum(handle))
}
