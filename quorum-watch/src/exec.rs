//! The command `quorum-watch exec`.

use std::{
    io::{self, Write as _},
    os::unix::process::ExitStatusExt,
    process::{ExitCode, ExitStatus},
    thread,
    time::Duration,
};

use actix_quorum::{QuorumGuard, QuorumHandle};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};

use crate::{
    POLL_INTERVAL,
    options::{Exec, Wait},
    reached,
};

/// The exit code if there was no quorum before the timeout, or if quorum was lost.
const NO_QUORUM: u8 = 124;
const FAILED: u8 = 125;
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Runs the command once this node has quorum, and ends it when quorum is lost or a signal arrives.
pub(crate) async fn run(quorum: &QuorumHandle, exec: &Exec) -> ExitCode {
    match try_run(quorum, exec).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("quorum-watch: {error}");
            ExitCode::from(FAILED)
        }
    }
}

async fn try_run(quorum: &QuorumHandle, exec: &Exec) -> io::Result<u8> {
    let mut signals = Signals::new()?;
    let guard = tokio::select! {
        guard = guarded(quorum, &exec.wait) => guard,
        signal = signals.next() => return Ok(killed_by(signal)),
    };
    let Some(guard) = guard else {
        let what = if exec.wait.exclusive { "exclusive quorum" } else { "quorum" };
        eprintln!("quorum-watch: gave up waiting for {what}: {}", quorum.snapshot());
        return Ok(NO_QUORUM);
    };
    let mut command = Command::new(&exec.command[0]);
    // The command must not outlive this future, which may be dropped or panic.
    command.args(&exec.command[1..]).kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("quorum-watch: {}: {error}", exec.command[0].display());
            return Ok(if error.kind() == io::ErrorKind::NotFound {
                NOT_FOUND
            } else {
                CANNOT_RUN
            });
        }
    };
    let lost = async {
        if !exec.wait.exclusive {
            return guard.lost().await;
        }
        while guard.is_exclusive() {
            sleep(POLL_INTERVAL).await;
        }
    };
    tokio::select! {
        ended = child.wait() => Ok(code(ended?)),
        () = lost => {
            let what = if guard.is_valid() { "quorum is no longer exclusive" } else { "quorum was lost" };
            // Standard error may block: it must not keep the command running.
            let message = format!("quorum-watch: {what}: {}", quorum.snapshot());
            let printing = thread::spawn(move || {
                let _ = writeln!(io::stderr(), "{message}");
            });
            end(&mut child, Signal::TERM, exec.grace).await?;
            let printed = async {
                while !printing.is_finished() {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            let _ = timeout(Duration::from_millis(500), printed).await;
            Ok(NO_QUORUM)
        }
        signal = signals.next() => Ok(code(end(&mut child, signal, exec.grace).await?)),
    }
}

/// Returns a valid guard, which is exclusive if `wait` requires it. Returns `None` after the
/// timeout, or if the actor has stopped.
async fn guarded(quorum: &QuorumHandle, wait: &Wait) -> Option<QuorumGuard> {
    let limit = wait.timeout.unwrap_or(Duration::MAX);
    let without_limit = Wait { timeout: None, ..wait.clone() };
    let guarded = async {
        loop {
            if !reached(quorum, &without_limit).await {
                return None;
            }
            // Quorum may have been lost since.
            let guard = quorum.guard();
            if guard.as_ref().is_some_and(|guard| !wait.exclusive || guard.is_exclusive()) {
                return guard;
            }
            sleep(POLL_INTERVAL).await;
        }
    };
    timeout(limit, guarded).await.ok().flatten()
}

/// Sends this signal, and KILL if the command has not ended within `grace`. Returns when the
/// command has ended.
async fn end(child: &mut Child, signal: Signal, grace: Duration) -> io::Result<ExitStatus> {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    // There is no id once the command has been reaped. Until then no other process can have its id.
    if let Some(pid) = pid {
        kill_process(pid, signal)?;
    }
    match timeout(grace, child.wait()).await {
        Ok(ended) => ended,
        Err(_) => {
            child.kill().await?;
            child.wait().await
        }
    }
}

/// Returns the exit code that a shell reports for a program that a signal has ended.
fn killed_by(signal: Signal) -> u8 {
    u8::try_from(128 + signal.as_raw()).unwrap_or(FAILED)
}

/// Returns the exit code that a shell reports for a program that ended with this status.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED)
}

/// The signals that end this program, and with it the command.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.hangup.recv() => Signal::HUP,
        }
    }
}
