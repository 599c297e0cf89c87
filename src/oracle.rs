//! What is promised of quorum, apart from how the [`Tracker`] comes to it: "Fail safe" of the
//! README, kept account of a second time.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    Connection, NodeId, Quorum, QuorumChanged, RingId, Snapshot, Votes,
    lease::Moment,
    libquorum::Notification,
    state::{self, Departures, Event, Now, Rules, Tracker},
};

/// Goes along with a tracker and panics at a promise that it does not keep.
#[derive(Debug)]
pub(crate) struct Oracle {
    rules: Rules,
    /// All that this connection has told; `None` while there is none.
    link: Option<Link>,
    /// Since when everything has spoken for quorum, without a break.
    speaks_since: Option<Moment>,
    departures: Departures,
    changes: Vec<QuorumChanged>,
}

#[derive(Debug)]
struct Link {
    has_provider: bool,
    /// When the last request that was answered had been sent.
    lived_at: Moment,
    nodelist: Option<RingId>,
    decision: Option<Decision>,
    /// Since when that decision has been about another ring than the nodelist's.
    differs_since: Option<Moment>,
    /// Whether one has been about the nodelist's. Before, it may have differed for ever.
    was_settled: bool,
    votes: Option<Votes>,
}

#[derive(Debug)]
struct Decision {
    quorate: bool,
    ring: RingId,
    told_at: Moment,
    /// When votequorum was asked last after that, and whether it said otherwise.
    asked: Option<(Moment, bool)>,
}

type Set = BTreeSet<NodeId>;

fn set(nodes: &[NodeId]) -> Set {
    nodes.iter().copied().collect()
}

impl Oracle {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            link: None,
            speaks_since: None,
            departures: Departures::default(),
            changes: Vec::new(),
        }
    }

    /// Applies the event to the tracker and looks at what comes of it.
    pub(crate) fn apply(&mut self, tracker: &mut Tracker, event: Event, now: Now) {
        let before = Arc::clone(tracker.current());
        let promised = tracker.deadline();
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
        let lapsed = link.is_some_and(|link| !link.is_believed(&self.rules, now.moment));
        let stalled = link.is_some_and(|link| !link.lives(&self.rules, now.moment));
        let ran_out = before.connection == Connection::Connected && stalled
            || before.quorum.is_quorate() && lapsed;
        let was_linked = link.is_some();
        let reformed = self.hear(&event, now.moment);

        let restarted = match &event {
            Event::Notified(Notification::Nodelist { left, .. }) if was_linked => {
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
        let cut_off = old.len() > 1 && restarted.len() + 1 >= old.len();
        let unlinked = was_linked && self.link.is_none();
        let loss = before.quorum.is_quorate() && !after.quorum.is_quorate();
        let moved = after.epoch - before.epoch;
        if ran_out || cut_off || unlinked || loss {
            assert_eq!(moved, 1, "continuity is broken");
        }
        let may_be = ran_out || unlinked || loss || reformed || old != new;
        assert!(moved <= u64::from(may_be), "it is not");

        // Quorum.
        let link = self.link.as_ref();
        let lives = link.is_some_and(|link| link.lives(&self.rules, now.moment));
        assert_eq!(after.connection == Connection::Connected, lives);
        assert_eq!(after.connection == Connection::Stalled, link.is_some() && !lives);
        assert_eq!(after.settled, link.is_some_and(Link::is_settled));
        let speaks = lives
            && link.is_some_and(|link| link.decides() && link.is_believed(&self.rules, now.moment));
        let unbroken = self.speaks_since.filter(|_| moved == 0 && !lapsed);
        self.speaks_since = speaks.then(|| unbroken.unwrap_or(now.moment));
        let is_old = before.quorum.is_quorate() && !ran_out;
        let is_stable = |since: Moment| now.moment >= since.after(self.rules.stable_after);
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
            assert!(until <= link.lived_at.after(self.rules.lease));
            assert!(link.differs_since.is_none_or(|s| until <= s.after(self.rules.settle_grace)));
        }

        if let Some(link) = link {
            assert_eq!(after.votes, link.votes);
        }
        for spared in [&[], &after.members[..after.members.len().min(1)], &after.members] {
            assert_eq!(after.would_survive(spared), would_survive(&after, spared));
        }
        if let Some(change) = change {
            self.departures.note(&change);
            self.changes.push(change);
        }
    }

    /// Takes note of an event. Returns whether the membership is another one, so that it may have
    /// been this node that was away.
    fn hear(&mut self, event: &Event, now: Moment) -> bool {
        let Some(link) = &mut self.link else {
            if let Event::Connected { has_provider, asked_at } = event {
                self.link = Some(Link::new(*has_provider, *asked_at));
            }
            return matches!(event, Event::Lost(_));
        };
        let reformed = match event {
            Event::Tick | Event::Lapsed => false,
            Event::Lost(_) | Event::Failed { .. } | Event::Stopped => {
                self.link = None;
                return true;
            }
            Event::Connected { has_provider, asked_at } => {
                *link = Link::new(*has_provider, *asked_at);
                true
            }
            Event::Answered(answer) => {
                link.lived_at = link.lived_at.max(answer.asked_at);
                link.votes.clone_from(&answer.votes);
                if let Some(decision) = &mut link.decision {
                    let since = decision.asked.map_or(decision.told_at, |(asked_at, _)| asked_at);
                    if answer.asked_at > since {
                        decision.asked = Some((answer.asked_at, !answer.quorate));
                    }
                }
                false
            }
            Event::Notified(Notification::Nodelist { ring_id, .. }) => {
                link.nodelist = Some(*ring_id);
                true
            }
            Event::Notified(Notification::Quorum { quorate, ring_id: ring, .. }) => {
                let (quorate, ring) = (*quorate, *ring);
                let last =
                    link.decision.replace(Decision { quorate, ring, told_at: now, asked: None });
                last.is_none_or(|last| last.ring != ring)
            }
        };
        let differs = link.decision.is_some() && !link.is_settled();
        link.was_settled |= link.is_settled();
        link.differs_since = differs.then(|| link.differs_since.unwrap_or(now));
        reformed
    }

    /// Who is a member: the nodelist says; where there is none (model V0), the decision.
    fn membership(&self, event: &Event, before: &Snapshot, after: &Snapshot) {
        let is_v0 = self.link.as_ref().is_some_and(|l| l.has_provider && l.nodelist.is_none());
        let (ring_id, members) = match event {
            Event::Notified(Notification::Nodelist { ring_id, members, .. })
                if self.link.is_some() =>
            {
                (Some(*ring_id), set(members))
            }
            Event::Notified(Notification::Quorum { ring_id, members, .. }) if is_v0 => {
                (Some(*ring_id), set(members))
            }
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
    fn new(has_provider: bool, lived_at: Moment) -> Self {
        Self {
            has_provider,
            lived_at,
            nodelist: None,
            decision: None,
            differs_since: None,
            was_settled: false,
            votes: None,
        }
    }

    /// Whether Corosync is known to have lived within the lease.
    fn lives(&self, rules: &Rules, now: Moment) -> bool {
        now < self.lived_at.after(rules.lease)
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
    fn is_believed(&self, rules: &Rules, now: Moment) -> bool {
        let is_recent = |since: Moment| self.was_settled && now < since.after(rules.settle_grace);
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

/// Without some of its members.
fn would_survive(snapshot: &Snapshot, spared: &[NodeId]) -> Option<bool> {
    let votes = snapshot.votes.as_ref()?;
    let gone: Option<Vec<u32>> = spared.iter().map(|node| votes.of(*node)).collect();
    let gone: u64 = gone?.into_iter().map(u64::from).sum();
    let left = u64::from(votes.total).saturating_sub(gone);
    Some(snapshot.quorum.is_quorate() && left >= u64::from(votes.quorum))
}
