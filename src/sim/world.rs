//! The nodes, their links and their votes, and what each tells its clients. No clock, no I/O.
//!
//! The rules are Corosync's: totem's for who is in which ring and who joined and left
//! (`exec/totemsrp.c`), votequorum's for who is quorate (`exec/votequorum.c`).

use crate::{
    VoteFlags, Votes,
    libquorum::{NodeId, Notification, RingId},
};

#[derive(Debug)]
pub(super) struct World {
    pub(super) nodes: Vec<Node>,
    pub(super) provider: bool,
    two_node: bool,
    wait_for_all: bool,
    /// Set at run time; otherwise all votes that are configured.
    expected_votes: Option<u32>,
    /// Memberships are told, decisions are kept back.
    sync_held: bool,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: NodeId,
    votes: u32,
    pub(super) daemon: Daemon,
    /// Nodes with the same number can hear each other.
    link: usize,
    /// A daemon that has just started is alone until its clients have seen so.
    pub(super) alone: bool,
    /// The ring it was on before it started. While it is alone, who is still on that ring has not
    /// noticed that it restarted.
    ring_before: Option<RingId>,
    /// What the daemon told last. Survives it as the number that the next ring must exceed.
    ring: RingId,
    members: Vec<NodeId>,
    decision: Decision,
    /// Whether it has not yet seen all nodes since it started (`wait_for_all`).
    waiting: bool,
    /// What clients have not been told yet, oldest first; taken by whoever passes it on.
    pub(super) told: Vec<Notification>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Daemon {
    Down,
    Running,
    Paused,
}

#[derive(Clone, Debug)]
struct Decision {
    quorate: bool,
    ring: RingId,
    members: Vec<NodeId>,
}

impl World {
    /// Nodes `1..=size`, with a vote each, that have formed a cluster.
    pub(super) fn new(size: u32) -> Self {
        let nodes = (1..=size).map(|id| Node::new(NodeId(id))).collect();
        let mut world = Self {
            nodes,
            provider: true,
            two_node: false,
            wait_for_all: false,
            expected_votes: None,
            sync_held: false,
        };
        world.reform();
        world.forget();
        world
    }

    pub(super) fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }

    pub(super) fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.iter_mut().find(|node| node.id == id)
    }

    /// Takes back what was told so far: nobody was there to hear it.
    pub(super) fn forget(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.told.clear());
    }

    pub(super) fn configure_two_node(&mut self, two_node: bool) {
        self.two_node = two_node;
        self.configure_wait_for_all(two_node);
    }

    pub(super) fn configure_wait_for_all(&mut self, wait_for_all: bool) {
        self.wait_for_all = wait_for_all;
        self.decide_all();
    }

    /// Puts each node into the group with its index.
    pub(super) fn link(&mut self, group_of: impl Fn(NodeId) -> usize) {
        for node in &mut self.nodes {
            node.link = group_of(node.id);
        }
        self.reform();
    }

    pub(super) fn set_daemon(&mut self, id: NodeId, daemon: Daemon) {
        let Some(node) = self.node_mut(id) else { return };
        node.daemon = daemon;
        self.reform();
    }

    /// Lets a paused daemon go on.
    pub(super) fn resume(&mut self, id: NodeId) {
        let ring = |world: &Self| world.node(id).map(|node| node.ring);
        let before = ring(self);
        self.set_daemon(id, Daemon::Running);
        if ring(self) == before {
            // It was alone and still is, so no new ring tells it what was decided meanwhile.
            self.decide_again(&[id]);
        }
    }

    /// Starts a daemon, alone at first if it is told to be.
    pub(super) fn start(&mut self, id: NodeId, alone: bool) {
        let (provider, wait_for_all) = (self.provider, self.wait_for_all);
        let Some(node) = self.node_mut(id) else { return };
        if !node.alone {
            node.ring_before = Some(node.ring);
        }
        node.daemon = Daemon::Running;
        node.alone = alone;
        node.waiting = wait_for_all;
        // A new daemon begins on a ring of its own, numbered after the last one it was on.
        node.ring = RingId { node_id: id, seq: node.ring.seq + 1 };
        node.members = vec![id];
        node.decision = Decision { quorate: false, ring: node.ring, members: vec![id] };
        node.told.clear();
        if provider {
            self.decide(&[id]);
            self.forget_of(id);
        }
        self.reform();
    }

    fn forget_of(&mut self, id: NodeId) {
        if let Some(node) = self.node_mut(id) {
            node.told.clear();
        }
    }

    /// Lets a daemon that was alone find the others.
    pub(super) fn join(&mut self, id: NodeId) {
        if let Some(node) = self.node_mut(id)
            && node.alone
            && node.daemon == Daemon::Running
        {
            node.alone = false;
            self.reform();
        }
    }

    pub(super) fn set_expected_votes(&mut self, votes: u32) {
        self.expected_votes = Some(votes);
        self.decide_all();
    }

    pub(super) fn set_votes(&mut self, id: NodeId, votes: u32) {
        if let Some(node) = self.node_mut(id) {
            node.votes = votes;
            self.decide_all();
        }
    }

    pub(super) fn hold_sync(&mut self, held: bool) {
        self.sync_held = held;
        if !held {
            self.decide_unsettled();
        }
    }

    /// What a client is told first: the membership, then the decision.
    pub(super) fn snapshot(&self, id: NodeId) -> Vec<Notification> {
        let Some(node) = self.node(id) else { return Vec::new() };
        vec![
            Notification::Nodelist {
                ring_id: node.ring,
                members: node.members.clone(),
                joined: Vec::new(),
                left: Vec::new(),
            },
            self.decision(node),
        ]
    }

    fn decision(&self, node: &Node) -> Notification {
        let Decision { quorate, ring, members } = node.decision.clone();
        if self.provider {
            Notification::Quorum { quorate, ring_id: ring, members }
        } else {
            // Without a provider corosync calls every node quorate, on no ring.
            let ring_id = RingId::default();
            Notification::Quorum { quorate: true, ring_id, members: Vec::new() }
        }
    }

    /// Forms new rings wherever who can hear whom is not what the rings say.
    fn reform(&mut self) {
        for group in self.groups() {
            if !self.is_formed(&group) {
                self.form(&group);
            }
        }
    }

    /// Whether these are on one ring with nobody else, as far as they have noticed.
    fn is_formed(&self, group: &[NodeId]) -> bool {
        let first = self.member(group[0]);
        let unnoticed = |node: &Node| {
            let hears = node.daemon == Daemon::Running && node.link == first.link;
            hears && node.alone && node.ring_before == Some(first.ring)
        };
        let there = |id: &NodeId| group.contains(id) || unnoticed(self.member(*id));
        group.iter().all(|id| self.member(*id).ring == first.ring)
            && group.iter().all(|id| first.members.contains(id))
            && first.members.iter().all(there)
    }

    /// The nodes that can hear each other, ascending.
    fn groups(&self) -> Vec<Vec<NodeId>> {
        let mut groups: Vec<(Option<usize>, Vec<NodeId>)> = Vec::new();
        for node in self.nodes.iter().filter(|node| node.daemon == Daemon::Running) {
            let link = (!node.alone).then_some(node.link);
            match groups.iter_mut().find(|(known, _)| link.is_some() && *known == link) {
                Some((_, group)) => group.push(node.id),
                None => groups.push((link, vec![node.id])),
            }
        }
        groups.into_iter().map(|(_, group)| group).collect()
    }

    fn member(&self, id: NodeId) -> &Node {
        self.node(id).expect("groups are made of nodes")
    }

    /// Forms a ring of these nodes.
    fn form(&mut self, group: &[NodeId]) {
        let highest = group.iter().map(|id| self.member(*id).ring.seq).max().unwrap_or(0);
        let ring_id = RingId { node_id: group[0], seq: highest + 4 };
        let before: Vec<(NodeId, RingId)> =
            group.iter().map(|id| (*id, self.member(*id).ring)).collect();
        for (id, ring) in &before {
            // Totem's transitional membership: who comes along from the same ring. Everybody else
            // of the old ring has left, and everybody else of the new one has joined.
            let along = |node: &NodeId| before.contains(&(*node, *ring));
            let node = self.node_mut(*id).expect("groups are made of nodes");
            let (mut joined, mut left) = (group.to_vec(), std::mem::take(&mut node.members));
            joined.retain(|node| !along(node));
            left.retain(|node| !along(node));
            node.ring = ring_id;
            node.members = group.to_vec();
            node.told.push(Notification::Nodelist {
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

    fn decide_unsettled(&mut self) {
        for group in self.groups() {
            let node = self.member(group[0]);
            if node.decision.ring != node.ring {
                self.decide(&group);
            }
        }
    }

    fn decide_all(&mut self) {
        for group in self.groups() {
            self.decide_again(&group);
        }
    }

    fn decide_again(&mut self, group: &[NodeId]) {
        let node = self.member(group[0]);
        // While a decision is kept back there is none to change.
        if !self.sync_held || node.decision.ring == node.ring {
            self.decide(group);
        }
    }

    /// The expected votes, the votes of a group, and how many make a quorum.
    fn count(&self, members: &[NodeId]) -> (u64, u64, u64) {
        let configured: u64 = self.nodes.iter().map(|node| u64::from(node.votes)).sum();
        let total: u64 = members.iter().map(|id| u64::from(self.member(*id).votes)).sum();
        let expected = self.expected_votes.map_or(configured, u64::from).max(total);
        let quorum = if self.two_node && expected == 2 { 1 } else { expected / 2 + 1 };
        (expected, total, quorum)
    }

    /// What votequorum says on a node: whether it is quorate, and the votes, if it decides at all.
    pub(super) fn votes(&self, id: NodeId) -> (bool, Option<Votes>) {
        let Some(node) = self.node(id) else { return (false, None) };
        if !self.provider {
            return (true, None);
        }
        let (expected, total, quorum) = self.count(&node.members);
        let quorate = node.decision.quorate;
        let flags = [(self.two_node, 1), (quorate, 2), (self.wait_for_all, 4)];
        let flags = flags.into_iter().filter_map(|(set, flag)| set.then_some(flag)).sum();
        let votes_of = |member: &NodeId| Some((*member, self.node(*member)?.votes));
        let members = node.members.iter().filter_map(votes_of).collect();
        let flags = VoteFlags::from_bits(flags);
        let [expected, total, quorum] =
            [expected, total, quorum].map(|votes| u32::try_from(votes).unwrap_or(u32::MAX));
        let highest_expected = expected;
        let votes = Votes { expected, highest_expected, total, quorum, qdevice: 0, members, flags };
        (quorate, Some(votes))
    }

    /// Decides for a group whether it is quorate, and tells it.
    fn decide(&mut self, group: &[NodeId]) {
        if !self.provider {
            return;
        }
        // With those who restarted and were not noticed.
        let members = self.member(group[0]).members.clone();
        let (_, total, quorum) = self.count(&members);
        // Who has waited for all, or meets somebody who has, does not wait any more.
        let waiting =
            group.iter().all(|id| self.member(*id).waiting) && members.len() < self.nodes.len();
        let quorate = total >= quorum && !waiting;
        for id in group {
            let node = self.node_mut(*id).expect("groups are made of nodes");
            node.waiting = waiting;
            node.decision = Decision { quorate, ring: node.ring, members: members.clone() };
            let (ring_id, members) = (node.ring, members.clone());
            node.told.push(Notification::Quorum { quorate, ring_id, members });
        }
    }
}

impl Node {
    fn new(id: NodeId) -> Self {
        let ring = RingId { node_id: id, seq: 1 };
        Self {
            id,
            votes: 1,
            daemon: Daemon::Running,
            link: 0,
            alone: false,
            ring_before: None,
            ring,
            members: Vec::new(),
            decision: Decision { quorate: false, ring, members: vec![id] },
            waiting: false,
            told: Vec::new(),
        }
    }
}
