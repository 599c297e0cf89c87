use std::{fmt, ops::Deref, slice, sync::Arc};

use crate::libquorum::NodeId;

/// A set of nodes, ascending and without duplicates. Dereferences to a slice; clones are cheap, and
/// an empty set allocates nothing.
///
/// ```
/// use actix_quorum::{NodeId, Nodes};
///
/// let nodes: Nodes = [3, 1, 3].into_iter().map(NodeId).collect();
/// assert_eq!(*nodes, [NodeId(1), NodeId(3)]);
/// assert_eq!(nodes.to_string(), "1 3");
/// ```
#[derive(Clone, Default, Eq, Hash, PartialEq)]
pub struct Nodes(Option<Arc<[NodeId]>>);

impl Nodes {
    pub(crate) fn ascending(nodes: &[NodeId]) -> Self {
        debug_assert!(nodes.is_sorted());
        Self((!nodes.is_empty()).then(|| nodes.into()))
    }
}

impl Deref for Nodes {
    type Target = [NodeId];

    fn deref(&self) -> &[NodeId] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl AsRef<[NodeId]> for Nodes {
    fn as_ref(&self) -> &[NodeId] {
        self
    }
}

/// Accepts the nodes in any order.
impl FromIterator<NodeId> for Nodes {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        let mut nodes: Vec<_> = nodes.into_iter().collect();
        nodes.sort_unstable();
        nodes.dedup();
        Self::ascending(&nodes)
    }
}

impl<'a> IntoIterator for &'a Nodes {
    type Item = &'a NodeId;
    type IntoIter = slice::Iter<'a, NodeId>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Serializes the nodes as a list.
#[cfg(feature = "serde")]
impl serde::Serialize for Nodes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self)
    }
}

/// Deserializes a list in any order.
#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Nodes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::from_iter)
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

/// Returns the nodes in `these` but not in `those`, plus the nodes in `both`. All lists are
/// ascending.
pub(super) fn difference(these: &[NodeId], those: &[NodeId], both: &[NodeId]) -> Nodes {
    let only = these.iter().copied().filter(|node| !contains(those, *node));
    Nodes::ascending(&sorted(only.chain(both.iter().copied()).collect()))
}

pub(super) fn sorted(mut nodes: Vec<NodeId>) -> Vec<NodeId> {
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

/// Whether `nodes` contains `node`. `nodes` must be ascending.
pub(super) fn contains(nodes: &[NodeId], node: NodeId) -> bool {
    nodes.binary_search(&node).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_ascending_and_without_duplicates() {
        let nodes: Nodes = [3, 1, 3].into_iter().map(NodeId).collect();
        let ids = [NodeId(1), NodeId(3)];
        assert_eq!((&*nodes, nodes.as_ref()), (&ids[..], &ids[..]));
        assert_eq!((&nodes).into_iter().copied().collect::<Vec<_>>(), ids);
        assert_eq!(format!("{nodes:?}"), format!("{ids:?}"));
        #[cfg(feature = "serde")]
        {
            assert_eq!(serde_json::to_string(&nodes).unwrap(), "[1,3]");
            assert_eq!(serde_json::from_str::<Nodes>("[3,1,3]").unwrap(), nodes);
        }
    }
}
