//! What one connection to the daemon has reported so far.

use std::time::Duration;

use super::{Set, set};
use crate::{
    libquorum::{NodeId, Notification, RingId, VoteFlags, Votes},
    link::{
        clock::Moment,
        probe::Answer,
        ring_reading::{RingCounters, RingReading, RingUpdate, SECOND_READ},
    },
    state::{BeliefPolicy, Event, Snapshot},
};

/// The reasons for which an event may interrupt quorum.
#[derive(Debug, Default)]
pub(super) struct InterruptionReasons {
    /// The epoch may grow: this node may have been away, or readers may have seen the lease expire.
    pub(super) reformed: bool,
    /// The epoch must grow: other nodes may have been quorate without this node.
    pub(super) others: bool,
}

/// Everything that one connection has reported.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) has_provider: bool,
    /// When the last answered request was sent.
    pub(super) lived_at: Moment,
    /// The last deadline that passed. An answer to an earlier request proves nothing.
    pub(super) expired_at: Moment,
    pub(super) nodelist: Option<RingId>,
    pub(super) decision: Option<Decision>,
    /// Since when the decision has been about a ring other than the nodelist's.
    pub(super) differs_since: Option<Moment>,
    /// Whether a decision has been about the nodelist's ring. Before that, it is not known for how
    /// long the decision and the nodelist have been about different rings.
    was_settled: bool,
    pub(super) votes: Option<Votes>,
    pub(super) ring: Ring,
    /// The nodes that have been in every ring with this node since the last decision.
    companions: Option<Set>,
    /// For each change of membership after which the votes are not yet known: the companions that
    /// remained after it, and the votes before it.
    unchecked: Vec<(Set, Votes)>,
    changed_at: Moment,
}

/// The reads of the counters and the decisions about rings.
#[derive(Debug, Default)]
pub(super) struct Ring {
    pub(super) is_unwatched: bool,
    /// The reads since a counter last moved.
    pub(super) run: Vec<RingReading>,
    /// Whether `run` begins with the last read of the previous connection, with which no read has
    /// been compared yet.
    is_continued: bool,
    /// For each pair of reads between which only the token moved: when the first read was
    /// requested, and the moment until which the pair shows that the ring is alive. A pair is left
    /// out if a later pair proves as much.
    pairs: Vec<(Moment, Moment)>,
    /// The longest time for which the ring is believed to be alive after any evidence, according to
    /// the timeouts in any read so far.
    longest: Duration,
    /// The moment until which the ring may be believed to be alive although a counter has moved.
    /// `None` if no counter has moved since the last decision.
    moved_until: Option<Moment>,
    /// The decisions about a new ring: when each was applied, and the last known moment at which
    /// Corosync had not yet sent it.
    pub(super) decisions: Vec<(Moment, Moment)>,
    last: Option<RingId>,
    /// How many rings this connection has reported.
    rings: usize,
}

/// The last quorum notification.
#[derive(Debug)]
pub(super) struct Decision {
    quorate: bool,
    ring: RingId,
    decided_at: Moment,
    /// When votequorum was last asked after the decision, and whether it reported no quorum.
    asked: Option<(Moment, bool)>,
}

impl Ring {
    fn decide(&mut self, ring: RingId, drained_at: Moment, now: Moment) {
        if self.last != Some(ring) {
            self.decisions.push((now, drained_at));
            self.moved_until = None;
        }
        self.last = Some(ring);
    }

    /// Adds a read of the counters.
    fn read(&mut self, read: &RingReading, grace: Duration) {
        self.is_unwatched = false;
        let is_first_of_next = std::mem::take(&mut self.is_continued);
        let lease = (read.token + read.consensus).saturating_add(grace);
        self.longest = self.longest.max(lease);
        let mut read = read.clone();
        let (is_cleared, has_moved) = self.run.last().map_or((false, false), |before| {
            (clears(before, &read), before.counters != read.counters)
        });
        if is_cleared {
            // An operator may clear the counters while the ring stays alive.
            read.counters = RingCounters::default();
            self.run.clear();
        } else if has_moved {
            let decided_at = self.decisions.last().map(|(decided_at, _)| *decided_at);
            if self.run.last().map(|before| before.asked_at) > decided_at {
                let until = read.asked_at.after(read.consensus.saturating_add(grace));
                self.moved_until.get_or_insert(until);
            }
            self.run.clear();
            if is_first_of_next && self.rings.max(self.decisions.len()) < 2 {
                // The first notifications of this connection may be older than the movement.
                self.moved_until = Some(Moment::default());
            }
        } else if is_first_of_next {
            // A pair needs two reads of this connection.
            self.run.clear();
        }
        let confirmed = self.run.iter().filter(|one| {
            one.tokens != read.tokens && read.asked_at >= one.answered_at.after(SECOND_READ)
        });
        if let Some(asked_at) = confirmed.map(|one| one.asked_at).max() {
            let until = asked_at.after(lease);
            self.pairs.retain(|pair| pair.0 > asked_at || pair.1 > until);
            self.pairs.push((asked_at, until));
        }
        self.run.push(read);
    }

    /// Returns the latest moment until which, after these reads and decisions, the ring may be
    /// believed to be alive. Evidence from before `expired_at` is ignored.
    pub(super) fn latest(&self, expired_at: Moment) -> Moment {
        if self.is_unwatched {
            return Moment::NEVER;
        }
        let pairs = self.pairs.iter().filter(|(asked_at, _)| *asked_at >= expired_at);
        let pairs = pairs.map(|(_, until)| *until);
        // The first decision of a connection may be old. It is not known which read shows the
        // timeouts that applied at a decision, so the longest ones are used.
        let decisions = self.decisions.iter().skip(1).map(|(_, drained_at)| *drained_at);
        let decisions = decisions.filter(|drained_at| *drained_at >= expired_at);
        let decisions = decisions.map(|drained_at| drained_at.after(self.longest));
        let latest = pairs.chain(decisions).max().unwrap_or_default();
        let latest = latest.min(self.moved_until.unwrap_or(Moment::NEVER));
        if self.decisions.is_empty() { Moment::default() } else { latest }
    }
}

/// Whether the counters were cleared between these reads: there are fewer tokens than before, and
/// each counter is as before or zero.
fn clears(before: &RingReading, read: &RingReading) -> bool {
    let counters = |read: &RingReading| {
        let RingCounters {
            gather_entered,
            operational_entered,
            token_lost,
            recovery_entered,
            recovery_token_lost,
        } = read.counters;
        [gather_entered, operational_entered, token_lost, recovery_entered, recovery_token_lost]
    };
    let mut both = counters(before).into_iter().zip(counters(read));
    read.connection == before.connection
        && read.tokens < before.tokens
        && both.all(|(before, now)| now == before || now == 0)
}

/// Returns the votes of a member, or `None` if they are not known.
pub(super) fn votes_of(votes: &Votes, node: NodeId) -> Option<u64> {
    votes.members.iter().find(|(member, _)| *member == node).map(|(_, n)| u64::from(*n))
}

/// Whether these members alone hold a majority of all votes. If a minority may become quorate by
/// other means, the members and the quorum device together must also hold all votes.
pub(super) fn is_majority(votes: &Votes, members: &[NodeId]) -> bool {
    let ours: Option<u64> = members.iter().map(|node| votes_of(votes, *node)).sum();
    let Some(ours) = ours else { return false };
    let all = all_votes(votes);
    let by_other_means = votes.flags.contains(VoteFlags::LAST_MAN_STANDING)
        || votes.flags.contains(VoteFlags::ALLOW_DOWNSCALE)
        || votes.flags.contains(VoteFlags::QDEVICE_MASTER_WINS);
    2 * ours > all && (!by_other_means || ours + u64::from(votes.qdevice) >= all)
}

/// Returns how many votes the whole cluster may have.
fn all_votes(votes: &Votes) -> u64 {
    let Votes { expected, highest_expected, total, configured, .. } = *votes;
    [expected, highest_expected, total, configured.unwrap_or(0)]
        .into_iter()
        .max()
        .map_or(0, u64::from)
}

/// Whether all nodes other than the companions may together have been quorate. Each companion is
/// counted with the smaller of its votes in `one` and `other`.
fn others_suffice(companions: &Set, one: &Votes, other: &Votes) -> bool {
    let all = all_votes(one).max(all_votes(other));
    let mut away = all;
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
    pub(super) fn new(
        has_provider: bool,
        lived_at: Moment,
        watched: bool,
        last_read: Option<RingReading>,
        policy: &BeliefPolicy,
    ) -> Self {
        let mut ring = Ring { is_unwatched: !watched, ..Ring::default() };
        if let Some(read) = last_read {
            ring.read(&read, policy.settle_grace);
            ring.is_continued = true;
        }
        Self {
            has_provider,
            lived_at,
            expired_at: Moment::default(),
            nodelist: None,
            decision: None,
            differs_since: None,
            was_settled: false,
            votes: None,
            ring,
            companions: None,
            unchecked: Vec::new(),
            changed_at: Moment::default(),
        }
    }

    /// Whether the lease, counted from the last answered request, has not expired yet.
    pub(super) fn lives(&self, policy: &BeliefPolicy, now: Moment) -> bool {
        now < self.lived_at.after(policy.lease)
    }

    /// Whether the last decision says that this node has quorum, and votequorum has not
    /// contradicted it since.
    pub(super) fn decides(&self) -> bool {
        let Some(decision) = &self.decision else { return false };
        decision.quorate && !decision.asked.is_some_and(|(_, otherwise)| otherwise)
    }

    /// Whether the decision is about this membership. Without a provider, a decision has no ring
    /// and is about every membership.
    pub(super) fn is_settled(&self) -> bool {
        self.decision.as_ref().is_some_and(|decision| {
            let other = self.nodelist.is_some_and(|nodelist| nodelist != decision.ring);
            !self.has_provider || !other
        })
    }

    /// Whether the decision is about this membership, or has been about another one for less than
    /// `settle_grace`.
    pub(super) fn is_believed(&self, policy: &BeliefPolicy, now: Moment) -> bool {
        let is_recent = |since: Moment| self.was_settled && now < since.after(policy.settle_grace);
        self.differs_since.is_none_or(is_recent)
    }

    /// Adds an event of this connection. Returns the reasons for which the event may interrupt
    /// quorum.
    pub(super) fn fold(
        &mut self,
        event: &Event,
        now: Moment,
        before: &Snapshot,
        was_held: bool,
        policy: &BeliefPolicy,
    ) -> InterruptionReasons {
        let mut reasons = InterruptionReasons::default();
        match event {
            Event::Lapsed => reasons.reformed = true,
            Event::Ring(RingUpdate::Unwatched) => {
                self.ring.is_unwatched |= self.ring.run.is_empty();
            }
            Event::Ring(RingUpdate::Read(reading)) => {
                self.ring.read(reading, policy.settle_grace);
            }
            Event::Answered(answer) => reasons.others = self.answer(answer, was_held),
            Event::Notified { notification, drained_at } => {
                self.changed_at = now;
                match notification {
                    Notification::Nodelist { ring_id, members, left, .. } => {
                        let votes = before.votes.as_ref();
                        reasons.others = self.nodelist(*ring_id, members, left, votes, was_held);
                        if !self.has_provider {
                            self.ring.decide(*ring_id, *drained_at, now);
                            self.companions = Some(set(members));
                        }
                    }
                    Notification::Quorum { quorate, ring_id, members } => {
                        let decision = Decision {
                            quorate: *quorate,
                            ring: *ring_id,
                            decided_at: now,
                            asked: None,
                        };
                        let last = self.decision.replace(decision);
                        reasons.reformed = last.is_none_or(|last| last.ring != *ring_id);
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
        reasons
    }

    /// Adds an answer to a probe. Returns whether other nodes may have been quorate without this
    /// node, now that the votes are known.
    fn answer(&mut self, answer: &Answer, was_held: bool) -> bool {
        if answer.asked_at >= self.expired_at {
            self.lived_at = self.lived_at.max(answer.asked_at);
        }
        self.votes.clone_from(&answer.votes);
        if let Some(votes) = &mut self.votes {
            votes.configured = self.ring.run.last().and_then(|read| read.configured_votes);
        }
        // Until votequorum has decided, it may report the votes of the previous membership.
        let is_current = answer.asked_at > self.changed_at && self.is_settled();
        if let Some(decision) = &mut self.decision {
            let since = decision.asked.map_or(decision.decided_at, |(asked_at, _)| asked_at);
            if answer.asked_at > since {
                decision.asked = Some((answer.asked_at, !answer.quorate));
            }
        }
        let (true, Some(votes)) = (is_current, &self.votes) else { return false };
        let unchecked = std::mem::take(&mut self.unchecked);
        was_held
            && unchecked.iter().any(|(companions, old)| {
                !others_suffice(companions, old, old) && others_suffice(companions, old, votes)
            })
    }

    /// Adds a nodelist. Returns whether other nodes may have been quorate without this node,
    /// according to the votes known so far.
    fn nodelist(
        &mut self,
        ring_id: RingId,
        members: &[NodeId],
        left: &[NodeId],
        votes: Option<&Votes>,
        was_held: bool,
    ) -> bool {
        if self.nodelist.replace(ring_id) != Some(ring_id) {
            self.ring.rings += 1;
            // A ring id that was used before is a new ring. Only the fuzz driver reuses ring ids.
            self.ring.last = None;
        }
        let Some(companions) = &mut self.companions else { return false };
        *companions = &(&*companions & &set(members)) - &set(left);
        if !was_held {
            self.unchecked.clear();
            return false;
        }
        self.unchecked.extend(votes.map(|votes| (companions.clone(), votes.clone())));
        votes.is_none_or(|votes| others_suffice(companions, votes, votes))
    }

    /// Adds a provider's decision about this ring.
    fn decide_members(&mut self, ring: RingId, members: &[NodeId], before: &Snapshot) {
        match self.nodelist {
            None => self.companions = Some(set(members)),
            Some(nodelist) if nodelist == ring => self.companions = Some(set(&before.members)),
            Some(_) => {}
        }
    }
}
