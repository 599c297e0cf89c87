//! What is known about quorum at one moment.

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
    /// Corosync says that it has. The only state that lets anybody through.
    Quorate,
    /// Corosync says that it has not, or has said so and a gain since is held back.
    Inquorate,
    /// Nobody can say: there is no connection to Corosync, no decision yet, or a gain after that is
    /// held back. Not quorate.
    #[default]
    Unknown,
}

impl Quorum {
    /// True for [`Quorum::Quorate`] alone.
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
    /// There is none yet.
    #[non_exhaustive]
    Connecting {
        /// Which attempt is under way or has just failed; the first is 1. While attempts fail for
        /// the same reason only every doubling of this is told.
        attempt: u64,
        /// Why the last attempt failed, if one has.
        error: Option<Error>,
    },
    /// Corosync has accepted us and tells what happens.
    Connected,
    /// Corosync has not answered for as long as the lease: it hangs, or we do. It may be believed
    /// again when it answers.
    Stalled,
    /// There was one. The next attempt follows after a delay.
    #[non_exhaustive]
    Disconnected {
        /// What ended it.
        error: Error,
    },
    /// The actor has stopped, or is gone. Nothing follows.
    Stopped,
}

/// Everything that is known about quorum at one moment.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Snapshot {
    /// Grows by one with each change; zero before the first.
    pub sequence: u64,
    /// Whether there is quorum.
    pub quorum: Quorum,
    /// The connection to Corosync.
    pub connection: Connection,
    /// The current membership; while there is no connection, the last one known. `None` until a
    /// new connection has told.
    pub ring_id: Option<RingId>,
    /// Who is in it, ascending; until a new connection has told, the last ones known.
    pub members: Vec<NodeId>,
    /// Whether the quorum decision is about this membership. It is not while Corosync
    /// synchronises after a membership change, while its ring is re-forming, nor while there is no
    /// connection.
    pub settled: bool,
    /// Whether the ring that the decision is about is known to live.
    pub ring: RingState,
    /// Grows whenever it cannot be vouched for that quorum was held without a break: after a loss
    /// of quorum, a lost connection, a deadline that passed, and when others may have been quorate
    /// without this node.
    pub epoch: u64,
    /// The votes, once votequorum has told them on this connection; `None` where there is none.
    pub votes: Option<Votes>,
    /// Whether the votes were asked for after the last change of membership and decision.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) votes_are_current: bool,
    /// This node, once votequorum has told.
    pub local: Option<NodeId>,
    /// When this became so, by the wall clock.
    #[cfg_attr(feature = "serde", serde(with = "rfc3339"))]
    pub changed_at: SystemTime,
}

/// As `2026-01-31T12:00:00.000Z`.
#[cfg(feature = "serde")]
pub(crate) mod rfc3339 {
    use std::time::{Duration, SystemTime};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(
        time: &SystemTime,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        // It can show no others, and there are none: a clock that is that wrong is shown as zero.
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
    /// A state of a connection that works, as after a decision of this quorum: for tests of what reads
    /// snapshots.
    ///
    /// It is settled, and the ring is operational. There are no votes, `epoch` and `sequence` are zero.
    /// Set the fields that are to differ. Votes that are set count as those of this membership, for
    /// [`has_majority`](Self::has_majority) and [`quorate_without`](Self::quorate_without).
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

    /// A state without a decision, and so without quorum: for tests of what reads snapshots.
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

    /// Whether there would be quorum without these nodes, as the votes are now. Nodes that are no
    /// members make no difference. No tie-breaker is counted upon for those that would be left.
    ///
    /// `None` where the votes of this membership are not known: there is no votequorum, or the
    /// membership or the decision has changed and it was not asked since, which takes some 50 ms.
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
        let mut left = votes.total;
        let mut spared = self.members.iter().filter(|member| nodes.contains(member)).peekable();
        if spared.peek().is_none() {
            return Some(self.quorum.is_quorate());
        }
        for member in spared {
            left = left.saturating_sub(votes.of(*member)?);
        }
        Some(self.quorum.is_quorate() && left >= votes.quorum)
    }

    /// Why there is no quorum, as far as the votes tell.
    pub(crate) fn shortage(&self) -> Option<Shortage<'_>> {
        let votes = self.known_votes().filter(|_| self.quorum == Quorum::Inquorate)?;
        votes.shortage()
    }

    /// The votes, if they are those of this membership and of the decision about it.
    fn known_votes(&self) -> Option<&Votes> {
        self.votes.as_ref().filter(|_| self.votes_are_current && self.settled)
    }

    /// Whether no other partition can be quorate: the members' own votes are a majority of all votes
    /// of the cluster, without those of a quorum device. False while that is not known for this
    /// membership.
    ///
    /// The largest of the highest expected votes and of the votes in the nodelist counts as all.
    /// With `last_man_standing`, `allow_downscale` or a quorum device that is a master, a minority
    /// may become quorate, so then all nodes must be members (`votequorum(5)`).
    pub fn has_majority(&self) -> bool {
        self.votes_are_current
            && self.votes.as_ref().is_some_and(|votes| votes.is_majority(&self.members))
    }

    /// The fencing token of this ring: the sequence of its ring id. It is equal on all members, and
    /// larger on every later ring that has one. `None` unless the ring is quorate and settled, and its
    /// members [hold a majority](Self::has_majority).
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

    /// Whether both say the same, leaving aside when and how often that changed.
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
    /// [`Connecting`](Self::Connecting), for tests.
    pub fn connecting(attempt: u64, error: Option<Error>) -> Self {
        Self::Connecting { attempt, error }
    }

    /// [`Disconnected`](Self::Disconnected), for tests.
    pub fn disconnected(error: Error) -> Self {
        Self::Disconnected { error }
    }

    /// Whether there is one, so that what it tells counts.
    pub(crate) fn is_established(&self) -> bool {
        matches!(self, Self::Connected | Self::Stalled)
    }
}

/// A number that storage can check: it refuses a writer whose token is smaller than the largest that
/// it has seen.
///
/// It is the sequence of a settled, quorate ring whose members hold a majority of all votes. Two such
/// rings share a member, and the sequence that a member has stored only grows (`exec/totemsrp.c`,
/// `memb_ring_id_set`): so the token is equal on all members of a ring, and larger on every later
/// ring that has one. That is void if nodes lose their stored ring sequence (`ringid_*` in Corosync's
/// state directory).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct FencingToken(pub(crate) u64);

impl FencingToken {
    /// The number.
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

/// In decimal.
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

/// The first message to a subscriber: all that is known, as a change from nothing.
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
