use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll};

use futures_util::future::{Either, select};

#[cfg(doc)]
use crate::state::Snapshot;
use crate::{actor::shared::Shared, state::FencingToken};

/// Proof that this node had quorum, and has had it without a break since.
///
/// It is valid in one epoch: once quorum was lost, or cannot be vouched for, it stays invalid, and
/// what was begun under it has to be begun anew.
///
/// It is no lock and no fencing. It says what Corosync on this node knows, which may be later than
/// what the other nodes know, and what is already on its way to a disk or a peer is not called back.
/// Where two nodes must never act at a time, fence, or have the storage check a
/// [fencing token](Self::fencing_token).
///
/// An actor that works under a guard holds the handle, and is subscribed after it was made:
///
/// ```no_run
/// use actix::prelude::*;
/// use actix_quorum::{QuorumActor, QuorumChanged, QuorumHandle, QuorumLost};
///
/// struct Leader {
///     quorum: QuorumHandle,
/// }
///
/// impl Actor for Leader {
///     type Context = Context<Self>;
/// }
///
/// impl Handler<QuorumChanged> for Leader {
///     type Result = ();
///
///     fn handle(&mut self, change: QuorumChanged, ctx: &mut Self::Context) {
///         // Once in each epoch. If it is another by now, another message says so.
///         let begins = change.is_gain() || change.interrupted();
///         let guard = self.quorum.guard().filter(|guard| guard.epoch() == change.current.epoch);
///         if let Some(guard) = guard.filter(|_| begins) {
///             let leading = async move { guard.run(lead()).await };
///             ctx.spawn(leading.into_actor(self).map(|done, _, _| match done {
///                 Ok(()) => println!("done"),
///                 Err(QuorumLost) => println!("dropped: quorum was lost"),
///             }));
///         }
///     }
/// }
///
/// /// What only the quorate part of the cluster may do.
/// async fn lead() {}
///
/// #[actix::main]
/// async fn main() -> std::io::Result<()> {
///     let quorum = QuorumActor::builder().start();
///     let leader = Leader { quorum: quorum.clone() }.start();
///     quorum.subscribe(leader.recipient());
///     tokio::signal::ctrl_c().await
/// }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a guard protects nothing by itself: work under `run`, or ask `is_valid`"]
pub struct QuorumGuard {
    shared: Arc<Shared>,
    epoch: u64,
}

/// Quorum was lost, or cannot be vouched for, before the work under a guard was done.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[error("quorum was lost before the work was done")]
pub struct QuorumLost;

impl QuorumGuard {
    pub(crate) fn new(shared: &Arc<Shared>) -> Option<Self> {
        let epoch = shared.lease.running_epoch()?;
        Some(Self { shared: Arc::clone(shared), epoch })
    }

    /// The epoch that it is valid in.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether this node still has quorum, without a break. As cheap as
    /// [`QuorumHandle::is_quorate`](crate::QuorumHandle::is_quorate).
    ///
    /// ```
    /// # use actix_quorum::QuorumGuard;
    /// # fn write(_: u32) {}
    /// fn write_all(records: &[u32], guard: &QuorumGuard) {
    ///     for record in records {
    ///         if !guard.is_valid() {
    ///             return; // what follows has to be begun anew
    ///         }
    ///         write(*record);
    ///     }
    /// }
    /// ```
    pub fn is_valid(&self) -> bool {
        self.shared.lease.is_active_in(self.epoch)
    }

    /// Whether this node has quorum without a break since this guard was taken, and no other
    /// partition can have it now: see [`QuorumHandle::is_exclusive`](crate::QuorumHandle::is_exclusive).
    pub fn is_exclusive(&self) -> bool {
        self.shared.lease.is_exclusive_in(self.epoch)
    }

    /// The [fencing token](FencingToken) of the ring that this node is in now. It grows with each
    /// later ring, also while this guard is valid.
    ///
    /// A guard is no lock: a write that is on its way is not called back. Storage that keeps the
    /// largest token that it has seen, and refuses a smaller one, makes it one.
    ///
    /// `None` if the guard is invalid, or the ring has no token: see [`Snapshot::fencing_token`].
    ///
    /// ```
    /// # use actix_quorum::{FencingToken, QuorumHandle};
    /// # fn store(_: FencingToken, _: &str) -> Result<(), &'static str> { Ok(()) }
    /// async fn write(quorum: &QuorumHandle) -> Result<(), &'static str> {
    ///     let guard = quorum.acquire().await.map_err(|_| "stopped")?;
    ///     let token = guard.fencing_token().ok_or("this ring has no token")?;
    ///     store(token, "value") // the storage refuses a token that is smaller than one before
    /// }
    /// ```
    pub fn fencing_token(&self) -> Option<FencingToken> {
        let snapshot = self.shared.snapshot();
        let token = snapshot.fencing_token().filter(|_| snapshot.epoch == self.epoch);
        token.filter(|_| self.is_valid())
    }

    /// Returns once it is invalid: on time also if the actor is stuck or dead. (If the system was
    /// suspended and the actor is stuck, late by the time that was left of the lease: tokio's timers
    /// do not count a suspend, as [`is_valid`](Self::is_valid) does.)
    ///
    /// ```
    /// # use actix_quorum::{QuorumActor, sim::Cluster};
    /// # #[actix::main]
    /// # async fn main() -> Result<(), actix_quorum::Stopped> {
    /// # let cluster = Cluster::new(3);
    /// # let quorum = QuorumActor::builder().source(cluster.node(1)).start();
    /// let guard = quorum.acquire().await?;
    /// cluster.crash(1).unwrap();
    /// guard.lost().await;
    /// assert!(!quorum.is_quorate());
    /// # quorum.stop().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, which an actix [`System`](actix::System) has.
    pub async fn lost(&self) {
        let mut latest = self.shared.watch();
        while self.is_valid() {
            let expired = pin!(tokio::time::sleep(self.shared.lease.remaining()));
            let changed = pin!(latest.changed());
            if let Either::Left((Err(_), expired)) = select(changed, expired).await {
                // The sender is in `self.shared`, so this cannot be; the lease ends it then.
                expired.await;
            }
        }
    }

    /// Runs `work` until it is done or quorum is lost, and drops it then.
    ///
    /// `work` is polled only while the guard is valid.
    ///
    /// ```
    /// # use actix_quorum::{QuorumActor, QuorumLost, sim::Cluster};
    /// # #[actix::main]
    /// # async fn main() -> Result<(), actix_quorum::Stopped> {
    /// # let cluster = Cluster::new(3);
    /// # let quorum = QuorumActor::builder().source(cluster.node(1)).start();
    /// let guard = quorum.acquire().await?;
    /// assert_eq!(guard.run(async { "done" }).await, Ok("done"));
    ///
    /// cluster.partition(&[&[1], &[2, 3]]).unwrap();
    /// assert_eq!(guard.run(std::future::pending::<()>()).await, Err(QuorumLost));
    /// # quorum.stop().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`QuorumLost`] if it was dropped.
    ///
    /// # Panics
    ///
    /// As [`lost`](Self::lost).
    pub async fn run<F: Future>(&self, work: F) -> Result<F::Output, QuorumLost> {
        let mut work = pin!(work);
        let working = poll_fn(|cx| match self.is_valid() {
            true => work.as_mut().poll(cx).map(Ok),
            false => Poll::Ready(Err(QuorumLost)),
        });
        match select(working, pin!(self.lost())).await {
            Either::Left((done, _)) => done,
            Either::Right(((), _)) => Err(QuorumLost),
        }
    }
}
