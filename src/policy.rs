//! What a service does when quorum is lost, ready made: actors to
//! [subscribe](crate::QuorumHandle::subscribe).
//!
//! ```no_run
//! use std::time::Duration;
//! use actix::Actor;
//! use actix_quorum::{QuorumActor, policy::{Call, StopSystem}};
//!
//! # actix::System::new().block_on(async {
//! let quorum = QuorumActor::builder().start();
//! quorum.subscribe(Call::new(|change| eprintln!("{change}")).start().recipient());
//! quorum.subscribe(StopSystem::with_code(75).after(Duration::from_secs(30)).start().recipient());
//! # });
//! ```
//!
//! They act when the message arrives: within microseconds of what Corosync says, and later if their
//! arbiter is busy. What must not happen without quorum asks
//! [`is_quorate`](crate::QuorumHandle::is_quorate) or runs under a [guard](crate::QuorumGuard).

use std::{fmt, time::Duration};

use actix::{Actor, AsyncContext, Context, Handler, SpawnHandle, System};

use crate::{Connection, QuorumChanged};

/// Calls a closure with each change, the current state first.
pub struct Call<F>(F);

impl<F: FnMut(QuorumChanged) + Unpin + 'static> Call<F> {
    /// Calls `f`, on the arbiter that this is started on.
    pub fn new(f: F) -> Self {
        Self(f)
    }
}

impl<F: Unpin + 'static> Actor for Call<F> {
    type Context = Context<Self>;
}

impl<F: FnMut(QuorumChanged) + Unpin + 'static> Handler<QuorumChanged> for Call<F> {
    type Result = ();

    fn handle(&mut self, change: QuorumChanged, _: &mut Self::Context) {
        (self.0)(change);
    }
}

impl<F> fmt::Debug for Call<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}

/// Stops the [`System`] that it is started in once quorum was lost and has not come back for a
/// while: whoever supervises the process starts it anew.
///
/// A service that has not had quorum yet waits for it. The end of the quorum actor, which is part of
/// stopping in order, is no loss of quorum to it; that an actor died is told by `/livez`, or by
/// [`Connection::Stopped`].
#[derive(Debug)]
pub struct StopSystem {
    code: i32,
    after: Duration,
    stopping: Option<SpawnHandle>,
}

impl StopSystem {
    /// Stops it with this exit code, which [`SystemRunner::run_with_code`] returns.
    ///
    /// [`SystemRunner::run_with_code`]: actix::SystemRunner::run_with_code
    pub fn with_code(code: i32) -> Self {
        Self { code, after: Duration::ZERO, stopping: None }
    }

    /// How long quorum may be away before. Default zero.
    pub fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }
}

impl Actor for StopSystem {
    type Context = Context<Self>;
}

impl Handler<QuorumChanged> for StopSystem {
    type Result = ();

    fn handle(&mut self, change: QuorumChanged, ctx: &mut Context<Self>) {
        let ends = change.current.connection == Connection::Stopped;
        if change.current.quorum.is_quorate() || ends {
            if let Some(stopping) = self.stopping.take() {
                ctx.cancel_future(stopping);
            }
        } else if change.is_loss() {
            self.stopping = Some(ctx.run_later(self.after, |policy, _| {
                log::error!("no quorum for {:?}: stopping with {}", policy.after, policy.code);
                System::current().stop_with_code(policy.code);
            }));
        }
    }
}
