use std::{fmt, ops::Deref, slice, sync::Arc};

use crate::libquorum::NodeId;

/// Some nodes, ascending: a slice that is cheap to clone, and when it is empty costs nothing.
#[derive(Clone, Default, Eq, PartialEq)]
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

impl<'a> IntoIterator for &'a Nodes {
    type Item = &'a NodeId;
    type IntoIter = slice::Iter<'a, NodeId>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}
