use std::{
    fmt,
    future::pending,
    process,
    sync::mpsc::{self, Sender},
    thread,
    time::{Duration, Instant},
};

use futures_core::Stream;
use futures_util::StreamExt;
use tokio::runtime::Builder;

use crate::{
    actor::QuorumHandle,
    error::Error,
    foreign,
    state::{Connection, QuorumChanged},
};

/// Ends the process with an exit code when quorum is lost and does not return within a given time.
/// A supervisor such as systemd can then restart the process. The policy works with any async
/// runtime, and without one.
///
/// It takes these steps, even if other threads are stuck:
///
/// 1. Quorum is lost, and [`after`](Self::after) passes without it.
/// 2. Every function that was given to [`stop`](Self::stop) is called, each on its own thread. If
///    `main` then returns, the process ends normally, with `main`'s exit code.
/// 3. When the [`grace`](Self::grace) has passed, [`std::process::exit`] ends the process with the
///    code. Destructors do not run.
/// 4. If the exit hangs for a second, for example in a library's exit handler, the process aborts.
///
/// So the time from the loss to the end of the process is at most the sum of `after`, `grace` and
/// about one second. The guide explains [the guarantees and their
/// limits](crate::guide#self-fencing).
///
/// It runs on its own thread and obeys the deadlines of a [`QuorumGuard`](crate::QuorumGuard). It
/// does not depend on messages, so it acts in time even if the actor, every arbiter and every
/// worker of the runtime is stuck or dead.
///
/// Missing quorum has no effect before the policy has seen quorum for the first time. The end of
/// the actor counts as a loss even before that, unless [`QuorumHandle::stop`] ended the actor: then
/// the process is already shutting down, and the policy does nothing more.
///
/// ```no_run
/// use std::time::Duration;
/// use actix_quorum::{QuorumActor, policy::ExitProcess};
/// use tokio::sync::oneshot;
///
/// #[tokio::main]
/// async fn main() -> Result<(), actix_quorum::Error> {
///     let quorum = QuorumActor::builder().start_detached();
///     let (stop, stopped) = oneshot::channel::<()>();
///     // 75 is EX_TEMPFAIL (sysexits.h).
///     ExitProcess::with_code(75)
///         .after(Duration::from_secs(30))
///         .stop(move || drop(stop))
///         .start(&quorum)?;
///     // A server that shuts down on a signal waits like this.
///     let _ = stopped.await;
///     Ok(())
/// }
/// ```
#[must_use = "nothing is watched before `start`"]
pub struct ExitProcess {
    code: i32,
    after: Duration,
    grace: Duration,
    stops: Vec<Stop>,
}

type Stop = Box<dyn FnOnce() + Send>;

impl ExitProcess {
    /// Creates a policy that ends the process with this exit code.
    pub fn with_code(code: i32) -> Self {
        let (after, grace) = (Duration::ZERO, Duration::from_secs(5));
        Self { code, after, grace, stops: Vec::new() }
    }

    /// How long to wait for quorum after a loss before anything is stopped. Default zero.
    pub fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }

    /// Calls `stop` when the process is to end, to stop one part of the program: a server or a
    /// worker. Each call of this method adds one function.
    ///
    /// All functions are called at the same time, each on its own thread, outside of any runtime. A
    /// function that blocks or panics delays neither the others nor the exit.
    pub fn stop(mut self, stop: impl FnOnce() + Send + 'static) -> Self {
        self.stops.push(Box::new(stop));
        self
    }

    /// How long the process may take to end normally once its parts are stopped. Default 5 s.
    pub fn grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    /// Starts to watch this actor's quorum, on a separate thread. All delays are measured in real
    /// time, even in a test that pauses tokio's clock.
    ///
    /// It starts in advance all threads that it will need. They wait until they are needed. So a
    /// limit on threads that is reached later does not keep the process alive.
    ///
    /// If no function was given to [`stop`](Self::stop), the process exits without waiting for the
    /// grace.
    ///
    /// # Errors
    ///
    /// [`Error::Thread`] if a thread cannot be started: then nothing is watched.
    pub fn start(self, quorum: &QuorumHandle) -> Result<(), Error> {
        let runtime = Builder::new_current_thread().enable_time().build().map_err(Error::thread)?;
        let (quorum, after) = (quorum.clone(), self.after);
        // The stream is created here, because quorum may be lost before the thread runs.
        let changes = quorum.changes();
        let end = End::prepare(self)?;
        let thread = thread::Builder::new().name("quorum-policy".into());
        let watch = move || {
            if runtime.block_on(is_lost(&quorum, changes, after)) {
                end.run(quorum.snapshot().connection == Connection::Stopped);
            }
        };
        thread.spawn(watch).map(drop).map_err(Error::thread)
    }
}

/// Ends the process. For each call that may block, a thread is started in advance.
struct End {
    code: i32,
    after: Duration,
    grace: Duration,
    stops: Vec<Sender<()>>,
    log: Sender<(String, Sender<()>)>,
    abort: Sender<()>,
}

impl End {
    fn prepare(policy: ExitProcess) -> Result<Self, Error> {
        let ExitProcess { code, after, grace, stops } = policy;
        let stops = stops.into_iter().map(|stop| {
            let mut stop = Some(stop);
            waiting_thread("quorum-stop", move |()| {
                if let Some(stop) = stop.take() {
                    stop();
                }
            })
        });
        Ok(Self {
            code,
            after,
            grace,
            stops: stops.collect::<Result<_, _>>()?,
            log: waiting_thread("quorum-log", |(message, done): (String, Sender<()>)| {
                foreign::log!(log::Level::Error, "{message}");
                let _ = done.send(());
            })?,
            abort: waiting_thread("quorum-abort", |()| {
                thread::sleep(EXIT_TIMEOUT);
                process::abort();
            })?,
        })
    }

    /// Ends the process. `has_ended` is whether the actor has ended.
    fn run(self, has_ended: bool) -> ! {
        let Self { code, after, grace, stops, .. } = &self;
        let began_at = Instant::now();
        let reason = match *after {
            _ if has_ended => "the quorum actor has ended without QuorumHandle::stop".to_owned(),
            Duration::ZERO => "quorum was lost".to_owned(),
            after => format!("quorum was lost and has not returned within {after:?}"),
        };
        let unless = if stops.is_empty() { "" } else { ", unless it ends by itself first" };
        self.log_bounded(format!("{reason}: ending the process with exit code {code}{unless}"));
        if !stops.is_empty() {
            for stop in stops {
                let _ = stop.send(());
            }
            thread::sleep(grace.saturating_sub(began_at.elapsed()));
            self.log_bounded(format!(
                "the process has not ended within {grace:?}: forcing it to exit now"
            ));
        }
        let _ = self.abort.send(());
        process::exit(*code)
    }

    /// Logs a message and waits only briefly: a logger that blocks must not delay the exit.
    fn log_bounded(&self, message: String) {
        let (done, logged) = mpsc::channel();
        if self.log.send((message, done)).is_ok() {
            let _ = logged.recv_timeout(LOG_TIMEOUT);
        }
    }
}

/// Starts a thread that calls `act` with each value that is sent to the thread. The thread ends
/// when the sender is dropped.
fn waiting_thread<T: Send + 'static>(
    name: &str,
    act: impl FnMut(T) + Send + 'static,
) -> Result<Sender<T>, Error> {
    let (sender, receiver) = mpsc::channel();
    let act = move || receiver.into_iter().for_each(act);
    thread::Builder::new().name(name.into()).spawn(act).map_err(Error::thread)?;
    Ok(sender)
}

impl fmt::Debug for ExitProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, after, grace, stops } = self;
        f.debug_struct("ExitProcess")
            .field("code", code)
            .field("after", after)
            .field("grace", grace)
            .field("stops", &stops.len())
            .finish()
    }
}

/// Returns `true` once quorum has been lost for too long, and `false` if the user stopped the
/// actor.
async fn is_lost(
    quorum: &QuorumHandle,
    mut changes: impl Stream<Item = QuorumChanged> + Unpin,
    after: Duration,
) -> bool {
    while let Some(change) = changes.next().await {
        if change.current.quorum.is_quorate() {
            break;
        }
    }
    drop(changes);
    loop {
        if let Some(guard) = quorum.guard() {
            guard.lost().await;
        }
        // If the actor has stopped, this waits until the timeout, as for an actor without quorum.
        let waiting = async {
            if quorum.wait_quorate().await.is_err() {
                pending::<()>().await;
            }
        };
        let regained = tokio::time::timeout(after, waiting).await.is_ok();
        if quorum.shared.is_stopped_by_user() {
            return false;
        }
        if !regained {
            return true;
        }
    }
}

/// How long to wait for a logger before the exit continues.
const LOG_TIMEOUT: Duration = Duration::from_millis(100);

/// How long an exit may take before the process aborts.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_an_unlimited_grace_the_policy_still_calls_its_stop_functions() {
        let (stopped, is_stopped) = mpsc::channel();
        let policy = ExitProcess::with_code(3).grace(Duration::MAX).stop(move || {
            let _ = stopped.send(());
        });
        let end = End::prepare(policy).unwrap();
        thread::spawn(move || end.run(false));
        is_stopped.recv_timeout(Duration::from_secs(60)).expect("the function is called");
    }
}
