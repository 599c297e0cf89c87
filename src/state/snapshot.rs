//! The state of quorum at one moment.

use std::{fmt, sync::Arc, time::SystemTime};

use super::RingState;
use crate::{
    error::Error,
    libquorum::{NodeId, RingId, Votes},
    state::{AckOnDrop, Cause, Nodes, QuorumChanged, votes::Shortage},
};

/// Whether this node's partition of the cluster has quorum.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
pub enum Quorum {
    /// Corosync reports quorum. This is the only state in which guards are granted.
    Quorate,
    /// Corosync reports that there is no quorum, or
    /// [`trust_two_node(false)`](crate::QuorumBuilder::trust_two_node) does not accept the reported
    /// quorum. The state also stays `Inquorate` while
    /// [`stable_after`](crate::QuorumBuilder::stable_after) delays a gain of quorum.
    Inquorate,
    /// The state is not known: there is no connection to Corosync, no reported decision can be
    /// trusted yet, or a deadline has passed. The state also stays `Unknown` while
    /// [`stable_after`](crate::QuorumBuilder::stable_after) delays a gain of quorum. `Unknown`
    /// never counts as quorate.
    #[default]
    Unknown,
}

impl Quorum {
    /// Returns `true` only for [`Quorum::Quorate`].
    pub fn is_quorate(self) -> bool {
        self == Self::Quorate
    }
}

/// The connection to Corosync on this node. It says nothing about the cluster.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase", tag = "state")
)]
#[non_exhaustive]
pub enum Connection {
    /// There is no connection: an attempt to connect is running, or has failed and will be
    /// repeated.
    #[non_exhaustive]
    Connecting {
        /// The number of the attempt that is running or has just failed; the first one is 1. While
        /// attempts fail for the same reason, a change is published only when this number is a
        /// power of two.
        attempt: u64,
        /// The error of the last attempt, if one has failed.
        error: Option<Error>,
    },
    /// Corosync has accepted the connection and reports changes.
    Connected,
    /// Corosync has not answered for the length of the lease: Corosync or this process is hung.
    /// Quorum is unknown until Corosync answers again.
    Stalled,
    /// The connection has ended. The next attempt follows after a delay.
    #[non_exhaustive]
    Disconnected {
        /// The error that ended the connection.
        error: Error,
    },
    /// The actor has stopped or was dropped. No further change follows.
    Stopped,
}

/// Everything that is known about quorum at one moment.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Snapshot {
    /// The number of this state. It grows by one with each change; zero is the state before the
    /// first change.
    pub sequence: u64,
    /// Whether this node has quorum.
    pub quorum: Quorum,
    /// The connection to Corosync.
    pub connection: Connection,
    /// The current ring. Without a connection, the last known ring. `None` before the first
    /// connection, and on a connection that has not reported a ring yet.
    pub ring_id: Option<RingId>,
    /// The members of the ring, ascending. Without a connection, and until a new connection has
    /// reported its members, the last known members.
    pub members: Vec<NodeId>,
    /// Whether the quorum decision is about this membership. `false` while Corosync is
    /// synchronising after a membership change, while its ring is re-forming, and without a
    /// connection.
    pub settled: bool,
    /// Whether there is recent evidence that the ring of the decision is alive.
    pub ring: RingState,
    /// The number of the current period of unbroken quorum. It grows whenever quorum may have been
    /// interrupted: after a loss of quorum, a lost connection or an expired deadline, and when
    /// other nodes may have been quorate without this node.
    pub epoch: u64,
    /// The votes, once votequorum has reported them on this connection. `None` without votequorum.
    pub votes: Option<Votes>,
    /// Whether the votes were requested after the last report of a membership or a decision.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) votes_are_current: bool,
    /// The id of this node, once votequorum has reported it.
    pub local: Option<NodeId>,
    /// When this state began, by the wall clock.
    #[cfg_attr(feature = "serde", serde(with = "rfc3339"))]
    pub changed_at: SystemTime,
}

/// Formats a time as `2026-01-31T12:00:00.000Z`.
#[cfg(feature = "serde")]
pub(crate) mod rfc3339 {
    use std::time::{Duration, SystemTime};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(
        time: &SystemTime,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        // The format ends at the year 9999. A time outside its range is shown as the Unix epoch.
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
        let is_shown = (SystemTime::UNIX_EPOCH..far).contains(time);
        let time = if is_shown { *time } else { SystemTime::UNIX_EPOCH };
        serializer.collect_str(&humantime::format_rfc3339_millis(time))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<SystemTime, D::Error> {
        humantime::parse_rfc3339(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Snapshot {
    /// Returns a state with a working connection and the given quorum, for tests of code that reads
    /// snapshots.
    ///
    /// The state is settled and the ring is operational. There are no votes; `epoch` and `sequence`
    /// are zero. Set the other fields as your test requires. If you set `votes`,
    /// [`has_majority`](Self::has_majority) and [`quorate_without`](Self::quorate_without) treat
    /// them as the votes of this membership.
    ///
    /// ```
    /// use actix_quorum::{NodeId, Quorum, Snapshot, VoteFlags, Votes};
    ///
    /// let mut now = Snapshot::new(Quorum::Quorate, "1.2a".parse()?, [1, 2]);
    /// assert_eq!(now.to_string(), "quorate: ring 1.2a, members 1 2");
    ///
    /// let mut votes = Votes::default();
    /// (votes.expected, votes.total, votes.quorum) = (3, 2, 2);
    /// (votes.members, votes.flags) = ([1, 2].map(|n| (NodeId(n), 1)).into(), VoteFlags::QUORATE);
    /// now.votes = Some(votes);
    /// assert_eq!(now.quorate_without(&[NodeId(2)]), Some(false));
    /// # Ok::<(), actix_quorum::ParseRingIdError>(())
    /// ```
    pub fn new<N: Into<NodeId>>(
        quorum: Quorum,
        ring_id: RingId,
        members: impl IntoIterator<Item = N>,
    ) -> Self {
        let members: Nodes = members.into_iter().map(Into::into).collect();
        Self {
            quorum,
            connection: Connection::Connected,
            ring_id: Some(ring_id),
            members: members.to_vec(),
            settled: true,
            ring: RingState::Operational,
            votes_are_current: true,
            ..Self::before_anything(SystemTime::now())
        }
    }

    /// Returns a state without a decision, and so without quorum, for tests of code that reads
    /// snapshots.
    ///
    /// ```
    /// use actix_quorum::{Code, Connection, Error, Snapshot};
    ///
    /// let error = Error::Connect(Code::LIBRARY);
    /// let now = Snapshot::without_quorum(Connection::connecting(1, Some(error)));
    /// assert!(now.to_string().starts_with("unknown: connecting, attempt 1"));
    /// ```
    pub fn without_quorum(connection: Connection) -> Self {
        Self { connection, ..Self::before_anything(SystemTime::now()) }
    }

    /// Whether this node would still have quorum without `nodes`, given the current votes.
    ///
    /// Nodes that are not members make no difference. The result does not take a tie-breaker into
    /// account.
    ///
    /// Returns `None` if the votes of this membership are not known: there is no votequorum,
    /// Corosync has not decided about this membership yet, or the votes have not been requested
    /// since the membership or the decision changed. The actor requests them about 50 ms after such
    /// a change.
    ///
    /// ```
    /// use actix_quorum::{NodeId, QuorumActor, Snapshot, sim::Cluster};
    /// # #[actix::main]
    /// # async fn main() -> Result<(), actix_quorum::Stopped> {
    /// # let quorum = QuorumActor::builder().source(Cluster::new(3).node(1)).start();
    ///
    /// let are_known = |now: &Snapshot| now.quorate_without(&[]) == Some(true);
    /// let now = quorum.wait_for(are_known).await?;
    /// assert_eq!(now.quorate_without(&[NodeId(3)]), Some(true));
    /// assert_eq!(now.quorate_without(&[NodeId(2), NodeId(3)]), Some(false));
    /// # quorum.stop().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn quorate_without(&self, nodes: &[NodeId]) -> Option<bool> {
        let votes = self.known_votes()?;
        let mut remaining = votes.total;
        let mut removed = self.members.iter().filter(|member| nodes.contains(member)).peekable();
        if removed.peek().is_none() {
            return Some(self.quorum.is_quorate());
        }
        for member in removed {
            remaining = remaining.saturating_sub(votes.of(*member)?);
        }
        Some(self.quorum.is_quorate() && remaining >= votes.quorum)
    }

    /// Returns why this node has no quorum, if the votes show the reason.
    pub(crate) fn shortage(&self) -> Option<Shortage<'_>> {
        let votes = self.known_votes().filter(|_| self.quorum == Quorum::Inquorate)?;
        votes.shortage()
    }

    /// Returns the votes if they belong to this membership and to the decision about it.
    fn known_votes(&self) -> Option<&Votes> {
        self.votes.as_ref().filter(|_| self.votes_are_current && self.settled)
    }

    /// Whether no other partition can be quorate, because the members' own votes are a majority of
    /// all votes of the cluster. The votes of a quorum device are not included. Returns `false` if
    /// the votes of this membership are not known.
    ///
    /// "All votes" is the largest of these numbers: the expected votes, the highest expected votes,
    /// the total votes and the votes in the nodelist. With `last_man_standing`, `allow_downscale`
    /// or a quorum device with `master_wins`, a minority may become quorate, so the members and the
    /// quorum device must together hold all votes (`votequorum(5)`).
    pub fn has_majority(&self) -> bool {
        self.votes_are_current
            && self.votes.as_ref().is_some_and(|votes| votes.is_majority(&self.members))
    }

    /// Returns the fencing token of this ring: the sequence number in its ring id.
    ///
    /// The token is equal on all members, and larger on every later ring that has a token. Returns
    /// `None` unless the state is quorate and settled and the members [hold a
    /// majority](Self::has_majority).
    pub fn fencing_token(&self) -> Option<FencingToken> {
        let ring_id = self.ring_id.filter(|_| self.quorum.is_quorate() && self.settled)?;
        self.has_majority().then_some(FencingToken(ring_id.seq))
    }

    pub(crate) fn before_anything(at: SystemTime) -> Self {
        Self {
            sequence: 0,
            quorum: Quorum::Unknown,
            connection: Connection::Connecting { attempt: 1, error: None },
            ring_id: None,
            members: Vec::new(),
            settled: false,
            ring: RingState::Unknown,
            epoch: 0,
            votes: None,
            votes_are_current: false,
            local: None,
            changed_at: at,
        }
    }

    /// Whether the two states are equal except for `sequence` and `changed_at`.
    pub(super) fn same_state(&self, other: &Self) -> bool {
        self.quorum == other.quorum
            && self.connection == other.connection
            && self.ring_id == other.ring_id
            && self.members == other.members
            && self.settled == other.settled
            && self.ring == other.ring
            && self.epoch == other.epoch
            && self.votes == other.votes
            && self.votes_are_current == other.votes_are_current
            && self.local == other.local
    }
}

impl Connection {
    /// Returns [`Connecting`](Self::Connecting), for tests.
    pub fn connecting(attempt: u64, error: Option<Error>) -> Self {
        Self::Connecting { attempt, error }
    }

    /// Returns [`Disconnected`](Self::Disconnected), for tests.
    pub fn disconnected(error: Error) -> Self {
        Self::Disconnected { error }
    }

    /// Whether a connection exists, so that its events are applied.
    pub(crate) fn is_established(&self) -> bool {
        matches!(self, Self::Connected | Self::Stalled)
    }
}

/// A number with which storage can reject stale writers: the storage refuses a writer whose token
/// is smaller than the largest token that the storage has received.
///
/// The token is the sequence number of a settled, quorate ring whose members hold a majority of all
/// votes. Two such rings share a member, and the sequence number that a member stores only grows
/// (`exec/totemsrp.c`, `memb_ring_id_set`). So the token is equal on all members of a ring, and
/// larger on every later ring that has a token. This does not hold if nodes lose their stored ring
/// sequence (`ringid_*` in Corosync's state directory).
///
/// ```
/// use actix_quorum::FencingToken;
///
/// /// Storage that refuses a writer of an older ring.
/// #[derive(Default)]
/// struct Storage {
///     largest: Option<FencingToken>,
///     value: String,
/// }
///
/// impl Storage {
///     fn write(&mut self, token: FencingToken, value: &str) -> bool {
///         let accepted = self.largest.is_none_or(|largest| token >= largest);
///         if accepted {
///             (self.largest, self.value) = (Some(token), value.to_owned());
///         }
///         accepted
///     }
/// }
///
/// let mut storage = Storage::default();
/// assert!(storage.write(9.into(), "from a later ring"));
/// assert!(!storage.write(5.into(), "too late"));
/// ```
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct FencingToken(pub(crate) u64);

impl FencingToken {
    /// Returns the token as a number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl From<FencingToken> for u64 {
    fn from(token: FencingToken) -> Self {
        token.0
    }
}

impl From<u64> for FencingToken {
    fn from(token: u64) -> Self {
        Self(token)
    }
}

/// Formats the token in decimal.
impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::str::FromStr for FencingToken {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// Returns the first message to a subscriber: the current state, as a change from an unknown state.
pub(crate) fn first(current: &Arc<Snapshot>) -> QuorumChanged {
    QuorumChanged {
        previous: Arc::new(Snapshot::before_anything(current.changed_at)),
        current: Arc::clone(current),
        joined: Nodes::ascending(&current.members),
        left: Nodes::default(),
        cause: Cause::Subscribed,
        missed: 0,
        receipt: AckOnDrop::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a quorate state of three nodes with one vote each.
    fn quorate() -> Snapshot {
        let ring_id = RingId { node_id: NodeId(1), seq: 9 };
        let mut snapshot = Snapshot::new(Quorum::Quorate, ring_id, [1, 2, 3]);
        snapshot.votes = Some(Votes {
            members: [1, 2, 3].map(|node| (NodeId(node), 1)).into(),
            total: 3,
            expected: 3,
            quorum: 2,
            ..Votes::default()
        });
        snapshot
    }

    #[test]
    fn only_a_settled_quorate_majority_has_a_fencing_token() {
        let token = quorate().fencing_token().unwrap();
        assert_eq!((token, token.get(), u64::from(token)), (FencingToken::from(9), 9, 9));
        assert_eq!(token.to_string().parse(), Ok(token));
        for change in [
            (|now| now.settled = false) as fn(&mut Snapshot),
            |now| now.quorum = Quorum::Inquorate,
            |now| now.ring_id = None,
            |now| now.votes_are_current = false,
            |now| now.votes.as_mut().unwrap().expected = 6,
        ] {
            let mut now = quorate();
            change(&mut now);
            assert_eq!(now.fencing_token(), None, "a token of {now:?}");
        }
    }

    #[test]
    fn the_votes_show_whether_quorum_survives_without_some_nodes() {
        let without = |now: &Snapshot, nodes: &[u32]| {
            now.quorate_without(&nodes.iter().copied().map(NodeId).collect::<Vec<_>>())
        };
        let mut now = quorate();
        assert_eq!(without(&now, &[]), Some(true));
        assert_eq!(without(&now, &[1]), Some(true));
        assert_eq!(without(&now, &[1, 2]), Some(false));
        assert_eq!(without(&now, &[4, 5]), Some(true), "these nodes are not members");
        now.quorum = Quorum::Inquorate;
        assert_eq!((without(&now, &[]), without(&now, &[1])), (Some(false), Some(false)));
        now.settled = false;
        assert_eq!(without(&now, &[1]), None, "the votes are those of another membership");
        (now.settled, now.votes_are_current) = (true, false);
        assert_eq!(without(&now, &[1]), None, "the votes may be old");
    }

    #[test]
    fn only_an_inquorate_state_has_a_reason_for_missing_quorum() {
        let mut now = quorate();
        now.votes.as_mut().unwrap().total = 1;
        for (quorum, is_short) in
            [(Quorum::Quorate, false), (Quorum::Unknown, false), (Quorum::Inquorate, true)]
        {
            now.quorum = quorum;
            assert_eq!(now.shortage().is_some(), is_short, "a state that is {quorum}");
        }
    }

    #[test]
    fn a_state_without_quorum_has_the_given_connection_and_nothing_else() {
        let now = Snapshot::without_quorum(Connection::Stalled);
        let nothing = Snapshot::before_anything(now.changed_at);
        assert_eq!(now, Snapshot { connection: Connection::Stalled, ..nothing });
    }

    #[cfg(feature = "serde")]
    #[test]
    fn a_time_that_rfc_3339_cannot_express_is_the_unix_epoch_in_json() {
        use std::time::Duration;

        let in_json = |changed_at| serde_json::to_value(Snapshot { changed_at, ..quorate() });
        let after = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for (time, shown) in [
            (after(1), "1970-01-01T00:00:01.000Z"),
            (after(253_402_300_798), "9999-12-31T23:59:58.000Z"),
            (after(253_402_300_800), "1970-01-01T00:00:00.000Z"),
            (SystemTime::UNIX_EPOCH - Duration::from_secs(1), "1970-01-01T00:00:00.000Z"),
        ] {
            let json = in_json(time).unwrap();
            assert_eq!(json["changed_at"], shown);
            let read: Snapshot = serde_json::from_value(json).unwrap();
            assert_eq!(humantime::format_rfc3339_millis(read.changed_at).to_string(), shown);
        }
    }
}
