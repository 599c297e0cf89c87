//! Packets lost on the way between nodes.
//!
//! The switch drops them (nftables, family `bridge`, hook `forward`), so a loss has a direction, and
//! the sender gets no error: a packet dropped by a chain on the sender's own `output` hook fails
//! `sendto` with `EPERM`, which a lost packet never does. Address resolution goes on working.

use std::{
    collections::BTreeSet,
    fmt::Write,
    sync::{Mutex, PoisonError},
};

use super::Cluster;

/// The losses in force.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<BTreeSet<Loss>>);

/// What the switch drops: packets from a node, to a node, or both; `None` is any.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Loss {
    from: Option<u32>,
    to: Option<u32>,
}

impl Loss {
    fn concerns(self, id: u32) -> bool {
        self.from == Some(id) || self.to == Some(id)
    }

    /// The rule for it. The switch's port of node 1 is `v1`.
    fn rule(self) -> String {
        let from = self.from.map(|id| format!("iifname v{id} ")).unwrap_or_default();
        let to = self.to.map(|id| format!("oifname v{id} ")).unwrap_or_default();
        format!("{from}{to}meta protocol {{ ip, ip6 }} drop")
    }
}

/// Each loss lasts until [`heal_faults`](Cluster::heal_faults) or [`heal`](Cluster::heal). Losses add up.
impl Cluster {
    /// Loses all that the node sends, to other nodes and to a quorum device. The node still receives.
    pub fn lose_sends(&self, id: u32) {
        self.lose(&[Loss { from: Some(id), to: None }]);
    }

    /// Loses all that is sent to the node. The others still receive what the node sends.
    pub fn lose_receives(&self, id: u32) {
        self.lose(&[Loss { from: None, to: Some(id) }]);
    }

    /// Loses what the node sends to one peer. The peer's packets still arrive.
    pub fn lose_sends_to(&self, id: u32, peer: u32) {
        self.lose(&[Loss { from: Some(id), to: Some(peer) }]);
    }

    /// Loses what two nodes send to each other. Others still reach both.
    pub fn lose_link(&self, id: u32, peer: u32) {
        self.lose(&[
            Loss { from: Some(id), to: Some(peer) },
            Loss { from: Some(peer), to: Some(id) },
        ]);
    }

    /// Loses all that the node sends and all that is sent to it. The link stays up, unlike with
    /// [`isolate`](Cluster::isolate).
    pub fn cut(&self, id: u32) {
        self.lose(&[Loss { from: Some(id), to: None }, Loss { from: None, to: Some(id) }]);
    }

    /// Ends every loss that concerns the node, whether as sender or as receiver.
    pub fn heal_faults(&self, id: u32) {
        self.change_faults(|losses| losses.retain(|loss| !loss.concerns(id)));
    }

    /// Ends every loss.
    pub(super) fn end_faults(&self) {
        self.change_faults(BTreeSet::clear);
    }

    fn lose(&self, losses: &[Loss]) {
        for id in losses.iter().flat_map(|loss| [loss.from, loss.to]).flatten() {
            self.node(id);
        }
        self.change_faults(|all| all.extend(losses));
    }

    fn change_faults(&self, change: impl FnOnce(&mut BTreeSet<Loss>)) {
        let mut losses = self.faults.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = losses.clone();
        change(&mut losses);
        if *losses == before {
            return;
        }
        // The first line makes the second right in either case; all take effect together.
        let mut lines = String::from("table bridge faults\ndelete table bridge faults\n");
        if !losses.is_empty() {
            lines += "table bridge faults { chain forward { type filter hook forward priority 0;\n";
            losses.iter().for_each(|loss| writeln!(lines, "{};", loss.rule()).unwrap());
            lines += "} }\n";
        }
        self.switch.nft(&lines);
    }
}
