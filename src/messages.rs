use std::{fmt, sync::Arc};

use actix::{Message, Recipient, WeakRecipient};

use crate::{
    Connection, Nodes, Snapshot, Votes,
    libquorum::NodeId,
    registry::{Receipt, Subscriber, SubscriptionId},
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
#[derive(Clone, Debug)]
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
    pub(crate) receipt: Receipt,
}

impl Message for QuorumChanged {
    type Result = ();
}

impl QuorumChanged {
    /// A clone that holds this `previous`, which is the same.
    pub(crate) fn clone_from_previous(&self, previous: Arc<Snapshot>) -> Self {
        Self {
            previous,
            current: Arc::clone(&self.current),
            joined: self.joined.clone(),
            left: self.left.clone(),
            cause: self.cause,
            missed: self.missed,
            receipt: Receipt::default(),
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
    pub(crate) fn left_quorate(&self) -> bool {
        let (before, now) = (self.previous.quorum, self.current.quorum);
        self.interrupted() && before.is_quorate() && now.is_quorate()
    }
}

/// One line for an operator: `inquorate: ring 3.d, members 3; left 1 2 (was quorate, ring 1.9)`.
impl fmt::Display for QuorumChanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (previous, current) = (&*self.previous, &*self.current);
        write!(f, "{current}")?;
        for (what, nodes) in [("joined", &self.joined), ("left", &self.left)] {
            if !nodes.is_empty() && self.cause != Cause::Subscribed {
                write!(f, "; {what}{}", Listed(nodes))?;
            }
        }
        if self.left_quorate() {
            f.write_str("; interrupted")?;
        }
        if let (Cause::Votes, Some(votes)) = (self.cause, &current.votes) {
            let Votes { total, expected, quorum, .. } = votes;
            write!(f, "; votes {total} of {expected}, quorum {quorum}")?;
        }
        if self.missed > 0 {
            write!(f, "; missed {} changes", self.missed)?;
        }
        let quorum = (previous.quorum != current.quorum).then(|| previous.quorum.to_string());
        let ring = match previous.ring_id {
            Some(ring) if previous.ring_id != current.ring_id => Some(format!("ring {ring}")),
            _ => None,
        };
        let was: Vec<String> = quorum.into_iter().chain(ring).collect();
        if was.is_empty() || self.cause == Cause::Subscribed {
            return Ok(());
        }
        write!(f, " (was {})", was.join(", "))
    }
}

/// One line for an operator: `quorate: ring 1.9, members 1 2 3`.
impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.quorum)?;
        let Some(ring) = self.ring_id.filter(|_| self.connection.tells()) else {
            return write!(f, "{}", self.connection);
        };
        if self.connection == Connection::Stalled {
            write!(f, "{}, ", self.connection)?;
        }
        write!(f, "ring {ring}, members{}", Listed(&self.members))?;
        if self.settled { Ok(()) } else { f.write_str(", not settled") }
    }
}

impl fmt::Display for crate::Quorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quorate => "quorate",
            Self::Inquorate => "inquorate",
            Self::Unknown => "unknown",
        })
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting { attempt, error: None } => write!(f, "connecting, attempt {attempt}"),
            Self::Connecting { attempt, error: Some(error) } => {
                write!(f, "connecting, attempt {attempt}: {error}")
            }
            Self::Connected => f.write_str("connected"),
            Self::Stalled => f.write_str("corosync does not answer"),
            Self::Lost { error } => write!(f, "{error}"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

/// A list of nodes, each with a space before it.
struct Listed<'a>(&'a [NodeId]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|node| write!(f, " {node}"))
    }
}

/// What happened to cause a [`QuorumChanged`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Cause {
    /// Nothing: this is the first message after subscribing, with the state at that moment.
    Subscribed,
    /// An attempt to connect failed. Told for the first one, for each new error, and then each
    /// time that the number of attempts has doubled.
    Connecting,
    /// Corosync accepted us, or answers again.
    Connected,
    /// The membership changed, or was told for the first time on this connection.
    Nodelist,
    /// Corosync decided about quorum, or time did: a decision that is overdue is not believed any
    /// more, a gain that was held back is told, a lease ran out unnoticed and is extended.
    Quorum,
    /// Votequorum told other votes.
    Votes,
    /// Corosync has not answered for as long as the lease.
    Stalled,
    /// The connection to Corosync ended.
    Lost,
    /// The actor ended.
    Stopped,
}

/// Subscribes an actor to [`QuorumChanged`], as
/// [`QuorumHandle::subscribe`](crate::QuorumHandle::subscribe) does.
#[derive(Debug)]
pub struct Subscribe(
    /// Who is to be told.
    pub Subscriber,
);

impl Subscribe {
    /// Subscribes `subscriber`.
    pub fn new(subscriber: impl Into<Subscriber>) -> Self {
        Self(subscriber.into())
    }
}

impl From<Recipient<QuorumChanged>> for Subscribe {
    fn from(recipient: Recipient<QuorumChanged>) -> Self {
        Self::new(recipient)
    }
}

impl From<WeakRecipient<QuorumChanged>> for Subscribe {
    fn from(recipient: WeakRecipient<QuorumChanged>) -> Self {
        Self::new(recipient)
    }
}

impl Message for Subscribe {
    type Result = SubscriptionId;
}

/// Ends a subscription, as [`QuorumHandle::unsubscribe`](crate::QuorumHandle::unsubscribe) does;
/// answers whether there was one.
#[derive(Clone, Copy, Debug)]
pub struct Unsubscribe(
    /// Which subscription to end.
    pub SubscriptionId,
);

impl Message for Unsubscribe {
    type Result = bool;
}

/// Asks for what was last published, as [`QuorumHandle::snapshot`](crate::QuorumHandle::snapshot)
/// tells without waiting for the actor.
#[derive(Clone, Copy, Debug)]
pub struct GetSnapshot;

impl Message for GetSnapshot {
    type Result = Arc<Snapshot>;
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::{
        Code, Error,
        lease::Moment,
        libquorum::{Notification, RingId},
        state::{Event, Now, Rules, Tracker, first},
    };

    const NOW: Now = Now { wall: SystemTime::UNIX_EPOCH, moment: Moment::BEGINNING };

    fn tracker() -> Tracker {
        let second = Duration::from_secs(1);
        let rules = Rules { lease: second, settle_grace: second, stable_after: Duration::ZERO };
        Tracker::new(rules, NOW.wall)
    }

    fn told(events: impl IntoIterator<Item = Event>) -> (Tracker, Vec<String>) {
        let mut tracker = tracker();
        let changes = events
            .into_iter()
            .filter_map(|event| tracker.apply(event, NOW))
            .map(|change| change.to_string())
            .collect();
        (tracker, changes)
    }

    fn ring(node: u32, seq: u64) -> RingId {
        RingId { node_id: NodeId(node), seq }
    }

    fn ids(nodes: &[u32]) -> Vec<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    fn partition() -> [Event; 6] {
        let nodelist = |ring_id, members: &[u32], left: &[u32]| {
            Event::Notified(Notification::Nodelist {
                ring_id,
                members: ids(members),
                joined: Vec::new(),
                left: ids(left),
            })
        };
        let quorum = |quorate, ring_id| {
            Event::Notified(Notification::Quorum { quorate, ring_id, members: Vec::new() })
        };
        [
            Event::Connected { has_provider: true, asked_at: NOW.moment },
            nodelist(ring(1, 9), &[1, 2, 3], &[]),
            quorum(true, ring(1, 9)),
            nodelist(ring(3, 13), &[3], &[1, 2]),
            quorum(false, ring(3, 13)),
            Event::Lost(Error::Dispatch(Code::LIBRARY)),
        ]
    }

    #[test]
    fn each_change_is_one_line_for_an_operator() {
        let (_, changes) = told(partition());
        assert_eq!(
            changes,
            [
                "unknown: connected",
                "unknown: ring 1.9, members 1 2 3, not settled; joined 1 2 3",
                "quorate: ring 1.9, members 1 2 3 (was unknown)",
                "quorate: ring 3.d, members 3, not settled; left 1 2 (was ring 1.9)",
                "inquorate: ring 3.d, members 3 (was quorate)",
                "unknown: connection to corosync lost: CS_ERR_LIBRARY (2); corosync has stopped, \
                 died or closed the connection (was inquorate)",
            ]
        );
    }

    #[test]
    fn missed_changes_are_one_line_too() {
        let mut tracker = tracker();
        let mut departures = crate::state::Departures::default();
        let changes: Vec<_> = partition()
            .into_iter()
            .filter_map(|event| tracker.apply(event, NOW))
            .inspect(|change| departures.note(change))
            .collect();
        let conflated = departures.conflate(&changes[2].current, &changes[4]);
        assert_eq!(
            conflated.to_string(),
            "inquorate: ring 3.d, members 3; left 1 2; missed 1 changes (was quorate, ring 1.9)"
        );
    }

    #[test]
    fn the_first_message_tells_the_state_as_a_gain_from_nothing() {
        let (tracker, _) = told(partition().into_iter().take(3));
        let change = first(tracker.current());
        assert_eq!(change.to_string(), "quorate: ring 1.9, members 1 2 3");
        assert!(change.is_gain() && !change.interrupted());
    }
}
