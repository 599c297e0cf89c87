//! What one connection has reported, and whether that proves quorum.

use super::{
    BeliefPolicy, Connection, Quorum, Snapshot, continuity::Continuity, ring::RingEvidence,
};
use crate::{
    libquorum::{RingId, VoteFlags},
    link::clock::Moment,
};

/// The state of one connection.
#[derive(Debug, Default)]
pub(super) struct LinkState {
    pub(super) has_provider: bool,
    pub(super) nodelist: Option<RingId>,
    pub(super) decision: Option<Decision>,
    /// The moment until which Corosync is believed to be alive.
    pub(super) lease: Moment,
    /// The last deadline that has passed. An answer to an earlier request does not renew the lease.
    pub(super) not_before: Moment,
    pub(super) ring: RingEvidence,
    pub(super) settlement: Settlement,
    pub(super) continuity: Continuity,
    /// When a membership or a decision was last reported.
    pub(super) changed_at: Moment,
    /// The moment since which all conditions for quorum are met, except for `stable_after`.
    pub(super) quorate_since: Option<Moment>,
}

/// The last quorum notification.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decision {
    pub(super) quorate: bool,
    pub(super) ring_id: RingId,
    /// When the decision was applied, or when votequorum was last asked after that.
    pub(super) asked_at: Moment,
    /// Whether votequorum reported no quorum when it was asked after the decision.
    pub(super) contradicted: bool,
}

/// Whether the last decision is about the current membership.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Settlement {
    /// On this connection, no decision has been about the reported membership yet. It is not known
    /// for how long the decision and the membership have differed, so no decision is trusted.
    #[default]
    Never,
    Settled,
    /// The decision has been about another membership since this moment. It is trusted for
    /// `settle_grace` from that moment.
    UnsettledSince(Moment),
}

impl Settlement {
    /// Returns the moment until which a decision about another membership is trusted.
    pub(super) fn deadline(self, policy: &BeliefPolicy) -> Option<Moment> {
        match self {
            Self::Never | Self::Settled => None,
            Self::UnsettledSince(since) => Some(since.after(policy.settle_grace)),
        }
    }
}

impl LinkState {
    /// Records whether the decision is about the reported membership.
    pub(super) fn settle(&mut self, now: Moment) {
        self.settlement = match self.settlement {
            _ if self.decides_membership() => Settlement::Settled,
            Settlement::Settled => Settlement::UnsettledSince(now),
            unsettled => unsettled,
        };
    }

    /// Returns the quorum of this node, as far as the reports on this connection prove it now.
    pub(super) fn quorum(&self, policy: &BeliefPolicy, now: Moment, after: &Snapshot) -> Quorum {
        if after.connection != Connection::Connected {
            return Quorum::Unknown;
        }
        match self.decision {
            None => Quorum::Unknown,
            Some(_) if self.is_denied() => Quorum::Inquorate,
            Some(_) if self.is_overdue(policy, now) => Quorum::Unknown,
            Some(_) if self.ring.until().is_none_or(|until| now >= until) => Quorum::Unknown,
            Some(_) if self.has_provider && !policy.trust_two_node => without_two_node(after),
            Some(_) => Quorum::Quorate,
        }
    }

    /// Whether Corosync has decided that this node has no quorum.
    pub(super) fn is_denied(&self) -> bool {
        self.decision.is_some_and(|decision| !decision.quorate || decision.contradicted)
    }

    /// Whether the decision about this membership has not arrived within `settle_grace`. Also
    /// `true` if no decision on this connection has been about the reported membership yet.
    pub(super) fn is_overdue(&self, policy: &BeliefPolicy, now: Moment) -> bool {
        match self.settlement {
            Settlement::Never => true,
            settlement => settlement.deadline(policy).is_some_and(|until| now >= until),
        }
    }

    /// Whether the decision is about the reported membership and about the daemon's current ring.
    pub(super) fn is_settled(&self) -> bool {
        self.decides_membership() && self.ring.is_settled()
    }

    pub(super) fn decides_membership(&self) -> bool {
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
