use std::time::Duration;

use actix::System;

use super::ExitProcess;
use crate::{actor::QuorumHandle, error::Error};

/// Stops the actix [`System`] when quorum is lost and does not return within a given time, and ends
/// the process with an exit code. A supervisor such as systemd can then restart the process.
///
/// It takes these steps, independently of `main` and even if other threads are stuck:
///
/// 1. Quorum is lost, and [`after`](Self::after) passes without it.
/// 2. The [`System`] in which the policy was started is stopped with the exit code. A `main` that
///    runs it with [`SystemRunner::run_with_code`](actix::SystemRunner::run_with_code) receives the
///    code and ends normally. A `main` under `#[actix::main]` or `#[actix_web::main]`, or on a
///    stuck thread, does not end in this step.
/// 3. When the [`grace`](Self::grace) has passed, [`std::process::exit`] ends the process with the
///    code. Destructors do not run.
/// 4. If the exit hangs for a second, for example in a library's exit handler, the process aborts.
///
/// It is an [`ExitProcess`] that stops the `System`. The documentation of `ExitProcess` about stuck
/// threads and the end of the actor applies here as well.
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
    /// Creates a policy that ends the process with this exit code.
    pub fn with_code(code: i32) -> Self {
        Self { code, after: Duration::ZERO, grace: Duration::from_secs(5) }
    }

    /// How long to wait for quorum after a loss before the `System` is stopped. Default zero.
    pub fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }

    /// How long the process may take to end normally once its `System` is stopped. Default 5 s.
    pub fn grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    /// Starts to watch this actor's quorum, on a separate thread. All delays are measured in real
    /// time, even in a test that pauses tokio's clock.
    ///
    /// Outside of a `System` there is nothing to stop, and the process exits without waiting for
    /// the grace.
    ///
    /// # Errors
    ///
    /// [`Error::Thread`] if a thread cannot be started: then nothing is watched.
    pub fn start(self, quorum: &QuorumHandle) -> Result<(), Error> {
        let Self { code, after, grace } = self;
        let exit = ExitProcess::with_code(code).after(after).grace(grace);
        let exit = match System::try_current() {
            Some(system) => exit.stop(move || system.stop_with_code(code)),
            None => exit,
        };
        exit.start(quorum)
    }
}
