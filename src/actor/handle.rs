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

/// Reads the quorum state, waits for changes and subscribes actors, from any thread.
///
/// Clones are cheap and refer to the same actor. Reads wait neither for the actor nor for Corosync.
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
    /// Whether this node has quorum now. Returns `false` if this is not known.
    ///
    /// Compares the lease with the clock, so it returns `false` on time even if the actor is stuck
    /// or dead. It takes no lock and does not write to shared memory.
    ///
    /// ```
    /// # use actix_quorum::{Quorum, Snapshot, testing::ScriptedQuorum};
    /// # let now = Snapshot::new(Quorum::Quorate, "1.9".parse()?, [1, 2, 3]);
    /// # let script = ScriptedQuorum::new(now);
    /// # let quorum = script.handle();
    /// if quorum.is_quorate() {
    ///     // Write. Work that takes longer runs under a guard.
    /// }
    /// # Ok::<(), actix_quorum::ParseRingIdError>(())
    /// ```
    pub fn is_quorate(&self) -> bool {
        self.shared.is_quorate()
    }

    /// Whether this node has quorum now and no other partition of the cluster can have it.
    ///
    /// It costs as little as [`is_quorate`](Self::is_quorate). Use it for work that two nodes must
    /// never do at the same time. It returns `true` only while:
    /// - `is_quorate()` returns `true`, and the decision is about the current membership;
    /// - the members' own votes are a majority of all votes ([`Snapshot::has_majority`]), so that
    ///   no partition that excludes them all can be quorate;
    /// - the daemon was in totem's OPERATIONAL state less than C - 0.2 T ago, where T and C are its
    ///   token and consensus timeouts. Two reads of its counters prove that, if the token moved
    ///   between them. A decision about a new ring proves it as well, if the daemon had answered
    ///   reads for at least T before that decision, without a gap of more than 0.75 T.
    ///
    /// Why this is enough: another quorate partition contains one of our members, in a ring without
    /// this node. Nodes form a ring without a silent node only after they have waited for it in
    /// GATHER for C (`exec/totemsrp.c`, `memb_state_consensus_timeout_expired`). They enter GATHER
    /// when they have not seen the token for T. Our own daemon does the same, and the token passes
    /// all nodes in one round, which takes at most 0.2 T. So if our daemon was OPERATIONAL at a
    /// moment, no ring without it forms until C - 0.2 T after that moment.
    ///
    /// The guarantee does not hold if a hypervisor stops the clock of this machine, if the
    /// nodelists of the nodes differ, if a node loses the ring sequence that Corosync stores
    /// (`ringid_*` in its state directory), or if an operator lowers the expected votes of a
    /// partition by hand. A reload that lowers T or C is noticed up to half a second later, and the
    /// guarantee does not hold until then.
    ///
    /// After some faults this node still receives tokens: it is cut off together with other nodes,
    /// or only the packets that it sends are lost. Within T of such a fault, either of two events
    /// in the other partition breaks this guarantee for up to T:
    /// - a node joins that partition. The nodes there then enter GATHER because of the new node,
    ///   and not because they have lost the token;
    /// - daemons in that partition restart. A daemon that has just started has not received a token
    ///   yet, so it cannot lose one.
    ///
    /// A [fencing token](crate::QuorumGuard::fencing_token) has neither weakness.
    ///
    /// Always `false` if the ring cannot be watched ([`RingState::Unwatched`](crate::RingState)).
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

    /// Returns the quorum of this node now: `Quorate`, `Inquorate` or `Unknown`. Like
    /// [`is_quorate`](Self::is_quorate), it does not return `Quorate` once a deadline has passed.
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
    ///     Quorum::Unknown => "the state is not known: see `snapshot().connection`",
    /// });
    /// # Ok::<(), actix_quorum::ParseRingIdError>(())
    /// ```
    pub fn quorum(&self) -> Quorum {
        self.quorum_of(&self.shared.published())
    }

    /// Returns the quorum of `latest`, or `Unknown` if `latest` is quorate and a deadline has
    /// passed since.
    pub(crate) fn quorum_of(&self, latest: &Snapshot) -> Quorum {
        match latest.quorum {
            Quorum::Quorate if !self.is_quorate() => Quorum::Unknown,
            quorum => quorum,
        }
    }

    /// Returns a guard, which proves that this node has quorum and reports when quorum ends.
    /// Returns `None` if this node has no quorum. [`acquire`](Self::acquire) waits for quorum.
    ///
    /// ```
    /// # use actix_quorum::{Quorum, Snapshot, testing::ScriptedQuorum};
    /// # let now = Snapshot::new(Quorum::Quorate, "1.9".parse()?, [1, 2, 3]);
    /// # let script = ScriptedQuorum::new(now);
    /// # let quorum = script.handle();
    /// let guard = quorum.guard().ok_or("no quorum")?;
    /// // Do one step of a long task. Continue if quorum was held all the time:
    /// assert!(guard.is_valid());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn guard(&self) -> Option<QuorumGuard> {
        QuorumGuard::new(&self.shared)
    }

    /// Returns the current state: everything that the actor knows about quorum now.
    ///
    /// The `quorum` in the snapshot obeys the same deadlines as [`is_quorate`](Self::is_quorate):
    /// once a deadline has passed, it is [`Quorum::Unknown`] instead of `Quorate`, even if the
    /// actor is stuck and has not published this change.
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
        self.shared.snapshot()
    }

    /// Returns the names that `corosync.conf` gives to the nodes (`nodelist.node.N.name` in
    /// `cmap_keys(7)`).
    ///
    /// For a node without a name, the map contains the host name in its `ring0_addr`, which
    /// Pacemaker and corosync-quorumtool show too. If `ring0_addr` is an IP address, the node is
    /// not in the map. The names are read on each new connection, whenever the membership changes,
    /// and every 30 seconds. The map is empty until the first read.
    #[cfg(any(feature = "metrics", feature = "web"))]
    pub fn node_names(&self) -> Arc<std::collections::BTreeMap<crate::libquorum::NodeId, String>> {
        self.shared.names.known()
    }

    /// Subscribes an actor: it receives the current state first, and then every change, in order.
    ///
    /// Works from any thread, before the actor has connected and while it reconnects. The
    /// subscription survives reconnects. An actor that is subscribed twice receives every message
    /// twice.
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
        self.shared.publish_expiry();
        self.shared.registry.subscribe(subscriber.into())
    }

    /// Ends a subscription and takes back a message that is still waiting in the subscriber's
    /// mailbox. Returns `false` if the subscription does not exist.
    ///
    /// This call does not wait for other threads. If another thread is sending a message to the
    /// subscriber meanwhile, that thread takes the message back, unless the subscriber has already
    /// handled it.
    pub fn unsubscribe(&self, id: SubscriptionId) -> bool {
        self.shared.registry.unsubscribe(id)
    }

    /// Sends a subscriber the current state again, as after subscribing: a message with
    /// [`Cause::Subscribed`](crate::Cause::Subscribed), then every change. A change that is still
    /// waiting in the subscriber's mailbox is taken back.
    ///
    /// Returns `false` if the subscription does not exist or its actor has died.
    ///
    /// A supervised actor that restarts keeps its subscription, but the next message that it
    /// receives is the next change, not the current state. An actor that loses its state in a
    /// restart should ask for the current state in `started`:
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
        self.shared.publish_expiry();
        self.shared.registry.resend(id)
    }

    /// Returns the number of subscribers whose actors are alive. It checks each subscriber.
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
    /// # async fn main() -> Result<(), Stopped> {
    /// # let cluster = Cluster::new(3);
    /// let quorum = QuorumActor::builder().source(cluster.node(1)).start();
    /// quorum.wait_quorate().await?;
    ///
    /// quorum.stop().await;
    /// assert_eq!(quorum.wait_quorate().await, Err(Stopped));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn wait_quorate(&self) -> Result<(), Stopped> {
        self.wait_for(|snapshot| snapshot.quorum.is_quorate()).await.map(drop)
    }

    /// Waits until this node has quorum and returns a [guard](Self::guard).
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the actor stops first.
    ///
    /// A worker that works only while this node has quorum, and starts again after a loss:
    ///
    /// ```
    /// # use actix_quorum::{QuorumActor, QuorumHandle, QuorumLost, Stopped, sim::Cluster};
    /// async fn work(quorum: QuorumHandle) -> Result<(), Stopped> {
    ///     loop {
    ///         let guard = quorum.acquire().await?;
    ///         match guard.run(async { /* one step after another */ }).await {
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
            // Quorum may have been lost since.
            if let Some(guard) = self.guard() {
                return Ok(guard);
            }
        }
    }

    /// Returns the first snapshot for which `condition` is true, starting with the current one.
    /// Each snapshot obeys the deadlines, as in [`snapshot`](Self::snapshot).
    ///
    /// If several changes follow each other quickly, `condition` may be called for the last one
    /// only. Use [`changes`](Self::changes) to receive each change. A deadline that passes while
    /// the actor is stuck does not wake this call. Such a deadline does wake [`QuorumGuard::lost`].
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the actor stops before the condition is true. The last snapshot passed to
    /// `condition` has [`Connection::Stopped`].
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
        let mut latest = self.shared.change_signal();
        loop {
            latest.mark_unchanged();
            let snapshot = self.shared.snapshot();
            if condition(&snapshot) {
                return Ok(snapshot);
            }
            if snapshot.connection == Connection::Stopped {
                return Err(Stopped);
            }
            // This fails only if the sender is dropped, and `self.shared` holds it.
            latest.changed().await.map_err(|_| Stopped)?;
        }
    }

    /// Returns a stream that yields the current state and then every change, in order, for code
    /// outside of actors.
    ///
    /// As with a subscribed actor, a reader that falls more than 1,024 changes behind receives one
    /// change that leads to the latest state and contains the number of changes that the reader
    /// [`missed`](QuorumChanged::missed). The stream ends after [`Connection::Stopped`].
    ///
    /// ```
    /// use actix_quorum::{QuorumActor, sim::Cluster};
    /// use futures_util::StreamExt;
    ///
    /// #[actix::main]
    /// async fn main() -> Result<(), actix_quorum::sim::Error> {
    ///     let cluster = Cluster::new(3);
    ///     let quorum = QuorumActor::builder().source(cluster.node(1)).start();
    ///     let mut changes = quorum.changes();
    ///     while let Some(change) = changes.next().await {
    ///         println!("{change}");
    ///         if change.is_gain() {
    ///             cluster.partition(&[&[1], &[2, 3]])?;
    ///         } else if change.is_loss() {
    ///             break;
    ///         }
    ///     }
    ///     quorum.stop().await;
    ///     Ok(())
    /// }
    /// ```
    pub fn changes(&self) -> impl Stream<Item = QuorumChanged> + Send + Unpin + use<> {
        self.shared.publish_expiry();
        let (history, latest) = (Arc::clone(&self.shared.history), self.shared.change_signal());
        // The first message is taken when `changes` is called, so no later change is lost if the
        // stream is polled late.
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
                    // Ends when the actor and the last handle are dropped without a stop.
                    latest.changed().await.ok()?;
                }
            },
        );
        let changes = futures_util::stream::once(ready(first)).chain(changes);
        // Callers may poll the stream after its end, as in a `select!` loop.
        Box::pin(changes.fuse())
    }

    /// Returns the actor's address. It stays valid while the actor reconnects.
    pub fn addr(&self) -> Addr<QuorumActor> {
        self.addr.clone()
    }

    /// Stops the actor. No reader sees quorum after this call.
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
    /// The returned future resolves when the connection to Corosync is closed, or after 800 ms at
    /// the latest. If Corosync is hung, the waiting calls are cancelled, and their threads end
    /// within two seconds; they do not keep the process from ending. The actor also stops if the
    /// future is dropped.
    ///
    /// # Panics
    ///
    /// The future panics outside of a tokio runtime. An actix [`System`](actix::System) has one.
    pub fn stop(&self) -> impl Future<Output = ()> + Send + use<> {
        self.shared.stop_by_user();
        let (reply, stopped) = oneshot::channel();
        self.addr.do_send(Stop(reply));
        async move {
            if tokio::time::timeout(STOP_TIMEOUT, stopped).await.is_err() {
                crate::foreign::log!(
                    log::Level::Warn,
                    "the quorum actor did not stop within {STOP_TIMEOUT:?}: its arbiter is busy \
                     or stuck. Until the arbiter continues, the connection to corosync stays open"
                );
            }
        }
    }
}

/// The actor has stopped, so no further change will be published.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[error("the quorum actor has stopped")]
pub struct Stopped;

/// How long [`QuorumHandle::stop`] waits for the actor to stop.
const STOP_TIMEOUT: Duration = Duration::from_millis(800);
