use std::{fmt, pin::Pin, sync::mpsc, thread};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{
    Code, Error, Votes,
    connection::sealed::Terms,
    lease::{Clock, Moment},
    libquorum::{
        Handle, Library, Model, NodeId,
        votequorum::{Info, Votequorum},
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
pub(crate) type Asking = Pin<Box<dyn Future<Output = Result<Answer, Error>> + Send>>;

/// Asks a daemon whether it lives.
pub trait Probe: fmt::Debug + Send + Sync {
    /// Asks for one answer, and for the votes of these members. It may never come.
    fn ask(&self, members: Vec<NodeId>) -> Asking;

    /// Closes its connection. Returns when that is done, which may be never.
    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Makes one round trip to Corosync at a time, each asked for, on a thread of its own and on a
/// connection of its own.
///
/// The thread blocks for as long as Corosync hangs, and nobody waits for it: its answer proves that
/// Corosync lives, and its silence that it may not.
#[derive(Debug)]
pub(crate) struct ProbeThread {
    how: How,
    thread: Mutex<Option<Thread>>,
}

#[derive(Debug)]
struct Thread {
    requests: mpsc::Sender<Request>,
    /// Resolves when the thread has ended.
    ended: oneshot::Receiver<()>,
}

/// How to reach the daemon.
#[derive(Clone, Debug)]
pub(crate) struct How {
    pub(crate) library: Library,
    pub(crate) terms: Terms,
    pub(crate) clock: Clock,
}

struct Request {
    members: Vec<NodeId>,
    answer: oneshot::Sender<Result<Answer, Error>>,
}

impl ProbeThread {
    pub(crate) fn new(how: How) -> Self {
        Self { how, thread: Mutex::new(None) }
    }

    /// Hands a request to the thread, and starts one if there is none (any more).
    fn submit(&self, mut request: Request) -> Result<(), Error> {
        let mut running = self.thread.lock();
        if let Some(thread) = &*running {
            match thread.requests.send(request) {
                Ok(()) => return Ok(()),
                Err(unsent) => request = unsent.0,
            }
        }
        let (requests, receiver) = mpsc::channel();
        let (ends, ended) = oneshot::channel();
        let _ = requests.send(request);
        let how = self.how.clone();
        thread::Builder::new()
            .name("quorum-probe".into())
            .spawn(move || {
                Prober { how, connection: None }.work(&receiver);
                let _ = ends.send(());
            })
            .map_err(|error| Error::Thread(error.to_string()))?;
        *running = Some(Thread { requests, ended });
        Ok(())
    }
}

impl Probe for ProbeThread {
    fn ask(&self, members: Vec<NodeId>) -> Asking {
        let (sender, answer) = oneshot::channel();
        let submitted = self.submit(Request { members, answer: sender });
        Box::pin(async move {
            submitted?;
            answer.await.unwrap_or_else(|_| Err(Error::Thread("it ended without an answer".into())))
        })
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        // Without anybody to ask it, the thread ends.
        let ended = self.thread.lock().take().map(|thread| thread.ended);
        Box::pin(async move {
            if let Some(ended) = ended {
                let _ = ended.await;
            }
        })
    }
}

/// What the thread works with. It ends when nobody can ask any more.
struct Prober {
    how: How,
    connection: Option<Service>,
}

/// Who is asked.
enum Service {
    Votequorum(Votequorum),
    /// Where there is no votequorum. It does not answer while Corosync synchronises.
    Quorum(Handle),
}

impl Prober {
    fn work(mut self, requests: &mpsc::Receiver<Request>) {
        for Request { members, answer } in requests {
            if answer.is_closed() {
                continue;
            }
            // A connection from before may have died with its daemon, and another one be there.
            let is_old = self.connection.is_some();
            let told = self.ask(&members).or_else(|error| match is_old {
                true => self.ask(&members),
                false => Err(error),
            });
            let _ = answer.send(told);
        }
    }

    /// Makes one round trip. The connection is kept if it worked.
    fn ask(&mut self, members: &[NodeId]) -> Result<Answer, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.how)?,
        };
        let asked_at = self.how.clock.now();
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

fn connect(how: &How) -> Result<Service, Error> {
    match Votequorum::initialize() {
        Ok(votequorum) => {
            how.terms.check_server(votequorum.server())?;
            return Ok(Service::Votequorum(votequorum));
        }
        // The library is not installed, or another provider decides.
        Err(error @ (Error::Load(_) | Error::Connect(Code::LIBRARY))) => {
            log::debug!("asking quorum's service, which tells no votes: {error}");
        }
        Err(error) => return Err(error),
    }
    let handle = Handle::model_initialize(how.library, Model::V0)?;
    how.terms.check_server(handle.server())?;
    Ok(Service::Quorum(handle))
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("members", &self.members).finish_non_exhaustive()
    }
}
