use std::{cmp::Ordering, fmt, num::ParseIntError, str::FromStr};

/// A node's id in `corosync.conf`, shown as a decimal number.
///
/// ```
/// use actix_quorum::NodeId;
///
/// let node: NodeId = "3".parse()?;
/// assert_eq!(node, NodeId(3));
/// # Ok::<(), std::num::ParseIntError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct NodeId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl From<u32> for NodeId {
    fn from(id: u32) -> Self {
        Self(id)
    }
}

impl From<NodeId> for u32 {
    fn from(node: NodeId) -> Self {
        node.0
    }
}

/// Parses a decimal number.
impl FromStr for NodeId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}

/// Identifies one membership of the cluster by the node that formed it and an increasing number.
///
/// Shown in hexadecimal, as Corosync shows it: `1.2a` (`CS_PRI_RING_ID` in `corotypes.h`), or `2a`
/// if the node is not known.
///
/// Ordered by the number first: of two rings that a node was in, the later one is larger.
///
/// ```
/// use actix_quorum::{NodeId, RingId};
///
/// let ring: RingId = "1.2a".parse()?;
/// assert_eq!(ring, RingId { node_id: NodeId(1), seq: 42 });
/// assert_eq!(ring.to_string(), "1.2a");
/// # Ok::<(), actix_quorum::ParseRingIdError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct RingId {
    /// The representative of the membership. Zero if the daemon does not report it, as in model V0.
    pub node_id: NodeId,
    /// The number of the membership. A later membership of a cluster has a larger number.
    pub seq: u64,
}

impl Ord for RingId {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.seq, self.node_id).cmp(&(other.seq, other.node_id))
    }
}

impl PartialOrd for RingId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for RingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.node_id {
            NodeId(0) => write!(f, "{:x}", self.seq),
            NodeId(id) => write!(f, "{id:x}.{:x}", self.seq),
        }
    }
}

/// Parses the form in which a ring id is shown.
impl FromStr for RingId {
    type Err = ParseRingIdError;

    fn from_str(text: &str) -> Result<Self, ParseRingIdError> {
        let (node_id, seq) = text.split_once('.').unwrap_or(("0", text));
        // `from_str_radix` accepts a sign.
        if text.contains('+') {
            return Err(ParseRingIdError { source: None });
        }
        let failed = |error| ParseRingIdError { source: Some(error) };
        let node_id = u32::from_str_radix(node_id, 16).map_err(failed)?;
        let seq = u64::from_str_radix(seq, 16).map_err(failed)?;
        Ok(Self { node_id: NodeId(node_id), seq })
    }
}

/// The text is not a [`RingId`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "invalid ring id: expected a node id and a number, both in hexadecimal, such as `1.2a`, or \
     only the number"
)]
pub struct ParseRingIdError {
    source: Option<ParseIntError>,
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for RingId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for RingId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A notification from libquorum: the copied arguments of one callback.
///
/// On a membership change, Corosync sends the nodelist first and the quorum decision later, usually
/// after milliseconds. A quorum device can delay the decision by its `sync_timeout`, 30 s by
/// default. On a change of quorum without a membership change, Corosync sends only the decision
/// (`quorum_model_initialize(3)`, `exec/vsf_quorum.c`).
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Notification {
    /// The membership changed, or is reported for the first time. Model V1 only.
    #[non_exhaustive]
    Nodelist {
        /// The new membership.
        ring_id: RingId,
        /// The members, in Corosync's order.
        members: Vec<NodeId>,
        /// The members that have joined since the previous membership. Empty in the first
        /// notification after [`track_start`](super::Handle::track_start).
        joined: Vec<NodeId>,
        /// The nodes that have left the previous membership. A node that restarted before the other
        /// nodes noticed is in both lists.
        left: Vec<NodeId>,
    },
    /// The quorum decision, whether or not it differs from the previous one.
    #[non_exhaustive]
    Quorum {
        /// Whether this partition of the cluster has quorum.
        quorate: bool,
        /// The membership that the decision is about.
        ring_id: RingId,
        /// The members, in Corosync's order.
        members: Vec<NodeId>,
    },
}

impl Notification {
    /// Returns a nodelist notification, for tests of handlers.
    pub fn nodelist(
        ring_id: RingId,
        members: Vec<NodeId>,
        joined: Vec<NodeId>,
        left: Vec<NodeId>,
    ) -> Self {
        Self::Nodelist { ring_id, members, joined, left }
    }

    /// Returns a quorum decision, for tests of handlers.
    pub fn quorum(quorate: bool, ring_id: RingId, members: Vec<NodeId>) -> Self {
        Self::Quorum { quorate, ring_id, members }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_shown_as_corosync_shows_them() {
        assert_eq!(NodeId(42).to_string(), "42");
        assert_eq!(RingId { node_id: NodeId(1), seq: 0x2a }.to_string(), "1.2a");
        assert_eq!(RingId { node_id: NodeId(26), seq: 1 }.to_string(), "1a.1");
        assert_eq!(RingId { node_id: NodeId(0), seq: 0x2a }.to_string(), "2a");
    }

    #[test]
    fn ids_are_parsed_as_they_are_shown() {
        assert_eq!("42".parse(), Ok(NodeId(42)));
        assert!("2a".parse::<NodeId>().is_err());
        let rings = [(1, 0x2a), (26, 1), (0, 0x2a), (u32::MAX, u64::MAX)];
        for (node, seq) in rings {
            let ring = RingId { node_id: NodeId(node), seq };
            assert_eq!(ring.to_string().parse(), Ok(ring));
        }
        for text in ["", ".", "1.", ".2", "1.2.3", "1.g", "+1.2", "1.+2", "100000000.1", " 1.2"] {
            let error = text.parse::<RingId>().unwrap_err();
            assert!(error.to_string().contains("`1.2a`"), "{text}");
        }
    }

    #[test]
    fn a_later_ring_is_larger_whichever_node_formed_it() {
        let ring = |node: u32, seq| RingId { node_id: NodeId(node), seq };
        assert!(ring(2, 9) < ring(1, 13));
        assert!(ring(1, 9) < ring(2, 9));
        assert_eq!(ring(1, 9).cmp(&ring(1, 9)), Ordering::Equal);
    }
}
