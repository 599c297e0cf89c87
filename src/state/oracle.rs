//! What is promised of quorum, apart from how the [`Tracker`] comes to it: "Fail safe" of the
//! README, kept account of a second time.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    libquorum::{NodeId, Notification, RingId, VoteFlags, Votes},
    link::{
        clock::Moment,
        ring_watch::{RingReading, RingUpdate, SECOND_READ},
    },
    state::{
        self, BeliefPolicy, Connection, DepartureLog, Event, Now, Quorum, QuorumChanged, RingState,
        Snapshot, Tracker,
    },
};

/// Goes along with a tracker and panics at a promise that it does not keep.
#[derive(Debug)]
pub(crate) struct Oracle {
    policy: BeliefPolicy,
    /// All that this connection has told; `None` while there is none.
    link: Option<Link>,
    /// Since when everything has spoken for quorum, without a break.
    speaks_since: Option<Moment>,
    departures: DepartureLog,
    changes: Vec<QuorumChanged>,
}

#[derive(Debug)]
struct Link {
    has_provider: bool,
    /// When the last request that was answered had been sent.
    lived_at: Moment,
    /// The last deadline that passed. An answer to an earlier request proves nothing.
    expired_at: Moment,
    nodelist: Option<RingId>,
    decision: Option<Decision>,
    /// Since when that decision has been about another ring than the nodelist's.
    differs_since: Option<Moment>,
    /// Whether one has been about the nodelist's. Before, it may have differed for ever.
    was_settled: bool,
    votes: Option<Votes>,
    ring: Ring,
    /// Who has come along through every ring since the last decision about a membership.
    companions: Option<Set>,
    /// The same at the last change of membership, and the votes before it, until those after it are
    /// known.
    unchecked: Option<(Set, Votes)>,
    changed_at: Moment,
}

/// What the reads of the counters and the decisions about rings have been.
#[derive(Debug, Default)]
struct Ring {
    is_unwatched: bool,
    reads: Vec<RingReading>,
    /// About another ring than the one before: when it was applied, and when nothing had waited.
    decisions: Vec<(Moment, Moment)>,
    last: Option<RingId>,
}

#[derive(Debug)]
struct Decision {
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
    fn latest(&self, policy: &BeliefPolicy, expired_at: Moment) -> Moment {
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

/// Whether all that are not among these may have been quorate without them: by votes.
fn others_suffice(companions: &Set, one: &Votes, other: &Votes) -> bool {
    let votes_of = |votes: &Votes, node: NodeId| {
        votes.members.iter().find(|(member, _)| *member == node).map(|(_, n)| u64::from(*n))
    };
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

type Set = BTreeSet<NodeId>;

fn set(nodes: &[NodeId]) -> Set {
    nodes.iter().copied().collect()
}

impl Oracle {
    pub(crate) fn new(policy: BeliefPolicy) -> Self {
        Self {
            policy,
            link: None,
            speaks_since: None,
            departures: DepartureLog::default(),
            changes: Vec::new(),
        }
    }

    /// Applies the event to the tracker and looks at what comes of it.
    pub(crate) fn apply(&mut self, tracker: &mut Tracker, event: Event, now: Now) {
        let before = Arc::clone(tracker.current());
        let promised = tracker.deadline();
        let was_believed = tracker.believes_in_ring(now.moment);
        let change = tracker.apply(event.clone(), now);
        let after = Arc::clone(tracker.current());

        accounts(&before, &after, change.as_ref(), now);
        if before.connection == Connection::Stopped {
            assert!(change.is_none(), "nothing follows a stop");
            return;
        }
        if matches!(event, Event::Tick) && change.is_some() {
            assert!(promised.is_some_and(|due| due <= now.moment), "a change nobody waited for");
        }
        assert!(tracker.deadline().is_none_or(|due| due > now.moment), "it would have changed");

        // Readers go by the clock: what ran out did so whether or not the tracker was told of it.
        let link = self.link.as_ref();
        let lapsed = link.is_some_and(|link| !link.is_believed(&self.policy, now.moment));
        let stalled = link.is_some_and(|link| !link.lives(&self.policy, now.moment));
        let ring_ended =
            promised.is_some_and(|due| due <= now.moment) && before.quorum.is_quorate();
        let ran_out = before.connection == Connection::Connected && stalled
            || before.quorum.is_quorate() && lapsed
            || ring_ended;
        if let Some(link) = self.link.as_mut() {
            if before.connection == Connection::Connected && stalled {
                link.expired_at = link.expired_at.max(link.lived_at.after(self.policy.lease));
            }
            if ring_ended && !lapsed && !stalled {
                link.expired_at = link.expired_at.max(promised.unwrap_or_default());
            }
        }
        let was_linked = self.link.is_some();
        // Where quorum was not held, nothing is interrupted; what ran out is interrupted by that.
        let was_held =
            self.speaks_since.is_some() && !ran_out && !lapsed && !stalled && was_believed;
        let (reformed, others) = self.hear(&event, now.moment, &before, was_held);

        let restarted = match &event {
            Event::Notified { notification: Notification::Nodelist { left, .. }, .. }
                if was_linked =>
            {
                &(&set(left) & &set(&before.members)) & &set(&after.members)
            }
            _ => Set::new(),
        };
        self.membership(&event, &before, &after);
        let (old, new) = (set(&before.members), set(&after.members));
        match &change {
            Some(change) => {
                assert_eq!(set(&change.joined), &(&new - &old) | &restarted);
                assert_eq!(set(&change.left), &(&old - &new) | &restarted);
            }
            None => assert!(restarted.is_empty(), "who restarted is told"),
        }

        // Continuity.
        let unlinked = was_linked && self.link.is_none();
        let loss = before.quorum.is_quorate() && !after.quorum.is_quorate();
        let moved = after.epoch - before.epoch;
        if ran_out || others || unlinked || loss {
            assert_eq!(moved, 1, "continuity is broken");
        }
        let may_be = ran_out || others || unlinked || loss || reformed;
        assert!(moved <= u64::from(may_be), "it is not");

        // Quorum.
        let link = self.link.as_ref();
        let lives = link.is_some_and(|link| link.lives(&self.policy, now.moment));
        assert_eq!(after.connection == Connection::Connected, lives);
        assert_eq!(after.connection == Connection::Stalled, link.is_some() && !lives);
        if after.ring != RingState::Gather {
            assert_eq!(after.settled, link.is_some_and(Link::is_settled));
        }
        let decides = lives
            && link
                .is_some_and(|link| link.decides() && link.is_believed(&self.policy, now.moment));
        let is_unwatched = link.is_some_and(|link| link.ring.is_unwatched);
        // Whether the ring is believed in is what it says; how long it may be is looked at below.
        let speaks = decides && (is_unwatched || tracker.believes_in_ring(now.moment));
        let unbroken = self.speaks_since.filter(|_| moved == 0 && !lapsed && was_believed);
        self.speaks_since = speaks.then(|| unbroken.unwrap_or(now.moment));
        let is_old = before.quorum.is_quorate() && !ran_out;
        let is_stable = |since: Moment| now.moment >= since.after(self.policy.stable_after);
        let expected = self.speaks_since.is_some_and(|since| is_old || is_stable(since));
        assert_eq!(after.quorum.is_quorate(), expected);
        if after.quorum == Quorum::Inquorate {
            // A gain that is held back leaves it at what it was.
            let is_held_back = speaks && before.quorum == Quorum::Inquorate;
            let said_no = link.is_some_and(|link| link.decision.is_some() && !link.decides());
            assert!(lives && (said_no || is_held_back), "corosync has said so");
        }
        if let Some(link) = link.filter(|_| after.quorum.is_quorate()) {
            // Until when readers believe it.
            let until = tracker.deadline().expect("quorum runs out by itself");
            assert!(until <= link.lived_at.after(self.policy.lease));
            assert!(link.differs_since.is_none_or(|s| until <= s.after(self.policy.settle_grace)));
            assert!(until <= link.ring.latest(&self.policy, link.expired_at), "the ring");
        }
        if let Some(until) = tracker.exclusive_until() {
            let link = link.expect("connected");
            assert!(after.quorum.is_quorate() && after.settled);
            assert!(Some(until) <= tracker.deadline());
            let votes = link.votes.as_ref().expect("votes are known");
            let ours: u64 = after
                .members
                .iter()
                .map(|node| {
                    votes
                        .members
                        .iter()
                        .find(|(id, _)| id == node)
                        .map_or(0, |(_, n)| u64::from(*n))
                })
                .sum();
            assert!(ours * 2 > u64::from(votes.highest_expected));
            let read = link.ring.reads.last().expect("it was read");
            let (_, decided_after) = *link.ring.decisions.last().expect("it was decided");
            assert!(until <= read.asked_at.max(decided_after).after(read.consensus));
        }

        if let Some(link) = link {
            let told = |votes: &Option<Votes>| {
                votes.clone().map(|votes| Votes { configured: None, ..votes })
            };
            assert_eq!(told(&after.votes), told(&link.votes));
        }
        for spared in [&[], &after.members[..after.members.len().min(1)], &after.members] {
            assert_eq!(after.quorate_without(spared), quorate_without(&after, spared));
        }
        if let Some(change) = change {
            self.departures.note(&change);
            self.changes.push(change);
        }
    }

    /// Takes note of an event. Returns whether the membership is another one without a nodelist, so
    /// that this node may have been away, and whether others may have been quorate meanwhile.
    fn hear(
        &mut self,
        event: &Event,
        now: Moment,
        before: &Snapshot,
        was_held: bool,
    ) -> (bool, bool) {
        let Some(link) = &mut self.link else {
            if let Event::Connected { has_provider, asked_at, watched } = event {
                self.link = Some(Link::new(*has_provider, *asked_at, *watched));
            }
            return (matches!(event, Event::Disconnected(_)), false);
        };
        let (mut reformed, mut others) = (false, false);
        match event {
            Event::Tick | Event::Scripted(..) => {}
            Event::Lapsed => reformed = true,
            Event::Disconnected(_) | Event::Failed { .. } | Event::Stopped => {
                self.link = None;
                return (true, false);
            }
            Event::Connected { has_provider, asked_at, watched } => {
                *link = Link::new(*has_provider, *asked_at, *watched);
            }
            Event::Ring(RingUpdate::Unwatched) => {
                link.ring.is_unwatched |= link.ring.reads.is_empty();
            }
            Event::Ring(RingUpdate::Read(reading)) => {
                link.ring.is_unwatched = false;
                link.ring.reads.push(reading.clone());
            }
            Event::Answered(answer) => {
                if answer.asked_at >= link.expired_at {
                    link.lived_at = link.lived_at.max(answer.asked_at);
                }
                link.votes.clone_from(&answer.votes);
                if let Some(votes) = &mut link.votes {
                    votes.configured =
                        link.ring.reads.last().and_then(|read| read.configured_votes);
                }
                let is_current = answer.asked_at > link.changed_at && link.decision.is_some();
                if let Some(decision) = &mut link.decision {
                    let since = decision.asked.map_or(decision.told_at, |(asked_at, _)| asked_at);
                    if answer.asked_at > since {
                        decision.asked = Some((answer.asked_at, !answer.quorate));
                    }
                }
                if let (true, Some(votes)) = (is_current, &link.votes)
                    && let Some((companions, old)) = link.unchecked.take()
                {
                    others = was_held
                        && !others_suffice(&companions, &old, &old)
                        && others_suffice(&companions, &old, votes);
                }
            }
            Event::Notified {
                notification: Notification::Nodelist { ring_id, members, left, .. },
                drained_at,
            } => {
                link.nodelist = Some(*ring_id);
                link.changed_at = now;
                if let Some(companions) = &mut link.companions {
                    *companions = &(&*companions & &set(members)) - &set(left);
                    link.unchecked = None;
                    if was_held {
                        let votes = before.votes.as_ref();
                        others = votes.is_none_or(|v| others_suffice(companions, v, v));
                        link.unchecked = votes.map(|votes| (companions.clone(), votes.clone()));
                    }
                }
                if !link.has_provider {
                    link.ring.decide(*ring_id, *drained_at, now);
                    link.companions = Some(set(members));
                }
            }
            Event::Notified {
                notification: Notification::Quorum { quorate, ring_id: ring, members },
                drained_at,
            } => {
                let (quorate, ring) = (*quorate, *ring);
                let last =
                    link.decision.replace(Decision { quorate, ring, told_at: now, asked: None });
                link.changed_at = now;
                reformed = last.is_none_or(|last| last.ring != ring);
                if link.has_provider {
                    link.ring.decide(ring, *drained_at, now);
                    match link.nodelist {
                        None => link.companions = Some(set(members)),
                        Some(nodelist) if nodelist == ring => {
                            link.companions = Some(set(&before.members));
                        }
                        Some(_) => {}
                    }
                }
            }
        }
        let differs = link.decision.is_some() && !link.is_settled();
        link.was_settled |= link.is_settled();
        link.differs_since = differs.then(|| link.differs_since.unwrap_or(now));
        (reformed, others)
    }

    /// Who is a member: the nodelist says; where there is none (model V0), the decision.
    fn membership(&self, event: &Event, before: &Snapshot, after: &Snapshot) {
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

    /// Whoever missed changes is told of all of them in one.
    pub(crate) fn finish(&self) {
        let Some(latest) = self.changes.last() else { return };
        let current = &latest.current;
        let first = state::first(current);
        assert_eq!((&*first.joined, first.left.len()), (&*current.members, 0));
        let mut left = Set::new();
        for (missed, change) in self.changes.iter().rev().enumerate() {
            left.extend(change.left.iter());
            let seen = &change.previous;
            let told = self.departures.conflate(seen, latest);
            let (old, new) = (set(&seen.members), set(&current.members));
            let rejoined = &(&left & &old) & &new;
            assert_eq!((&told.previous, &told.current), (seen, current));
            assert_eq!(set(&told.joined), &(&new - &old) | &rejoined);
            assert_eq!(set(&told.left), &(&old - &new) | &rejoined);
            assert_eq!(told.rejoined().collect::<Set>(), rejoined);
            assert_eq!(told.missed, missed as u64);
            assert_eq!(told.cause, latest.cause);
        }
    }
}

impl Link {
    fn new(has_provider: bool, lived_at: Moment, watched: bool) -> Self {
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
    fn lives(&self, policy: &BeliefPolicy, now: Moment) -> bool {
        now < self.lived_at.after(policy.lease)
    }

    /// Whether the last decision is for quorum, and votequorum says nothing else.
    fn decides(&self) -> bool {
        let Some(decision) = &self.decision else { return false };
        decision.quorate && !decision.asked.is_some_and(|(_, otherwise)| otherwise)
    }

    /// Whether the decision is about this membership. Without a provider it has no ring.
    fn is_settled(&self) -> bool {
        self.decision.as_ref().is_some_and(|decision| {
            let other = self.nodelist.is_some_and(|nodelist| nodelist != decision.ring);
            !self.has_provider || !other
        })
    }

    /// Whether it is, or has not been for less than the grace.
    fn is_believed(&self, policy: &BeliefPolicy, now: Moment) -> bool {
        let is_recent = |since: Moment| self.was_settled && now < since.after(policy.settle_grace);
        self.differs_since.is_none_or(is_recent)
    }
}

/// Each change is one, and says what it is.
fn accounts(
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

/// Without some of its members. What is quorate without a vote to spare can spare nobody, and is.
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
