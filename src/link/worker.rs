use std::{
    fmt,
    pin::Pin,
    sync::{Arc, mpsc},
    thread,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::error::Error;

/// Answers requests with calls that may block for ever.
pub(crate) trait Responder: Send + 'static {
    type Request: Send + 'static;
    type Answer: Send + 'static;

    fn answer(&mut self, request: &Self::Request) -> Result<Self::Answer, Error>;
}

/// An answer that is waited for.
pub(crate) type Pending<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// A thread that answers one request after the other. It is started by the first request, and anew
/// if it has ended.
///
/// The thread blocks for as long as Corosync hangs, and nobody waits for it: its answer proves that
/// Corosync lives, and its silence that it may not.
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
    answer: oneshot::Sender<Result<R::Answer, Error>>,
}

impl<R: Responder> Worker<R> {
    /// A thread called `name` that answers with what `responder` makes.
    pub(crate) fn new(
        name: &'static str,
        responder: impl Fn() -> R + Send + Sync + 'static,
    ) -> Self {
        Self { name, responder: Arc::new(responder), thread: Mutex::new(None) }
    }

    /// Asks for an answer. It may never come.
    pub(crate) fn ask(&self, request: R::Request) -> Pending<R::Answer> {
        let (sender, answer) = oneshot::channel();
        let submitted = self.submit(Request { request, answer: sender });
        Box::pin(async move {
            submitted?;
            answer.await.unwrap_or_else(|_| Err(Error::no_answer()))
        })
    }

    /// Hands a request to the thread, and starts one if there is none (any more).
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
            .spawn(move || {
                work(responder(), &receiver);
                let _ = ends.send(());
            })
            .map_err(Error::thread)?;
        *running = Some(Thread { requests, ended });
        Ok(())
    }

    /// Has the thread end, and returns when it has, which may be never.
    pub(crate) fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        // Without anybody to ask it, the thread ends.
        let ended = self.thread.lock().take().map(|thread| thread.ended);
        Box::pin(async move {
            if let Some(ended) = ended {
                let _ = ended.await;
            }
        })
    }
}

/// The work of the thread. It ends when nobody can ask any more.
fn work<R: Responder>(mut responder: R, requests: &mpsc::Receiver<Request<R>>) {
    for Request { request, answer } in requests {
        if !answer.is_closed() {
            let _ = answer.send(responder.answer(&request));
        }
    }
}

impl<R: Responder> fmt::Debug for Worker<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("name", &self.name).finish_non_exhaustive()
    }
}
