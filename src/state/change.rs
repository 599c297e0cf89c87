//! A change of the state, as subscribers receive it.

use std::{fmt, sync::Arc};

use actix::Message;

use crate::{
    libquorum::NodeId,
    state::{Nodes, Snapshot},
};

/// A change of the quorum state. A subscribed actor receives the current state first and then every
/// change, in order.
///
/// The first message after subscribing has [`Cause::Subscribed`] and is a change from an unknown
/// state: `previous` is [`Quorum::Unknown`](crate::Quorum::Unknown) and all members have joined. So
/// an actor starts its work on [`is_gain`](Self::is_gain), ends it on [`is_loss`](Self::is_loss),
/// and starts it again on [`interrupted`](Self::interrupted).
///
/// The next message is sent when this one has been handled. With an asynchronous handler, it is
/// sent when the handler has dropped this message or has ended, so do not hold the message across a
/// long `await`.
///
/// A subscriber that falls more than 1,024 changes behind receives the latest state instead, as one
/// change from the last state that it received; `missed` is the number of skipped changes. Up to
/// that limit it receives every change, even an old one: call
/// [`is_quorate`](crate::QuorumHandle::is_quorate) before acting on a change.
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
    /// The state in the previous message to this subscriber. In its first message, an unknown
    /// state.
    pub previous: Arc<Snapshot>,
    /// The current state.
    pub current: Arc<Snapshot>,
    /// The nodes that have become members since `previous`, ascending.
    pub joined: Nodes,
    /// The members of `previous` that have left since, ascending. A node that left and returned is
    /// in both lists.
    pub left: Nodes,
    /// The reason for the change. If several changes were merged, the reason for the last one.
    pub cause: Cause,
    /// The number of changes between `previous` and `current` that this subscriber did not receive.
    pub missed: u64,
    pub(crate) receipt: AckOnDrop,
}

impl Message for QuorumChanged {
    type Result = ();
}

impl QuorumChanged {
    /// Creates a change between two states, for tests of handlers. `joined` and `left` are derived
    /// from the members; set the other fields as your test requires.
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

    /// Returns the first message to a subscriber, for tests of handlers: a change from an unknown
    /// state, with [`Cause::Subscribed`].
    pub fn subscribed(current: impl Into<Arc<Snapshot>>) -> Self {
        crate::state::first(&current.into())
    }

    /// Returns a clone with this `previous`, which must equal the `previous` of this change.
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

    /// Whether this change is a loss of quorum: `previous` is quorate and `current` is not.
    pub fn is_loss(&self) -> bool {
        self.previous.quorum.is_quorate() && !self.current.quorum.is_quorate()
    }

    /// Whether this change is a gain of quorum: `current` is quorate and `previous` is not.
    pub fn is_gain(&self) -> bool {
        !self.previous.quorum.is_quorate() && self.current.quorum.is_quorate()
    }

    /// Returns the nodes that left and returned, ascending. They are members before and after, but
    /// they may have restarted and lost what they had in memory.
    pub fn rejoined(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.joined.iter().copied().filter(|node| self.left.binary_search(node).is_ok())
    }

    /// Whether the epoch has changed since the previous message to this subscriber, because quorum
    /// may have been interrupted. The state may be quorate both before and after. Always `false`
    /// with [`Cause::Subscribed`].
    pub fn interrupted(&self) -> bool {
        self.cause != Cause::Subscribed && self.previous.epoch != self.current.epoch
    }

    /// Whether the epoch has changed although the state was quorate before and is quorate now.
    pub(crate) fn is_silent_interruption(&self) -> bool {
        let (before, now) = (self.previous.quorum, self.current.quorum);
        self.interrupted() && before.is_quorate() && now.is_quorate()
    }
}

/// The reason for a [`QuorumChanged`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Cause {
    /// No event: this is the first message after subscribing or after
    /// [`resend`](crate::QuorumHandle::resend), with the state at that moment.
    Subscribed,
    /// A connection attempt failed. Published for the first failure, for each new error, and for
    /// each attempt whose number is a power of two.
    ConnectFailed,
    /// Corosync accepted the connection, or answers again after [`Stalled`](Self::Stalled).
    Connected,
    /// The membership changed, or was reported for the first time on this connection.
    Membership,
    /// Corosync decided about quorum, an answer from votequorum changed the quorum of this node, or
    /// a period ended: `settle_grace` passed without a new decision, so the old decision no longer
    /// counts; the ring was not found to be alive in time; a gain has lasted for `stable_after`; or
    /// the lease expired and was renewed before the actor could publish the expiry.
    Quorum,
    /// Votequorum reported the votes for the first time on this connection, or reported different
    /// votes.
    Votes,
    /// A read of the daemon's counters changed what is known about the ring or about the votes in
    /// the nodelist. For example, the ring started to re-form, was found to be alive, or cannot be
    /// watched. See [`Snapshot::ring`].
    Ring,
    /// Corosync has not answered for the length of the lease.
    Stalled,
    /// The connection to Corosync ended.
    Disconnected,
    /// The actor ended.
    Stopped,
}

impl Cause {
    /// Returns the name of the cause in JSON and in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Subscribed => "subscribed",
            Self::ConnectFailed => "connect_failed",
            Self::Connected => "connected",
            Self::Membership => "membership",
            Self::Quorum => "quorum",
            Self::Votes => "votes",
            Self::Ring => "ring",
            Self::Stalled => "stalled",
            Self::Disconnected => "disconnected",
            Self::Stopped => "stopped",
        }
    }
}

/// Receives the acknowledgement of a delivered message.
pub(crate) trait Acknowledge: Send + Sync {
    /// Records that the subscriber has dropped the message with this number.
    fn acknowledge(self: Arc<Self>, message: u64);
}

/// Acknowledges a delivered message when it is dropped. Clones acknowledge nothing.
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

/// Always equal, because the acknowledgement is not part of the message's content.
impl PartialEq for AckOnDrop {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for AckOnDrop {}

impl std::hash::Hash for AckOnDrop {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::{libquorum::RingId, state::Quorum};

    fn state(quorum: Quorum, epoch: u64) -> Snapshot {
        let ring_id = RingId { node_id: NodeId(1), seq: 9 };
        Snapshot { epoch, ..Snapshot::new(quorum, ring_id, [1, 2]) }
    }

    #[test]
    fn a_change_of_the_epoch_is_an_interruption_except_in_the_first_message() {
        let interrupted = |after| {
            let change = QuorumChanged::new(state(Quorum::Quorate, 3), after, Cause::Quorum);
            (change.interrupted(), change.is_silent_interruption())
        };
        assert_eq!(interrupted(state(Quorum::Quorate, 3)), (false, false));
        assert_eq!(interrupted(state(Quorum::Quorate, 4)), (true, true));
        assert_eq!(interrupted(state(Quorum::Inquorate, 4)), (true, false));
        let first = QuorumChanged::subscribed(state(Quorum::Quorate, 3));
        assert!(first.is_gain() && !first.interrupted());
    }

    #[test]
    fn only_a_change_from_or_to_quorate_is_a_loss_or_a_gain() {
        for (before, after, is_loss, is_gain) in [
            (Quorum::Quorate, Quorum::Quorate, false, false),
            (Quorum::Unknown, Quorum::Inquorate, false, false),
            (Quorum::Quorate, Quorum::Unknown, true, false),
            (Quorum::Inquorate, Quorum::Quorate, false, true),
        ] {
            let change = QuorumChanged::new(state(before, 3), state(after, 3), Cause::Quorum);
            assert_eq!((change.is_loss(), change.is_gain()), (is_loss, is_gain), "{change}");
        }
    }

    #[test]
    fn a_clone_of_a_message_is_equal_and_acknowledges_nothing() {
        struct LastAcked(AtomicU64);
        impl Acknowledge for LastAcked {
            fn acknowledge(self: Arc<Self>, message: u64) {
                self.0.store(message, Ordering::Relaxed);
            }
        }
        let receiver = Arc::new(LastAcked(AtomicU64::new(0)));
        let last_acked = || receiver.0.load(Ordering::Relaxed);
        let mut message = QuorumChanged::subscribed(state(Quorum::Quorate, 0));
        message.receipt = AckOnDrop::new(Arc::clone(&receiver) as Arc<dyn Acknowledge>, 5);
        let clone = message.clone();
        assert_eq!(clone, message);
        drop(clone);
        assert_eq!(last_acked(), 0);
        drop(message);
        assert_eq!(last_acked(), 5);
    }
}
