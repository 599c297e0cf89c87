use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        mpsc::{self, RecvError, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use futures_core::Stream;
use futures_util::stream;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use crate::error::Error;

/// Answers requests with calls that may block for ever.
pub(crate) trait Responder: Send + 'static {
    type Request: Send + 'static;
    type Answer: Clone + Send + Sync + 'static;

    /// Answers a request. With an interval, the thread calls this repeatedly for the same request.
    /// Returns `None` if the answer follows together with a later one.
    fn answer(&mut self, request: &Self::Request) -> Option<Result<Self::Answer, Error>>;
}

/// A future for an answer.
pub(crate) type Pending<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// The answers to one request.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Error>> + Send>>;

/// When to answer a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Schedule {
    /// The time until the thread begins the first answer.
    pub(crate) delay: Duration,
    /// The time from each answer until the thread begins the next one. `None` for a single answer.
    pub(crate) interval: Option<Duration>,
}

/// A thread that answers one request at a time. The first request starts it, and a later request
/// restarts it if it has ended. When a new request arrives, the thread gives no further answer to
/// the previous one.
///
/// The thread blocks for as long as Corosync is hung, and no other thread waits for it. An answer
/// proves that Corosync is alive; a missing answer proves nothing.
pub(crate) struct Worker<R: Responder> {
    name: &'static str,
    responder: Arc<dyn Fn() -> R + Send + Sync>,
    thread: Mutex<Option<Thread<R>>>,
}

struct Thread<R: Responder> {
    requests: mpsc::Sender<Request<R>>,
    /// Resolves when the thread has ended.
    ended: oneshot::Receiver<()>,
}

struct Request<R: Responder> {
    request: R::Request,
    schedule: Schedule,
    /// Closed when the caller has dropped its stream of answers.
    answers: watch::Sender<Option<Result<R::Answer, Error>>>,
}

impl<R: Responder> Worker<R> {
    /// Creates a worker whose thread is called `name` and answers with the responder that
    /// `responder` creates.
    pub(crate) fn new(
        name: &'static str,
        responder: impl Fn() -> R + Send + Sync + 'static,
    ) -> Self {
        Self { name, responder: Arc::new(responder), thread: Mutex::new(None) }
    }

    /// Requests an answer. It may never arrive.
    pub(crate) fn ask(&self, request: R::Request) -> Pending<R::Answer> {
        let mut answers = self.ask_at(Schedule::default(), request);
        Box::pin(async move {
            let answer = poll_fn(|cx| answers.as_mut().poll_next(cx)).await;
            answer.unwrap_or_else(|| Err(Error::no_answer()))
        })
    }

    /// Requests answers on a schedule, until another request is made. The answers may never arrive.
    /// An answer that has not been taken is replaced by the next one.
    pub(crate) fn ask_at(&self, schedule: Schedule, request: R::Request) -> Answers<R::Answer> {
        let (answers, taken) = watch::channel(None);
        match self.submit(Request { request, schedule, answers }) {
            Ok(()) => Box::pin(stream::unfold(taken, async |mut taken| {
                taken.changed().await.ok()?;
                let answer = taken.borrow_and_update().clone()?;
                Some((answer, taken))
            })),
            Err(error) => Box::pin(stream::iter([Err(error)])),
        }
    }

    /// Passes a request to the thread. Starts the thread if it is not running.
    fn submit(&self, mut request: Request<R>) -> Result<(), Error> {
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
        let responder = Arc::clone(&self.responder);
        thread::Builder::new()
            .name(self.name.into())
            .stack_size(STACK)
            .spawn(move || {
                work(responder(), &receiver);
                let _ = ends.send(());
            })
            .map_err(Error::thread)?;
        *running = Some(Thread { requests, ended });
        Ok(())
    }

    /// Ends the thread. The returned future resolves when the thread has ended, which may never
    /// happen.
    pub(crate) fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        // The thread ends when the sender of its requests is dropped.
        let ended = self.thread.lock().take().map(|thread| thread.ended);
        Box::pin(async move {
            if let Some(ended) = ended {
                let _ = ended.await;
            }
        })
    }
}

/// The stack of a thread, in bytes: `cmap_dispatch` has a buffer of 1 MiB on it. The default may be
/// smaller (`RUST_MIN_STACK`).
const STACK: usize = 2 * 1024 * 1024;

/// Answers requests, on the thread, until the sender of the requests is dropped.
fn work<R: Responder>(mut responder: R, requests: &mpsc::Receiver<Request<R>>) {
    let mut next = requests.recv();
    while let Ok(Request { request, schedule, answers }) = next {
        let mut wait = schedule.delay;
        next = loop {
            match requests.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) if !answers.is_closed() => {}
                Err(RecvTimeoutError::Timeout) => break requests.recv(),
                newer => break newer.map_err(|_| RecvError),
            }
            if let Some(answer) = responder.answer(&request) {
                answers.send_replace(Some(answer));
            }
            match schedule.interval {
                Some(interval) => wait = interval,
                None => break requests.recv(),
            }
        };
    }
}

impl<R: Responder> fmt::Debug for Worker<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("name", &self.name).finish_non_exhaustive()
    }
}
