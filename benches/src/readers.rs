//! Who asks whether there is quorum.

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

/// How often each is measured, one after the other.
const ROUNDS: usize = 25;

/// How many reads make one measurement.
const READS: u32 = 100_000;

/// How often a writer writes.
const WRITE: Duration = Duration::from_millis(1);

/// What everybody reads, in each of the ways.
struct Places {
    quorum: QuorumHandle,
    cluster: Cluster,
    atomic: AtomicU64,
    locked: RwLock<Arc<Snapshot>>,
    swapped: ArcSwap<Snapshot>,
    watched: watch::Sender<Arc<Snapshot>>,
    receiver: watch::Receiver<Arc<Snapshot>>,
}

type Reader = (&'static str, fn(&Places, u32));

/// Loops in the function, so that what is called in the loop is inlined as in a user's code.
macro_rules! readers {
    ($($name:literal: |$places:ident| $read:expr;)*) => {
        [$(($name, |$places: &Places, reads: u32| for _ in 0..reads { black_box($read); })),*]
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
        let places = Arc::new(Places {
            quorum,
            cluster,
            atomic: AtomicU64::new(1),
            locked: RwLock::new(Arc::clone(&snapshot)),
            swapped: ArcSwap::from(snapshot),
            watched,
            receiver,
        });
        for (threads, writer) in [(1, false), (1, true), (2, false), (2, true)] {
            measure(report, &places, threads, writer);
        }
        places.quorum.stop().await;
    });
}

fn measure(report: &mut Report, places: &Arc<Places>, threads: usize, writer: bool) {
    let ended = Arc::new(AtomicBool::new(false));
    let writing = writer.then(|| {
        let (places, ended) = (Arc::clone(places), Arc::clone(&ended));
        thread::spawn(move || write(&places, &ended))
    });
    let mut samples = vec![Sample::default(); READERS.len()];
    for _ in 0..ROUNDS {
        for ((_, read), sample) in READERS.iter().zip(&mut samples) {
            sample.push(read_on(threads, places, *read));
        }
    }
    ended.store(true, Ordering::Relaxed);
    if let Some(writing) = writing {
        writing.join().expect("it writes");
        eventually("quorum is back", || places.quorum.is_quorate().then_some(()));
    }
    let with = if writer { ", a writer" } else { "" };
    let suffix = format!("{threads} thread{}{with}", if threads == 1 { "" } else { "s" });
    let clock = READERS.iter().position(|(name, _)| *name == CLOCK).expect("it is there");
    let clock = samples[clock].sorted();
    for ((name, _), sample) in READERS.iter().zip(&samples) {
        report.sample(format!("{name}, {suffix}"), "ns", sample);
        if *name == "is_quorate()" {
            // Both sorted: what slows one down, slows down the other.
            let ratio: Sample =
                sample.sorted().iter().zip(&clock).map(|(ours, clock)| ours / clock).collect();
            let name = format!("is_quorate() / a read of its clock, {suffix}");
            report.budget(name, "x", &ratio, 1.5);
        }
    }
}

/// Nanoseconds of one read, while so many threads read.
fn read_on(threads: usize, places: &Arc<Places>, read: fn(&Places, u32)) -> f64 {
    let barrier = Arc::new(Barrier::new(threads));
    let readers: Vec<_> = (0..threads)
        .map(|_| {
            let (places, barrier) = (Arc::clone(places), Arc::clone(&barrier));
            thread::spawn(move || {
                read(&places, READS / 100);
                barrier.wait();
                let start = clock::thread_time();
                read(&places, READS);
                clock::thread_time() - start
            })
        })
        .collect();
    let taken: Sample = readers
        .into_iter()
        .map(|reader| reader.join().expect("it reads") as f64 / f64::from(READS))
        .collect();
    taken.quantile(1.0)
}

fn write(places: &Places, ended: &AtomicBool) {
    let mut votes = 3;
    while !ended.load(Ordering::Relaxed) {
        thread::sleep(WRITE);
        // Quorate with either, and so the lease is granted each time.
        votes = 7 - votes;
        places.cluster.expected_votes(votes).expect("a number of votes");
        let snapshot = places.quorum.snapshot();
        places.atomic.store(u64::from(votes), Ordering::Release);
        *places.locked.write() = Arc::clone(&snapshot);
        places.swapped.store(Arc::clone(&snapshot));
        places.watched.send_replace(snapshot);
    }
    places.cluster.expected_votes(3).expect("a number of votes");
}
