//! What a fault led to, computed from what the clients reported.

use std::time::Duration;

use crate::{
    fault::Fault,
    support::Corosync,
    timeline::{C_CLIENT, EXCLUSIVE, QUORATE, READINGS, Timeline, total},
    watch::Watch,
};

/// The default of `QuorumBuilder::settle_grace`.
const SETTLE_GRACE: Duration = Duration::from_secs(1);
/// A merge reaches the nodes' clients one after another. For so long a node that is still in the
/// older ring is not in another partition.
const SKEW: u64 = 100_000_000;

/// With more time than this between two samples too little is known.
const LONGEST_GAP: u64 = 250_000_000;

/// The timeouts that a cluster runs with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Totem {
    pub(crate) token: Duration,
    pub(crate) consensus: Duration,
}

impl Totem {
    pub(crate) fn read(corosync: &Corosync) -> Self {
        let read = |key| {
            let millis = corosync.cmap_number(&format!("runtime.config.totem.{key}"));
            Duration::from_millis(millis.expect("corosync shows its timeouts"))
        };
        Self { token: read("token"), consensus: read("consensus") }
    }
}

/// One row.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    /// The node that was left out. Node 1, but a lost link leaves its end out that totem chooses.
    pub(crate) victim: u32,
    /// When both others were quorate without the victim, after the fault.
    pub(crate) others: Option<u64>,
    /// `None` for a reading that does not exist.
    pub(crate) readings: [Option<Read>; READINGS],
    /// For how long the daemons of the others had no ring or no decision, on the worse of them.
    pub(crate) gap: u64,
    /// Whether the machine was too busy: what was measured is not the fault's doing alone.
    pub(crate) is_disturbed: bool,
    /// The budgets that were missed.
    pub(crate) missed: Vec<String>,
}

/// What one reading said.
#[derive(Debug)]
pub(crate) struct Read {
    /// When the victim was no longer believed, after the fault.
    pub(crate) stopped: Option<u64>,
    /// Whether the victim was believed again while others went on without it.
    pub(crate) again: bool,
    /// For how long two nodes in different partitions were believed, for the worst pair.
    pub(crate) overlap: u64,
    /// For how long a node other than the victim was not believed during the fault, for the worse.
    pub(crate) interrupted: u64,
}

impl Outcome {
    /// `began`, `healed` and `ended` are when the fault began and ended, and when all was well again.
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
                .filter(|at| !victims.1.believed(reading, *at))
                .min();
            let again = stopped.is_some_and(|stopped| {
                let in_others =
                    |at| nodes.iter().any(|node| victims.0 != node.0 && divided(victims, node, at));
                0 < total([stopped, ended], all_changes(&nodes), |at| {
                    victims.1.believed(reading, at) && in_others(at)
                })
            });
            let interrupted =
                |node: &Timeline| total(fault_time, changes(), |at| node.disbelieved(reading, at));
            Some(Read {
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
            is_disturbed: nodes.iter().any(|(_, node)| node.longest_gap() > LONGEST_GAP),
            missed: Vec::new(),
        };
        outcome.check(fault, totem);
        outcome
    }

    /// Compares with the budgets, which are for the readings of a handle.
    fn check(&mut self, fault: Fault, totem: Totem) {
        let allowed = SETTLE_GRACE + totem.token / 4 + Duration::from_millis(300);
        let mut missed = Vec::new();
        let mut at_most = |what: &str, value: u64, budget: Duration| {
            let value = Duration::from_nanos(value);
            if value > budget {
                missed.push(format!("{}: {what} {value:.2?}, budget {budget:.2?}", self.name));
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

/// When both other nodes had decided to be quorate in a ring without this one.
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

/// For how long two nodes that were not in one partition were believed, for the worst pair.
fn overlap(nodes: &[(u32, Timeline)], reading: usize, window: [u64; 2]) -> u64 {
    let pairs = [(0, 1), (0, 2), (1, 2)].map(|(one, other)| (&nodes[one], &nodes[other]));
    let of_pair = |(one, other): (&(u32, Timeline), &(u32, Timeline))| {
        total(window, all_changes(nodes), |at| {
            one.1.believed(reading, at) && other.1.believed(reading, at) && divided(one, other, at)
        })
    };
    pairs.into_iter().map(of_pair).max().unwrap_or(0)
}

/// Whether one of two nodes is in a ring without the other.
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

/// For how long the daemon was between GATHER and its next decision.
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

fn reading_changes(nodes: &[(u32, Timeline)], reading: usize) -> impl Iterator<Item = u64> {
    nodes.iter().flat_map(move |(_, node)| node.readings[reading].iter().map(|(at, _)| *at))
}

/// When anything changed that a reading or a partition depends on.
fn all_changes(nodes: &[(u32, Timeline)]) -> Vec<u64> {
    let rings = nodes.iter().flat_map(|(_, node)| node.ring.iter().map(|(at, _)| *at));
    let rings = rings.flat_map(|at| [at, at + SKEW]);
    (0..READINGS).flat_map(|reading| reading_changes(nodes, reading)).chain(rings).collect()
}
