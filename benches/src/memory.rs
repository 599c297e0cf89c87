//! Measures the memory of subscribers, and the cost of stuck ones.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use actix::{Actor, Addr, Arbiter, ArbiterHandle, Context, Handler, Recipient, System};
use actix_quorum::{QuorumActor, QuorumChanged, QuorumHandle, Subscriber, sim::Cluster};

use crate::{
    fanout::{install_log_clock, on, timed_flip},
    report::Report,
    stats::Sample,
    support::eventually,
};

pub(crate) fn run(report: &mut Report) {
    install_log_clock();
    System::new().block_on(async {
        idle(report);
        stuck(report);
    });
}

/// Returns the number of bytes that this process has allocated.
pub(crate) fn allocated() -> usize {
    // SAFETY: the call only reads the counters of the allocator.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

/// Waits until the subscribers are idle, and returns the number of allocated bytes. A change of
/// the votes may still be delivered, and within a second after that the publisher frees what the
/// deliveries have allocated.
fn allocated_at_rest() -> usize {
    let mut before = allocated();
    eventually("the allocations are at rest", || {
        thread::sleep(Duration::from_millis(2500));
        let now = allocated();
        (now == std::mem::replace(&mut before, now)).then_some(now)
    })
}

/// Starts an actor on node 1, and waits for quorum.
fn start(cluster: &Cluster) -> QuorumHandle {
    let lease = Duration::from_secs(3600);
    let quorum = QuorumActor::builder().lease(lease).source(cluster.node(1)).start();
    eventually("quorum", || quorum.is_quorate().then_some(()));
    quorum
}

/// Measures the bytes for each subscriber that has handled some changes and waits for the next one,
/// in addition to its actor.
fn idle(report: &mut Report) {
    const COUNT: usize = 100_000;
    let each = |from: usize, to: usize| (to as f64 - from as f64) / COUNT as f64;
    let arbiter = Arbiter::new().handle();
    let before = allocated();
    let (addrs, received) = listeners(&arbiter, COUNT, &Arc::default());
    let name = "an actor and its address, without a subscription";
    report.value(name, "B", each(before, allocated()), None);

    let before = allocated();
    let recipients: Vec<Recipient<QuorumChanged>> =
        addrs.iter().map(|addr| addr.clone().recipient()).collect();
    report.value("a Recipient in a Vec", "B", each(before, allocated()), None);
    drop(recipients);

    let mut measure = |name: &str, subscriber: fn(&Addr<Listener>) -> Subscriber| {
        let cluster = Cluster::new(3);
        let quorum = start(&cluster);
        received.store(0, Ordering::Release);
        let before = allocated();
        for addr in &addrs {
            quorum.subscribe(subscriber(addr));
        }
        wait_received(&received, COUNT);
        for (round, votes) in [9, 3].into_iter().enumerate() {
            cluster.expected_votes(votes).expect("the number of votes is valid");
            wait_received(&received, (2 + round) * COUNT);
        }
        report.value(name, "B", each(before, allocated_at_rest()), Some(400.0));
        // Nothing is freed, so that the next measurement does not reuse this memory.
        std::mem::forget((cluster, quorum));
    };
    measure("an idle subscriber, with its WeakRecipient", |addr| {
        addr.downgrade().recipient().into()
    });
    measure("an idle subscriber, with its Recipient", |addr| addr.clone().recipient().into());
    std::mem::forget(addrs);
}

/// Measures subscribers whose handlers do not return, while a million changes are published.
fn stuck(report: &mut Report) {
    const COUNT: usize = 100;
    const CHANGES: u64 = 1_000_000;
    let cluster = Cluster::new(3);
    let quorum = start(&cluster);
    let stuck = Arc::new(AtomicBool::new(false));
    let arbiter = Arbiter::new().handle();
    let (addrs, received) = listeners(&arbiter, COUNT, &stuck);
    for addr in &addrs {
        quorum.subscribe(addr.clone().recipient());
    }
    wait_received(&received, COUNT);
    let rounds = |quorum: &QuorumHandle| -> Sample {
        // The number is even, so the last change is a gain.
        (0..500)
            .map(|round| {
                let (start, sent) = timed_flip(quorum, &cluster, round % 2 == 1, || {});
                thread::sleep(Duration::from_millis(1));
                (sent - start) as f64 / COUNT as f64
            })
            .collect()
    };
    report.sample(
        "publisher's cost for each subscriber, 100 that keep up, on another arbiter",
        "ns",
        &rounds(&quorum),
    );
    stuck.store(true, Ordering::Release);
    report.sample("publisher's cost for each subscriber, 100 stuck ones", "ns", &rounds(&quorum));
    flips(&cluster, &quorum, 100_000);
    let before = allocated();
    flips(&cluster, &quorum, CHANGES);
    let grown = allocated() as f64 - before as f64;
    report.value(
        "growth for each of 100 stuck subscribers over a million changes",
        "B",
        grown / COUNT as f64,
        Some(400.0),
    );
    report.sample(
        "publisher's cost for each subscriber, 100 stuck ones, a million changes later",
        "ns",
        &rounds(&quorum),
    );
    stuck.store(false, Ordering::Release);
}

/// Makes this many changes, as fast as the actor publishes them.
fn flips(cluster: &Cluster, quorum: &QuorumHandle, changes: u64) {
    let begin = quorum.snapshot().sequence;
    let mut made = 0;
    while quorum.snapshot().sequence < begin + changes {
        // At most 512 ahead of the actor, because notifications that wait for it take memory too.
        if made < quorum.snapshot().sequence - begin + 512 {
            made += 1;
            cluster
                .expected_votes(if made % 2 == 0 { 3 } else { 9 })
                .expect("the number of votes is valid");
        } else {
            thread::sleep(Duration::from_micros(100));
        }
    }
    cluster.expected_votes(3).expect("the number of votes is valid");
    eventually("quorum", || quorum.is_quorate().then_some(()));
    thread::sleep(Duration::from_millis(200));
}

fn wait_received(received: &AtomicUsize, count: usize) {
    eventually("all messages are received", || {
        (received.load(Ordering::Acquire) >= count).then_some(())
    });
}

/// Starts actors. Returns their addresses and the counter of the messages that they receive.
fn listeners(
    arbiter: &ArbiterHandle,
    count: usize,
    stuck: &Arc<AtomicBool>,
) -> (Vec<Addr<Listener>>, Arc<AtomicUsize>) {
    let received = Arc::new(AtomicUsize::new(0));
    let (counter, stuck) = (Arc::clone(&received), Arc::clone(stuck));
    let start = move || {
        let listener = || Listener { received: Arc::clone(&counter), stuck: Arc::clone(&stuck) };
        (0..count).map(|_| listener().start()).collect()
    };
    let addrs = on(arbiter, start);
    // Runs after the actors have started.
    on(arbiter, || ());
    (addrs, received)
}

/// A subscriber whose handler does not return while `stuck` is set.
struct Listener {
    received: Arc<AtomicUsize>,
    stuck: Arc<AtomicBool>,
}

impl Actor for Listener {
    type Context = Context<Self>;
}

impl Handler<QuorumChanged> for Listener {
    type Result = ();

    fn handle(&mut self, _: QuorumChanged, _: &mut Self::Context) {
        self.received.fetch_add(1, Ordering::Release);
        while self.stuck.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(1));
        }
    }
}
