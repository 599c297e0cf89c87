use std::{collections::VecDeque, fmt, sync::Arc, thread};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{
    Error,
    connection::sealed::{Source, Terms, Tracked},
};

/// Makes and closes connections on a thread of its own: both can block for ever when Corosync
/// hangs, and the actor may not.
///
/// There is at most one such thread. It lives while there is something to do and does it in order,
/// so a connection is closed before the next is made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connector(Arc<Mutex<Jobs>>);

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    running: bool,
}

enum Job {
    Connect { source: Arc<dyn Source>, terms: Terms, connected: oneshot::Sender<Connected> },
    Close(Box<dyn Tracked>),
    Idle(oneshot::Sender<()>),
}

type Connected = Result<Box<dyn Tracked>, Error>;

impl Connector {
    /// Connects; the answer may never come.
    pub(crate) async fn connect(&self, source: Arc<dyn Source>, terms: Terms) -> Connected {
        let (connected, answer) = oneshot::channel();
        self.submit(Job::Connect { source, terms, connected })?;
        answer.await.unwrap_or_else(|_| Err(Error::Thread("it ended without an answer".into())))
    }

    /// Closes a connection, some time.
    pub(crate) fn close(&self, connection: Box<dyn Tracked>) {
        if let Err(error) = self.submit(Job::Close(connection)) {
            log::warn!("a connection to corosync is closed only with the next one: {error}");
        }
    }

    /// Returns once everything asked for before this has been done.
    pub(crate) async fn idle(&self) {
        let (done, idle) = oneshot::channel();
        if self.submit(Job::Idle(done)).is_ok() {
            // An error means that the thread is gone, and with it what there was to do.
            let _ = idle.await;
        }
    }

    fn submit(&self, job: Job) -> Result<(), Error> {
        let mut jobs = self.0.lock();
        jobs.waiting.push_back(job);
        if jobs.running {
            return Ok(());
        }
        let running = Running(self.clone());
        match thread::Builder::new().name("quorum-connect".into()).spawn(move || running.work()) {
            Ok(_) => {
                jobs.running = true;
                Ok(())
            }
            Err(error) => {
                // A connection still has to be closed, by the next thread that can be started.
                jobs.waiting.retain(|job| matches!(job, Job::Close(_)));
                Err(Error::Thread(error.to_string()))
            }
        }
    }
}

/// The work of the thread. When it ends, for whatever reason, the next job starts a new one.
struct Running(Connector);

impl Running {
    fn work(self) {
        while let Some(job) = self.next() {
            match job {
                Job::Connect { source, terms, connected } => {
                    // If nobody waits any more, the connection is dropped, and so closed, here.
                    drop(connected.send(source.connect(&terms)));
                }
                Job::Close(connection) => drop(connection),
                Job::Idle(done) => drop(done.send(())),
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let mut jobs = self.0.0.lock();
        let job = jobs.waiting.pop_front();
        jobs.running = job.is_some();
        job
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.0.lock().running = false;
        }
    }
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs")
            .field("waiting", &self.waiting.len())
            .field("running", &self.running)
            .finish()
    }
}
