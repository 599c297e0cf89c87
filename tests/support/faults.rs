//! Packets lost on the way between nodes, and packets refused by a node's own firewall.
//!
//! The switch drops the lost packets (nftables, family `bridge`, hook `forward`), so a loss has a
//! direction, and the sender gets no error. A chain on a node's own `output` hook is a different
//! fault: `sendto` fails with `EPERM`, and Corosync reacts to that. Address resolution still works.

use std::{
    collections::BTreeSet,
    fmt::Write,
    sync::{Mutex, PoisonError},
};

use super::Cluster;

/// The faults in force.
#[derive(Debug, Default)]
pub(super) struct Faults {
    losses: Mutex<Losses>,
    /// The nodes whose sends are refused.
    refused: Mutex<BTreeSet<u32>>,
}

/// The packets that the switch drops.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Losses {
    losses: BTreeSet<Loss>,
    /// The losses that separate the groups of a partition.
    partition: BTreeSet<Loss>,
}

/// A rule of the switch: it drops packets from a node, to a node, or both. `None` is any node.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Loss {
    from: Option<u32>,
    to: Option<u32>,
}

impl Loss {
    fn concerns(self, id: u32) -> bool {
        self.from == Some(id) || self.to == Some(id)
    }

    /// Returns the nftables rule. The switch's port of node 1 is `v1`.
    fn rule(self) -> String {
        let from = self.from.map(|id| format!("iifname v{id} ")).unwrap_or_default();
        let to = self.to.map(|id| format!("oifname v{id} ")).unwrap_or_default();
        format!("{from}{to}meta protocol {{ ip, ip6 }} drop")
    }
}

/// Each fault lasts until [`heal_faults`](Cluster::heal_faults) or [`heal`](Cluster::heal). Faults
/// accumulate.
impl Cluster {
    /// Loses all packets that the node sends, to other nodes and to a quorum device. The node still
    /// receives.
    pub fn lose_sends(&self, id: u32) {
        self.lose(&[Loss { from: Some(id), to: None }]);
    }

    /// Loses all packets that are sent to the node. The others still receive the node's packets.
    pub fn lose_receives(&self, id: u32) {
        self.lose(&[Loss { from: None, to: Some(id) }]);
    }

    /// Loses the packets that the node sends to one peer. The peer's packets still arrive.
    pub fn lose_sends_to(&self, id: u32, peer: u32) {
        self.lose(&[Loss { from: Some(id), to: Some(peer) }]);
    }

    /// Loses the packets between two nodes. Other nodes still reach both.
    pub fn lose_link(&self, id: u32, peer: u32) {
        self.lose(&[
            Loss { from: Some(id), to: Some(peer) },
            Loss { from: Some(peer), to: Some(id) },
        ]);
    }

    /// Loses all packets from and to the node. Unlike with [`isolate`](Cluster::isolate), the link
    /// stays up.
    pub fn cut(&self, id: u32) {
        self.lose(&[Loss { from: Some(id), to: None }, Loss { from: None, to: Some(id) }]);
    }

    /// Refuses all packets that the node sends to other nodes: its own firewall drops them, and
    /// `sendto` fails with `EPERM`. The node still receives.
    pub fn refuse_sends(&self, id: u32) {
        self.node(id).netns.nft(
            "table inet faults {\nchain output {\ntype filter hook output priority 0;\n\
             oifname != \"lo\" drop;\n}\n}\n",
        );
        self.faults.refused.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
    }

    /// Separates the nodes of different groups from one another, all at the same time: otherwise
    /// some could form a ring in between. This replaces an earlier partition.
    pub(super) fn separate(&self, group_of: impl Fn(u32) -> Option<usize>) {
        let ids: Vec<u32> = self.nodes().map(|node| node.id).collect();
        let pairs = ids.iter().flat_map(|from| ids.iter().map(move |to| (*from, *to)));
        let partition = pairs
            .filter(|(from, to)| group_of(*from) != group_of(*to))
            .map(|(from, to)| Loss { from: Some(from), to: Some(to) })
            .collect();
        self.change_losses(|all| all.partition = partition);
    }

    /// Ends every fault of the node, as a sender or a receiver, except for a partition.
    pub fn heal_faults(&self, id: u32) {
        self.change_losses(|all| all.losses.retain(|loss| !loss.concerns(id)));
        self.accept_sends(|refused| refused == id);
    }

    /// Ends every fault.
    pub(super) fn end_faults(&self) {
        self.change_losses(|all| *all = Losses::default());
        self.accept_sends(|_| true);
    }

    fn accept_sends(&self, of: impl Fn(u32) -> bool) {
        let mut refused = self.faults.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.retain(|id| {
            if of(*id) {
                self.node(*id).netns.nft("delete table inet faults\n");
            }
            !of(*id)
        });
    }

    fn lose(&self, losses: &[Loss]) {
        for id in losses.iter().flat_map(|loss| [loss.from, loss.to]).flatten() {
            self.node(id);
        }
        self.change_losses(|all| all.losses.extend(losses));
    }

    fn change_losses(&self, change: impl FnOnce(&mut Losses)) {
        let mut losses = self.faults.losses.lock().unwrap_or_else(PoisonError::into_inner);
        let before = losses.clone();
        change(&mut losses);
        if *losses == before {
            return;
        }
        // The first line makes sure that the second one succeeds; all take effect together.
        let mut lines = String::from("table bridge faults\ndelete table bridge faults\n");
        let dropped: BTreeSet<Loss> = losses.losses.union(&losses.partition).copied().collect();
        if !dropped.is_empty() {
            lines += "table bridge faults { chain forward { type filter hook forward priority 0;\n";
            dropped.iter().for_each(|loss| writeln!(lines, "{};", loss.rule()).unwrap());
            lines += "}\n}\n";
        }
        self.switch.nft(&lines);
    }
}
