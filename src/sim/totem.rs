//! Decides when rings end and form: immediately, or after the token and consensus timeouts
//! (`exec/totemsrp.c`).

use std::{collections::BTreeSet, time::Duration};

use super::world::{Daemon, World};
use crate::libquorum::NodeId;

/// The timeouts of totem, in virtual time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// How long a daemon waits for a token.
    pub(super) token: Duration,
    /// How long nodes in GATHER wait for a silent node.
    pub(super) consensus: Duration,
}

/// The packet losses, and the steps that are due later.
#[derive(Debug, Default)]
pub(super) struct Totem {
    /// If set, rings take time to end and to form.
    pub(super) timeouts: Option<Timeouts>,
    /// The directions in which all packets are lost, each as a sender and a receiver.
    pub(super) losses: BTreeSet<(NodeId, NodeId)>,
    /// Whether rings are prevented from forming.
    pub(super) held: bool,
    /// The time since the cluster was created.
    pub(super) now: Duration,
    /// The scheduled steps, each with its time.
    steps: Vec<(Duration, Step)>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// A node has not seen the token for the token timeout.
    TokenLost(NodeId),
    /// A node has waited for the consensus timeout.
    Consensus(NodeId),
    /// The window of `last_man_standing` has ended on a node.
    LastManStanding(NodeId),
}

/// What happens to a set of running nodes.
#[derive(Debug)]
pub(super) enum Outcome {
    /// These nodes, in ascending order, form a ring.
    Ring(Vec<NodeId>),
    /// The node receives packets from nodes that do not receive its packets, so it stays in GATHER.
    Gathers(NodeId),
    /// Not all of these nodes reach each other: rings form repeatedly, and none is announced.
    Unstable(Vec<NodeId>),
}

impl Totem {
    /// Schedules the step after this time. This replaces an earlier schedule of the same step.
    pub(super) fn schedule(&mut self, after: Duration, step: Step) {
        self.cancel(step);
        self.steps.push((self.now + after, step));
    }

    pub(super) fn is_scheduled(&self, step: Step) -> bool {
        self.steps.iter().any(|(_, planned)| *planned == step)
    }

    pub(super) fn cancel(&mut self, step: Step) {
        self.steps.retain(|(_, planned)| *planned != step);
    }

    /// Cancels all steps of a daemon.
    pub(super) fn cancel_all(&mut self, id: NodeId) {
        for step in [Step::TokenLost(id), Step::Consensus(id), Step::LastManStanding(id)] {
            self.cancel(step);
        }
    }

    /// Returns when the next step is due.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.steps.iter().map(|(due, _)| *due).min()
    }

    /// Removes and returns the next step that is due by `now`.
    fn take_due(&mut self, now: Duration) -> Option<(Duration, Step)> {
        let next = self.next_due().filter(|due| *due <= now)?;
        let at = self.steps.iter().position(|(due, _)| *due == next)?;
        Some(self.steps.swap_remove(at))
    }
}

impl World {
    /// Advances the time, and executes everything that is due by then.
    pub(super) fn advance(&mut self, now: Duration) {
        while let Some((due, step)) = self.totem.take_due(now) {
            self.pass_time(due);
            match step {
                Step::TokenLost(id) => {
                    self.gather(id, true);
                    self.update_rings();
                }
                Step::Consensus(id) => self.consensus_expired(id),
                Step::LastManStanding(id) => self.last_man_standing(id),
            }
        }
        self.pass_time(now);
    }

    /// Adds the time that has passed to the token time of each node that received tokens.
    fn pass_time(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.totem.now);
        let receive: Vec<bool> =
            self.nodes.iter().map(|node| self.receives_tokens(node.id)).collect();
        for (node, receives) in self.nodes.iter_mut().zip(receive) {
            node.token_time += if receives { passed } else { Duration::ZERO };
        }
        self.totem.now = now.max(self.totem.now);
    }

    /// Whether a node receives tokens from the previous node in its ring, or from itself if it is
    /// alone. A token without an answer is sent repeatedly, until its sender leaves the ring.
    fn receives_tokens(&self, id: NodeId) -> bool {
        let node = self.member(id);
        if node.daemon != Daemon::Running {
            return false;
        }
        let at = node.members.iter().position(|member| *member == id).unwrap_or(0);
        let before = at.checked_sub(1).unwrap_or_else(|| node.members.len().saturating_sub(1));
        let Some(before) = node.members.get(before).copied().filter(|before| *before != id) else {
            return !node.gathers;
        };
        self.receives(id, before)
            && self.node(before).is_some_and(|other| other.ring == node.ring && !other.gathers)
    }

    /// Whether packets that `from` sends arrive at `to`.
    fn receives(&self, to: NodeId, from: NodeId) -> bool {
        let (a, b) = (self.member(to), self.member(from));
        let reachable = |node: &super::world::Node| {
            node.daemon == Daemon::Running && !node.alone && !node.unaware
        };
        reachable(a) && reachable(b) && a.link == b.link && !self.totem.losses.contains(&(from, to))
    }

    fn reach_each_other(&self, a: NodeId, b: NodeId) -> bool {
        self.receives(a, b) && self.receives(b, a)
    }

    /// Returns what happens to all running nodes with the current packet losses.
    pub(super) fn outcomes(&self) -> Vec<Outcome> {
        let running = self.nodes.iter().filter(|node| node.daemon == Daemon::Running);
        let mut remaining: Vec<NodeId> = running.map(|node| node.id).collect();
        let mut outcomes = Vec::new();
        while let Some(first) = remaining.first().copied() {
            let component = self.component(first, &remaining);
            remaining.retain(|id| !component.contains(id));
            self.resolve(component, &mut outcomes);
        }
        outcomes
    }

    /// Returns `first` and all nodes that are connected with it, directly or through other nodes,
    /// by packets in at least one direction, ascending.
    fn component(&self, first: NodeId, among: &[NodeId]) -> Vec<NodeId> {
        let mut component = vec![first];
        let mut at = 0;
        while let Some(one) = component.get(at).copied() {
            let connected = |id: &&NodeId| self.receives(one, **id) || self.receives(**id, one);
            let new: Vec<NodeId> = among.iter().filter(connected).copied().collect();
            component
                .extend(new.into_iter().filter(|id| !component.contains(id)).collect::<Vec<_>>());
            at += 1;
        }
        component.sort_unstable();
        component
    }

    /// Adds the outcomes for these connected nodes. Removes nodes until all nodes of the ring can
    /// exchange packets: first the node that is cut off from the most others and, among equal
    /// nodes, the one whose own packets are lost.
    fn resolve(&self, component: Vec<NodeId>, outcomes: &mut Vec<Outcome>) {
        let mut ring = component.clone();
        let mut out = Vec::new();
        loop {
            let faults = |id: &NodeId| {
                let others = ring.iter().filter(|other| *other != id);
                let apart = others.clone().filter(|other| !self.reach_each_other(*id, **other));
                let unreached = others.filter(|other| !self.receives(**other, *id));
                (apart.count(), unreached.count(), std::cmp::Reverse(*id))
            };
            let worst = ring.iter().copied().max_by_key(faults).filter(|id| faults(id).0 > 0);
            let Some(worst) = worst else { break };
            ring.retain(|id| *id != worst);
            out.push(worst);
        }
        let meets_ring = |id: &NodeId| ring.iter().any(|other| self.reach_each_other(*id, *other));
        let one_way = |id: &NodeId| {
            component.iter().any(|other| self.receives(*id, *other) != self.receives(*other, *id))
        };
        if out.iter().any(|id| meets_ring(id) && !one_way(id)) {
            outcomes.push(Outcome::Unstable(component));
            return;
        }
        outcomes.push(Outcome::Ring(ring));
        outcomes.extend(out.into_iter().map(|id| {
            let receives_others =
                component.iter().any(|other| self.receives(id, *other) && *other != id);
            if receives_others { Outcome::Gathers(id) } else { Outcome::Ring(vec![id]) }
        }));
    }

    /// After a change, ends the rings that cannot continue, and forms new ones.
    pub(super) fn reform(&mut self) {
        if self.totem.timeouts.is_some() {
            self.update_rings();
        } else {
            self.reform_at_once();
        }
    }

    fn reform_at_once(&mut self) {
        for outcome in self.outcomes() {
            match outcome {
                Outcome::Ring(ring) => {
                    if self.is_intact(&ring) || self.goes_unnoticed(&ring) {
                        continue;
                    }
                    if self.totem.held {
                        ring.iter().for_each(|id| self.gather(*id, false));
                    } else {
                        self.form(&ring);
                    }
                }
                Outcome::Gathers(id) => self.gather(id, true),
                Outcome::Unstable(ids) => ids.iter().for_each(|id| self.gather(*id, true)),
            }
        }
    }

    /// Whether these nodes are exactly the members of one ring, and all are in the OPERATIONAL
    /// state.
    fn is_intact(&self, ring: &[NodeId]) -> bool {
        let first = self.member(ring[0]);
        first.members == ring
            && ring.iter().all(|id| {
                let node = self.member(*id);
                node.ring == first.ring && !node.gathers
            })
    }

    /// Whether these nodes are all members of their old ring, except for daemons that were
    /// restarted and whose restart these nodes have not noticed.
    fn goes_unnoticed(&self, ring: &[NodeId]) -> bool {
        let first = self.member(ring[0]);
        let unnoticed = |id| {
            let node = self.node(id);
            node.is_some_and(|node| node.unnoticed == Some(first.ring) && node.link == first.link)
        };
        let mut members = first.members.clone();
        members.retain(|id| ring.contains(id) || !unnoticed(*id));
        let together = |id: &NodeId| {
            let node = self.member(*id);
            node.ring == first.ring && !node.gathers
        };
        members == ring && ring.iter().all(together)
    }

    /// Ends and forms rings in a cluster with timeouts; does nothing in any other cluster. A node
    /// leaves its ring immediately if it reaches nodes of another ring, or if all members that it
    /// no longer reaches have left cleanly. Otherwise a node whose ring is broken loses the token
    /// when its token timeout expires. Nodes that wait for no other node form a ring.
    fn update_rings(&mut self) {
        let Some(timeouts) = self.totem.timeouts else { return };
        for outcome in self.outcomes() {
            let (ids, ring) = match &outcome {
                Outcome::Ring(ring) => (ring.clone(), Some(ring)),
                Outcome::Gathers(id) => (vec![*id], None),
                Outcome::Unstable(ids) => (ids.clone(), None),
            };
            let intact = ring.is_some_and(|ring| self.is_intact(ring));
            for id in ids {
                let node = self.member(id);
                if node.gathers {
                    continue;
                }
                // A daemon that was paused does not know yet that the others have continued.
                let meets_others = !node.unaware
                    && ring.is_some_and(|ring| {
                        ring.iter().any(|other| self.member(*other).ring != node.ring)
                            || node.members.iter().all(|member| {
                                ring.contains(member)
                                    || self.node(*member).is_none_or(|member| member.sent_leave)
                            })
                    });
                if intact {
                    self.totem.cancel(Step::TokenLost(id));
                } else if meets_others {
                    self.gather(id, false);
                } else if !self.totem.is_scheduled(Step::TokenLost(id)) {
                    // The nodes see the token one after another, the last one a round after the
                    // first.
                    let round = timeouts.token * 19 / 100;
                    let turn = (node.ring.seq / 4 + u64::from(id.0) * 3) % 8;
                    let earlier = round * u32::try_from(turn).unwrap_or(0) / 8;
                    let after =
                        if node.unaware { timeouts.token } else { timeouts.token - earlier };
                    self.totem.schedule(after, Step::TokenLost(id));
                }
            }
        }
        self.form_agreed_rings(None);
    }

    /// Makes a node leave its ring. Each node that receives its packets does the same.
    fn gather(&mut self, id: NodeId, token_lost: bool) {
        let timeouts = self.totem.timeouts;
        let node = self.member_mut(id);
        if std::mem::replace(&mut node.gathers, true) {
            return;
        }
        node.unaware = false;
        node.counters.gather_entered += 1;
        node.counters.token_lost += u64::from(token_lost);
        let Some(timeouts) = timeouts else { return };
        self.totem.cancel(Step::TokenLost(id));
        self.totem.schedule(timeouts.consensus, Step::Consensus(id));
        let receivers: Vec<NodeId> = self
            .nodes
            .iter()
            .map(|node| node.id)
            .filter(|other| self.receives(*other, id))
            .collect();
        for other in receivers.into_iter().filter(|other| *other != id) {
            if self.member(other).gathers {
                // The packets are new to this node, so it starts to wait again.
                self.member_mut(other).counters.gather_entered += 1;
                self.totem.schedule(timeouts.consensus, Step::Consensus(other));
            } else {
                self.gather(other, false);
            }
        }
    }

    /// Forms the rings whose nodes wait for no other node, and the ring of `expired`, which has
    /// waited long enough.
    fn form_agreed_rings(&mut self, expired: Option<NodeId>) {
        if self.totem.held {
            return;
        }
        for outcome in self.outcomes() {
            let Outcome::Ring(ring) = outcome else { continue };
            let waits = expired.is_none_or(|id| !ring.contains(&id));
            if ring.iter().all(|id| self.member(*id).gathers)
                && !(waits && self.misses_members(&ring))
            {
                ring.iter().for_each(|id| self.totem.cancel(Step::Consensus(*id)));
                self.form(&ring);
            }
        }
    }

    /// Whether these nodes' old rings had another member that has not sent a leave message.
    fn misses_members(&self, ring: &[NodeId]) -> bool {
        let members = ring.iter().flat_map(|id| &self.member(*id).members);
        members
            .filter(|id| !ring.contains(id))
            .any(|id| self.node(*id).is_some_and(|node| !node.sent_leave))
    }

    fn consensus_expired(&mut self, id: NodeId) {
        self.form_agreed_rings(Some(id));
        let unstable = self.outcomes().iter().any(|outcome| match outcome {
            Outcome::Unstable(ids) => ids.contains(&id),
            _ => false,
        });
        let Some(timeouts) = self.totem.timeouts else { return };
        let node = self.member_mut(id);
        if node.gathers {
            // The node starts to wait again.
            node.counters.gather_entered += 1;
            node.counters.recovery_entered += u64::from(unstable);
            node.counters.operational_entered += u64::from(unstable);
            self.totem.schedule(timeouts.consensus, Step::Consensus(id));
        }
    }
}
