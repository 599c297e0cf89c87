//! The rules that turn events into the current state. `tracker/events.rs` has the rules for each
//! kind of event.

mod events;

use std::{sync::Arc, time::SystemTime};

use super::{
    BeliefPolicy, Connection, Event, Now, Quorum, RingState, Snapshot, link_state::LinkState,
    nodes::difference,
};
use crate::{
    libquorum::NodeId,
    link::clock::Moment,
    state::{AckOnDrop, Cause, QuorumChanged},
};

/// Applies events to the snapshot. It is pure: it reads no clock and does no input or output.
#[derive(Debug)]
pub(crate) struct Tracker {
    policy: BeliefPolicy,
    current: Arc<Snapshot>,
    /// The state of the current connection.
    link: LinkState,
    /// Whether a test sets the state (`ScriptedQuorum`). Then no deadline passes.
    is_scripted: bool,
    /// The model that checks each event. `None` once a test has set the state.
    #[cfg(any(test, fuzzing))]
    oracle: Option<Box<super::oracle::Oracle>>,
}

/// The change that an event is about to make.
struct PendingChange {
    after: Snapshot,
    cause: Cause,
    /// Whether quorum may have been interrupted.
    interrupted: bool,
    /// The nodes that are members before and after the change but left in between.
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
    /// the moment until which readers see quorum. Returns `None` if no deadline applies, for
    /// example without a connection.
    ///
    /// The earliest of these deadlines applies. A deadline that has had its effect no longer
    /// counts, and a stalled connection has only the deadline of the ring.
    ///
    /// | deadline | when | what happens then |
    /// |---|---|---|
    /// | daemon | `lease` after the last request that was answered | stalled, quorum unknown |
    /// | decision | `settle_grace` after the decision began to be about another membership | quorum unknown |
    /// | ring | token timeout, consensus timeout and `settle_grace` after the last proof that the ring is alive, or earlier: `ring.rs` | quorum unknown |
    /// | gain | `stable_after` after quorum began | the gain is published |
    pub(crate) fn deadline(&self) -> Option<Moment> {
        if self.is_scripted {
            return (self.current.connection == Connection::Connected).then_some(Moment::NEVER);
        }
        let (link, ring) = (&self.link, self.ring_deadline());
        match self.current.connection {
            Connection::Connected => {}
            Connection::Stalled => return ring,
            _ => return None,
        }
        // The deadline of the decision matters while there is quorum. Without trust in `two_node`,
        // it also matters after a quorate decision that leaves this node inquorate.
        let is_counted = link.quorate_since.is_some()
            || self.current.quorum == Quorum::Inquorate && !link.is_denied();
        let grace = link.settlement.deadline(&self.policy);
        let stable = link.quorate_since.map(|since| since.after(self.policy.stable_after));
        let grace = grace.filter(|_| is_counted);
        let stable = stable.filter(|_| !self.current.quorum.is_quorate());
        [Some(link.lease), grace, stable, ring].into_iter().flatten().min()
    }

    /// Returns the deadline of the ring, or `None` if the ring has none. Once the daemon has left
    /// its ring, its answers do not postpone this deadline.
    pub(crate) fn ring_deadline(&self) -> Option<Moment> {
        self.link.ring.until().filter(|until| *until != Moment::NEVER)
    }

    /// Whether this connection should be replaced, because it does not show whether the last
    /// decision is about the daemon's current ring. The first notifications of a new connection
    /// show it: the nodelist of model V1 is about the ring that the daemon formed last, even while
    /// the daemon is synchronising (`exec/vsf_quorum.c`, `quorum_sync_init`).
    pub(crate) fn lacks_announcement(&self) -> bool {
        let link = &self.link;
        self.current.connection == Connection::Connected
            && link.has_provider
            && link.nodelist.is_some()
            && link.decides_membership()
            && link.ring.lacks_announcement()
    }

    /// Whether to accept that one node of a two-node cluster has quorum on its own, which
    /// `two_node: 1` allows.
    pub(crate) fn trusts_two_node(&self) -> bool {
        self.policy.trust_two_node
    }

    /// Whether the ring is believed to be alive, for tests.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn believes_in_ring(&self, now: Moment) -> bool {
        self.link.ring.until().is_some_and(|until| now < until)
    }

    /// Returns when the token was last seen on this connection, and for how long after that moment
    /// the ring is believed to be alive. Returns `None` if no read has shown yet that the token
    /// moves.
    #[cfg(feature = "metrics")]
    pub(crate) fn token_seen(&self) -> Option<(Moment, std::time::Duration)> {
        self.link.ring.token_seen()
    }

    /// Returns the moment until which no other partition can be quorate, or `None` if another
    /// partition may be quorate now.
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

    /// Applies an event that happens `now`. Returns `None` if the state does not change.
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

    /// Applies an event and checks the result. If the check panics, the change is undone and not
    /// published. The panic ends the actor, which publishes its end.
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

    /// Applies the deadlines that have passed. Returns `true` if a reader may have noticed: the
    /// lease of a connected daemon expired, or this node was quorate and any deadline passed.
    fn expire(&mut self, now: Moment) -> bool {
        let (link, before) = (&mut self.link, &self.current);
        let lease_passed = before.connection == Connection::Connected && now >= link.lease;
        if lease_passed {
            link.not_before = link.lease;
            link.ring.expire(link.lease);
        }
        let ring_until = link.ring.until();
        let ring_passed = link.ring.expire_if_due(now);
        let overdue = link.is_overdue(&self.policy, now);
        if ring_passed && !overdue && before.quorum.is_quorate() {
            // Answers to requests from before the deadline of the ring no longer renew the lease.
            link.not_before = link.not_before.max(ring_until.unwrap_or_default());
        }
        if overdue || ring_passed {
            link.quorate_since = None;
        }
        lease_passed || before.quorum.is_quorate() && (overdue || ring_passed)
    }

    /// Checks the deadline of the daemon, until which the daemon is believed to be alive.
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

    /// Checks the deadline of the ring, until which the ring is believed to be alive.
    fn check_ring(&mut self, now: Moment, pending: &mut PendingChange) {
        // A read that has just arrived may have been requested too long ago.
        self.link.ring.expire_if_due(now);
        pending.after.ring = self.link.ring.state();
    }

    /// Checks whether the decision is about this membership. If not, the time until the deadline of
    /// the decision begins to run.
    fn check_membership(&mut self, now: Moment, pending: &mut PendingChange) {
        self.link.settle(now);
        pending.after.settled = self.link.is_settled();
    }

    /// Decides about quorum, from everything that this connection has reported.
    fn decide(&mut self, now: Moment, pending: &mut PendingChange) {
        pending.after.quorum = self.link.quorum(&self.policy, now, &pending.after);
    }

    /// Records since when quorum has been held without a break.
    fn check_continuity(&mut self, now: Moment, pending: &PendingChange) {
        self.link.quorate_since = match pending.after.quorum {
            Quorum::Quorate if pending.interrupted => Some(now),
            Quorum::Quorate => self.link.quorate_since.or(Some(now)),
            _ => None,
        };
    }

    /// Keeps the previous quorum (`Unknown` after an expired deadline) published until a gain has
    /// lasted for `stable_after`.
    fn hold_back_gain(&self, has_expired: bool, now: Moment, pending: &mut PendingChange) {
        let before = if has_expired { Quorum::Unknown } else { self.current.quorum };
        let is_stable = |since: Moment| now >= since.after(self.policy.stable_after);
        let is_gain = pending.after.quorum.is_quorate() && !before.is_quorate();
        if is_gain && !self.link.quorate_since.is_some_and(is_stable) {
            pending.after.quorum = before;
        }
    }

    /// Makes the pending state the current one. Returns the change, or `None` if the state is the
    /// same.
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

#[cfg(test)]
mod tests;
