//! The memory of subscribers, and what one that is stuck costs.

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
    fanout::{on, time_what_is_logged, timed_flip},
    report::Report,
    stats::Sample,
    support::eventually,
};

pub(crate) fn run(report: &mut Report) {
    time_what_is_logged();
    System::new().block_on(async {
        idle(report);
        stuck(report);
    });
}

/// The bytes that the process has allocated.
pub(crate) fn allocated() -> usize {
    // SAFETY: it only reads the allocator's own accounts.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

fn start(cluster: &Cluster) -> QuorumHandle {
    let lease = Duration::from_secs(3600);
    let quorum = QuorumActor::builder().lease(lease).source(cluster.node(1)).start();
    eventually("quorum", || quorum.is_quorate().then_some(()));
    quorum
}

/// Bytes for each subscriber that has been told something and waits for more, beside its actor.
fn idle(report: &mut Report) {
    const COUNT: usize = 100_000;
    let each = |from: usize, to: usize| (to as f64 - from as f64) / COUNT as f64;
    let arbiter = Arbiter::new().handle();
    let before = allocated();
    let (addrs, told) = listeners(&arbiter, COUNT, &Arc::default());
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
        told.store(0, Ordering::Release);
        let before = allocated();
        for addr in &addrs {
            quorum.subscribe(subscriber(addr));
        }
        wait_told(&told, COUNT);
        for (round, votes) in [9, 3].into_iter().enumerate() {
            cluster.expected_votes(votes).expect("a number of votes");
            wait_told(&told, (2 + round) * COUNT);
        }
        // What the votes are is told once more, and at most a second later the last is put away; then
        // they are idle.
        thread::sleep(Duration::from_millis(2500));
        report.value(name, "B", each(before, allocated()), Some(400.0));
        // Those of the next have to be allocated anew: nothing is freed here.
        std::mem::forget((cluster, quorum));
    };
    measure("an idle subscriber, with its WeakRecipient", |addr| {
        addr.downgrade().recipient().into()
    });
    measure("an idle subscriber, with its Recipient", |addr| addr.clone().recipient().into());
    std::mem::forget(addrs);
}

/// Subscribers that never come back from a handler, while a million changes are published.
fn stuck(report: &mut Report) {
    const COUNT: usize = 100;
    const CHANGES: u64 = 1_000_000;
    let cluster = Cluster::new(3);
    let quorum = start(&cluster);
    let stuck = Arc::new(AtomicBool::new(false));
    let arbiter = Arbiter::new().handle();
    let (addrs, told) = listeners(&arbiter, COUNT, &stuck);
    for addr in &addrs {
        quorum.subscribe(addr.clone().recipient());
    }
    wait_told(&told, COUNT);
    let rounds = |quorum: &QuorumHandle| -> Sample {
        // An even number: the last is a gain again.
        (0..500)
            .map(|round| {
                let (start, sent) = timed_flip(quorum, &cluster, round % 2 == 1, || {});
                thread::sleep(Duration::from_millis(1));
                (sent - start) as f64 / COUNT as f64
            })
            .collect()
    };
    report.sample(
        "publisher's cost each, 100 that keep up on another arbiter",
        "ns",
        &rounds(&quorum),
    );
    stuck.store(true, Ordering::Release);
    report.sample("publisher's cost each, 100 that are stuck", "ns", &rounds(&quorum));
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
        "publisher's cost each, 100 that are stuck, a million changes later",
        "ns",
        &rounds(&quorum),
    );
    stuck.store(false, Ordering::Release);
}

/// So many changes, as fast as the actor takes them.
fn flips(cluster: &Cluster, quorum: &QuorumHandle, changes: u64) {
    let begin = quorum.snapshot().sequence;
    let mut asked = 0;
    while quorum.snapshot().sequence < begin + changes {
        // Not more than a few ahead: what waits for the actor would be memory, too.
        if asked < quorum.snapshot().sequence - begin + 512 {
            asked += 1;
            cluster.expected_votes(if asked % 2 == 0 { 3 } else { 9 }).expect("a number of votes");
        } else {
            thread::sleep(Duration::from_micros(100));
        }
    }
    cluster.expected_votes(3).expect("a number of votes");
    eventually("quorum", || quorum.is_quorate().then_some(()));
    thread::sleep(Duration::from_millis(200));
}

fn wait_told(told: &AtomicUsize, count: usize) {
    eventually("all are told", || (told.load(Ordering::Acquire) >= count).then_some(()));
}

/// Started actors, and how often they were told something.
fn listeners(
    arbiter: &ArbiterHandle,
    count: usize,
    stuck: &Arc<AtomicBool>,
) -> (Vec<Addr<Listener>>, Arc<AtomicUsize>) {
    let told = Arc::new(AtomicUsize::new(0));
    let (counter, stuck) = (Arc::clone(&told), Arc::clone(stuck));
    let start = move || {
        let listener = || Listener { told: Arc::clone(&counter), stuck: Arc::clone(&stuck) };
        (0..count).map(|_| listener().start()).collect()
    };
    let addrs = on(arbiter, start);
    // They have started when this has run, behind them.
    on(arbiter, || ());
    (addrs, told)
}

struct Listener {
    told: Arc<AtomicUsize>,
    stuck: Arc<AtomicBool>,
}

impl Actor for Listener {
    type Context = Context<Self>;
}

impl Handler<QuorumChanged> for Listener {
    type Result = ();

    fn handle(&mut self, _: QuorumChanged, _: &mut Self::Context) {
        self.told.fetch_add(1, Ordering::Release);
        while self.stuck.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(1));
        }
    }
}
