//! The rules that turn events into the current state.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    BeliefPolicy, Connection, Event, Now, Quorum, RingState, Snapshot,
    continuity::Continuity,
    nodes::{contains, difference, sorted},
    ring::RingEvidence,
};
use crate::{
    libquorum::{NodeId, Notification, RingId, VoteFlags},
    link::{clock::Moment, probe::Answer, ring_watch::RingUpdate},
    state::{AckOnDrop, Cause, QuorumChanged},
};

impl Default for BeliefPolicy {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(5),
            settle_grace: Duration::from_secs(1),
            stable_after: Duration::ZERO,
            trust_two_node: true,
        }
    }
}

/// Applies events to the snapshot. It is pure: it reads no clock and does no input or output.
#[derive(Debug)]
pub(crate) struct Tracker {
    policy: BeliefPolicy,
    current: Arc<Snapshot>,
    /// The state of the current connection.
    link: LinkState,
    /// Whether a test sets the state. Then no deadline passes.
    is_scripted: bool,
}

/// The state of one connection.
#[derive(Debug, Default)]
struct LinkState {
    has_provider: bool,
    nodelist: Option<RingId>,
    decision: Option<Decision>,
    /// The moment until which Corosync is believed to be alive.
    lease: Moment,
    /// An answer to an earlier request does not renew the lease, because a deadline has passed
    /// since.
    not_before: Moment,
    ring: RingEvidence,
    continuity: Continuity,
    /// When the membership or the decision last changed.
    changed_at: Moment,
    /// The moment since which the decision has not been about the membership.
    unsettled_since: Option<Moment>,
    /// Whether the decision was about the membership once. Before that it is not known for how long
    /// it has been about another one, even on a new connection.
    was_settled: bool,
    /// The moment since which all conditions for quorum are met, except for `stable_after`.
    quorate_since: Option<Moment>,
}

/// The last quorum notification.
#[derive(Clone, Copy, Debug)]
struct Decision {
    quorate: bool,
    ring_id: RingId,
    /// When it was applied, or when votequorum was last asked about it.
    asked_at: Moment,
    /// Whether votequorum, asked after that, reported no quorum.
    contradicted: bool,
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
        Self { policy, current, link: LinkState::default(), is_scripted: false }
    }

    pub(crate) fn current(&self) -> &Arc<Snapshot> {
        &self.current
    }

    /// Returns the moment at which time alone will change something. With quorum, this is the
    /// moment until which quorum is believed. `None` without a connection.
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
        let is_counted = link.quorate_since.is_some();
        let grace = link.unsettled_since.map(|since| since.after(self.policy.settle_grace));
        let stable = link.quorate_since.map(|since| since.after(self.policy.stable_after));
        // A deadline that has had its effect is left out.
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
    pub(crate) fn token_seen(&self) -> Option<(Moment, Duration)> {
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
        let before = Arc::clone(&self.current);
        if before.connection == Connection::Stopped {
            return None;
        }
        if let Event::Scripted(after, cause) = event {
            self.is_scripted = true;
            return self.script(*after, cause, now.wall);
        }
        let after = Snapshot::clone(&before);
        let has_expired = self.expire(now.moment);
        let mut pending = PendingChange {
            after,
            cause: Cause::Quorum,
            interrupted: has_expired,
            rejoined: Vec::new(),
        };
        if !self.apply_event(event, now.moment, &mut pending) {
            return None;
        }
        self.update_connection(now.moment, &mut pending);
        // The evidence may have been read too long ago.
        self.link.ring.expire_at(now.moment);
        pending.after.ring = self.link.ring.state();
        pending.after.settled = self.link.is_settled();
        self.decide(has_expired, now.moment, &mut pending);
        self.finish(pending, now.wall)
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
        let is_established = self.current.connection.is_established();
        match event {
            Event::Failed { attempt, error } => {
                pending.cause = Cause::ConnectFailed;
                pending.after.connection = Connection::Connecting { attempt, error: Some(error) };
                if !is_worth_publishing(&self.current.connection, &pending.after.connection) {
                    return false;
                }
                pending.interrupted |= is_established;
                self.reset_link(pending);
            }
            Event::Connected { has_provider, asked_at, watched } => {
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
            Event::Disconnected(error) => {
                pending.cause = Cause::Disconnected;
                pending.interrupted = true;
                pending.after.connection = Connection::Disconnected { error };
                self.reset_link(pending);
            }
            Event::Stopped => {
                pending.cause = Cause::Stopped;
                pending.interrupted |= is_established;
                pending.after.connection = Connection::Stopped;
                self.link = LinkState::default();
            }
            _ if !is_established => return false,
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

    /// The first deadline: whether the daemon is alive.
    fn update_connection(&mut self, now: Moment, pending: &mut PendingChange) {
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

    /// Decides about quorum. A gain may be held back, and quorum must have lasted without a break.
    fn decide(&mut self, has_expired: bool, now: Moment, pending: &mut PendingChange) {
        let before = &self.current;
        let quorum = self.link.quorum(&self.policy, now, &pending.after);
        self.link.quorate_since = match quorum {
            Quorum::Quorate if pending.interrupted => Some(now),
            Quorum::Quorate => self.link.quorate_since.or(Some(now)),
            _ => None,
        };
        pending.after.quorum = quorum;
        let previous = if has_expired { Quorum::Unknown } else { before.quorum };
        if quorum.is_quorate() && !previous.is_quorate() {
            let since = self.link.quorate_since.unwrap_or(now);
            if now < since.after(self.policy.stable_after) {
                pending.after.quorum = previous;
            }
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

impl LinkState {
    /// Returns the quorum that this connection proves now.
    fn quorum(&mut self, policy: &BeliefPolicy, now: Moment, after: &Snapshot) -> Quorum {
        let matches = self.decides_membership();
        self.unsettled_since = match self.decision {
            Some(_) if !matches => self.unsettled_since.or(Some(now)),
            _ => None,
        };
        self.was_settled |= matches;
        if after.connection != Connection::Connected {
            return Quorum::Unknown;
        }
        match self.decision {
            None => Quorum::Unknown,
            Some(decision) if !decision.quorate || decision.contradicted => Quorum::Inquorate,
            Some(_) if self.is_overdue(policy, now) => Quorum::Unknown,
            Some(_) if self.ring.until().is_none_or(|until| now >= until) => Quorum::Unknown,
            Some(_) if self.has_provider && !policy.trust_two_node => without_two_node(after),
            Some(_) => Quorum::Quorate,
        }
    }

    /// Whether the decision about this membership has not arrived within the grace.
    fn is_overdue(&self, policy: &BeliefPolicy, now: Moment) -> bool {
        self.unsettled_since
            .is_some_and(|since| !self.was_settled || now >= since.after(policy.settle_grace))
    }

    /// Whether the decision is about the reported membership and about the daemon's current ring.
    fn is_settled(&self) -> bool {
        self.decides_membership() && self.ring.is_settled()
    }

    fn decides_membership(&self) -> bool {
        match (self.nodelist, self.decision) {
            (_, None) => false,
            (Some(nodelist), Some(decision)) if self.has_provider => nodelist == decision.ring_id,
            _ => true,
        }
    }
}

/// Returns the quorum of a quorate node that does not trust `two_node`.
fn without_two_node(after: &Snapshot) -> Quorum {
    match &after.votes {
        None => Quorum::Unknown,
        Some(votes)
            if votes.flags.contains(VoteFlags::TWO_NODE) && !votes.is_majority(&after.members) =>
        {
            Quorum::Inquorate
        }
        Some(_) => Quorum::Quorate,
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
