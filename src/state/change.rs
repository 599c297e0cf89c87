//! A change of the state, as subscribers receive it.

use std::{fmt, sync::Arc};

use actix::Message;

use crate::{
    libquorum::NodeId,
    state::{Nodes, Snapshot},
};

/// What a subscribed actor is sent: the current state first, then every change, in order.
///
/// The first message after subscribing has [`Cause::Subscribed`] and is told as a change from
/// nothing known: `previous` is [`Quorum::Unknown`](crate::Quorum::Unknown) and all members have
/// joined. So an actor begins its work on [`is_gain`](Self::is_gain), ends it on
/// [`is_loss`](Self::is_loss), and begins anew on [`interrupted`](Self::interrupted).
///
/// It is sent the next one when it has handled this one. If its handler is asynchronous that is when
/// it has let go of the message, or has ended: do not keep the message over a long wait.
///
/// A subscriber that falls behind by more changes than are kept (1024) is sent the latest state
/// instead, as one change from the last one it saw; `missed` says how many were left out. Until then
/// it is sent each, however old: ask [`is_quorate`](crate::QuorumHandle::is_quorate) before acting
/// on one.
///
/// ```
/// use actix_quorum::QuorumChanged;
///
/// fn react(change: &QuorumChanged) {
///     if change.is_loss() {
///         println!("stop: {change}");
///     } else if change.is_gain() || change.interrupted() {
///         println!("begin in epoch {}: {change}", change.current.epoch);
///     }
///     for node in change.rejoined() {
///         println!("node {node} may have restarted");
///     }
/// }
/// ```
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub struct QuorumChanged {
    /// What this subscriber was told before.
    pub previous: Arc<Snapshot>,
    /// What is true now.
    pub current: Arc<Snapshot>,
    /// Who became a member since `previous`, ascending.
    pub joined: Nodes,
    /// Who was a member in `previous` and has left since, ascending. A node that left and came
    /// back is in both.
    pub left: Nodes,
    /// What happened; of several changes, the last.
    pub cause: Cause,
    /// How many changes between `previous` and `current` this subscriber was not sent.
    pub missed: u64,
    pub(crate) receipt: AckOnDrop,
}

impl Message for QuorumChanged {
    type Result = ();
}

impl QuorumChanged {
    /// A change from one state to another, for tests of what handles it. `joined` and `left` are those
    /// of the members; set the fields that are to differ.
    ///
    /// ```
    /// use actix_quorum::{Cause, Quorum, QuorumChanged, Snapshot};
    ///
    /// let before = Snapshot::new(Quorum::Quorate, "1.9".parse()?, [1, 2, 3]);
    /// let after = Snapshot::new(Quorum::Inquorate, "3.d".parse()?, [3]);
    /// let change = QuorumChanged::new(before, after, Cause::Quorum);
    /// assert!(change.is_loss());
    /// assert_eq!(change.left.to_string(), "1 2");
    /// # Ok::<(), actix_quorum::ParseRingIdError>(())
    /// ```
    pub fn new(
        previous: impl Into<Arc<Snapshot>>,
        current: impl Into<Arc<Snapshot>>,
        cause: Cause,
    ) -> Self {
        let (previous, current) = (previous.into(), current.into());
        let without = |these: &[NodeId], others: &[NodeId]| -> Nodes {
            these.iter().copied().filter(|node| !others.contains(node)).collect()
        };
        let joined = without(&current.members, &previous.members);
        let left = without(&previous.members, &current.members);
        Self { previous, current, joined, left, cause, missed: 0, receipt: AckOnDrop::default() }
    }

    /// The first message to a subscriber, for tests of what handles it: [`Cause::Subscribed`], as a
    /// change from nothing known.
    pub fn subscribed(current: impl Into<Arc<Snapshot>>) -> Self {
        crate::state::first(&current.into())
    }

    /// A clone that holds this `previous`, which is the same.
    pub(crate) fn clone_from_previous(&self, previous: Arc<Snapshot>) -> Self {
        Self {
            previous,
            current: Arc::clone(&self.current),
            joined: self.joined.clone(),
            left: self.left.clone(),
            cause: self.cause,
            missed: self.missed,
            receipt: AckOnDrop::default(),
        }
    }

    /// Whether quorum was lost: `previous` was quorate and `current` is not.
    pub fn is_loss(&self) -> bool {
        self.previous.quorum.is_quorate() && !self.current.quorum.is_quorate()
    }

    /// Whether quorum was gained: `current` is quorate and `previous` was not.
    pub fn is_gain(&self) -> bool {
        !self.previous.quorum.is_quorate() && self.current.quorum.is_quorate()
    }

    /// The nodes that left and came back, ascending: they may have restarted, and lost what they
    /// had in memory, though they are members before and after.
    pub fn rejoined(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.joined.iter().copied().filter(|node| self.left.binary_search(node).is_ok())
    }

    /// Whether quorum cannot be vouched for without a break since this subscriber's last message:
    /// the epoch has moved. It may be quorate before and after all the same.
    pub fn interrupted(&self) -> bool {
        self.cause != Cause::Subscribed && self.previous.epoch != self.current.epoch
    }

    /// Whether this is an interruption that is neither a loss nor a gain.
    pub(crate) fn is_silent_interruption(&self) -> bool {
        let (before, now) = (self.previous.quorum, self.current.quorum);
        self.interrupted() && before.is_quorate() && now.is_quorate()
    }
}

/// What happened to cause a [`QuorumChanged`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Cause {
    /// Nothing: this is the first message after subscribing, with the state at that moment.
    Subscribed,
    /// An attempt to connect failed. Told for the first one, for each new error, and then each
    /// time that the number of attempts has doubled.
    ConnectFailed,
    /// Corosync accepted us, or answers again.
    Connected,
    /// The membership changed, or was told for the first time on this connection.
    Membership,
    /// Corosync decided about quorum, or time did: a decision that is overdue is not believed any
    /// more, a gain that was held back is told, a lease ran out unnoticed and is extended.
    Quorum,
    /// Votequorum told other votes.
    Votes,
    /// The ring is re-forming, was seen to live, or was not seen to live in time: see
    /// [`Snapshot::ring`].
    Ring,
    /// Corosync has not answered for as long as the lease.
    Stalled,
    /// The connection to Corosync ended.
    Disconnected,
    /// The actor ended.
    Stopped,
}

/// Receives the acknowledgement of a delivered message.
pub(crate) trait Acknowledge: Send + Sync {
    /// The subscriber has dropped the message with this number.
    fn acknowledge(self: Arc<Self>, message: u64);
}

/// Acknowledges a delivered message when it is dropped. A clone acknowledges nothing.
#[derive(Default)]
pub(crate) struct AckOnDrop(Option<(Arc<dyn Acknowledge>, u64)>);

impl AckOnDrop {
    pub(crate) fn new(acknowledge: Arc<dyn Acknowledge>, message: u64) -> Self {
        Self(Some((acknowledge, message)))
    }
}

impl Clone for AckOnDrop {
    fn clone(&self) -> Self {
        Self(None)
    }
}

impl Drop for AckOnDrop {
    fn drop(&mut self) {
        if let Some((acknowledge, message)) = self.0.take() {
            acknowledge.acknowledge(message);
        }
    }
}

impl fmt::Debug for AckOnDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AckOnDrop")
    }
}

/// It is no part of what the message says.
impl PartialEq for AckOnDrop {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for AckOnDrop {}

impl std::hash::Hash for AckOnDrop {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}
