//! The outcome of a fault, computed from the reports of the clients.

use std::time::Duration;

use crate::{
    fault::Fault,
    support::Corosync,
    timeline::{C_CLIENT, EXCLUSIVE, QUORATE, READINGS, Timeline, total},
    watch::Watch,
};

/// The default of `QuorumBuilder::settle_grace`.
const SETTLE_GRACE: Duration = Duration::from_secs(1);
/// The clients of the nodes receive a merge one after another. For this long, in nanoseconds, a
/// node that is still in the older ring is not treated as another partition.
const SKEW: u64 = 100_000_000;

/// The longest time between two samples, in nanoseconds, with which an outcome is valid.
const LONGEST_GAP: u64 = 250_000_000;

/// The timeouts of a cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Totem {
    pub(crate) token: Duration,
    pub(crate) consensus: Duration,
}

impl Totem {
    /// Reads the timeouts of a running daemon.
    pub(crate) fn read(corosync: &Corosync) -> Self {
        let read = |key| {
            let millis = corosync.cmap_number(&format!("runtime.config.totem.{key}"));
            Duration::from_millis(millis.expect("corosync shows its timeouts"))
        };
        Self { token: read("token"), consensus: read("consensus") }
    }
}

/// The outcome of one fault: one row of the table.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    /// The excluded node: node 1 or, if one link is lost, the end of the link that totem excludes.
    pub(crate) victim: u32,
    /// The time from the fault until both other nodes were quorate without the victim.
    pub(crate) others: Option<u64>,
    /// The results of each reading, or `None` if the reading does not exist.
    pub(crate) readings: [Option<ReadingResult>; READINGS],
    /// How long the daemons of the other nodes had no ring or no decision; the longer of the two
    /// times.
    pub(crate) gap: u64,
    /// Whether the machine was so busy that the fault may not be the only cause of the outcome.
    pub(crate) is_disturbed: bool,
    /// The budgets that were not met.
    pub(crate) missed: Vec<String>,
}

/// The results of one reading.
#[derive(Debug)]
pub(crate) struct ReadingResult {
    /// The time from the fault until the reading on the victim was false.
    pub(crate) stopped: Option<u64>,
    /// Whether the reading on the victim was true again while other nodes were quorate without it.
    pub(crate) again: bool,
    /// How long the reading was true on two nodes in different partitions; the longest time of a
    /// pair.
    pub(crate) overlap: u64,
    /// How long the reading was false on another node during the fault; the longer of the two
    /// times.
    pub(crate) interrupted: u64,
}

impl Outcome {
    /// Computes the outcome. The fault began at `began` and ended at `healed`, and the cluster had
    /// formed again at `ended`.
    pub(crate) fn new(
        name: String,
        fault: Fault,
        totem: Totem,
        [began, healed, ended]: [u64; 3],
        watch: &Watch,
    ) -> Self {
        let nodes: Vec<(u32, Timeline)> = (1..=3).map(|id| (id, watch.node(id))).collect();
        let fault_time = [began, healed];
        let without = |victim| quorate_without(&nodes, victim, fault_time);
        let victim = match fault.is_of_one_link() {
            true => [1, 2].into_iter().min_by_key(|id| without(*id).unwrap_or(u64::MAX)),
            false => None,
        };
        let victim = victim.unwrap_or(1);
        let others = || nodes.iter().filter(|(id, _)| *id != victim).map(|(_, node)| node);
        let victims = &nodes[victim as usize - 1];
        let read = |reading: usize| {
            if !nodes.iter().all(|(_, node)| node.exists(reading)) {
                return None;
            }
            let changes = || reading_changes(&nodes, reading);
            let stopped = changes()
                .filter(|at| (began..ended).contains(at))
                .filter(|at| !victims.1.is_true(reading, *at))
                .min();
            let again = stopped.is_some_and(|stopped| {
                let in_others =
                    |at| nodes.iter().any(|node| victims.0 != node.0 && divided(victims, node, at));
                0 < total([stopped, ended], all_changes(&nodes), |at| {
                    victims.1.is_true(reading, at) && in_others(at)
                })
            });
            let interrupted =
                |node: &Timeline| total(fault_time, changes(), |at| node.is_false(reading, at));
            Some(ReadingResult {
                stopped: stopped.map(|at| at - began),
                again,
                overlap: overlap(&nodes, reading, [began, ended]),
                interrupted: others().map(interrupted).max().unwrap_or(0),
            })
        };
        let mut outcome = Self {
            name,
            victim,
            others: without(victim).map(|at| at - began),
            readings: [C_CLIENT, QUORATE, EXCLUSIVE].map(read),
            gap: others().map(|node| gap(node, fault_time)).max().unwrap_or(0),
            is_disturbed: nodes.iter().any(|(_, node)| node.longest_gap() > LONGEST_GAP)
                || fault.takes_one_node() && others().any(|node| node.missed_gather(fault_time)),
            missed: Vec::new(),
        };
        outcome.check(fault, totem);
        outcome
    }

    /// Compares the outcome with the budgets, which are for the readings of a handle.
    fn check(&mut self, fault: Fault, totem: Totem) {
        let allowed = SETTLE_GRACE + totem.token / 4 + Duration::from_millis(300);
        let mut missed = Vec::new();
        let mut at_most = |name: &str, value: u64, budget: Duration| {
            let value = Duration::from_nanos(value);
            if value > budget {
                missed.push(format!("{}: {name} {value:.2?}, budget {budget:.2?}", self.name));
            }
        };
        if let Some(read) = &self.readings[QUORATE] {
            at_most("overlap of is_quorate", read.overlap, allowed);
            if fault.takes_one_node() {
                at_most("is_quorate interrupted on others", read.interrupted, Duration::ZERO);
            }
        }
        if let Some(read) = &self.readings[EXCLUSIVE] {
            at_most("overlap of is_exclusive", read.overlap, Duration::ZERO);
            if fault.takes_one_node() {
                let allowed = Duration::from_nanos(self.gap) + Duration::from_millis(500);
                at_most("is_exclusive interrupted on others", read.interrupted, allowed);
            }
        }
        self.missed = missed;
    }
}

/// Returns the time at which both other nodes had a quorate decision of a ring without this node.
fn quorate_without(nodes: &[(u32, Timeline)], victim: u32, [from, to]: [u64; 2]) -> Option<u64> {
    let first = |node: &Timeline| {
        let decided = node.decisions.iter().filter(|(at, _)| (from..to).contains(at));
        let mut without =
            decided.filter(|(_, (quorate, members))| *quorate && !members.contains(&victim));
        without.next().map(|(at, _)| *at)
    };
    let others = nodes.iter().filter(|(id, _)| *id != victim);
    others.map(|(_, node)| first(node)).collect::<Option<Vec<u64>>>()?.into_iter().max()
}

/// Returns how long a reading was true on two nodes in different partitions, for the worst pair.
fn overlap(nodes: &[(u32, Timeline)], reading: usize, window: [u64; 2]) -> u64 {
    let pairs = [(0, 1), (0, 2), (1, 2)].map(|(one, other)| (&nodes[one], &nodes[other]));
    let of_pair = |(one, other): (&(u32, Timeline), &(u32, Timeline))| {
        total(window, all_changes(nodes), |at| {
            one.1.is_true(reading, at) && other.1.is_true(reading, at) && divided(one, other, at)
        })
    };
    pairs.into_iter().map(of_pair).max().unwrap_or(0)
}

/// Whether one of two nodes is in a ring without the other one.
fn divided(one: &(u32, Timeline), other: &(u32, Timeline), at: u64) -> bool {
    let (Some((first_since, first)), Some((second_since, second))) =
        (one.1.ring.at(at), other.1.ring.at(at))
    else {
        return false;
    };
    let (has_other, has_one) = (first.members.contains(&other.0), second.members.contains(&one.0));
    if has_other && has_one {
        return false;
    }
    let newer_has_both = if first.seq > second.seq { has_other } else { has_one };
    !newer_has_both || at >= *first_since.max(second_since) + SKEW
}

/// Returns how long the daemon was between GATHER and its next decision.
fn gap(node: &Timeline, window: [u64; 2]) -> u64 {
    let [from, to] = window;
    let gathers: Vec<u64> = node.gathers_after(from).collect();
    let decisions: Vec<u64> = node.decisions.iter().map(|(at, _)| *at).collect();
    let undecided = |at: u64| {
        let gathered = gathers.iter().rev().find(|gathered| **gathered <= at);
        gathered.is_some_and(|gathered| !decisions.iter().any(|d| (*gathered..=at).contains(d)))
    };
    total([from, to], gathers.iter().chain(&decisions).copied(), undecided)
}

/// Returns the times at which a reading changed on any node.
fn reading_changes(nodes: &[(u32, Timeline)], reading: usize) -> impl Iterator<Item = u64> {
    nodes.iter().flat_map(move |(_, node)| node.readings[reading].iter().map(|(at, _)| *at))
}

/// Returns the times at which a reading or a partition changed.
fn all_changes(nodes: &[(u32, Timeline)]) -> Vec<u64> {
    let rings = nodes.iter().flat_map(|(_, node)| node.ring.iter().map(|(at, _)| *at));
    let rings = rings.flat_map(|at| [at, at + SKEW]);
    (0..READINGS).flat_map(|reading| reading_changes(nodes, reading)).chain(rings).collect()
}
