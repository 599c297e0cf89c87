use crate::libquorum::NodeId;

/// Why a verb was refused. Nothing has changed.
#[derive(Clone, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such node.
    #[error("there is no node {node}; this cluster has nodes 1 to {size}")]
    #[non_exhaustive]
    NoNode {
        /// What was asked for.
        node: NodeId,
        /// How many nodes there are.
        size: u32,
    },

    /// The node's daemon is not in a state for this.
    #[error("node {node} is {state}: {help}")]
    #[non_exhaustive]
    State {
        /// The node.
        node: NodeId,
        /// What its daemon is: down, running or paused.
        state: &'static str,
        /// Which verb would help.
        help: &'static str,
    },

    /// A node is in two groups of a partition.
    #[error("node {0} is in two groups; a node can hear one group only")]
    Overlap(NodeId),

    /// A node is in no group of a partition.
    #[error("node {0} is in no group; name each node once, one that is alone as `&[{0}]`")]
    LeftOut(NodeId),

    /// A number of nodes that Corosync refuses.
    #[error("{0} nodes: a cluster has 1 to {max}", max = super::cluster::MAX_NODES)]
    Size(u32),

    /// A number of votes that Corosync refuses.
    #[error("{0} expected votes: corosync takes 1 and more")]
    ExpectedVotes(u32),
}
