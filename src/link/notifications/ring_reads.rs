//! Reads the ring's counters as often as the deadlines that depend on them require.
//!
//! - At first each read is a separate request for all counters: the number of tokens and the
//!   `RingCounters`. Each read begins `SECOND_READ` after the previous one has ended. Once the
//!   token has moved twice (`CONFIRMED`), each read begins `RingReading::interval` after the
//!   previous one has ended.
//! - Once none of the `RingCounters` has moved for longer than the token and consensus timeouts
//!   together, the ring is steady, and one request asks for all further reads (`steady_ring`).
//!   These are short: `gather_entered` and the tokens. All counters are read every five seconds
//!   (`FULL_READ`), and when a short read shows a change. With long timeouts, the thread passes on
//!   three reads in one answer (`RingReading::reads_together`).
//! - All this starts over when one of the `RingCounters` moves or a notification arrives. After a
//!   notification the next read also begins without a delay (`hurry`).
//! - A failed read is repeated after `RETRY`.
//! - If a read is late (`LATE`), the caller sends a probe. If the daemon answers the probe, the
//!   read is cancelled and repeated immediately, on a new connection; otherwise it stays pending.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use crate::{
    error::Error,
    link::{
        clock::{Clock, Moment},
        ring_reading::{RingReading, RingUpdate, SECOND_READ},
        ring_watch::RingWatch,
        worker::{Answers, Schedule},
    },
};

/// Reads the daemon's counters often enough for the shortest deadline that depends on them.
pub(super) struct RingReads {
    watch: Arc<dyn RingWatch>,
    clock: Clock,
    /// When this connection began. Earlier readings may be of another ring.
    began_at: Moment,
    /// When to read next.
    read_at: Moment,
    pending: Option<PendingRead>,
    /// Whether the pending read has been reported as late.
    is_late: bool,
    /// When the last notification arrived. Only reads that were requested later can confirm each
    /// other.
    hurried_at: Moment,
    /// Finished reads that are held back until all earlier notifications are dispatched.
    updates: VecDeque<RingUpdate>,
    /// The last reading, or `None` if no read has ended since the last notification.
    last: Option<RingReading>,
    /// How many reads have shown that the token moved, since the last notification, failed read or
    /// change of the `RingCounters`. At most `CONFIRMED`.
    moves: u32,
    /// When the first reading with the current `RingCounters` was requested. Readings from before
    /// the last notification are ignored.
    equal_since: Moment,
    /// The error of the last read, if it failed.
    failed: Option<Error>,
}

/// A request for one read, or for a read at each interval.
struct PendingRead {
    updates: Answers<Vec<RingUpdate>>,
    /// When the last read of the next answer is due to begin. (An answer has one read or several.)
    /// If that read is late because the thread is still opening a connection, this field is set to
    /// the moment at which that is noticed, so that the read becomes late again `LATE` after that
    /// moment.
    begins_at: Moment,
    steady: Option<SteadyRing>,
}

/// A ring in which the daemon is in OPERATIONAL, so that short reads are enough.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct SteadyRing {
    /// The connection on which the counters were read.
    connection: u64,
    /// The time between two reads.
    interval: Duration,
    /// How many reads the thread passes on in one answer.
    together: u32,
}

impl RingReads {
    pub(super) fn new(watch: Arc<dyn RingWatch>, clock: Clock) -> Self {
        Self {
            watch,
            clock,
            began_at: clock.now(),
            read_at: Moment::default(),
            pending: None,
            is_late: false,
            hurried_at: Moment::default(),
            updates: VecDeque::new(),
            last: None,
            moves: 0,
            equal_since: Moment::default(),
            failed: None,
        }
    }

    /// Makes the next read begin without a delay, because a notification has arrived. A single read
    /// that has already begun is left to finish, and the next read follows it without a delay.
    pub(super) fn hurry(&mut self) {
        let now = self.clock.now();
        self.hurried_at = now;
        (self.last, self.moves) = (None, 0);
        self.read_at = Moment::default();
        // After a notification it is not known whether the daemon is in OPERATIONAL.
        self.pending.take_if(|pending| pending.steady.is_some() || pending.begins_at > now);
    }

    /// Returns when to poll even if no read has finished by then: when the pending read becomes
    /// late, or when a failed read is due to be repeated.
    pub(super) fn wake_at(&self) -> Option<Moment> {
        match &self.pending {
            Some(pending) => Some(pending.begins_at.after(LATE)).filter(|_| !self.is_late),
            None => Some(self.read_at).filter(|_| self.updates.is_empty()),
        }
    }

    /// Returns when the pending answer becomes late, if it has several reads and is not late
    /// already.
    pub(super) fn together_until(&self) -> Option<Moment> {
        let steady = self.pending.as_ref().and_then(|pending| pending.steady);
        self.wake_at().filter(|_| steady.is_some_and(|ring| ring.together > 1))
    }

    /// Whether a read has become late. Returns `true` once for each read. A late read does not mean
    /// that the daemon is hung: it does not answer reads while it is synchronising.
    pub(super) fn has_become_late(&mut self) -> bool {
        let (was_late, now) = (self.is_late, self.clock.now());
        let is_late = |pending: &PendingRead| now >= pending.begins_at.after(LATE);
        self.is_late = self.pending.as_ref().is_some_and(is_late);
        self.is_late && !was_late
    }

    /// Records that the daemon has answered another request, which was sent at `asked_at`. If the
    /// pending read was already late at that moment, it is cancelled, unless the thread has only
    /// recently begun to open a connection.
    pub(super) fn daemon_answered(&mut self, asked_at: Moment) {
        let Some(pending) = &mut self.pending else { return };
        if asked_at < pending.begins_at.after(LATE) {
            return;
        }
        if self.watch.cancel() {
            self.pending = None;
            self.read_at = Moment::default();
        } else {
            // The thread is opening a connection, which may take longer.
            (pending.begins_at, self.is_late) = (self.clock.now(), false);
        }
    }

    /// Records that the daemon has not answered a probe for a long time. Cancels the pending read
    /// if the thread has been opening a connection for a long time.
    pub(super) fn daemon_is_silent(&mut self) {
        if self.pending.is_some() && self.watch.cancel_connect() {
            self.pending = None;
            self.read_at = self.clock.now().after(RETRY);
        }
    }

    /// Takes the first finished read. All earlier notifications must have been dispatched.
    pub(super) fn take(&mut self) -> Option<RingUpdate> {
        self.updates.pop_front()
    }

    /// Requests the next read, and receives its result. Returns whether a finished read is ready.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        while self.updates.is_empty() {
            let Some(pending) = &mut self.pending else {
                // If the thread cannot be started, a request fails immediately: without this wait,
                // the loop would not end.
                if self.failed.is_some() && self.clock.now() < self.read_at {
                    return false;
                }
                self.request();
                continue;
            };
            let begins_at = pending.begins_at;
            let Poll::Ready(read) = pending.updates.as_mut().poll_next(cx) else { return false };
            let delay = match read.unwrap_or_else(|| Err(Error::no_answer())) {
                Ok(updates) => {
                    self.failed = None;
                    let mut delay = Duration::ZERO;
                    for update in updates {
                        if !self.is_old(&update) {
                            delay = self.delay(&update, begins_at);
                            self.updates.push_back(update);
                        }
                    }
                    delay
                }
                Err(error) => {
                    self.moves = 0;
                    if self.failed.as_ref() != Some(&error) {
                        crate::foreign::log!(
                            log::Level::Warn,
                            "cannot read the counters of corosync's ring: {error}. If no read \
                             succeeds in time, this node loses quorum or does not gain it, unless \
                             the ring was not watched before"
                        );
                        self.failed = Some(error);
                    }
                    RETRY
                }
            };
            self.read_at = self.clock.now().after(delay);
            let steady = self.steady_ring();
            self.pending.take_if(|pending| steady.is_none() || pending.steady != steady);
            if let (Some(pending), Some(steady)) = (&mut self.pending, steady) {
                pending.begins_at = self.read_at.after(steady.held_for());
                self.is_late = false;
            }
        }
        true
    }

    /// Requests the next read, or all further ones in a steady ring. The thread begins each read
    /// when it is due, so that this task needs no timer for it.
    fn request(&mut self) {
        let now = self.clock.now();
        let begins_at = self.read_at.max(now);
        let steady = self.steady_ring();
        let schedule =
            Schedule { delay: begins_at.since(now), interval: steady.map(|ring| ring.interval) };
        let reading = self.last.clone().filter(|_| steady.is_some());
        let updates = self.watch.read(schedule, reading);
        let held_for = steady.map_or(Duration::ZERO, |ring| ring.held_for());
        self.pending = Some(PendingRead { updates, begins_at: begins_at.after(held_for), steady });
        self.is_late = false;
    }

    /// Returns the steady ring, or `None` if the daemon may not be in OPERATIONAL. It is assumed to
    /// be in OPERATIONAL when none of the `RingCounters` has moved for longer than the token and
    /// consensus timeouts together: GATHER, COMMIT and RECOVERY end within that time, unless the
    /// daemon has very many messages to recover.
    fn steady_ring(&self) -> Option<SteadyRing> {
        let last = self.last.as_ref().filter(|_| self.moves == CONFIRMED)?;
        let is_steady = last.asked_at.since(self.equal_since) > last.token + last.consensus;
        is_steady.then(|| SteadyRing {
            connection: last.connection,
            interval: last.interval(),
            together: last.reads_together(),
        })
    }

    /// Whether an update is a reading from before this connection. The thread may be older than the
    /// connection, and may have held back the reading to pass it on with a later one.
    fn is_old(&self, update: &RingUpdate) -> bool {
        matches!(update, RingUpdate::Read(reading) if reading.answered_at < self.began_at)
    }

    /// Compares an update with the last reading. Returns the delay before the next read.
    fn delay(&mut self, update: &RingUpdate, begins_at: Moment) -> Duration {
        let RingUpdate::Read(reading) = update else {
            self.moves = 0;
            return UNWATCHED;
        };
        let last = self.last.replace(reading.clone());
        match last.filter(|last| last.asked_at >= self.hurried_at) {
            Some(last) if last.counters == reading.counters => {
                self.moves += u32::from(last.tokens != reading.tokens && self.moves < CONFIRMED);
            }
            _ => (self.moves, self.equal_since) = (0, reading.asked_at),
        }
        match self.moves {
            CONFIRMED => reading.interval(),
            // The read began before the last notification arrived, so it may not show the change
            // that caused the notification.
            _ if begins_at < self.hurried_at => Duration::ZERO,
            _ => SECOND_READ,
        }
    }
}

impl SteadyRing {
    /// Returns the longest time between the beginnings of the first and the last read of an answer,
    /// if no read is late. The thread holds back the earlier readings until the last read has
    /// ended.
    fn held_for(&self) -> Duration {
        (self.interval + LATE) * (self.together - 1)
    }
}

/// How many times the token must have moved before reads are made only at `interval`.
const CONFIRMED: u32 = 2;

/// How long a read may take before it is late. It takes less than a millisecond, unless the daemon
/// is synchronising, is hung or gets no CPU time.
const LATE: Duration = Duration::from_millis(50);

/// The delay before another read if the ring cannot be watched: libcmap may be installed by then.
const UNWATCHED: Duration = Duration::from_secs(10);

/// The delay after a failed read.
const RETRY: Duration = Duration::from_millis(200);

#[cfg(all(test, feature = "sim"))]
mod tests {
    use std::{
        future::poll_fn,
        pin::Pin,
        sync::atomic::{AtomicU64, Ordering},
    };

    use futures_util::stream;
    use parking_lot::Mutex;
    use tokio::{
        runtime::Builder,
        time::{Instant, sleep},
    };

    use super::*;
    use crate::link::notifications::tests::{CONSENSUS, TOKEN, reading};

    /// The ring watch of a daemon in the state OPERATIONAL, which records the requests.
    #[derive(Debug)]
    struct Steady {
        clock: Clock,
        requested: Mutex<Vec<Schedule>>,
        connection: Arc<AtomicU64>,
        tokens: Arc<AtomicU64>,
    }

    impl RingWatch for Steady {
        fn read(&self, schedule: Schedule, _: Option<RingReading>) -> Answers<Vec<RingUpdate>> {
            self.requested.lock().push(schedule);
            let (clock, connection) = (self.clock, Arc::clone(&self.connection));
            let tokens = Arc::clone(&self.tokens);
            Box::pin(stream::unfold(Some(schedule.delay), move |delay| {
                let (connection, tokens) = (Arc::clone(&connection), Arc::clone(&tokens));
                async move {
                    sleep(delay?).await;
                    let now = clock.now();
                    let connection = connection.load(Ordering::Relaxed);
                    let reading =
                        reading(connection, now, now, tokens.fetch_add(1, Ordering::Relaxed));
                    Some((Ok(vec![RingUpdate::Read(reading)]), schedule.interval))
                }
            }))
        }

        fn cancel(&self) -> bool {
            true
        }

        fn cancel_connect(&self) -> bool {
            false
        }

        fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            Box::pin(std::future::ready(()))
        }
    }

    async fn next(reads: &mut RingReads) {
        poll_fn(|cx| if reads.poll(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
        assert!(reads.take().is_some());
    }

    #[test]
    fn a_steady_ring_is_read_with_one_request_until_a_notification_arrives() {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.unwrap().block_on(async {
            let start = Instant::now();
            let clock = Clock::Tokio(start);
            let requested = Mutex::default();
            let (connection, tokens) = (Arc::default(), Arc::default());
            let watch = Arc::new(Steady { clock, requested, connection, tokens });
            let mut reads = RingReads::new(Arc::clone(&watch) as Arc<dyn RingWatch>, clock);
            for _ in 0..2 {
                let since = Instant::now();
                let before = watch.requested.lock().len();
                while watch.requested.lock().last().is_none_or(|last| last.interval.is_none()) {
                    next(&mut reads).await;
                }
                assert!(
                    since.elapsed() > TOKEN + CONSENSUS,
                    "steady after only {:?}",
                    since.elapsed()
                );
                let requests = watch.requested.lock().len();
                assert!(requests > before + 10);
                for _ in 0..20 {
                    next(&mut reads).await;
                }
                assert_eq!(watch.requested.lock().len(), requests);

                // A short read can be compared only with a reading of the same connection. So the
                // reads are requested once more, with a reading of the new connection.
                watch.connection.fetch_add(1, Ordering::Relaxed);
                next(&mut reads).await;
                next(&mut reads).await;
                let requests = requests + 1;
                assert_eq!(watch.requested.lock().len(), requests);

                // After a notification, the daemon may be in any state, so one read is requested
                // immediately.
                reads.hurry();
                next(&mut reads).await;
                let after: Vec<_> = watch.requested.lock()[requests..].to_vec();
                assert_eq!((after[0].delay, after[0].interval), (Duration::ZERO, None));
            }
        });
    }
}
