//! Fifty deaths of Corosync in a row: each is published within two seconds, the actor reconnects
//! each time, and the process does not use more and more descriptors or memory.

use std::time::{Duration, SystemTime};

use actix_quorum::{Connection, Quorum};

use crate::support::{
    Flipper, Ipc, Node, Watcher, dev_shm_entries, eventually, lines, open_fds, rss_kib, runs_thread,
};

const CYCLES: usize = 50;

/// How long publishing a death may take: a tick of 250 ms, and some time for a busy machine.
const AT_ONCE: Duration = Duration::from_secs(2);

#[test]
#[ignore = "needs root and corosync: make test"]
fn fifty_deaths_over_shared_memory_are_published_and_leak_nothing() {
    own_process!();
    fifty_deaths(Ipc::Shm);
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn fifty_deaths_over_sockets_are_published_and_leak_nothing() {
    own_process!();
    fifty_deaths(Ipc::Socket);
}

fn fifty_deaths(ipc: Ipc) {
    let node = Node::single_with(|config| config.ipc = ipc);
    let watcher = Watcher::start(&node.netns);
    watcher.until_settled(Quorum::Quorate, &[1]);
    // Fills the history of changes, so that it does not grow later.
    node.run(|| {
        let flipper = Flipper::new();
        (0..1100).for_each(|n| flipper.flip(n % 2 == 1));
    });
    watcher.until("the last flip", |change| change.current.sequence >= 1100);
    // If some notifications of flips have not arrived yet, the death of the daemon discards them.
    node.corosync.kill();
    watcher.until_lost();
    node.corosync.start();
    watcher.until_settled(Quorum::Quorate, &[1]);
    let mut before = None;
    for cycle in 0..CYCLES {
        // A daemon takes a second to stop cleanly, so only one death in ten is a stop.
        if cycle % 10 == 9 {
            node.corosync.stop();
        } else {
            node.corosync.kill();
        }
        let dead = SystemTime::now();
        let changes = watcher.until_lost();
        let last = changes.last().unwrap();
        // The actor may have noticed the death before this process reaped the daemon.
        let took = last.current.changed_at.duration_since(dead).unwrap_or_default();
        assert!(took < AT_ONCE, "cycle {cycle}: published after {took:?}");
        assert!(last.is_loss(), "cycle {cycle}: {}", lines(&changes));
        assert_eq!(last.current.quorum, Quorum::Unknown);
        assert!(!watcher.quorum.is_quorate());
        node.corosync.start();
        let changes = watcher.until_settled(Quorum::Quorate, &[1]);
        // Once the votes are known, the probe is connected too.
        eventually("the votes are known", || watcher.quorum.snapshot().votes.clone());
        let connected = |change: &&actix_quorum::QuorumChanged| {
            change.current.connection == Connection::Connected
        };
        let first =
            changes.iter().find(connected).expect("the actor is connected before it is quorate");
        assert_eq!(
            first.current.quorum,
            Quorum::Unknown,
            "quorum is unknown until the daemon reports it"
        );
        assert!(!changes.iter().any(|change| change.missed > 0));
        // By now everything that is allocated once has been allocated.
        if cycle == CYCLES * 3 / 5 {
            let reads = || (!runs_thread("quorum-names")).then_some(());
            eventually("the names of the nodes are read", reads);
            before = Some((open_fds(), rss_kib(), heap_in_use()));
        }
    }
    let (fds, rss, heap) = before.unwrap();
    eventually("as many descriptors are open as before", || (open_fds() == fds).then_some(()));
    // A leaked connection would take 1 MiB of heap and 3 MiB of mappings. Two hundred deaths in a
    // row take some 200 bytes of heap each, which belong to the harness. Resident memory varies
    // with the stacks of ended threads that the C library keeps; a dispatch touches 1 MiB of a
    // stack.
    let fits = |(heap_now, rss_now)| heap_now < heap + 1_048_576 && rss_now < rss + 6144;
    eventually("heap and resident memory have hardly grown", || {
        let now = (heap_in_use(), rss_kib());
        if !fits(now) {
            eprintln!("bytes of heap and KiB resident: {now:?}, before {:?}", (heap, rss));
        }
        fits(now).then_some(())
    });
    // No files of a killed server are left, except for those of a connection that was being closed
    // when the server died, such as the one that reads names.
    for entry in dev_shm_entries(std::process::id()) {
        if entry.starts_with(&format!("qb-{}-", node.corosync.pid())) {
            continue;
        }
        let files = std::fs::read_dir(format!("/dev/shm/{entry}")).into_iter().flatten().flatten();
        let names: Vec<_> = files.map(|file| file.file_name().into_string().unwrap()).collect();
        let reads_names = !names.is_empty() && names.iter().all(|name| name.contains("-cmap"));
        assert!(reads_names, "{entry} with {names:?} is left over from a dead connection");
    }
}

fn heap_in_use() -> usize {
    // SAFETY: the function has no preconditions; it counts under the allocator's own locks.
    unsafe { libc::mallinfo2() }.uordblks
}
