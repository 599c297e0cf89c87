//! Tracks whether the ring of the last decision is still alive.
//!
//! A daemon that has lost its token still answers every request with its old state and does not
//! inform its clients: libquorum reports only a *new* ring. The daemon's counters show the loss
//! (`exec/totemsrp.c`): a ring is alive while the daemon stays in totem's OPERATIONAL state. This
//! module turns reads of those counters, and decisions, into one deadline for `is_quorate()` and
//! one for `is_exclusive()`. It is pure: it reads no clock and does no input or output.
//!
//! | word | meaning |
//! |---|---|
//! | reading | the counters as one read has returned them |
//! | anchor | the reading with which the next one is compared |
//! | movement | a counter other than the number of tokens has grown between two readings |
//! | decision | a notification that says whether this node's ring has quorum |
//! | announcement | the first notification of a ring; it explains (accounts for) one new ring in the counters |
//! | proof | a moment at which the ring of the decision was alive |
//! | gap | a time without an answer in which other nodes may have excluded the daemon |
//! | clearing | an operator has set the counters to zero |

mod reads;

use std::{mem, time::Duration};

use self::reads::Reads;
use crate::{
    libquorum::RingId,
    link::{
        clock::Moment,
        ring_reading::{RingReading, SECOND_READ},
    },
};

/// Whether there is recent evidence that the ring of the quorum decision is alive.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
#[non_exhaustive]
pub enum RingState {
    /// It is not known whether the ring is alive: it has not yet been found to be alive on this
    /// connection, or not recently enough. Meanwhile this node is not `Quorate`.
    #[default]
    Unknown,
    /// The daemon was in totem's OPERATIONAL state at the last evidence: a read of its counters or
    /// a decision.
    Operational,
    /// The daemon has left the ring and is forming another one (totem's GATHER state), or has
    /// formed another one and not decided about it yet. The actor trusts the old decision for at
    /// most the sum of the consensus timeout and
    /// [`settle_grace`](crate::QuorumBuilder::settle_grace).
    Gather,
    /// The counters cannot be read: libcmap is missing, or the daemon does not have them.
    /// `is_quorate()` then works without this check, and `is_exclusive()` returns `false`. The
    /// actor tries to read the counters again every 10 s.
    Unwatched,
}

/// The evidence from the reads and decisions of one connection.
#[derive(Debug, Default)]
pub(super) struct RingEvidence {
    watch: Watch,
    /// Whether the daemon is still in the ring of the last decision, according to the counters.
    phase: Phase,
    decided: Option<DecidedRing>,
    /// The ring of the last notification from Corosync.
    announced: Option<RingId>,
    /// The announcements of rings that no read has shown yet, oldest first. Each of them explains
    /// one change of the daemon to OPERATIONAL.
    unseen: Vec<Announcement>,
    /// Whether a read has shown a ring that was not announced. The next announcement may be about
    /// that ring.
    has_unannounced: bool,
    /// How many recoveries were unfinished (`RingCounters::unfinished_recoveries`) when reads last
    /// proved that the daemon was in OPERATIONAL. `None` before the first such read.
    unfinished_recoveries: Option<i64>,
    /// The moment until which the decision may be trusted. `None` without evidence, and once this
    /// moment has passed.
    until: Option<Moment>,
    proof: Option<Proof>,
    /// A moment after which the token has moved, and for how long after that moment the ring is
    /// believed to be alive.
    token_seen: Option<(Moment, Duration)>,
    /// Evidence from before this moment is ignored, because a deadline passed then.
    not_before: Moment,
}

/// A moment at which the ring of the decision was OPERATIONAL and no ring without this node had
/// formed.
#[derive(Clone, Copy, Debug)]
enum Proof {
    /// The decision itself is the proof. No later read has confirmed it yet.
    Decision(Moment),
    Reads(Moment),
}

/// Whether the ring is watched, which means that its counters can be read.
#[derive(Debug, Default)]
enum Watch {
    /// No read has arrived yet.
    #[default]
    Pending,
    Unwatched,
    Watched(Reads),
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Phase {
    /// The last decision explains all movement of the counters.
    #[default]
    Decided,
    /// A counter has moved, and the last decision does not explain it. `has_formed` is true if the
    /// last movement included a new ring, and the daemon cannot be in RECOVERY.
    Gather { has_formed: bool },
}

/// The first notification of a ring.
#[derive(Clone, Copy, Debug)]
struct Announcement {
    applied_at: Moment,
    /// Whether an earlier read may have shown this ring.
    may_be_seen: bool,
}

/// The ring of the last decision about quorum.
#[derive(Clone, Copy, Debug)]
struct DecidedRing {
    ring_id: RingId,
    /// When the decision was applied. A read that was requested later shows the state after it.
    applied_at: Moment,
    /// A moment after which Corosync sent the first decision about this ring.
    drained_at: Moment,
}

impl RingEvidence {
    /// Returns when the token was last seen, and for how long after that moment the ring is
    /// believed to be alive. Returns `None` if no read has shown yet that the token moves.
    #[cfg(feature = "metrics")]
    pub(super) fn token_seen(&self) -> Option<(Moment, Duration)> {
        self.token_seen
    }

    /// Returns the published state of the ring.
    pub(super) fn state(&self) -> RingState {
        match (&self.watch, self.phase) {
            (Watch::Unwatched, _) => RingState::Unwatched,
            (_, Phase::Gather { .. }) => RingState::Gather,
            _ if self.until.is_some() => RingState::Operational,
            _ => RingState::Unknown,
        }
    }

    /// Whether the last decision is about the daemon's current ring, as far as its counters show.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self.watch, Watch::Unwatched) || self.phase == Phase::Decided
    }

    /// Returns the moment until which the decision may be trusted, or `None` if it may not be
    /// trusted. Returns `Moment::NEVER` if the ring cannot be watched.
    pub(super) fn until(&self) -> Option<Moment> {
        match self.watch {
            Watch::Unwatched => Some(Moment::NEVER),
            _ => self.until,
        }
    }

    /// Returns the moment until which no other partition can be quorate if this one holds a
    /// majority. Returns `None` if nothing proves this.
    pub(super) fn exclusive_until(&self) -> Option<Moment> {
        let Watch::Watched(reads) = &self.watch else { return None };
        let (Proof::Decision(proved_at) | Proof::Reads(proved_at)) =
            self.proof.filter(|_| self.phase == Phase::Decided)?;
        Some(proved_at.after(reads.anchor.exclusive_for()))
    }

    pub(super) fn configured_votes(&self) -> Option<u32> {
        let Watch::Watched(reads) = &self.watch else { return None };
        reads.anchor.configured_votes
    }

    /// Discards all evidence that the ring is alive. Evidence from before `moment` does not count
    /// later either.
    pub(super) fn expire(&mut self, moment: Moment) {
        self.not_before = self.not_before.max(moment);
        (self.until, self.proof) = (None, None);
    }

    /// Discards the evidence that the ring is alive if its deadline has passed. Returns whether the
    /// deadline has passed.
    pub(super) fn expire_if_due(&mut self, now: Moment) -> bool {
        match self.until() {
            Some(until) if now >= until => {
                self.expire(until);
                true
            }
            _ => false,
        }
    }

    /// Whether the daemon has stayed in one ring for longer than the token and consensus timeouts
    /// together, but no notification seems to have announced that ring, and no decision is trusted
    /// any more. If two rings form between two reads and only one of them is announced, it may not
    /// be possible to tell which one.
    ///
    /// The token also moves in RECOVERY, while a ring is still being formed. So there must be as
    /// many unfinished recoveries as when the daemon was last known to be in OPERATIONAL.
    pub(super) fn lacks_announcement(&self) -> bool {
        let Watch::Watched(reads) = &self.watch else { return false };
        self.phase == Phase::Gather { has_formed: true }
            && self.until.is_none()
            && reads.is_steady()
            && reads.anchor.counters.unfinished_recoveries()
                == self.unfinished_recoveries.unwrap_or(0)
    }

    /// Returns the evidence with which the next connection begins after
    /// [`lacks_announcement`](Self::lacks_announcement). The reads continue. So if no counter moves
    /// until after the first notifications of that connection, the daemon was in the same ring all
    /// the time, and the notifications are about that ring.
    pub(super) fn next_connection(&mut self) -> Self {
        let watch = mem::take(&mut self.watch);
        Self { watch, unfinished_recoveries: self.unfinished_recoveries, ..Self::default() }
    }

    /// Records that the counters cannot be read on this connection. If they were read before, the
    /// ring stays watched, and the earlier evidence expires at its deadline.
    pub(super) fn unwatch(&mut self) {
        if matches!(self.watch, Watch::Pending) {
            self.watch = Watch::Unwatched;
        }
    }

    /// Records a notification of a ring.
    pub(super) fn announce(&mut self, ring_id: RingId, now: Moment) {
        if self.announced != Some(ring_id) {
            // The first notification of a connection is about the ring that the daemon was already
            // in. It does not explain a ring that forms later.
            let is_first = self.announced.replace(ring_id).is_none();
            if !is_first && !matches!(self.watch, Watch::Unwatched) {
                let may_be_seen = self.has_unannounced;
                self.unseen.push(Announcement { applied_at: now, may_be_seen });
            }
            // Rings that formed before this one will not be announced any more.
            self.has_unannounced = false;
        }
    }

    /// Records a decision about a ring. Corosync sent it after `drained_at`, when the queue was
    /// empty.
    pub(super) fn decide(
        &mut self,
        ring_id: RingId,
        drained_at: Moment,
        now: Moment,
        settle_grace: Duration,
    ) {
        let last = self.decided;
        let is_new_ring = last.is_none_or(|last| last.ring_id != ring_id);
        let first_drained_at =
            last.filter(|_| !is_new_ring).map_or(drained_at, |last| last.drained_at);
        self.decided = Some(DecidedRing { ring_id, applied_at: now, drained_at: first_drained_at });
        if !is_new_ring {
            return;
        }
        self.phase = Phase::Decided;
        self.proof = None;
        // The first decision on a connection may have been made long before the connection. A later
        // decision follows a ring that has just formed, so the daemon was OPERATIONAL after
        // `drained_at`.
        let (Some(_), Watch::Watched(reads)) = (last, &self.watch) else { return };
        let alive_at = reads.alive_at(drained_at);
        if alive_at < self.not_before {
            return;
        }
        let RingReading { token, consensus, .. } = reads.anchor;
        let until = alive_at.after((token + consensus).saturating_add(settle_grace));
        self.until = Some(self.until.map_or(until, |before| before.max(until)));
        // After a gap the decision is no proof: other nodes had time to exclude this one.
        let is_answering = now.since(reads.answered_at) <= reads.allowed_gap();
        if is_answering && reads.is_past_token_timeout(drained_at) {
            self.proof = Some(Proof::Decision(drained_at));
        }
    }

    /// Records a read of the counters.
    pub(super) fn read(&mut self, reading: RingReading, settle_grace: Duration) {
        let asked_at = reading.asked_at;
        match &mut self.watch {
            Watch::Watched(reads) => {
                reads.note_gap(&reading);
                if reads.are_cleared(&reading) {
                    self.begin_again(reading, settle_grace);
                } else if reads.anchor.counters == reading.counters {
                    self.confirm(reading, settle_grace);
                } else {
                    self.record_movement(reading, settle_grace);
                }
            }
            Watch::Pending | Watch::Unwatched => self.watch = Watch::Watched(Reads::new(reading)),
        }
        // This read shows every ring that was announced before the read was requested.
        self.unseen.retain(|announcement| announcement.applied_at >= asked_at);
    }

    /// Records a read in which a counter has moved since the anchor.
    ///
    /// The phase depends on the rings that the daemon has formed between the two reads:
    ///
    /// | rings | phase |
    /// |---|---|
    /// | any number, and the daemon may be in RECOVERY: more recoveries are unfinished than when it was last known to be in OPERATIONAL | `Gather` |
    /// | none: the daemon has only left its ring | `Gather` |
    /// | some, and none was announced by a notification | `Gather` |
    /// | all were announced, and no earlier read has shown them | `Decided` |
    /// | some were announced, the read came soon after the decision | `Decided` |
    /// | some were announced, both reads used the same connection | `Decided` |
    /// | some were announced, and no row above applies | `Gather` |
    ///
    /// In all cases the decision is trusted for at most the sum of the consensus timeout and
    /// `settle_grace` after this read was requested, and what earlier reads have proved no longer
    /// counts.
    fn record_movement(&mut self, reading: RingReading, settle_grace: Duration) {
        let Watch::Watched(reads) = &mut self.watch else { return };
        let (before, now) = (reads.anchor.counters, reading.counters);
        let rings = now.operational_entered.wrapping_sub(before.operational_entered);
        let rings = usize::try_from(rings).unwrap_or(usize::MAX);
        let explained = rings.min(self.unseen.len());
        let unseen = self.unseen.iter().filter(|ring| !ring.may_be_seen).count();
        self.unseen.drain(..explained);
        self.has_unannounced |= rings > explained;
        // A ring may be replaced before it is announced, so there may be more rings than
        // announcements. Such a ring does not matter if it formed before the ring of the decision
        // or soon after: nodes exclude a silent node only after the consensus timeout, so the ring
        // has all members. If libcmap answers on the same connection as before, the daemon is not
        // synchronising (`exec/ipc_glue.c`), so the last ring was announced.
        let is_prompt = self.decided.is_some_and(|decided| {
            reading.answered_at.since(decided.drained_at) <= reading.consensus / 2
        });
        let all_explained =
            unseen >= rings || is_prompt || reading.connection == reads.anchor.connection;
        if reading.tokens < reads.anchor.tokens {
            // The counters were cleared, on another connection.
            self.unfinished_recoveries = Some(0);
        }
        let unfinished =
            self.unfinished_recoveries.unwrap_or_else(|| before.unfinished_recoveries());
        let may_recover = now.unfinished_recoveries() > unfinished;
        self.phase = if explained > 0 && all_explained && !may_recover {
            Phase::Decided
        } else {
            Phase::Gather { has_formed: rings > 0 && !may_recover }
        };
        // The deadline also applies to an explained ring: a GATHER may have followed the decision.
        let until = reading.asked_at.after(reading.consensus.saturating_add(settle_grace));
        self.until = self.until.map(|before| before.min(until));
        // Later movement does not change what the decision itself proved.
        self.proof = self.proof.filter(|proof| matches!(proof, Proof::Decision(_)));
        reads.steady_since = reading.answered_at;
        reads.anchor = reading;
    }

    /// Records the first read after an operator has cleared the counters (`corosync-cmapctl -C`). A
    /// clearing may hide that the daemon has just left its ring, so the daemon is treated like one
    /// that was suspended.
    fn begin_again(&mut self, reading: RingReading, settle_grace: Duration) {
        let Watch::Watched(reads) = &mut self.watch else { return };
        let until = reading.asked_at.after(reading.consensus.saturating_add(settle_grace));
        self.until = self.until.map(|before| before.min(until));
        self.proof = None;
        self.unfinished_recoveries = Some(0);
        self.unseen.clear();
        reads.note_clearing(reading);
    }

    /// Records a read in which no counter has moved since the anchor. If the token has moved
    /// between the two reads, the ring was alive when the first one was requested.
    ///
    /// The first row that applies decides:
    ///
    /// | case | what happens |
    /// |---|---|
    /// | this read was requested within `SECOND_READ` of the first answer | it is discarded |
    /// | the token has not moved | it proves nothing; the next read is compared with it |
    /// | the decision is about another ring, or newer than the first read | only `token_seen` is set |
    /// | before the first read, the token stood still for longer than `allowed_gap` | the same |
    /// | a deadline has passed since the first read was requested | the same |
    /// | the daemon may still continue with an old token (`is_trusted`) | the same |
    /// | otherwise | the ring is believed to be alive for longer |
    ///
    /// In the last case the reads also prove exclusivity, if the first one was requested after the
    /// token timeout (`is_past_token_timeout`) and no earlier than `proves_from`.
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
        let lease = (reading.token + reading.consensus).saturating_add(settle_grace);
        self.token_seen = Some((proved_at, lease));
        let is_about_decision = self.phase == Phase::Decided
            && self.decided.is_some_and(|decided| {
                proved_at > decided.applied_at && self.announced == Some(decided.ring_id)
            });
        // In a live ring the token returns several times within its timeout. The first token after
        // a longer pause may belong to a ring that is still being formed.
        let was_frozen = proved_at.since(reads.moved_at) > reads.allowed_gap();
        let is_evidence = is_about_decision && !was_frozen && proved_at >= self.not_before;
        if is_evidence && reads.is_trusted(proved_at) {
            let until = proved_at.after(lease);
            self.until = Some(self.until.map_or(until, |before| before.max(until)));
            self.unfinished_recoveries = Some(reading.counters.unfinished_recoveries());
            if reads.is_past_token_timeout(proved_at) && proved_at >= reads.proves_from {
                self.proof = Some(Proof::Reads(proved_at));
            }
        }
        if was_frozen {
            reads.steady_since = reading.answered_at;
        }
        reads.has_moved = true;
        reads.moved_at = reading.answered_at;
        reads.anchor = reading;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{libquorum::NodeId, link::ring_reading::RingCounters};

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

    /// A daemon whose counters are read, and the evidence from the reads. A read shows how many
    /// rings have formed. A nodelist announces a ring, and an announcement or a decision explains
    /// one ring that the reads show. A ring without an explanation is not believed.
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

        /// Returns a daemon that decided on ring 1.9 at 0 ms and was then read every 100 ms for
        /// `millis`.
        fn for_ms(millis: u64) -> Self {
            let mut watched = Self::new();
            watched.decide(9, 0);
            (1..=millis / 100).for_each(|n| watched.read(n * 100));
            watched
        }

        fn decide(&mut self, seq: u64, now: u64) {
            self.evidence.expire_if_due(at(now));
            self.evidence.announce(ring(seq), at(now));
            self.evidence.decide(ring(seq), at(now), at(now), ms(GRACE));
        }

        /// Makes one read after the token has moved. The read is answered immediately.
        fn read(&mut self, now: u64) {
            self.tokens += 1;
            self.read_without_token(now);
        }

        fn read_without_token(&mut self, now: u64) {
            self.read_slowly(now, now);
        }

        /// Makes one read that is answered at `answered_at`, without moving the token.
        fn read_slowly(&mut self, asked_at: u64, answered_at: u64) {
            let reading = self.reading(asked_at, answered_at);
            self.evidence.expire_if_due(reading.answered_at);
            self.evidence.read(reading, ms(GRACE));
        }

        fn reading(&self, asked_at: u64, answered_at: u64) -> RingReading {
            RingReading {
                connection: self.connection,
                asked_at: at(asked_at),
                answered_at: at(answered_at),
                counters: self.counters,
                tokens: self.tokens,
                token: ms(TOKEN),
                consensus: ms(CONSENSUS),
                configured_votes: None,
                age: Duration::ZERO,
            }
        }

        fn gather(&mut self) {
            self.counters.gather_entered += 1;
            self.counters.token_lost += 1;
        }

        fn operational(&mut self) {
            self.counters.recovery_entered += 1;
            self.counters.operational_entered += 1;
        }

        /// Forms a ring, and shows it in a read that the decision of `decided_at` does not explain:
        /// the read is too late for that, and on another connection.
        fn operational_unexplained_by(&mut self, decided_at: u64) {
            self.operational();
            self.connection += 1;
            self.read(decided_at + CONSENSUS / 2 + 1);
        }

        fn state(&self) -> RingState {
            self.evidence.state()
        }
    }

    #[test]
    fn a_ring_is_believed_on_a_new_connection_once_the_token_has_moved_twice() {
        let mut watched = Watched::for_ms(200);
        assert_eq!((watched.state(), watched.evidence.until()), (RingState::Unknown, None));
        watched.read(300);
        assert_eq!(watched.state(), RingState::Operational);
        assert_eq!(watched.evidence.until(), Some(at(200 + TOKEN + CONSENSUS + GRACE)));
    }

    /// Returns a daemon that formed two rings and announced only one of them. Its last reading is
    /// late and on a new connection, so it does not show which of the two was announced.
    fn with_two_rings_and_one_announcement() -> (Watched, u64) {
        let mut watched = Watched::for_ms(3_000);
        watched.gather();
        watched.operational();
        watched.gather();
        watched.decide(13, 3_050);
        watched.operational_unexplained_by(3_050);
        assert_eq!(watched.state(), RingState::Gather);
        (watched, 3_050 + CONSENSUS / 2 + 1)
    }

    /// Makes reads every 100 ms for `millis`. Returns the time of the first read after which the
    /// connection lacks an announcement.
    fn first_lack(watched: &mut Watched, from: u64, millis: u64) -> Option<u64> {
        (1..=millis / 100).map(|n| from + n * 100).find(|now| {
            watched.read(*now);
            watched.evidence.lacks_announcement()
        })
    }

    #[test]
    fn a_ring_that_remains_without_an_announcement_is_reported_after_both_timeouts() {
        let (mut watched, shown_at) = with_two_rings_and_one_announcement();
        let lacks_at = first_lack(&mut watched, shown_at, 10_000).unwrap();
        assert_eq!(lacks_at, shown_at + TOKEN + CONSENSUS + 100);
        assert_eq!(watched.evidence.until(), None);
        // After a decision about the next ring, no announcement is missing.
        watched.decide(17, lacks_at + 50);
        assert!(!watched.evidence.lacks_announcement());
    }

    #[test]
    fn a_ring_without_an_announcement_is_not_reported_while_the_old_decision_is_believed() {
        let (mut watched, shown_at) = with_two_rings_and_one_announcement();
        // This is the deadline with a `settle_grace` of one minute.
        let until = at(shown_at + CONSENSUS + 60_000);
        watched.evidence.until = Some(until);
        let lacks_at = first_lack(&mut watched, shown_at, 100_000).unwrap();
        assert!(at(lacks_at) >= until && at(lacks_at - 100) < until);
    }

    /// While the daemon is still forming a ring, a new connection would report the old ring.
    #[test]
    fn no_announcement_is_missing_while_the_daemon_is_not_in_operational() {
        // The daemon has left its ring.
        let mut watched = Watched::for_ms(3_000);
        watched.gather();
        assert_eq!(first_lack(&mut watched, 3_000, 20_000), None);
        assert_eq!((watched.state(), watched.evidence.until()), (RingState::Gather, None));
        // The daemon has left the second ring and is forming a third one, in RECOVERY.
        let mut watched = Watched::for_ms(3_000);
        watched.gather();
        watched.operational();
        watched.gather();
        watched.counters.recovery_entered += 1;
        watched.read(3_100);
        assert_eq!(first_lack(&mut watched, 3_100, 20_000), None);
        assert_eq!((watched.state(), watched.evidence.until()), (RingState::Gather, None));
        // The token does not move.
        let (mut watched, shown_at) = with_two_rings_and_one_announcement();
        for n in 1..=200 {
            watched.read_without_token(shown_at + n * 100);
            assert!(!watched.evidence.lacks_announcement());
        }
    }

    #[test]
    fn a_pause_or_another_ring_postpones_the_report_of_a_ring_without_an_announcement() {
        let pause = |watched: &mut Watched, now| watched.read(now);
        let frozen = |watched: &mut Watched, now: u64| {
            (1..=9).for_each(|n| watched.read_without_token(now - 1_000 + n * 100));
            watched.read(now);
        };
        let other = |watched: &mut Watched, now: u64| {
            (1..=9).for_each(|n| watched.read(now - 1_000 + n * 100));
            watched.gather();
            watched.operational();
            watched.read(now);
        };
        let cases: [fn(&mut Watched, u64); 3] = [pause, frozen, other];
        for (case, happens) in cases.into_iter().enumerate() {
            let (mut watched, shown_at) = with_two_rings_and_one_announcement();
            let before = shown_at + TOKEN + CONSENSUS - 200;
            assert_eq!(first_lack(&mut watched, shown_at, TOKEN + CONSENSUS - 200), None);
            happens(&mut watched, before + 1_000);
            assert!(!watched.evidence.lacks_announcement(), "case {case}");
            let lacks_at = first_lack(&mut watched, before + 1_000, 10_000);
            assert_eq!(lacks_at, Some(before + 1_000 + TOKEN + CONSENSUS + 100), "case {case}");
        }
    }

    /// A ring forms and is announced, and before the next read the daemon leaves it and enters
    /// RECOVERY. The token also moves in RECOVERY.
    #[test]
    fn a_daemon_in_recovery_is_not_in_the_ring_that_was_announced_before() {
        let mut watched = Watched::for_ms(3_000);
        watched.gather();
        watched.operational();
        watched.decide(13, 3_050);
        watched.gather();
        watched.counters.recovery_entered += 1;
        for n in 31..=100 {
            watched.read(n * 100);
            assert_eq!(watched.state(), RingState::Gather);
            assert_eq!(watched.evidence.exclusive_until(), None);
        }
        assert_eq!(watched.evidence.until(), None);
        assert!(!watched.evidence.lacks_announcement());
        // The ring forms and is announced. Before the next read, the daemon leaves it and enters
        // RECOVERY again.
        watched.counters.operational_entered += 1;
        watched.decide(17, 10_020);
        watched.gather();
        watched.counters.recovery_entered += 1;
        for n in 101..=200 {
            watched.read(n * 100);
            assert_eq!(watched.state(), RingState::Gather);
        }
        // The ring of this recovery forms as well.
        watched.counters.operational_entered += 1;
        watched.decide(21, 20_050);
        (201..=203).for_each(|n| watched.read(n * 100));
        assert_eq!(watched.state(), RingState::Operational);
        // A recovery that fails returns to GATHER.
        watched.gather();
        watched.counters.recovery_entered += 1;
        watched.read(20_400);
        watched.counters.recovery_token_lost += 1;
        watched.gather();
        watched.read(20_500);
        watched.operational();
        watched.decide(25, 20_550);
        (206..=210).for_each(|n| watched.read(n * 100));
        assert_eq!(watched.state(), RingState::Operational);
    }

    /// A recovery that failed long ago does not prevent the report.
    #[test]
    fn a_ring_without_an_announcement_is_reported_even_if_a_recovery_failed_earlier() {
        let mut watched = Watched::new();
        watched.counters.recovery_entered = 2;
        watched.decide(9, 0);
        (1..=30).for_each(|n| watched.read(n * 100));
        watched.gather();
        watched.operational();
        watched.gather();
        watched.decide(13, 3_050);
        watched.operational_unexplained_by(3_050);
        assert!(first_lack(&mut watched, 4_000, 10_000).is_some());
    }

    #[test]
    fn counters_cleared_on_a_new_connection_are_reported_as_a_ring_without_an_announcement() {
        let zero = RingCounters::default();
        // The first read may show some counters that are not cleared yet.
        for first in [zero, RingCounters { operational_entered: 3, gather_entered: 3, ..zero }] {
            let mut watched = read_for_three_seconds();
            watched.counters.recovery_entered = 5;
            (31..=60).for_each(|n| watched.read(n * 100));
            (watched.counters, watched.tokens) = (first, 0);
            watched.connection += 1;
            watched.read(6_100);
            assert_eq!(watched.state(), RingState::Gather);
            watched.counters = zero;
            assert!(first_lack(&mut watched, 6_100, 10_000).is_some());
        }
    }

    /// The next connection begins with the readings of the previous one.
    #[test]
    fn on_the_connection_after_a_missing_announcement_any_change_of_the_counters_must_be_explained()
    {
        for has_moved in [false, true] {
            let (mut watched, shown_at) = with_two_rings_and_one_announcement();
            let lacks_at = first_lack(&mut watched, shown_at, 10_000).unwrap();
            watched.evidence = watched.evidence.next_connection();
            assert_eq!((watched.state(), watched.evidence.until()), (RingState::Unknown, None));
            watched.decide(17, lacks_at + 20);
            if has_moved {
                watched.gather();
                watched.operational();
            }
            let believed = (1..=5).any(|n| {
                watched.read(lacks_at + n * 100);
                watched.evidence.until().is_some()
            });
            assert_eq!(believed, !has_moved);
            let lacks_again = first_lack(&mut watched, lacks_at + 500, 10_000);
            assert_eq!(lacks_again.is_some(), has_moved);
        }
    }

    #[test]
    fn the_deadline_of_a_ring_whose_token_does_not_move_is_not_extended() {
        let mut watched = Watched::for_ms(3_000);
        let until = watched.evidence.until();
        assert_eq!(until, Some(at(2_900 + TOKEN + CONSENSUS + GRACE)));
        (31..=60).for_each(|n| watched.read_without_token(n * 100));
        assert_eq!(watched.evidence.until(), until);
        watched.read_without_token(6_100);
        assert_eq!((watched.state(), watched.evidence.until()), (RingState::Unknown, None));
    }

    #[test]
    fn a_ring_that_is_believed_after_a_long_pause_stays_believed() {
        let mut watched = Watched::for_ms(1_000);
        let resumed = 1_000 + TOKEN + CONSENSUS + GRACE;
        watched.gather();
        watched.operational();
        watched.decide(13, resumed);
        assert_eq!(watched.evidence.until(), None);
        let reads = resumed / 100 + 1..=(resumed + TOKEN) / 100 + 2;
        let believed: Vec<_> = reads
            .map(|n| {
                watched.read(n * 100);
                watched.evidence.until().is_some()
            })
            .collect();
        assert!(
            believed.is_sorted() && believed.contains(&true),
            "whether each read was believed: {believed:?}"
        );
    }

    /// Returns a daemon that has formed three rings, read every 100 ms for 3 s.
    fn read_for_three_seconds() -> Watched {
        let mut watched = Watched::new();
        watched.counters = RingCounters {
            gather_entered: 3,
            operational_entered: 3,
            token_lost: 1,
            recovery_entered: 3,
            recovery_token_lost: 0,
        };
        watched.decide(9, 0);
        (1..=30).for_each(|n| watched.read(n * 100));
        watched
    }

    #[test]
    fn cleared_counters_interrupt_exclusivity_but_not_quorum() {
        let cleared = |operational_entered, gather_entered, token_lost| RingCounters {
            gather_entered,
            operational_entered,
            token_lost,
            recovery_entered: operational_entered,
            recovery_token_lost: 0,
        };
        // A read may show only some of the counters as cleared.
        for first in [cleared(0, 0, 0), cleared(3, 0, 0), cleared(3, 3, 0), cleared(3, 3, 1)] {
            let mut watched = read_for_three_seconds();
            (watched.counters, watched.tokens) = (first, 0);
            for cleared_at in [3_100, 6_000] {
                watched.read(cleared_at);
                let until = Some(at(cleared_at + CONSENSUS + GRACE));
                assert_eq!(watched.evidence.until(), until, "first cleared to {first:?}");
                assert_eq!(watched.evidence.exclusive_until(), None);
                watched.counters = RingCounters::default();
                for n in cleared_at / 100 + 1..cleared_at / 100 + 29 {
                    watched.read(n * 100);
                    assert_eq!(watched.state(), RingState::Operational);
                    let is_exclusive = watched.evidence.exclusive_until().is_some();
                    assert_eq!(is_exclusive, n * 100 > cleared_at + TOKEN + CONSENSUS, "read {n}");
                }
                // The second time the counters are already zero, so only the tokens show the
                // clearing.
                watched.tokens = 0;
            }
        }
    }

    /// A decision that waited while the daemon was suspended may be as old as the beginning of the
    /// gap in the answers, although the counters were cleared after the gap.
    #[test]
    fn counters_cleared_soon_after_a_gap_do_not_make_the_decision_younger() {
        let mut watched = read_for_three_seconds();
        watched.read(5_500);
        (watched.counters, watched.tokens) = (RingCounters::default(), 0);
        watched.read(5_600);
        let gap_began = 3_000 + TOKEN * 3 / 4;
        watched.decide(13, 5_700);
        assert_eq!(watched.evidence.until(), Some(at(gap_began + TOKEN + CONSENSUS + GRACE)));
    }

    /// The deadline of the decision counts from the request. Exclusivity returns only after both
    /// timeouts, which count from the answer.
    #[test]
    fn a_clearing_may_be_as_recent_as_the_answer_that_shows_it() {
        let mut watched = read_for_three_seconds();
        (watched.counters, watched.tokens) = (RingCounters::default(), 0);
        watched.read_slowly(3_100, 3_150);
        let until = watched.evidence.until();
        assert_eq!(until, Some(at(3_100 + CONSENSUS + GRACE)));
        (32..=42).for_each(|n| watched.read(n * 100));
        assert_eq!(watched.evidence.until(), until, "the token timer has not had time to fire");
        watched.read(4_300);
        assert_eq!(watched.evidence.until(), Some(at(4_200 + TOKEN + CONSENSUS + GRACE)));
        // A hidden GATHER may last until 3,150 + TOKEN + CONSENSUS.
        (44..=54).for_each(|n| watched.read(n * 100));
        assert_eq!(watched.evidence.exclusive_until(), None);
        watched.read(5_500);
        assert!(watched.evidence.exclusive_until().is_some());
    }

    #[test]
    fn a_decision_after_a_clearing_may_be_as_old_as_the_last_answer_before_the_clearing() {
        let mut watched = read_for_three_seconds();
        watched.tokens += 1;
        watched.read_slowly(3_100, 3_190);
        (watched.counters, watched.tokens) = (RingCounters::default(), 0);
        watched.read(3_300);
        watched.decide(13, 3_350);
        assert_eq!(watched.evidence.until(), Some(at(3_190 + TOKEN + CONSENSUS + GRACE)));
    }

    #[test]
    fn a_ring_that_ends_after_the_counters_were_cleared_is_noticed() {
        let mut watched = read_for_three_seconds();
        (watched.counters, watched.tokens) = (RingCounters::default(), 0);
        watched.gather();
        watched.read(3_100);
        assert_eq!(watched.state(), RingState::Gather);
        // `gather_entered` is 3 again, so only the next read shows that the daemon left its ring.
        let mut watched = read_for_three_seconds();
        watched.counters = RingCounters { gather_entered: 3, ..RingCounters::default() };
        watched.tokens = 0;
        watched.read(3_100);
        watched.read(3_200);
        assert_eq!(watched.state(), RingState::Gather);
        // Quorum ends because the token does not move, although no counter has moved.
        let mut watched = read_for_three_seconds();
        (watched.counters, watched.tokens) = (RingCounters::default(), 0);
        (31..=60).for_each(|n| watched.read_without_token(n * 100));
        assert_eq!(watched.evidence.until(), None);
    }

    #[test]
    fn an_announcement_from_before_the_counters_were_cleared_explains_no_later_ring() {
        let mut watched = read_for_three_seconds();
        (watched.counters, watched.tokens) = (RingCounters::default(), 0);
        watched.decide(13, 3_150);
        watched.read_slowly(3_100, 3_200);
        watched.gather();
        watched.operational_unexplained_by(3_150);
        assert_eq!(watched.state(), RingState::Gather);
    }

    /// A daemon that is synchronising answers only on a new connection, so the ring may have
    /// changed.
    #[test]
    fn counters_that_are_zero_on_a_new_connection_are_not_taken_for_cleared_counters() {
        let mut watched = read_for_three_seconds();
        (watched.counters, watched.tokens, watched.connection) = (RingCounters::default(), 0, 1);
        (31..=100).for_each(|n| watched.read(n * 100));
        assert_eq!((watched.state(), watched.evidence.until()), (RingState::Gather, None));
    }

    #[test]
    fn reads_in_quick_succession_confirm_nothing() {
        let mut watched = Watched::new();
        watched.decide(9, 0);
        (1..=20).for_each(|n| watched.read(100 + n));
        assert_eq!(watched.evidence.until(), None);

        // Reads that are `SECOND_READ` apart confirm the ring.
        let mut watched = Watched::new();
        watched.decide(9, 0);
        let apart = u64::try_from(SECOND_READ.as_millis()).unwrap();
        (1..=3).for_each(|n| watched.read(n * apart));
        assert_eq!(watched.evidence.until(), Some(at(2 * apart + TOKEN + CONSENSUS + GRACE)));
    }

    #[test]
    fn the_age_of_a_read_is_measured_from_its_request() {
        let mut watched = Watched::for_ms(1_000);
        for asked_at in [1_100, 1_300] {
            watched.tokens += 1;
            watched.read_slowly(asked_at, asked_at + 90);
        }
        assert_eq!(watched.evidence.until(), Some(at(1_100 + TOKEN + CONSENSUS + GRACE)));
        watched.gather();
        watched.read_slowly(1_400, 1_490);
        assert_eq!(watched.evidence.until(), Some(at(1_400 + CONSENSUS + GRACE)));
    }

    #[test]
    fn a_read_that_is_requested_too_soon_after_the_last_answer_confirms_nothing() {
        let mut watched = Watched::for_ms(1_000);
        let apart = u64::try_from(SECOND_READ.as_millis()).unwrap();
        watched.tokens += 1;
        watched.read_slowly(1_100, 1_190);
        let until = watched.evidence.until();
        watched.tokens += 1;
        watched.read_slowly(1_190 + apart - 1, 1_190 + apart);
        assert_eq!(watched.evidence.until(), until);
        watched.read(1_190 + apart);
        assert_eq!(watched.evidence.until(), Some(at(1_100 + TOKEN + CONSENSUS + GRACE)));
    }

    /// The token may have moved as late as 1,700 ms. At 1,900 ms the time without a token is
    /// therefore 200 ms, which is shorter than the allowed gap.
    #[test]
    fn the_time_without_a_token_is_measured_from_the_answer_that_showed_the_last_movement() {
        let mut watched = Watched::for_ms(1_000);
        watched.tokens += 1;
        watched.read_slowly(1_100, 1_700);
        watched.read_without_token(1_900);
        watched.read(2_000);
        assert_eq!(watched.evidence.until(), Some(at(1_900 + TOKEN + CONSENSUS + GRACE)));
    }

    #[test]
    fn a_daemon_that_answers_late_is_treated_as_silent_until_its_answer() {
        let mut watched = Watched::for_ms(3_000);
        watched.tokens += 1;
        watched.read_slowly(3_050, 3_950);
        let until = watched.evidence.until();
        (0..=9).for_each(|n| watched.read(4_050 + n * 100));
        assert_eq!(watched.evidence.until(), until);
        watched.read(5_050);
        assert_eq!(watched.evidence.until(), Some(at(4_950 + TOKEN + CONSENSUS + GRACE)));
    }

    #[test]
    fn a_gather_ends_belief_in_the_decision_after_the_consensus_timeout_and_settle_grace() {
        let mut watched = Watched::for_ms(3_000);
        watched.gather();
        watched.read(3_100);
        assert_eq!((watched.state(), watched.evidence.is_settled()), (RingState::Gather, false));
        let until = Some(at(3_100 + CONSENSUS + GRACE));
        assert_eq!((watched.evidence.until(), watched.evidence.exclusive_until()), (until, None));
        // A later GATHER, or a ring without an announcement, does not move the deadline.
        watched.operational();
        watched.read(3_200);
        watched.gather();
        (33..=40).for_each(|n| watched.read(n * 100));
        assert_eq!((watched.state(), watched.evidence.until()), (RingState::Gather, until));
    }

    #[test]
    fn an_announced_ring_does_not_make_the_next_announcement_doubtful() {
        let mut watched = Watched::for_ms(3_000);
        for (seq, decided_at) in [(13, 3_100), (17, 4_300)] {
            watched.gather();
            watched.operational();
            watched.decide(seq, decided_at);
            // Long after the decision and on another connection, only the announcement explains the
            // ring.
            watched.connection += 1;
            watched.read(decided_at + CONSENSUS / 2 + 100);
            assert!(watched.evidence.is_settled(), "ring {seq}");
        }
    }

    #[test]
    fn the_decision_about_the_next_ring_is_believed_without_an_interruption() {
        let mut watched = Watched::for_ms(3_000);
        watched.gather();
        watched.read(3_100);
        watched.operational();
        watched.decide(13, 4_300);
        assert_eq!(watched.state(), RingState::Operational);
        // The daemon did not answer after 3,100 ms, so the ring may have ended in this gap.
        let ended_at = 3_100 + TOKEN * 3 / 4;
        assert_eq!(watched.evidence.until(), Some(at(ended_at + TOKEN + CONSENSUS + GRACE)));
        watched.read(4_310);
        assert_eq!(watched.state(), RingState::Operational, "the decision explains the ring");
        watched.read(4_400);
        assert!(watched.evidence.exclusive_until().is_none(), "the gap was too long");
    }

    #[test]
    fn a_decision_proves_its_ring_unless_the_daemon_may_have_been_suspended() {
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
        assert_eq!(watched.evidence.until(), Some(at(4_300 + TOKEN + CONSENSUS + GRACE)));
        assert_eq!(watched.evidence.exclusive_until(), until);
        // The decision explains the ring that the read shows.
        watched.read(4_310);
        assert_eq!(
            (watched.state(), watched.evidence.exclusive_until()),
            (RingState::Operational, until)
        );
        watched.read(4_400);
        assert!(watched.evidence.exclusive_until() > until);
        // The daemon did not answer for three quarters of the token timeout.
        assert_eq!(decided_after(3_500).evidence.exclusive_until(), None);
        // The daemon is resumed, and answers before it passes on the waiting messages.
        let mut woken = Watched::for_ms(3_000);
        woken.read(6_000);
        woken.operational();
        woken.decide(13, 6_001);
        assert_eq!(woken.evidence.exclusive_until(), None);
    }

    /// The decision was sent at 3,020 ms or later, and is applied at 3,100 ms.
    #[test]
    fn exclusivity_is_measured_from_the_time_at_which_the_decision_was_sent() {
        let mut watched = Watched::for_ms(3_000);
        watched.gather();
        watched.operational();
        watched.evidence.announce(ring(13), at(3_100));
        watched.evidence.decide(ring(13), at(3_020), at(3_100), ms(GRACE));
        let until = 3_020 + CONSENSUS - TOKEN / 5;
        assert_eq!(watched.evidence.exclusive_until(), Some(at(until)));
    }

    #[test]
    fn reads_of_the_previous_ring_do_not_make_the_next_ring_exclusive() {
        let mut watched = Watched::for_ms(3_000);
        watched.gather();
        watched.operational();
        watched.evidence.announce(ring(13), at(3_050));
        // The decision may have been sent as early as 0 ms.
        watched.evidence.decide(ring(13), at(0), at(3_050), ms(GRACE));
        watched.read(3_100);
        assert_eq!(watched.state(), RingState::Operational);
        assert_eq!(watched.evidence.exclusive_until(), None);
        watched.read(3_200);
        assert!(watched.evidence.exclusive_until().is_some());

        // A read that was requested at the moment of the decision may be older than it.
        let mut watched = Watched::for_ms(3_000);
        watched.gather();
        watched.operational();
        watched.evidence.announce(ring(13), at(3_100));
        watched.evidence.decide(ring(13), at(0), at(3_100), ms(GRACE));
        watched.read(3_100);
        watched.read(3_200);
        assert_eq!(watched.evidence.exclusive_until(), None);
        watched.read(3_300);
        assert!(watched.evidence.exclusive_until().is_some());
    }

    #[test]
    fn a_ring_that_was_announced_without_a_decision_is_not_exclusive() {
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
    fn a_daemon_that_leaves_its_ring_after_the_decision_is_not_exclusive() {
        let mut watched = Watched::for_ms(3_000);
        watched.gather();
        watched.operational();
        watched.decide(13, 3_050);
        assert!(watched.evidence.exclusive_until().is_some());
        watched.read(3_060);
        watched.gather();
        watched.read(3_100);
        assert_eq!(watched.evidence.exclusive_until(), None);
    }

    #[test]
    fn the_first_decision_of_a_connection_is_about_the_ring_that_the_reads_showed() {
        let mut watched = Watched::new();
        watched.read(100);
        watched.gather();
        watched.operational();
        watched.read(200);
        assert_eq!(watched.state(), RingState::Gather);
        watched.decide(13, 250);
        assert!(watched.evidence.is_settled());
        (3..=5).for_each(|n| watched.read(n * 100));
        assert_eq!(watched.state(), RingState::Operational);
    }

    #[test]
    fn a_late_read_that_shows_more_rings_than_announcements_leaves_the_ring_unsettled() {
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
        watched.read_slowly(3_100, 3_050 + CONSENSUS / 2 + 1);
        assert_eq!(watched.state(), RingState::Gather);

        // The ring is operational if the read is answered soon after the decision. It is also
        // operational if the read is on the same connection as the read before: on an open
        // connection the daemon does not answer while it synchronises.
        let mut watched = Watched::for_ms(3_000);
        later(&mut watched);
        watched.connection += 1;
        watched.read(3_050 + CONSENSUS / 2);
        assert_eq!(watched.state(), RingState::Operational);
        let mut watched = Watched::for_ms(3_000);
        later(&mut watched);
        watched.read(3_050 + CONSENSUS / 2 + 1);
        assert_eq!(watched.state(), RingState::Operational);
    }

    /// Quorum can also change without a new ring, for example when the expected votes change.
    #[test]
    fn another_decision_about_the_same_ring_does_not_explain_later_rings() {
        let mut w = Watched::for_ms(3_000);
        w.gather();
        w.operational();
        w.decide(13, 3_050);
        // After the consensus timeout the daemon forms a ring with other members, and synchronises.
        w.gather();
        w.operational();
        w.decide(13, 4_400);
        w.connection += 1;
        w.read(4_450);
        assert_eq!(w.state(), RingState::Gather);
    }

    /// For example, votequorum decides again when the expected votes change.
    #[test]
    fn another_decision_about_a_ring_that_has_ended_changes_nothing() {
        let mut watched = Watched::for_ms(3_000);
        watched.gather();
        watched.read(3_100);
        let until = watched.evidence.until();
        watched.decide(9, 3_150);
        assert_eq!((watched.state(), watched.evidence.until()), (RingState::Gather, until));
    }

    #[test]
    fn a_read_soon_after_a_delayed_decision_may_show_a_later_ring() {
        let mut watched = Watched::for_ms(3_000);
        (0..2).for_each(|_| {
            watched.gather();
            watched.operational();
        });
        let (sent_after, applied_at) = (3_050, 3_050 + CONSENSUS / 2);
        watched.evidence.announce(ring(13), at(applied_at));
        watched.evidence.decide(ring(13), at(sent_after), at(applied_at), ms(GRACE));
        watched.connection += 1;
        watched.read(applied_at + 1);
        assert_eq!(watched.state(), RingState::Gather);
    }

    #[test]
    fn a_ring_that_was_announced_late_leaves_no_doubt_about_the_next_announcement() {
        let mut watched = Watched::for_ms(3_000);
        watched.gather();
        watched.operational();
        watched.read(3_100);
        watched.decide(13, 3_150);
        watched.read(3_200);
        watched.gather();
        watched.operational();
        watched.decide(17, 4_300);
        watched.connection += 1;
        watched.read(4_300 + CONSENSUS / 2 + 100);
        assert!(watched.evidence.is_settled());
    }

    #[test]
    fn an_announcement_after_the_read_of_its_ring_does_not_explain_the_next_ring() {
        let mut w = Watched::for_ms(3_000);
        w.gather();
        w.operational();
        w.read(3_100);
        assert_eq!(w.state(), RingState::Gather, "the ring is not announced yet");
        w.decide(13, 3_150);
        // Before the next answer, another ring has formed that is not announced.
        w.gather();
        w.operational_unexplained_by(3_150);
        assert_eq!(w.state(), RingState::Gather);
    }

    #[test]
    fn a_ring_that_was_read_before_its_announcement_is_not_forgotten_in_a_gather() {
        let mut w = Watched::for_ms(3_000);
        w.gather();
        w.operational();
        w.read(3_100);
        w.gather();
        w.read(3_200);
        w.decide(13, 3_250);
        w.operational_unexplained_by(3_250);
        assert_eq!(w.state(), RingState::Gather, "the first of the two rings was announced");
    }

    /// The daemon was suspended while it was synchronising. It now continues with the messages that
    /// were waiting, although the other nodes have had time to exclude this node.
    #[test]
    fn the_decision_of_a_daemon_that_was_suspended_is_not_believed() {
        let mut w = Watched::for_ms(3_000);
        w.gather();
        w.operational();
        w.evidence.expire_if_due(at(20_000));
        w.decide(13, 20_000);
        w.evidence.expire_if_due(at(20_000));
        assert_eq!(w.evidence.until(), None);

        // This daemon answers a read before it passes on the waiting messages.
        let mut w = Watched::for_ms(3_000);
        w.read_without_token(20_000);
        w.operational();
        w.decide(13, 20_001);
        w.evidence.expire_if_due(at(20_001));
        assert_eq!(w.evidence.until(), None);
    }

    #[test]
    fn a_pause_of_exactly_the_allowed_length_is_not_a_gap() {
        let mut watched = Watched::for_ms(3_000);
        let resumed = 3_000 + TOKEN * 3 / 4;
        watched.read_without_token(resumed);
        watched.read(resumed + 100);
        assert_eq!(watched.evidence.until(), Some(at(resumed + TOKEN + CONSENSUS + GRACE)));
    }

    #[test]
    fn a_decision_is_as_old_as_the_gap_in_which_its_ring_may_have_ended() {
        let gap = TOKEN * 3 / 4;
        let believed_until = |mut watched: Watched, decided_at: u64| {
            watched.operational();
            watched.decide(13, decided_at);
            watched.evidence.until().map(|until| until.since(at(TOKEN + CONSENSUS + GRACE)))
        };
        // There is no gap, and the connection is younger than the token timeout.
        assert_eq!(believed_until(Watched::for_ms(300), 400), Some(ms(400)));
        let stopped = |resumed_at: &[u64]| {
            let mut watched = Watched::for_ms(3_000);
            resumed_at.iter().for_each(|resumed_at| watched.read(*resumed_at));
            watched
        };
        assert_eq!(believed_until(stopped(&[4_000]), 4_100), Some(ms(3_000 + gap)));
        // A gap soon after another gap belongs to the first one.
        assert_eq!(believed_until(stopped(&[4_000, 4_900]), 5_000), Some(ms(3_000 + gap)));
        // A gap long after another gap is a separate one.
        let mut again = stopped(&[4_000]);
        (41..=60).for_each(|n| again.read(n * 100));
        again.read(7_000);
        assert_eq!(believed_until(again, 7_100), Some(ms(6_000 + gap)));
        // The daemon's own token timer has had time to fire since the gap.
        let mut well = stopped(&[4_000]);
        (41..=60).for_each(|n| well.read(n * 100));
        assert_eq!(believed_until(well, 6_100), Some(ms(6_100)));
        // This gap is on a connection that is younger than the token timeout.
        let mut young = Watched::for_ms(300);
        young.read(1_200);
        assert_eq!(believed_until(young, 1_300), Some(ms(300 + gap)));
    }

    #[test]
    fn exclusivity_ends_one_token_round_before_the_consensus_timeout() {
        let watched = Watched::for_ms(3_000);
        let until = 2_900 + CONSENSUS - TOKEN / 5;
        assert_eq!(watched.evidence.exclusive_until(), Some(at(until)));
    }

    #[test]
    fn a_new_connection_is_exclusive_only_after_the_token_timeout() {
        assert_eq!(Watched::for_ms(TOKEN).evidence.exclusive_until(), None);
        assert!(Watched::for_ms(TOKEN + 300).evidence.exclusive_until().is_some());
    }

    #[test]
    fn a_daemon_that_was_suspended_proves_nothing_until_its_token_timeout_has_passed() {
        let mut watched = Watched::for_ms(3_000);
        // The daemon is resumed, and continues with a token that was waiting for it.
        watched.read(4_000);
        let before = (watched.evidence.until(), watched.evidence.exclusive_until());
        (41..=49).for_each(|n| watched.read(n * 100));
        assert_eq!((watched.evidence.until(), watched.evidence.exclusive_until()), before);
        (50..=52).for_each(|n| watched.read(n * 100));
        assert_eq!(watched.evidence.until(), Some(at(5_100 + TOKEN + CONSENSUS + GRACE)));
        assert!(watched.evidence.exclusive_until() > before.1);
    }

    #[test]
    fn an_expired_ring_is_believed_again_only_on_newer_evidence() {
        let mut watched = Watched::for_ms(3_000);
        watched.evidence.expire(at(3_001));
        watched.read(3_050);
        assert_eq!(
            watched.evidence.until(),
            None,
            "the first of the two reads is from before the ring expired"
        );
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

        // A decision from the moment of the deadline restores belief.
        let mut watched = Watched::for_ms(3_000);
        watched.evidence.expire(at(3_500));
        watched.evidence.announce(ring(13), at(5_100));
        watched.evidence.decide(ring(13), at(3_500), at(5_100), ms(GRACE));
        assert_eq!(watched.evidence.until(), Some(at(3_500 + TOKEN + CONSENSUS + GRACE)));
    }

    #[test]
    fn a_node_that_cannot_watch_its_ring_is_never_exclusive() {
        let mut evidence = RingEvidence::default();
        evidence.unwatch();
        assert_eq!((evidence.state(), evidence.is_settled()), (RingState::Unwatched, true));
        assert_eq!((evidence.until(), evidence.exclusive_until()), (Some(Moment::NEVER), None));
        let mut watched = Watched::for_ms(3_000);
        watched.evidence.unwatch();
        assert_eq!(watched.state(), RingState::Operational, "a watched ring stays watched");
    }

    /// Reads once, with this number of tokens.
    fn raw(w: &mut Watched, asked: u64, tokens: u64) {
        let reading = RingReading { tokens, ..w.reading(asked, asked) };
        w.evidence.expire_if_due(at(asked));
        w.evidence.read(reading, ms(GRACE));
    }

    #[test]
    fn the_first_announcement_does_not_explain_a_later_ring() {
        let mut w = Watched::new();
        // When the actor connects, the daemon is in GATHER and reports itself quorate on ring 1.9.
        // The first read is requested at 90 ms, and the decision arrives at 100 ms.
        w.gather();
        w.decide(9, 100);
        raw(&mut w, 90, 1);
        // A ring forms that is not announced, because its synchronisation is aborted or not
        // finished.
        w.operational();
        raw(&mut w, 160, 1);
        // The token moves on that ring.
        raw(&mut w, 220, 2);
        raw(&mut w, 280, 3);
        raw(&mut w, 340, 4);
        assert_eq!(w.evidence.until(), None, "no decision is about that ring");
    }

    #[test]
    fn a_ring_that_forms_during_a_read_is_believed_after_the_next_read() {
        let mut w = Watched::for_ms(3_000);
        w.counters.gather_entered += 1;
        w.evidence.announce(ring(13), at(3_050));
        w.evidence.decide(ring(13), at(3_040), at(3_050), ms(GRACE));
        raw(&mut w, 3_045, 1000);
        w.counters.operational_entered += 1;
        (31..200).for_each(|n| w.read(n * 100));
        assert_eq!(w.state(), RingState::Operational);
    }

    /// The daemon may have answered before it formed the ring.
    #[test]
    fn an_announcement_during_a_read_explains_the_ring_in_the_next_read() {
        let mut w = Watched::for_ms(3_000);
        w.gather();
        w.decide(13, 3_150);
        w.read_slowly(3_100, 3_200);
        assert_eq!(w.state(), RingState::Gather);
        w.operational();
        w.read(3_300);
        assert_eq!(w.state(), RingState::Operational);
    }

    #[test]
    fn an_announcement_during_a_read_explains_only_one_ring() {
        let mut w = Watched::for_ms(3_000);
        w.gather();
        w.operational();
        w.decide(13, 3_150);
        w.read_slowly(3_100, 3_200);
        assert_eq!(w.state(), RingState::Operational);
        w.gather();
        w.operational_unexplained_by(3_150);
        assert_eq!(w.state(), RingState::Gather);
    }

    /// The deadlines must not overflow.
    #[test]
    fn an_unlimited_settle_grace_does_not_overflow() {
        let mut w = Watched::for_ms(100);
        w.evidence.decide(ring(9), at(0), at(0), Duration::MAX);
        for n in 2..6 {
            w.tokens += 1;
            w.evidence.read(w.reading(n * 100, n * 100), Duration::MAX);
        }
    }

    #[test]
    fn an_unwatched_ring_keeps_no_announcements() {
        let mut evidence = RingEvidence::default();
        evidence.unwatch();
        (1..1000).for_each(|n| evidence.announce(ring(n), at(n)));
        assert!(evidence.unseen.len() < 10, "{} announcements are kept", evidence.unseen.len());
    }

    /// Corosync decides about ring 13 and enters GATHER, all between two reads. The token does not
    /// move again before the consensus timeout has passed and a new ring is forming (RECOVERY, in
    /// which the token moves).
    #[test]
    fn a_token_that_moves_in_recovery_does_not_prove_the_old_ring() {
        let mut w = Watched::for_ms(3_000);
        w.gather();
        w.operational();
        w.decide(13, 3_050);
        // The daemon enters GATHER again.
        w.counters.gather_entered += 1;
        w.read_without_token(3_100);
        for n in 32..=43 {
            w.read_without_token(n * 100);
        }
        let before = (w.evidence.until(), w.evidence.exclusive_until());
        w.read(4_400); // in RECOVERY: operational_entered has not moved
        let after = (w.evidence.until(), w.evidence.exclusive_until());
        assert_eq!(before, after);
    }
}
