//! The changes that an actor publishes, reduced to what must be equal on both clusters.

use std::{
    cell::{Cell, RefCell},
    thread,
};

use actix_quorum::{
    Cause, Connection, Error, NodeId, Quorum, QuorumChanged, QuorumHandle, RingState, Snapshot,
    libquorum::Model, sim,
};

use super::{
    backend::patient,
    sequences::{Sequence, sequence},
    v0::{members, sequence_with_v0},
};

use crate::support::{Fake, Watcher, eventually, lines};

/// The changes that the actor on one node publishes. Drop stops the actor, and checks that it
/// published no unexpected change.
pub(crate) struct Observer {
    id: u32,
    watcher: Watcher,
    /// Whether only the first of several sequences is accepted.
    first_only: bool,
    /// Whether there is a provider, which reports votes.
    has_votes: bool,
    model: Model,
    /// Whether the last step had a decision about its ring.
    decided: Cell<bool>,
    seen: RefCell<Vec<QuorumChanged>>,
}

impl Observer {
    /// Accepts any of several sequences.
    pub(crate) fn any(id: u32, watcher: Watcher, model: Model) -> Self {
        Self {
            id,
            watcher,
            first_only: false,
            has_votes: true,
            model,
            decided: Cell::default(),
            seen: RefCell::default(),
        }
    }

    /// Accepts only the first of several sequences.
    pub(crate) fn first_only(id: u32, watcher: Watcher) -> Self {
        let mut observer = Self::any(id, watcher, Model::V1);
        observer.first_only = true;
        observer
    }

    /// Does not wait for votes, because there is no provider to report them.
    pub(crate) fn without_votes(mut self) -> Self {
        self.has_votes = false;
        self
    }

    /// Waits until the votes are known, if the node is connected and settled: they decide whether a
    /// change of membership interrupts quorum.
    fn know_votes(&self) {
        eventually("the votes are known", || {
            let now = self.quorum().snapshot();
            let has_none = now.connection != Connection::Connected || !now.settled;
            (has_none || !self.has_votes || now.votes.is_some()).then_some(())
        });
    }

    pub(crate) fn quorum(&self) -> &QuorumHandle {
        &self.watcher.quorum
    }

    /// Expects these next steps.
    #[track_caller]
    pub(crate) fn expect(&self, steps: &[&str]) {
        self.expect_one_of(&[sequence(steps)]);
    }

    /// Expects one of these sequences. They must be all the sequences that a real cluster can
    /// produce. A cluster without delays produces the first one.
    #[track_caller]
    pub(crate) fn expect_one_of(&self, sequences: &[Sequence]) {
        let with_v0;
        let mut sequences = sequences;
        if self.model == Model::V0 {
            let known = self.seen.borrow().last().map_or(Vec::new(), |change| {
                change.current.members.iter().map(|node| node.0).collect()
            });
            let mut expected: Vec<_> =
                sequences.iter().map(|sequence| sequence_with_v0(sequence, &known)).collect();
            expected.sort();
            expected.dedup();
            with_v0 = expected;
            sequences = &with_v0;
        }
        let ends = sequences
            .iter()
            .all(|one| sequences.iter().filter(|other| other.starts_with(one)).count() == 1);
        assert!(ends, "a sequence continues where another one ends: {sequences:#?}");
        let sequences = if self.first_only { &sequences[..1] } else { sequences };
        let mut steps = Sequence::new();
        let matching =
            |steps: &Sequence| sequences.iter().find(|sequence| sequence.starts_with(steps));
        loop {
            let Step { step, without_rejoined, may_be_more } = self.next_step();
            steps.push(step);
            if matching(&steps).is_none()
                && let Some(without_rejoined) = without_rejoined
            {
                steps.pop();
                steps.push(without_rejoined);
            }
            match matching(&steps) {
                Some(sequence) if sequence.len() == steps.len() => return self.know_votes(),
                Some(_) => {}
                None if may_be_more => drop(steps.pop()),
                None if !self.first_only && is_partial(&steps, sequences) => {
                    return self.expect_end(sequences);
                }
                None => panic!(
                    "node {} published {steps:#?}\nand not one of {sequences:#?}\nall so far:{}",
                    self.id,
                    lines(&self.seen.borrow())
                ),
            }
        }
    }

    /// Waits for the state with which one of these sequences ends.
    #[track_caller]
    fn expect_end(&self, sequences: &[Sequence]) {
        let ends: Vec<_> = sequences.iter().filter_map(|one| state(one.last()?)).collect();
        loop {
            let Step { step, .. } = self.next_step();
            if !step.contains(", unsettled") && state(&step).is_some_and(|end| ends.contains(&end))
            {
                return self.know_votes();
            }
        }
    }

    /// Returns the reason why the next attempt to connect fails. A long attempt is not a reason:
    /// this process may be connecting to a daemon that another test has paused.
    #[track_caller]
    pub(crate) fn error(&self) -> Error {
        loop {
            match &self.next().current.connection {
                Connection::Connecting {
                    error: Some(Error::Unresponsive | Error::ConnectInProgress),
                    ..
                } => {}
                Connection::Connecting { error: Some(error), .. } => return error.clone(),
                other => panic!("node {}: no failed attempt to connect, but {other}", self.id),
            }
        }
    }

    /// Returns the next step. These changes are not steps, unless quorum changes:
    ///
    /// - attempts to connect, votes, and the state of the ring by the daemon's counters;
    /// - on a real cluster, a new ring of the same members, which totem forms whenever it failed to
    ///   form another one;
    /// - a decision that does not count before the ring is found to be alive: the change at that
    ///   moment is the step;
    /// - a loss that votequorum reports just before its decision: the decision is the step.
    ///
    /// With model V0, a new ring of the same members and a loss before the decision are ordinary
    /// steps, which a real cluster may take in addition to those of a sequence.
    #[track_caller]
    fn next_step(&self) -> Step {
        let mut same_again = false;
        let mut interrupted = false;
        let mut since = None;
        loop {
            let change = self.next();
            match change.cause {
                Cause::ConnectFailed | Cause::Votes => {}
                Cause::Ring if change.previous.quorum == change.current.quorum => {}
                Cause::Quorum if waits_for_ring(&change) => {
                    interrupted |= change.interrupted() && self.model == Model::V0;
                    since.get_or_insert(change.previous);
                }
                Cause::Membership if !self.first_only && is_same_again(&change) => {
                    // If the ring before this one was not decided, the decision about this one is a
                    // step.
                    same_again = self.decided.get();
                }
                Cause::Quorum if same_again && is_still_so(&change) => same_again = false,
                Cause::Quorum if !self.first_only && is_early(&change) => {
                    interrupted |= change.interrupted();
                }
                _ => {
                    // If the ring is found to be alive, an earlier decision counts from now on.
                    if change.cause != Cause::Ring || change.current.settled {
                        self.decided.set(change.current.settled);
                    }
                    let may_be_more = self.model == Model::V0
                        && (is_ring_again(&change) || change.is_loss() && !is_new_ring(&change));
                    let before = since.filter(|_| self.model == Model::V0);
                    let (mut step, without_rejoined) = step(&change, before.as_deref());
                    if interrupted && !change.interrupted() {
                        step += "; interrupted";
                    }
                    let without_rejoined = without_rejoined.filter(|_| !self.first_only);
                    return Step { step, without_rejoined, may_be_more };
                }
            }
        }
    }

    #[track_caller]
    fn next(&self) -> QuorumChanged {
        let mut seen = self.seen.borrow_mut();
        let Some(change) = self.watcher.try_next() else {
            panic!("node {} publishes nothing more; so far:{}", self.id, lines(&seen))
        };
        check(seen.last(), &change);
        seen.push(change.clone());
        change
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        let connected = self.quorum().snapshot().connection == Connection::Connected;
        self.watcher.stop();
        self.expect(&[if connected {
            "unknown: stopped; interrupted"
        } else {
            "unknown: stopped"
        }]);
    }
}

/// The comparable part of one change.
struct Step {
    step: String,
    /// The same as if the rejoined nodes had stayed. Real daemons may form a ring with some of the
    /// members, and another one with all of them before votequorum has decided about the first;
    /// nodes missing in the first have rejoined.
    without_rejoined: Option<String>,
    /// Whether a real cluster may add this step to those of a sequence.
    may_be_more: bool,
}

/// Whether the last step is a ring of only some members of the ring with which each sequence ends.
/// Nodes that get no processor time send their packets late, so a real cluster may form such a ring
/// first.
fn is_partial(steps: &Sequence, sequences: &[Sequence]) -> bool {
    let Some(last) = steps.last().filter(|step| step.contains("new ring")) else { return false };
    let Some((_, ring)) = state(last) else { return false };
    let end = |one: &Sequence| state(one.last()?).map(|(_, members)| members);
    sequences.iter().map(end).all(|end| {
        end.is_some_and(|end| {
            ring.len() < end.len() && ring.iter().all(|member| end.contains(member))
        })
    })
}

/// Returns the quorum and the members in a step that has a ring.
fn state(step: &str) -> Option<(&str, Vec<u32>)> {
    Some((step.split_once(':')?.0, members(step)?))
}

/// Whether only the ring has changed, in the middle of a connection.
fn is_same_again(change: &QuorumChanged) -> bool {
    let (before, now) = (&change.previous, &change.current);
    before.ring_id.is_some()
        && before.members == now.members
        && change.left.is_empty()
        && before.quorum == now.quorum
}

/// Whether this decision counts only once the ring is found to be alive.
fn waits_for_ring(change: &QuorumChanged) -> bool {
    let now = &change.current;
    now.settled && now.ring == RingState::Unknown && now.quorum == Quorum::Unknown
}

/// Whether this is a decision that leaves quorum unchanged.
fn is_still_so(change: &QuorumChanged) -> bool {
    change.current.settled && change.previous.quorum == change.current.quorum
}

/// Whether quorum is lost on a ring without a decision.
fn is_early(change: &QuorumChanged) -> bool {
    let (before, now) = (&change.previous, &change.current);
    change.is_loss()
        && now.quorum == Quorum::Inquorate
        && !now.settled
        && before.ring_id == now.ring_id
}

fn is_new_ring(change: &QuorumChanged) -> bool {
    change.previous.ring_id != change.current.ring_id
}

/// Whether this is only another ring of the same members.
fn is_ring_again(change: &QuorumChanged) -> bool {
    let (before, now) = (&change.previous, &change.current);
    is_new_ring(change) && before.members == now.members && before.quorum == now.quorum
}

/// Returns one line with everything that is compared. The line shows whether the ring is new, but
/// does not contain its number. The nodes that joined and left are those since `before`, or since
/// the previous change if `before` is `None`. If nodes have rejoined, the second value is the line
/// that they would have caused if they had stayed.
fn step(change: &QuorumChanged, before: Option<&Snapshot>) -> (String, Option<String>) {
    let now = &change.current;
    let (joined, left) = match before {
        Some(before) => {
            let without = |these: &[NodeId], others: &[NodeId]| -> Vec<NodeId> {
                these.iter().copied().filter(|node| !others.contains(node)).collect()
            };
            (without(&now.members, &before.members), without(&before.members, &now.members))
        }
        None => (change.joined.to_vec(), change.left.to_vec()),
    };
    let before = before.unwrap_or(&change.previous);
    let mut step = format!("{}: ", now.quorum);
    let list = |nodes: &[_]| nodes.iter().map(|node| format!(" {node}")).collect::<String>();
    match (&now.connection, now.ring_id) {
        (Connection::Connecting { .. }, _) => step += "connecting",
        (Connection::Connected, None) => step += "connected",
        (Connection::Connected, ring) => {
            let new = if ring == before.ring_id { "" } else { "new " };
            let unsettled = if now.settled { "" } else { ", unsettled" };
            step += &format!("{new}ring{}{unsettled}", list(&now.members));
        }
        (Connection::Disconnected { .. }, _) => step += "disconnected",
        (Connection::Stopped, _) => step += "stopped",
        (other, _) => panic!("no step has the connection {other:?}"),
    }
    let rejoined = joined.iter().any(|node| left.contains(node));
    let stayed = |node: &&NodeId| !(joined.contains(node) && left.contains(node));
    let mut without_rejoined = step.clone();
    for (what, nodes) in [("joined", &joined), ("left", &left)] {
        if !nodes.is_empty() {
            step += &format!("; {what}{}", list(nodes));
        }
        let nodes: Vec<NodeId> = nodes.iter().filter(stayed).copied().collect();
        if !nodes.is_empty() {
            without_rejoined += &format!("; {what}{}", list(&nodes));
        }
    }
    if change.interrupted() {
        step += "; interrupted";
    }
    (step, rejoined.then_some(without_rejoined))
}

/// Checks the properties of every change.
#[track_caller]
fn check(last: Option<&QuorumChanged>, change: &QuorumChanged) {
    let (before, now) = (&change.previous, &change.current);
    assert_eq!(last.is_none(), change.cause == Cause::Subscribed, "{change}");
    if let Some(last) = last {
        assert_eq!(
            last.current, *before,
            "`previous` is the `current` state of the preceding change"
        );
        assert_eq!(now.sequence, before.sequence + 1, "{change}");
        let broken = change.is_loss() || change.cause == Cause::Disconnected;
        let breaks = now.epoch - before.epoch;
        assert!(breaks == 1 || (breaks == 0 && !broken), "{change}: {breaks} breaks");
    }
    assert_eq!(change.missed, 0, "{change}");

    let mut members = before.members.clone();
    members.retain(|node| !change.left.contains(node));
    members.extend(change.joined.iter().copied());
    members.sort_unstable();
    assert_eq!(members, now.members, "{change}");
    for nodes in [&*now.members, &*change.joined, &*change.left] {
        assert!(nodes.is_sorted_by(|a, b| a < b), "{change}");
    }

    let rejoined = change.joined.iter().filter(|node| change.left.contains(node));
    assert!(change.rejoined().eq(rejoined.copied()), "{change}");

    if let (Some(old), Some(new)) = (before.ring_id, now.ring_id) {
        assert!(old == new || old.seq < new.seq, "ring ids must increase: {change}");
    }
    if now.settled || now.quorum != Quorum::Unknown {
        assert_eq!(now.connection, Connection::Connected, "{change}");
    }
}

/// Returns a fake libquorum that has reported a quorate ring of the nodes 1, 2 and 3, and the
/// observer of a node that has received this report.
fn formed(name: &str, node: u32) -> (Fake, Observer) {
    let fake = Fake::new(name);
    let observer = Observer::any(node, fake.watch(), Model::V1).without_votes();
    observer.expect(&["unknown: connecting", "unknown: connected"]);
    fake.push_both(true, 7);
    observer.expect(&["unknown: new ring 1 2 3, unsettled; joined 1 2 3", "quorate: ring 1 2 3"]);
    (fake, observer)
}

/// A resumed daemon has formed a ring alone, and then a second one, before votequorum has decided
/// about the first.
#[test]
#[ignore = "needs a C compiler: make test"]
fn a_second_ring_of_the_same_members_before_the_decision_is_not_a_step() {
    let (fake, observer) = formed("second_ring", 3);
    fake.push_nodelist((3, 11), Some(&[3]), Some(&[]), Some(&[1, 2]));
    fake.push_nodelist((3, 15), Some(&[3]), Some(&[]), Some(&[]));
    fake.push_quorum(0, (3, 15), Some(&[3]));
    observer.expect(&[
        "quorate: new ring 3, unsettled; left 1 2; interrupted",
        "inquorate: ring 3; interrupted",
    ]);
}

/// Quorum is gained late, when the first ring is found to be alive. Then the same nodes form
/// another ring, which the observer must not report as a step. This is checked when the observer is
/// dropped.
#[test]
fn a_second_ring_of_the_same_members_after_a_late_gain_is_not_a_step() {
    let cluster = sim::Cluster::new(3);
    let node = cluster.node(1);
    let watcher = Watcher::here(|builder| patient(builder).source(node));
    let observer = Observer::any(1, watcher, Model::V1);
    observer.expect(&[
        "unknown: connecting",
        "unknown: connected",
        "unknown: new ring 1 2 3, unsettled; joined 1 2 3",
        "quorate: ring 1 2 3",
    ]);
    let first = observer.quorum().snapshot();
    cluster.hold_rings();
    cluster.partition(&[&[1], &[2, 3]]).unwrap();
    eventually("the ring is lost", || {
        (observer.quorum().snapshot().ring == RingState::Gather).then_some(())
    });
    cluster.heal();
    cluster.release_rings();
    eventually("there is a decision about another ring", || {
        let now = observer.quorum().snapshot();
        (now.settled && now.ring_id != first.ring_id).then_some(())
    });
}

/// Node 2 got no processor time for a moment while node 4 joined, so a ring without node 2 formed
/// first.
#[test]
#[ignore = "needs a C compiler: make test"]
fn a_ring_of_only_some_members_may_come_first() {
    let (fake, observer) = formed("partial_ring", 1);
    fake.push_nodelist((1, 11), Some(&[1, 3]), Some(&[]), Some(&[2]));
    let all = Some(&[1, 2, 3, 4][..]);
    fake.push_nodelist((1, 15), all, Some(&[2, 4]), Some(&[]));
    fake.push_quorum(1, (1, 15), all);
    observer.expect(&["quorate: new ring 1 2 3 4, unsettled; joined 4", "quorate: ring 1 2 3 4"]);
}

#[test]
#[ignore = "needs a C compiler: make test"]
#[should_panic(expected = "node 1 published")]
fn a_ring_of_all_members_with_other_lists_is_refused() {
    let (fake, observer) = formed("other_lists", 1);
    fake.push_nodelist((1, 11), Some(&[1, 2, 3, 4]), Some(&[3, 4]), Some(&[3]));
    fake.push_quorum(1, (1, 11), Some(&[1, 2, 3, 4]));
    observer.expect(&["quorate: new ring 1 2 3 4, unsettled; joined 2 4", "quorate: ring 1 2 3 4"]);
}
