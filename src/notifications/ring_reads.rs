use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use super::ticks::Ticks;
use crate::{
    Error,
    lease::{Clock, Moment},
    ring_watch::RingWatch,
    state::{RingReading, RingUpdate, SECOND_READ},
    worker::Pending,
};

/// Reads the daemon's counters often enough for the smallest deadline that depends on them.
pub(super) struct RingReads {
    watch: Arc<dyn RingWatch>,
    clock: Clock,
    /// When to read next; `None` if the counters cannot be read.
    read_at: Option<Moment>,
    pending: Option<Pending<RingUpdate>>,
    /// Something has happened since the pending read was asked for.
    is_outdated: bool,
    /// Held back until everything was dispatched that came before it.
    update: Option<RingUpdate>,
    last: Option<RingReading>,
    /// Why there was no read last.
    failed: Option<Error>,
}

impl RingReads {
    pub(super) fn new(watch: Arc<dyn RingWatch>, clock: Clock) -> Self {
        Self {
            watch,
            clock,
            read_at: Some(Moment::default()),
            pending: None,
            is_outdated: false,
            update: None,
            last: None,
            failed: None,
        }
    }

    /// Something has happened to the ring: reads at once, and again as soon as that can confirm it.
    pub(super) fn hurry(&mut self) {
        self.is_outdated = self.pending.is_some();
        self.read_at = self.read_at.map(|_| Moment::default());
    }

    /// When this wants to be polled next, if it does not wait for a read.
    pub(super) fn next_at(&self) -> Option<Moment> {
        self.read_at.filter(|_| self.pending.is_none())
    }

    /// Takes the read that is there, once everything before it was dispatched.
    pub(super) fn take(&mut self) -> Option<RingUpdate> {
        self.update.take()
    }

    /// Reads when it is time to. Returns whether there is a read. The interval of reads divides the
    /// period of the ticks, or is one.
    pub(super) fn poll(&mut self, ticks: &mut Ticks, cx: &mut Context<'_>) -> bool {
        while self.update.is_none() {
            let Some(pending) = &mut self.pending else {
                if self.read_at.is_none_or(|read_at| self.clock.now() < read_at) {
                    return false;
                }
                self.pending = Some(self.watch.read());
                continue;
            };
            let Poll::Ready(read) = pending.as_mut().poll(cx) else { return false };
            self.pending = None;
            let next = match read {
                Ok(update) => {
                    self.failed = None;
                    let next = self.next(&update, ticks);
                    self.update = Some(update);
                    next
                }
                Err(error) => {
                    if self.failed.as_ref() != Some(&error) {
                        log::warn!("the ring cannot be looked at: {error}");
                        self.failed = Some(error);
                    }
                    Some(RETRY)
                }
            };
            self.read_at = next.map(|next| self.clock.now().after(next));
        }
        true
    }

    /// How soon the next read follows; `None` if there is nothing to read.
    fn next(&mut self, update: &RingUpdate, ticks: &mut Ticks) -> Option<Duration> {
        let RingUpdate::Read(reading) = update else { return None };
        let interval = interval(reading);
        let period = super::divided(interval, ticks.longest());
        if ticks.period() != period {
            ticks.set_period(period);
        }
        let last = self.last.replace(reading.clone());
        let is_confirmed = last
            .is_some_and(|last| last.counters == reading.counters && last.tokens != reading.tokens);
        // A read that was asked for before something happened confirms nothing of that.
        let is_outdated = std::mem::take(&mut self.is_outdated);
        Some(match is_confirmed {
            _ if is_outdated => Duration::ZERO,
            false => SECOND_READ.max(reading.token / 20),
            // Not to wait for a tick more than that, should one come a little early.
            true => interval.saturating_sub(period / 8),
        })
    }
}

/// How often to read: a quarter of the time that a read is worth to `is_exclusive()`, which is the
/// shorter of the two deadlines.
fn interval(reading: &RingReading) -> Duration {
    let exclusive = reading.consensus.saturating_sub(reading.token / 5);
    (exclusive / 4).clamp(SECOND_READ, Duration::from_secs(10))
}

/// How soon to try again after a read that failed.
const RETRY: Duration = Duration::from_millis(200);
