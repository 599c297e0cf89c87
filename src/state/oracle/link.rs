//! What one connection to the daemon has reported so far.

use super::{Set, set};
use crate::{
    libquorum::{NodeId, Notification, RingId, VoteFlags, Votes},
    link::{
        clock::Moment,
        probe::Answer,
        ring_watch::{RingReading, RingUpdate, SECOND_READ},
    },
    state::{BeliefPolicy, Event, Snapshot},
};

/// What an event means for continuity.
#[derive(Debug, Default)]
pub(super) struct Continuity {
    /// The membership is another one and there is no nodelist: this node may have been away.
    pub(super) reformed: bool,
    /// Others may have been quorate without this node.
    pub(super) others: bool,
}

/// What one connection reported.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) has_provider: bool,
    /// When the last request that was answered had been sent.
    pub(super) lived_at: Moment,
    /// The last deadline that passed. An answer to an earlier request proves nothing.
    pub(super) expired_at: Moment,
    pub(super) nodelist: Option<RingId>,
    pub(super) decision: Option<Decision>,
    /// Since when that decision has been about another ring than the nodelist's.
    pub(super) differs_since: Option<Moment>,
    /// Whether one has been about the nodelist's. Before, it may have differed for ever.
    was_settled: bool,
    pub(super) votes: Option<Votes>,
    pub(super) ring: Ring,
    /// Who has come along through every ring since the last decision about a membership.
    companions: Option<Set>,
    /// The same at the last change of membership, and the votes before it, until those after it are
    /// known.
    unchecked: Option<(Set, Votes)>,
    changed_at: Moment,
}

/// What the reads of the counters and the decisions about rings have been.
#[derive(Debug, Default)]
pub(super) struct Ring {
    pub(super) is_unwatched: bool,
    pub(super) reads: Vec<RingReading>,
    /// About another ring than the one before: when it was applied, and when nothing had waited.
    pub(super) decisions: Vec<(Moment, Moment)>,
    last: Option<RingId>,
}

#[derive(Debug)]
pub(super) struct Decision {
    quorate: bool,
    ring: RingId,
    told_at: Moment,
    /// When votequorum was asked last after that, and whether it said otherwise.
    asked: Option<(Moment, bool)>,
}

impl Ring {
    fn decide(&mut self, ring: RingId, drained_at: Moment, now: Moment) {
        if self.last != Some(ring) {
            self.decisions.push((now, drained_at));
        }
        self.last = Some(ring);
    }

    /// The latest moment until which anything that was seen allows to believe in the ring.
    pub(super) fn latest(&self, policy: &BeliefPolicy, expired_at: Moment) -> Moment {
        if self.is_unwatched {
            return Moment::NEVER;
        }
        let Some((decided_at, _)) = self.decisions.last() else { return Moment::default() };
        let pairs = self.reads.iter().enumerate().flat_map(|(at, one)| {
            let same = self.reads[at + 1..].iter().take_while(|two| two.counters == one.counters);
            same.filter(|two| {
                two.tokens != one.tokens && two.asked_at >= one.answered_at.after(SECOND_READ)
            })
            .map(|two| one.asked_at.after(two.token + two.consensus + policy.settle_grace))
            .filter(|_| one.asked_at >= expired_at)
        });
        let live =
            self.decisions.iter().skip(1).filter(|(_, drained_at)| *drained_at >= expired_at);
        // The timeouts of any read may have been those that counted when it was decided.
        let longest =
            self.reads.iter().map(|read| read.token + read.consensus).max().unwrap_or_default();
        let live = live.map(|(_, drained_at)| drained_at.after(longest + policy.settle_grace));
        let latest = pairs.chain(live).max().unwrap_or_default();
        // A counter that has moved since the last decision ends it in time.
        let mut since = self
            .reads
            .windows(2)
            .filter(|two| two[0].asked_at > *decided_at && two[0].counters != two[1].counters);
        match since.next() {
            Some(two) => latest.min(two[1].asked_at.after(two[1].consensus + policy.settle_grace)),
            None => latest,
        }
    }
}

/// The votes of a member.
pub(super) fn votes_of(votes: &Votes, node: NodeId) -> Option<u64> {
    votes.members.iter().find(|(member, _)| *member == node).map(|(_, n)| u64::from(*n))
}

/// Whether all that are not among these may have been quorate without them: by votes.
fn others_suffice(companions: &Set, one: &Votes, other: &Votes) -> bool {
    let mut away = 0_u64;
    for votes in [one, other] {
        for n in
            [votes.expected, votes.highest_expected, votes.total, votes.configured.unwrap_or(0)]
        {
            away = away.max(n.into());
        }
    }
    let all = away;
    for node in companions {
        let (before, after) = (votes_of(one, *node), votes_of(other, *node));
        away = away.saturating_sub(before.into_iter().chain(after).min().unwrap_or(0));
    }
    let any = |flag| (one.flags | other.flags).contains(flag);
    let mut enough = u64::from(one.quorum.min(other.quorum));
    if any(VoteFlags::AUTO_TIE_BREAKER) {
        enough = enough.min(all / 2 + all % 2);
    }
    if any(VoteFlags::LAST_MAN_STANDING) {
        enough = enough.min(if any(VoteFlags::AUTO_TIE_BREAKER) { 1 } else { 2 });
    }
    if any(VoteFlags::TWO_NODE)
        || any(VoteFlags::QDEVICE_MASTER_WINS)
        || any(VoteFlags::ALLOW_DOWNSCALE)
    {
        enough = 1;
    }
    away > 0 && away >= enough
}

impl Link {
    pub(super) fn new(has_provider: bool, lived_at: Moment, watched: bool) -> Self {
        Self {
            has_provider,
            lived_at,
            expired_at: Moment::default(),
            nodelist: None,
            decision: None,
            differs_since: None,
            was_settled: false,
            votes: None,
            ring: Ring { is_unwatched: !watched, ..Ring::default() },
            companions: None,
            unchecked: None,
            changed_at: Moment::default(),
        }
    }

    /// Whether Corosync is known to have lived within the lease.
    pub(super) fn lives(&self, policy: &BeliefPolicy, now: Moment) -> bool {
        now < self.lived_at.after(policy.lease)
    }

    /// Whether the last decision is for quorum, and votequorum says nothing else.
    pub(super) fn decides(&self) -> bool {
        let Some(decision) = &self.decision else { return false };
        decision.quorate && !decision.asked.is_some_and(|(_, otherwise)| otherwise)
    }

    /// Whether the decision is about this membership. Without a provider it has no ring.
    pub(super) fn is_settled(&self) -> bool {
        self.decision.as_ref().is_some_and(|decision| {
            let other = self.nodelist.is_some_and(|nodelist| nodelist != decision.ring);
            !self.has_provider || !other
        })
    }

    /// Whether it is, or has not been for less than the grace.
    pub(super) fn is_believed(&self, policy: &BeliefPolicy, now: Moment) -> bool {
        let is_recent = |since: Moment| self.was_settled && now < since.after(policy.settle_grace);
        self.differs_since.is_none_or(is_recent)
    }

    /// Adds an event of this connection.
    pub(super) fn fold(
        &mut self,
        event: &Event,
        now: Moment,
        before: &Snapshot,
        was_held: bool,
    ) -> Continuity {
        let mut continuity = Continuity::default();
        match event {
            Event::Lapsed => continuity.reformed = true,
            Event::Ring(RingUpdate::Unwatched) => {
                self.ring.is_unwatched |= self.ring.reads.is_empty();
            }
            Event::Ring(RingUpdate::Read(reading)) => {
                self.ring.is_unwatched = false;
                self.ring.reads.push(reading.clone());
            }
            Event::Answered(answer) => continuity.others = self.answer(answer, was_held),
            Event::Notified { notification, drained_at } => {
                self.changed_at = now;
                match notification {
                    Notification::Nodelist { ring_id, members, left, .. } => {
                        let votes = before.votes.as_ref();
                        continuity.others = self.nodelist(*ring_id, members, left, votes, was_held);
                        if !self.has_provider {
                            self.ring.decide(*ring_id, *drained_at, now);
                            self.companions = Some(set(members));
                        }
                    }
                    Notification::Quorum { quorate, ring_id, members } => {
                        let decision = Decision {
                            quorate: *quorate,
                            ring: *ring_id,
                            told_at: now,
                            asked: None,
                        };
                        let last = self.decision.replace(decision);
                        continuity.reformed = last.is_none_or(|last| last.ring != *ring_id);
                        if self.has_provider {
                            self.ring.decide(*ring_id, *drained_at, now);
                            self.decide_members(*ring_id, members, before);
                        }
                    }
                }
            }
            _ => {}
        }
        let differs = self.decision.is_some() && !self.is_settled();
        self.was_settled |= self.is_settled();
        self.differs_since = differs.then(|| self.differs_since.unwrap_or(now));
        continuity
    }

    /// Returns whether others may have been quorate, now that the votes are known.
    fn answer(&mut self, answer: &Answer, was_held: bool) -> bool {
        if answer.asked_at >= self.expired_at {
            self.lived_at = self.lived_at.max(answer.asked_at);
        }
        self.votes.clone_from(&answer.votes);
        if let Some(votes) = &mut self.votes {
            votes.configured = self.ring.reads.last().and_then(|read| read.configured_votes);
        }
        let is_current = answer.asked_at > self.changed_at && self.decision.is_some();
        if let Some(decision) = &mut self.decision {
            let since = decision.asked.map_or(decision.told_at, |(asked_at, _)| asked_at);
            if answer.asked_at > since {
                decision.asked = Some((answer.asked_at, !answer.quorate));
            }
        }
        let (true, Some(votes)) = (is_current, &self.votes) else { return false };
        let Some((companions, old)) = self.unchecked.take() else { return false };
        was_held
            && !others_suffice(&companions, &old, &old)
            && others_suffice(&companions, &old, votes)
    }

    /// Returns whether others may have been quorate, by the votes that are known.
    fn nodelist(
        &mut self,
        ring_id: RingId,
        members: &[NodeId],
        left: &[NodeId],
        votes: Option<&Votes>,
        was_held: bool,
    ) -> bool {
        self.nodelist = Some(ring_id);
        let Some(companions) = &mut self.companions else { return false };
        *companions = &(&*companions & &set(members)) - &set(left);
        self.unchecked = None;
        if !was_held {
            return false;
        }
        self.unchecked = votes.map(|votes| (companions.clone(), votes.clone()));
        votes.is_none_or(|votes| others_suffice(companions, votes, votes))
    }

    /// A provider has decided about this ring.
    fn decide_members(&mut self, ring: RingId, members: &[NodeId], before: &Snapshot) {
        match self.nodelist {
            None => self.companions = Some(set(members)),
            Some(nodelist) if nodelist == ring => self.companions = Some(set(&before.members)),
            Some(_) => {}
        }
    }
}
