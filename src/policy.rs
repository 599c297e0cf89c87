//! What a service does when quorum is lost, ready made.
//!
//! [`StopSystem`] ends the process. For a reaction of your own, read the changes in a loop:
//!
//! ```
//! use actix_quorum::QuorumHandle;
//! use futures_util::StreamExt;
//!
//! async fn react(quorum: QuorumHandle) {
//!     let mut changes = quorum.changes();
//!     while let Some(change) = changes.next().await {
//!         if change.is_loss() {
//!             println!("{change}");
//!         }
//!     }
//! }
//! # let cluster = actix_quorum::sim::Cluster::new(3);
//! # let quorum = actix_quorum::QuorumActor::builder().source(cluster.node(1)).start_detached();
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
//! # runtime.block_on(async {
//! #     quorum.wait_quorate().await;
//! #     tokio::join!(react(quorum.clone()), quorum.stop());
//! # });
//! ```
//!
//! What must not happen without quorum asks [`is_quorate`](crate::QuorumHandle::is_quorate) or runs
//! under a [guard](crate::QuorumGuard).

use std::{
    io, process,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use actix::System;
use futures_core::Stream;
use futures_util::StreamExt;
use tokio::runtime::Builder;

use crate::{Error, QuorumChanged, QuorumHandle, foreign};

/// Ends the process with an exit code once quorum was lost and has not come back for a while:
/// whoever supervises the process starts it anew.
///
/// It climbs a ladder, whatever `main` is made of and whatever is stuck:
///
/// 1. Quorum is lost, and [`after`](Self::after) passes without it.
/// 2. The [`System`] in which it was started is stopped with the code. A `main` that runs it by
///    [`SystemRunner::run_with_code`](actix::SystemRunner::run_with_code) gets the code and ends in
///    order. `#[actix::main]` and `#[actix_web::main]` do not end by that, nor does a thread that is
///    stuck.
/// 3. When the [`grace`](Self::grace) has passed, [`std::process::exit`] ends the process with the
///    code. Destructors do not run.
/// 4. If the exit itself hangs for a second, in a handler of some library, the process aborts.
///
/// It runs on a thread of its own, and goes by the deadlines of a [`QuorumGuard`](crate::QuorumGuard),
/// not by messages. So it acts in time if the actor is stuck or dead, and if every arbiter is.
///
/// A service that has not had quorum yet waits for it. The end of the actor counts as a loss, unless
/// [`QuorumHandle::stop`] ended it: then the process is ending in order, and nothing more is done.
///
/// ```no_run
/// use std::time::Duration;
/// use actix_quorum::{QuorumActor, policy::StopSystem};
///
/// #[actix::main]
/// async fn main() -> Result<(), actix_quorum::Error> {
///     let quorum = QuorumActor::builder().start();
///     // 75 is EX_TEMPFAIL (sysexits.h).
///     StopSystem::with_code(75).after(Duration::from_secs(30)).start(&quorum)?;
///     std::future::pending().await
/// }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is watched before `start`"]
pub struct StopSystem {
    code: i32,
    after: Duration,
    grace: Duration,
}

impl StopSystem {
    /// Ends the process with this exit code.
    pub fn with_code(code: i32) -> Self {
        Self { code, after: Duration::ZERO, grace: Duration::from_secs(5) }
    }

    /// How long to wait for quorum after a loss before the `System` is stopped. Default zero.
    pub fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }

    /// How long the process may take to end by itself once its `System` is stopped. Default 5 s.
    pub fn grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    /// Watches this actor's quorum until the process ends, in real time, on a thread of its own.
    ///
    /// Outside of a `System` there is nothing to stop, and the process exits without the grace.
    ///
    /// # Errors
    ///
    /// [`Error::Thread`] if the thread cannot be started: then nothing is watched.
    pub fn start(self, quorum: &QuorumHandle) -> Result<(), Error> {
        let failed = |error: io::Error| Error::Thread(error.into());
        let runtime = Builder::new_current_thread().enable_time().build().map_err(failed)?;
        let (quorum, system) = (quorum.clone(), System::try_current());
        // Every change from here: quorum may be lost again before the thread runs.
        let changes = quorum.changes();
        let thread = thread::Builder::new().name("quorum-policy".into());
        let watch = move || {
            if runtime.block_on(self.is_lost(&quorum, changes)) {
                self.end(system.as_ref());
            }
        };
        thread.spawn(watch).map(drop).map_err(failed)
    }

    /// Returns `true` once quorum was lost for too long, `false` if the actor was stopped in order.
    async fn is_lost(
        &self,
        quorum: &QuorumHandle,
        mut changes: impl Stream<Item = QuorumChanged> + Unpin,
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
            let regained = tokio::time::timeout(self.after, waiting).await.is_ok();
            if quorum.shared.is_stopped_in_order() {
                return false;
            }
            if !regained {
                return true;
            }
        }
    }

    fn end(&self, system: Option<&System>) -> ! {
        let (code, after) = (self.code, self.after);
        let deadline = Instant::now() + self.grace;
        log_bounded(format!("no quorum for {after:?}: the process ends with code {code}"));
        if let Some(system) = system {
            system.stop_with_code(code);
            thread::sleep(deadline.saturating_duration_since(Instant::now()));
            log_bounded(format!("the process has not ended in {:?}: exits", self.grace));
        }
        // Not if there is no thread for it: that must not keep the process from its exit.
        let _ = thread::Builder::new().spawn(|| {
            thread::sleep(EXIT);
            process::abort();
        });
        process::exit(code)
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
