//! Forms the rings of a simulated cluster, and makes votequorum's decisions about them.

use std::collections::BTreeMap;

use super::{Daemon, Node, Outcome, World};
use crate::libquorum::{NodeId, Notification, RingId};

/// A decision about quorum, which a quorum notification reports.
#[derive(Clone, Debug)]
pub(super) struct Decision {
    pub(super) quorate: bool,
    pub(super) ring: RingId,
    pub(super) members: Vec<NodeId>,
}

impl World {
    /// Returns the running nodes of each ring, ascending.
    pub(in crate::sim) fn groups(&self) -> Vec<Vec<NodeId>> {
        let mut groups: Vec<(RingId, Vec<NodeId>)> = Vec::new();
        for node in self.nodes.iter().filter(|node| node.daemon == Daemon::Running) {
            match groups.iter_mut().find(|(ring, _)| *ring == node.ring) {
                Some((_, group)) => group.push(node.id),
                None => groups.push((node.ring, vec![node.id])),
            }
        }
        groups.into_iter().map(|(_, group)| group).collect()
    }

    /// Forms a ring of these nodes.
    pub(in crate::sim) fn form(&mut self, group: &[NodeId]) {
        let highest = group.iter().map(|id| self.member(*id).ring.seq).max().unwrap_or(0);
        let ring_id = RingId { node_id: group[0], seq: highest + 4 };
        let before: Vec<(NodeId, RingId)> =
            group.iter().map(|id| (*id, self.member(*id).ring)).collect();
        for (id, ring) in &before {
            // Totem's transitional membership: the nodes from the same old ring. All other nodes of
            // the old ring have left, and all other nodes of the new one have joined.
            let along = |node: &NodeId| before.binary_search(&(*node, *ring)).is_ok();
            let node = self.member_mut(*id);
            let (mut joined, mut left) = (group.to_vec(), std::mem::take(&mut node.members));
            joined.retain(|node| !along(node));
            left.retain(|node| !along(node));
            node.ring = ring_id;
            node.members = group.to_vec();
            // A node becomes OPERATIONAL only from GATHER.
            node.counters.gather_entered += u64::from(!std::mem::take(&mut node.gathers));
            node.counters.recovery_entered += 1;
            node.counters.operational_entered += 1;
            node.sent.push(Notification::Nodelist {
                ring_id,
                members: group.to_vec(),
                joined,
                left,
            });
        }
        if !self.sync_held {
            self.decide(group);
        }
    }

    pub(in crate::sim) fn decide_unsettled(&mut self) {
        for group in self.groups() {
            let node = self.member(group[0]);
            if node.decision.ring != node.ring {
                self.decide(&group);
            }
        }
    }

    /// Returns the votes that the quorum device gives to each node. Only one partition gets votes:
    /// the largest one or, among equally large ones, the one with the lowest node.
    pub(in crate::sim) fn device_votes(&self) -> BTreeMap<NodeId, u32> {
        let Some(device) = &self.device else { return BTreeMap::new() };
        let reaches = |id: &NodeId| device.runs && !device.cut.contains(id);
        let rings = self.outcomes().into_iter().filter_map(|outcome| match outcome {
            Outcome::Ring(ring) => Some(ring),
            _ => None,
        });
        let reaching = |ring: &Vec<NodeId>| ring.iter().filter(|id| reaches(id)).count();
        let best = rings.filter(|ring| reaching(ring) > 0).max_by_key(|ring| {
            let lowest = ring.first().copied().unwrap_or_default();
            (reaching(ring), std::cmp::Reverse(lowest))
        });
        let best = best.unwrap_or_default();
        let votes = |id: NodeId| if best.contains(&id) && reaches(&id) { device.votes } else { 0 };
        self.nodes.iter().map(|node| (node.id, votes(node.id))).collect()
    }

    /// Lets the quorum device give its votes again, outside of a synchronisation.
    pub(in crate::sim) fn poll_device(&mut self) {
        let given = self.device_votes();
        let (options, provider) = (self.options, self.provider);
        for node in self.nodes.iter_mut().filter(|node| node.daemon == Daemon::Running) {
            let settled = node.decision.ring == node.ring;
            let changed =
                settled && node.votequorum.poll_device(given.get(&node.id).copied(), options);
            if changed && node.decision.quorate != node.votequorum.quorate {
                node.decide();
                node.send_decision(provider);
            }
        }
    }

    /// Ends the window of `last_man_standing` on a node.
    pub(in crate::sim) fn last_man_standing(&mut self, id: NodeId) {
        let (options, provider) = (self.options, self.provider);
        let node = self.member_mut(id);
        node.votequorum.last_man_standing(options);
        if node.decision.quorate != node.votequorum.quorate {
            node.decide();
            node.send_decision(provider);
        }
    }
}

impl Node {
    /// Makes votequorum's current result the decision about the current ring.
    pub(super) fn decide(&mut self) {
        let (quorate, members) = (self.votequorum.quorate, self.members.clone());
        self.decision = Decision { quorate, ring: self.ring, members };
    }

    /// Sends the decision. Without a provider, nothing is sent.
    pub(super) fn send_decision(&mut self, provider: bool) {
        if provider {
            self.sent.push(self.decision.notification());
        }
    }
}

impl Decision {
    pub(super) fn notification(&self) -> Notification {
        let Self { quorate, ring, members } = self.clone();
        Notification::Quorum { quorate, ring_id: ring, members }
    }
}
