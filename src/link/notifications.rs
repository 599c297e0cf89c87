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
        ring_watch::{RingUpdate, RingWatch},
    },
};

mod ring_reads;
mod ticks;

/// What one connection tells, in order; last, the error that ended it.
///
/// The connection is closed when the error has been taken, or when this is dropped; its descriptor
/// has left the reactor by then.
pub(crate) struct Notifications {
    /// `None` once the connection is over.
    connection: Option<AsyncFd<RegisteredFd>>,
    blocking_worker: BlockingWorker,
    probe: Arc<dyn Probe>,
    probe_interval: Duration,
    clock: Clock,
    /// When to ask next, which is with a tick.
    ask_at: Moment,
    ticks: Ticks,
    /// Something was told, ever.
    is_told: bool,
    /// Something was told since it was last asked.
    has_news: bool,
    asks_soon: bool,
    /// What the next tick was moved for.
    armed_for: Moment,
    asking: Option<PendingProbe>,
    /// When its connection is given up if there is no answer.
    hang_up_at: Moment,
    /// How long it is waited for.
    patience: Duration,
    /// Why it was not answered last.
    unanswered: Option<Error>,
    /// An answer that is held back until everything was dispatched that came before it.
    answer: Option<Answer>,
    members: Vec<NodeId>,
    /// `None` where nobody watches the ring.
    ring: Option<RingReads>,
    /// A moment at which nothing waited that Corosync had sent.
    drained_at: Moment,
    /// Something was told just now.
    yields: bool,
    ended: bool,
}

/// What a connection tells.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// Corosync told something, in a dispatch of its own, at some time after `drained_at`.
    Notified { notification: Notification, drained_at: Moment },
    /// Corosync answered, and nothing of what it had told waits any more.
    Answered(Answer),
    /// The ring was looked at, and nothing of what Corosync had told waits any more.
    Ring(RingUpdate),
    /// Time passed.
    Tick,
}

impl Notifications {
    /// Watches `connection` on the reactor of the current runtime, and asks `probe` whether the
    /// daemon lives, every `probe_interval` by that clock.
    pub(crate) fn new(
        connection: Box<dyn QuorumConnection>,
        blocking_worker: BlockingWorker,
        probe: Arc<dyn Probe>,
        ring: Option<Arc<dyn RingWatch>>,
        probe_interval: Duration,
        clock: Clock,
    ) -> Result<Self, Error> {
        let tick = if connection.hangs_up() { LONGEST_TICK } else { TICK };
        // A whole number of them for each probe.
        let ticks = match Ticks::new(divided(probe_interval, tick), clock) {
            Ok(ticks) => ticks,
            Err(error) => {
                connection.close(&blocking_worker);
                return Err(error);
            }
        };
        // SAFETY: the descriptor of a `QuorumConnection`, a sealed trait, is open and the same until it is
        // dropped, and it is dropped only after it was taken out of the `AsyncFd`.
        let registered = unsafe {
            AsyncFd::register_with_interest(RegisteredFd(connection), Interest::READABLE)
        };
        match registered {
            Ok(connection) => Ok(Self {
                connection: Some(connection),
                blocking_worker,
                probe,
                probe_interval,
                clock,
                // Or once it is told whose votes to ask for: see `note`.
                ask_at: clock.now().after(probe_interval),
                ticks,
                is_told: false,
                has_news: false,
                asks_soon: false,
                armed_for: Moment::default(),
                asking: None,
                hang_up_at: Moment::default(),
                patience: LOST,
                unanswered: None,
                answer: None,
                members: Vec::new(),
                ring: ring.map(|watch| RingReads::new(watch, clock)),
                drained_at: clock.now(),
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

    /// Takes note of what is passed on.
    fn note(&mut self, notification: &Notification) {
        let (Notification::Nodelist { members, .. } | Notification::Quorum { members, .. }) =
            notification;
        if !self.is_told {
            self.is_told = true;
            self.ask_at = Moment::default();
        }
        if !members.is_empty() {
            self.members.clone_from(members);
        }
        // The votes may have changed with it, and the ring.
        self.has_news = true;
        if let Some(ring) = &mut self.ring {
            ring.hurry();
        }
    }

    /// Has a tick come for what does not wait for the next one.
    fn arm(&mut self) {
        let asks = self.asks_soon.then_some(self.ask_at);
        let reads = self.ring.as_ref().and_then(RingReads::next_at);
        let Some(next) = asks.into_iter().chain(reads).min() else { return };
        let after = next.since(self.clock.now());
        if next != self.armed_for && after < self.ticks.period() * 3 / 4 {
            self.armed_for = next;
            self.ticks.reset_after(after);
        }
    }

    /// Asks when it is time to, and takes the answer when there is one.
    fn poll_probe(&mut self, cx: &mut Context<'_>) {
        while self.answer.is_none() {
            let Some(asking) = &mut self.asking else {
                // Once until it is asked: who is told something all the time must not put it off.
                if self.has_news && !self.asks_soon {
                    self.asks_soon = true;
                    let soon = PROBE_COALESCE.min(self.ticks.period());
                    self.ask_at = self.ask_at.min(self.clock.now().after(soon));
                }
                let now = self.clock.now();
                // A daemon that answers votequorum only synchronises.
                let is_late = self.ring.as_mut().is_some_and(RingReads::has_become_late);
                if now < self.ask_at && !is_late {
                    return;
                }
                (self.has_news, self.asks_soon) = (false, false);
                // Not to wait for a tick more than that, should one come a little early.
                let early = self.ticks.period() / 2;
                self.ask_at = now.after(self.probe_interval.saturating_sub(early));
                self.asking = Some(self.probe.ask(self.members.clone()));
                self.hang_up_at = now.after(self.patience);
                continue;
            };
            let Poll::Ready(answer) = asking.as_mut().poll(cx) else {
                // An answer that is lost never comes.
                if self.clock.now() >= self.hang_up_at {
                    self.patience = (self.patience * 2).min(LOST_FOR_LONG);
                    self.hang_up_at = self.clock.now().after(self.patience);
                    self.probe.interrupt();
                }
                return;
            };
            self.asking = None;
            match answer {
                Ok(answer) => {
                    self.patience = LOST;
                    self.unanswered = None;
                    if let Some(ring) = &mut self.ring {
                        ring.daemon_lives(answer.asked_at);
                    }
                    self.answer = Some(answer);
                }
                Err(error) => {
                    // Told once, for what it is: if it lasts, it is told as stalled.
                    if self.unanswered.as_ref() != Some(&error) {
                        crate::foreign::log!(
                            log::Level::Warn,
                            "corosync cannot be asked whether it lives: {error}"
                        );
                        self.unanswered = Some(error);
                    }
                }
            }
        }
    }
}

impl Stream for Notifications {
    type Item = Result<LinkEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        // Who was told of it comes first, and what else this arbiter has to do.
        if std::mem::take(&mut this.yields) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if this.ended {
            this.close();
        }
        let due = this.ticks.poll(cx).is_ready();
        this.poll_probe(cx);
        let is_read = match &mut this.ring {
            Some(ring) => ring.poll(cx),
            None => false,
        };
        this.arm();
        let Some(connection) = &mut this.connection else { return Poll::Ready(None) };
        // Over libqb's transport `socket` the descriptor does not tell that Corosync died; only a
        // dispatch does. And an answer counts only when nothing waits that was told before it.
        let before = this.clock.now();
        let dispatched = if due || is_read || this.answer.is_some() {
            connection.get_mut().0.dispatch()
        } else {
            ready!(poll_dispatch(connection, cx))
        };
        let told = match dispatched {
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
                    (None, Some(update)) => LinkEvent::Ring(update),
                    (None, None) => LinkEvent::Tick,
                })
            }
            Err(error) => {
                this.ended = true;
                Err(error)
            }
        };
        Poll::Ready(Some(told))
    }
}

impl Drop for Notifications {
    fn drop(&mut self) {
        self.close();
    }
}

/// Waits until the descriptor is readable and something was dispatched.
fn poll_dispatch(
    connection: &mut AsyncFd<RegisteredFd>,
    cx: &mut Context<'_>,
) -> Poll<Result<Option<Notification>, Error>> {
    loop {
        match ready!(connection.poll_read_ready_mut(cx)) {
            Ok(mut guard) => match guard.get_inner_mut().0.dispatch() {
                Ok(None) => guard.clear_ready(),
                // There may be more, of which the reactor will not tell again: stay ready.
                dispatched => return Poll::Ready(dispatched),
            },
            Err(error) => return Poll::Ready(Err(Error::reactor(error))),
        }
    }
}

/// The longest period of no more than `longest` that goes into `duration` without a rest.
fn divided(duration: Duration, longest: Duration) -> Duration {
    let parts = duration.as_nanos().div_ceil(longest.as_nanos());
    let parts = u32::try_from(parts).unwrap_or(u32::MAX).max(1);
    (duration / parts).min(longest)
}

/// A connection in the reactor.
struct RegisteredFd(Box<dyn QuorumConnection>);

impl AsRawFd for RegisteredFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// How often at least a dispatch is tried that nothing asked for, where only that tells that the
/// daemon has died.
const TICK: Duration = Duration::from_millis(250);

/// How often elsewhere: there is time to look at, and who has ended to forget.
pub(crate) const LONGEST_TICK: Duration = Duration::from_secs(1);

/// How long an answer may take, which takes less than a millisecond, before it is asked for again on
/// another connection; twice as long each time.
const LOST: Duration = Duration::from_secs(10);

/// To what that grows: each connection that is given up takes one of the 128 places (libqb
/// `lib/ipc_setup.c`) in the queue of a daemon that is stopped, and is nothing to one that goes on.
const LOST_FOR_LONG: Duration = Duration::from_secs(300);

/// How soon after a notification to ask: with a flood of them, not for each.
const PROBE_COALESCE: Duration = Duration::from_millis(50);
