use std::{cmp::Ordering, fmt};

/// A node's id in `corosync.conf`, shown as a decimal number.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(transparent))]
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

/// Names one membership of the cluster: the node that formed it and a number that grows.
///
/// Shown as Corosync shows it, in hexadecimal: `1.2a` (`CS_PRI_RING_ID` in `corotypes.h`); `2a` where
/// the node is not known.
///
/// Ordered by the number first: of two rings that a node was in, the later one is the larger.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct RingId {
    /// The representative of the membership. Zero where the daemon does not tell, as in model V0.
    pub node_id: NodeId,
    /// The number of the membership; later memberships of a cluster have larger ones.
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

#[cfg(feature = "serde")]
impl serde::Serialize for RingId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What libquorum delivers: one call of one of its callbacks, with everything copied.
///
/// On a membership change Corosync sends the nodelist first and the quorum decision after it;
/// the decision may take as long as a quorum device does. A flip of quorum without a membership
/// change is a quorum notification alone (`quorum_model_initialize(3)`, `exec/vsf_quorum.c`).
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Notification {
    /// The membership changed, or is told for the first time. Model V1 only.
    Nodelist {
        /// The new membership.
        ring_id: RingId,
        /// Who is in it, in Corosync's order.
        members: Vec<NodeId>,
        /// Who was not in the membership before. Empty in the first one after
        /// [`track_start`](super::Handle::track_start).
        joined: Vec<NodeId>,
        /// Who was in the membership before. A node that restarted before anybody noticed is in
        /// both lists.
        left: Vec<NodeId>,
    },
    /// The quorum decision, whether or not it differs from the one before.
    Quorum {
        /// Whether this partition of the cluster has quorum.
        quorate: bool,
        /// The membership that was decided upon.
        ring_id: RingId,
        /// Who was in it, in Corosync's order.
        members: Vec<NodeId>,
    },
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
    fn a_later_ring_is_the_larger_one_whoever_formed_it() {
        let ring = |node: u32, seq| RingId { node_id: NodeId(node), seq };
        assert!(ring(2, 9) < ring(1, 13));
        assert!(ring(1, 9) < ring(2, 9));
        assert_eq!(ring(1, 9).cmp(&ring(1, 9)), Ordering::Equal);
    }
}
