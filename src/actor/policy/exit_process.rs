use std::{
    fmt,
    future::pending,
    io, process,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use futures_core::Stream;
use futures_util::StreamExt;
use tokio::runtime::Builder;

use crate::{actor::QuorumHandle, error::Error, foreign, state::QuorumChanged};

/// Ends the process with an exit code once quorum was lost and has not come back for a while, on any
/// runtime or none: whoever supervises the process starts it anew.
///
/// It climbs a ladder, whatever is stuck:
///
/// 1. Quorum is lost, and [`after`](Self::after) passes without it.
/// 2. Everything that was given to [`stop`](Self::stop) is called, each on a thread of its own. A
///    `main` that returns by that ends in order, with its own exit code.
/// 3. When the [`grace`](Self::grace) has passed, [`std::process::exit`] ends the process with the
///    code. Destructors do not run.
/// 4. If the exit itself hangs for a second, in a handler of some library, the process aborts.
///
/// So the process has ended `after`, `grace` and a second after the loss. The guide says
/// [what that promises and what it cannot](crate::guide#self-fencing).
///
/// It runs on a thread of its own, and goes by the deadlines of a [`QuorumGuard`](crate::QuorumGuard),
/// not by messages. So it acts in time if the actor is stuck or dead, and if every arbiter and every
/// worker of a runtime is.
///
/// A service that has not had quorum yet waits for it. The end of the actor counts as a loss, unless
/// [`QuorumHandle::stop`] ended it: then the process is ending in order, and nothing more is done.
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
///     // As a server does that takes a signal for its shutdown.
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
    /// Ends the process with this exit code.
    pub fn with_code(code: i32) -> Self {
        let (after, grace) = (Duration::ZERO, Duration::from_secs(5));
        Self { code, after, grace, stops: Vec::new() }
    }

    /// How long to wait for quorum after a loss before anything is stopped. Default zero.
    pub fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }

    /// Calls `stop` when the process is to end, to stop a part of it: a server, a worker. Each call of
    /// this method adds one.
    ///
    /// All are called at the same time, each on a thread of its own, outside of any runtime. One that
    /// blocks or panics delays neither the others nor the exit.
    pub fn stop(mut self, stop: impl FnOnce() + Send + 'static) -> Self {
        self.stops.push(Box::new(stop));
        self
    }

    /// How long the process may take to end by itself once its parts are stopped. Default 5 s.
    pub fn grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    /// Watches this actor's quorum until the process ends, in real time, on a thread of its own.
    ///
    /// Without anything to [`stop`](Self::stop) the process exits without the grace.
    ///
    /// # Errors
    ///
    /// [`Error::Thread`] if the thread cannot be started: then nothing is watched.
    pub fn start(self, quorum: &QuorumHandle) -> Result<(), Error> {
        let failed = |error: io::Error| Error::Thread(error.into());
        let runtime = Builder::new_current_thread().enable_time().build().map_err(failed)?;
        let quorum = quorum.clone();
        // Every change from here: quorum may be lost again before the thread runs.
        let changes = quorum.changes();
        let thread = thread::Builder::new().name("quorum-policy".into());
        let watch = move || {
            if runtime.block_on(is_lost(&quorum, changes, self.after)) {
                self.end();
            }
        };
        thread.spawn(watch).map(drop).map_err(failed)
    }

    fn end(self) -> ! {
        let Self { code, after, grace, stops } = self;
        let deadline = Instant::now() + grace;
        log_bounded(format!("no quorum for {after:?}: the process ends with code {code}"));
        if !stops.is_empty() {
            for stop in stops {
                // Not if there is no thread for it: that must not keep the process from its exit.
                let _ = thread::Builder::new().name("quorum-stop".into()).spawn(stop);
            }
            thread::sleep(deadline.saturating_duration_since(Instant::now()));
            log_bounded(format!("the process has not ended in {grace:?}: exits"));
        }
        let _ = thread::Builder::new().spawn(|| {
            thread::sleep(EXIT);
            process::abort();
        });
        process::exit(code)
    }
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

/// Returns `true` once quorum was lost for too long, `false` if the actor was stopped in order.
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
        // An actor that has stopped is waited for as long as one that has lost quorum.
        let waiting = async {
            if quorum.wait_quorate().await.is_err() {
                pending::<()>().await;
            }
        };
        let regained = tokio::time::timeout(after, waiting).await.is_ok();
        if quorum.shared.is_stopped_in_order() {
            return false;
        }
        if !regained {
            return true;
        }
    }
}

/// Logs without waiting long: a logger that blocks must not hold the process up.
fn log_bounded(message: String) {
    let (done, logged) = mpsc::channel();
    let log = move || {
        foreign::log!(log::Level::Error, "{message}");
        let _ = done.send(());
    };
    if thread::Builder::new().spawn(log).is_ok() {
        let _ = logged.recv_timeout(LOG);
    }
}

/// How long a logger may take.
const LOG: Duration = Duration::from_millis(100);

/// How long an exit may take.
const EXIT: Duration = Duration::from_secs(1);
