//! Whether the ring of the last decision still lives.
//!
//! A daemon that has lost its token answers every request with what it knew before, and tells no
//! client: libquorum reports only a *new* ring. The daemon's counters show it
//! (`exec/totemsrp.c`): a ring lives while the daemon stays in totem's OPERATIONAL state. This file
//! folds reads of those counters, and decisions, into one deadline for `is_quorate()` and one for
//! `is_exclusive()`. It is pure: no clock, no input, no output.

use std::time::Duration;

use crate::{
    libquorum::RingId,
    link::{
        clock::Moment,
        ring_watch::{RingReading, SECOND_READ},
    },
};

/// Whether the ring that quorum was decided for is known to live.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
#[non_exhaustive]
pub enum RingState {
    /// Not known: not seen yet on this connection, or not for too long. Nothing is believed.
    #[default]
    Unknown,
    /// The daemon was seen in totem's OPERATIONAL state.
    Operational,
    /// The daemon has left the ring and looks for another one (totem's GATHER state), or has found
    /// one that is not decided upon. The decision counts for a short time only.
    Gather,
    /// The counters cannot be read: libcmap is missing, or the daemon does not have them.
    /// `is_quorate()` goes on without this check, `is_exclusive()` is false.
    Unwatched,
}

/// What the reads and the decisions of one connection prove.
#[derive(Debug, Default)]
pub(super) struct RingEvidence {
    watch: Watch,
    /// Whether the counters belong to the ring of the last decision.
    phase: Phase,
    decision: Option<Decision>,
    /// The last ring that Corosync sent a notification of.
    announced: Option<RingId>,
    /// When the first notification of a ring was applied, for rings that no read shows yet, oldest
    /// first: each explains that the daemon became OPERATIONAL once.
    unseen: Vec<Moment>,
    /// Until when the decision may be believed. `None` until there is evidence, and again once it
    /// has run out.
    until: Option<Moment>,
    /// The ring of the decision was OPERATIONAL then, and no ring without us formed by then.
    proved_at: Option<Moment>,
    /// That is shown by the decision itself, and by no reads yet.
    proved_by_decision: bool,
    /// The token moved after this, and the ring is believed to live for so long after it.
    token_seen: Option<(Moment, Duration)>,
    /// Evidence from before this is not believed again.
    not_before: Moment,
}

#[derive(Debug, Default)]
enum Watch {
    /// There is no read yet.
    #[default]
    Pending,
    Unwatched,
    Watched(Reads),
}

#[derive(Debug)]
struct Reads {
    /// The first read that the next one is compared with.
    anchor: RingReading,
    answered_at: Moment,
    /// Since when the daemon has answered without a gap in which it may have been stopped.
    unbroken_since: Moment,
    /// Whether that began with a gap. A daemon that was stopped may go on with a token that waited
    /// for it, until its timer for the token runs.
    had_gap: bool,
    /// The token was seen to move before. Tokens that waited for a stopped daemon come in one burst.
    has_moved: bool,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Phase {
    /// No counter has moved that the last decision does not explain.
    #[default]
    Decided,
    /// A counter has moved since the last decision.
    Gather,
}

#[derive(Clone, Copy, Debug)]
struct Decision {
    ring_id: RingId,
    /// When it was applied: a read that was asked for later is about what came after it.
    applied_at: Moment,
    /// It was sent after this.
    drained_at: Moment,
}

impl RingEvidence {
    /// When the token was last seen, and for how long after that the ring is believed to live.
    #[cfg(feature = "metrics")]
    pub(super) fn token_seen(&self) -> Option<(Moment, Duration)> {
        self.token_seen
    }

    /// What is published.
    pub(super) fn state(&self) -> RingState {
        match (&self.watch, self.phase) {
            (Watch::Unwatched, _) => RingState::Unwatched,
            (_, Phase::Gather) => RingState::Gather,
            _ if self.until.is_some() => RingState::Operational,
            _ => RingState::Unknown,
        }
    }

    /// Whether the last decision is about the ring that the daemon is in, as far as its counters
    /// tell.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self.watch, Watch::Unwatched) || self.phase == Phase::Decided
    }

    /// Until when the decision may be believed; `None` if it may not. `Moment::NEVER` where nobody
    /// watches.
    pub(super) fn until(&self) -> Option<Moment> {
        match self.watch {
            Watch::Unwatched => Some(Moment::NEVER),
            _ => self.until,
        }
    }

    /// Until when no other partition can be quorate, given that this one holds a majority.
    pub(super) fn exclusive_until(&self) -> Option<Moment> {
        let Watch::Watched(reads) = &self.watch else { return None };
        let proved_at = self.proved_at.filter(|_| self.phase == Phase::Decided)?;
        let RingReading { token, consensus, .. } = reads.anchor;
        Some(proved_at.after(consensus.saturating_sub(token / 5)))
    }

    pub(super) fn configured_votes(&self) -> Option<u32> {
        let Watch::Watched(reads) = &self.watch else { return None };
        reads.anchor.configured_votes
    }

    /// Nothing from before `moment` is believed again.
    pub(super) fn expire(&mut self, moment: Moment) {
        self.not_before = self.not_before.max(moment);
        (self.until, self.proved_at, self.proved_by_decision) = (None, None, false);
    }

    /// Ends the belief in the ring if its time has come. Returns whether it has.
    pub(super) fn expire_at(&mut self, now: Moment) -> bool {
        match self.until() {
            Some(until) if now >= until => {
                self.expire(until);
                true
            }
            _ => false,
        }
    }

    /// The counters cannot be read on this connection. One that was watched stays so: then its
    /// evidence runs out.
    pub(super) fn unwatch(&mut self) {
        if matches!(self.watch, Watch::Pending) {
            self.watch = Watch::Unwatched;
        }
    }

    /// Corosync sent a notification of a ring.
    pub(super) fn announce(&mut self, ring_id: RingId, now: Moment) {
        if self.announced != Some(ring_id) {
            self.announced = Some(ring_id);
            self.unseen.push(now);
        }
    }

    /// Corosync decided about a ring, at some time after `drained_at`: nothing waited then.
    pub(super) fn decide(
        &mut self,
        ring_id: RingId,
        drained_at: Moment,
        now: Moment,
        settle_grace: Duration,
    ) {
        let last = self.decision;
        let is_new_ring = last.is_none_or(|last| last.ring_id != ring_id);
        self.decision = Some(Decision { ring_id, applied_at: now, drained_at });
        if !is_new_ring {
            return;
        }
        self.phase = Phase::Decided;
        self.proved_at = None;
        // The first decision on a connection is what the daemon knew before. A later one comes with
        // a ring that has just formed, so the daemon was OPERATIONAL after `drained_at`.
        if let (Some(_), Watch::Watched(reads)) = (last, &self.watch)
            && drained_at >= self.not_before
        {
            let RingReading { token, consensus, .. } = reads.anchor;
            let until = drained_at.after(token + consensus + settle_grace);
            self.until = Some(self.until.map_or(until, |before| before.max(until)));
            // Unless it was stopped, and goes on with what waited for it.
            let answers = now.since(reads.answered_at) <= reads.longest_gap();
            self.proved_by_decision = answers && reads.is_long(drained_at);
            self.proved_at = self.proved_by_decision.then_some(drained_at);
        }
    }

    /// Takes a read of the counters.
    pub(super) fn read(&mut self, reading: RingReading, settle_grace: Duration) {
        let asked_at = reading.asked_at;
        match &mut self.watch {
            Watch::Watched(reads) => {
                reads.note_gap(&reading);
                if reads.anchor.counters == reading.counters {
                    self.confirm(reading, settle_grace);
                } else {
                    self.moved(reading, settle_grace);
                }
            }
            Watch::Pending | Watch::Unwatched => self.watch = Watch::Watched(Reads::new(reading)),
        }
        // What was decided before this read was asked for, this read shows.
        self.unseen.retain(|applied_at| *applied_at >= asked_at);
    }

    /// A counter has moved: by a ring that was decided upon, or by one that was not.
    fn moved(&mut self, reading: RingReading, settle_grace: Duration) {
        let Watch::Watched(reads) = &mut self.watch else { return };
        let (before, now) = (reads.anchor.counters, reading.counters);
        let rings = now.operational_entered.wrapping_sub(before.operational_entered);
        let rings = usize::try_from(rings).unwrap_or(usize::MAX);
        let explained = rings.min(self.unseen.len());
        self.unseen.drain(..explained);
        // A ring that another one replaced at once is not announced, so there may be more rings than
        // announcements. None of them matters if it formed before the one that was decided upon, or
        // soon after: nodes leave out one that is silent only after the consensus timeout, so such a
        // ring has all members. And if libcmap answers on the same connection as before, the daemon
        // does not synchronise (`exec/ipc_glue.c`), so the last ring has been announced.
        let is_prompt = self.decision.is_some_and(|decision| {
            reading.answered_at.since(decision.drained_at) <= reading.consensus / 2
        });
        let all_explained =
            explained == rings || is_prompt || reading.connection == reads.anchor.connection;
        self.phase = if explained > 0 && all_explained { Phase::Decided } else { Phase::Gather };
        // Also if it is explained: a GATHER may have followed the decision.
        let until = reading.asked_at.after(reading.consensus + settle_grace);
        self.until = self.until.map(|before| before.min(until));
        // What the decision proved is not changed by what followed it.
        self.proved_at = self.proved_at.filter(|_| self.proved_by_decision);
        reads.anchor = reading;
    }

    /// No counter has moved. If the token has, the ring lived at the first of the two reads.
    fn confirm(&mut self, reading: RingReading, settle_grace: Duration) {
        let Watch::Watched(reads) = &mut self.watch else { return };
        let before = &reads.anchor;
        if reading.asked_at < before.answered_at.after(SECOND_READ) {
            return;
        }
        if before.tokens == reading.tokens {
            reads.anchor = reading;
            return;
        }
        let proved_at = before.asked_at;
        let lease = reading.token + reading.consensus + settle_grace;
        self.token_seen = Some((proved_at, lease));
        let is_about_decision = self.phase == Phase::Decided
            && self.decision.is_some_and(|decision| {
                proved_at > decision.applied_at && self.announced == Some(decision.ring_id)
            });
        if is_about_decision && reads.is_trusted(proved_at) && proved_at >= self.not_before {
            let until = proved_at.after(lease);
            self.until = Some(self.until.map_or(until, |before| before.max(until)));
            if reads.is_long(proved_at) {
                (self.proved_at, self.proved_by_decision) = (Some(proved_at), false);
            }
        }
        reads.has_moved = true;
        reads.anchor = reading;
    }
}

impl Reads {
    fn new(anchor: RingReading) -> Self {
        let answered_at = anchor.answered_at;
        Self { anchor, answered_at, unbroken_since: answered_at, had_gap: false, has_moved: false }
    }

    /// A daemon that was stopped for so long, and goes on, may have been left by the others.
    fn note_gap(&mut self, reading: &RingReading) {
        if reading.answered_at.since(self.answered_at) > self.longest_gap() {
            (self.unbroken_since, self.had_gap) = (reading.answered_at, true);
            self.has_moved = false;
        }
        self.answered_at = reading.answered_at;
    }

    /// How long the daemon may not answer before the others may have lost the token that it holds.
    fn longest_gap(&self) -> Duration {
        self.anchor.token * 3 / 4
    }

    /// Whether the daemon's own timer for the token has had the time to run since a gap; on a new
    /// connection, whether the token has moved twice.
    fn is_trusted(&self, asked_at: Moment) -> bool {
        if self.had_gap { self.is_long(asked_at) } else { self.has_moved }
    }

    /// The same, counted also from the first read of a connection: the daemon may have been stopped
    /// just before it.
    fn is_long(&self, asked_at: Moment) -> bool {
        asked_at >= self.unbroken_since.after(self.anchor.token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libquorum::NodeId;
    use crate::link::ring_watch::RingCounters;

    const TOKEN: u64 = 1_000;
    const CONSENSUS: u64 = 1_200;
    const GRACE: u64 = 1_000;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn at(millis: u64) -> Moment {
        Moment::default().after(ms(millis))
    }

    fn ring(seq: u64) -> RingId {
        RingId { node_id: NodeId(1), seq }
    }

    /// A daemon whose counters are read, and what the reads prove.
    struct Watched {
        evidence: RingEvidence,
        counters: RingCounters,
        tokens: u64,
        connection: u64,
    }

    impl Watched {
        fn new() -> Self {
            let (evidence, counters) = (RingEvidence::default(), RingCounters::default());
            Self { evidence, counters, tokens: 0, connection: 0 }
        }

        /// One that decided on ring 1.9 at 0 ms, and was read every 100 ms for `millis`.
        fn for_ms(millis: u64) -> Self {
            let mut watched = Self::new();
            watched.decide(9, 0);
            (1..=millis / 100).for_each(|n| watched.read(n * 100));
            watched
        }

        fn decide(&mut self, seq: u64, now: u64) {
            self.evidence.announce(ring(seq), at(now));
            self.evidence.decide(ring(seq), at(now), at(now), ms(GRACE));
        }

        /// A read that is answered at once, with a token since the last.
        fn read(&mut self, now: u64) {
            self.tokens += 1;
            self.read_without_token(now);
        }

        fn read_without_token(&mut self, now: u64) {
            let reading = RingReading {
                connection: self.connection,
                asked_at: at(now),
                answered_at: at(now),
                counters: self.counters,
                tokens: self.tokens,
                token: ms(TOKEN),
                consensus: ms(CONSENSUS),
                configured_votes: None,
            };
            self.evidence.expire_at(at(now));
            self.evidence.read(reading, ms(GRACE));
        }

        fn gather(&mut self) {
            self.counters.gather_entered += 1;
            self.counters.token_lost += 1;
        }

        fn operational(&mut self) {
            self.counters.operational_entered += 1;
        }

        fn state(&self) -> RingState {
            self.evidence.state()
        }
    }

    #[test]
    fn a_new_connection_is_believed_once_the_token_has_moved_twice() {
        let mut watched = Watched::for_ms(200);
        assert_eq!((watched.state(), watched.evidence.until()), (RingState::Unknown, None));
        watched.read(300);
        assert_eq!(watched.state(), RingState::Operational);
        assert_eq!(watched.evidence.until(), Some(at(200 + TOKEN + CONSENSUS + GRACE)));
    }

    #[test]
    fn a_ring_whose_token_does_not_move_is_not_believed_for_longer() {
        let mut watched = Watched::for_ms(3_000);
        let until = watched.evidence.until();
        assert_eq!(until, Some(at(2_900 + TOKEN + CONSENSUS + GRACE)));
        (31..=60).for_each(|n| watched.read_without_token(n * 100));
        assert_eq!(watched.evidence.until(), until);
        watched.read_without_token(6_100);
        assert_eq!((watched.state(), watched.evidence.until()), (RingState::Unknown, None));
    }

    #[test]
    fn reads_that_follow_too_soon_confirm_nothing() {
        let mut watched = Watched::new();
        watched.decide(9, 0);
        (1..=20).for_each(|n| watched.read(100 + n));
        assert_eq!(watched.evidence.until(), None);
    }

    #[test]
    fn a_gather_ends_belief_after_the_consensus_timeout_and_the_grace() {
        let mut watched = Watched::for_ms(3_000);
        watched.gather();
        watched.read(3_100);
        assert_eq!((watched.state(), watched.evidence.is_settled()), (RingState::Gather, false));
        let until = Some(at(3_100 + CONSENSUS + GRACE));
        assert_eq!((watched.evidence.until(), watched.evidence.exclusive_until()), (until, None));
        // A later GATHER, or a ring that is not announced, puts nothing off.
        watched.operational();
        watched.read(3_200);
        watched.gather();
        (33..=40).for_each(|n| watched.read(n * 100));
        assert_eq!((watched.state(), watched.evidence.until()), (RingState::Gather, until));
    }

    #[test]
    fn the_decision_about_the_next_ring_is_believed_without_a_break() {
        let mut watched = Watched::for_ms(3_000);
        watched.gather();
        watched.read(3_100);
        watched.operational();
        watched.decide(13, 4_300);
        assert_eq!(watched.state(), RingState::Operational);
        assert_eq!(watched.evidence.until(), Some(at(4_300 + TOKEN + CONSENSUS + GRACE)));
        watched.read(4_310);
        assert_eq!(watched.state(), RingState::Operational, "the decision explains the ring");
        watched.read(4_400);
        assert!(watched.evidence.exclusive_until().is_none(), "its gap was too long");
    }

    #[test]
    fn a_decision_proves_its_ring_unless_the_daemon_may_have_been_stopped() {
        let decided_after = |last_read: u64| {
            let mut watched = Watched::for_ms(3_000);
            watched.gather();
            (31..=last_read / 100).for_each(|n| watched.read(n * 100));
            watched.operational();
            watched.decide(13, 4_300);
            watched
        };
        let until = Some(at(4_300 + CONSENSUS - TOKEN / 5));
        let mut watched = decided_after(4_300);
        assert_eq!(watched.evidence.exclusive_until(), until);
        // What the read shows, the decision explains.
        watched.read(4_310);
        assert_eq!(
            (watched.state(), watched.evidence.exclusive_until()),
            (RingState::Operational, until)
        );
        watched.read(4_400);
        assert!(watched.evidence.exclusive_until() > until);
        // It did not answer for three quarters of the token timeout.
        assert_eq!(decided_after(3_500).evidence.exclusive_until(), None);
        // It goes on after a stop, and answers before it passes on what waited.
        let mut woken = Watched::for_ms(3_000);
        woken.read(6_000);
        woken.operational();
        woken.decide(13, 6_001);
        assert_eq!(woken.evidence.exclusive_until(), None);
    }

    #[test]
    fn what_proved_the_old_ring_does_not_prove_the_next_one() {
        let mut watched = Watched::for_ms(3_000);
        watched.gather();
        watched.operational();
        watched.evidence.announce(ring(13), at(3_050));
        // Nothing is known to have been sent since the beginning.
        watched.evidence.decide(ring(13), at(0), at(3_050), ms(GRACE));
        watched.read(3_100);
        assert_eq!(watched.state(), RingState::Operational);
        assert_eq!(watched.evidence.exclusive_until(), None);
        watched.read(3_200);
        assert!(watched.evidence.exclusive_until().is_some());
    }

    #[test]
    fn a_ring_that_was_announced_and_not_decided_upon_is_not_exclusive() {
        let mut watched = Watched::for_ms(3_000);
        watched.gather();
        watched.operational();
        watched.evidence.announce(ring(13), at(3_050));
        watched.read(3_100);
        assert_eq!(watched.evidence.exclusive_until(), None);
        (32..=40).for_each(|n| watched.read(n * 100));
        assert_eq!(watched.evidence.exclusive_until(), None);
    }

    #[test]
    fn a_ring_that_formed_after_the_decision_is_not_explained_by_it() {
        let mut watched = Watched::for_ms(3_000);
        watched.gather();
        watched.operational();
        watched.decide(13, 3_050);
        watched.read(3_100);
        assert_eq!(watched.state(), RingState::Operational);
        watched.gather();
        watched.operational();
        watched.read(3_200);
        assert_eq!(watched.state(), RingState::Gather);
        watched.decide(17, 3_250);
        assert_eq!(watched.state(), RingState::Operational);
    }

    #[test]
    fn a_late_read_that_shows_more_rings_than_were_announced_is_settled_by_nothing_but_the_next() {
        let mut watched = Watched::for_ms(3_000);
        let later = |watched: &mut Watched| {
            watched.decide(13, 3_050);
            (0..2).for_each(|_| {
                watched.gather();
                watched.operational();
            });
        };
        later(&mut watched);
        watched.connection += 1;
        watched.read(3_050 + CONSENSUS / 2 + 1);
        assert_eq!(watched.state(), RingState::Gather);

        // In time, or on the same connection, which is not answered while the daemon synchronises.
        let mut watched = Watched::for_ms(3_000);
        later(&mut watched);
        watched.connection += 1;
        watched.read(3_100);
        assert_eq!(watched.state(), RingState::Operational);
        let mut watched = Watched::for_ms(3_000);
        later(&mut watched);
        watched.read(3_050 + CONSENSUS / 2 + 1);
        assert_eq!(watched.state(), RingState::Operational);
    }

    #[test]
    fn exclusive_ends_a_round_of_the_token_before_the_consensus_timeout() {
        let watched = Watched::for_ms(3_000);
        let until = 2_900 + CONSENSUS - TOKEN / 5;
        assert_eq!(watched.evidence.exclusive_until(), Some(at(until)));
    }

    #[test]
    fn a_new_connection_is_exclusive_after_the_token_timeout_only() {
        assert_eq!(Watched::for_ms(TOKEN).evidence.exclusive_until(), None);
        assert!(Watched::for_ms(TOKEN + 300).evidence.exclusive_until().is_some());
    }

    #[test]
    fn a_daemon_that_was_stopped_proves_nothing_before_its_token_timeout() {
        let mut watched = Watched::for_ms(3_000);
        // It goes on with a token that waited for it.
        watched.read(4_000);
        let before = (watched.evidence.until(), watched.evidence.exclusive_until());
        (41..=49).for_each(|n| watched.read(n * 100));
        assert_eq!((watched.evidence.until(), watched.evidence.exclusive_until()), before);
        (50..=52).for_each(|n| watched.read(n * 100));
        assert_eq!(watched.evidence.until(), Some(at(5_100 + TOKEN + CONSENSUS + GRACE)));
        assert!(watched.evidence.exclusive_until() > before.1);
    }

    #[test]
    fn what_has_run_out_needs_newer_evidence() {
        let mut watched = Watched::for_ms(3_000);
        watched.evidence.expire(at(3_001));
        watched.read(3_050);
        assert_eq!(watched.evidence.until(), None, "the first of the two is from before");
        watched.read(3_150);
        assert_eq!(watched.evidence.until(), Some(at(3_050 + TOKEN + CONSENSUS + GRACE)));
    }

    #[test]
    fn a_decision_from_before_a_deadline_does_not_restore_belief() {
        let mut watched = Watched::for_ms(3_000);
        watched.evidence.expire(at(5_000));
        watched.evidence.announce(ring(13), at(5_100));
        watched.evidence.decide(ring(13), at(4_000), at(5_100), ms(GRACE));
        assert_eq!(watched.evidence.until(), None);
    }

    #[test]
    fn nobody_who_cannot_watch_is_exclusive() {
        let mut evidence = RingEvidence::default();
        evidence.unwatch();
        assert_eq!((evidence.state(), evidence.is_settled()), (RingState::Unwatched, true));
        assert_eq!((evidence.until(), evidence.exclusive_until()), (Some(Moment::NEVER), None));
        let mut watched = Watched::for_ms(3_000);
        watched.evidence.unwatch();
        assert_eq!(watched.state(), RingState::Operational, "one that was watched stays so");
    }
}
