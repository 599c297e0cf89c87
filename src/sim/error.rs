use crate::libquorum::NodeId;

/// The reason why a method of [`Cluster`](super::Cluster) refused a call. The cluster has not
/// changed.
#[derive(Clone, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The node does not exist.
    #[error("there is no node {node}; this cluster has nodes 1 to {size}")]
    #[non_exhaustive]
    NoNode {
        /// The requested node.
        node: NodeId,
        /// The number of nodes.
        size: u32,
    },

    /// The node's daemon is not in a state that allows this.
    #[error("node {node} is {state}: {help}")]
    #[non_exhaustive]
    State {
        /// The node.
        node: NodeId,
        /// The state of its daemon: down, running or paused.
        state: &'static str,
        /// The method that would help.
        help: &'static str,
    },

    /// A node is in two groups of a partition.
    #[error("node {0} is in two groups; a node can be in one group only")]
    Overlap(NodeId),

    /// A node is in no group of a partition.
    #[error("node {0} is in no group; list each node once, a single node as `&[{0}]`")]
    LeftOut(NodeId),

    /// A number of nodes that Corosync refuses.
    #[error("{0} nodes: a cluster has 1 to {max}", max = super::cluster::MAX_NODES)]
    Size(u32),

    /// A number of votes that Corosync refuses.
    #[error("{0} expected votes: corosync accepts 1 or more")]
    ExpectedVotes(u32),
}
