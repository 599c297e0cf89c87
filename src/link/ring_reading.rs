//! What a read of the ring's counters returns, and how often to read.

use std::{mem, time::Duration};

use crate::link::clock::Moment;

/// One read of the daemon's counters (`stats.srp.*` in `cmap_keys(7)`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RingReading {
    /// The number of the connection on which the counters were read. A daemon that is synchronising
    /// answers only on connections that were opened after the synchronisation began.
    pub(crate) connection: u64,
    /// When the first counter was requested, minus the possible age of the counters.
    pub(crate) asked_at: Moment,
    /// When the last counter was received.
    pub(crate) answered_at: Moment,
    pub(crate) counters: RingCounters,
    /// `orf_token_rx`: grows with each token that arrives.
    pub(crate) tokens: u64,
    /// `runtime.config.totem.token`: how long the daemon waits for a token.
    pub(crate) token: Duration,
    /// `runtime.config.totem.consensus`: how long nodes in GATHER wait for a silent node.
    pub(crate) consensus: Duration,
    /// The votes of all nodes in the nodelist, if there is a nodelist.
    pub(crate) configured_votes: Option<u32>,
    /// How old the counters may have been when they were received.
    pub(crate) age: Duration,
}

impl RingReading {
    /// Whether a later short read shows that none of the `RingCounters` has moved since this
    /// reading.
    ///
    /// This reading must be of a daemon in OPERATIONAL. The daemon leaves that state only to GATHER
    /// (`exec/totemsrp.c`, `memb_state_gather_enter`), and so no other counter moves without
    /// `gather_entered`. The number of tokens falls only if the counters are cleared.
    pub(crate) fn goes_on(&self, short: ShortReading, last_tokens: u64) -> bool {
        short.connection == self.connection
            && short.gather_entered == self.counters.gather_entered
            && short.tokens >= last_tokens
    }

    /// Whether this reading differs from an earlier one only in its times and in the tokens that
    /// have arrived since.
    pub(crate) fn repeats(&self, earlier: &Self) -> bool {
        let Self { asked_at, answered_at, tokens, .. } = *self;
        let same = Self { asked_at, answered_at, tokens, ..earlier.clone() };
        *self == same && tokens >= earlier.tokens
    }

    /// Returns the interval between reads: a seventh of the time for which a read proves
    /// exclusivity, within limits. With Corosync 3 and its default consensus timeout,
    /// `is_exclusive()` ends at most one interval before the daemon notices the loss of its token.
    /// A daemon that does not answer for most of the token timeout is not trusted, so the interval
    /// is far shorter than that timeout.
    pub(crate) fn interval(&self) -> Duration {
        let longest = LONGEST_INTERVAL.min(self.token / 4);
        (self.exclusive_for() / 7).min(longest).max(SHORTEST_INTERVAL)
    }

    /// Returns how many reads of a steady ring the thread passes on in one answer. With long
    /// timeouts it collects three, so that the actor wakes up less often. Each read then proves
    /// exclusivity for so long that the next three may arrive over a second late. With Corosync 2,
    /// whose counters may be old, each answer contains one read.
    pub(crate) fn reads_together(&self) -> u32 {
        if self.interval() == LONGEST_INTERVAL && self.age.is_zero() { 3 } else { 1 }
    }

    /// Returns for how long after a moment in OPERATIONAL no ring without this daemon can form:
    /// nodes in GATHER wait for a silent node for the consensus timeout. All nodes notice a lost
    /// token within one round of each other. A round takes less than a fifth of the token timeout,
    /// so another node may have begun to wait that much earlier.
    pub(crate) fn exclusive_for(&self) -> Duration {
        self.consensus.saturating_sub(self.token / 5)
    }
}

/// The counters that change when a ring ends or forms, and stay the same while the ring is alive.
/// A daemon that leaves its ring passes through totem's GATHER, COMMIT and RECOVERY states to
/// OPERATIONAL, and may return to GATHER from each of them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct RingCounters {
    pub(crate) gather_entered: u64,
    pub(crate) operational_entered: u64,
    pub(crate) token_lost: u64,
    pub(crate) recovery_entered: u64,
    /// How many times the daemon has returned from RECOVERY to GATHER because the token was lost or
    /// another node had left RECOVERY.
    pub(crate) recovery_token_lost: u64,
}

impl RingCounters {
    /// Returns how many recoveries neither led to OPERATIONAL nor ended with a lost token. One of
    /// them may be going on, and then the token moves although no ring is alive. The others ended
    /// for a rare reason (`exec/totemsrp.c`: "FAILED TO RECEIVE", or a change of an interface). The
    /// result is negative if the counters were cleared during a recovery.
    pub(crate) fn unfinished_recoveries(self) -> i64 {
        let finished = self.operational_entered.wrapping_add(self.recovery_token_lost);
        self.recovery_entered.wrapping_sub(finished).cast_signed()
    }
}

/// The result of a short read, which reads only the counters that show whether a steady ring goes
/// on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShortReading {
    pub(crate) connection: u64,
    pub(crate) gather_entered: u64,
    pub(crate) tokens: u64,
}

/// The result of one read of the ring.
#[derive(Clone, Debug)]
pub enum RingUpdate {
    /// The daemon's counters.
    Read(RingReading),
    /// The counters cannot be read.
    Unwatched,
}

/// Readings that are held back until a later one completes the answer
/// ([`RingReading::reads_together`]).
#[derive(Debug, Default)]
pub(crate) struct HeldReadings(Vec<RingReading>);

impl HeldReadings {
    /// Adds a reading. Returns the answer, oldest reading first, or `None` if a later reading is to
    /// complete it. `steady` is the reading of a steady ring with which the reads were requested. A
    /// reading that does not repeat `steady` is returned immediately, after those held back before.
    pub(crate) fn add(
        &mut self,
        reading: RingReading,
        steady: Option<&RingReading>,
    ) -> Option<Vec<RingUpdate>> {
        let last = steady.map(|steady| self.0.last().unwrap_or(steady));
        let last = last.filter(|last| reading.repeats(last));
        let together = last.map_or(1, RingReading::reads_together);
        self.0.push(reading);
        if self.0.len() < together as usize {
            return None;
        }
        Some(mem::take(&mut self.0).into_iter().map(RingUpdate::Read).collect())
    }
}

/// The longest interval between reads. When another node dies, `is_exclusive()` is `false` for at
/// most this much longer than Corosync is without a ring.
const LONGEST_INTERVAL: Duration = Duration::from_millis(420);

/// The shortest interval between reads: a little longer than `SECOND_READ`, so that consecutive
/// reads can confirm each other.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(60);

/// The shortest time between two reads that confirm each other. The daemon may answer the first one
/// before it runs an overdue timer; within this time the timer runs.
pub(crate) const SECOND_READ: Duration = Duration::from_millis(50);
