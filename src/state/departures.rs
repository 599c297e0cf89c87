//! The nodes that left and joined again, for subscribers that missed changes.

use std::{collections::HashMap, sync::Arc};

use super::{
    AckOnDrop, QuorumChanged, Snapshot,
    nodes::{contains, difference},
};
use crate::libquorum::NodeId;

/// When each member joined last, after it had left: enough to tell a subscriber that missed changes
/// which nodes restarted meanwhile. Nodes that left for good are forgotten.
#[derive(Debug, Default)]
pub(crate) struct DepartureLog(HashMap<NodeId, u64>);

impl DepartureLog {
    /// How many nodes it knows of.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes note of a change.
    pub(crate) fn note(&mut self, change: &QuorumChanged) {
        let members = &change.current.members;
        if !change.left.is_empty() {
            self.0.retain(|node, _| contains(members, *node));
        }
        for node in change.joined.iter() {
            self.0.insert(*node, change.current.sequence);
        }
    }

    /// One change from `seen` to where `latest` led, in place of all those between.
    pub(crate) fn conflate(&self, seen: &Arc<Snapshot>, latest: &QuorumChanged) -> QuorumChanged {
        let current = &latest.current;
        let mut restarted = seen.members.clone();
        restarted.retain(|node| contains(&current.members, *node));
        restarted.retain(|node| self.0.get(node).is_some_and(|joined| *joined > seen.sequence));
        QuorumChanged {
            previous: Arc::clone(seen),
            current: Arc::clone(current),
            joined: difference(&current.members, &seen.members, &restarted),
            left: difference(&seen.members, &current.members, &restarted),
            cause: latest.cause,
            missed: (current.sequence - seen.sequence).saturating_sub(1),
            receipt: AckOnDrop::default(),
        }
    }
}
