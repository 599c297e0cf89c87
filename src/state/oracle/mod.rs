//! A model of the guarantees: computes from the events of one actor what the actor may report,
//! without the code of the [`Tracker`].
//!
//! Each check restates one sentence of "What is guaranteed" in README.md. Every tracker has an
//! oracle in unit tests, in the property tests in `tests/property/` and under the fuzzer, and the
//! oracle panics at the first event after which a guarantee does not hold. The oracle knows only
//! the events. It does not know the cluster: which nodes may truly be quorate is the subject of
//! `tests/property/model.rs`.

mod link;

use std::{collections::BTreeSet, sync::Arc};

use self::link::{InterruptionReasons, Link, is_majority};
use super::{
    BeliefPolicy, Connection, DepartureLog, Event, Now, Quorum, QuorumChanged, RingState, Snapshot,
    Tracker, first,
};
use crate::{
    error::Error,
    libquorum::{NodeId, Notification, VoteFlags, Votes},
    link::{clock::Moment, ring_reading::RingReading},
};

/// Checks the events of one tracker.
#[derive(Debug)]
pub(crate) struct Oracle {
    policy: BeliefPolicy,
    /// What the current connection has reported. `None` without a connection.
    link: Option<Link>,
    /// The last read of a connection that ended because an announcement seemed to be missing. The
    /// reads of the next connection are compared with it.
    last_read: Option<RingReading>,
    /// Since when all conditions for quorum have been met, without a break.
    quorate_since: Option<Moment>,
    departures: DepartureLog,
    changes: Vec<QuorumChanged>,
}

type Set = BTreeSet<NodeId>;

fn set(nodes: &[NodeId]) -> Set {
    nodes.iter().copied().collect()
}

impl Oracle {
    pub(crate) fn new(policy: BeliefPolicy) -> Self {
        Self {
            policy,
            link: None,
            last_read: None,
            quorate_since: None,
            departures: DepartureLog::default(),
            changes: Vec::new(),
        }
    }

    /// Applies the event to the tracker and checks the result. The caller has taken this oracle out
    /// of the tracker, so that the tracker does not check again.
    pub(crate) fn check(
        &mut self,
        tracker: &mut Tracker,
        event: Event,
        now: Now,
    ) -> Option<QuorumChanged> {
        let before = Arc::clone(tracker.current());
        let deadline = tracker.deadline();
        let believed_in_ring = tracker.believes_in_ring(now.moment);
        let change = tracker.apply(event.clone(), now);
        let after = Arc::clone(tracker.current());

        check_change(&before, &after, change.as_ref(), now);
        if before.connection == Connection::Stopped {
            assert!(change.is_none(), "nothing follows a stop");
            return None;
        }
        if matches!(event, Event::Tick) && change.is_some() {
            assert!(deadline.is_some_and(|due| due <= now.moment), "a tick changes nothing early");
        }
        assert!(
            tracker.deadline().is_none_or(|due| due > now.moment),
            "a deadline that has passed has had its effect"
        );

        let expired = self.expire(&before, deadline, now.moment);
        let was_linked = self.link.is_some();
        // Without quorum nothing is interrupted. An expired deadline interrupts in any case.
        let was_held = self.quorate_since.is_some() && !expired.any() && believed_in_ring;
        let InterruptionReasons { reformed, others } =
            self.fold(&event, now.moment, &before, was_held);
        self.check_members(&event, &before, &after);
        check_joined_and_left(&event, was_linked, &before, &after, change.as_ref());

        let was_disconnected = was_linked && self.link.is_none();
        let is_loss = before.quorum.is_quorate() && !after.quorum.is_quorate();
        let must_move = expired.is_seen_by_readers || others || was_disconnected || is_loss;
        let moved = after.epoch - before.epoch;
        assert!(moved == 1 || !must_move, "the epoch grows when continuity is broken");
        assert!(moved <= u64::from(must_move || reformed), "the epoch grows for no other reason");

        let is_unbroken = moved == 0 && !expired.decision && believed_in_ring;
        self.check_quorum(tracker, (&before, &after), now.moment, is_unbroken, &expired);
        self.check_deadline(tracker, &after);
        self.check_exclusive(tracker, &after);
        self.check_votes(&after);
        if let Some(change) = &change {
            self.departures.note(change);
            self.changes.push(change.clone());
        }
        if after.connection == Connection::Stopped {
            self.check_conflation();
        }
        change
    }

    /// Finds the deadlines that have passed. Readers compare them with the clock, so a deadline
    /// takes effect even if the tracker is not called.
    fn expire(&mut self, before: &Snapshot, deadline: Option<Moment>, now: Moment) -> Expired {
        let Some(link) = self.link.as_mut() else { return Expired::default() };
        let was_quorate = before.quorum.is_quorate();
        let was_connected = before.connection == Connection::Connected;
        let decision = !link.is_believed(&self.policy, now);
        let daemon = !link.lives(&self.policy, now);
        let passed = deadline.filter(|due| was_quorate && *due <= now);
        if was_connected && daemon {
            link.expired_at = link.expired_at.max(link.lived_at.after(self.policy.lease));
        }
        if let Some(due) = passed.filter(|_| !decision && !daemon) {
            link.expired_at = link.expired_at.max(due);
        }
        let is_seen_by_readers =
            was_connected && daemon || was_quorate && decision || passed.is_some();
        Expired { decision, daemon, is_seen_by_readers }
    }

    /// Adds the event to what the current connection has reported. Returns the reasons for which
    /// the event may interrupt quorum.
    fn fold(
        &mut self,
        event: &Event,
        now: Moment,
        before: &Snapshot,
        was_held: bool,
    ) -> InterruptionReasons {
        match (event, &mut self.link) {
            (Event::Connected { has_provider, asked_at, watched }, link) => {
                let last_read = self.last_read.take();
                *link =
                    Some(Link::new(*has_provider, *asked_at, *watched, last_read, &self.policy));
                InterruptionReasons::default()
            }
            (Event::Disconnected(Error::NotAnnounced), Some(linked)) => {
                self.last_read = linked.ring.run.pop();
                self.link = None;
                InterruptionReasons { reformed: true, others: false }
            }
            (Event::Disconnected(_), None) => {
                self.last_read = None;
                InterruptionReasons { reformed: true, others: false }
            }
            (event, None) => {
                self.last_read.take_if(|_| matches!(event, Event::Failed { .. }));
                InterruptionReasons::default()
            }
            (Event::Disconnected(_) | Event::Failed { .. } | Event::Stopped, link) => {
                *link = None;
                InterruptionReasons { reformed: true, others: false }
            }
            (_, Some(link)) => link.fold(event, now, before, was_held, &self.policy),
        }
    }

    /// Checks that the node is quorate only while all conditions are met. A gain must have lasted
    /// for `stable_after`.
    fn check_quorum(
        &mut self,
        tracker: &Tracker,
        (before, after): (&Snapshot, &Snapshot),
        now: Moment,
        is_unbroken: bool,
        expired: &Expired,
    ) {
        let link = self.link.as_ref();
        let lives = link.is_some_and(|link| link.lives(&self.policy, now));
        assert_eq!(after.connection == Connection::Connected, lives);
        assert_eq!(after.connection == Connection::Stalled, link.is_some() && !lives);
        if after.ring != RingState::Gather {
            assert_eq!(after.settled, link.is_some_and(Link::is_settled));
        }
        let is_decided =
            link.is_some_and(|link| lives && link.decides() && link.is_believed(&self.policy, now));
        let is_unwatched = link.is_some_and(|link| link.ring.is_unwatched);
        // The tracker reports whether it believes that the ring is alive; `check_deadline` checks
        // for how long it does so.
        let is_believed = is_decided && (is_unwatched || tracker.believes_in_ring(now));
        let by_votes = self.trusts_votes(after);
        let is_quorate = is_believed && by_votes == Some(true);
        let since = self.quorate_since.filter(|_| is_unbroken);
        self.quorate_since = is_quorate.then(|| since.unwrap_or(now));

        let was_published = before.quorum.is_quorate() && !expired.is_seen_by_readers;
        let is_stable = |since: Moment| now >= since.after(self.policy.stable_after);
        let expected = self.quorate_since.is_some_and(|since| was_published || is_stable(since));
        assert_eq!(after.quorum.is_quorate(), expected);
        if after.quorum == Quorum::Inquorate {
            // While `stable_after` delays a gain, `quorum` keeps its previous value.
            let is_held_back = is_quorate && before.quorum == Quorum::Inquorate;
            let is_denied = link.is_some_and(|link| link.decision.is_some() && !link.decides())
                || is_believed && by_votes == Some(false);
            assert!(lives && (is_denied || is_held_back), "only Corosync makes a node inquorate");
        }
    }

    /// Whether the votes allow quorum, or `None` if that is not known. Without `trust_two_node`, a
    /// node of a two-node cluster needs a majority.
    fn trusts_votes(&self, after: &Snapshot) -> Option<bool> {
        if self.policy.trust_two_node || self.link.as_ref().is_some_and(|link| !link.has_provider) {
            return Some(true);
        }
        let votes = after.votes.as_ref()?;
        let is_two_node = votes.flags.contains(VoteFlags::TWO_NODE);
        Some(!is_two_node || is_majority(votes, &after.members))
    }

    /// Checks that readers see quorum at most until the first of the three deadlines.
    fn check_deadline(&self, tracker: &Tracker, after: &Snapshot) {
        let Some(link) = self.link.as_ref().filter(|_| after.quorum.is_quorate()) else { return };
        let until = tracker.deadline().expect("quorum has a deadline");
        let grace = self.policy.settle_grace;
        assert!(until <= link.lived_at.after(self.policy.lease), "a dead daemon is not believed");
        assert!(
            link.differs_since.is_none_or(|since| until <= since.after(grace)),
            "an overdue decision is not believed"
        );
        assert!(until <= link.ring.latest(link.expired_at), "a dead ring is not believed");
    }

    /// Checks that the node is exclusive only while no other partition can be quorate.
    fn check_exclusive(&self, tracker: &Tracker, after: &Snapshot) {
        let Some(until) = tracker.exclusive_until() else { return };
        let link = self.link.as_ref().expect("an exclusive node is connected");
        assert!(after.quorum.is_quorate() && after.settled);
        assert!(Some(until) <= tracker.deadline());
        let votes = link.votes.as_ref().expect("the votes of an exclusive node are known");
        assert!(is_majority(votes, &after.members));
        let (_, decided_after) = *link.ring.decisions.last().expect("the ring was decided");
        // The reads may show different timeouts.
        let reads = &link.ring.run;
        let read_at = reads.iter().map(|read| read.asked_at).max().expect("the ring was read");
        let consensus = reads.iter().map(|read| read.consensus).max().unwrap_or_default();
        assert!(until <= read_at.max(decided_after).after(consensus));
    }

    fn check_votes(&self, after: &Snapshot) {
        if let Some(link) = &self.link {
            let reported = |votes: &Option<Votes>| {
                votes.clone().map(|votes| Votes { configured: None, ..votes })
            };
            assert_eq!(reported(&after.votes), reported(&link.votes));
        }
        for spared in [&[], &after.members[..after.members.len().min(1)], &after.members] {
            assert_eq!(after.quorate_without(spared), quorate_without(after, spared));
        }
    }

    /// Checks that the members are those of the last nodelist or, without a nodelist (model V0), of
    /// the last decision.
    fn check_members(&self, event: &Event, before: &Snapshot, after: &Snapshot) {
        let is_v0 = self.link.as_ref().is_some_and(|l| l.has_provider && l.nodelist.is_none());
        let (ring_id, members) = match event {
            Event::Notified {
                notification: Notification::Nodelist { ring_id, members, .. },
                ..
            } if self.link.is_some() => (Some(*ring_id), set(members)),
            Event::Notified {
                notification: Notification::Quorum { ring_id, members, .. }, ..
            } if is_v0 => (Some(*ring_id), set(members)),
            Event::Connected { .. } => (None, set(&before.members)),
            _ => (before.ring_id, set(&before.members)),
        };
        assert_eq!((after.ring_id, &after.members), (ring_id, &members.into_iter().collect()));
    }

    /// Checks the merged change that a slow subscriber receives, for each state that may be the
    /// last one that the subscriber has received.
    fn check_conflation(&self) {
        let Some(latest) = self.changes.last() else { return };
        let current = &latest.current;
        let first = first(current);
        assert_eq!((&*first.joined, first.left.len()), (&*current.members, 0));
        let mut left = Set::new();
        for (missed, change) in self.changes.iter().rev().enumerate() {
            left.extend(change.left.iter());
            let seen = &change.previous;
            let merged = self.departures.conflate(seen, latest);
            let (old, new) = (set(&seen.members), set(&current.members));
            let rejoined = &(&left & &old) & &new;
            assert_eq!((&merged.previous, &merged.current), (seen, current));
            assert_eq!(set(&merged.joined), &(&new - &old) | &rejoined);
            assert_eq!(set(&merged.left), &(&old - &new) | &rejoined);
            assert_eq!(merged.rejoined().collect::<Set>(), rejoined);
            assert_eq!(merged.missed, missed as u64);
            assert_eq!(merged.cause, latest.cause);
        }
    }
}

/// The deadlines that have passed.
#[derive(Debug, Default)]
struct Expired {
    /// A decision about this membership is overdue.
    decision: bool,
    daemon: bool,
    /// Readers may have seen that a deadline passed.
    is_seen_by_readers: bool,
}

impl Expired {
    fn any(&self) -> bool {
        self.decision || self.daemon || self.is_seen_by_readers
    }
}

/// Checks that a change is published if and only if the state has changed, and that the sequence
/// number then grows by one.
fn check_change(
    before: &Arc<Snapshot>,
    after: &Arc<Snapshot>,
    change: Option<&QuorumChanged>,
    now: Now,
) {
    assert!(after.members.is_sorted_by(|one, next| one < next));
    let Some(change) = change else {
        assert!(Arc::ptr_eq(before, after), "nothing changed");
        return;
    };
    assert!(Arc::ptr_eq(&change.previous, before) && Arc::ptr_eq(&change.current, after));
    assert_eq!((after.sequence, after.changed_at), (before.sequence + 1, now.wall));
    assert_eq!(change.missed, 0);
    for nodes in [&change.joined, &change.left] {
        assert!(nodes.is_sorted_by(|one, next| one < next));
    }
    assert!(!change.to_string().is_empty());
}

/// Checks that `joined` and `left` list exactly the nodes that became or ceased to be members, and
/// that both list the members that restarted.
fn check_joined_and_left(
    event: &Event,
    was_linked: bool,
    before: &Snapshot,
    after: &Snapshot,
    change: Option<&QuorumChanged>,
) {
    let (old, new) = (set(&before.members), set(&after.members));
    let restarted = match event {
        Event::Notified { notification: Notification::Nodelist { left, .. }, .. } if was_linked => {
            &(&set(left) & &old) & &new
        }
        _ => Set::new(),
    };
    match change {
        Some(change) => {
            assert_eq!(set(&change.joined), &(&new - &old) | &restarted);
            assert_eq!(set(&change.left), &(&old - &new) | &restarted);
        }
        None => assert!(restarted.is_empty(), "a restart is published"),
    }
}

/// Whether the votes suffice for quorum without these members, or `None` if the votes are not
/// known.
fn quorate_without(snapshot: &Snapshot, spared: &[NodeId]) -> Option<bool> {
    let votes =
        snapshot.votes.as_ref().filter(|_| snapshot.settled && snapshot.votes_are_current)?;
    if spared.is_empty() {
        return Some(snapshot.quorum.is_quorate());
    }
    let gone: Option<Vec<u32>> = spared.iter().map(|node| votes.of(*node)).collect();
    let gone: u64 = gone?.into_iter().map(u64::from).sum();
    let left = u64::from(votes.total).saturating_sub(gone);
    Some(snapshot.quorum.is_quorate() && left >= u64::from(votes.quorum))
}
