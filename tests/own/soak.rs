//! Random faults on a real cluster of three nodes. An independent observer checks the handle of
//! each node, and another observer checks all nodes together. Half of the time the cluster uses
//! knet, and half of the time udpu.
//!
//! `make test-long` runs this test for two minutes, `make soak` for ten. `SOAK_SEED` repeats the
//! faults of a run, `SOAK_SECONDS` sets its duration.

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use actix_quorum::{FencingToken, NodeId, QuorumHandle};
use corosync_sys::VoteQuorum;

use crate::support::{
    Cluster, Transport, Watcher, eventually, eventually_within, open_fds, quick, runs_thread,
};

const LEASE: Duration = Duration::from_secs(2);

/// How long the handle may take to report what the daemon reports: the tick, the interval of the
/// observer, and some time for a loaded machine. It is shorter than the lease, because the end of
/// the lease would hide a longer delay.
const LAG: Duration = Duration::from_millis(1500);

/// A small random generator with a seed, good enough for the faults.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn node(&mut self) -> u32 {
        u32::try_from(self.below(3)).unwrap() + 1
    }
}

/// The findings of the observers.
#[derive(Default)]
struct Seen {
    answers: AtomicU64,
    inquorate: AtomicU64,
    disagreements: AtomicU64,
    /// How many times an observer saw an exclusive node.
    exclusive: AtomicU64,
    /// How many times an observer saw an exclusive node although another node was quorate on a
    /// later ring without it.
    violations: AtomicU64,
    ended: AtomicBool,
}

/// Watches all nodes: a node is never exclusive after another node was quorate on a later ring
/// without it. The members of the later ring may learn of that ring at different times.
fn observe_exclusive(seen: &Seen, quorums: &[QuorumHandle]) {
    // For each node, the highest fencing token of a ring without it.
    let mut without: Vec<Option<FencingToken>> = vec![None; quorums.len()];
    let exclusive = |quorum: &QuorumHandle| {
        let guard = quorum.guard()?;
        let token = guard.fencing_token()?;
        // The node was exclusive on one ring, with this token.
        (guard.is_exclusive() && guard.fencing_token() == Some(token)).then_some(token)
    };
    while !seen.ended.load(Ordering::Relaxed) {
        for snapshot in quorums.iter().map(QuorumHandle::snapshot) {
            let Some(token) = snapshot.fencing_token() else { continue };
            for (id, highest) in (1..).zip(&mut without) {
                if !snapshot.members.contains(&NodeId(id)) {
                    *highest = (*highest).max(Some(token));
                }
            }
        }
        for (quorum, highest) in quorums.iter().zip(&without) {
            let Some(token) = exclusive(quorum) else { continue };
            seen.exclusive.fetch_add(1, Ordering::Relaxed);
            if *highest > Some(token) {
                seen.violations.fetch_add(1, Ordering::Relaxed);
                let now: Vec<_> = quorums.iter().map(|q| q.snapshot().to_string()).collect();
                eprintln!(
                    "exclusive with token {token}, although a ring without this node had the \
                     token {highest:?}: {now:#?}"
                );
            }
        }
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// Asks votequorum on a node, through the C functions only, and compares the answer with the
/// handle.
fn observe(seen: &Seen, quorum: &QuorumHandle) {
    // SAFETY: the system's libvotequorum.
    let library = unsafe { VoteQuorum::load() }.unwrap();
    let mut inquorate_since: Option<Instant> = None;
    while !seen.ended.load(Ordering::Relaxed) {
        let mut handle = 0;
        let mut callbacks = corosync_sys::votequorum_callbacks_t::default();
        // SAFETY: both pointers are to locals.
        let connected = unsafe { (library.votequorum_initialize)(&mut handle, &mut callbacks) };
        while connected == corosync_sys::CS_OK && !seen.ended.load(Ordering::Relaxed) {
            let is_quorate = quorum.is_quorate();
            let mut info = corosync_sys::votequorum_info::default();
            // SAFETY: the handle is open, and only this thread uses it; `info` is a local.
            if unsafe { (library.votequorum_getinfo)(handle, 0, &mut info) } != corosync_sys::CS_OK
            {
                break;
            }
            seen.answers.fetch_add(1, Ordering::Relaxed);
            if info.flags & corosync_sys::VOTEQUORUM_INFO_QUORATE != 0 {
                inquorate_since = None;
            } else {
                seen.inquorate.fetch_add(1, Ordering::Relaxed);
                let since = *inquorate_since.get_or_insert_with(Instant::now);
                // The daemon reported no quorum before and after the handle was read, and in every
                // answer for longer than LAG.
                if is_quorate && since.elapsed() > LAG {
                    seen.disagreements.fetch_add(1, Ordering::Relaxed);
                    eprintln!(
                        "still quorate {:?} after votequorum reported no quorum: {}",
                        since.elapsed(),
                        quorum.snapshot()
                    );
                }
            }
            thread::park_timeout(Duration::from_millis(10));
        }
        inquorate_since = None;
        // SAFETY: the handle is ours and not used again, or was never opened.
        unsafe { (library.votequorum_finalize)(handle) };
        thread::park_timeout(Duration::from_millis(20));
    }
}

/// After votequorum has reported a loss, the handle may report quorum for at most `LAG`.
#[test]
#[ignore = "needs root and corosync: make soak"]
fn no_node_stays_quorate_after_a_loss_or_exclusive_on_an_old_ring() {
    own_process!();
    let number = |name: &str| env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let duration = Duration::from_secs(number("SOAK_SECONDS").unwrap_or(60));
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
    let seed = number("SOAK_SEED").unwrap_or_else(|| u64::from(now()) | 1);
    println!("SOAK_SEED={seed} SOAK_SECONDS={}", duration.as_secs());
    let mut random = Random(seed);
    for transport in [Transport::Knet, Transport::Udpu] {
        soak(transport, duration / 2, &mut random, seed);
    }
}

fn soak(transport: Transport, duration: Duration, random: &mut Random, seed: u64) {
    let cluster = Cluster::start_with(3, |config| config.transport = transport);
    let watchers: Vec<Watcher> = cluster
        .nodes()
        .map(|node| {
            Watcher::start_with(&node.netns, |builder| builder.lease(LEASE).backoff(quick()))
        })
        .collect();
    let quorum = |id: u32| &watchers[id as usize - 1].quorum;
    let connected = || {
        for id in 1..=3 {
            eventually("all nodes are quorate, and their votes are known", || {
                let now = quorum(id).snapshot();
                let probed = now.votes.as_ref().is_some_and(|votes| votes.members.len() == 3);
                (quorum(id).is_quorate() && now.members.len() == 3 && probed).then_some(())
            });
        }
        let read = || (!runs_thread("quorum-names")).then_some(());
        eventually("the names of the nodes are read", read);
    };
    connected();
    let before = open_fds();
    let seen = Arc::new(Seen::default());
    let observers: Vec<_> = cluster
        .nodes()
        .map(|node| {
            let (seen, quorum) = (Arc::clone(&seen), quorum(node.id).clone());
            node.run(move || thread::spawn(move || observe(&seen, &quorum)))
        })
        .collect();

    let all = {
        let seen = Arc::clone(&seen);
        let quorums: Vec<QuorumHandle> = watchers.iter().map(|w| w.quorum.clone()).collect();
        thread::spawn(move || observe_exclusive(&seen, &quorums))
    };

    let start = Instant::now();
    let mut faults = 0;
    let mut changes = 0;
    let wait = |ms: u64| {
        let until = Instant::now() + Duration::from_millis(ms);
        eventually("the time is reached", || (Instant::now() >= until).then_some(()));
    };
    let not_quorate = |id: u32, within: Duration| {
        eventually_within(within, &format!("node {id} is not quorate"), || {
            (!quorum(id).is_quorate()).then_some(())
        });
    };
    while start.elapsed() < duration {
        faults += 1;
        let id = random.node();
        let peer = id % 3 + 1;
        match random.below(15) {
            0 => {
                cluster.isolate(id);
                wait(random.below(4_000));
                cluster.heal();
            }
            1 => {
                cluster.kill(id);
                not_quorate(id, LAG);
                wait(random.below(3_000));
                cluster.start_node(id);
            }
            2 => {
                cluster.stop(id);
                not_quorate(id, LAG);
                cluster.start_node(id);
            }
            3 => {
                cluster.pause(id);
                wait(random.below(1_000));
                cluster.resume(id);
            }
            4 => {
                cluster.pause(id);
                not_quorate(id, LEASE + LAG);
                let until = Instant::now() + Duration::from_millis(random.below(2_000));
                eventually("the time is reached", || {
                    assert!(!quorum(id).is_quorate(), "node {id}: {}", quorum(id).snapshot());
                    (Instant::now() >= until).then_some(())
                });
                cluster.resume(id);
            }
            5 => cluster.restart_node(id),
            6 => {
                for _ in 0..3 {
                    cluster.isolate(id);
                    wait(random.below(300));
                    cluster.heal();
                    wait(random.below(300));
                }
            }
            // The ring ends while the daemon is alive.
            7 => {
                cluster.lose_sends(id);
                wait(random.below(8_000));
                cluster.heal();
            }
            8 => {
                cluster.lose_receives(id);
                wait(random.below(8_000));
                cluster.heal();
            }
            9 => {
                cluster.lose_sends_to(id, peer);
                wait(random.below(8_000));
                cluster.heal();
            }
            10 => {
                cluster.lose_link(id, peer);
                wait(random.below(8_000));
                cluster.heal();
            }
            11 => {
                cluster.cut(id);
                wait(random.below(8_000));
                cluster.heal();
            }
            // Two faults at a time.
            12 => {
                cluster.lose_sends_to(id, peer);
                wait(random.below(2_000));
                cluster.pause(peer);
                wait(random.below(5_000));
                cluster.heal();
                wait(random.below(500));
                cluster.resume(peer);
            }
            13 => {
                cluster.pause(id);
                cluster.pause(peer);
                wait(random.below(5_000));
                cluster.resume(id);
                wait(random.below(500));
                cluster.resume(peer);
            }
            _ => {
                // The reload may fail, because the node may be busy or forming a ring.
                let _ = cluster.node(id).corosync.tool("corosync-cfgtool", &["-R"]);
            }
        }
        wait(random.below(3_000));
        changes += watchers.iter().map(|watcher| watcher.rest().len()).sum::<usize>();
    }
    connected();
    seen.ended.store(true, Ordering::Relaxed);
    observers.into_iter().chain([all]).for_each(|observer| observer.join().unwrap());
    eventually("no more descriptors are open than before", || (open_fds() <= before).then_some(()));
    let Seen { answers, inquorate, disagreements, exclusive, violations, .. } = &*seen;
    let [answers, inquorate, disagreements, exclusive, violations] =
        [answers, inquorate, disagreements, exclusive, violations]
            .map(|count| count.load(Ordering::Relaxed));
    println!(
        "{}: {faults} faults, {changes} changes; {answers} answers of votequorum, {inquorate} of them \
         inquorate, {disagreements} disagreements; {exclusive} times exclusive, {violations} of them \
         while others were quorate without the node",
        transport.name()
    );
    assert_eq!((disagreements, violations), (0, 0), "SOAK_SEED={seed}");
    assert!(inquorate > 0 && exclusive > 0 && faults > 3, "nothing was tested");
}
