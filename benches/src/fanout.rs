//! Measures the publication of one change to many subscribers.
//!
//! All publishers send to the same actors on one arbiter, which is the publisher's or another one.
//! The publisher's cost is the time between two moments that a program can observe: the actor wakes
//! the tasks in `wait_for` right before the delivery, and logs the change right after it.

use std::{
    cell::Cell,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    task::{Context, Wake, Waker},
    time::{Duration, Instant},
};

use actix::{
    Actor, Addr, Arbiter, ArbiterHandle, Context as ActorContext, Handler, Message, Recipient,
    System, prelude::RecipientRequest,
};
use actix_broker::{Broker, BrokerSubscribe, SystemBroker};
use actix_quorum::{Cause, QuorumActor, QuorumChanged, QuorumHandle, sim::Cluster};
use log::{LevelFilter, Log, Metadata, Record};
use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    sync::{broadcast, watch},
    task::coop::{Unconstrained, unconstrained},
};

use crate::{clock, report::Report, stats::Sample, support::eventually};

const DEADLINE: Duration = Duration::from_secs(60);

const COUNTS: [usize; 6] = [1, 10, 100, 1_000, 10_000, 100_000];

/// A message that was sent and may not have been handled yet.
type Request = Option<Pin<Box<Unconstrained<RecipientRequest<QuorumChanged>>>>>;

/// The kinds of publishers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Publisher {
    Registry,
    DoSend,
    Send,
    Watch,
    Broadcast,
    Broker,
}

const PUBLISHERS: [(Publisher, &str); 6] = [
    (Publisher::Registry, "actix-quorum"),
    (Publisher::DoSend, "Vec<Recipient>, do_send"),
    (Publisher::Send, "Vec<Recipient>, send, with its result"),
    (Publisher::Watch, "tokio::sync::watch"),
    (Publisher::Broadcast, "tokio::sync::broadcast"),
    (Publisher::Broker, "actix-broker"),
];

pub(crate) fn run(report: &mut Report) {
    install_log_clock();
    let mut plotted = Vec::new();
    for same in [true, false] {
        for count in COUNTS {
            let subscribers = Subscribers::start(count, same);
            let rounds = (400_000 / count).clamp(11, 1000);
            let mut costs = vec![Sample::default(); PUBLISHERS.len()];
            let mut times = vec![Sample::default(); PUBLISHERS.len()];
            for _ in 0..rounds {
                for (index, (publisher, _)) in PUBLISHERS.iter().enumerate() {
                    // The first publication fills the caches, so that no publisher depends on the
                    // one before.
                    subscribers.publish(*publisher);
                    let (cost, time) = subscribers.publish(*publisher);
                    costs[index].extend(cost.map(|cost| cost as f64 / count as f64));
                    times[index].push(time as f64 / 1e3);
                }
            }
            subscribers.stop();
            let arbiter = if same { "same arbiter" } else { "another arbiter" };
            let floor = PUBLISHERS
                .iter()
                .position(|(publisher, _)| *publisher == Publisher::Send)
                .expect("the list contains it");
            for (index, (publisher, name)) in PUBLISHERS.iter().enumerate() {
                let (cost, time) = (&costs[index], &times[index]);
                let ours = *publisher == Publisher::Registry;
                if !cost.is_empty() {
                    let row = format!(
                        "{name}: publisher's cost for each subscriber, {count} on {arbiter}"
                    );
                    if ours && (10..=10_000).contains(&count) {
                        let floor = (PUBLISHERS[floor].1, costs[floor].median());
                        report.floored(row, "ns", cost, 200.0, floor);
                    } else {
                        report.sample(row, "ns", cost);
                    }
                }
                let row = format!("{name}: until the last handler has run, {count} on {arbiter}");
                if ours && count == 100_000 {
                    let floor = (PUBLISHERS[floor].1, times[floor].median());
                    report.floored(row, "us", time, 200_000.0, floor);
                } else {
                    report.sample(row, "us", time);
                }
                plotted.push(json!({
                    "series": name, "same": same, "count": count, "time": time.median(),
                    "cost": (!cost.is_empty()).then(|| cost.median()),
                }));
            }
        }
    }
    report.data("scaling", plotted.into());
}

/// Subscribers on one arbiter, and all publishers.
struct Subscribers {
    quorum: QuorumHandle,
    cluster: Cluster,
    system: System,
    /// The arbiter on which the other publishers run.
    publisher: ArbiterHandle,
    arbiter: ArbiterHandle,
    recipients: Arc<Vec<Recipient<QuorumChanged>>>,
    requests: Arc<Mutex<Vec<Request>>>,
    /// The times at which the last handler ran.
    finished: mpsc::Receiver<u64>,
    message: QuorumChanged,
    watched: Arc<watch::Sender<QuorumChanged>>,
    broadcast: broadcast::Sender<QuorumChanged>,
    quorate: Cell<bool>,
}

impl Subscribers {
    fn start(count: usize, same: bool) -> Self {
        let (sender, system) = mpsc::channel();
        std::thread::spawn(move || {
            let runner = System::new();
            sender.send(System::current()).expect("the caller waits");
            runner.run().expect("the system runs");
        });
        let system: System = system.recv().expect("the system starts");
        let (arbiter, publisher) = on(system.arbiter(), move || {
            let arbiter = Arbiter::new().handle();
            let publisher = if same { arbiter.clone() } else { Arbiter::new().handle() };
            (arbiter, publisher)
        });
        let cluster = Cluster::new(3);
        let (builder, actors) = (QuorumActor::builder().source(cluster.node(1)), publisher.clone());
        let quorum = on(&publisher, move || {
            let lease = Duration::from_secs(3600);
            builder.lease(lease).start_in_arbiter(&actors)
        });
        let (sender, finished) = mpsc::channel();
        let counter = Arc::new(Counter { handled: AtomicU64::new(0), count, finished: sender });
        let shared = Arc::clone(&counter);
        let addrs: Vec<Addr<Listener>> =
            on(&arbiter, move || (0..count).map(|_| Listener::new(&shared).start()).collect());
        let recipients: Vec<_> = addrs.iter().map(|addr| addr.clone().recipient()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let mut message = runtime.expect("a runtime").block_on(async {
            quorum.wait_quorate().await.unwrap();
            let mut changes = quorum.changes();
            futures_util::StreamExt::next(&mut changes).await.expect("the current state")
        });
        message.cause = Cause::Quorum;
        let (watched, _) = watch::channel(message.clone());
        let (broadcast, _) = broadcast::channel(4);
        for recipient in &recipients {
            quorum.subscribe(recipient.clone());
        }
        let (watched, sender) = (Arc::new(watched), broadcast.clone());
        let sources = Arc::clone(&watched);
        on(&arbiter, move || {
            for _ in 0..count {
                let (mut watching, mut receiver) = (sources.subscribe(), sender.subscribe());
                watching.mark_unchanged();
                let counter = Arc::clone(&counter);
                let counted = Arc::clone(&counter);
                actix::spawn(async move {
                    while watching.changed().await.is_ok() {
                        watching.borrow_and_update();
                        counter.count();
                    }
                });
                actix::spawn(async move {
                    while receiver.recv().await.is_ok() {
                        counted.count();
                    }
                });
            }
        });
        let subscribers = Self {
            quorum,
            cluster,
            system,
            publisher,
            arbiter,
            requests: Arc::new(Mutex::new(recipients.iter().map(|_| None).collect())),
            recipients: Arc::new(recipients),
            finished,
            message,
            watched,
            broadcast,
            quorate: Cell::new(true),
        };
        // The broker runs on the System's arbiter. It must know all subscribers before its first
        // message.
        let known: Vec<_> = addrs.iter().map(|addr| addr.send(Barrier)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(futures_util::future::join_all(known));
        on(subscribers.system.arbiter(), || ());
        subscribers
    }

    /// Publishes one change. Returns the publisher's cost, if it can be observed, and the time
    /// until the last handler has run, in nanoseconds.
    fn publish(&self, publisher: Publisher) -> (Option<u64>, u64) {
        let message = self.message.clone();
        // This returns once the last handler has run.
        on(&self.arbiter, || ());
        let started = match publisher {
            Publisher::Registry => return self.flip(),
            Publisher::DoSend => {
                let recipients = Arc::clone(&self.recipients);
                on(&self.publisher, move || {
                    let start = clock::now();
                    for recipient in recipients.iter() {
                        recipient.do_send(message.clone());
                    }
                    (start, Some(clock::now()))
                })
            }
            // The simplest publisher that knows whether a subscriber has handled a message, and
            // sends the subscriber no further message until then.
            Publisher::Send => {
                let recipients = Arc::clone(&self.recipients);
                let requests = Arc::clone(&self.requests);
                on(&self.publisher, move || {
                    let (mut requests, mut context) =
                        (requests.lock(), Context::from_waker(Waker::noop()));
                    let start = clock::now();
                    for (recipient, request) in recipients.iter().zip(requests.iter_mut()) {
                        if request
                            .as_mut()
                            .is_none_or(|request| request.as_mut().poll(&mut context).is_ready())
                        {
                            let mut sent = Box::pin(unconstrained(recipient.send(message.clone())));
                            let handled = sent.as_mut().poll(&mut context).is_ready();
                            *request = (!handled).then_some(sent);
                        }
                    }
                    (start, Some(clock::now()))
                })
            }
            Publisher::Watch => {
                let watched = Arc::clone(&self.watched);
                on(&self.publisher, move || {
                    let start = clock::now();
                    watched.send_replace(message);
                    (start, Some(clock::now()))
                })
            }
            Publisher::Broadcast => {
                let broadcast = self.broadcast.clone();
                on(&self.publisher, move || {
                    let start = clock::now();
                    assert!(broadcast.send(message).is_ok());
                    (start, Some(clock::now()))
                })
            }
            // The cost of the broker's own actor cannot be observed.
            Publisher::Broker => on(&self.publisher, move || {
                let start = clock::now();
                Broker::<SystemBroker>::issue_async(Brokered(message));
                (start, None)
            }),
        };
        let end = self.finished.recv_timeout(DEADLINE).expect("all handlers run");
        (started.1.map(|sent| sent - started.0), end - started.0)
    }

    /// Publishes one change with the actor.
    fn flip(&self) -> (Option<u64>, u64) {
        self.quorate.set(!self.quorate.get());
        let mut end = 0;
        let (start, sent) = timed_flip(&self.quorum, &self.cluster, self.quorate.get(), || {
            end = self.finished.recv_timeout(DEADLINE).expect("all handlers run");
        });
        if self.recipients.len() >= 10_000 {
            self.wait_votes_published();
        }
        (sent.checked_sub(start), end.saturating_sub(start))
    }

    /// Waits for the change of the votes, which follows a flip after 50 ms. With many subscribers
    /// its delivery would overlap with the next measurement.
    fn wait_votes_published(&self) {
        let expected = votes(self.quorate.get());
        let published =
            || self.quorum.snapshot().votes.as_ref().is_some_and(|now| now.expected == expected);
        eventually("the votes are published", || published().then_some(()));
        on(&self.publisher, || ());
        on(&self.arbiter, || ());
    }

    fn stop(self) {
        self.system.stop();
    }
}

/// Flips quorum and calls `wait`. Returns the times at which the delivery began and ended.
pub(crate) fn timed_flip(
    quorum: &QuorumHandle,
    cluster: &Cluster,
    quorate: bool,
    wait: impl FnOnce(),
) -> (u64, u64) {
    let begin = Arc::new(WakeClock::default());
    let waker = Waker::from(Arc::clone(&begin));
    let mut waiting = pin!(quorum.wait_for(|_| false));
    let polled = waiting.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    LOG_CLOCK.0.store(0, Ordering::Release);
    cluster.expected_votes(votes(quorate)).expect("the number of votes is valid");
    wait();
    // Handlers on another arbiter may run before the delivery ends.
    let deadline = Instant::now() + DEADLINE;
    loop {
        match LOG_CLOCK.0.load(Ordering::Acquire) {
            0 if Instant::now() > deadline => panic!("the change is not logged"),
            0 => std::thread::yield_now(),
            sent => return (begin.0.load(Ordering::Acquire), sent),
        }
    }
}

/// Returns the number of expected votes with which three nodes are quorate or, if `quorate` is
/// false, inquorate.
fn votes(quorate: bool) -> u32 {
    if quorate { 3 } else { 9 }
}

/// Runs `f` on an arbiter and returns its result.
pub(crate) fn on<T: Send + 'static>(
    arbiter: &ArbiterHandle,
    f: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (sender, result) = mpsc::channel();
    arbiter.spawn_fn(move || sender.send(f()).expect("the caller waits"));
    result.recv().expect("the arbiter runs")
}

/// Counts handlers, and sends the time at which the last one runs.
#[derive(Debug)]
struct Counter {
    handled: AtomicU64,
    count: usize,
    finished: mpsc::Sender<u64>,
}

impl Counter {
    /// Counts one handler. All handlers run on one thread.
    fn count(&self) {
        let handled = self.handled.load(Ordering::Relaxed) + 1;
        if handled == self.count as u64 {
            self.handled.store(0, Ordering::Relaxed);
            // The measurement may have ended.
            let _ = self.finished.send(clock::now());
        } else {
            self.handled.store(handled, Ordering::Relaxed);
        }
    }
}

/// A subscriber.
struct Listener {
    counter: Arc<Counter>,
}

impl Listener {
    fn new(counter: &Arc<Counter>) -> Self {
        Self { counter: Arc::clone(counter) }
    }
}

impl Actor for Listener {
    type Context = ActorContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.subscribe_async::<SystemBroker, Brokered>(ctx);
    }
}

impl Handler<QuorumChanged> for Listener {
    type Result = ();

    fn handle(&mut self, change: QuorumChanged, _: &mut Self::Context) {
        // Neither the first message nor a change of the votes counts.
        if change.cause == Cause::Quorum {
            self.counter.count();
        }
    }
}

#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
struct Brokered(#[expect(dead_code, reason = "the message is as large")] QuorumChanged);

impl Handler<Brokered> for Listener {
    type Result = ();

    fn handle(&mut self, _: Brokered, _: &mut Self::Context) {
        self.counter.count();
    }
}

/// A message that an actor answers once it has started.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Barrier;

impl Handler<Barrier> for Listener {
    type Result = ();

    fn handle(&mut self, _: Barrier, _: &mut Self::Context) {}
}

/// A waker that stores the time. The actor wakes it right before the delivery.
#[derive(Debug, Default)]
struct WakeClock(AtomicU64);

impl Wake for WakeClock {
    fn wake(self: Arc<Self>) {
        self.0.store(clock::now(), Ordering::Release);
    }
}

/// Installs [`LogClock`] as the logger.
pub(crate) fn install_log_clock() {
    // Another group may have installed the logger already.
    let _ = log::set_logger(&LOG_CLOCK);
    log::set_max_level(LevelFilter::Info);
}

/// A logger that stores the time. The actor logs a change right after its delivery.
static LOG_CLOCK: LogClock = LogClock(AtomicU64::new(0));

struct LogClock(AtomicU64);

impl Log for LogClock {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if record.target().starts_with("actix_quorum::") {
            self.0.store(clock::now(), Ordering::Release);
        }
    }

    fn flush(&self) {}
}
