#[cfg(feature = "web")]
use std::{any::Any, sync::OnceLock};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    actor::log_lines::{self, LogLines, Remarks},
    foreign,
    link::clock::{Clock, Moment},
    registry::{History, Registry},
    state::{BeliefPolicy, Event, Now, Quorum, QuorumChanged, Snapshot, Tracker, lease::Lease},
};

/// What the actor publishes and everybody else reads. It outlives the actor.
#[derive(Debug)]
pub(crate) struct Shared {
    tracker: Mutex<Tracker>,
    log_lines: Mutex<LogLines>,
    pub(crate) lease: Lease,
    /// The sequence of what was published last: to wake those who wait for it.
    latest: watch::Sender<u64>,
    /// The user has stopped the actor.
    stopped_in_order: AtomicBool,
    pub(crate) history: Arc<History>,
    pub(crate) registry: Registry,
    #[cfg(feature = "metrics")]
    pub(crate) metrics: crate::metrics::Metrics,
    #[cfg(any(feature = "metrics", feature = "web"))]
    pub(crate) names: Arc<crate::link::names::Names>,
    /// What the web routes keep for this actor.
    #[cfg(feature = "web")]
    web: OnceLock<Box<dyn Any + Send + Sync>>,
    /// Of the actor.
    #[cfg(feature = "web")]
    pub(crate) heartbeat: Heartbeat,
}

/// When something ran last.
#[cfg(feature = "web")]
#[derive(Debug)]
pub(crate) struct Heartbeat {
    began: std::time::Instant,
    /// Milliseconds after that.
    beat: std::sync::atomic::AtomicU64,
}

#[cfg(feature = "web")]
impl Heartbeat {
    fn new() -> Self {
        Self { began: std::time::Instant::now(), beat: 0.into() }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// It counts as running from now on.
    pub(crate) fn beat_for_ever(&self) {
        self.beat.store(u64::MAX, Ordering::Release);
    }

    /// It runs.
    pub(crate) fn beat(&self) {
        self.beat.store(self.now(), Ordering::Release);
    }

    /// How long ago it ran.
    pub(crate) fn age(&self) -> std::time::Duration {
        let beat = self.beat.load(Ordering::Acquire);
        std::time::Duration::from_millis(self.now().saturating_sub(beat))
    }
}

impl Shared {
    pub(crate) fn new(policy: BeliefPolicy, clock: Clock) -> Self {
        let tracker = Tracker::new(policy, SystemTime::now());
        let history = Arc::new(History::new(Arc::clone(tracker.current())));
        Self {
            lease: Lease::new(clock),
            latest: watch::Sender::new(tracker.current().sequence),
            stopped_in_order: AtomicBool::new(false),
            registry: Registry::new(Arc::clone(&history)),
            history,
            tracker: Mutex::new(tracker),
            log_lines: Mutex::default(),
            #[cfg(feature = "metrics")]
            metrics: crate::metrics::Metrics::default(),
            #[cfg(any(feature = "metrics", feature = "web"))]
            names: Arc::default(),
            #[cfg(feature = "web")]
            web: OnceLock::new(),
            #[cfg(feature = "web")]
            heartbeat: Heartbeat::new(),
        }
    }

    /// Applies what happened and tells everybody, if it changed anything. Returns when time alone
    /// will change something.
    pub(crate) fn publish(&self, event: Event) -> Option<Moment> {
        let (changes, deadline) = {
            // Held until the change is in the history, so that changes are there in order.
            let mut tracker = self.tracker.lock();
            let before = self.lease.granted();
            let change = self.apply(&mut tracker, event);
            // This thread may not have run just when the lease ran out.
            let lapsed = self.lease.has_lapsed(before);
            let second = lapsed.then(|| self.apply(&mut tracker, Event::Lapsed)).flatten();
            ([change, second], tracker.deadline())
        };
        if let Some((change, _)) = changes.iter().flatten().last() {
            // Without the lock: it runs the wakers of those who wait.
            let sequence = change.current.sequence;
            foreign::contain(|| {
                self.latest.send_if_modified(|latest| {
                    let is_newer = sequence > *latest;
                    *latest = sequence.max(*latest);
                    is_newer
                });
            });
            self.registry.deliver();
        }
        // Last: a recorder or a logger may block.
        for (change, remarks) in changes.iter().flatten() {
            #[cfg(feature = "metrics")]
            foreign::contain(|| crate::metrics::Metrics::changed(change));
            log_lines::log(change, *remarks);
        }
        #[cfg(feature = "metrics")]
        if changes.iter().any(Option::is_some) {
            self.record();
        }
        deadline
    }

    fn apply(&self, tracker: &mut Tracker, event: Event) -> Option<(QuorumChanged, Remarks)> {
        let now = Now { wall: SystemTime::now(), moment: self.lease.clock().now() };
        let change = tracker.apply(event, now);
        let current = tracker.current();
        // Before anything else: who asks from now on is not told what was true before.
        match tracker.deadline().filter(|_| current.quorum.is_quorate()) {
            Some(until) => self.lease.grant(until, tracker.exclusive_until(), current.epoch),
            None => self.lease.revoke(current.epoch),
        }
        let change = change?;
        let until = tracker.deadline().filter(|_| current.quorum.is_quorate());
        let remarks = self.log_lines.lock().remarks(&change, now.moment, until);
        self.history.push(change.clone());
        Some((change, remarks))
    }

    /// Records what is true now, until it is what was last published.
    #[cfg(feature = "metrics")]
    pub(crate) fn record(&self) {
        loop {
            let now = self.lease.clock().now();
            let seen = self.tracker.lock().token_seen();
            let state = crate::metrics::State {
                snapshot: self.current(),
                exclusive: self.is_exclusive(),
                token_seen: seen.map(|(seen_at, lease)| (now.since(seen_at), lease)),
                names: self.names.once_read(),
            };
            foreign::contain(|| self.metrics.record(&state));
            if self.snapshot().sequence == state.snapshot.sequence {
                return;
            }
        }
    }

    /// Publishes that the user has stopped the actor.
    pub(crate) fn stop_in_order(&self) {
        self.stopped_in_order.store(true, Ordering::Release);
        self.publish(Event::Stopped);
    }

    /// Whether the user has stopped the actor.
    pub(crate) fn is_stopped_in_order(&self) -> bool {
        self.stopped_in_order.load(Ordering::Acquire)
    }

    /// What the web routes keep for this actor: always of the same type.
    #[cfg(feature = "web")]
    pub(crate) fn web_state<T: Default + Send + Sync + 'static>(&self) -> &T {
        let state = self.web.get_or_init(|| Box::new(T::default()));
        state.downcast_ref().expect("the web routes keep one type")
    }

    pub(crate) fn is_quorate(&self) -> bool {
        self.lease.is_active()
    }

    pub(crate) fn is_exclusive(&self) -> bool {
        self.lease.is_exclusive()
    }

    /// What was last published.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.history.current()
    }

    /// What was last published, as the deadlines allow now.
    pub(crate) fn current(&self) -> Arc<Snapshot> {
        self.as_of_now(self.snapshot())
    }

    /// A published snapshot, whose quorum is unknown if a deadline has passed since.
    pub(crate) fn as_of_now(&self, published: Arc<Snapshot>) -> Arc<Snapshot> {
        if published.quorum.is_quorate() && !self.is_quorate() {
            return Arc::new(Snapshot { quorum: Quorum::Unknown, ..(*published).clone() });
        }
        published
    }

    /// To wait for the next change.
    pub(crate) fn watch(&self) -> ChangeSignal {
        ChangeSignal(self.latest.subscribe())
    }
}

/// Tells that there was a change.
#[derive(Clone, Debug)]
pub(crate) struct ChangeSignal(watch::Receiver<u64>);

impl ChangeSignal {
    /// Only what comes after this is new.
    pub(crate) fn mark_unchanged(&mut self) {
        self.0.mark_unchanged();
    }

    /// Returns once there was a change; an error if there will be none.
    pub(crate) async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        foreign::contain_wakers(self.0.changed()).await
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Wake},
        time::Duration,
    };

    use super::*;
    use crate::{
        error::{Code, Error},
        libquorum::{NodeId, Notification, RingId},
    };

    fn notified(notification: Notification) -> Event {
        Event::Notified { notification, drained_at: Clock::System.now() }
    }

    fn quorate(policy: BeliefPolicy) -> Shared {
        let shared = Shared::new(policy, Clock::System);
        shared.publish(Event::Connected {
            has_provider: true,
            asked_at: Clock::System.now(),
            watched: false,
        });
        shared.publish(notified(Notification::Quorum {
            quorate: true,
            ring_id: RingId { node_id: NodeId(1), seq: 9 },
            members: vec![NodeId(1)],
        }));
        shared
    }

    /// On the publisher's thread, in the middle of it.
    #[test]
    fn who_is_woken_by_a_loss_reads_it() {
        struct Waiter(Arc<Shared>, AtomicBool);
        impl Wake for Waiter {
            fn wake(self: Arc<Self>) {
                assert!(!self.0.is_quorate() && self.0.lease.running_epoch().is_none());
                assert!(self.0.history.next_after(Some(&self.0.snapshot())).is_none());
                self.1.store(true, Ordering::Release);
            }
        }
        let hour = Duration::from_secs(3600);
        let policy = BeliefPolicy {
            lease: hour,
            settle_grace: hour,
            stable_after: Duration::ZERO,
            trust_two_node: true,
        };
        let shared = Arc::new(quorate(policy));
        let waiter = Arc::new(Waiter(Arc::clone(&shared), AtomicBool::new(false)));
        let waker = Arc::clone(&waiter).into();
        let mut latest = shared.watch();
        let changed = pin!(latest.changed());
        assert!(changed.poll(&mut Context::from_waker(&waker)).is_pending());
        assert!(shared.is_quorate());
        shared.publish(Event::Disconnected(Error::Dispatch(Code::LIBRARY)));
        assert!(waiter.1.load(Ordering::Acquire));
    }

    const HOUR: Duration = Duration::from_secs(3600);

    /// Believes everything.
    fn shared() -> Arc<Shared> {
        Arc::new(quorate(BeliefPolicy {
            lease: HOUR,
            settle_grace: HOUR,
            stable_after: Duration::ZERO,
            trust_two_node: true,
        }))
    }

    /// Does something when it is woken.
    struct Wakes<F>(F);

    impl<F: Fn() + Send + Sync + 'static> Wake for Wakes<F> {
        fn wake(self: Arc<Self>) {
            (self.0)();
        }
    }

    /// Polls it once, with a waker that does this.
    fn wait<F: Future>(
        future: std::pin::Pin<&mut F>,
        wakes: impl Fn() + Send + Sync + 'static,
    ) -> bool {
        future.poll(&mut Context::from_waker(&Arc::new(Wakes(wakes)).into())).is_pending()
    }

    #[test]
    fn a_waker_may_publish() {
        let shared = shared();
        let (publisher, mut news) = (Arc::clone(&shared), shared.watch());
        let changed = pin!(news.changed());
        assert!(wait(changed, move || {
            publisher.publish(Event::Stopped);
        }));
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            shared.publish(Event::Disconnected(Error::Dispatch(Code::LIBRARY)));
            let _ = tell.send(shared.snapshot());
        });
        let snapshot = told.recv_timeout(Duration::from_secs(20)).expect("it does not hang");
        assert_eq!(snapshot.connection, crate::state::Connection::Stopped);
    }

    #[test]
    fn a_waker_that_panics_keeps_nobody_from_being_woken() {
        let shared = shared();
        let mut news: Vec<_> = (0..100).map(|_| shared.watch()).collect();
        let mut waiting: Vec<_> = news.iter_mut().map(|news| Box::pin(news.changed())).collect();
        let woken = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        for (n, waiting) in waiting.iter_mut().enumerate() {
            let woken = Arc::clone(&woken);
            assert!(wait(waiting.as_mut(), move || {
                assert!(n % 10 != 0, "on purpose");
                woken.fetch_add(1, Ordering::AcqRel);
            }));
        }
        shared.publish(Event::Disconnected(Error::Dispatch(Code::LIBRARY)));
        assert_eq!(woken.load(Ordering::Acquire), 90);
    }

    /// As if this thread had been held while it extended the lease: readers have seen it run out.
    #[test]
    fn a_lease_that_is_extended_too_late_is_of_another_epoch() {
        let hour = Duration::from_secs(3600);
        let policy = BeliefPolicy {
            lease: hour,
            settle_grace: hour,
            stable_after: Duration::ZERO,
            trust_two_node: true,
        };
        let shared = quorate(policy);
        let epoch = shared.lease.running_epoch().unwrap();
        shared.publish(Event::Tick);
        assert_eq!(shared.lease.running_epoch(), Some(epoch));
        shared.lease.grant(Clock::System.now(), None, epoch);
        assert!(!shared.is_quorate());
        shared.publish(Event::Tick);
        assert_eq!(shared.lease.running_epoch(), Some(epoch + 1));
        assert_eq!(shared.snapshot().epoch, epoch + 1);
    }

    #[test]
    fn who_reads_goes_by_the_grace_as_by_the_lease() {
        let (grace, lease) = (Duration::from_secs(600), Duration::from_secs(3600));
        let policy = BeliefPolicy {
            lease,
            settle_grace: grace,
            stable_after: Duration::ZERO,
            trust_two_node: true,
        };
        let shared = quorate(policy);
        assert!(shared.is_quorate() && shared.lease.remaining() > grace);
        shared.publish(notified(Notification::Nodelist {
            ring_id: RingId { node_id: NodeId(1), seq: 13 },
            members: vec![NodeId(1)],
            joined: Vec::new(),
            left: Vec::new(),
        }));
        assert!(shared.is_quorate() && shared.lease.remaining() <= grace);
    }
}
