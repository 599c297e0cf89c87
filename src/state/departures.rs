//! The nodes that left and rejoined, for subscribers that missed changes.

use std::{collections::HashMap, sync::Arc};

use super::{
    AckOnDrop, QuorumChanged, Snapshot,
    nodes::{contains, difference},
};
use crate::libquorum::NodeId;

/// The sequence number of the state in which each member last joined. It shows which nodes left and
/// rejoined while a subscriber missed changes. Nodes that are no longer members are removed from
/// the log.
#[derive(Debug, Default)]
pub(crate) struct DepartureLog(HashMap<NodeId, u64>);

impl DepartureLog {
    /// Returns the number of nodes in the log.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Records a change.
    pub(crate) fn note(&mut self, change: &QuorumChanged) {
        let members = &change.current.members;
        if !change.left.is_empty() {
            self.0.retain(|node, _| contains(members, *node));
        }
        for node in change.joined.iter() {
            self.0.insert(*node, change.current.sequence);
        }
    }

    /// Returns one change from `seen` to the state after `latest`, in place of all changes between
    /// them.
    pub(crate) fn conflate(&self, seen: &Arc<Snapshot>, latest: &QuorumChanged) -> QuorumChanged {
        let current = &latest.current;
        let mut rejoined = seen.members.clone();
        rejoined.retain(|node| contains(&current.members, *node));
        rejoined.retain(|node| self.0.get(node).is_some_and(|joined| *joined > seen.sequence));
        QuorumChanged {
            previous: Arc::clone(seen),
            current: Arc::clone(current),
            joined: difference(&current.members, &seen.members, &rejoined),
            left: difference(&seen.members, &current.members, &rejoined),
            cause: latest.cause,
            missed: (current.sequence - seen.sequence).saturating_sub(1),
            receipt: AckOnDrop::default(),
        }
    }
}
