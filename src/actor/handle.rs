use std::{future::ready, sync::Arc, time::Duration};

use actix::Addr;
use futures_core::Stream;
use futures_util::StreamExt;
use tokio::sync::oneshot;

use crate::{
    actor::{QuorumActor, QuorumGuard, quorum_actor::Stop, shared::Shared},
    registry::{Subscriber, SubscriptionId},
    state::{Connection, Quorum, QuorumChanged, Snapshot},
};

/// What a service holds to know about quorum, on any thread.
///
/// A clone is cheap and is the same actor's. Reading never waits for the actor, nor for Corosync.
///
/// ```
/// # use actix_quorum::{QuorumActor, sim::Cluster};
/// # #[actix::main]
/// # async fn main() -> Result<(), actix_quorum::Stopped> {
/// # let quorum = QuorumActor::builder().source(Cluster::new(3).node(1)).start();
/// quorum.wait_quorate().await?;
/// let on_a_thread = quorum.clone();
/// let thread = std::thread::spawn(move || on_a_thread.is_quorate());
/// assert!(thread.join().unwrap());
/// # quorum.stop().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct QuorumHandle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) addr: Addr<QuorumActor>,
}

impl QuorumHandle {
    /// Whether this node is known to have quorum, now.
    ///
    /// Compares the lease with the clock, so it turns false on time even if the actor is stuck or
    /// dead. No lock, nothing shared is written.
    ///
    /// ```
    /// # use actix_quorum::{Quorum, Snapshot, testing::ScriptedQuorum};
    /// # let now = Snapshot::new(Quorum::Quorate, "1.9".parse()?, [1, 2, 3]);
    /// # let script = ScriptedQuorum::new(now);
    /// # let quorum = script.handle();
    /// if quorum.is_quorate() {
    ///     // Write. What takes longer runs under a guard.
    /// }
    /// # Ok::<(), actix_quorum::ParseRingIdError>(())
    /// ```
    pub fn is_quorate(&self) -> bool {
        self.shared.is_quorate()
    }

    /// Whether this node has quorum, and no other partition of the cluster can have it, now.
    ///
    /// As cheap as [`is_quorate`](Self::is_quorate). It is for what two nodes must never do at a
    /// time. It holds only while
    ///
    /// - `is_quorate()` holds, and the decision is about the current membership;
    /// - the members' own votes are a majority of all votes ([`Snapshot::has_majority`]), so that
    ///   no partition that excludes them all can be quorate;
    /// - the daemon was in totem's OPERATIONAL state less than C - 0.2 T ago, where T and C are its token
    ///   and consensus timeouts: as two reads of its counters show, with the token moving in between, or
    ///   as a decision about a new ring shows, of a daemon that has answered all the time.
    ///
    /// Why that is enough: another partition that is quorate has a member of ours in it, and a ring
    /// without this node. Nodes form a ring without a node that is silent only after they have waited
    /// for it in GATHER for C (`exec/totemsrp.c`, `memb_state_consensus_timeout_expired`). They enter
    /// GATHER when they have not seen the token for T. So does our own daemon, and the token passes
    /// all nodes in one round, at most 0.2 T. So while our daemon was OPERATIONAL at a moment, no ring
    /// without it formed until C - 0.2 T after that moment.
    ///
    /// What voids it: a hypervisor that stops the clock of this machine, a stored ring or nodelist
    /// that differs between nodes, and an operator who lowers the expected votes of a partition by hand.
    /// And for up to T: a node that joins the others within T of a fault that leaves this node
    /// receiving tokens, since a partition takes other nodes with it or only what it sends is lost. The
    /// others then enter GATHER for the new node, and not because they miss the token. Likewise other
    /// daemons that restart within T of such a fault: a daemon that starts has no token to miss. A
    /// [fencing token](crate::QuorumGuard::fencing_token) suffers from neither.
    ///
    /// Always false where the ring cannot be watched ([`RingState::Unwatched`](crate::RingState)).
    ///
    /// ```
    /// # use actix_quorum::QuorumHandle;
    /// fn may_run_the_only_scheduler(quorum: &QuorumHandle) -> bool {
    ///     quorum.is_exclusive()
    /// }
    /// ```
    pub fn is_exclusive(&self) -> bool {
        self.shared.is_exclusive()
    }

    /// Whether this node has quorum, has none, or nobody knows, now: as
    /// [`is_quorate`](Self::is_quorate), this is not quorate when the lease has run out.
    ///
    /// ```
    /// # use actix_quorum::{Snapshot, testing::ScriptedQuorum};
    /// # let now = Snapshot::new(Quorum::Quorate, "1.9".parse()?, [1, 2, 3]);
    /// # let script = ScriptedQuorum::new(now);
    /// # let quorum = script.handle();
    /// use actix_quorum::Quorum;
    ///
    /// println!("{}", match quorum.quorum() {
    ///     Quorum::Quorate => "this partition may write",
    ///     Quorum::Inquorate => "another partition may have quorum",
    ///     Quorum::Unknown => "nobody can say: see `snapshot().connection`",
    /// });
    /// # Ok::<(), actix_quorum::ParseRingIdError>(())
    /// ```
    pub fn quorum(&self) -> Quorum {
        self.quorum_of(&self.shared.snapshot())
    }

    /// The quorum of what was last published, as the deadlines allow.
    pub(crate) fn quorum_of(&self, latest: &Snapshot) -> Quorum {
        match latest.quorum {
            Quorum::Quorate if !self.is_quorate() => Quorum::Unknown,
            quorum => quorum,
        }
    }

    /// Proof that this node has quorum now, which tells when it ends; `None` if it has not.
    /// [`acquire`](Self::acquire) waits for it.
    ///
    /// ```
    /// # use actix_quorum::{Quorum, Snapshot, testing::ScriptedQuorum};
    /// # let now = Snapshot::new(Quorum::Quorate, "1.9".parse()?, [1, 2, 3]);
    /// # let script = ScriptedQuorum::new(now);
    /// # let quorum = script.handle();
    /// let guard = quorum.guard().ok_or("no quorum")?;
    /// // One step of long work, then the next, if quorum was held all the time:
    /// assert!(guard.is_valid());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn guard(&self) -> Option<QuorumGuard> {
        QuorumGuard::new(&self.shared)
    }

    /// Everything that is known now.
    ///
    /// Its `quorum` obeys the same deadlines as [`is_quorate`](Self::is_quorate): once one has passed
    /// it is [`Quorum::Unknown`], also if the actor is stuck and has not published that.
    ///
    /// ```
    /// # use actix_quorum::{Quorum, Snapshot, testing::ScriptedQuorum};
    /// # let now = Snapshot::new(Quorum::Quorate, "1.9".parse()?, [1, 2, 3]);
    /// # let script = ScriptedQuorum::new(now);
    /// # let quorum = script.handle();
    /// let now = quorum.snapshot();
    /// assert_eq!(now.members.len(), 3);
    /// assert_eq!(now.to_string(), "quorate: ring 1.9, members 1 2 3");
    /// # Ok::<(), actix_quorum::ParseRingIdError>(())
    /// ```
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.current()
    }

    /// The names of the nodes in `corosync.conf` (`nodelist.node.N.name` in `cmap_keys(7)`). A node
    /// without one is called by the host name in its `ring0_addr`, as Pacemaker and
    /// corosync-quorumtool call it; one with an address there has no name. Read on each connection,
    /// when the membership changes, and every half a minute; empty until then.
    #[cfg(any(feature = "metrics", feature = "web"))]
    pub fn node_names(&self) -> Arc<std::collections::BTreeMap<crate::libquorum::NodeId, String>> {
        self.shared.names.known()
    }

    /// Has an actor sent the current state, and then every change, in order.
    ///
    /// Works from any thread, before the actor has connected and while it reconnects; the
    /// subscription outlives every connection. Subscribing the same actor twice has it sent
    /// everything twice.
    ///
    /// ```
    /// use actix::prelude::*;
    /// use actix_quorum::{QuorumActor, QuorumChanged, sim::Cluster};
    ///
    /// struct Printer;
    ///
    /// impl Actor for Printer {
    ///     type Context = Context<Self>;
    /// }
    ///
    /// impl Handler<QuorumChanged> for Printer {
    ///     type Result = ();
    ///
    ///     fn handle(&mut self, change: QuorumChanged, _: &mut Self::Context) {
    ///         println!("{change}");
    ///     }
    /// }
    ///
    /// #[actix::main]
    /// async fn main() {
    ///     let quorum = QuorumActor::builder().source(Cluster::new(3).node(1)).start();
    ///     let printer = Printer.start();
    ///     // A `Recipient` keeps the printer alive; a `WeakRecipient` would not.
    ///     let subscription = quorum.subscribe(printer.recipient());
    ///     assert!(quorum.unsubscribe(subscription));
    ///     quorum.stop().await;
    /// }
    /// ```
    pub fn subscribe(&self, subscriber: impl Into<Subscriber>) -> SubscriptionId {
        self.shared.registry.subscribe(subscriber.into())
    }

    /// Ends a subscription; false if there is none of that name (any more). A message that waits
    /// in the subscriber's mailbox is taken back.
    pub fn unsubscribe(&self, id: SubscriptionId) -> bool {
        self.shared.registry.unsubscribe(id)
    }

    /// Sends a subscriber the current state again, as when it subscribed: a message with
    /// [`Cause::Subscribed`](crate::Cause::Subscribed), then every change. A change that waits in its
    /// mailbox is taken back.
    ///
    /// Returns `false` if the subscription does not exist or its actor has died.
    ///
    /// A supervised actor that restarts keeps its subscription, and receives only the next change.
    /// If it begins anew with each start, it asks for the current state there:
    ///
    /// ```
    /// use actix::prelude::*;
    /// use actix_quorum::{QuorumChanged, QuorumHandle, SubscriptionId};
    ///
    /// struct Replicator {
    ///     quorum: QuorumHandle,
    ///     subscription: Option<SubscriptionId>,
    /// }
    ///
    /// impl Actor for Replicator {
    ///     type Context = Context<Self>;
    ///
    ///     fn started(&mut self, ctx: &mut Self::Context) {
    ///         match self.subscription {
    ///             None => {
    ///                 let recipient = ctx.address().recipient();
    ///                 self.subscription = Some(self.quorum.subscribe(recipient));
    ///             }
    ///             Some(subscription) => {
    ///                 self.quorum.resend(subscription);
    ///             }
    ///         }
    ///     }
    /// }
    ///
    /// impl Supervised for Replicator {}
    ///
    /// impl Handler<QuorumChanged> for Replicator {
    ///     type Result = ();
    ///
    ///     fn handle(&mut self, change: QuorumChanged, _: &mut Self::Context) {
    ///         println!("{change}");
    ///     }
    /// }
    /// ```
    pub fn resend(&self, id: SubscriptionId) -> bool {
        self.shared.registry.resend(id)
    }

    /// How many are subscribed and have not ended. Looks at each of them.
    pub fn subscriber_count(&self) -> usize {
        self.shared.registry.len()
    }

    /// Returns once this node has quorum.
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the actor stops first.
    ///
    /// ```
    /// # use actix_quorum::{QuorumActor, Stopped, sim::Cluster};
    /// # #[actix::main]
    /// # async fn main() {
    /// # let cluster = Cluster::new(3);
    /// let quorum = QuorumActor::builder().source(cluster.node(1)).start();
    /// assert_eq!(quorum.wait_quorate().await, Ok(()));
    ///
    /// cluster.partition(&[&[1], &[2, 3]]).unwrap();
    /// quorum.wait_for(|now| !now.quorum.is_quorate()).await.unwrap();
    /// quorum.stop().await;
    /// assert_eq!(quorum.wait_quorate().await, Err(Stopped));
    /// # }
    /// ```
    pub async fn wait_quorate(&self) -> Result<(), Stopped> {
        self.wait_for(|snapshot| snapshot.quorum.is_quorate()).await.map(drop)
    }

    /// Waits until this node has quorum and returns the [guard](Self::guard) of it.
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the actor stops first.
    ///
    /// A worker that works only while there is quorum, and begins anew after a loss:
    ///
    /// ```
    /// # use actix_quorum::{QuorumActor, QuorumHandle, QuorumLost, Stopped, sim::Cluster};
    /// async fn work(quorum: QuorumHandle) -> Result<(), Stopped> {
    ///     loop {
    ///         let guard = quorum.acquire().await?;
    ///         match guard.run(async { /* one step after the other */ }).await {
    ///             Ok(()) => return Ok(()),
    ///             Err(QuorumLost) => {} // the work was dropped
    ///         }
    ///     }
    /// }
    /// # #[actix::main]
    /// # async fn main() {
    /// # let quorum = QuorumActor::builder().source(Cluster::new(3).node(1)).start();
    /// # assert_eq!(work(quorum.clone()).await, Ok(()));
    /// # quorum.stop().await;
    /// # assert_eq!(work(quorum).await, Err(Stopped));
    /// # }
    /// ```
    pub async fn acquire(&self) -> Result<QuorumGuard, Stopped> {
        loop {
            self.wait_quorate().await?;
            // It may have been lost since.
            if let Some(guard) = self.guard() {
                return Ok(guard);
            }
        }
    }

    /// Returns the first snapshot that `condition` holds for, from the current one on. Each obeys
    /// the deadlines as [`snapshot`](Self::snapshot) does.
    ///
    /// When several changes come at once only the last is looked at; to see each one use
    /// [`changes`](Self::changes).
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the condition does not hold when the actor stops. The snapshot with
    /// [`Connection::Stopped`] is the last that it is asked about.
    ///
    /// ```
    /// # use actix_quorum::{QuorumActor, Stopped, sim::Cluster};
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Stopped> {
    /// # let cluster = Cluster::new(3);
    /// # let quorum = QuorumActor::builder().source(cluster.node(1)).start();
    /// let all_here = quorum.wait_for(|now| now.settled && now.members.len() == 3).await?;
    /// assert_eq!(all_here.members, [1.into(), 2.into(), 3.into()]);
    /// # quorum.stop().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn wait_for(
        &self,
        mut condition: impl FnMut(&Snapshot) -> bool,
    ) -> Result<Arc<Snapshot>, Stopped> {
        let mut latest = self.shared.watch();
        loop {
            latest.mark_unchanged();
            let snapshot = self.shared.current();
            if condition(&snapshot) {
                return Ok(snapshot);
            }
            if snapshot.connection == Connection::Stopped {
                return Err(Stopped);
            }
            // The sender is in `self.shared`. Nothing would come if it were gone.
            latest.changed().await.map_err(|_| Stopped)?;
        }
    }

    /// The state at the call and then every change, in order, for code that is no actor.
    ///
    /// As with a subscribed actor, a reader that falls behind by more changes than are kept gets
    /// the latest state, with [`missed`](QuorumChanged::missed). Ends after [`Connection::Stopped`].
    ///
    /// ```
    /// use actix_quorum::{QuorumActor, sim::Cluster};
    /// use futures_util::StreamExt;
    ///
    /// #[actix::main]
    /// async fn main() {
    ///     let cluster = Cluster::new(3);
    ///     let quorum = QuorumActor::builder().source(cluster.node(1)).start();
    ///     let mut changes = quorum.changes();
    ///     while let Some(change) = changes.next().await {
    ///         println!("{change}");
    ///         if change.is_gain() {
    ///             cluster.partition(&[&[1], &[2, 3]]).unwrap();
    ///         } else if change.is_loss() {
    ///             break;
    ///         }
    ///     }
    ///     quorum.stop().await;
    /// }
    /// ```
    pub fn changes(&self) -> impl Stream<Item = QuorumChanged> + Send + Unpin + use<> {
        let (history, latest) = (Arc::clone(&self.shared.history), self.shared.watch());
        // At the call, so that what follows is told however late it is polled.
        let first = history.first();
        let changes = futures_util::stream::unfold(
            (history, latest, Arc::clone(&first.current)),
            |(history, mut latest, seen)| async move {
                if seen.connection == Connection::Stopped {
                    return None;
                }
                loop {
                    latest.mark_unchanged();
                    if let Some(change) = history.next_after(Some(&seen)) {
                        let seen = Arc::clone(&change.current);
                        return Some((change, (history, latest, seen)));
                    }
                    // Ends with the last handle and the actor, should it not have been stopped.
                    latest.changed().await.ok()?;
                }
            },
        );
        let changes = futures_util::stream::once(ready(first)).chain(changes);
        // May be polled after its end, as in a `select!` loop.
        Box::pin(changes.fuse())
    }

    /// The actor's address. It stays valid while the actor reconnects.
    pub fn addr(&self) -> Addr<QuorumActor> {
        self.addr.clone()
    }

    /// Stops the actor. From the call on nobody is told that there is quorum.
    ///
    /// ```
    /// # use actix_quorum::{QuorumActor, Stopped, sim::Cluster};
    /// # #[actix::main]
    /// # async fn main() -> Result<(), Stopped> {
    /// # let quorum = QuorumActor::builder().source(Cluster::new(3).node(1)).start();
    /// # quorum.wait_quorate().await?;
    /// let stopping = quorum.stop();
    /// assert!(!quorum.is_quorate());
    /// stopping.await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Returns when the connection to Corosync is closed, after 800 ms at most: what hangs by then,
    /// as a thread that waits for a hung Corosync, is left behind and keeps no process from ending.
    /// The actor stops also if this is not awaited to its end.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, which an actix [`System`](actix::System) has.
    pub fn stop(&self) -> impl Future<Output = ()> + Send + use<> {
        self.shared.stop_in_order();
        let (closed, answer) = oneshot::channel();
        self.addr.do_send(Stop(closed));
        async move {
            if tokio::time::timeout(STOP, answer).await.is_err() {
                crate::foreign::log!(
                    log::Level::Warn,
                    "the arbiter of the quorum actor is stuck: left it behind"
                );
            }
        }
    }
}

/// The actor has stopped: nothing that was waited for can come any more.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[error("the quorum actor has stopped")]
pub struct Stopped;

/// How long stopping may take.
const STOP: Duration = Duration::from_millis(800);
