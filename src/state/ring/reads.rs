//! What the reads of the counters show on their own, without the decisions.

use std::time::Duration;

use crate::link::{
    clock::Moment,
    ring_reading::{RingCounters, RingReading},
};

/// What the reads of the ring's counters have shown so far.
#[derive(Debug)]
pub(super) struct Reads {
    /// The read with which the next one is compared. It may be older than the last read, because
    /// reads in quick succession are not compared.
    pub(super) anchor: RingReading,
    /// When the last read was answered.
    pub(super) answered_at: Moment,
    /// Since when the daemon has answered without a gap longer than `allowed_gap` and its counters
    /// have not been cleared.
    pub(super) unbroken_since: Moment,
    /// Whether there was a gap longer than `allowed_gap`, or the counters were cleared. A daemon
    /// that was suspended may continue with a token that waited for it, until its own token timer
    /// fires.
    pub(super) had_gap: bool,
    /// The ring of the decision may have ended after this moment, in a gap or before a clearing.
    pub(super) gap_began: Moment,
    /// A read proves exclusivity only if it was requested at or after this moment.
    pub(super) proves_from: Moment,
    /// Whether a read has already shown that the token moves. `is_trusted` uses this only before
    /// the first gap. The first read that shows it does not prove yet that the ring is alive:
    /// tokens that waited for a suspended daemon arrive in one burst.
    pub(super) has_moved: bool,
    /// Since when the token has moved without a break while no other counter has moved.
    pub(super) steady_since: Moment,
    /// When a read last showed that the token had moved.
    pub(super) moved_at: Moment,
}

impl Reads {
    pub(super) fn new(anchor: RingReading) -> Self {
        let answered_at = anchor.answered_at;
        Self {
            anchor,
            answered_at,
            unbroken_since: answered_at,
            had_gap: false,
            gap_began: Moment::default(),
            proves_from: Moment::default(),
            has_moved: false,
            steady_since: answered_at,
            moved_at: answered_at,
        }
    }

    /// Records when this read was answered. If that is more than `allowed_gap` after the previous
    /// answer, other nodes may have excluded this daemon meanwhile, so this also records a gap.
    pub(super) fn note_gap(&mut self, reading: &RingReading) {
        let last = self.answered_at;
        if reading.answered_at.since(last) > self.allowed_gap() {
            self.note_break(last, last.after(self.allowed_gap()), reading.answered_at);
        }
        self.answered_at = reading.answered_at;
    }

    /// Records a break: the ring may have ended unnoticed after `began`. The daemon answered at
    /// `last`, before the break, and at `ended`, after it.
    pub(super) fn note_break(&mut self, last: Moment, began: Moment, ended: Moment) {
        // A break soon after another one is part of the earlier one.
        let is_separate = !self.had_gap || self.is_past_token_timeout(last);
        self.gap_began = if is_separate { began } else { self.gap_began.min(began) };
        (self.unbroken_since, self.had_gap, self.steady_since) = (ended, true, ended);
    }

    /// Whether the counters have been cleared since the anchor, perhaps between the requests of
    /// this read, and this read shows no movement since. The number of tokens never falls
    /// otherwise. An answer on the same connection shows that the daemon is not synchronising
    /// (`exec/ipc_glue.c`), so its ring has been announced.
    pub(super) fn are_cleared(&self, reading: &RingReading) -> bool {
        let (before, now) = (self.anchor.counters, reading.counters);
        reading.connection == self.anchor.connection
            && reading.tokens < self.anchor.tokens
            && [0, before.gather_entered].contains(&now.gather_entered)
            && [0, before.operational_entered].contains(&now.operational_entered)
            && [0, before.token_lost].contains(&now.token_lost)
            && [0, before.recovery_entered].contains(&now.recovery_entered)
            && [0, before.recovery_token_lost].contains(&now.recovery_token_lost)
    }

    /// Records that the counters were cleared before this reading.
    pub(super) fn note_clearing(&mut self, reading: RingReading) {
        let last = self.anchor.answered_at;
        self.note_break(last, last, reading.answered_at);
        // A GATHER that the clearing has hidden ends before this moment.
        self.proves_from = reading.answered_at.after(reading.token + reading.consensus);
        // The next read is compared with zero: this one may have read some counters too early.
        self.anchor = RingReading { counters: RingCounters::default(), ..reading };
    }

    /// Returns a moment at which the ring of a new decision was alive. Corosync sent the decision
    /// after `drained_at`. A daemon that was suspended first continues with messages that waited
    /// for it, although its ring may have ended in the gap. So if its own token timer has not had
    /// time to fire since the gap, the result is not later than the beginning of the gap.
    pub(super) fn alive_at(&self, drained_at: Moment) -> Moment {
        let alive_at = drained_at.min(self.answered_at.after(self.allowed_gap()));
        let may_be_old = self.had_gap && !self.is_past_token_timeout(drained_at);
        if may_be_old { alive_at.min(self.gap_began) } else { alive_at }
    }

    /// Whether the token has moved without a break for longer than the token and consensus timeouts
    /// together, while no other counter has moved.
    pub(super) fn is_steady(&self) -> bool {
        self.moved_at.since(self.steady_since) > self.anchor.token + self.anchor.consensus
    }

    /// Returns how long the daemon may be silent before other nodes may lose the token that it
    /// holds.
    pub(super) fn allowed_gap(&self) -> Duration {
        self.anchor.token * 3 / 4
    }

    /// Whether the daemon's own token timer had had time to fire between the last gap and `moment`.
    /// If there was no gap: whether an earlier read had already shown that the token moves.
    pub(super) fn is_trusted(&self, moment: Moment) -> bool {
        if self.had_gap { self.is_past_token_timeout(moment) } else { self.has_moved }
    }

    /// Whether the daemon's own token timer had had time to fire between the last gap and `moment`.
    /// If there was no gap, the time counts from the first read of the connection: the daemon may
    /// have been suspended just before that read.
    pub(super) fn is_past_token_timeout(&self, moment: Moment) -> bool {
        moment >= self.unbroken_since.after(self.anchor.token)
    }
}
