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

/// A future for an answer.
pub(crate) type Pending<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// A thread that answers requests one after another. The first request starts it, and a later
/// request restarts it if it has ended.
///
/// The thread blocks for as long as Corosync hangs, and no other thread waits for it. Its answer
/// proves that Corosync is alive; a missing answer is a sign that it may not be.
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
        let (sender, answer) = oneshot::channel();
        let submitted = self.submit(Request { request, answer: sender });
        Box::pin(async move {
            submitted?;
            answer.await.unwrap_or_else(|_| Err(Error::no_answer()))
        })
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
            .spawn(move || {
                work(responder(), &receiver);
                let _ = ends.send(());
            })
            .map_err(Error::thread)?;
        *running = Some(Thread { requests, ended });
        Ok(())
    }

    /// Ends the thread. Returns when it has ended, which may be never.
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

/// Runs on the thread until the sender of the requests is dropped.
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
