//! The path of an event from the actor to the readers and subscribers: [`Shared::apply`].

#[cfg(feature = "web")]
use std::any::Any;
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
    actor::log_lines::{self, LoggedFacts, Remarks},
    foreign,
    link::clock::{Clock, Moment},
    registry::{History, Registry},
    state::{BeliefPolicy, Event, Now, Quorum, QuorumChanged, Snapshot, Tracker, lease::Lease},
};

/// The state that the actor publishes and all readers share. It outlives the actor.
#[derive(Debug)]
pub(crate) struct Shared {
    tracker: Mutex<Tracker>,
    logged: Mutex<LoggedFacts>,
    pub(crate) lease: Lease,
    /// The sequence number of the last published change. Tasks that wait for a change subscribe to
    /// it.
    latest: watch::Sender<u64>,
    /// Whether `QuorumHandle::stop` was called.
    stopped_by_user: AtomicBool,
    pub(crate) history: Arc<History>,
    pub(crate) registry: Registry,
    #[cfg(feature = "metrics")]
    pub(crate) metrics: crate::metrics::Metrics,
    #[cfg(any(feature = "metrics", feature = "web"))]
    pub(crate) names: Arc<crate::link::names::Names>,
    /// The data that the web routes keep for this actor.
    #[cfg(feature = "web")]
    web: Mutex<Option<Arc<dyn Any + Send + Sync>>>,
    /// When the actor last ran.
    #[cfg(feature = "web")]
    pub(crate) heartbeat: Heartbeat,
}

/// The time at which a task last ran.
#[cfg(feature = "web")]
#[derive(Debug)]
pub(crate) struct Heartbeat {
    began: std::time::Instant,
    /// The time since `began`, in milliseconds.
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

    /// Makes the task count as running for ever, although it never runs again.
    pub(crate) fn beat_for_ever(&self) {
        self.beat.store(u64::MAX, Ordering::Release);
    }

    /// Records that the task is running now.
    pub(crate) fn beat(&self) {
        self.beat.store(self.now(), Ordering::Release);
    }

    /// Returns how long ago the task last ran.
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
            stopped_by_user: AtomicBool::new(false),
            registry: Registry::new(Arc::clone(&history)),
            history,
            tracker: Mutex::new(tracker),
            logged: Mutex::default(),
            #[cfg(feature = "metrics")]
            metrics: crate::metrics::Metrics::default(),
            #[cfg(any(feature = "metrics", feature = "web"))]
            names: Arc::default(),
            #[cfg(feature = "web")]
            web: Mutex::new(None),
            #[cfg(feature = "web")]
            heartbeat: Heartbeat::new(),
        }
    }

    /// Applies an event, and publishes the change if the state has changed. Returns the next moment
    /// at which the state changes without an event, or `None` if no deadline applies.
    pub(crate) fn apply(&self, event: Event) -> Option<Moment> {
        let (changes, deadline, is_shortened) = {
            // The lock is held until the change is in the history, which keeps the changes in
            // order.
            let mut tracker = self.tracker.lock();
            let before = self.lease.granted();
            let change = self.apply_locked(&mut tracker, event);
            // This thread may have been paused when the lease expired, and readers may have seen
            // the expiry.
            let has_lapsed = self.lease.has_lapsed(before);
            let second =
                has_lapsed.then(|| self.apply_locked(&mut tracker, Event::Lapsed)).flatten();
            let until = self.lease.granted().0;
            let is_shortened = until != Moment::default() && until < before.0;
            ([change, second], tracker.deadline(), is_shortened)
        };
        let published = changes.iter().flatten().last().map(|(change, _)| change.current.sequence);
        if published.is_some() || is_shortened {
            // A shortened lease also wakes the waiting tasks, because they sleep until the old
            // deadline. The lock has been released, because this runs the wakers of those tasks.
            foreign::contain(|| {
                self.latest.send_if_modified(|latest| {
                    let newest = published.unwrap_or(*latest).max(*latest);
                    let is_newer = std::mem::replace(latest, newest) < newest;
                    is_newer || is_shortened
                });
            });
        }
        if published.is_some() {
            self.registry.deliver();
        }
        // The changes are recorded and logged after the delivery, because a recorder or a logger
        // may block.
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

    /// See [`Tracker::lacks_announcement`].
    pub(crate) fn lacks_announcement(&self) -> bool {
        self.tracker.lock().lacks_announcement()
    }

    /// Applies an event to the tracker, updates the lease, and appends the change to the history.
    fn apply_locked(
        &self,
        tracker: &mut Tracker,
        event: Event,
    ) -> Option<(QuorumChanged, Remarks)> {
        let now = Now { wall: SystemTime::now(), moment: self.lease.clock().now() };
        let change = tracker.apply(event, now);
        let current = tracker.current();
        // The lease is updated first, so that later readers do not see the old state.
        match tracker.deadline().filter(|_| current.quorum.is_quorate()) {
            Some(until) => self.lease.grant(until, tracker.exclusive_until(), current.epoch),
            None => self.lease.revoke(current.epoch),
        }
        let change = change?;
        let remarks = self.logged.lock().remarks(tracker, &change, now.moment);
        self.history.push(change.clone());
        Some((change, remarks))
    }

    /// Records the current state in the metrics, and repeats if another change was published
    /// meanwhile.
    #[cfg(feature = "metrics")]
    pub(crate) fn record(&self) {
        loop {
            let now = self.lease.clock().now();
            let token_seen = self.tracker.lock().token_seen();
            let snapshot = self.snapshot();
            let state = crate::metrics::State {
                exclusive: self.is_exclusive_as(&snapshot),
                snapshot,
                token_seen: token_seen.map(|(seen_at, lease)| (now.since(seen_at), lease)),
                names: self.names.once_read(),
            };
            foreign::contain(|| self.metrics.record(&state));
            if self.published().sequence == state.snapshot.sequence {
                return;
            }
        }
    }

    /// Records that `QuorumHandle::stop` was called, and publishes `Stopped`.
    pub(crate) fn stop_by_user(&self) {
        self.stopped_by_user.store(true, Ordering::Release);
        self.apply(Event::Stopped);
    }

    /// Whether `QuorumHandle::stop` was called. An actor also stops when its arbiter or `System`
    /// ends, or when it panics.
    pub(crate) fn is_stopped_by_user(&self) -> bool {
        self.stopped_by_user.load(Ordering::Acquire)
    }

    /// Returns the data that the web routes keep for this actor.
    #[cfg(feature = "web")]
    pub(crate) fn web_state<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        let mut state = self.web.lock();
        let kept = state.clone().and_then(|state| state.downcast().ok());
        kept.unwrap_or_else(|| {
            let new = Arc::new(T::default());
            *state = Some(Arc::clone(&new) as Arc<dyn Any + Send + Sync>);
            new
        })
    }

    /// Publishes that a deadline has passed, if the actor has not done so yet. Otherwise a new
    /// subscriber would first receive a `Quorate` state that is out of date.
    pub(crate) fn publish_expiry(&self) {
        if self.published().quorum.is_quorate() && !self.is_quorate() {
            self.apply(Event::Tick);
        }
    }

    pub(crate) fn is_quorate(&self) -> bool {
        self.lease.is_active()
    }

    pub(crate) fn is_exclusive(&self) -> bool {
        self.lease.is_exclusive()
    }

    /// Whether this state is quorate and no other partition can be quorate. Compares the epochs,
    /// because the lease may already belong to a later state.
    #[cfg(any(feature = "metrics", feature = "web"))]
    pub(crate) fn is_exclusive_as(&self, state: &Snapshot) -> bool {
        state.quorum.is_quorate() && self.lease.is_exclusive_in(state.epoch)
    }

    /// Returns the last published snapshot.
    pub(crate) fn published(&self) -> Arc<Snapshot> {
        self.history.current()
    }

    /// Returns the last published snapshot, with the quorum that the deadlines allow now.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.as_of_now(self.published())
    }

    /// Returns `published`, or a copy with quorum unknown if `published` is quorate and a deadline
    /// has passed since.
    pub(crate) fn as_of_now(&self, published: Arc<Snapshot>) -> Arc<Snapshot> {
        if published.quorum.is_quorate() && !self.is_quorate() {
            return Arc::new(Snapshot { quorum: Quorum::Unknown, ..(*published).clone() });
        }
        published
    }

    /// Returns a signal that wakes the caller at the next change.
    pub(crate) fn change_signal(&self) -> ChangeSignal {
        ChangeSignal(self.latest.subscribe())
    }
}

/// Wakes a task when a change is published or the lease is shortened.
#[derive(Clone, Debug)]
pub(crate) struct ChangeSignal(watch::Receiver<u64>);

impl ChangeSignal {
    /// Marks the current state as seen, so that only later changes wake the caller.
    pub(crate) fn mark_unchanged(&mut self) {
        self.0.mark_unchanged();
    }

    /// Returns once a change has been published or the lease has been shortened. Fails if no change
    /// can follow.
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
        shared.apply(Event::Connected {
            has_provider: true,
            asked_at: Clock::System.now(),
            watched: false,
        });
        shared.apply(notified(Notification::Quorum {
            quorate: true,
            ring_id: RingId { node_id: NodeId(1), seq: 9 },
            members: vec![NodeId(1)],
        }));
        shared
    }

    /// The waker runs on the publisher's thread, during the publication.
    #[test]
    fn a_task_woken_by_a_loss_sees_the_loss() {
        struct Waiter(Arc<Shared>, AtomicBool);
        impl Wake for Waiter {
            fn wake(self: Arc<Self>) {
                assert!(!self.0.is_quorate() && self.0.lease.running_epoch().is_none());
                assert!(self.0.history.next_after(Some(&self.0.published())).is_none());
                self.1.store(true, Ordering::Release);
            }
        }
        let hour = Duration::from_secs(3600);
        let policy = BeliefPolicy { lease: hour, settle_grace: hour, ..BeliefPolicy::default() };
        let shared = Arc::new(quorate(policy));
        let waiter = Arc::new(Waiter(Arc::clone(&shared), AtomicBool::new(false)));
        let waker = Arc::clone(&waiter).into();
        let mut latest = shared.change_signal();
        let changed = pin!(latest.changed());
        assert!(changed.poll(&mut Context::from_waker(&waker)).is_pending());
        assert!(shared.is_quorate());
        shared.apply(Event::Disconnected(Error::Dispatch(Code::LIBRARY)));
        assert!(waiter.1.load(Ordering::Acquire));
    }

    const HOUR: Duration = Duration::from_secs(3600);

    /// Returns a quorate state whose deadlines are one hour away.
    fn shared() -> Arc<Shared> {
        Arc::new(quorate(BeliefPolicy {
            lease: HOUR,
            settle_grace: HOUR,
            ..BeliefPolicy::default()
        }))
    }

    /// A waker that calls a function.
    struct Wakes<F>(F);

    impl<F: Fn() + Send + Sync + 'static> Wake for Wakes<F> {
        fn wake(self: Arc<Self>) {
            (self.0)();
        }
    }

    /// Polls the future once, with a waker that calls `on_wake`. Returns whether the future is
    /// pending.
    fn is_pending<F: Future>(
        future: std::pin::Pin<&mut F>,
        on_wake: impl Fn() + Send + Sync + 'static,
    ) -> bool {
        future.poll(&mut Context::from_waker(&Arc::new(Wakes(on_wake)).into())).is_pending()
    }

    /// The waker publishes a change during the publication that wakes it.
    #[test]
    fn a_waker_may_publish() {
        let shared = shared();
        let (publisher, mut signal) = (Arc::clone(&shared), shared.change_signal());
        let changed = pin!(signal.changed());
        assert!(is_pending(changed, move || {
            publisher.apply(Event::Stopped);
        }));
        let (sender, published) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            shared.apply(Event::Disconnected(Error::Dispatch(Code::LIBRARY)));
            let _ = sender.send(shared.published());
        });
        let snapshot =
            published.recv_timeout(Duration::from_secs(20)).expect("the call does not hang");
        assert_eq!(snapshot.connection, crate::state::Connection::Stopped);
    }

    #[test]
    fn a_waker_that_panics_does_not_keep_other_tasks_from_waking() {
        let shared = shared();
        let mut signals: Vec<_> = (0..100).map(|_| shared.change_signal()).collect();
        let mut waiting: Vec<_> =
            signals.iter_mut().map(|signal| Box::pin(signal.changed())).collect();
        let woken = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        for (n, waiting) in waiting.iter_mut().enumerate() {
            let woken = Arc::clone(&woken);
            assert!(is_pending(waiting.as_mut(), move || {
                assert!(n % 10 != 0, "on purpose");
                woken.fetch_add(1, Ordering::AcqRel);
            }));
        }
        shared.apply(Event::Disconnected(Error::Dispatch(Code::LIBRARY)));
        assert_eq!(woken.load(Ordering::Acquire), 90);
    }

    /// The publisher's thread extends the lease after readers have seen it expire.
    #[test]
    fn a_lease_that_is_extended_too_late_begins_a_new_epoch() {
        let hour = Duration::from_secs(3600);
        let policy = BeliefPolicy { lease: hour, settle_grace: hour, ..BeliefPolicy::default() };
        let shared = quorate(policy);
        let epoch = shared.lease.running_epoch().unwrap();
        shared.apply(Event::Tick);
        assert_eq!(shared.lease.running_epoch(), Some(epoch));
        shared.lease.grant(Clock::System.now(), None, epoch);
        assert!(!shared.is_quorate());
        shared.apply(Event::Tick);
        assert_eq!(shared.lease.running_epoch(), Some(epoch + 1));
        assert_eq!(shared.published().epoch, epoch + 1);
    }

    #[test]
    fn a_membership_change_shortens_the_lease_of_readers_to_settle_grace() {
        let (grace, lease) = (Duration::from_secs(600), Duration::from_secs(3600));
        let policy = BeliefPolicy { lease, settle_grace: grace, ..BeliefPolicy::default() };
        let shared = quorate(policy);
        assert!(shared.is_quorate() && shared.lease.remaining() > grace);
        shared.apply(notified(Notification::Nodelist {
            ring_id: RingId { node_id: NodeId(1), seq: 13 },
            members: vec![NodeId(1)],
            joined: Vec::new(),
            left: Vec::new(),
        }));
        assert!(shared.is_quorate() && shared.lease.remaining() <= grace);
    }

    /// The actor hangs just after a read of the ring has shortened the deadline without changing
    /// the snapshot.
    #[test]
    #[expect(clippy::too_many_lines, reason = "one sequence of events")]
    fn lost_resolves_on_time_even_if_the_actor_hangs_after_a_read_shortens_the_deadline() {
        use crate::link::ring_reading::{RingCounters, RingReading, RingUpdate};
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let policy = BeliefPolicy {
            lease: HOUR,
            settle_grace: Duration::from_millis(100),
            ..BeliefPolicy::default()
        };
        let shared = Arc::new(Shared::new(policy, Clock::System));
        let now = || Clock::System.now();
        let ring = |seq| RingId { node_id: NodeId(1), seq };
        let decide = |seq| {
            let list = Notification::Nodelist {
                ring_id: ring(seq),
                members: vec![NodeId(1)],
                joined: vec![],
                left: vec![],
            };
            let drained_at = now();
            shared.apply(Event::Notified { notification: list, drained_at });
            let quorum = Notification::Quorum {
                quorate: true,
                ring_id: ring(seq),
                members: vec![NodeId(1)],
            };
            shared.apply(Event::Notified { notification: quorum, drained_at });
        };
        let tokens = std::cell::Cell::new(0);
        let read = |op: u64| {
            tokens.set(tokens.get() + 1);
            let reading = RingReading {
                connection: 0,
                asked_at: now(),
                answered_at: now(),
                counters: RingCounters {
                    gather_entered: op,
                    operational_entered: op,
                    token_lost: 0,
                    recovery_entered: op,
                    recovery_token_lost: 0,
                },
                tokens: tokens.get(),
                token: Duration::from_millis(3000),
                consensus: Duration::from_millis(400),
                configured_votes: None,
                age: Duration::ZERO,
            };
            shared.apply(Event::Ring(RingUpdate::Read(reading)));
        };
        shared.apply(Event::Connected { has_provider: true, asked_at: now(), watched: true });
        let answer = || crate::link::probe::Answer {
            asked_at: now(),
            quorate: true,
            local: Some(NodeId(1)),
            votes: Some({
                let mut v = crate::libquorum::Votes::default();
                (v.quorum, v.total, v.expected, v.highest_expected) = (1, 1, 1, 1);
                v.members = vec![(NodeId(1), 1)];
                v
            }),
        };
        decide(9);
        std::thread::sleep(Duration::from_millis(5));
        shared.apply(Event::Answered(answer()));
        for _ in 0..4 {
            read(1);
            std::thread::sleep(Duration::from_millis(60));
        }
        assert!(shared.is_quorate());
        decide(13);
        assert!(shared.is_quorate(), "not quorate: {}", shared.published());
        let guard = crate::actor::QuorumGuard::new(&shared).unwrap();
        runtime.block_on(async {
            let since = std::time::Instant::now();
            let lost = async {
                guard.lost().await;
                since.elapsed()
            };
            let then = async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                read(2); // and nothing more: the actor is stuck
                while guard.is_valid() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                since.elapsed()
            };
            let (lost, invalid) = futures_util::future::join(lost, then).await;
            assert!(
                lost < invalid + Duration::from_secs(1),
                "lost() {lost:?}, invalid {invalid:?}"
            );
        });
    }
}
