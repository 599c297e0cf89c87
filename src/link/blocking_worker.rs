use std::{collections::VecDeque, fmt, sync::Arc, thread};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{
    error::Error,
    libquorum::canceller::{CancelOnDrop, Canceller},
};

/// Runs the calls that open and close connections on a separate thread. They can block for a long
/// time when Corosync is hung, and the actor must not block.
///
/// There is at most one such thread. It ends when there are no more jobs. It runs the jobs in
/// order, so a connection is closed before the next one is opened.
#[derive(Clone, Debug, Default)]
pub struct BlockingWorker(Arc<Mutex<Jobs>>);

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    running: bool,
    /// Cancels the running job.
    canceller: Canceller,
}

struct Job {
    call: Box<dyn FnOnce() + Send>,
    canceller: Canceller,
}

impl BlockingWorker {
    /// Runs `call` and returns its result. The call may block until it is cancelled. Dropping the
    /// returned future cancels `call`, or skips it if it has not begun.
    pub(crate) fn run<T, F>(
        &self,
        canceller: Canceller,
        call: F,
    ) -> impl Future<Output = Result<T, Error>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, Error> + Send + 'static,
    {
        let (sender, answer) = oneshot::channel();
        let call = Box::new(move || {
            if !sender.is_closed() {
                // If the future was dropped, the result of `call` is dropped here. If the result is
                // a new connection, this closes it.
                drop(sender.send(call()));
            }
        });
        let cancel = CancelOnDrop::new(canceller.clone());
        let submitted = self.submit(Job { call, canceller });
        async move {
            submitted?;
            let answer = answer.await.unwrap_or_else(|_| Err(Error::no_answer()));
            cancel.disarm();
            answer
        }
    }

    /// Closes `connection` by dropping it on the thread.
    pub(crate) fn close(&self, connection: impl Send + 'static) {
        let call = Box::new(move || drop(connection));
        if let Err(error) = self.submit(Job { call, canceller: Canceller::default() }) {
            crate::foreign::log!(
                log::Level::Warn,
                "cannot close a connection to corosync now: {error}. The connection stays open \
                 until the actor opens or closes another one"
            );
        }
    }

    /// Cancels the running job, and returns once all jobs submitted before this call have ended.
    pub(crate) fn idle(&self) -> impl Future<Output = ()> + Send + use<> {
        let (busy, canceller) = {
            let jobs = self.0.lock();
            (jobs.running, jobs.canceller.clone())
        };
        let done = busy.then(|| self.run(Canceller::default(), || Ok(())));
        async move {
            if let Some(done) = done {
                // An error means that the thread has ended, so none of its jobs is running.
                let _ = canceller.cancel_until(done).await;
            }
        }
    }

    fn submit(&self, job: Job) -> Result<(), Error> {
        let mut jobs = self.0.lock();
        jobs.waiting.push_back(job);
        if jobs.running {
            return Ok(());
        }
        let blocking_worker = self.clone();
        let thread = thread::Builder::new().name("quorum-connect".into());
        match thread.spawn(move || Running(blocking_worker).work()) {
            Ok(_) => {
                jobs.running = true;
                Ok(())
            }
            // The waiting jobs are run by the next thread that can be started.
            Err(error) => Err(Error::thread(error)),
        }
    }
}

/// The work of the thread. When the thread has ended, even by a panic, the next job starts another
/// thread.
struct Running(BlockingWorker);

impl Running {
    fn work(self) {
        while let Some(job) = self.next() {
            (job.call)();
        }
    }

    fn next(&self) -> Option<Job> {
        let mut jobs = self.0.0.lock();
        let job = jobs.waiting.pop_front();
        jobs.running = job.is_some();
        jobs.canceller = job.as_ref().map(|job| job.canceller.clone()).unwrap_or_default();
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
