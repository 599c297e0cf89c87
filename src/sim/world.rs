//! The nodes, their links, and the notifications that each node sends. This module reads no clock
//! and does no input or output.
//!
//! The rules are Corosync's: the quorum service decides which nodes joined and left
//! (`exec/vsf_quorum.c`), and votequorum decides about quorum.

mod decisions;

use std::{collections::BTreeSet, time::Duration};

use self::decisions::Decision;
use super::{
    totem::{Outcome, Step, Totem},
    votequorum::{Info, Options, Votequorum, Votes},
};
use crate::{
    libquorum::{NodeId, Notification, RingId, VoteFlags},
    link::ring_reading::RingCounters,
};

#[derive(Debug)]
pub(super) struct World {
    pub(super) nodes: Vec<Node>,
    pub(super) provider: bool,
    options: Options,
    /// Whether decisions are delayed. Memberships are still reported.
    sync_held: bool,
    pub(super) totem: Totem,
    device: Option<Device>,
}

/// A quorum device (`corosync-qnetd`).
#[derive(Debug)]
struct Device {
    votes: u32,
    runs: bool,
    /// The nodes that cannot reach the device.
    cut: BTreeSet<NodeId>,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: NodeId,
    /// Its votes in the nodelist.
    votes: u32,
    /// The cmap key `quorum.expected_votes`, if it was set at run time.
    expected_votes: Option<u32>,
    pub(super) daemon: Daemon,
    /// Nodes with the same number can reach each other.
    pub(super) link: usize,
    /// Whether the daemon has just started and does not see the other nodes yet. This ends when its
    /// clients have received that state.
    pub(super) alone: bool,
    /// The ring whose other members have not noticed that this node's daemon was restarted.
    pub(super) unnoticed: Option<RingId>,
    /// The last reported ring. It is kept when the daemon ends, because the next ring must have a
    /// larger number.
    pub(super) ring: RingId,
    pub(super) members: Vec<NodeId>,
    votequorum: Votequorum,
    decision: Decision,
    pub(super) counters: RingCounters,
    /// For how long in total the node has received tokens.
    pub(super) token_time: Duration,
    /// Whether it is in totem's GATHER state.
    pub(super) gathers: bool,
    /// Whether it was paused and has not yet noticed that the other nodes have continued without
    /// it.
    pub(super) unaware: bool,
    /// Whether it sent a leave message to the other nodes when it stopped.
    pub(super) sent_leave: bool,
    /// The notifications that have not been delivered yet, oldest first.
    pub(super) sent: Vec<Notification>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Daemon {
    Down,
    Running,
    Paused,
}

impl World {
    /// Creates the nodes `1..=size`, with one vote each, that have formed a cluster.
    pub(super) fn new(size: u32) -> Self {
        let nodes = (1..=size).map(|id| Node::new(NodeId(id), size, Daemon::Running)).collect();
        let options = Options::default();
        let mut world = Self {
            nodes,
            provider: true,
            options,
            sync_held: false,
            totem: Totem::default(),
            device: None,
        };
        world.reform();
        world.discard_sent();
        world
    }

    pub(super) fn node(&self, id: NodeId) -> Option<&Node> {
        // Nodes are numbered from 1.
        self.nodes.get((id.0 as usize).checked_sub(1)?)
    }

    pub(super) fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut((id.0 as usize).checked_sub(1)?)
    }

    /// Discards the notifications so far, because no client existed to receive them.
    pub(super) fn discard_sent(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.sent.clear());
    }

    pub(super) fn configure_two_node(&mut self, two_node: bool) {
        self.options.two_node = two_node;
        self.options.wait_for_all = two_node;
    }

    pub(super) fn configure_wait_for_all(&mut self, wait_for_all: bool) {
        self.options.wait_for_all = wait_for_all;
    }

    pub(super) fn configure_auto_tie_breaker(&mut self, auto_tie_breaker: bool) {
        // With an odd number of votes Corosync turns `auto_tie_breaker` off, unless `wait_for_all`
        // is on.
        let even = self.nodelist_votes().is_multiple_of(2);
        self.options.auto_tie_breaker = auto_tie_breaker && (even || self.options.wait_for_all);
    }

    pub(super) fn configure_last_man_standing(&mut self, window: Duration) {
        self.options.last_man_standing = Some(window);
        self.options.wait_for_all = true;
    }

    pub(super) fn configure_device(&mut self, votes: u32) {
        self.device = Some(Device { votes, runs: true, cut: BTreeSet::new() });
        self.reload();
        self.poll_device();
        self.discard_sent();
    }

    /// Sets whether the quorum device's server is running, and which nodes cannot reach it.
    pub(super) fn set_device(&mut self, runs: bool, cut: impl Fn(NodeId) -> bool) {
        let ids: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        if let Some(device) = &mut self.device {
            device.runs = runs;
            device.cut = ids.into_iter().filter(|id| cut(*id)).collect();
        }
        self.poll_device();
    }

    pub(super) fn device_runs(&self) -> bool {
        self.device.as_ref().is_some_and(|device| device.runs)
    }

    /// Loses the packets in these directions.
    pub(super) fn lose(&mut self, losses: impl IntoIterator<Item = (NodeId, NodeId)>) {
        self.totem.losses.extend(losses);
        self.reform();
    }

    /// Lets all nodes reach each other and the quorum device.
    pub(super) fn heal(&mut self) {
        self.totem.losses.clear();
        self.link(|_| 0);
        self.set_device(self.device_runs(), |_| false);
    }

    pub(super) fn hold_rings(&mut self, held: bool) {
        self.totem.held = held;
        self.reform();
    }

    /// Puts each node into the group whose index `group_of` returns.
    pub(super) fn link(&mut self, group_of: impl Fn(NodeId) -> usize) {
        for node in &mut self.nodes {
            node.link = group_of(node.id);
        }
        self.reform();
    }

    pub(super) fn set_daemons(&mut self, ids: &[NodeId], daemon: Daemon) {
        for id in ids {
            self.totem.cancel_all(*id);
            let Some(node) = self.node_mut(*id) else { continue };
            let resumes = node.daemon == Daemon::Paused && daemon == Daemon::Running;
            node.daemon = daemon;
            node.unnoticed = None;
            if resumes {
                self.wake(*id);
            }
        }
        self.reform();
        if !self.sync_held {
            // A resumed daemon may have to make a decision that was delayed.
            self.decide_unsettled();
        }
        // The device votes for one partition even if no ring forms.
        self.poll_device();
    }

    /// Resumes a daemon. If the other nodes have continued without the daemon, it notices that when
    /// its token timeout expires.
    fn wake(&mut self, id: NodeId) {
        let Some(timeouts) = self.totem.timeouts else { return };
        let node = self.member(id);
        let (ring, gathers) = (node.ring, node.gathers);
        let with_us = |member: &NodeId| {
            self.node(*member).is_some_and(|member| member.ring == ring && !member.gathers)
        };
        let left_behind = !node.members.iter().all(with_us);
        if gathers {
            self.totem.schedule(timeouts.consensus, Step::Consensus(id));
        } else if left_behind {
            self.member_mut(id).unaware = true;
        }
        // The tokens that waited for this daemon arrive in one burst.
        self.member_mut(id).token_time += timeouts.token;
    }

    /// Stops a daemon, which first sends a leave message to the other nodes.
    pub(super) fn leave(&mut self, id: NodeId) {
        if let Some(node) = self.node_mut(id) {
            node.sent_leave = true;
        }
        self.set_daemons(&[id], Daemon::Down);
    }

    /// Starts a daemon. With `alone`, the daemon does not see the other nodes at first. If it was
    /// also `restarted`, the other nodes do not notice the restart yet.
    pub(super) fn start(&mut self, id: NodeId, alone: bool, restarted: bool) {
        let expected = self.configured_votes();
        let options = self.options;
        self.totem.cancel_all(id);
        let Some(node) = self.node_mut(id) else { return };
        node.daemon = Daemon::Running;
        (node.gathers, node.unaware, node.sent_leave) = (false, false, false);
        // If the daemon is restarted again while it is alone, the members of the earlier ring still
        // miss it.
        let was_with = if node.alone { node.unnoticed } else { Some(node.ring) };
        node.alone = alone;
        // Nodes that are synchronising wait for this daemon, and so they notice its restart.
        let settled = node.decision.ring == node.ring;
        node.unnoticed = was_with.filter(|_| alone && restarted && settled);
        node.expected_votes = None;
        // A new daemon begins on its own ring, numbered after the last ring that it was on
        // (`main_iface_change_fn` adds 1, and the forming of a ring adds 4).
        node.ring = RingId { node_id: id, seq: node.ring.seq + 5 };
        node.members = vec![id];
        node.votequorum = Votequorum::new(id, Votes { votes: node.votes, expected }, options);
        node.decide();
        node.sent.clear();
        self.reform();
    }

    /// Lets a daemon that was alone find the others.
    pub(super) fn join(&mut self, id: NodeId) {
        if let Some(node) = self.node_mut(id)
            && node.alone
            && node.daemon == Daemon::Running
        {
            node.alone = false;
            node.unnoticed = None;
            self.reform();
        }
    }

    /// Sets the cmap key `quorum.expected_votes` on one running node after another.
    pub(super) fn set_expected_votes(&mut self, votes: u32) {
        for group in self.groups() {
            for id in &group {
                // Setting a key to its current value notifies no node (`icmap_set`).
                if self.member(*id).expected_votes != Some(votes) {
                    self.member_mut(*id).expected_votes = Some(votes);
                    self.refresh(&group, &[*id]);
                }
            }
        }
    }

    /// Sets a node's votes in the nodelist, and reloads.
    pub(super) fn set_votes(&mut self, id: NodeId, votes: u32) {
        if let Some(node) = self.node_mut(id) {
            node.votes = votes;
            self.reload();
        }
    }

    /// Sets the nodelist to the nodes `1..=size`, and reloads. New nodes are down.
    pub(super) fn set_nodelist(&mut self, size: u32) {
        self.nodes.retain(|node| node.id.0 <= size);
        let first = self.nodes.last().map_or(1, |node| node.id.0 + 1);
        let new = (first..=size).map(|id| Node::new(NodeId(id), size, Daemon::Down));
        self.nodes.extend(new);
        self.reload();
    }

    /// Lets all running nodes read their configuration again, which ends the settings made at run
    /// time.
    fn reload(&mut self) {
        for group in self.groups() {
            group.iter().for_each(|id| self.member_mut(*id).expected_votes = None);
            self.refresh(&group, &group);
        }
    }

    /// Applies the configuration of these `nodes` of a ring.
    fn refresh(&mut self, group: &[NodeId], nodes: &[NodeId]) {
        let configured = self.configured_votes();
        let mut messages = Vec::new();
        for id in nodes {
            let node = self.member_mut(*id);
            let expected = node.expected_votes.unwrap_or(configured);
            messages.extend(node.votequorum.refresh(Votes { votes: node.votes, expected }));
        }
        let (options, provider) = (self.options, self.provider);
        for message in messages {
            for id in group {
                let node = self.member_mut(*id);
                node.votequorum.receive(message, options);
                // A delayed decision is not changed.
                let settled = node.decision.ring == node.ring;
                if settled && node.decision.quorate != node.votequorum.quorate {
                    node.decide();
                    node.send_decision(provider);
                }
            }
        }
    }

    /// The votes of all nodes in the nodelist.
    fn nodelist_votes(&self) -> u32 {
        self.nodes.iter().map(|node| node.votes).fold(0, u32::saturating_add)
    }

    /// Returns the votes that a node expects by default.
    fn configured_votes(&self) -> u32 {
        let device = self.device.as_ref().map_or(0, |device| device.votes);
        self.nodelist_votes().saturating_add(device)
    }

    pub(super) fn hold_sync(&mut self, held: bool) {
        self.sync_held = held;
        if !held {
            self.decide_unsettled();
        }
    }

    /// Returns whether votequorum reports a node as quorate, and the votes. Without a provider,
    /// every node is quorate, and there are no votes.
    pub(super) fn votes(&self, id: NodeId) -> (bool, Option<crate::libquorum::Votes>) {
        let Some(node) = self.node(id).filter(|_| self.provider) else { return (true, None) };
        let quorate = node.decision.quorate;
        let flags = [
            (self.options.two_node, VoteFlags::TWO_NODE),
            (quorate, VoteFlags::QUORATE),
            (self.options.wait_for_all, VoteFlags::WAIT_FOR_ALL),
            (self.options.auto_tie_breaker, VoteFlags::AUTO_TIE_BREAKER),
            (self.options.last_man_standing.is_some(), VoteFlags::LAST_MAN_STANDING),
        ];
        let flags: VoteFlags =
            flags.into_iter().filter_map(|(set, flag)| set.then_some(flag)).collect();
        let votes = node.votequorum.votes();
        let qdevices = votes.members.iter().map(|(id, _)| (*id, self.qdevice(*id)));
        let votes = crate::libquorum::Votes {
            flags: flags | self.qdevice(id),
            qdevices: qdevices.filter(|(_, flags)| !flags.is_empty()).collect(),
            ..votes
        };
        (quorate, Some(votes))
    }

    /// Returns the state of a node's quorum device.
    fn qdevice(&self, id: NodeId) -> VoteFlags {
        let votes = self.node(id).and_then(|node| node.votequorum.device);
        let flags = [
            (self.device.is_some(), VoteFlags::QDEVICE_REGISTERED),
            (self.device.is_some(), VoteFlags::QDEVICE_ALIVE),
            (votes > Some(0), VoteFlags::QDEVICE_CAST_VOTE),
        ];
        flags.into_iter().filter_map(|(set, flag)| set.then_some(flag)).collect()
    }

    /// Returns the counters of a node's daemon, the votes in the nodelist, and whether the daemon
    /// is synchronising. Returns `None` while the daemon is down or paused.
    pub(super) fn ring_counters(&self, id: NodeId) -> Option<(RingCounters, u32, bool)> {
        let node = self.node(id).filter(|node| node.daemon == Daemon::Running)?;
        let synchronises = self.provider && node.decision.ring != node.ring;
        Some((node.counters, self.nodelist_votes(), synchronises))
    }

    /// Returns how many tokens a node has received, if a token arrives every `hold` while the node
    /// receives tokens.
    pub(super) fn tokens(&self, id: NodeId, hold: Duration) -> u64 {
        let time = self.node(id).map_or(Duration::ZERO, |node| node.token_time);
        u64::try_from(time.as_nanos() / hold.as_nanos().max(1)).unwrap_or(u64::MAX)
    }

    /// Returns the first notifications of a client: the membership, then the decision.
    pub(super) fn snapshot(&self, id: NodeId) -> Vec<Notification> {
        let Some(node) = self.node(id) else { return Vec::new() };
        vec![
            Notification::Nodelist {
                ring_id: node.ring,
                members: node.members.clone(),
                joined: Vec::new(),
                left: Vec::new(),
            },
            if self.provider {
                node.decision.notification()
            } else {
                // Without a provider Corosync reports every node as quorate, on no ring.
                let ring_id = RingId::default();
                Notification::Quorum { quorate: true, ring_id, members: Vec::new() }
            },
        ]
    }

    pub(super) fn member(&self, id: NodeId) -> &Node {
        self.node(id).expect("a group contains only existing nodes")
    }

    pub(super) fn member_mut(&mut self, id: NodeId) -> &mut Node {
        self.node_mut(id).expect("a group contains only existing nodes")
    }

    /// Decides about the quorum of a new ring, and sends the decision.
    fn decide(&mut self, group: &[NodeId]) {
        let (options, provider) = (self.options, self.provider);
        let infos: Vec<Info> =
            group.iter().map(|id| self.member_mut(*id).votequorum.info()).collect();
        let given = self.device_votes();
        for id in group {
            if let Some(window) = options.last_man_standing
                && self.member(*id).votequorum.awaits_last_man_standing(group, options)
            {
                self.totem.schedule(window, Step::LastManStanding(*id));
            }
            let votes = given.get(id).copied();
            let node = self.member_mut(*id);
            // The device is asked while the ring is synchronising, before the decision.
            node.votequorum.device = votes;
            node.votequorum.sync(&infos, options);
            node.decide();
            node.send_decision(provider);
        }
        self.poll_device();
    }
}

impl Node {
    fn new(id: NodeId, size: u32, daemon: Daemon) -> Self {
        let ring = RingId { node_id: id, seq: 1 };
        let votes = Votes { votes: 1, expected: size };
        Self {
            id,
            votes: votes.votes,
            expected_votes: None,
            daemon,
            link: 0,
            alone: false,
            unnoticed: None,
            ring,
            members: Vec::new(),
            counters: RingCounters::default(),
            token_time: Duration::ZERO,
            gathers: false,
            unaware: false,
            sent_leave: false,
            votequorum: Votequorum::new(id, votes, Options::default()),
            decision: Decision { quorate: false, ring, members: vec![id] },
            sent: Vec::new(),
        }
    }
}
