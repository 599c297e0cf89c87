//! One change, told to many.
//!
//! The subscribers are the same actors whoever publishes, on one arbiter: that of the publisher, or
//! another. What the publisher spends on them is between two moments that a program can see: those
//! who wait for a snapshot are woken right before the subscribers are told, and what happened is
//! logged right after.

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

const PATIENCE: Duration = Duration::from_secs(60);

const COUNTS: [usize; 6] = [1, 10, 100, 1_000, 10_000, 100_000];

/// What was sent and may not have been handled.
type Request = Option<Pin<Box<Unconstrained<RecipientRequest<QuorumChanged>>>>>;

/// Who publishes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    Registry,
    DoSend,
    Send,
    Watch,
    Broadcast,
    Broker,
}

const WAYS: [(Way, &str); 6] = [
    (Way::Registry, "actix-quorum"),
    (Way::DoSend, "Vec<Recipient>, do_send"),
    (Way::Send, "Vec<Recipient>, send, until it is handled"),
    (Way::Watch, "tokio::sync::watch"),
    (Way::Broadcast, "tokio::sync::broadcast"),
    (Way::Broker, "actix-broker"),
];

pub(crate) fn run(report: &mut Report) {
    time_what_is_logged();
    let mut plotted = Vec::new();
    for same in [true, false] {
        for count in COUNTS {
            let crowd = Crowd::start(count, same);
            let rounds = (400_000 / count).clamp(11, 1000);
            let mut costs = vec![Sample::default(); WAYS.len()];
            let mut times = vec![Sample::default(); WAYS.len()];
            for _ in 0..rounds {
                for (index, (way, _)) in WAYS.iter().enumerate() {
                    // Right after one of its own, and not after what another has left in the caches.
                    crowd.publish(*way);
                    let (cost, time) = crowd.publish(*way);
                    costs[index].extend(cost.map(|cost| cost as f64 / count as f64));
                    times[index].push(time as f64 / 1e3);
                }
            }
            crowd.stop();
            let arbiter = if same { "same arbiter" } else { "another arbiter" };
            let floor = WAYS.iter().position(|(way, _)| *way == Way::Send).expect("it is there");
            for (index, (way, name)) in WAYS.iter().enumerate() {
                let (cost, time) = (&costs[index], &times[index]);
                let ours = *way == Way::Registry;
                if !cost.is_empty() {
                    let row = format!("{name}: publisher's cost each, {count} on {arbiter}");
                    if ours && (10..=10_000).contains(&count) {
                        let floor = (WAYS[floor].1, costs[floor].median());
                        report.floored(row, "ns", cost, 200.0, floor);
                    } else {
                        report.sample(row, "ns", cost);
                    }
                }
                let row = format!("{name}: until the last handler ran, {count} on {arbiter}");
                if ours && count == 100_000 {
                    let floor = (WAYS[floor].1, times[floor].median());
                    report.floored(row, "us", time, 200_000.0, floor);
                } else {
                    report.sample(row, "us", time);
                }
                plotted.push(json!({
                    "way": name, "same": same, "count": count, "time": time.median(),
                    "cost": (!cost.is_empty()).then(|| cost.median()),
                }));
            }
        }
    }
    report.more("scaling", plotted.into());
}

/// Subscribers on one arbiter, and all that publishes to them.
struct Crowd {
    quorum: QuorumHandle,
    cluster: Cluster,
    system: System,
    /// Where the other publishers run.
    publisher: ArbiterHandle,
    subscribers: ArbiterHandle,
    recipients: Arc<Vec<Recipient<QuorumChanged>>>,
    requests: Arc<Mutex<Vec<Request>>>,
    /// When the last handler ran.
    finished: mpsc::Receiver<u64>,
    message: QuorumChanged,
    watched: Arc<watch::Sender<QuorumChanged>>,
    broadcast: broadcast::Sender<QuorumChanged>,
    quorate: Cell<bool>,
}

impl Crowd {
    fn start(count: usize, same: bool) -> Self {
        let (give, system) = mpsc::channel();
        std::thread::spawn(move || {
            let runner = System::new();
            give.send(System::current()).expect("it waits");
            runner.run().expect("it runs");
        });
        let system: System = system.recv().expect("it starts");
        let (subscribers, publisher) = on(system.arbiter(), move || {
            let subscribers = Arbiter::new().handle();
            let publisher = if same { subscribers.clone() } else { Arbiter::new().handle() };
            (subscribers, publisher)
        });
        let cluster = Cluster::new(3);
        let (builder, arbiter) =
            (QuorumActor::builder().source(cluster.node(1)), publisher.clone());
        let quorum = on(&publisher, move || {
            let lease = Duration::from_secs(3600);
            builder.lease(lease).start_in_arbiter(&arbiter)
        });
        let (tell, finished) = mpsc::channel();
        let counter = Arc::new(Counter { handled: AtomicU64::new(0), count, finished: tell });
        let theirs = Arc::clone(&counter);
        let addrs: Vec<Addr<Listener>> =
            on(&subscribers, move || (0..count).map(|_| Listener::new(&theirs).start()).collect());
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
        on(&subscribers, move || {
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
        let crowd = Self {
            quorum,
            cluster,
            system,
            publisher,
            subscribers,
            requests: Arc::new(Mutex::new(recipients.iter().map(|_| None).collect())),
            recipients: Arc::new(recipients),
            finished,
            message,
            watched,
            broadcast,
            quorate: Cell::new(true),
        };
        // The broker runs on the System's arbiter; it must know all before it is first used.
        let known: Vec<_> = addrs.iter().map(|addr| addr.send(Barrier)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(futures_util::future::join_all(known));
        on(crowd.system.arbiter(), || ());
        crowd
    }

    /// What it costs the publisher, where that can be seen, and how long it takes until the last
    /// handler has run, in nanoseconds.
    fn publish(&self, way: Way) -> (Option<u64>, u64) {
        let message = self.message.clone();
        // The last handler has returned, too.
        on(&self.subscribers, || ());
        let started = match way {
            Way::Registry => return self.flip(),
            Way::DoSend => {
                let recipients = Arc::clone(&self.recipients);
                on(&self.publisher, move || {
                    let start = clock::now();
                    for recipient in recipients.iter() {
                        recipient.do_send(message.clone());
                    }
                    (start, Some(clock::now()))
                })
            }
            // The least that knows of each whether it was handled, and sends it no more until then.
            Way::Send => {
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
            Way::Watch => {
                let watched = Arc::clone(&self.watched);
                on(&self.publisher, move || {
                    let start = clock::now();
                    watched.send_replace(message);
                    (start, Some(clock::now()))
                })
            }
            Way::Broadcast => {
                let broadcast = self.broadcast.clone();
                on(&self.publisher, move || {
                    let start = clock::now();
                    assert!(broadcast.send(message).is_ok());
                    (start, Some(clock::now()))
                })
            }
            // Of what it costs the broker's own actor, nothing is seen.
            Way::Broker => on(&self.publisher, move || {
                let start = clock::now();
                Broker::<SystemBroker>::issue_async(Brokered(message));
                (start, None)
            }),
        };
        let end = self.finished.recv_timeout(PATIENCE).expect("all are told");
        (started.1.map(|sent| sent - started.0), end - started.0)
    }

    fn flip(&self) -> (Option<u64>, u64) {
        self.quorate.set(!self.quorate.get());
        let mut end = 0;
        let (start, sent) = timed_flip(&self.quorum, &self.cluster, self.quorate.get(), || {
            end = self.finished.recv_timeout(PATIENCE).expect("all are told");
        });
        if self.recipients.len() >= 10_000 {
            self.until_votes_are_told();
        }
        (sent.checked_sub(start), end.saturating_sub(start))
    }

    /// They follow a flip 50 ms later. To tell so many takes long enough to be in the way of what is
    /// measured next.
    fn until_votes_are_told(&self) {
        let expected = votes(self.quorate.get());
        let told =
            || self.quorum.snapshot().votes.as_ref().is_some_and(|now| now.expected == expected);
        eventually("the votes are told", || told().then_some(()));
        on(&self.publisher, || ());
        on(&self.subscribers, || ());
    }

    fn stop(self) {
        self.system.stop();
    }
}

/// Flips quorum; returns when the publisher began to tell the subscribers, and when it was done.
pub(crate) fn timed_flip(
    quorum: &QuorumHandle,
    cluster: &Cluster,
    quorate: bool,
    wait: impl FnOnce(),
) -> (u64, u64) {
    let before = Arc::new(Before::default());
    let waker = Waker::from(Arc::clone(&before));
    let mut waiting = pin!(quorum.wait_for(|_| false));
    let polled = waiting.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    AFTER.0.store(0, Ordering::Release);
    cluster.expected_votes(votes(quorate)).expect("a number of votes");
    wait();
    // Handlers on another arbiter may be faster than the publisher.
    let deadline = Instant::now() + PATIENCE;
    loop {
        match AFTER.0.load(Ordering::Acquire) {
            0 if Instant::now() > deadline => panic!("the change is not logged"),
            0 => std::thread::yield_now(),
            sent => return (before.0.load(Ordering::Acquire), sent),
        }
    }
}

/// How many are expected when three are quorate, and when they are not.
fn votes(quorate: bool) -> u32 {
    if quorate { 3 } else { 9 }
}

/// Runs `f` on an arbiter, and returns what it does.
pub(crate) fn on<T: Send + 'static>(
    arbiter: &ArbiterHandle,
    f: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (give, result) = mpsc::channel();
    arbiter.spawn_fn(move || give.send(f()).expect("it waits"));
    result.recv().expect("the arbiter runs")
}

/// Counts the handlers that have run.
#[derive(Debug)]
struct Counter {
    handled: AtomicU64,
    count: usize,
    finished: mpsc::Sender<u64>,
}

impl Counter {
    /// All are on one thread.
    fn count(&self) {
        let handled = self.handled.load(Ordering::Relaxed) + 1;
        if handled == self.count as u64 {
            self.handled.store(0, Ordering::Relaxed);
            // The measuring may be over.
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
        // Not the first message, nor the votes, which are told on their own time.
        if change.cause == Cause::Quorum {
            self.counter.count();
        }
    }
}

#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
struct Brokered(#[expect(dead_code, reason = "to be as large")] QuorumChanged);

impl Handler<Brokered> for Listener {
    type Result = ();

    fn handle(&mut self, _: Brokered, _: &mut Self::Context) {
        self.counter.count();
    }
}

/// Answered by who has started.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Barrier;

impl Handler<Barrier> for Listener {
    type Result = ();

    fn handle(&mut self, _: Barrier, _: &mut Self::Context) {}
}

/// Takes the time when it is woken, which is right before the subscribers are told.
#[derive(Debug, Default)]
struct Before(AtomicU64);

impl Wake for Before {
    fn wake(self: Arc<Self>) {
        self.0.store(clock::now(), Ordering::Release);
    }
}

/// Has the time taken when something was published.
pub(crate) fn time_what_is_logged() {
    // It may have been set before.
    let _ = log::set_logger(&AFTER);
    log::set_max_level(LevelFilter::Info);
}

/// Takes the time when something is logged, which is right after the subscribers are told.
static AFTER: After = After(AtomicU64::new(0));

struct After(AtomicU64);

impl Log for After {
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
