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
    /// A read that is waited for, and since when.
    pending: Option<(Pending<RingUpdate>, Moment)>,
    /// It was found to be late.
    is_late: bool,
    /// When something happened last: only reads that are asked for later can confirm each other.
    hurried_at: Moment,
    /// Held back until everything was dispatched that came before it.
    update: Option<RingUpdate>,
    last: Option<RingReading>,
    /// How often the token was seen to move since something happened.
    moves: u32,
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
            is_late: false,
            hurried_at: Moment::default(),
            update: None,
            last: None,
            moves: 0,
            failed: None,
        }
    }

    /// Something has happened to the ring: reads at once, and again as soon as that can confirm it.
    pub(super) fn hurry(&mut self) {
        self.hurried_at = self.clock.now();
        self.moves = 0;
        self.read_at = self.read_at.map(|_| Moment::default());
    }

    /// When this wants to be polled next: when it reads next, or when a read is late.
    pub(super) fn next_at(&self) -> Option<Moment> {
        match &self.pending {
            Some((_, since)) => Some(since.after(LATE)).filter(|_| !self.is_late),
            None => self.read_at,
        }
    }

    /// Whether a read is late; true once for each. If the daemon lives, it cannot answer.
    pub(super) fn has_become_late(&mut self) -> bool {
        let (was_late, now) = (self.is_late, self.clock.now());
        self.is_late = self.pending.as_ref().is_some_and(|(_, since)| now >= since.after(LATE));
        self.is_late && !was_late
    }

    /// The daemon has answered something else that it was asked for at that moment: ends a read that
    /// was late by then.
    pub(super) fn daemon_lives(&mut self, asked_at: Moment) {
        let Some((_, since)) = &mut self.pending else { return };
        if asked_at < since.after(LATE) {
            return;
        }
        if self.watch.cancel() {
            self.pending = None;
            self.read_at = Some(Moment::default());
        } else {
            // It connects, which takes as long as it does.
            (*since, self.is_late) = (self.clock.now(), false);
        }
    }

    /// Takes the read that is there, once everything before it was dispatched.
    pub(super) fn take(&mut self) -> Option<RingUpdate> {
        self.update.take()
    }

    /// Reads when it is time to. Returns whether there is a read.
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
                            "the ring cannot be looked at: {error}"
                        );
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
    fn next(&mut self, update: &RingUpdate) -> Option<Duration> {
        let RingUpdate::Read(reading) = update else { return None };
        let last = self.last.replace(reading.clone());
        match last.filter(|last| last.asked_at >= self.hurried_at) {
            Some(last) if last.counters == reading.counters => {
                self.moves += u32::from(last.tokens != reading.tokens && self.moves < CONFIRMED);
            }
            _ => self.moves = 0,
        }
        Some(match self.moves {
            CONFIRMED => interval(reading),
            // It was asked for before something happened, and shows nothing of that.
            _ if reading.asked_at < self.hurried_at => Duration::ZERO,
            _ => SECOND_READ,
        })
    }
}

/// How often to read. `is_exclusive()` ends so much earlier than the daemon notices that its token is
/// lost, and is a twelfth of the time that a read is worth to it.
fn interval(reading: &RingReading) -> Duration {
    let exclusive = reading.consensus.saturating_sub(reading.token / 5);
    (exclusive / 12).clamp(SECOND_READ * 2, Duration::from_secs(10))
}

/// How often the token must have moved before reads are as rare as they may be.
const CONFIRMED: u32 = 2;

/// How long a read may take. It takes less than a millisecond, unless the daemon synchronises, hangs or
/// does not get a processor.
const LATE: Duration = Duration::from_millis(50);

/// How soon to try again after a read that failed.
const RETRY: Duration = Duration::from_millis(200);
