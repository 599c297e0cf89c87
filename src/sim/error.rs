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

    /// A node is listed more than once in the groups of a partition.
    #[error("node {0} is listed more than once; list each node once")]
    Overlap(NodeId),

    /// A node is in no group of a partition.
    #[error("node {0} is in no group; list each node once, and a node that is alone as `&[{0}]`")]
    LeftOut(NodeId),

    /// A number of nodes that Corosync refuses.
    #[error("a cluster can have 1 to {max} nodes, not {0}", max = super::cluster::MAX_NODES)]
    Size(u32),

    /// A number of votes that Corosync refuses.
    #[error("the expected votes cannot be {0}; corosync accepts 1 or more")]
    ExpectedVotes(u32),
}
