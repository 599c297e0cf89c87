//! Foreign code that the crate calls: a metrics recorder and a logger that call the handle, or
//! panic. Both are process-wide. The tests run in real time.

use std::{
    cell::Cell,
    panic,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use actix::{Actor, Arbiter, Context, Handler, System, clock::timeout};
use actix_quorum::{Connection, QuorumActor, QuorumChanged, QuorumHandle, sim::Cluster};
use log::{LevelFilter, Log, Metadata, Record};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Recorder, SharedString, Unit};
use parking_lot::Mutex;

use crate::support::{DEADLINE, eventually, eventually_async, hold};

/// What foreign code does on each call.
struct Foreign {
    does: AtomicU8,
    called: AtomicUsize,
    handle: Mutex<Option<QuorumHandle>>,
    subscriber: Mutex<Option<actix::WeakRecipient<QuorumChanged>>>,
}

const NOTHING: u8 = 0;
const CALLS_BACK: u8 = 1;
const PANICS: u8 = 2;

static FOREIGN: Foreign = Foreign {
    does: AtomicU8::new(NOTHING),
    called: AtomicUsize::new(0),
    handle: Mutex::new(None),
    subscriber: Mutex::new(None),
};

thread_local! {
    /// Prevents the foreign code from calling itself.
    static WITHIN: Cell<bool> = const { Cell::new(false) };
}

impl Foreign {
    fn run(&self) {
        if WITHIN.get() {
            return;
        }
        let handle = self.handle.lock().clone();
        match (self.does.load(Ordering::Acquire), handle) {
            (CALLS_BACK, Some(quorum)) => {
                WITHIN.set(true);
                self.called.fetch_add(1, Ordering::AcqRel);
                let subscriber = self.subscriber.lock().clone();
                if let Some(subscriber) = subscriber {
                    let id = quorum.subscribe(subscriber);
                    quorum.resend(id);
                    quorum.unsubscribe(id);
                }
                quorum.subscriber_count();
                #[cfg(feature = "web")]
                quorum.node_names();
                let _ = (quorum.snapshot(), quorum.is_exclusive(), quorum.guard());
                WITHIN.set(false);
            }
            (PANICS, _) => {
                self.called.fetch_add(1, Ordering::AcqRel);
                panic!("on purpose");
            }
            _ => {}
        }
    }

    /// Sets what the foreign code does from now on, and resets the number of its calls.
    fn does(&self, what: u8) {
        self.called.store(0, Ordering::Release);
        self.does.store(what, Ordering::Release);
    }
}

struct Measured;

impl Recorder for Measured {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {
        FOREIGN.run();
    }

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {
        FOREIGN.run();
    }

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {
        FOREIGN.run();
    }

    fn register_counter(&self, _: &Key, _: &metrics::Metadata<'_>) -> Counter {
        FOREIGN.run();
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &metrics::Metadata<'_>) -> Gauge {
        FOREIGN.run();
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &metrics::Metadata<'_>) -> Histogram {
        FOREIGN.run();
        Histogram::noop()
    }
}

struct Logged;

impl Log for Logged {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("actix_quorum")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            FOREIGN.run();
        }
    }

    fn flush(&self) {}
}

fn record() {
    metrics::set_global_recorder(Measured).unwrap();
}

fn log() {
    log::set_logger(&Logged).unwrap();
    log::set_max_level(LevelFilter::Trace);
}

struct Subscriber {
    received: mpsc::Sender<QuorumChanged>,
    dropped: Arc<AtomicBool>,
}

impl Actor for Subscriber {
    type Context = Context<Self>;
}

impl Handler<QuorumChanged> for Subscriber {
    type Result = ();

    fn handle(&mut self, change: QuorumChanged, _: &mut Context<Self>) {
        let _ = self.received.send(change);
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Release);
    }
}

async fn quorate(quorum: &QuorumHandle) {
    timeout(DEADLINE, quorum.wait_quorate()).await.expect("the node is quorate").unwrap();
}

/// An actor has quorum, loses it by a crash, regains it and stops, while foreign code does `what`.
/// Both subscribers must receive the last change, although one is busy and falls behind.
async fn life(what: u8) {
    let cluster = Cluster::new(3);
    let (others, busy) = (Arbiter::new(), Arbiter::new());
    let quorum = QuorumActor::builder().source(cluster.node(1)).start();
    let (sender, received) = mpsc::channel();
    let dropped = Arc::new(AtomicBool::new(false));
    let subscriber = |arbiter: &Arbiter| {
        let subscriber = Subscriber { received: sender.clone(), dropped: Arc::clone(&dropped) };
        Subscriber::start_in_arbiter(&arbiter.handle(), |_| subscriber)
    };
    let (first, second) = (subscriber(&others), subscriber(&busy));
    *FOREIGN.subscriber.lock() = Some(second.clone().recipient().downgrade());
    *FOREIGN.handle.lock() = Some(quorum.clone());
    FOREIGN.does(what);
    quorum.subscribe(first.clone().recipient());
    let held = hold(&busy);
    quorum.subscribe(second.clone().recipient());
    quorate(&quorum).await;
    // The busy subscriber falls further behind than the history reaches.
    for votes in [7, 3].into_iter().cycle().take(1100) {
        let before = quorum.snapshot().sequence;
        cluster.expected_votes(votes).unwrap();
        timeout(DEADLINE, quorum.wait_for(|now| now.sequence > before))
            .await
            .expect("the new votes are published")
            .unwrap();
    }
    drop(held);
    cluster.crash(1).unwrap();
    timeout(DEADLINE, quorum.wait_for(|now| !now.quorum.is_quorate()))
        .await
        .expect("the loss is published")
        .unwrap();
    cluster.start(1).unwrap();
    quorate(&quorum).await;
    quorum.stop().await;
    let mut ends = 0;
    eventually_async("both subscribers receive the last change", || {
        let is_end = |change: &QuorumChanged| change.current.connection == Connection::Stopped;
        ends += received.try_iter().filter(is_end).count();
        (ends >= 2).then_some(())
    })
    .await;
    assert!(first.connected() && second.connected() && !dropped.load(Ordering::Acquire));
    assert!(FOREIGN.called.load(Ordering::Acquire) > 100);
    FOREIGN.does(NOTHING);
    FOREIGN.handle.lock().take();
    FOREIGN.subscriber.lock().take();
}

/// Runs `life` on its own thread, so that a hang is noticed.
fn survives(what: u8) {
    panic::set_hook(Box::new(|panic| {
        if panic.payload().downcast_ref::<&str>() != Some(&"on purpose") {
            eprintln!("{panic}");
        }
    }));
    let life = thread::spawn(move || System::new().block_on(life(what)));
    eventually("the actor stops and no call hangs", || life.is_finished().then_some(()));
    life.join().unwrap();
}

#[test]
fn a_recorder_may_call_the_handle() {
    own_process!();
    record();
    survives(CALLS_BACK);
}

#[test]
fn a_recorder_that_panics_does_not_affect_the_actor() {
    own_process!();
    record();
    survives(PANICS);
}

#[test]
fn a_logger_may_call_the_handle() {
    own_process!();
    log();
    survives(CALLS_BACK);
}

#[test]
fn a_logger_that_panics_does_not_affect_the_actor() {
    own_process!();
    log();
    survives(PANICS);
}
