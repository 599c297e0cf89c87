//! The pure folding of what happens into what is true now.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    Connection, Quorum, RingReading, RingState, Snapshot, continuity::Continuity,
    ring::RingEvidence,
};
use crate::{
    Cause, Error, Nodes, QuorumChanged, VoteFlags,
    lease::Moment,
    libquorum::{NodeId, Notification, RingId},
    probe::Answer,
    registry::Receipt,
};

/// What happens to the actor.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A connection attempt failed, or takes suspiciously long.
    Failed { attempt: u64, error: Error },
    /// Corosync accepted us, and lived after it was asked to. Without a provider, quorum decisions
    /// have no ring. Whether the ring is `watched` is known from the beginning where it cannot be.
    Connected { has_provider: bool, asked_at: Moment, watched: bool },
    /// Corosync sent a notification, at some time after `drained_at`: nothing waited then.
    Notified { notification: Notification, drained_at: Moment },
    /// Corosync answered, and everything that it had sent before has been applied.
    Answered(Answer),
    /// The ring was looked at, and everything that Corosync had sent before has been applied.
    Ring(RingUpdate),
    /// Time has passed.
    Tick,
    /// Quorum had run out for a moment when it was extended: readers may have seen that.
    Lapsed,
    /// The connection is over.
    Disconnected(Error),
    /// The actor ends.
    Stopped,
    /// A test has set this state.
    Scripted(Box<Snapshot>, Cause),
}

/// What looking at the ring brought.
#[derive(Clone, Debug)]
pub enum RingUpdate {
    /// The daemon's counters.
    Read(RingReading),
    /// They cannot be read.
    Unwatched,
}

/// When something happened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) wall: SystemTime,
    pub(crate) moment: Moment,
}

/// How long things are believed, and how soon.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) lease: Duration,
    pub(crate) settle_grace: Duration,
    pub(crate) stable_after: Duration,
    /// Believe one of two nodes that is quorate alone by `two_node`.
    pub(crate) trust_two_node: bool,
}

impl Default for Rules {
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
    rules: Rules,
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
    pub(crate) fn new(rules: Rules, wall: SystemTime) -> Self {
        let current = Arc::new(Snapshot::before_anything(wall));
        Self { rules, current, link: LinkState::default(), is_scripted: false }
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
        let grace = link.unsettled_since.map(|since| since.after(self.rules.settle_grace));
        let stable = link.quorate_since.map(|since| since.after(self.rules.stable_after));
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
        let overdue = link.is_overdue(&self.rules, now);
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
        let is_established = self.current.connection.tells();
        match event {
            Event::Failed { attempt, error } => {
                draft.cause = Cause::ConnectFailed;
                draft.after.connection = Connection::Connecting { attempt, error: Some(error) };
                if !worth_telling(&self.current.connection, &draft.after.connection) {
                    return false;
                }
                draft.broken |= is_established;
                self.unlink(draft);
            }
            Event::Connected { has_provider, asked_at, watched } => {
                draft.cause = Cause::Connected;
                draft.after.connection = Connection::Connected;
                draft.after.ring_id = None;
                self.unlink(draft);
                self.link.has_provider = has_provider;
                self.link.lease = asked_at.after(self.rules.lease);
                if !watched {
                    self.link.ring.unwatch();
                }
            }
            Event::Disconnected(error) => {
                draft.cause = Cause::Disconnected;
                draft.broken = true;
                draft.after.connection = Connection::Disconnected { error };
                self.unlink(draft);
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
    fn unlink(&mut self, draft: &mut Draft) {
        self.link = LinkState::default();
        draft.after.votes = None;
        draft.after.votes_are_current = false;
    }

    fn answered(&mut self, answer: Answer, draft: &mut Draft) {
        let link = &mut self.link;
        draft.cause = Cause::Votes;
        if answer.asked_at >= link.not_before {
            link.lease = link.lease.max(answer.asked_at.after(self.rules.lease));
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
            RingUpdate::Read(reading) => link.ring.read(reading, self.rules.settle_grace),
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
            link.ring.decide(ring_id, drained_at, now, self.rules.settle_grace);
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
            link.ring.decide(ring_id, drained_at, now, self.rules.settle_grace);
            if link.decides_membership() {
                link.continuity.decide(&draft.after.members);
            }
        }
    }

    /// The first deadline: whether the daemon lives.
    fn link_alive(&mut self, now: Moment, draft: &mut Draft) {
        if !draft.after.connection.tells() {
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
        let quorum = self.link.quorum(&self.rules, now, &draft.after);
        self.link.quorate_since = match quorum {
            Quorum::Quorate if draft.broken => Some(now),
            Quorum::Quorate => self.link.quorate_since.or(Some(now)),
            _ => None,
        };
        draft.after.quorum = quorum;
        let held = if ran_out { Quorum::Unknown } else { before.quorum };
        if quorum.is_quorate() && !held.is_quorate() {
            let since = self.link.quorate_since.unwrap_or(now);
            if now < since.after(self.rules.stable_after) {
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
            receipt: Receipt::default(),
        })
    }
}

impl LinkState {
    /// What this connection says about quorum, now.
    fn quorum(&mut self, rules: &Rules, now: Moment, after: &Snapshot) -> Quorum {
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
            Some(_) if self.is_overdue(rules, now) => Quorum::Unknown,
            Some(_) if self.ring.until().is_none_or(|until| now >= until) => Quorum::Unknown,
            Some(_) if self.has_provider && !rules.trust_two_node => without_two_node(after),
            Some(_) => Quorum::Quorate,
        }
    }

    /// Whether a decision about this membership has not come within the grace.
    fn is_overdue(&self, rules: &Rules, now: Moment) -> bool {
        self.unsettled_since
            .is_some_and(|since| !self.was_settled || now >= since.after(rules.settle_grace))
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
fn worth_telling(before: &Connection, after: &Connection) -> bool {
    match (before, after) {
        (
            Connection::Connecting { error: before, .. },
            Connection::Connecting { error: after, attempt },
        ) => before != after || attempt.is_power_of_two(),
        _ => true,
    }
}

/// When each member joined last, after it had left: enough to tell a subscriber that missed changes
/// which nodes restarted meanwhile. Nodes that left for good are forgotten.
#[derive(Debug, Default)]
pub(crate) struct Departures(HashMap<NodeId, u64>);

impl Departures {
    /// How many nodes it knows of.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes note of a change.
    pub(crate) fn note(&mut self, change: &QuorumChanged) {
        let members = &change.current.members;
        if !change.left.is_empty() {
            self.0.retain(|node, _| contains(members, *node));
        }
        for node in change.joined.iter() {
            self.0.insert(*node, change.current.sequence);
        }
    }

    /// One change from `seen` to where `latest` led, in place of all those between.
    pub(crate) fn conflate(&self, seen: &Arc<Snapshot>, latest: &QuorumChanged) -> QuorumChanged {
        let current = &latest.current;
        let mut restarted = seen.members.clone();
        restarted.retain(|node| contains(&current.members, *node));
        restarted.retain(|node| self.0.get(node).is_some_and(|joined| *joined > seen.sequence));
        QuorumChanged {
            previous: Arc::clone(seen),
            current: Arc::clone(current),
            joined: difference(&current.members, &seen.members, &restarted),
            left: difference(&seen.members, &current.members, &restarted),
            cause: latest.cause,
            missed: (current.sequence - seen.sequence).saturating_sub(1),
            receipt: Receipt::default(),
        }
    }
}

/// What is in `these` and not in `those`, and what is in `both` besides; all ascending.
fn difference(these: &[NodeId], those: &[NodeId], both: &[NodeId]) -> Nodes {
    let only = these.iter().copied().filter(|node| !contains(those, *node));
    Nodes::ascending(&sorted(only.chain(both.iter().copied()).collect()))
}

fn sorted(mut nodes: Vec<NodeId>) -> Vec<NodeId> {
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

/// Whether `node` is among `nodes`, which ascend.
fn contains(nodes: &[NodeId], node: NodeId) -> bool {
    nodes.binary_search(&node).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Code, Votes, state::RingCounters};

    const RULES: Rules = Rules {
        lease: Duration::from_secs(5),
        settle_grace: Duration::from_secs(1),
        stable_after: Duration::ZERO,
        trust_two_node: true,
    };

    /// So many milliseconds after the beginning.
    fn at(ms: u64) -> Now {
        let moment = Moment::default().after(Duration::from_millis(ms));
        Now { wall: SystemTime::UNIX_EPOCH, moment }
    }

    fn connected(has_provider: bool) -> Event {
        Event::Connected { has_provider, asked_at: at(0).moment, watched: false }
    }

    fn answered(asked_at: u64, quorate: bool) -> Event {
        let asked_at = at(asked_at).moment;
        Event::Answered(Answer { asked_at, quorate, votes: None, local: None })
    }

    fn notified(notification: Notification) -> Event {
        Event::Notified { notification, drained_at: at(0).moment }
    }

    fn ids(nodes: &[u32]) -> Vec<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    fn ring(seq: u64) -> RingId {
        RingId { node_id: NodeId(1), seq }
    }

    fn nodelist(seq: u64, members: &[u32], joined: &[u32], left: &[u32]) -> Event {
        notified(Notification::Nodelist {
            ring_id: ring(seq),
            members: ids(members),
            joined: ids(joined),
            left: ids(left),
        })
    }

    fn quorum(seq: u64, quorate: bool, members: &[u32]) -> Event {
        notified(Notification::Quorum { quorate, ring_id: ring(seq), members: ids(members) })
    }

    const LOST: Error = Error::Dispatch(Code::LIBRARY);

    struct Fold(Tracker);

    impl Fold {
        fn new() -> Self {
            Self::with(RULES)
        }

        fn with(rules: Rules) -> Self {
            Self(Tracker::new(rules, SystemTime::UNIX_EPOCH))
        }

        /// Three nodes, quorate, on ring 1.9.
        fn quorate() -> Self {
            let mut fold = Self::new();
            fold.change(connected(true));
            fold.change(nodelist(9, &[1, 2, 3], &[], &[]));
            fold.change(quorum(9, true, &[1, 2, 3]));
            fold
        }

        /// The same, with one vote each.
        fn counted() -> Self {
            let mut fold = Self::quorate();
            fold.count(&[1, 2, 3]);
            fold
        }

        /// Votequorum tells one vote each of these, and of as many as there are.
        fn count(&mut self, members: &[u32]) {
            let all = u32::try_from(members.len()).unwrap();
            let votes = Votes {
                members: ids(members).into_iter().map(|node| (node, 1)).collect(),
                total: all,
                expected: all,
                highest_expected: all,
                quorum: all / 2 + 1,
                ..Votes::default()
            };
            let asked_at = at(2).moment;
            let answer = Answer { asked_at, quorate: true, votes: Some(votes), local: None };
            self.change(Event::Answered(answer));
        }

        fn change(&mut self, event: Event) -> QuorumChanged {
            self.change_at(1, event)
        }

        fn change_at(&mut self, ms: u64, event: Event) -> QuorumChanged {
            self.0.apply(event, at(ms)).expect("a change")
        }

        #[track_caller]
        fn nothing_at(&mut self, ms: u64, event: Event) {
            let change = self.0.apply(event, at(ms));
            assert!(change.is_none(), "{}", change.unwrap());
        }

        fn now(&self) -> &Snapshot {
            self.0.current()
        }
    }

    #[test]
    fn quorum_is_unknown_until_corosync_has_decided() {
        let mut fold = Fold::new();
        assert_eq!(fold.now().quorum, Quorum::Unknown);
        fold.change(connected(true));
        assert_eq!(fold.now().quorum, Quorum::Unknown);
        fold.change(nodelist(9, &[3, 1, 2], &[], &[]));
        assert_eq!((fold.now().quorum, fold.now().settled), (Quorum::Unknown, false));
        assert_eq!(fold.now().members, ids(&[1, 2, 3]));
        let change = fold.change(quorum(9, true, &[1, 2, 3]));
        assert_eq!((fold.now().quorum, fold.now().settled), (Quorum::Quorate, true));
        assert!(change.is_gain());
    }

    #[test]
    fn a_partition_is_a_nodelist_and_then_a_decision() {
        let mut fold = Fold::quorate();
        let change = fold.change(nodelist(13, &[3], &[], &[1, 2]));
        assert_eq!((&*change.joined, &*change.left), (&*ids(&[]), &*ids(&[1, 2])));
        assert!(!fold.now().settled, "the decision was about another ring");
        let change = fold.change(quorum(13, false, &[3]));
        assert!(change.is_loss() && fold.now().settled);
        assert_eq!(change.current.epoch, change.previous.epoch + 1);
        assert!(change.joined.is_empty() && change.left.is_empty());
    }

    #[test]
    fn a_lost_connection_is_unknown_and_breaks_continuity() {
        let mut fold = Fold::quorate();
        let change = fold.change(Event::Disconnected(LOST));
        assert!(change.is_loss());
        assert_eq!(fold.now().quorum, Quorum::Unknown);
        assert_eq!(fold.now().connection, Connection::Disconnected { error: LOST });
        assert_eq!(fold.now().members, ids(&[1, 2, 3]), "the last ones known");
        assert_eq!(change.current.epoch, change.previous.epoch + 1);
    }

    #[test]
    fn what_a_dead_connection_said_is_not_believed_after_reconnecting() {
        let mut fold = Fold::quorate();
        fold.change(Event::Disconnected(LOST));
        fold.change(connected(true));
        assert_eq!(fold.now().quorum, Quorum::Unknown);
        fold.change(nodelist(13, &[1, 2, 3], &[], &[]));
        assert_eq!(fold.now().quorum, Quorum::Unknown);
    }

    #[test]
    fn notifications_without_a_connection_change_nothing() {
        let mut fold = Fold::quorate();
        fold.change(Event::Disconnected(LOST));
        assert!(fold.0.apply(quorum(9, true, &[1, 2, 3]), at(1)).is_none());
        assert_eq!(fold.now().quorum, Quorum::Unknown);
    }

    #[test]
    fn a_failed_attempt_is_no_connection() {
        let mut fold = Fold::quorate();
        let (asked_at, votes) = (at(1).moment, Some(Votes::default()));
        fold.change(Event::Answered(Answer { asked_at, quorate: true, votes, local: None }));
        assert!(fold.now().votes.is_some());
        let change = fold.change(Event::Failed { attempt: 1, error: LOST });
        assert!(change.is_loss() && !fold.now().settled);
        fold.change(connected(true));
        assert_eq!((fold.now().quorum, &fold.now().votes), (Quorum::Unknown, &None));
    }

    #[test]
    fn left_lists_a_node_that_vanished_while_we_were_away() {
        let mut fold = Fold::quorate();
        fold.change(Event::Disconnected(LOST));
        fold.change(connected(true));
        let change = fold.change(nodelist(17, &[2, 3, 4], &[], &[]));
        assert_eq!((&*change.joined, &*change.left), (&*ids(&[4]), &*ids(&[1])));
    }

    #[test]
    fn a_node_that_restarted_quickly_is_in_both_lists() {
        let mut fold = Fold::counted();
        let change = fold.change(nodelist(0x2c, &[1, 2, 3], &[3], &[3]));
        assert_eq!((&*change.joined, &*change.left), (&*ids(&[3]), &*ids(&[3])));
        assert_eq!(change.rejoined().collect::<Vec<_>>(), ids(&[3]));
        assert_eq!(change.current.epoch, change.previous.epoch, "two others saw no break");
    }

    #[test]
    fn coming_back_from_a_pause_breaks_continuity() {
        let mut fold = Fold::quorate();
        let change = fold.change(nodelist(0x30, &[1, 2, 3], &[1, 2], &[1, 2]));
        assert_eq!(change.current.epoch, change.previous.epoch + 1);
    }

    #[test]
    fn coming_back_to_a_larger_cluster_breaks_continuity_too() {
        let mut fold = Fold::quorate();
        let change = fold.change(nodelist(0x30, &[1, 2, 3, 4], &[1, 2, 4], &[1, 2]));
        assert_eq!(change.current.epoch, change.previous.epoch + 1);
    }

    #[test]
    fn several_that_were_away_together_are_broken_too() {
        let mut fold = Fold::new();
        fold.change(connected(true));
        fold.change(nodelist(9, &[1, 2, 3, 4, 5], &[], &[]));
        fold.change(quorum(9, true, &[1, 2, 3, 4, 5]));
        fold.count(&[1, 2, 3, 4, 5]);
        let change = fold.change(nodelist(17, &[1, 2, 3, 4, 5], &[1, 2, 3], &[1, 2, 3]));
        assert_eq!(change.current.epoch, 1, "1, 2 and 3 had quorum without us");
        fold.change(quorum(17, true, &[1, 2, 3, 4, 5]));
        let change = fold.change(nodelist(21, &[1, 2, 3, 4, 5], &[1, 2], &[1, 2]));
        assert_eq!(change.current.epoch, 1, "1 and 2 had not");
    }

    #[test]
    fn a_membership_that_was_never_decided_upon_breaks_continuity() {
        let mut fold = Fold::counted();
        let change = fold.change(nodelist(13, &[3], &[], &[1, 2]));
        assert_eq!(change.current.epoch, 1, "1 and 2 may be quorate");
        let change = fold.change(nodelist(17, &[1, 2, 3], &[1, 2], &[]));
        assert_eq!(change.current.epoch, change.previous.epoch + 1);
        fold.change(quorum(17, true, &[1, 2, 3]));
        assert_eq!(fold.now().epoch, 2);
    }

    #[test]
    fn the_death_of_the_only_other_node_breaks_continuity() {
        let mut fold = Fold::new();
        fold.change(connected(true));
        fold.change(nodelist(9, &[1, 2], &[], &[]));
        fold.change(quorum(9, true, &[1, 2]));
        fold.change(nodelist(13, &[1], &[], &[2]));
        fold.change(quorum(13, true, &[1]));
        assert_eq!(fold.now().epoch, 1, "by two_node or a quorum device it may be quorate alone");
    }

    #[test]
    fn with_two_nodes_either_may_have_been_away() {
        let mut fold = Fold::new();
        fold.change(connected(true));
        fold.change(nodelist(9, &[1, 2], &[], &[]));
        fold.change(quorum(9, true, &[1, 2]));
        let change = fold.change(nodelist(13, &[1, 2], &[2], &[2]));
        assert_eq!(change.current.epoch, change.previous.epoch + 1);
    }

    #[test]
    fn lists_that_contradict_themselves_still_compose() {
        let mut fold = Fold::quorate();
        let change = fold.change(nodelist(13, &[2, 2, 1], &[7, 2], &[9, 1, 3, 3]));
        assert_eq!(change.current.members, ids(&[1, 2]));
        assert_eq!((&*change.joined, &*change.left), (&*ids(&[1]), &*ids(&[1, 3])));
    }

    #[test]
    fn a_flip_without_a_membership_change_is_one_change() {
        let mut fold = Fold::quorate();
        assert!(fold.change(quorum(9, false, &[1, 2, 3])).is_loss());
        assert!(fold.change(quorum(9, true, &[1, 2, 3])).is_gain());
        assert!(fold.0.apply(quorum(9, true, &[1, 2, 3]), at(1)).is_none(), "told twice");
        assert_eq!(fold.now().epoch, 1);
    }

    #[test]
    fn model_v0_has_no_nodelist() {
        let mut fold = Fold::new();
        fold.change(connected(true));
        fold.change(quorum(9, true, &[1, 2, 3]));
        assert!(fold.now().settled);
        let change = fold.change(quorum(13, true, &[1, 2]));
        assert_eq!((&*change.left, change.current.epoch), (&*ids(&[3]), 1));
        let change = fold.change(quorum(17, true, &[1, 2]));
        assert_eq!(change.current.epoch, 2, "another ring of the same members: somebody was away");
        let change = fold.change(quorum(17, false, &[1, 2]));
        assert_eq!(change.current.epoch, 3);
        fold.change(quorum(17, true, &[1, 2]));
        assert_eq!(fold.now().epoch, 3, "the same ring");
    }

    #[test]
    fn without_a_provider_decisions_have_no_ring() {
        let mut fold = Fold::new();
        fold.change(connected(false));
        fold.change(nodelist(9, &[1], &[], &[]));
        fold.change(quorum(0, true, &[]));
        assert!(fold.now().settled);
        assert_eq!((fold.now().ring_id, &fold.now().members), (Some(ring(9)), &ids(&[1])));
    }

    #[test]
    fn failed_attempts_are_told_ever_more_rarely() {
        let mut fold = Fold::new();
        let told: Vec<u64> = (1..=20)
            .filter(|attempt| {
                let error = Error::Connect(Code::LIBRARY);
                fold.0.apply(Event::Failed { attempt: *attempt, error }, at(1)).is_some()
            })
            .collect();
        assert_eq!(told, [1, 2, 4, 8, 16]);
        let error = Error::Connect(Code::ACCESS);
        assert_eq!(fold.change(Event::Failed { attempt: 21, error }).cause, Cause::ConnectFailed);
    }

    #[test]
    fn nothing_follows_a_stop() {
        let mut fold = Fold::quorate();
        let change = fold.change(Event::Stopped);
        assert!(change.is_loss());
        assert_eq!(fold.now().connection, Connection::Stopped);
        assert!(fold.0.apply(connected(true), at(1)).is_none());
        assert!(fold.0.apply(Event::Stopped, at(1)).is_none());
    }

    #[test]
    fn the_sequence_has_no_gaps() {
        let mut fold = Fold::quorate();
        assert_eq!(fold.now().sequence, 3);
        assert_eq!(fold.change(quorum(9, false, &[1, 2, 3])).current.sequence, 4);
        assert!(fold.0.apply(quorum(9, false, &[1, 2, 3]), at(1)).is_none());
        assert_eq!(fold.change(quorum(9, true, &[1, 2, 3])).current.sequence, 5);
    }

    #[test]
    fn the_lease_runs_from_the_moment_of_the_question() {
        let mut fold = Fold::quorate();
        fold.nothing_at(3_000, answered(2_000, true));
        fold.nothing_at(6_999, Event::Tick);
        let change = fold.change_at(7_000, Event::Tick);
        assert_eq!(
            (change.cause, fold.now().connection.clone()),
            (Cause::Stalled, Connection::Stalled)
        );
        assert!(change.is_loss() && fold.now().quorum == Quorum::Unknown);
        assert_eq!(change.current.epoch, change.previous.epoch + 1);
        // An answer that took too long proves nothing.
        fold.nothing_at(8_000, answered(2_500, true));
        let change = fold.change_at(9_000, answered(8_500, true));
        assert!(change.is_gain() && fold.now().connection == Connection::Connected);
    }

    #[test]
    fn a_lease_that_ran_out_unnoticed_breaks_continuity() {
        let mut fold = Fold::quorate();
        // We were stuck, and come to the answer before we come to the clock.
        let change = fold.change_at(6_000, answered(5_900, true));
        assert!(change.current.quorum.is_quorate() && change.interrupted());
        assert_eq!(change.current.epoch, change.previous.epoch + 1);
        fold.nothing_at(7_000, answered(6_900, true));
    }

    #[test]
    fn a_notification_does_not_extend_the_lease() {
        let mut fold = Fold::quorate();
        fold.change_at(4_000, quorum(9, false, &[1, 2, 3]));
        let change = fold.change_at(6_000, quorum(9, true, &[1, 2, 3]));
        assert_eq!(change.current.connection, Connection::Stalled);
        assert_eq!(change.current.quorum, Quorum::Unknown, "it may have been queued for long");
        assert!(fold.change_at(7_000, answered(6_500, true)).is_gain());
    }

    #[test]
    fn votequorum_has_a_veto_until_the_next_decision() {
        let mut fold = Fold::quorate();
        fold.nothing_at(10, answered(0, false));
        let change = fold.change_at(20, answered(10, false));
        assert!(change.is_loss() && fold.now().quorum == Quorum::Inquorate);
        assert!(fold.change_at(40, answered(30, true)).is_gain());
        assert!(fold.change_at(60, answered(50, false)).is_loss());
        assert!(fold.change_at(70, quorum(9, true, &[1, 2, 3])).is_gain());
        fold.nothing_at(80, answered(65, false));
    }

    #[test]
    fn votequorum_alone_makes_no_quorum() {
        let mut fold = Fold::quorate();
        fold.change_at(10, quorum(9, false, &[1, 2, 3]));
        fold.nothing_at(30, answered(20, true));
        assert_eq!(fold.now().quorum, Quorum::Inquorate);
    }

    #[test]
    fn a_decision_about_another_membership_is_believed_for_a_moment() {
        let mut fold = Fold::quorate();
        let change = fold.change_at(100, nodelist(13, &[1, 2], &[], &[3]));
        assert!(change.current.quorum.is_quorate() && !change.current.settled);
        fold.nothing_at(1_099, Event::Tick);
        let change = fold.change_at(1_100, Event::Tick);
        assert!(change.is_loss() && change.current.quorum == Quorum::Unknown);
        fold.nothing_at(4_000, answered(3_900, true));
        fold.nothing_at(8_000, answered(7_900, true));
        assert!(fold.change_at(8_100, quorum(13, true, &[1, 2])).is_gain());
    }

    #[test]
    fn a_connection_made_while_a_decision_is_awaited_has_no_grace() {
        let mut fold = Fold::new();
        fold.change(connected(true));
        fold.change(nodelist(13, &[1, 2], &[], &[]));
        fold.nothing_at(1, quorum(9, true, &[1, 2, 3]));
        assert_eq!(fold.now().quorum, Quorum::Unknown);
        assert!(fold.change(quorum(13, true, &[1, 2])).is_gain());
    }

    #[test]
    fn an_older_answer_does_not_take_the_veto_back() {
        let mut fold = Fold::quorate();
        assert!(fold.change_at(40, answered(30, false)).is_loss());
        fold.nothing_at(50, answered(20, true));
        assert!(fold.change_at(70, answered(60, true)).is_gain());
    }

    #[test]
    fn a_grace_that_ran_out_unnoticed_breaks_continuity() {
        let mut fold = Fold::quorate();
        fold.change_at(100, nodelist(13, &[1, 2], &[], &[3]));
        // We were stuck, and come to the decision before we come to the clock.
        let change = fold.change_at(1_100, quorum(13, true, &[1, 2]));
        assert!(change.current.quorum.is_quorate() && change.interrupted());
        fold.change_at(1_200, nodelist(17, &[1, 2, 3], &[3], &[]));
        assert!(!fold.change_at(2_199, quorum(17, true, &[1, 2, 3])).interrupted());
    }

    #[test]
    fn what_ran_out_unnoticed_is_a_gain_when_it_comes_back() {
        let stable_after = Duration::from_millis(500);
        let mut fold = Fold::with(Rules { stable_after, ..RULES });
        fold.change(connected(true));
        fold.change(nodelist(9, &[1, 2, 3], &[], &[]));
        fold.change(quorum(9, true, &[1, 2, 3]));
        assert!(fold.change_at(501, Event::Tick).is_gain());
        assert!(fold.change_at(6_000, answered(5_900, true)).is_loss());
        assert_eq!(fold.now().quorum, Quorum::Unknown);
        fold.nothing_at(6_499, Event::Tick);
        assert!(fold.change_at(6_500, Event::Tick).is_gain());
    }

    #[test]
    fn a_gain_is_held_back_and_must_last_without_a_break() {
        let mut fold = Fold::with(Rules { stable_after: Duration::from_millis(500), ..RULES });
        fold.change(connected(true));
        fold.change(nodelist(9, &[1, 2, 3], &[], &[]));
        let change = fold.change_at(100, quorum(9, true, &[1, 2, 3]));
        assert!(change.current.settled && change.current.quorum == Quorum::Unknown);
        fold.change_at(400, quorum(9, false, &[1, 2, 3]));
        fold.nothing_at(450, quorum(9, true, &[1, 2, 3]));
        fold.nothing_at(949, Event::Tick);
        assert!(fold.change_at(950, Event::Tick).is_gain());
        assert!(
            fold.change_at(960, quorum(9, false, &[1, 2, 3])).is_loss(),
            "a loss is told at once"
        );
    }

    #[test]
    fn what_ran_out_for_a_moment_is_of_another_epoch() {
        let mut fold = Fold::quorate();
        let change = fold.change(Event::Lapsed);
        assert!(change.interrupted() && change.current.quorum.is_quorate());
        assert_eq!(change.current.epoch, change.previous.epoch + 1);
        fold.change(Event::Disconnected(LOST));
        fold.nothing_at(2, Event::Lapsed);
    }

    #[test]
    fn a_gain_that_is_held_back_starts_over_when_we_were_cut_off() {
        let mut fold = Fold::with(Rules { stable_after: Duration::from_millis(500), ..RULES });
        fold.change(connected(true));
        fold.change(nodelist(9, &[1, 2, 3], &[], &[]));
        fold.change_at(100, quorum(9, true, &[1, 2, 3]));
        fold.change_at(400, nodelist(13, &[1, 2, 3], &[2, 3], &[2, 3]));
        fold.change_at(400, quorum(13, true, &[1, 2, 3]));
        fold.nothing_at(899, Event::Tick);
        assert!(fold.change_at(900, Event::Tick).is_gain());
    }

    #[test]
    fn the_deadline_is_when_time_alone_changes_something() {
        let mut fold = Fold::new();
        assert_eq!(fold.0.deadline(), None);
        fold.change(connected(true));
        assert_eq!(fold.0.deadline(), Some(at(5_000).moment));
        fold.change(nodelist(9, &[1, 2, 3], &[], &[]));
        fold.change(quorum(9, true, &[1, 2, 3]));
        fold.change_at(100, nodelist(13, &[1, 2], &[], &[3]));
        assert_eq!(fold.0.deadline(), Some(at(1_100).moment));
        fold.change_at(1_100, Event::Tick);
        assert_eq!(fold.0.deadline(), Some(at(5_000).moment));
        fold.change_at(5_000, Event::Tick);
        assert_eq!(fold.0.deadline(), None);
    }

    #[test]
    fn a_decision_that_is_held_back_is_overdue_on_time_too() {
        let stable_after = Duration::from_secs(2);
        let mut fold = Fold::with(Rules { stable_after, ..RULES });
        fold.change(connected(true));
        fold.change(nodelist(9, &[1, 2, 3], &[], &[]));
        fold.change(quorum(9, false, &[1, 2, 3]));
        fold.change_at(100, nodelist(13, &[1, 2], &[], &[3]));
        fold.nothing_at(200, quorum(9, true, &[1, 2, 3]));
        assert_eq!(fold.0.deadline(), Some(at(1_100).moment));
        assert_eq!(fold.change_at(1_100, Event::Tick).current.quorum, Quorum::Unknown);
        assert_eq!(fold.0.deadline(), Some(at(5_000).moment));
    }

    #[test]
    fn votes_say_who_can_be_spared() {
        let mut fold = Fold::quorate();
        assert_eq!(fold.now().quorate_without(&[]), None);
        let members = vec![(NodeId(1), 3), (NodeId(2), 1), (NodeId(3), 1)];
        let votes = Votes { total: 5, quorum: 3, members, ..Votes::default() };
        let (asked_at, local) = (at(10).moment, Some(NodeId(2)));
        let answer = Answer { asked_at, quorate: true, votes: Some(votes), local };
        let change = fold.change_at(20, Event::Answered(answer));
        assert_eq!((change.cause, fold.now().local), (Cause::Votes, Some(NodeId(2))));
        assert_eq!(fold.now().quorate_without(&[NodeId(2), NodeId(3)]), Some(true));
        assert_eq!(fold.now().quorate_without(&[NodeId(1)]), Some(false));
        assert_eq!(fold.now().quorate_without(&[NodeId(9)]), Some(true));

        // More than votequorum can count.
        let members = vec![(NodeId(1), u32::MAX), (NodeId(2), 2), (NodeId(3), 1)];
        let votes = Votes { total: 5, quorum: 3, members, ..Votes::default() };
        let answer = Answer { asked_at, quorate: true, votes: Some(votes), local };
        fold.change_at(30, Event::Answered(answer));
        assert_eq!(fold.now().quorate_without(&[NodeId(1), NodeId(2)]), Some(false));
    }

    #[test]
    fn votes_beyond_all_measure_can_be_asked_about() {
        let mut fold = Fold::quorate();
        let members = [1, 2, 3].map(|node| (NodeId(node), u32::MAX)).to_vec();
        let votes = Votes { total: u32::MAX, quorum: u32::MAX, members, ..Votes::default() };
        let asked_at = at(10).moment;
        let answer = Answer { asked_at, quorate: true, votes: Some(votes), local: None };
        fold.change_at(20, Event::Answered(answer));
        assert_eq!(fold.now().quorate_without(&ids(&[1, 2])), Some(false));
        assert_eq!(fold.now().quorate_without(&[]), Some(true));
    }

    #[test]
    fn one_of_two_nodes_is_inquorate_if_two_node_is_not_trusted() {
        let mut fold = Fold::with(Rules { trust_two_node: false, ..RULES });
        fold.change(connected(true));
        fold.change(nodelist(9, &[1, 2], &[], &[]));
        fold.change(quorum(9, true, &[1, 2]));
        assert_eq!(fold.now().quorum, Quorum::Unknown, "the votes are not known");
        let votes = Votes {
            quorum: 1,
            total: 2,
            expected: 2,
            highest_expected: 2,
            members: vec![(NodeId(1), 1), (NodeId(2), 1)],
            flags: crate::VoteFlags::TWO_NODE,
            ..Votes::default()
        };
        let asked_at = at(2).moment;
        let answer = Answer { asked_at, quorate: true, votes: Some(votes), local: None };
        assert!(fold.change(Event::Answered(answer)).is_gain());
        assert!(fold.now().has_majority());
        assert!(fold.change(nodelist(13, &[1], &[], &[2])).is_loss());
        fold.change(quorum(13, true, &[1]));
        assert_eq!((fold.now().quorum, fold.now().has_majority()), (Quorum::Inquorate, false));
    }

    /// A read of the counters, after `tokens` tokens.
    fn read(ms: u64, rings: u64, tokens: u64) -> Event {
        Event::Ring(RingUpdate::Read(RingReading {
            connection: 0,
            asked_at: at(ms).moment,
            answered_at: at(ms).moment,
            counters: RingCounters {
                gather_entered: rings,
                operational_entered: rings,
                token_lost: 0,
            },
            tokens,
            token: Duration::from_millis(1_000),
            consensus: Duration::from_millis(1_200),
            configured_votes: Some(3),
        }))
    }

    /// Three nodes, quorate, exclusive, with a fencing token.
    fn exclusive() -> Fold {
        let mut fold = Fold::new();
        fold.change(Event::Connected { has_provider: true, asked_at: at(0).moment, watched: true });
        fold.change(nodelist(9, &[1, 2, 3], &[], &[]));
        fold.change(quorum(9, true, &[1, 2, 3]));
        fold.count(&[1, 2, 3]);
        for n in 1..=20 {
            let ms = n * 100;
            fold.0.apply(read(ms, 1, n), at(ms));
        }
        assert!(fold.0.exclusive_until().is_some() && fold.now().fencing_token().is_some());
        fold
    }

    #[test]
    fn a_membership_that_is_not_decided_is_neither_exclusive_nor_has_it_a_fencing_token() {
        let mut fold = exclusive();
        fold.change_at(2_010, nodelist(13, &[1, 2], &[], &[3]));
        assert!(fold.now().quorum.is_quorate() && !fold.now().settled);
        assert_eq!((fold.0.exclusive_until(), fold.now().fencing_token()), (None, None));
        // Also once votequorum has counted its votes, and before the decision.
        let votes = Votes {
            members: ids(&[1, 2]).into_iter().map(|node| (node, 1)).collect(),
            total: 2,
            expected: 3,
            highest_expected: 3,
            quorum: 2,
            ..Votes::default()
        };
        let asked_at = at(2_020).moment;
        let answer = Answer { asked_at, quorate: true, votes: Some(votes), local: None };
        fold.change_at(2_030, Event::Answered(answer));
        assert!(fold.now().has_majority());
        assert_eq!((fold.0.exclusive_until(), fold.now().fencing_token()), (None, None));
    }

    #[test]
    fn conflated_changes_name_who_restarted_between() {
        let mut fold = Fold::quorate();
        let seen = Arc::clone(fold.0.current());
        let mut departures = Departures::default();
        let mut latest = None;
        for event in [
            nodelist(13, &[1, 2], &[], &[3]),
            nodelist(17, &[1, 2, 3], &[3], &[]),
            nodelist(21, &[1, 2, 3, 4], &[4], &[]),
            nodelist(25, &[1, 3, 4], &[], &[2]),
        ] {
            let change = fold.change(event);
            departures.note(&change);
            latest = Some(change);
        }
        let change = departures.conflate(&seen, &latest.unwrap());
        assert_eq!((&*change.joined, &*change.left), (&*ids(&[3, 4]), &*ids(&[2, 3])));
        assert_eq!(change.missed, 3);
    }
}
