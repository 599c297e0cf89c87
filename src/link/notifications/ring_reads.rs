use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use crate::{
    error::Error,
    link::{
        clock::{Clock, Moment},
        ring_watch::{RingReading, RingUpdate, RingWatch, SECOND_READ},
        worker::Pending,
    },
};

/// Reads the daemon's counters often enough for the smallest deadline that depends on them.
pub(super) struct RingReads {
    watch: Arc<dyn RingWatch>,
    clock: Clock,
    /// When to read next; `None` if the counters cannot be read.
    read_at: Option<Moment>,
    /// The read that is under way, and when it was requested.
    pending: Option<(Pending<RingUpdate>, Moment)>,
    /// Whether the pending read was reported as late.
    is_late: bool,
    /// When the last notification arrived. Only later reads can confirm each other.
    hurried_at: Moment,
    /// A finished read that is held back until all earlier notifications are dispatched.
    update: Option<RingUpdate>,
    last: Option<RingReading>,
    /// How often the token was seen to move since the last notification.
    moves: u32,
    /// The error of the last read, if it failed.
    failed: Option<Error>,
}

impl RingReads {
    pub(super) fn new(watch: Arc<dyn RingWatch>, clock: Clock) -> Self {
        Self {
            watch,
            clock,
            read_at: Some(Moment::default()),
            pending: None,
            is_late: false,
            hurried_at: Moment::default(),
            update: None,
            last: None,
            moves: 0,
            failed: None,
        }
    }

    /// Reads at once after a change of the ring, and again as soon as that read can be confirmed.
    pub(super) fn hurry(&mut self) {
        self.hurried_at = self.clock.now();
        self.moves = 0;
        self.read_at = self.read_at.map(|_| Moment::default());
    }

    /// Returns when to poll next: when the next read is due, or when the pending one becomes late.
    pub(super) fn next_at(&self) -> Option<Moment> {
        match &self.pending {
            Some((_, since)) => Some(since.after(LATE)).filter(|_| !self.is_late),
            None => self.read_at,
        }
    }

    /// Whether a read has become late. Returns `true` once for each read. A late read does not mean
    /// that the daemon hangs: it does not answer reads while it synchronises.
    pub(super) fn has_become_late(&mut self) -> bool {
        let (was_late, now) = (self.is_late, self.clock.now());
        self.is_late = self.pending.as_ref().is_some_and(|(_, since)| now >= since.after(LATE));
        self.is_late && !was_late
    }

    /// Cancels a late read, because the daemon has answered another request that was sent at
    /// `asked_at`, after the read became late.
    pub(super) fn daemon_lives(&mut self, asked_at: Moment) {
        let Some((_, since)) = &mut self.pending else { return };
        if asked_at < since.after(LATE) {
            return;
        }
        if self.watch.cancel() {
            self.pending = None;
            self.read_at = Some(Moment::default());
        } else {
            // The thread is opening a connection, which may take longer.
            (*since, self.is_late) = (self.clock.now(), false);
        }
    }

    /// Returns the finished read, once all earlier notifications are dispatched.
    pub(super) fn take(&mut self) -> Option<RingUpdate> {
        self.update.take()
    }

    /// Makes a read when it is due. Returns whether a finished read is ready.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        while self.update.is_none() {
            let Some((pending, _)) = &mut self.pending else {
                if self.read_at.is_none_or(|read_at| self.clock.now() < read_at) {
                    return false;
                }
                self.is_late = false;
                self.pending = Some((self.watch.read(), self.clock.now()));
                continue;
            };
            let Poll::Ready(read) = pending.as_mut().poll(cx) else { return false };
            self.pending = None;
            let next = match read {
                Ok(update) => {
                    self.failed = None;
                    let next = self.next(&update);
                    self.update = Some(update);
                    next
                }
                Err(error) => {
                    if self.failed.as_ref() != Some(&error) {
                        crate::foreign::log!(
                            log::Level::Warn,
                            "the counters of corosync's ring cannot be read: {error}"
                        );
                        self.failed = Some(error);
                    }
                    RETRY
                }
            };
            self.read_at = Some(self.clock.now().after(next));
        }
        true
    }

    /// Returns the delay before the next read.
    fn next(&mut self, update: &RingUpdate) -> Duration {
        let RingUpdate::Read(reading) = update else { return UNWATCHED };
        let last = self.last.replace(reading.clone());
        match last.filter(|last| last.asked_at >= self.hurried_at) {
            Some(last) if last.counters == reading.counters => {
                self.moves += u32::from(last.tokens != reading.tokens && self.moves < CONFIRMED);
            }
            _ => self.moves = 0,
        }
        match self.moves {
            CONFIRMED => interval(reading),
            // The read was requested before the last notification, and does not show its effect.
            _ if reading.asked_at < self.hurried_at => Duration::ZERO,
            _ => SECOND_READ,
        }
    }
}

/// Returns the interval between reads: a twelfth of the time for which a read proves exclusivity. So
/// `is_exclusive()` ends at most one interval before the daemon notices the loss of its token.
fn interval(reading: &RingReading) -> Duration {
    (reading.exclusive_for() / 12).clamp(SECOND_READ * 2, Duration::from_secs(10))
}

/// How often the token must have moved before reads become rare.
const CONFIRMED: u32 = 2;

/// How long a read may take before it is late. It takes less than a millisecond, unless the daemon
/// synchronises, hangs or does not get a processor.
const LATE: Duration = Duration::from_millis(50);

/// The delay before another read where the ring cannot be watched: libcmap may be installed
/// meanwhile.
const UNWATCHED: Duration = Duration::from_secs(10);

/// The delay after a failed read.
const RETRY: Duration = Duration::from_millis(200);
