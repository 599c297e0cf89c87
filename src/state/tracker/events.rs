//! What each event changes.

use std::mem;

use super::{PendingChange, Tracker};
use crate::{
    error::Error,
    libquorum::{NodeId, Notification, RingId},
    link::{clock::Moment, probe::Answer, ring_reading::RingUpdate},
    state::{
        Cause, Connection, Event,
        link_state::{Decision, LinkState},
        nodes::{contains, sorted},
    },
};

impl Tracker {
    /// Applies an event to the state of the link. Returns `false` if the event changes nothing:
    /// there is no connection that it could belong to, or the failure is not published.
    pub(super) fn apply_event(
        &mut self,
        event: Event,
        now: Moment,
        pending: &mut PendingChange,
    ) -> bool {
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

    /// Applies a failed attempt to connect. Returns `false` if the failure is not published.
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
        let ring = mem::take(&mut self.link.ring);
        let is_established = self.current.connection.is_established();
        self.reset_link(pending);
        if !is_established {
            self.link.ring = ring;
        }
        self.link.has_provider = has_provider;
        self.link.lease = asked_at.after(self.policy.lease);
        if !watched {
            self.link.ring.unwatch();
        }
    }

    fn apply_disconnection(&mut self, error: Error, pending: &mut PendingChange) {
        pending.cause = Cause::Disconnected;
        pending.interrupted = true;
        let ring = (error == Error::NotAnnounced).then(|| self.link.ring.next_connection());
        pending.after.connection = Connection::Disconnected { error };
        self.reset_link(pending);
        self.link.ring = ring.unwrap_or_default();
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
        // An answer to a request that was sent before the decision may be older than the decision.
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
            // Until votequorum has decided, it may report the votes of the previous membership.
            if is_current && link.decides_membership() {
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
        // `left` lists the nodes that have left since Corosync's previous nodelist. The tracker has
        // that nodelist too, except before the first one of a connection, whose `left` is empty.
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
            // Without a provider, no decision names a ring, so the nodelist is treated as the
            // decision.
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
            // Model V0 does not report which nodes have left. So if the ring has changed, this node
            // may have been away.
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
}

/// Whether a failed attempt is published. The first failure and each new error are published. The
/// same error is published again only if the number of the attempt is a power of two, which limits
/// the messages while Corosync is down.
fn is_worth_publishing(before: &Connection, after: &Connection) -> bool {
    match (before, after) {
        (
            Connection::Connecting { error: before, .. },
            Connection::Connecting { error: after, attempt },
        ) => before != after || attempt.is_power_of_two(),
        _ => true,
    }
}
