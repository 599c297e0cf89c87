//! Delivery, from the publication of a change to the subscribers.

use std::{
    pin::Pin,
    sync::{
        Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
    thread,
    time::{Duration, Instant, SystemTime},
};

use actix::{
    Actor, ActorContext as _, Addr, Arbiter, AsyncContext as _, Context as ActorContext, Handler,
    Recipient, ResponseFuture, System,
};
use tokio::sync::mpsc;

use super::*;
use crate::{
    libquorum::{NodeId, Notification, RingId},
    link::clock::{Clock, Moment},
    state::{BeliefPolicy, Cause, Connection, Event, Now, QuorumChanged, Tracker},
};

const DEADLINE: Duration = Duration::from_secs(20);

/// Publishes changes as the actor does.
struct Shared {
    tracker: Mutex<Tracker>,
    history: Arc<History>,
    registry: Registry,
}

impl Shared {
    fn new(policy: BeliefPolicy) -> Self {
        let tracker = Tracker::new(policy, SystemTime::now());
        let history = Arc::new(History::new(Arc::clone(tracker.current())));
        let registry = Registry::new(Arc::clone(&history));
        Self { tracker: Mutex::new(tracker), history, registry }
    }

    fn apply(&self, event: Event) {
        let now = Now { wall: SystemTime::now(), moment: Clock::System.now() };
        let mut tracker = self.tracker.lock();
        if let Some(change) = tracker.apply(event, now) {
            self.history.push(change);
            drop(tracker);
            self.registry.deliver();
        }
    }

    fn is_quorate(&self) -> bool {
        self.tracker.lock().current().quorum.is_quorate()
    }
}

/// Publishes `n` changes, each a flip of quorum.
fn flip(shared: &Shared, n: u64) {
    for _ in 0..n {
        let quorate = !shared.is_quorate();
        let ring_id = RingId { node_id: NodeId(1), seq: 9 };
        shared.apply(Event::Notified {
            notification: Notification::Quorum { quorate, ring_id, members: vec![NodeId(1)] },
            drained_at: Moment::default(),
        });
    }
}

fn connected() -> Arc<Shared> {
    let hour = Duration::from_secs(3600);
    let policy = BeliefPolicy { lease: hour, settle_grace: hour, ..BeliefPolicy::default() };
    let shared = Arc::new(Shared::new(policy));
    shared.apply(Event::Connected {
        has_provider: true,
        asked_at: Clock::System.now(),
        watched: false,
    });
    shared
}

/// Passes each message on to the test, and blocks in the handler while `stuck` is true.
struct Probe {
    sender: mpsc::UnboundedSender<QuorumChanged>,
    stuck: Arc<AtomicBool>,
}

impl Probe {
    fn wait(&self) {
        while self.stuck.load(Ordering::Acquire) {
            thread::yield_now();
        }
    }
}

impl Actor for Probe {
    type Context = ActorContext<Self>;
}

impl Handler<QuorumChanged> for Probe {
    type Result = ();

    fn handle(&mut self, change: QuorumChanged, _: &mut Self::Context) {
        self.sender.send(change.clone()).ok();
        self.wait();
    }
}

/// A subscriber as its test sees it.
struct Subscribed {
    addr: Option<Addr<Probe>>,
    received: mpsc::UnboundedReceiver<QuorumChanged>,
    stuck: Arc<AtomicBool>,
    arbiter: Arbiter,
}

/// Starts a probe on its own arbiter.
fn subscriber() -> Subscribed {
    let (sender, received) = mpsc::unbounded_channel();
    let stuck = Arc::new(AtomicBool::new(false));
    let arbiter = Arbiter::new();
    let probe = Probe { sender, stuck: Arc::clone(&stuck) };
    let addr = Actor::start_in_arbiter(&arbiter.handle(), |_| probe);
    Subscribed { addr: Some(addr), received, stuck, arbiter }
}

impl Subscribed {
    fn recipient(&self) -> Recipient<QuorumChanged> {
        self.addr.clone().unwrap().recipient()
    }

    async fn next(&mut self) -> QuorumChanged {
        tokio::time::timeout(DEADLINE, self.received.recv())
            .await
            .expect("a message arrives")
            .unwrap()
    }

    /// Returns once the message with this sequence has arrived. Fails on a gap or a duplicate.
    /// Returns the number of messages and of missed changes.
    async fn up_to(&mut self, sequence: u64) -> (u64, u64) {
        let first = self.next().await;
        assert_eq!(first.cause, Cause::Subscribed);
        let (mut at, mut received, mut missed) = (first.current.sequence, 0, 0);
        while at < sequence {
            let change = self.next().await;
            assert_eq!(
                change.previous.sequence, at,
                "each message continues from the previous one"
            );
            assert_eq!(
                change.current.sequence,
                at + 1 + change.missed,
                "the gap is the number of missed changes"
            );
            at = change.current.sequence;
            received += 1;
            missed += change.missed;
        }
        assert_eq!(at, sequence);
        (received, missed)
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.stuck.store(false, Ordering::Release);
        self.arbiter.stop();
    }
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::task::yield_now().await;
    }
}

fn run(test: impl Future<Output = ()>) {
    System::new().block_on(test);
}

#[test]
fn a_subscriber_receives_the_current_state_first_and_then_every_change() {
    run(async {
        let shared = connected();
        flip(&shared, 1);
        let mut probe = subscriber();
        shared.registry.subscribe(probe.recipient().into());
        let first = probe.next().await;
        assert_eq!((first.cause, first.current.sequence), (Cause::Subscribed, 2));
        assert!(first.is_gain() && first.missed == 0);
        assert_eq!(&*first.joined, [NodeId(1)]);
        for sequence in 3..=10 {
            flip(&shared, 1);
            let change = probe.next().await;
            assert_eq!((change.current.sequence, change.missed), (sequence, 0));
            assert_eq!(change.is_loss(), sequence % 2 == 1);
        }
    });
}

#[test]
fn a_subscriber_that_keeps_up_with_a_burst_misses_nothing() {
    run(async {
        let shared = connected();
        let mut probe = subscriber();
        shared.registry.subscribe(probe.recipient().into());
        flip(&shared, HISTORY_LEN as u64);
        assert_eq!(probe.up_to(HISTORY_LEN as u64 + 1).await.1, 0);
    });
}

#[test]
fn subscribing_during_changes_from_any_thread_causes_no_gap_and_no_duplicate() {
    run(async {
        let shared = connected();
        let mut probes: Vec<Subscribed> = (0..4).map(|_| subscriber()).collect();
        let last = 20_001;
        thread::scope(|scope| {
            let publisher = Arc::clone(&shared);
            scope.spawn(move || flip(&publisher, last - 1));
            for probe in &probes {
                let shared = &shared;
                let recipient = probe.recipient();
                scope.spawn(move || shared.registry.subscribe(recipient.into()));
            }
        });
        for probe in &mut probes {
            probe.up_to(last).await;
        }
    });
}

#[test]
fn a_stuck_subscriber_uses_no_extra_memory_and_then_receives_the_latest_state() {
    run(async {
        let shared = connected();
        let (mut stuck, mut other) = (subscriber(), subscriber());
        stuck.stuck.store(true, Ordering::Release);
        shared.registry.subscribe(stuck.recipient().into());
        shared.registry.subscribe(other.recipient().into());
        assert_eq!(stuck.next().await.current.sequence, 1);
        flip(&shared, 100_000);
        let (received, missed) = other.up_to(100_001).await;
        assert_eq!(received + missed, 100_000);
        {
            // A stuck subscriber holds one message and one snapshot.
            let subscriptions = shared.registry.subscriptions.lock();
            let delivery = subscriptions[0].delivery.lock();
            assert!(delivery.in_mailbox.is_some());
            assert_eq!(delivery.progress.last_sent.as_ref().unwrap().sequence, 1);
        }
        stuck.stuck.store(false, Ordering::Release);
        let change = stuck.next().await;
        assert_eq!((change.current.sequence, change.missed), (100_001, 99_999));
        assert_eq!(change.previous.sequence, 1);
    });
}

#[cfg(feature = "metrics")]
#[test]
fn the_numbers_of_subscribers_and_of_merged_messages_are_recorded() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let value = |name: &str| {
        let rendered = recorder.handle().render();
        rendered.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
    };
    let (subscribers, merged) = ("quorum_subscribers ", "quorum_conflated_deliveries_total ");
    let test = async {
        let shared = connected();
        let mut probe = subscriber();
        probe.stuck.store(true, Ordering::Release);
        let id = shared.registry.subscribe(probe.recipient().into());
        probe.next().await;
        flip(&shared, HISTORY_LEN as u64 + 1);
        assert_eq!((value(subscribers), value(merged)), (Some(1), None));
        probe.stuck.store(false, Ordering::Release);
        assert!(probe.next().await.missed > 0);
        for _ in 0..2 {
            shared.registry.deliver();
            assert_eq!(value(merged), Some(1), "each merged message is counted once");
        }
        shared.registry.unsubscribe(id);
        assert_eq!(value(subscribers), Some(0));
    };
    ::metrics::with_local_recorder(&recorder, || run(test));
}

#[cfg(feature = "web")]
#[test]
fn the_history_returns_its_last_changes_and_the_states_before_the_latest() {
    let shared = connected();
    flip(&shared, HISTORY_LEN as u64 + 1);
    let latest = HISTORY_LEN as u64 + 2;
    let last = |limit| -> Vec<u64> {
        shared.history.last(limit).iter().map(|change| change.current.sequence).collect()
    };
    assert_eq!((last(0), last(2)), (vec![], vec![latest - 1, latest]));
    assert_eq!(last(usize::MAX), (3..=latest).collect::<Vec<_>>());
    let found = |sequence| shared.history.snapshot_at(sequence).map(|found| found.sequence);
    for sequence in [3, 4, latest - 1] {
        assert_eq!(found(sequence), Some(sequence));
    }
    for sequence in [2, latest, latest + 1] {
        assert_eq!(found(sequence), None, "the state {sequence}");
    }
}

/// Returns a subscription whose first message was handled. While the subscriber handled it, another
/// delivery stored a waker that holds the subscription.
async fn used_subscription() -> (Arc<Shared>, Subscribed, Weak<Subscription>) {
    let shared = connected();
    let mut probe = subscriber();
    probe.stuck.store(true, Ordering::Release);
    shared.registry.subscribe(probe.recipient().into());
    let left = Arc::downgrade(&shared.registry.subscriptions.lock()[0]);
    probe.next().await;
    shared.registry.deliver();
    probe.stuck.store(false, Ordering::Release);
    let last_acked = |left: Arc<Subscription>| left.last_acked.load(Ordering::Acquire) > 0;
    eventually("the message is handled", || left.upgrade().is_some_and(last_acked)).await;
    (shared, probe, left)
}

#[test]
fn a_subscriber_that_ends_leaves_nothing_behind() {
    run(async {
        let (shared, probe, left) = used_subscription().await;
        probe.arbiter.stop();
        eventually("the subscription is removed", || shared.registry.len() == 0).await;
        eventually("the subscription is freed", || left.upgrade().is_none()).await;
    });
}

/// The actor was dropped without publishing its end.
#[test]
fn a_registry_that_is_dropped_before_the_actor_stops_frees_its_subscriptions() {
    run(async {
        let (shared, _probe, left) = used_subscription().await;
        drop(shared);
        eventually("the subscription is freed", || left.upgrade().is_none()).await;
    });
}

/// The handle and the actor are dropped before the subscribers run again.
#[test]
fn every_live_subscriber_receives_stopped_after_the_registry_is_dropped() {
    run(async {
        let shared = connected();
        flip(&shared, 1);
        let mut probes: Vec<Subscribed> = (0..10).map(|_| subscriber()).collect();
        for probe in &probes {
            probe.stuck.store(true, Ordering::Release);
            shared.registry.subscribe(probe.recipient().into());
        }
        for (n, probe) in probes.iter_mut().enumerate() {
            assert!(probe.next().await.is_gain());
            // Every second subscriber becomes idle. Then another message blocks its arbiter.
            if n % 2 == 0 {
                probe.stuck.store(false, Ordering::Release);
                let addr = probe.addr.clone().unwrap();
                addr.send(Barrier).await.unwrap();
                probe.stuck.store(true, Ordering::Release);
                addr.do_send(Barrier);
            }
        }
        flip(&shared, 1);
        shared.apply(Event::Stopped);
        let left: Vec<_> =
            shared.registry.subscriptions.lock().iter().map(Arc::downgrade).collect();
        drop(shared);
        for (n, probe) in probes.iter_mut().enumerate() {
            probe.stuck.store(false, Ordering::Release);
            assert!(probe.next().await.is_loss(), "subscriber {n}");
            let last = probe.next().await;
            assert_eq!(last.current.connection, Connection::Stopped, "subscriber {n}");
        }
        eventually("every subscription is freed", || {
            left.iter().all(|left| left.upgrade().is_none())
        })
        .await;
    });
}

/// A waker of the user, such as that of an executor that runs an actor.
struct Waking(Box<dyn Fn() + Send + Sync>);

impl Wake for Waking {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

/// A subscriber that the test polls, with a waker that calls `act` with the id of the subscription.
struct Polled {
    running: Pin<Box<dyn Future<Output = ()>>>,
    waker: Waker,
    received: mpsc::UnboundedReceiver<QuorumChanged>,
    id: SubscriptionId,
}

impl Polled {
    fn new(
        shared: &Arc<Shared>,
        act: impl Fn(&Shared, SubscriptionId) + Send + Sync + 'static,
    ) -> Self {
        let (sender, received) = mpsc::unbounded_channel();
        let context = ActorContext::new();
        let recipient = context.address().recipient();
        let running = Box::pin(context.into_future(Probe { sender, stuck: Arc::default() }));
        let id = shared.registry.subscribe(recipient.into());
        let shared = Arc::downgrade(shared);
        let waking = Waking(Box::new(move || {
            if let Some(shared) = shared.upgrade() {
                act(&shared, id);
            }
        }));
        let mut polled = Self { running, waker: Arc::new(waking).into(), received, id };
        assert_eq!(polled.poll().unwrap().cause, Cause::Subscribed);
        polled
    }

    /// Polls the actor, which handles the messages in its mailbox. Returns the oldest message that
    /// the actor has received and this function has not returned.
    fn poll(&mut self) -> Option<QuorumChanged> {
        let _ = self.running.as_mut().poll(&mut Context::from_waker(&self.waker));
        self.received.try_recv().ok()
    }
}

/// Publishes a change on another thread, which must not hang.
async fn flip_elsewhere(shared: &Arc<Shared>) {
    let publisher = Arc::clone(shared);
    let publishing = thread::spawn(move || flip(&publisher, 1));
    eventually("the change is published", || publishing.is_finished()).await;
    publishing.join().expect("the publisher does not panic");
}

/// The waker runs during the delivery, on the publisher's thread.
#[test]
fn the_waker_of_a_subscriber_may_unsubscribe_it() {
    run(async {
        let (shared, mut other) = (connected(), subscriber());
        let mut polled = Polled::new(&shared, |shared, id| {
            shared.registry.unsubscribe(id);
        });
        shared.registry.subscribe(other.recipient().into());
        flip_elsewhere(&shared).await;
        assert_eq!(polled.poll(), None, "the message is withdrawn");
        assert_eq!(shared.registry.len(), 1);
        assert_eq!(other.up_to(2).await.0, 1);
    });
}

#[test]
fn the_waker_of_a_subscriber_may_wait_for_a_thread_that_unsubscribes_it() {
    run(async {
        let shared = connected();
        let mut polled = Polled::new(&shared, |shared, id| {
            thread::scope(|scope| {
                scope.spawn(|| shared.registry.unsubscribe(id));
            });
        });
        flip_elsewhere(&shared).await;
        assert_eq!(polled.poll(), None, "the message is withdrawn");
        assert_eq!(shared.registry.len(), 0);
    });
}

#[test]
fn the_waker_of_a_subscriber_may_request_the_current_state() {
    run(async {
        let shared = connected();
        let mut polled = Polled::new(&shared, |shared, id| {
            shared.registry.resend(id);
        });
        flip_elsewhere(&shared).await;
        let again = polled.poll().unwrap();
        assert_eq!((again.cause, again.current.sequence), (Cause::Subscribed, 2));
        drop(again);
        assert_eq!(polled.poll(), None);
        assert!(shared.registry.unsubscribe(polled.id));
    });
}

#[test]
fn a_panic_in_the_waker_of_a_subscriber_ends_only_its_subscription() {
    run(async {
        let (shared, mut other) = (connected(), subscriber());
        let mut polled = Polled::new(&shared, |_, _| panic!("on purpose"));
        shared.registry.subscribe(other.recipient().into());
        flip_elsewhere(&shared).await;
        assert_eq!(polled.poll(), None);
        assert_eq!(shared.registry.len(), 1);
        flip_elsewhere(&shared).await;
        assert_eq!(other.up_to(3).await.0, 2);
    });
}

/// No registry is left to remove the subscription, so the end of its subscriber must free it.
#[test]
fn a_subscriber_that_dies_after_the_registry_frees_its_subscription() {
    run(async {
        let shared = connected();
        let mut probe = subscriber();
        probe.stuck.store(true, Ordering::Release);
        shared.registry.subscribe(probe.recipient().into());
        probe.next().await;
        let left = Arc::downgrade(&shared.registry.subscriptions.lock()[0]);
        shared.apply(Event::Stopped);
        drop(shared);
        probe.arbiter.stop();
        probe.stuck.store(false, Ordering::Release);
        eventually("the subscription is freed", || left.upgrade().is_none()).await;
    });
}

/// The handler's future runs beside the actor (actix `handler.rs`), and outlives it.
#[test]
fn a_dead_subscriber_is_removed_even_while_its_handler_holds_the_message() {
    struct Holder(mpsc::UnboundedSender<u64>);
    impl Actor for Holder {
        type Context = ActorContext<Self>;
    }
    impl Handler<QuorumChanged> for Holder {
        type Result = ResponseFuture<()>;
        fn handle(&mut self, change: QuorumChanged, ctx: &mut Self::Context) -> Self::Result {
            self.0.send(change.current.sequence).ok();
            ctx.stop();
            Box::pin(async move {
                std::future::pending::<()>().await;
                drop(change);
            })
        }
    }
    run(async {
        let shared = connected();
        let (sender, mut received) = mpsc::unbounded_channel();
        let holder = Holder(sender).start();
        let recipient = holder.clone().recipient();
        shared.registry.subscribe(recipient.into());
        assert_eq!(received.recv().await, Some(1));
        eventually("the actor has ended", || !holder.connected()).await;
        eventually("the subscription is removed", || shared.registry.len() == 0).await;
    });
}

#[test]
fn nodes_that_left_for_good_are_removed_from_the_departure_log() {
    let shared = connected();
    for node in 2..5_000_u32 {
        shared.apply(Event::Notified {
            notification: Notification::Nodelist {
                ring_id: RingId { node_id: NodeId(1), seq: u64::from(node) },
                members: vec![NodeId(1), NodeId(node)],
                joined: Vec::new(),
                left: Vec::new(),
            },
            drained_at: Moment::default(),
        });
    }
    let kept = shared.history.record.lock().departures.len();
    assert!(kept <= 2, "{kept} departures are kept");
}

/// A supervised actor that lost its state in a restart asks for the current state again.
#[test]
fn resend_replaces_the_waiting_message_with_the_current_state() {
    run(async {
        let shared = connected();
        let mut probe = subscriber();
        let id = shared.registry.subscribe(probe.recipient().into());
        probe.next().await;
        // Blocks the subscriber, so that the next change waits in its mailbox.
        probe.stuck.store(true, Ordering::Release);
        probe.addr.clone().unwrap().do_send(Barrier);
        flip(&shared, 3);
        assert!(shared.registry.resend(id));
        probe.stuck.store(false, Ordering::Release);
        let again = probe.next().await;
        assert_eq!((again.cause, again.current.sequence), (Cause::Subscribed, 4));
        assert!(again.is_gain() && again.missed == 0);
        flip(&shared, 1);
        let change = probe.next().await;
        assert_eq!((change.previous.sequence, change.current.sequence), (4, 5));
        // The same happens if the mailbox is empty.
        assert!(shared.registry.resend(id));
        assert_eq!(probe.next().await.cause, Cause::Subscribed);
        shared.registry.unsubscribe(id);
        assert!(!shared.registry.resend(id));
    });
}

#[test]
fn a_subscriber_of_a_stopped_actor_receives_stopped_and_leaves_nothing_behind() {
    run(async {
        let shared = connected();
        shared.apply(Event::Stopped);
        let mut probe = subscriber();
        for _ in 0..10 {
            shared.registry.subscribe(probe.recipient().into());
            assert_eq!(probe.next().await.current.connection, Connection::Stopped);
        }
        let subscribed = || shared.registry.subscriptions.lock().len();
        assert!(subscribed() <= 2, "{} subscriptions are kept", subscribed());
    });
}

#[test]
fn a_subscriber_that_panics_is_removed_and_the_others_receive_everything() {
    struct Panics;
    impl Actor for Panics {
        type Context = ActorContext<Self>;
    }
    impl Handler<QuorumChanged> for Panics {
        type Result = ();
        fn handle(&mut self, _: QuorumChanged, _: &mut Self::Context) {
            panic!("on purpose");
        }
    }
    run(async {
        let shared = connected();
        let mut probe = subscriber();
        shared.registry.subscribe(Panics.start().recipient().into());
        shared.registry.subscribe(probe.recipient().into());
        flip(&shared, 10);
        probe.up_to(11).await;
        eventually("the subscriber that panicked is removed", || {
            shared.registry.deliver();
            shared.registry.len() == 1
        })
        .await;
    });
}

#[test]
fn a_recipient_keeps_its_actor_alive_until_it_is_unsubscribed() {
    run(async {
        let shared = connected();
        let mut probe = subscriber();
        let weak = probe.addr.as_ref().unwrap().downgrade();
        let id = shared.registry.subscribe(probe.recipient().into());
        probe.addr = None;
        flip(&shared, 5);
        probe.up_to(6).await;
        assert!(weak.upgrade().is_some());
        assert!(shared.registry.unsubscribe(id));
        assert!(!shared.registry.unsubscribe(id), "the subscriber is already removed");
        eventually("the subscriber's actor ends", || weak.upgrade().is_none()).await;
    });
}

#[test]
fn a_weak_recipient_lets_its_actor_end_and_is_removed() {
    run(async {
        let shared = connected();
        let mut probe = subscriber();
        let weak = probe.recipient().downgrade();
        shared.registry.subscribe(weak.into());
        flip(&shared, 5);
        probe.up_to(6).await;
        probe.addr = None;
        eventually("the subscription is removed", || {
            shared.registry.deliver();
            shared.registry.len() == 0
        })
        .await;
    });
}

#[test]
fn nothing_is_handled_after_unsubscribing() {
    run(async {
        let shared = connected();
        let mut probe = subscriber();
        // Blocks the subscriber with another message, so that the change waits in its mailbox.
        probe.stuck.store(true, Ordering::Release);
        let addr = probe.addr.clone().unwrap();
        addr.do_send(Barrier);
        let id = shared.registry.subscribe(probe.recipient().into());
        flip(&shared, 10);
        assert!(shared.registry.subscriptions.lock()[0].delivery.lock().in_mailbox.is_some());
        assert!(shared.registry.unsubscribe(id));
        flip(&shared, 10);
        probe.stuck.store(false, Ordering::Release);
        // The mailbox keeps the order of messages: the answer to this one arrives after all earlier
        // messages have been handled.
        addr.send(Barrier).await.unwrap();
        assert!(probe.received.try_recv().is_err());
    });
}

#[test]
fn an_async_handler_that_dropped_its_message_receives_the_next_change() {
    struct Leader(mpsc::UnboundedSender<QuorumChanged>);
    impl Actor for Leader {
        type Context = ActorContext<Self>;
    }
    impl Handler<QuorumChanged> for Leader {
        type Result = ResponseFuture<()>;
        fn handle(&mut self, change: QuorumChanged, _: &mut Self::Context) -> Self::Result {
            self.0.send(change.clone()).ok();
            Box::pin(std::future::pending())
        }
    }
    run(async {
        let shared = connected();
        let (sender, mut received) = mpsc::unbounded_channel();
        shared.registry.subscribe(Leader(sender).start().recipient().into());
        for sequence in 1..=5 {
            let change = tokio::time::timeout(DEADLINE, received.recv()).await.unwrap().unwrap();
            assert_eq!((change.current.sequence, change.missed), (sequence, 0));
            flip(&shared, 1);
        }
    });
}

/// Keeps all its messages. Passes their number on to the test.
struct Collector(Vec<QuorumChanged>, mpsc::UnboundedSender<usize>);

impl Actor for Collector {
    type Context = ActorContext<Self>;
}

impl Handler<QuorumChanged> for Collector {
    type Result = ();
    fn handle(&mut self, change: QuorumChanged, _: &mut Self::Context) {
        self.0.push(change);
        self.1.send(self.0.len()).ok();
    }
}

#[test]
fn a_subscriber_that_keeps_all_its_messages_receives_every_change() {
    run(async {
        let shared = connected();
        let (sender, mut received) = mpsc::unbounded_channel();
        shared.registry.subscribe(Collector(Vec::new(), sender).start().recipient().into());
        for n in 1..=100 {
            let kept = tokio::time::timeout(DEADLINE, received.recv()).await.unwrap();
            assert_eq!(kept, Some(n));
            flip(&shared, 1);
        }
        // After the last of these changes no publisher is running, so each further message must be
        // sent from the subscriber's thread.
        flip(&shared, 100);
        for n in 101..=201 {
            let kept = tokio::time::timeout(DEADLINE, received.recv()).await.unwrap();
            assert_eq!(kept, Some(n));
        }
    });
}

/// On a multi-threaded runtime, if a task that has exhausted its budget polls a future, the future
/// immediately wakes the task, on the task's own thread.
#[test]
fn an_exhausted_task_budget_does_not_stop_delivery() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    System::with_tokio_rt(|| runtime().unwrap()).block_on(async {
        let shared = connected();
        let mut probe = subscriber();
        // The publisher's task exhausts its budget with messages that are ready.
        let (sender, mut ready) = mpsc::unbounded_channel();
        (0..1000).for_each(|n| sender.send(n).unwrap());
        for _ in 0..1000 {
            ready.recv().await.unwrap();
            shared.registry.subscribe(probe.recipient().into());
        }
        assert_eq!(shared.registry.len(), 1000);
        probe.next().await;
    });
    System::with_tokio_rt(|| runtime().unwrap()).block_on(async {
        // The task of a subscriber on the same runtime exhausts its budget while the subscriber
        // catches up.
        let shared = connected();
        let (sender, received) = mpsc::unbounded_channel();
        let stuck = Arc::new(AtomicBool::new(false));
        let probe = Probe { sender, stuck: Arc::clone(&stuck) }.start();
        shared.registry.subscribe(probe.recipient().into());
        flip(&shared, 500);
        let arbiter = Arbiter::new();
        let mut subscriber = Subscribed { addr: None, received, stuck, arbiter };
        assert_eq!(subscriber.up_to(501).await.1, 0);
    });
}

#[test]
fn no_subscriber_is_kept_alive_after_the_actor_has_stopped() {
    run(async {
        let shared = connected();
        let mut probe = subscriber();
        let addr = probe.addr.take().unwrap();
        let weak = addr.downgrade();
        shared.registry.subscribe(addr.recipient().into());
        assert!(weak.upgrade().is_some());
        shared.apply(Event::Stopped);
        probe.up_to(2).await;
        eventually("the subscriber's actor ends", || weak.upgrade().is_none()).await;
        assert_eq!(shared.registry.len(), 0);
    });
}

/// Each message that the subscriber keeps also keeps the subscription alive, and the subscription
/// must not keep the subscriber alive.
#[test]
fn a_subscriber_that_holds_its_last_message_is_freed_after_the_actor_has_stopped() {
    run(async {
        let shared = connected();
        let (sender, mut received) = mpsc::unbounded_channel();
        let addr = Collector(Vec::new(), sender).start();
        let weak = addr.downgrade();
        shared.registry.subscribe(addr.recipient().into());
        assert_eq!(received.recv().await, Some(1));
        shared.apply(Event::Stopped);
        assert_eq!(received.recv().await, Some(2));
        eventually("the subscriber's actor ends", || weak.upgrade().is_none()).await;
    });
}

/// A message that blocks the handler as a change does, but is not passed on to the test.
struct Barrier;

impl actix::Message for Barrier {
    type Result = ();
}

impl Handler<Barrier> for Probe {
    type Result = ();

    fn handle(&mut self, _: Barrier, _: &mut Self::Context) {
        self.wait();
    }
}

/// The actor calls the registry from its own handler.
#[test]
fn a_handler_may_subscribe_and_unsubscribe_another_actor() {
    struct Nested {
        shared: Arc<Shared>,
        inner: Recipient<QuorumChanged>,
        id: Option<SubscriptionId>,
    }
    impl Actor for Nested {
        type Context = ActorContext<Self>;
    }
    impl Handler<QuorumChanged> for Nested {
        type Result = ();
        fn handle(&mut self, _: QuorumChanged, _: &mut Self::Context) {
            if let Some(id) = self.id.take() {
                self.shared.registry.unsubscribe(id);
            } else {
                self.id = Some(self.shared.registry.subscribe(self.inner.clone().into()));
            }
        }
    }
    run(async {
        let shared = connected();
        let mut probe = subscriber();
        let nested =
            Nested { shared: Arc::clone(&shared), inner: probe.recipient(), id: None }.start();
        shared.registry.subscribe(nested.recipient().into());
        assert_eq!(probe.next().await.cause, Cause::Subscribed);
        flip(&shared, 1);
        eventually("the inner subscription has ended", || shared.registry.len() == 1).await;
    });
}
