//! The pure folding of what happens into what is true now.

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

/// Folds events into the snapshot. Pure: no clock, no input, no output.
#[derive(Debug)]
pub(crate) struct Tracker {
    policy: BeliefPolicy,
    current: Arc<Snapshot>,
    /// What this connection has brought so far.
    link: LinkState,
    /// A test sets the state, and no deadline passes.
    is_scripted: bool,
}

/// What one connection has brought.
#[derive(Debug, Default)]
struct LinkState {
    has_provider: bool,
    nodelist: Option<RingId>,
    decision: Option<Decision>,
    /// Until when Corosync is held for alive.
    lease: Moment,
    /// An answer to a request from before this renews no lease: a deadline has passed since.
    not_before: Moment,
    ring: RingEvidence,
    continuity: Continuity,
    /// When the membership or the decision changed last.
    changed_at: Moment,
    /// Since when the decision has not been about the membership.
    unsettled_since: Option<Moment>,
    /// The decision has been about the membership once. Until then it is not known for how long it
    /// has not been, however young the connection is.
    was_settled: bool,
    /// Since when everything else has spoken for quorum.
    quorate_since: Option<Moment>,
}

/// The last quorum notification.
#[derive(Clone, Copy, Debug)]
struct Decision {
    quorate: bool,
    ring_id: RingId,
    /// When it was applied, or votequorum was last asked about it.
    asked_at: Moment,
    /// Votequorum, asked after that, says that there is no quorum.
    contradicted: bool,
}

/// A change in the making.
struct Draft {
    after: Snapshot,
    cause: Cause,
    /// Quorum cannot be vouched for without a break.
    broken: bool,
    /// Members before and after that have left in between.
    restarted: Vec<NodeId>,
}

impl Tracker {
    pub(crate) fn new(policy: BeliefPolicy, wall: SystemTime) -> Self {
        let current = Arc::new(Snapshot::before_anything(wall));
        Self { policy, current, link: LinkState::default(), is_scripted: false }
    }

    pub(crate) fn current(&self) -> &Arc<Snapshot> {
        &self.current
    }

    /// When time alone will change something, if nothing else does, while there is a connection:
    /// until when quorum is believed, if it is.
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
        let counts = link.quorate_since.is_some();
        let grace = link.unsettled_since.map(|since| since.after(self.policy.settle_grace));
        let stable = link.quorate_since.map(|since| since.after(self.policy.stable_after));
        // What is over does not come again.
        let grace = grace.filter(|_| counts);
        let stable = stable.filter(|_| !self.current.quorum.is_quorate());
        [Some(link.lease), grace, stable, ring].into_iter().flatten().min()
    }

    /// Whether the ring is believed to live, for tests.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn believes_in_ring(&self, now: Moment) -> bool {
        self.link.ring.until().is_some_and(|until| now < until)
    }

    /// When the token was last seen on this connection, and for how long after that the ring is
    /// believed to live.
    #[cfg(feature = "metrics")]
    pub(crate) fn token_seen(&self) -> Option<(Moment, Duration)> {
        self.link.ring.token_seen()
    }

    /// Until when no other partition can be quorate; `None` if one may be now.
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

    /// Applies an event that happens `now`; `None` if nothing changes by it.
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
        let ran_out = self.expire(now.moment);
        let mut draft =
            Draft { after, cause: Cause::Quorum, broken: ran_out, restarted: Vec::new() };
        if !self.take(event, now.moment, &mut draft) {
            return None;
        }
        self.link_alive(now.moment, &mut draft);
        // What was read may be old already.
        self.link.ring.expire_at(now.moment);
        draft.after.ring = self.link.ring.state();
        draft.after.settled = self.link.is_settled();
        self.decide(ran_out, now.moment, &mut draft);
        self.finish(draft, now.wall)
    }

    /// Takes a state that a test has set. Its epoch never goes back.
    fn script(
        &mut self,
        mut after: Snapshot,
        cause: Cause,
        wall: SystemTime,
    ) -> Option<QuorumChanged> {
        after.sequence = self.current.sequence;
        after.epoch = after.epoch.max(self.current.epoch);
        self.finish(Draft { after, cause, broken: false, restarted: Vec::new() }, wall)
    }

    /// Ends what a passed deadline ends. Returns whether one did that was not noticed before:
    /// readers have seen it.
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
            // The daemon, too, has to be seen to live after that.
            link.not_before = link.not_before.max(ring_until.unwrap_or_default());
        }
        if overdue || ring_passed {
            link.quorate_since = None;
        }
        lease_passed || before.quorum.is_quorate() && (overdue || ring_passed)
    }

    /// Takes an event into the state of the link. Returns whether it counts at all.
    fn take(&mut self, event: Event, now: Moment, draft: &mut Draft) -> bool {
        let is_established = self.current.connection.is_established();
        match event {
            Event::Failed { attempt, error } => {
                draft.cause = Cause::ConnectFailed;
                draft.after.connection = Connection::Connecting { attempt, error: Some(error) };
                if !is_worth_publishing(&self.current.connection, &draft.after.connection) {
                    return false;
                }
                draft.broken |= is_established;
                self.reset_link(draft);
            }
            Event::Connected { has_provider, asked_at, watched } => {
                draft.cause = Cause::Connected;
                draft.after.connection = Connection::Connected;
                draft.after.ring_id = None;
                self.reset_link(draft);
                self.link.has_provider = has_provider;
                self.link.lease = asked_at.after(self.policy.lease);
                if !watched {
                    self.link.ring.unwatch();
                }
            }
            Event::Disconnected(error) => {
                draft.cause = Cause::Disconnected;
                draft.broken = true;
                draft.after.connection = Connection::Disconnected { error };
                self.reset_link(draft);
            }
            Event::Stopped => {
                draft.cause = Cause::Stopped;
                draft.broken |= is_established;
                draft.after.connection = Connection::Stopped;
                self.link = LinkState::default();
            }
            _ if !is_established => return false,
            Event::Tick | Event::Scripted(..) => {}
            Event::Lapsed => draft.broken = true,
            Event::Answered(answer) => self.answered(answer, draft),
            Event::Ring(update) => self.ring(update, draft),
            Event::Notified { notification, drained_at } => match notification {
                Notification::Nodelist { ring_id, members, left, .. } => {
                    self.nodelist(ring_id, members, left, drained_at, now, draft);
                }
                Notification::Quorum { quorate, ring_id, members } => {
                    self.quorum(quorate, ring_id, members, drained_at, now, draft);
                }
            },
        }
        true
    }

    /// Forgets everything that the connection has brought.
    fn reset_link(&mut self, draft: &mut Draft) {
        self.link = LinkState::default();
        draft.after.votes = None;
        draft.after.votes_are_current = false;
    }

    fn answered(&mut self, answer: Answer, draft: &mut Draft) {
        let link = &mut self.link;
        draft.cause = Cause::Votes;
        if answer.asked_at >= link.not_before {
            link.lease = link.lease.max(answer.asked_at.after(self.policy.lease));
        }
        // An answer to a request from before the decision may be older than it.
        if let Some(decision) = link.decision.as_mut().filter(|d| answer.asked_at > d.asked_at) {
            decision.asked_at = answer.asked_at;
            decision.contradicted = !answer.quorate;
        }
        draft.after.local = answer.local.or(draft.after.local);
        draft.after.votes = answer.votes;
        let is_current = link.decision.is_some() && answer.asked_at > link.changed_at;
        draft.after.votes_are_current = is_current && draft.after.votes.is_some();
        if let Some(votes) = &mut draft.after.votes {
            votes.configured = link.ring.configured_votes();
            if is_current {
                draft.broken |= link.continuity.votes(votes) && link.quorate_since.is_some();
            }
        }
    }

    fn ring(&mut self, update: RingUpdate, draft: &mut Draft) {
        draft.cause = Cause::Ring;
        let link = &mut self.link;
        match update {
            RingUpdate::Read(reading) => link.ring.read(reading, self.policy.settle_grace),
            RingUpdate::Unwatched => link.ring.unwatch(),
        }
        if let Some(votes) = &mut draft.after.votes {
            votes.configured = link.ring.configured_votes();
        }
    }

    fn nodelist(
        &mut self,
        ring_id: RingId,
        members: Vec<NodeId>,
        left: Vec<NodeId>,
        drained_at: Moment,
        now: Moment,
        draft: &mut Draft,
    ) {
        draft.cause = Cause::Membership;
        let (link, before) = (&mut self.link, &self.current);
        let (members, left) = (sorted(members), sorted(left));
        let (votes, was_held) = (before.votes.as_ref(), link.quorate_since.is_some());
        draft.broken |= link.continuity.membership(&members, &left, votes, was_held);
        // A snapshot's lists are empty; and what corosync calls left is left of *its* previous
        // nodelist, which after the first one is ours too.
        draft.restarted = left;
        draft
            .restarted
            .retain(|node| contains(&before.members, *node) && contains(&members, *node));
        draft.after.members = members;
        draft.after.ring_id = Some(ring_id);
        draft.after.votes_are_current = false;
        link.nodelist = Some(ring_id);
        link.changed_at = now;
        link.ring.announce(ring_id, now);
        if !link.has_provider {
            // Nobody decides; the ring alone has to live.
            link.ring.decide(ring_id, drained_at, now, self.policy.settle_grace);
            link.continuity.decide(&draft.after.members);
        }
    }

    fn quorum(
        &mut self,
        quorate: bool,
        ring_id: RingId,
        members: Vec<NodeId>,
        drained_at: Moment,
        now: Moment,
        draft: &mut Draft,
    ) {
        let link = &mut self.link;
        if link.nodelist.is_none() && link.has_provider {
            draft.after.members = sorted(members);
            draft.after.ring_id = Some(ring_id);
            // Model V0 does not tell who was away: with any other ring, it may have been us.
            draft.broken |= link.decision.is_some_and(|last| last.ring_id != ring_id);
        }
        link.decision = Some(Decision { quorate, ring_id, asked_at: now, contradicted: false });
        draft.after.votes_are_current = false;
        link.changed_at = now;
        if link.has_provider {
            if link.nodelist.is_none() {
                link.ring.announce(ring_id, now);
            }
            link.ring.decide(ring_id, drained_at, now, self.policy.settle_grace);
            if link.decides_membership() {
                link.continuity.decide(&draft.after.members);
            }
        }
    }

    /// The first deadline: whether the daemon lives.
    fn link_alive(&mut self, now: Moment, draft: &mut Draft) {
        if !draft.after.connection.is_established() {
            return;
        }
        let is_alive = now < self.link.lease;
        if !is_alive && draft.after.connection != Connection::Stalled {
            draft.after.connection = Connection::Stalled;
            draft.cause = Cause::Stalled;
        } else if is_alive && draft.after.connection == Connection::Stalled {
            draft.after.connection = Connection::Connected;
            draft.cause = Cause::Connected;
        }
    }

    /// What all of it means for quorum. A gain may be held back, and must have lasted without a
    /// break.
    fn decide(&mut self, ran_out: bool, now: Moment, draft: &mut Draft) {
        let before = &self.current;
        let quorum = self.link.quorum(&self.policy, now, &draft.after);
        self.link.quorate_since = match quorum {
            Quorum::Quorate if draft.broken => Some(now),
            Quorum::Quorate => self.link.quorate_since.or(Some(now)),
            _ => None,
        };
        draft.after.quorum = quorum;
        let held = if ran_out { Quorum::Unknown } else { before.quorum };
        if quorum.is_quorate() && !held.is_quorate() {
            let since = self.link.quorate_since.unwrap_or(now);
            if now < since.after(self.policy.stable_after) {
                draft.after.quorum = held;
            }
        }
    }

    fn finish(&mut self, draft: Draft, wall: SystemTime) -> Option<QuorumChanged> {
        let Draft { mut after, mut cause, broken, restarted } = draft;
        let before = Arc::clone(&self.current);
        let joined = difference(&after.members, &before.members, &restarted);
        let left = difference(&before.members, &after.members, &restarted);
        let lost = before.quorum.is_quorate() && !after.quorum.is_quorate();
        if broken || lost {
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
    /// What this connection says about quorum, now.
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

    /// Whether a decision about this membership has not come within the grace.
    fn is_overdue(&self, policy: &BeliefPolicy, now: Moment) -> bool {
        self.unsettled_since
            .is_some_and(|since| !self.was_settled || now >= since.after(policy.settle_grace))
    }

    /// Whether the decision is about the membership that was told, and about the ring that the daemon
    /// is in.
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

/// The decision of a quorate node that does not trust `two_node`.
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

/// Whether a failed attempt says anything new: the first one, another error, and then each time
/// that the number of attempts has doubled, so that nobody is flooded while Corosync is down.
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
