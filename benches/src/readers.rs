//! Measures reads of the quorum state, compared with other ways to share a value between threads.

use std::{
    hint::black_box,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use actix::System;
use actix_quorum::{QuorumActor, QuorumHandle, Snapshot, sim::Cluster};
use arc_swap::ArcSwap;
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::{clock, report::Report, stats::Sample, support::eventually};

/// The number of measurements of each reader. The readers take turns.
const ROUNDS: usize = 25;

/// The number of reads in one measurement.
const READS: u32 = 100_000;

/// The pause between two writes.
const WRITE_PAUSE: Duration = Duration::from_millis(1);

/// The state, shared in each of the ways that are compared.
struct SharedState {
    quorum: QuorumHandle,
    cluster: Cluster,
    atomic: AtomicU64,
    locked: RwLock<Arc<Snapshot>>,
    swapped: ArcSwap<Snapshot>,
    watched: watch::Sender<Arc<Snapshot>>,
    receiver: watch::Receiver<Arc<Snapshot>>,
}

type Reader = (&'static str, fn(&SharedState, u32));

/// Declares readers. Each is a loop, so that the compiler inlines the read as in the code of a
/// user.
macro_rules! readers {
    ($($name:literal: |$shared:ident| $read:expr;)*) => {
        [$(($name, |$shared: &SharedState, reads: u32| for _ in 0..reads { black_box($read); })),*]
    };
}

const CLOCK: &str = "clock_gettime(CLOCK_BOOTTIME)";

const READERS: [Reader; 12] = readers! {
    "an atomic load": |p| p.atomic.load(Ordering::Acquire);
    "clock_gettime(CLOCK_BOOTTIME)": |_p| clock::nanos(libc::CLOCK_BOOTTIME);
    "is_quorate()": |p| p.quorum.is_quorate();
    "guard()": |p| p.quorum.guard();
    "quorum()": |p| p.quorum.quorum();
    "snapshot()": |p| p.quorum.snapshot();
    "arc-swap load": |p| p.swapped.load().quorum;
    "arc-swap load_full": |p| p.swapped.load_full();
    "parking_lot::RwLock read": |p| p.locked.read().quorum;
    "parking_lot::RwLock read, clone": |p| Arc::clone(&p.locked.read());
    "tokio::sync::watch borrow": |p| p.receiver.borrow().quorum;
    "tokio::sync::watch borrow, clone": |p| Arc::clone(&p.receiver.borrow());
};

pub(crate) fn run(report: &mut Report) {
    System::new().block_on(async {
        let cluster = Cluster::new(3);
        let quorum =
            QuorumActor::builder().lease(Duration::from_secs(3600)).source(cluster.node(1)).start();
        quorum.wait_quorate().await.unwrap();
        let snapshot = quorum.snapshot();
        let (watched, receiver) = watch::channel(Arc::clone(&snapshot));
        let shared = Arc::new(SharedState {
            quorum,
            cluster,
            atomic: AtomicU64::new(1),
            locked: RwLock::new(Arc::clone(&snapshot)),
            swapped: ArcSwap::from(snapshot),
            watched,
            receiver,
        });
        for (threads, writer) in [(1, false), (1, true), (2, false), (2, true)] {
            measure(report, &shared, threads, writer);
        }
        shared.quorum.stop().await;
    });
}

/// Measures each reader on this number of threads, with or without a writer beside them.
fn measure(report: &mut Report, shared: &Arc<SharedState>, threads: usize, writer: bool) {
    let stop = Arc::new(AtomicBool::new(false));
    let writing = writer.then(|| {
        let (shared, stop) = (Arc::clone(shared), Arc::clone(&stop));
        thread::spawn(move || write(&shared, &stop))
    });
    let mut samples = vec![Sample::default(); READERS.len()];
    for _ in 0..ROUNDS {
        for ((_, read), sample) in READERS.iter().zip(&mut samples) {
            sample.push(read_on(threads, shared, *read));
        }
    }
    stop.store(true, Ordering::Relaxed);
    if let Some(writing) = writing {
        writing.join().expect("the writer does not panic");
        eventually("quorum is back", || shared.quorum.is_quorate().then_some(()));
    }
    let with = if writer { ", with a writer" } else { "" };
    let suffix = format!("{threads} thread{}{with}", if threads == 1 { "" } else { "s" });
    let clock = READERS.iter().position(|(name, _)| *name == CLOCK).expect("the list contains it");
    let clock = samples[clock].sorted();
    for ((name, _), sample) in READERS.iter().zip(&samples) {
        report.sample(format!("{name}, {suffix}"), "ns", sample);
        if *name == "is_quorate()" {
            // Quantile by quantile, because a busy machine slows down both.
            let ratio: Sample =
                sample.sorted().iter().zip(&clock).map(|(ours, clock)| ours / clock).collect();
            let name = format!("is_quorate(), ratio to a read of its clock, {suffix}");
            report.budget(name, "x", &ratio, 1.5);
        }
    }
}

/// Returns the nanoseconds of one read on the slowest of `threads` threads that read at the same
/// time.
fn read_on(threads: usize, shared: &Arc<SharedState>, read: fn(&SharedState, u32)) -> f64 {
    let barrier = Arc::new(Barrier::new(threads));
    let readers: Vec<_> = (0..threads)
        .map(|_| {
            let (shared, barrier) = (Arc::clone(shared), Arc::clone(&barrier));
            thread::spawn(move || {
                read(&shared, READS / 100);
                barrier.wait();
                let start = clock::thread_time();
                read(&shared, READS);
                clock::thread_time() - start
            })
        })
        .collect();
    let taken: Sample = readers
        .into_iter()
        .map(|reader| reader.join().expect("a reader does not panic") as f64 / f64::from(READS))
        .collect();
    taken.quantile(1.0)
}

/// Changes the state until `stop` is set.
fn write(shared: &SharedState, stop: &AtomicBool) {
    let mut votes = 3;
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(WRITE_PAUSE);
        // The node is quorate with 3 and with 4 expected votes, so the lease is granted each time.
        votes = 7 - votes;
        shared.cluster.expected_votes(votes).expect("the number of votes is valid");
        let snapshot = shared.quorum.snapshot();
        shared.atomic.store(u64::from(votes), Ordering::Release);
        *shared.locked.write() = Arc::clone(&snapshot);
        shared.swapped.store(Arc::clone(&snapshot));
        shared.watched.send_replace(snapshot);
    }
    shared.cluster.expected_votes(3).expect("the number of votes is valid");
}
