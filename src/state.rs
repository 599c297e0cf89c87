//! What is true now, and the pure folding of what happens into it.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    Cause, Error, Nodes, QuorumChanged, Votes,
    lease::Moment,
    libquorum::{NodeId, Notification, RingId},
    probe::Answer,
    registry::Receipt,
};

/// Whether this node's partition of the cluster has quorum.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "lowercase"))]
pub enum Quorum {
    /// Corosync says that it has. The only state that lets anybody through.
    Quorate,
    /// Corosync says that it has not, or has said so and a gain since is held back.
    Inquorate,
    /// Nobody can say: there is no connection to Corosync, no decision yet, or a gain after that is
    /// held back. Not quorate.
    #[default]
    Unknown,
}

impl Quorum {
    /// True for [`Quorum::Quorate`] alone.
    pub fn is_quorate(self) -> bool {
        self == Self::Quorate
    }
}

/// The connection to Corosync on this node. It says nothing about the cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "lowercase", tag = "state")
)]
#[non_exhaustive]
pub enum Connection {
    /// There is none yet.
    Connecting {
        /// Which attempt is under way or has just failed; the first is 1. While attempts fail for
        /// the same reason only every doubling of this is told.
        attempt: u64,
        /// Why the last attempt failed, if one has.
        error: Option<Error>,
    },
    /// Corosync has accepted us and tells what happens.
    Connected,
    /// Corosync has not answered for as long as the lease: it hangs, or we do. It may be believed
    /// again when it answers.
    Stalled,
    /// There was one. The next attempt follows after a delay.
    Lost {
        /// What ended it.
        error: Error,
    },
    /// The actor has stopped, or is gone. Nothing follows.
    Stopped,
}

/// Everything that is known about quorum at one moment.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Snapshot {
    /// Grows by one with each change; zero before the first.
    pub sequence: u64,
    /// Whether there is quorum.
    pub quorum: Quorum,
    /// The connection to Corosync.
    pub connection: Connection,
    /// The current membership; while there is no connection, the last one known. `None` until a
    /// new connection has told.
    pub ring_id: Option<RingId>,
    /// Who is in it, ascending; until a new connection has told, the last ones known.
    pub members: Vec<NodeId>,
    /// Whether the quorum decision is about this membership. It is not while Corosync
    /// synchronises after a membership change, nor while there is no connection.
    pub settled: bool,
    /// Grows whenever it cannot be vouched for that quorum was held without a break: after a loss
    /// of quorum, a lost connection, and when this node was cut off and came back.
    pub epoch: u64,
    /// The votes, once votequorum has told them on this connection; `None` where there is none.
    pub votes: Option<Votes>,
    /// This node, once votequorum has told.
    pub local: Option<NodeId>,
    /// When this became so, by the wall clock.
    #[cfg_attr(feature = "serde", serde(serialize_with = "rfc3339"))]
    pub changed_at: SystemTime,
}

/// As `2026-01-31T12:00:00.000Z`.
#[cfg(feature = "serde")]
pub(crate) fn rfc3339<S: serde::Serializer>(
    time: &SystemTime,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    // It can show no others, and there are none: a clock that is that wrong is shown as zero.
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    let time =
        if (SystemTime::UNIX_EPOCH..far).contains(time) { *time } else { SystemTime::UNIX_EPOCH };
    serializer.collect_str(&humantime::format_rfc3339_millis(time))
}

impl Snapshot {
    /// Whether there would be quorum without these nodes, as the votes are now; `None` where they
    /// are not known. Nodes that are no members make no difference.
    pub fn would_survive(&self, nodes: &[NodeId]) -> Option<bool> {
        let votes = self.votes.as_ref()?;
        let mut left = votes.total;
        for member in self.members.iter().filter(|member| nodes.contains(member)) {
            left = left.saturating_sub(votes.of(*member)?);
        }
        Some(self.quorum.is_quorate() && left >= votes.quorum)
    }

    fn before_anything(at: SystemTime) -> Self {
        Self {
            sequence: 0,
            quorum: Quorum::Unknown,
            connection: Connection::Connecting { attempt: 1, error: None },
            ring_id: None,
            members: Vec::new(),
            settled: false,
            epoch: 0,
            votes: None,
            local: None,
            changed_at: at,
        }
    }

    /// Whether both say the same, leaving aside when and how often that changed.
    fn same_state(&self, other: &Self) -> bool {
        self.quorum == other.quorum
            && self.connection == other.connection
            && self.ring_id == other.ring_id
            && self.members == other.members
            && self.settled == other.settled
            && self.epoch == other.epoch
            && self.votes == other.votes
            && self.local == other.local
    }
}

/// What happens to the actor.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A connection attempt failed, or takes suspiciously long.
    Failed { attempt: u64, error: Error },
    /// Corosync accepted us, and lived after it was asked to. Without a provider, quorum decisions
    /// have no ring.
    Connected { has_provider: bool, asked_at: Moment },
    /// Corosync told something.
    Notified(Notification),
    /// Corosync answered, and everything that it had told before has been applied.
    Answered(Answer),
    /// Time has passed.
    Tick,
    /// Quorum had run out for a moment when it was extended: who read it then was told so.
    Lapsed,
    /// The connection is over.
    Lost(Error),
    /// The actor ends.
    Stopped,
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
}

/// Folds events into the snapshot. Pure: no clock, no input, no output.
#[derive(Debug)]
pub(crate) struct Tracker {
    rules: Rules,
    current: Arc<Snapshot>,
    /// What this connection has told so far.
    heard: Heard,
}

#[derive(Debug, Default)]
struct Heard {
    has_provider: bool,
    nodelist: Option<RingId>,
    quorum: Option<(bool, RingId)>,
    /// When that quorum decision was told, or votequorum last asked after it.
    decided_at: Moment,
    /// Votequorum, asked after that, says that there is no quorum.
    contradicted: bool,
    /// Until when Corosync is held for alive.
    lease: Moment,
    /// Since when the decision has not been about the membership.
    unsettled_since: Option<Moment>,
    /// The decision has been about the membership once. Until then it is not known for how long it
    /// has not been, however young the connection is.
    was_settled: bool,
    /// Since when everything else has spoken for quorum.
    quorate_since: Option<Moment>,
}

impl Tracker {
    pub(crate) fn new(rules: Rules, wall: SystemTime) -> Self {
        Self { rules, current: Arc::new(Snapshot::before_anything(wall)), heard: Heard::default() }
    }

    pub(crate) fn current(&self) -> &Arc<Snapshot> {
        &self.current
    }

    /// When time alone will change something, if nothing else does, while there is a connection:
    /// until when quorum is believed, if it is.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        if self.current.connection != Connection::Connected {
            return None;
        }
        let grace = self.heard.unsettled_since.map(|since| since.after(self.rules.settle_grace));
        let stable = self.heard.quorate_since.map(|since| since.after(self.rules.stable_after));
        // What is over does not come again.
        let grace = grace.filter(|_| stable.is_some());
        let stable = stable.filter(|_| !self.current.quorum.is_quorate());
        [Some(self.heard.lease), grace, stable].into_iter().flatten().min()
    }

    /// Applies an event that happens `now`; `None` if nothing changes by it.
    pub(crate) fn apply(&mut self, event: Event, now: Now) -> Option<QuorumChanged> {
        let before = Arc::clone(&self.current);
        if before.connection == Connection::Stopped {
            return None;
        }
        let mut after = Snapshot::clone(&before);
        let told_before = before.connection.tells();
        // Whether quorum had run out before this, unnoticed: who read it then was told so.
        let overdue = self.heard.is_overdue(&self.rules, now.moment);
        let ran_out = before.connection == Connection::Connected && now.moment >= self.heard.lease
            || before.quorum.is_quorate() && overdue;
        let mut broken = ran_out;
        if overdue {
            self.heard.quorate_since = None;
        }
        let mut restarted = Vec::new();
        let mut cause = match event {
            Event::Failed { attempt, error } => {
                after.connection = Connection::Connecting { attempt, error: Some(error) };
                if !worth_telling(&before.connection, &after.connection) {
                    return None;
                }
                broken |= told_before;
                self.heard = Heard::default();
                Cause::Connecting
            }
            Event::Connected { has_provider, asked_at } => {
                let lease = asked_at.after(self.rules.lease);
                self.heard = Heard { has_provider, lease, ..Heard::default() };
                after.connection = Connection::Connected;
                after.ring_id = None;
                after.votes = None;
                Cause::Connected
            }
            Event::Lost(error) => {
                broken = true;
                self.heard = Heard::default();
                after.votes = None;
                after.connection = Connection::Lost { error };
                Cause::Lost
            }
            Event::Stopped => {
                broken |= told_before;
                self.heard = Heard::default();
                after.connection = Connection::Stopped;
                Cause::Stopped
            }
            Event::Notified(_) | Event::Answered(_) | Event::Tick | Event::Lapsed
                if !told_before =>
            {
                return None;
            }
            Event::Tick => Cause::Quorum,
            Event::Lapsed => {
                broken = true;
                Cause::Quorum
            }
            Event::Answered(answer) => {
                self.heard.lease = self.heard.lease.max(answer.asked_at.after(self.rules.lease));
                // An answer to a request from before the decision may be older than it.
                if answer.asked_at > self.heard.decided_at {
                    self.heard.decided_at = answer.asked_at;
                    self.heard.contradicted = !answer.quorate;
                }
                after.local = answer.local.or(before.local);
                after.votes = answer.votes;
                Cause::Votes
            }
            Event::Notified(Notification::Nodelist { ring_id, members, joined: _, left }) => {
                after.members = sorted(members);
                // A snapshot's lists are empty; and what corosync calls left is left of *its*
                // previous nodelist, which after the first one is ours too.
                restarted = sorted(left);
                restarted.retain(|node| contains(&before.members, *node));
                restarted.retain(|node| contains(&after.members, *node));
                after.ring_id = Some(ring_id);
                // A membership that was never decided upon: whether it had quorum is not known.
                broken |= before.quorum.is_quorate() && !self.heard.is_settled();
                self.heard.nodelist = Some(ring_id);
                Cause::Nodelist
            }
            Event::Notified(Notification::Quorum { quorate, ring_id, members }) => {
                if self.heard.nodelist.is_none() && self.heard.has_provider {
                    after.members = sorted(members);
                    after.ring_id = Some(ring_id);
                    // Model V0 does not tell who was away: with any other ring, it may have been us.
                    broken |= self.heard.quorum.is_some_and(|(_, told)| told != ring_id);
                }
                self.heard.quorum = Some((quorate, ring_id));
                self.heard.decided_at = now.moment;
                self.heard.contradicted = false;
                Cause::Quorum
            }
        };
        if after.connection.tells() {
            let alive = now.moment < self.heard.lease;
            let stalled = after.connection == Connection::Stalled;
            match (alive, stalled) {
                (false, false) => {
                    after.connection = Connection::Stalled;
                    cause = Cause::Stalled;
                }
                (true, true) => {
                    after.connection = Connection::Connected;
                    cause = Cause::Connected;
                }
                _ => {}
            }
        }
        after.settled = self.heard.is_settled();
        let joined = difference(&after.members, &before.members, &restarted);
        let left = difference(&before.members, &after.members, &restarted);
        // Half of the members or more left, and somebody joined, at once: it was this node that was
        // away, and they may have been quorate without it. With two nodes either may have been.
        let cut_off =
            !joined.is_empty() && !left.is_empty() && 2 * left.len() >= before.members.len();
        let broken = broken || cut_off;
        after.quorum = self.heard.decision(&self.rules, now.moment, broken);
        if after.connection != Connection::Connected {
            after.quorum = Quorum::Unknown;
            self.heard.quorate_since = None;
        }
        let held = if ran_out { Quorum::Unknown } else { before.quorum };
        if after.quorum.is_quorate() && !held.is_quorate() {
            // A gain may be held back, and must have lasted that long without a break.
            let since = self.heard.quorate_since.unwrap_or(now.moment);
            if now.moment < since.after(self.rules.stable_after) {
                after.quorum = held;
            }
        }
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
        after.changed_at = now.wall;
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

impl Connection {
    /// Whether there is one, so that what it tells counts.
    pub(crate) fn tells(&self) -> bool {
        matches!(self, Self::Connected | Self::Stalled)
    }
}

impl Heard {
    /// What this connection says about quorum, now. Keeps account of since when.
    fn decision(&mut self, rules: &Rules, now: Moment, broken: bool) -> Quorum {
        self.unsettled_since = match (self.quorum, self.is_settled()) {
            (Some(_), false) => self.unsettled_since.or(Some(now)),
            _ => None,
        };
        self.was_settled |= self.is_settled();
        let quorum = match self.quorum {
            None => Quorum::Unknown,
            Some((false, _)) => Quorum::Inquorate,
            Some((true, _)) if self.contradicted => Quorum::Inquorate,
            Some((true, _)) if self.is_overdue(rules, now) => Quorum::Unknown,
            Some((true, _)) => Quorum::Quorate,
        };
        self.quorate_since = match quorum {
            Quorum::Quorate if broken => Some(now),
            Quorum::Quorate => self.quorate_since.or(Some(now)),
            _ => None,
        };
        quorum
    }

    /// Whether a decision about this membership has not come within the grace.
    fn is_overdue(&self, rules: &Rules, now: Moment) -> bool {
        self.unsettled_since
            .is_some_and(|since| !self.was_settled || now >= since.after(rules.settle_grace))
    }

    fn is_settled(&self) -> bool {
        match (self.nodelist, self.quorum) {
            (_, None) => false,
            (Some(nodelist), Some((_, decided))) if self.has_provider => nodelist == decided,
            _ => true,
        }
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

/// Who left when: enough to tell a subscriber that missed changes who restarted meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Departures(HashMap<NodeId, u64>);

impl Departures {
    /// Takes note of a change.
    pub(crate) fn note(&mut self, change: &QuorumChanged) {
        for node in change.left.iter() {
            self.0.insert(*node, change.current.sequence);
        }
    }

    /// One change from `seen` to where `latest` led, in place of all those between.
    pub(crate) fn conflate(&self, seen: &Arc<Snapshot>, latest: &QuorumChanged) -> QuorumChanged {
        let current = &latest.current;
        let mut restarted = seen.members.clone();
        restarted.retain(|node| contains(&current.members, *node));
        restarted.retain(|node| self.0.get(node).is_some_and(|left| *left > seen.sequence));
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

/// The first message to a subscriber: all that is known, as a change from nothing.
pub(crate) fn first(current: &Arc<Snapshot>) -> QuorumChanged {
    QuorumChanged {
        previous: Arc::new(Snapshot::before_anything(current.changed_at)),
        current: Arc::clone(current),
        joined: Nodes::ascending(&current.members),
        left: Nodes::default(),
        cause: Cause::Subscribed,
        missed: 0,
        receipt: Receipt::default(),
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
    use crate::Code;

    const RULES: Rules = Rules {
        lease: Duration::from_secs(5),
        settle_grace: Duration::from_secs(1),
        stable_after: Duration::ZERO,
    };

    /// So many milliseconds after the beginning.
    fn at(ms: u64) -> Now {
        let moment = Moment::default().after(Duration::from_millis(ms));
        Now { wall: SystemTime::UNIX_EPOCH, moment }
    }

    fn connected(has_provider: bool) -> Event {
        Event::Connected { has_provider, asked_at: at(0).moment }
    }

    fn answered(asked_at: u64, quorate: bool) -> Event {
        let asked_at = at(asked_at).moment;
        Event::Answered(Answer { asked_at, quorate, votes: None, local: None })
    }

    fn ids(nodes: &[u32]) -> Vec<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    fn ring(seq: u64) -> RingId {
        RingId { node_id: NodeId(1), seq }
    }

    fn nodelist(seq: u64, members: &[u32], joined: &[u32], left: &[u32]) -> Event {
        Event::Notified(Notification::Nodelist {
            ring_id: ring(seq),
            members: ids(members),
            joined: ids(joined),
            left: ids(left),
        })
    }

    fn quorum(seq: u64, quorate: bool, members: &[u32]) -> Event {
        Event::Notified(Notification::Quorum { quorate, ring_id: ring(seq), members: ids(members) })
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
        let change = fold.change(Event::Lost(LOST));
        assert!(change.is_loss());
        assert_eq!(fold.now().quorum, Quorum::Unknown);
        assert_eq!(fold.now().connection, Connection::Lost { error: LOST });
        assert_eq!(fold.now().members, ids(&[1, 2, 3]), "the last ones known");
        assert_eq!(change.current.epoch, change.previous.epoch + 1);
    }

    #[test]
    fn what_a_dead_connection_said_is_not_believed_after_reconnecting() {
        let mut fold = Fold::quorate();
        fold.change(Event::Lost(LOST));
        fold.change(connected(true));
        assert_eq!(fold.now().quorum, Quorum::Unknown);
        fold.change(nodelist(13, &[1, 2, 3], &[], &[]));
        assert_eq!(fold.now().quorum, Quorum::Unknown);
    }

    #[test]
    fn notifications_without_a_connection_change_nothing() {
        let mut fold = Fold::quorate();
        fold.change(Event::Lost(LOST));
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
        fold.change(Event::Lost(LOST));
        fold.change(connected(true));
        let change = fold.change(nodelist(17, &[2, 3, 4], &[], &[]));
        assert_eq!((&*change.joined, &*change.left), (&*ids(&[4]), &*ids(&[1])));
    }

    #[test]
    fn a_node_that_restarted_quickly_is_in_both_lists() {
        let mut fold = Fold::quorate();
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
        let change = fold.change(nodelist(17, &[1, 2, 3, 4, 5], &[1, 2, 3], &[1, 2, 3]));
        assert_eq!(change.current.epoch, 1, "1, 2 and 3 had quorum without us");
        fold.change(quorum(17, true, &[1, 2, 3, 4, 5]));
        let change = fold.change(nodelist(21, &[1, 2, 3, 4, 5], &[1, 2], &[1, 2]));
        assert_eq!(change.current.epoch, 1, "1 and 2 had not");
    }

    #[test]
    fn a_membership_that_was_never_decided_upon_breaks_continuity() {
        let mut fold = Fold::quorate();
        fold.change(nodelist(13, &[3], &[], &[1, 2]));
        let change = fold.change(nodelist(17, &[1, 2, 3], &[1, 2], &[]));
        assert_eq!(change.current.epoch, change.previous.epoch + 1);
        fold.change(quorum(17, true, &[1, 2, 3]));
        assert_eq!(fold.now().epoch, 1);
    }

    #[test]
    fn the_death_of_the_only_other_node_does_not_break_continuity() {
        let mut fold = Fold::new();
        fold.change(connected(true));
        fold.change(nodelist(9, &[1, 2], &[], &[]));
        fold.change(quorum(9, true, &[1, 2]));
        fold.change(nodelist(13, &[1], &[], &[2]));
        fold.change(quorum(13, true, &[1]));
        assert_eq!(fold.now().epoch, 0, "two_node keeps it quorate");
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
        assert_eq!(fold.change(Event::Failed { attempt: 21, error }).cause, Cause::Connecting);
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
        fold.change(Event::Lost(LOST));
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
        assert_eq!(fold.now().would_survive(&[]), None);
        let members = vec![(NodeId(1), 3), (NodeId(2), 1), (NodeId(3), 1)];
        let votes = Votes { total: 5, quorum: 3, members, ..Votes::default() };
        let (asked_at, local) = (at(10).moment, Some(NodeId(2)));
        let answer = Answer { asked_at, quorate: true, votes: Some(votes), local };
        let change = fold.change_at(20, Event::Answered(answer));
        assert_eq!((change.cause, fold.now().local), (Cause::Votes, Some(NodeId(2))));
        assert_eq!(fold.now().would_survive(&[NodeId(2), NodeId(3)]), Some(true));
        assert_eq!(fold.now().would_survive(&[NodeId(1)]), Some(false));
        assert_eq!(fold.now().would_survive(&[NodeId(9)]), Some(true));

        // More than votequorum can count.
        let members = vec![(NodeId(1), u32::MAX), (NodeId(2), 2), (NodeId(3), 1)];
        let votes = Votes { total: 5, quorum: 3, members, ..Votes::default() };
        let answer = Answer { asked_at, quorate: true, votes: Some(votes), local };
        fold.change_at(30, Event::Answered(answer));
        assert_eq!(fold.now().would_survive(&[NodeId(1), NodeId(2)]), Some(false));
    }

    #[test]
    fn votes_beyond_all_measure_can_be_asked_about() {
        let mut fold = Fold::quorate();
        let members = [1, 2, 3].map(|node| (NodeId(node), u32::MAX)).to_vec();
        let votes = Votes { total: u32::MAX, quorum: u32::MAX, members, ..Votes::default() };
        let asked_at = at(10).moment;
        let answer = Answer { asked_at, quorate: true, votes: Some(votes), local: None };
        fold.change_at(20, Event::Answered(answer));
        assert_eq!(fold.now().would_survive(&ids(&[1, 2])), Some(false));
        assert_eq!(fold.now().would_survive(&[]), Some(true));
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
