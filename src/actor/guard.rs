use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll};

use futures_util::future::{Either, select};

#[cfg(doc)]
use crate::state::Snapshot;
use crate::{actor::shared::Shared, state::FencingToken};

/// Proves, while it is valid, that this node has held quorum without a break since the guard was
/// taken.
///
/// A guard is valid in one epoch, which is a period of unbroken quorum ([`Snapshot::epoch`]). Once
/// quorum is lost or may have been interrupted, the guard becomes invalid and stays invalid, and
/// the work under it must start again under a new guard.
///
/// A guard is neither a lock nor fencing. It reflects what Corosync on this node knows, possibly
/// later than other nodes, and it cannot stop a write that is already on its way to a disk or
/// another node. If two nodes must never act at the same time, use fencing, or let the storage
/// check a [fencing token](Self::fencing_token).
///
/// An actor that works under a guard holds a handle and is subscribed after it has started:
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
///         // Start once in each epoch. If the epoch has changed again, another message follows.
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
/// /// Work that only the quorate partition may do.
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
#[must_use = "a guard protects nothing by itself: work under `run`, or call `is_valid`"]
pub struct QuorumGuard {
    shared: Arc<Shared>,
    epoch: u64,
}

/// Quorum was lost, or may have been interrupted, before the work under a guard was finished.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[error("quorum was lost, or could no longer be proved, before the work was finished")]
pub struct QuorumLost;

impl QuorumGuard {
    pub(crate) fn new(shared: &Arc<Shared>) -> Option<Self> {
        let epoch = shared.lease.running_epoch()?;
        Some(Self { shared: Arc::clone(shared), epoch })
    }

    /// Returns a guard for an epoch that may have ended already.
    pub(crate) fn of_epoch(shared: &Arc<Shared>, epoch: u64) -> Self {
        Self { shared: Arc::clone(shared), epoch }
    }

    /// Returns the epoch in which the guard is valid.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether this node still has quorum, without a break since the guard was taken. Costs as
    /// little as [`QuorumHandle::is_quorate`](crate::QuorumHandle::is_quorate).
    ///
    /// ```
    /// # use actix_quorum::QuorumGuard;
    /// # fn write(_: u32) {}
    /// fn write_all(records: &[u32], guard: &QuorumGuard) {
    ///     for record in records {
    ///         if !guard.is_valid() {
    ///             return; // the remaining work must start again
    ///         }
    ///         write(*record);
    ///     }
    /// }
    /// ```
    pub fn is_valid(&self) -> bool {
        self.shared.lease.is_active_in(self.epoch)
    }

    /// Whether this node has held quorum without a break since the guard was taken, and no other
    /// partition can have it now: see
    /// [`QuorumHandle::is_exclusive`](crate::QuorumHandle::is_exclusive).
    pub fn is_exclusive(&self) -> bool {
        self.shared.lease.is_exclusive_in(self.epoch)
    }

    /// Returns the [fencing token](FencingToken) of this node's current ring. The ring can change
    /// while this guard stays valid. A later ring has a larger token, if it has one.
    ///
    /// A guard is not a lock: it cannot stop a write that is already on its way. With a token, the
    /// storage can refuse such a write: it remembers the largest token that it has received and
    /// refuses smaller ones.
    ///
    /// Returns `None` if the guard is invalid or the ring has no token: see
    /// [`Snapshot::fencing_token`].
    ///
    /// ```
    /// # use actix_quorum::{FencingToken, QuorumHandle};
    /// # fn store(_: FencingToken, _: &str) -> Result<(), &'static str> { Ok(()) }
    /// async fn write(quorum: &QuorumHandle) -> Result<(), &'static str> {
    ///     let guard = quorum.acquire().await.map_err(|_| "stopped")?;
    ///     let token = guard.fencing_token().ok_or("this ring has no token")?;
    ///     store(token, "value") // the storage refuses a token smaller than its largest
    /// }
    /// ```
    pub fn fencing_token(&self) -> Option<FencingToken> {
        let snapshot = self.shared.published();
        let token = snapshot.fencing_token().filter(|_| snapshot.epoch == self.epoch);
        token.filter(|_| self.is_valid())
    }

    /// Returns once the guard is invalid, on time even if the actor is stuck or dead.
    ///
    /// If the system was suspended and the actor is stuck, this method may return late, by up to
    /// the remaining time of the lease: tokio's timers do not count the time of a suspend, while
    /// [`is_valid`](Self::is_valid) does.
    ///
    /// ```
    /// # use actix_quorum::{QuorumActor, sim::Cluster};
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = Cluster::new(3);
    /// # let quorum = QuorumActor::builder().source(cluster.node(1)).start();
    /// let guard = quorum.acquire().await?;
    /// cluster.crash(1)?;
    /// guard.lost().await;
    /// assert!(!quorum.is_quorate());
    /// # quorum.stop().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime. An actix [`System`](actix::System) has one.
    pub async fn lost(&self) {
        let mut latest = self.shared.change_signal();
        while self.is_valid() {
            let expired = pin!(tokio::time::sleep(self.shared.lease.remaining()));
            let changed = pin!(latest.changed());
            if let Either::Left((Err(_), expired)) = select(changed, expired).await {
                // The sender is in `self.shared`, so this does not happen; if it did, the lease
                // would end the wait.
                expired.await;
            }
        }
    }

    /// Runs `work` until it is finished or the guard becomes invalid. In the second case, `work` is
    /// dropped.
    ///
    /// `work` is polled only while the guard is valid.
    ///
    /// ```
    /// # use actix_quorum::{QuorumActor, QuorumLost, sim::Cluster};
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = Cluster::new(3);
    /// # let quorum = QuorumActor::builder().source(cluster.node(1)).start();
    /// let guard = quorum.acquire().await?;
    /// assert_eq!(guard.run(async { "done" }).await, Ok("done"));
    ///
    /// cluster.partition(&[&[1], &[2, 3]])?;
    /// assert_eq!(guard.run(std::future::pending::<()>()).await, Err(QuorumLost));
    /// # quorum.stop().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`QuorumLost`] if `work` was dropped.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime, as [`lost`](Self::lost) does.
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
