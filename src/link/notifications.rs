use std::{
    os::fd::{AsRawFd, RawFd},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_core::Stream;
use tokio::io::{Interest, unix::AsyncFd};

use self::{ring_reads::RingReads, ticks::Ticks};

use crate::{
    error::Error,
    libquorum::{NodeId, Notification},
    link::{
        blocking_worker::BlockingWorker,
        clock::{Clock, Moment},
        connection::sealed::QuorumConnection,
        probe::{Answer, PendingProbe, Probe},
        ring_reading::RingUpdate,
        ring_watch::RingWatch,
    },
};

mod ring_reads;
mod ticks;

/// A stream of the events of one connection, in order. The last item is the error that ended the
/// connection.
///
/// The connection is closed when the stream is polled after the error, or is dropped. By then, the
/// connection's descriptor has been removed from the reactor.
pub(crate) struct LinkEvents {
    /// `None` once the connection has ended.
    connection: Option<AsyncFd<RegisteredFd>>,
    blocking_worker: BlockingWorker,
    /// Whether the descriptor reports the daemon's death. If not, only a dispatch reports it.
    hangs_up: bool,
    probe: Arc<dyn Probe>,
    probe_interval: Duration,
    clock: Clock,
    /// When the next probe is due.
    probe_at: Moment,
    ticks: Ticks,
    /// Whether any notification has arrived.
    has_notified: bool,
    /// Whether a notification has arrived since the last probe.
    notified_since_probe: bool,
    /// Whether a notification has made the next probe due earlier.
    probes_soon: bool,
    /// When the last tick occurred.
    ticked_at: Moment,
    /// When the next regular tick is due. A read of the ring causes a dispatch too, and so
    /// postpones the tick.
    tick_at: Moment,
    /// When the timer fires next.
    armed_for: Moment,
    pending_probe: Option<PendingProbe>,
    /// When to close the probe's connection if no answer arrives.
    interrupt_at: Moment,
    /// How long to wait for an answer to a probe.
    answer_timeout: Duration,
    /// The error of the last probe, if it failed.
    probe_error: Option<Error>,
    /// An answer that is held back until all earlier notifications are dispatched.
    answer: Option<Answer>,
    members: Vec<NodeId>,
    /// `None` if the ring is not watched.
    ring: Option<RingReads>,
    /// The last known moment at which no message from Corosync was waiting. At first it is the
    /// moment of the request to start tracking, before which Corosync sends nothing.
    drained_at: Moment,
    /// Whether a notification was just returned, so that the next poll yields.
    yields: bool,
    ended: bool,
}

/// An event of a connection.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// Corosync sent a notification. It did so after `drained_at`, a moment at which no message
    /// from it was waiting. Each notification is dispatched separately.
    Notified { notification: Notification, drained_at: Moment },
    /// Corosync answered a probe. No earlier notification is waiting.
    Answered(Answer),
    /// A read of the ring's counters has ended. No earlier notification is waiting.
    Ring(RingUpdate),
    /// Time passed.
    Tick,
}

impl LinkEvents {
    /// Watches `connection` on the reactor of the current runtime, and requests an answer from
    /// `probe` every `probe_interval`, or earlier after a notification. `clock` measures the time.
    pub(crate) fn new(
        connection: Box<dyn QuorumConnection>,
        blocking_worker: BlockingWorker,
        probe: Arc<dyn Probe>,
        ring: Option<Arc<dyn RingWatch>>,
        probe_interval: Duration,
        clock: Clock,
    ) -> Result<Self, Error> {
        let hangs_up = connection.hangs_up();
        let tick = if hangs_up { LONGEST_TICK } else { TICK };
        // The ticks divide the probe interval evenly.
        let ticks = match Ticks::new(divided(probe_interval, tick), clock) {
            Ok(ticks) => ticks,
            Err(error) => {
                connection.close(&blocking_worker);
                return Err(error);
            }
        };
        let drained_at = connection.asked_at();
        // SAFETY: `QuorumConnection` is a sealed trait whose descriptor stays open and unchanged
        // until the connection is dropped, and it is dropped only after it was taken out of the
        // `AsyncFd`.
        let registered = unsafe {
            AsyncFd::register_with_interest(RegisteredFd(connection), Interest::READABLE)
        };
        match registered {
            Ok(connection) => Ok(Self {
                connection: Some(connection),
                blocking_worker,
                probe,
                hangs_up,
                probe_interval,
                clock,
                // The first notification makes the probe due at once: see `note`.
                probe_at: clock.now().after(probe_interval),
                ticks,
                has_notified: false,
                notified_since_probe: false,
                probes_soon: false,
                ticked_at: Moment::default(),
                tick_at: Moment::default(),
                armed_for: Moment::default(),
                pending_probe: None,
                interrupt_at: Moment::default(),
                answer_timeout: ANSWER_TIMEOUT,
                probe_error: None,
                answer: None,
                members: Vec::new(),
                ring: ring.map(|watch| RingReads::new(watch, clock)),
                drained_at,
                yields: false,
                ended: false,
            }),
            Err(error) => {
                let (connection, error) = error.into_parts();
                connection.0.close(&blocking_worker);
                Err(Error::reactor(error))
            }
        }
    }

    fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.into_inner().0.close(&self.blocking_worker);
        }
    }

    /// Records a notification that is passed on.
    fn note(&mut self, notification: &Notification) {
        let (Notification::Nodelist { members, .. } | Notification::Quorum { members, .. }) =
            notification;
        if !self.has_notified {
            self.has_notified = true;
            self.probe_at = Moment::default();
        }
        if !members.is_empty() {
            self.members.clone_from(members);
        }
        // The votes and the ring may have changed too.
        self.notified_since_probe = true;
        if let Some(ring) = &mut self.ring {
            ring.hurry();
        }
    }

    /// Records a tick. The timer repeats by itself, so it is already set for the next tick.
    fn ticked(&mut self) {
        self.ticked_at = self.clock.now();
        self.tick_at = self.ticked_at.after(self.ticks.period());
        self.armed_for = self.tick_at;
    }

    /// Returns when the next tick is due after a dispatch: a full period later. If the ring watch
    /// passes on several reads in one answer (`RingReading::reads_together`), the tick waits for
    /// that answer, because the answer causes a dispatch too.
    fn tick_after(&self, dispatched_at: Moment) -> Moment {
        let period = self.ticks.period();
        let tick = dispatched_at.after(period);
        let together = self.ring.as_ref().and_then(RingReads::together_until);
        match together.filter(|_| self.hangs_up) {
            // The probe interval ends half a period after `probe_at`. The tick comes at most a
            // quarter of a period after that. If the answer arrives before the tick, the probe is
            // sent when the answer arrives, and the tick is not needed.
            Some(until) => tick.max(until.min(self.probe_at.after(period * 3 / 4))),
            None => tick,
        }
    }

    /// Sets the timer for the next regular tick, or earlier if a probe or a read needs that.
    /// Moments up to the last tick are ignored, because that tick has already served them.
    fn arm(&mut self) {
        let probe = self.probes_soon.then_some(self.probe_at);
        let read = self.ring.as_ref().and_then(RingReads::wake_at);
        let early = probe.into_iter().chain(read).filter(|at| *at > self.ticked_at);
        let next = early.chain([self.tick_at]).min().unwrap_or_default();
        if next != self.armed_for {
            self.armed_for = next;
            self.ticks.reset_after(next.since(self.clock.now()));
        }
    }

    /// Sends a probe when it is due, and receives its answer.
    fn poll_probe(&mut self, cx: &mut Context<'_>) {
        while self.answer.is_none() {
            let Some(pending) = &mut self.pending_probe else {
                // This is done only once for each probe, because frequent notifications must not
                // postpone the probe.
                if self.notified_since_probe && !self.probes_soon {
                    self.probes_soon = true;
                    let soon = PROBE_COALESCE.min(self.ticks.period());
                    self.probe_at = self.probe_at.min(self.clock.now().after(soon));
                }
                let now = self.clock.now();
                // A daemon that is synchronising does not answer a read, but still answers
                // votequorum. So if a read is late, a probe shows whether the daemon is alive.
                let is_late = self.ring.as_mut().is_some_and(RingReads::has_become_late);
                if now < self.probe_at && !is_late {
                    return;
                }
                (self.notified_since_probe, self.probes_soon) = (false, false);
                // The next probe is due half a tick before the interval ends, so that a tick that
                // comes a little early still sends it.
                let early = self.ticks.period() / 2;
                self.probe_at = now.after(self.probe_interval.saturating_sub(early));
                self.pending_probe = Some(self.probe.ask(self.members.clone()));
                self.interrupt_at = now.after(self.answer_timeout);
                continue;
            };
            let Poll::Ready(answer) = pending.as_mut().poll(cx) else {
                // A lost request is never answered, so it is repeated after a timeout.
                if self.clock.now() >= self.interrupt_at {
                    let again = if self.probe.interrupt() {
                        self.answer_timeout = (self.answer_timeout * 2).min(LONGEST_ANSWER_TIMEOUT);
                        self.answer_timeout
                    } else {
                        self.ticks.period()
                    };
                    self.interrupt_at = self.clock.now().after(again);
                    if let Some(ring) = &mut self.ring {
                        ring.daemon_is_silent();
                    }
                }
                return;
            };
            self.pending_probe = None;
            match answer {
                Ok(answer) => {
                    self.answer_timeout = ANSWER_TIMEOUT;
                    self.probe_error = None;
                    if let Some(ring) = &mut self.ring {
                        ring.daemon_answered(answer.asked_at);
                    }
                    self.answer = Some(answer);
                }
                Err(error) => {
                    // The error is logged only if it differs from the previous one. If all probes
                    // fail, the lease expires and the connection is published as stalled.
                    if self.probe_error.as_ref() != Some(&error) {
                        crate::foreign::log!(
                            log::Level::Warn,
                            "a probe of corosync failed: {error}. If no probe succeeds before the \
                             lease expires, quorum becomes unknown"
                        );
                        self.probe_error = Some(error);
                    }
                }
            }
        }
    }
}

impl Stream for LinkEvents {
    type Item = Result<LinkEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        // The poll after a notification yields first, so that the subscribers and other tasks of
        // this arbiter run.
        if std::mem::take(&mut this.yields) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if this.ended {
            this.close();
            return Poll::Ready(None);
        }
        let due = this.ticks.poll(cx).is_ready();
        if due {
            this.ticked();
        }
        this.poll_probe(cx);
        let is_read = match &mut this.ring {
            Some(ring) => ring.poll(cx),
            None => false,
        };
        let dispatches = due || is_read || this.answer.is_some();
        if !dispatches {
            this.arm();
        }
        let Some(connection) = &mut this.connection else { return Poll::Ready(None) };
        // With libqb's transport `socket` only a dispatch reports Corosync's death, so each tick
        // dispatches. An answer or a read counts only if no earlier notification is waiting, so it
        // causes a dispatch too.
        let before = this.clock.now();
        let dispatched = if dispatches {
            connection.get_mut().0.dispatch()
        } else {
            ready!(poll_dispatch(connection, cx))
        };
        let event = match dispatched {
            Ok(Some(notification)) => {
                this.note(&notification);
                this.yields = true;
                Ok(LinkEvent::Notified { notification, drained_at: this.drained_at })
            }
            Ok(None) => {
                this.drained_at = before;
                let update = this.ring.as_mut().filter(|_| this.answer.is_none());
                let update = update.and_then(RingReads::take);
                Ok(match (this.answer.take(), update) {
                    (Some(answer), _) => LinkEvent::Answered(answer),
                    (None, Some(update)) => {
                        // The read has caused a dispatch, so the next tick can wait.
                        this.tick_at = this.tick_after(before);
                        LinkEvent::Ring(update)
                    }
                    (None, None) => LinkEvent::Tick,
                })
            }
            Err(error) => {
                this.ended = true;
                Err(error)
            }
        };
        Poll::Ready(Some(event))
    }
}

impl Drop for LinkEvents {
    fn drop(&mut self) {
        self.close();
    }
}

/// Dispatches when the descriptor is readable. Pending until a dispatch returns a notification or
/// an error.
fn poll_dispatch(
    connection: &mut AsyncFd<RegisteredFd>,
    cx: &mut Context<'_>,
) -> Poll<Result<Option<Notification>, Error>> {
    loop {
        match ready!(connection.poll_read_ready_mut(cx)) {
            Ok(mut guard) => match guard.get_inner_mut().0.dispatch() {
                Ok(None) => guard.clear_ready(),
                // More notifications may be waiting, and the reactor does not report them again, so
                // the descriptor stays marked as ready.
                dispatched => return Poll::Ready(dispatched),
            },
            Err(error) => return Poll::Ready(Err(Error::reactor(error))),
        }
    }
}

/// Returns the longest period, at most `longest`, that divides `duration` evenly.
fn divided(duration: Duration, longest: Duration) -> Duration {
    let parts = duration.as_nanos().div_ceil(longest.as_nanos());
    let parts = u32::try_from(parts).unwrap_or(u32::MAX).max(1);
    (duration / parts).min(longest)
}

/// A connection that is registered with the reactor.
struct RegisteredFd(Box<dyn QuorumConnection>);

impl AsRawFd for RegisteredFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The longest period of the ticks if only a dispatch reports the daemon's death.
const TICK: Duration = Duration::from_millis(250);

/// The longest period of the ticks if the descriptor reports the daemon's death. Each tick also
/// checks the deadlines and removes subscribers that have ended.
pub(crate) const LONGEST_TICK: Duration = Duration::from_secs(1);

/// How long an answer may take before the request is repeated on another connection. An answer
/// usually takes less than a millisecond. The timeout doubles with each repetition.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest timeout for an answer. Each abandoned connection takes one of the 128 places in the
/// listen queue of a suspended daemon (libqb `lib/ipc_setup.c`), so requests must become rare. An
/// abandoned connection costs a running daemon nothing.
const LONGEST_ANSWER_TIMEOUT: Duration = Duration::from_secs(300);

/// The delay of a probe after a notification, so that many notifications cause one probe.
const PROBE_COALESCE: Duration = Duration::from_millis(50);

#[cfg(all(test, feature = "sim"))]
mod tests;
