//! The rules that turn events into the current state.

use std::{sync::Arc, time::SystemTime};

use super::{
    BeliefPolicy, Connection, Event, Now, Quorum, RingState, Snapshot,
    link_state::{Decision, LinkState},
    nodes::{contains, difference, sorted},
};
use crate::{
    error::Error,
    libquorum::{NodeId, Notification, RingId},
    link::{clock::Moment, probe::Answer, ring_watch::RingUpdate},
    state::{AckOnDrop, Cause, QuorumChanged},
};

/// Applies events to the snapshot. It is pure: it reads no clock and does no input or output.
#[derive(Debug)]
pub(crate) struct Tracker {
    policy: BeliefPolicy,
    current: Arc<Snapshot>,
    /// The state of the current connection.
    link: LinkState,
    /// Whether a test sets the state. Then no deadline passes.
    is_scripted: bool,
    /// Checks each event, until a test sets the state.
    #[cfg(any(test, fuzzing))]
    oracle: Option<Box<super::oracle::Oracle>>,
}

/// The change that an event is about to make.
struct PendingChange {
    after: Snapshot,
    cause: Cause,
    /// Whether it cannot be proved that quorum was held without a break.
    interrupted: bool,
    /// The nodes that are members before and after and left in between.
    rejoined: Vec<NodeId>,
}

impl Tracker {
    pub(crate) fn new(policy: BeliefPolicy, wall: SystemTime) -> Self {
        let current = Arc::new(Snapshot::before_anything(wall));
        Self {
            policy,
            current,
            link: LinkState::default(),
            is_scripted: false,
            #[cfg(any(test, fuzzing))]
            oracle: Some(Box::new(super::oracle::Oracle::new(policy))),
        }
    }

    pub(crate) fn current(&self) -> &Arc<Snapshot> {
        &self.current
    }

    /// Returns the next moment at which the state changes without an event. With quorum, this is
    /// the moment until which quorum is believed. `None` without a connection.
    ///
    /// It is the earliest of these deadlines. A deadline that has had its effect is left out; while
    /// the connection is stalled, only that of the ring is left.
    ///
    /// | deadline | when | what happens then |
    /// |---|---|---|
    /// | daemon | `lease` after the last request that was answered | stalled, quorum unknown |
    /// | decision | `settle_grace` after it began to differ from the membership | quorum unknown |
    /// | ring | after the last read or decision that proved the ring: `ring.rs` | quorum unknown |
    /// | gain | `stable_after` after quorum began | the gain is published |
    pub(crate) fn deadline(&self) -> Option<Moment> {
        if self.is_scripted {
            return (self.current.connection == Connection::Connected).then_some(Moment::NEVER);
        }
        let link = &self.link;
        let ring = link.ring.until().filter(|until| *until != Moment::NEVER);
        match self.current.connection {
            Connection::Connected => {}
            Connection::Stalled => return ring,
            _ => return None,
        }
        // The second deadline matters while there is quorum. Without trust in `two_node`, it also
        // matters after a quorate decision that leaves this node inquorate.
        let is_counted = link.quorate_since.is_some()
            || self.current.quorum == Quorum::Inquorate && !link.is_denied();
        let grace = link.settlement.deadline(&self.policy);
        let stable = link.quorate_since.map(|since| since.after(self.policy.stable_after));
        let grace = grace.filter(|_| is_counted);
        let stable = stable.filter(|_| !self.current.quorum.is_quorate());
        [Some(link.lease), grace, stable, ring].into_iter().flatten().min()
    }

    /// Whether the ring is believed to be alive, for tests.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn believes_in_ring(&self, now: Moment) -> bool {
        self.link.ring.until().is_some_and(|until| now < until)
    }

    /// Returns when the token was last seen on this connection, and for how long after that the
    /// ring is believed to be alive.
    #[cfg(feature = "metrics")]
    pub(crate) fn token_seen(&self) -> Option<(Moment, std::time::Duration)> {
        self.link.ring.token_seen()
    }

    /// Returns the moment until which no other partition can be quorate, or `None` if one may be
    /// now.
    pub(crate) fn exclusive_until(&self) -> Option<Moment> {
        let current = &self.current;
        if !(current.quorum.is_quorate() && current.settled && current.has_majority()) {
            return None;
        }
        if self.is_scripted {
            return self.deadline().filter(|_| current.ring == RingState::Operational);
        }
        let ring = self.link.ring.exclusive_until()?;
        Some(ring.min(self.deadline()?))
    }

    /// Applies an event that happens `now`. Returns `None` if it changes nothing.
    pub(crate) fn apply(&mut self, event: Event, now: Now) -> Option<QuorumChanged> {
        #[cfg(any(test, fuzzing))]
        if let Some(oracle) = self.oracle.take()
            && !matches!(event, Event::Scripted(..))
        {
            return self.apply_checked(oracle, event, now);
        }
        if self.current.connection == Connection::Stopped {
            return None;
        }
        if let Event::Scripted(after, cause) = event {
            self.is_scripted = true;
            return self.script(*after, cause, now.wall);
        }
        let has_expired = self.expire(now.moment);
        let mut pending = PendingChange {
            after: Snapshot::clone(&self.current),
            cause: Cause::Quorum,
            interrupted: has_expired,
            rejoined: Vec::new(),
        };
        if !self.apply_event(event, now.moment, &mut pending) {
            return None;
        }
        self.check_daemon(now.moment, &mut pending);
        self.check_ring(now.moment, &mut pending);
        self.check_membership(now.moment, &mut pending);
        self.decide(now.moment, &mut pending);
        self.check_continuity(now.moment, &pending);
        self.hold_back_gain(has_expired, now.moment, &mut pending);
        self.finish(pending, now.wall)
    }

    /// Applies an event and checks the result. If the check panics, the change is undone: it is not
    /// published, and the end of the actor is.
    #[cfg(any(test, fuzzing))]
    fn apply_checked(
        &mut self,
        mut oracle: Box<super::oracle::Oracle>,
        event: Event,
        now: Now,
    ) -> Option<QuorumChanged> {
        use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
        let before = Arc::clone(&self.current);
        match catch_unwind(AssertUnwindSafe(|| oracle.check(self, event, now))) {
            Ok(change) => {
                self.oracle = Some(oracle);
                change
            }
            Err(panic) => {
                self.current = before;
                resume_unwind(panic)
            }
        }
    }

    /// Sets a state for a test. The epoch never decreases.
    fn script(
        &mut self,
        mut after: Snapshot,
        cause: Cause,
        wall: SystemTime,
    ) -> Option<QuorumChanged> {
        after.sequence = self.current.sequence;
        after.epoch = after.epoch.max(self.current.epoch);
        self.finish(PendingChange { after, cause, interrupted: false, rejoined: Vec::new() }, wall)
    }

    /// Applies the deadlines that have passed. Returns whether one passed unnoticed while there was
    /// quorum or a connection: readers have seen that.
    fn expire(&mut self, now: Moment) -> bool {
        let (link, before) = (&mut self.link, &self.current);
        let lease_passed = before.connection == Connection::Connected && now >= link.lease;
        if lease_passed {
            link.not_before = link.lease;
            link.ring.expire(link.lease);
        }
        let ring_until = link.ring.until();
        let ring_passed = link.ring.expire_at(now);
        let overdue = link.is_overdue(&self.policy, now);
        if ring_passed && !overdue && before.quorum.is_quorate() {
            // The daemon, too, must be found to be alive after that.
            link.not_before = link.not_before.max(ring_until.unwrap_or_default());
        }
        if overdue || ring_passed {
            link.quorate_since = None;
        }
        lease_passed || before.quorum.is_quorate() && (overdue || ring_passed)
    }

    /// Applies an event to the state of the link. Returns `false` if the event does not count.
    fn apply_event(&mut self, event: Event, now: Moment, pending: &mut PendingChange) -> bool {
        match event {
            Event::Failed { attempt, error } => return self.apply_failure(attempt, error, pending),
            Event::Connected { has_provider, asked_at, watched } => {
                self.apply_connection(has_provider, asked_at, watched, pending);
            }
            Event::Disconnected(error) => self.apply_disconnection(error, pending),
            Event::Stopped => self.apply_stop(pending),
            _ if !self.current.connection.is_established() => return false,
            Event::Tick | Event::Scripted(..) => {}
            Event::Lapsed => pending.interrupted = true,
            Event::Answered(answer) => self.apply_answer(answer, pending),
            Event::Ring(update) => self.apply_ring_update(update, pending),
            Event::Notified { notification, drained_at } => match notification {
                Notification::Nodelist { ring_id, members, left, .. } => {
                    self.apply_nodelist(ring_id, members, left, drained_at, now, pending);
                }
                Notification::Quorum { quorate, ring_id, members } => {
                    self.apply_quorum(quorate, ring_id, members, drained_at, now, pending);
                }
            },
        }
        true
    }

    /// Returns `false` if the failure is not published.
    fn apply_failure(&mut self, attempt: u64, error: Error, pending: &mut PendingChange) -> bool {
        pending.cause = Cause::ConnectFailed;
        pending.after.connection = Connection::Connecting { attempt, error: Some(error) };
        if !is_worth_publishing(&self.current.connection, &pending.after.connection) {
            return false;
        }
        pending.interrupted |= self.current.connection.is_established();
        self.reset_link(pending);
        true
    }

    fn apply_connection(
        &mut self,
        has_provider: bool,
        asked_at: Moment,
        watched: bool,
        pending: &mut PendingChange,
    ) {
        pending.cause = Cause::Connected;
        pending.after.connection = Connection::Connected;
        pending.after.ring_id = None;
        self.reset_link(pending);
        self.link.has_provider = has_provider;
        self.link.lease = asked_at.after(self.policy.lease);
        if !watched {
            self.link.ring.unwatch();
        }
    }

    fn apply_disconnection(&mut self, error: Error, pending: &mut PendingChange) {
        pending.cause = Cause::Disconnected;
        pending.interrupted = true;
        pending.after.connection = Connection::Disconnected { error };
        self.reset_link(pending);
    }

    fn apply_stop(&mut self, pending: &mut PendingChange) {
        pending.cause = Cause::Stopped;
        pending.interrupted |= self.current.connection.is_established();
        pending.after.connection = Connection::Stopped;
        self.link = LinkState::default();
    }

    /// Forgets everything that the connection has reported.
    fn reset_link(&mut self, pending: &mut PendingChange) {
        self.link = LinkState::default();
        pending.after.votes = None;
        pending.after.votes_are_current = false;
    }

    fn apply_answer(&mut self, answer: Answer, pending: &mut PendingChange) {
        let link = &mut self.link;
        pending.cause = Cause::Votes;
        if answer.asked_at >= link.not_before {
            link.lease = link.lease.max(answer.asked_at.after(self.policy.lease));
        }
        // An answer to a request from before the decision may be older than the decision.
        if let Some(decision) = link.decision.as_mut().filter(|d| answer.asked_at > d.asked_at) {
            decision.asked_at = answer.asked_at;
            decision.contradicted = !answer.quorate;
        }
        pending.after.local = answer.local.or(pending.after.local);
        pending.after.votes = answer.votes;
        let is_current = link.decision.is_some() && answer.asked_at > link.changed_at;
        pending.after.votes_are_current = is_current && pending.after.votes.is_some();
        if let Some(votes) = &mut pending.after.votes {
            votes.configured = link.ring.configured_votes();
            if is_current {
                pending.interrupted |= link.continuity.votes(votes) && link.quorate_since.is_some();
            }
        }
    }

    fn apply_ring_update(&mut self, update: RingUpdate, pending: &mut PendingChange) {
        pending.cause = Cause::Ring;
        let link = &mut self.link;
        match update {
            RingUpdate::Read(reading) => link.ring.read(reading, self.policy.settle_grace),
            RingUpdate::Unwatched => link.ring.unwatch(),
        }
        if let Some(votes) = &mut pending.after.votes {
            votes.configured = link.ring.configured_votes();
        }
    }

    fn apply_nodelist(
        &mut self,
        ring_id: RingId,
        members: Vec<NodeId>,
        left: Vec<NodeId>,
        drained_at: Moment,
        now: Moment,
        pending: &mut PendingChange,
    ) {
        pending.cause = Cause::Membership;
        let (link, before) = (&mut self.link, &self.current);
        let (members, left) = (sorted(members), sorted(left));
        let (votes, was_held) = (before.votes.as_ref(), link.quorate_since.is_some());
        pending.interrupted |= link.continuity.membership(&members, &left, votes, was_held);
        // The lists of a first nodelist are empty. `left` refers to Corosync's previous nodelist,
        // which after the first one is also ours.
        pending.rejoined = left;
        pending
            .rejoined
            .retain(|node| contains(&before.members, *node) && contains(&members, *node));
        pending.after.members = members;
        pending.after.ring_id = Some(ring_id);
        pending.after.votes_are_current = false;
        link.nodelist = Some(ring_id);
        link.changed_at = now;
        link.ring.announce(ring_id, now);
        if !link.has_provider {
            // Without a provider there is no decision, and only the ring must be alive.
            link.ring.decide(ring_id, drained_at, now, self.policy.settle_grace);
            link.continuity.decide(&pending.after.members);
        }
    }

    fn apply_quorum(
        &mut self,
        quorate: bool,
        ring_id: RingId,
        members: Vec<NodeId>,
        drained_at: Moment,
        now: Moment,
        pending: &mut PendingChange,
    ) {
        let link = &mut self.link;
        if link.nodelist.is_none() && link.has_provider {
            pending.after.members = sorted(members);
            pending.after.ring_id = Some(ring_id);
            // Model V0 does not report which nodes were away: with any other ring, this node may
            // have been.
            pending.interrupted |= link.decision.is_some_and(|last| last.ring_id != ring_id);
        }
        link.decision = Some(Decision { quorate, ring_id, asked_at: now, contradicted: false });
        pending.after.votes_are_current = false;
        link.changed_at = now;
        if link.has_provider {
            if link.nodelist.is_none() {
                link.ring.announce(ring_id, now);
            }
            link.ring.decide(ring_id, drained_at, now, self.policy.settle_grace);
            if link.decides_membership() {
                link.continuity.decide(&pending.after.members);
            }
        }
    }

    /// The first deadline: the daemon is alive.
    fn check_daemon(&mut self, now: Moment, pending: &mut PendingChange) {
        if !pending.after.connection.is_established() {
            return;
        }
        let is_alive = now < self.link.lease;
        if !is_alive && pending.after.connection != Connection::Stalled {
            pending.after.connection = Connection::Stalled;
            pending.cause = Cause::Stalled;
        } else if is_alive && pending.after.connection == Connection::Stalled {
            pending.after.connection = Connection::Connected;
            pending.cause = Cause::Connected;
        }
    }

    /// The second deadline: the ring is alive.
    fn check_ring(&mut self, now: Moment, pending: &mut PendingChange) {
        // A read that has just arrived may have been requested too long ago.
        self.link.ring.expire_at(now);
        pending.after.ring = self.link.ring.state();
    }

    /// The third deadline: the decision is about this membership.
    fn check_membership(&mut self, now: Moment, pending: &mut PendingChange) {
        self.link.settle(now);
        pending.after.settled = self.link.is_settled();
    }

    /// Decides about quorum, by all that this connection has reported.
    fn decide(&mut self, now: Moment, pending: &mut PendingChange) {
        pending.after.quorum = self.link.quorum(&self.policy, now, &pending.after);
    }

    /// Quorum lasts until it is lost or interrupted.
    fn check_continuity(&mut self, now: Moment, pending: &PendingChange) {
        self.link.quorate_since = match pending.after.quorum {
            Quorum::Quorate if pending.interrupted => Some(now),
            Quorum::Quorate => self.link.quorate_since.or(Some(now)),
            _ => None,
        };
    }

    /// A gain is published when it has lasted for `stable_after`.
    fn hold_back_gain(&self, has_expired: bool, now: Moment, pending: &mut PendingChange) {
        let before = if has_expired { Quorum::Unknown } else { self.current.quorum };
        let is_stable = |since: Moment| now >= since.after(self.policy.stable_after);
        let is_gain = pending.after.quorum.is_quorate() && !before.is_quorate();
        if is_gain && !self.link.quorate_since.is_some_and(is_stable) {
            pending.after.quorum = before;
        }
    }

    fn finish(&mut self, pending: PendingChange, wall: SystemTime) -> Option<QuorumChanged> {
        let PendingChange { mut after, mut cause, interrupted, rejoined } = pending;
        let before = Arc::clone(&self.current);
        let joined = difference(&after.members, &before.members, &rejoined);
        let left = difference(&before.members, &after.members, &rejoined);
        let lost = before.quorum.is_quorate() && !after.quorum.is_quorate();
        if interrupted || lost {
            after.epoch += 1;
        }
        if after.same_state(&before) && joined.is_empty() {
            return None;
        }
        if cause == Cause::Votes && after.quorum != before.quorum {
            cause = Cause::Quorum;
        }
        after.sequence += 1;
        after.changed_at = wall;
        self.current = Arc::new(after);
        Some(QuorumChanged {
            previous: before,
            current: Arc::clone(&self.current),
            joined,
            left,
            cause,
            missed: 0,
            receipt: AckOnDrop::default(),
        })
    }
}

/// Whether a failed attempt is published: the first one, a new error, and then each time that the
/// number of attempts has doubled, which limits the messages while Corosync is down.
fn is_worth_publishing(before: &Connection, after: &Connection) -> bool {
    match (before, after) {
        (
            Connection::Connecting { error: before, .. },
            Connection::Connecting { error: after, attempt },
        ) => before != after || attempt.is_power_of_two(),
        _ => true,
    }
}

#[cfg(test)]
mod tests;
