//! Fail-safety on a real daemon: whichever part hangs, the actor reports quorum for at most the
//! lease after the last request that was answered.
//!
//! A hung daemon delays other threads of the process. So the time at which a test notices a change
//! is not checked, but the time at which the handle last reported quorum, or at which the actor
//! published the change.

use std::{
    fs::{self, File},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use actix::{Arbiter, System};
use actix_quorum::{Cause, Connection, Quorum, QuorumActor, QuorumBuilder, QuorumLost};

use crate::support::{
    DEADLINE, FakeLibquorum, Node, Watcher, alone, block_on, eventually, fake_source, hold,
    last_quorate, lines, quick, quorate,
};

const LEASE: Duration = Duration::from_millis(1500);

/// The extra time allowed on a busy machine.
const SLACK: Duration = Duration::from_secs(1);

fn short_lease(builder: QuorumBuilder) -> QuorumBuilder {
    builder.lease(LEASE).backoff(quick())
}

fn watched() -> (Node, Watcher) {
    let node = Node::single();
    let watcher = Watcher::start_with(&node.netns, short_lease);
    watcher.until_settled(Quorum::Quorate, &[1]);
    (node, watcher)
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn the_lease_of_a_live_daemon_is_renewed() {
    own_process!();
    let _alone = alone();
    let (_node, watcher) = watched();
    let since = Instant::now();
    eventually("three leases pass", || {
        assert!(watcher.quorum.is_quorate(), "not quorate after {:?}", since.elapsed());
        (since.elapsed() > LEASE * 3).then_some(())
    });
    let changes = watcher.rest();
    assert!(
        changes.iter().all(|change| change.cause == Cause::Votes),
        "not only votes: {}",
        lines(&changes)
    );
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_hung_daemon_is_believed_for_at_most_the_lease() {
    own_process!();
    let _alone = alone();
    let (node, watcher) = watched();
    watcher.rest();
    let epoch = watcher.quorum.snapshot().epoch;
    let guard = watcher.quorum.guard().expect("the node is quorate");
    node.corosync.pause();
    let (since, paused) = (Instant::now(), SystemTime::now());
    let stayed = last_quorate(&watcher.quorum, since);
    assert!(stayed < LEASE + SLACK, "quorate for {stayed:?} after the pause");
    assert_eq!(watcher.quorum.quorum(), Quorum::Unknown);
    assert!(!guard.is_valid());
    let changes = watcher.until_cause(Cause::Stalled);
    let last = &changes.last().unwrap();
    let took = last.current.changed_at.duration_since(paused).unwrap();
    assert!(took < LEASE + SLACK, "published after {took:?}");
    assert!(last.is_loss() && last.current.connection == Connection::Stalled);
    assert_eq!(last.current.epoch, epoch + 1);

    node.corosync.resume();
    let changes = watcher.until_quorum(Quorum::Quorate);
    assert_eq!(changes.last().unwrap().current.connection, Connection::Connected);
    assert!(!guard.is_valid(), "the guard is from an earlier epoch");
    // The resumed daemon may form another ring, so quorum may be lost once more.
    let again = eventually("a new guard can be taken", || watcher.quorum.guard());
    assert!(again.epoch() > epoch);
}

/// The actor cannot publish the loss, but readers and guards lose quorum when the lease expires.
#[test]
#[ignore = "needs root and corosync: make test"]
fn readers_lose_quorum_when_the_lease_expires_even_if_the_arbiter_is_stuck() {
    own_process!();
    let _alone = alone();
    let node = Node::single();
    node.run(|| {
        System::new().block_on(async {
            let arbiter = Arbiter::new();
            let builder = short_lease(QuorumActor::builder());
            let quorum = builder.start_in_arbiter(&arbiter.handle());
            quorate(&quorum).await;
            let guard = quorum.guard().unwrap();
            let held = hold(&arbiter);
            let published = quorum.snapshot();
            let since = Instant::now();
            let lost = actix::clock::timeout(LEASE + SLACK, guard.lost()).await;
            assert!(lost.is_ok(), "still valid after {:?}", since.elapsed());
            assert!(!quorum.is_quorate());
            let now = quorum.snapshot();
            assert_eq!(
                now.sequence, published.sequence,
                "the actor was unable to publish anything"
            );
            assert_eq!((published.quorum, now.quorum), (Quorum::Quorate, Quorum::Unknown));
            drop(held);
            quorate(&quorum).await;
            assert!(!guard.is_valid());
        });
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn readers_lose_quorum_when_the_actor_dies() {
    own_process!();
    let node = Node::single();
    node.run(|| {
        System::new().block_on(async {
            let arbiter = Arbiter::new();
            let builder = short_lease(QuorumActor::builder());
            let quorum = builder.start_in_arbiter(&arbiter.handle());
            quorate(&quorum).await;
            arbiter.stop();
            let stopped = |s: &actix_quorum::Snapshot| s.connection == Connection::Stopped;
            actix::clock::timeout(DEADLINE, quorum.wait_for(stopped)).await.unwrap().unwrap();
            assert!(!quorum.is_quorate());
        });
    });
}

/// While the system is suspended, the boot-time clock runs and the monotonic clock does not. To
/// imitate this, a reader in its own process enters a time namespace in which only the boot-time
/// clock is an hour ahead.
#[test]
#[ignore = "needs root and corosync: make test"]
fn readers_lose_quorum_if_the_lease_expires_while_the_system_is_suspended() {
    own_process!();
    let (_node, watcher) = watched();
    let guard = watcher.quorum.guard().expect("the node is quorate");
    let mut ahead = Command::new("unshare")
        .args(["--time", "--boottime", "3600", "--fork", "--kill-child", "sleep", "60"])
        // This command may outlive this process for a moment, and must not keep our output open.
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("unshare can be run");
    // The time namespace of the command's child.
    let of_children = format!("/proc/{}/ns/time_for_children", ahead.id());
    let ours = fs::metadata("/proc/self/ns/time").unwrap().ino();
    let namespace = eventually("the command has a time namespace", || {
        let namespace = File::open(&of_children).ok()?;
        (namespace.metadata().unwrap().ino() != ours).then_some(namespace)
    });
    let fd = namespace.as_raw_fd();
    // SAFETY: the child only reads its copy of the memory, makes a system call, and exits.
    let status = unsafe {
        let reader = libc::fork();
        if reader == 0 {
            let before = watcher.quorum.is_quorate() && guard.is_valid();
            // Only a process with one thread may enter, and the child has one.
            let entered = libc::setns(fd, libc::CLONE_NEWTIME) == 0;
            let after = watcher.quorum.is_quorate() || guard.is_valid();
            libc::_exit(i32::from(!before) | i32::from(!entered) << 1 | i32::from(after) << 2);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(reader, &raw mut status, 0), reader);
        status
    };
    ahead.kill().unwrap();
    ahead.wait().unwrap();
    assert!(libc::WIFEXITED(status), "{status:x}");
    let flaws = libc::WEXITSTATUS(status);
    assert_eq!(flaws & 3, 0, "1: inquorate before; 2: cannot enter the namespace");
    assert_eq!(flaws, 0, "4: a reader saw quorum an hour after the last answer");
    assert!(watcher.quorum.is_quorate(), "in this process the lease has not expired");
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_guard_drops_its_work_when_quorum_is_lost() {
    own_process!();
    let (node, watcher) = watched();
    block_on(async {
        let guard = watcher.quorum.guard().unwrap();
        assert_eq!(guard.run(async { 42 }).await, Ok(42));
        let work = async {
            node.corosync.expected_votes(3);
            std::future::pending::<()>().await
        };
        let ran = tokio::time::timeout(DEADLINE, guard.run(work)).await.unwrap();
        assert_eq!(ran, Err(QuorumLost));
        let never = async { panic!("the work has started without quorum") };
        assert_eq!(guard.run(never).await, Err::<(), _>(QuorumLost));
        assert!(watcher.quorum.guard().is_none());
        node.corosync.expected_votes(1);
        tokio::time::timeout(DEADLINE, watcher.quorum.wait_quorate()).await.unwrap().unwrap();
        assert!(!guard.is_valid() && watcher.quorum.guard().is_some());
    });
}

/// The fake daemon sends notifications but does not answer requests.
#[test]
#[ignore = "needs a C compiler: make test"]
fn a_daemon_that_sends_but_does_not_answer_is_not_believed() {
    own_process!();
    let _alone = alone();
    let fake = Arc::new(FakeLibquorum::new("lease_talks"));
    let watcher =
        Watcher::here(|builder| short_lease(fake_source(builder, fake.path()).server_uid(None)));
    fake.push_nodelist((1, 9), Some(&[1]), None, None);
    fake.push_quorum(1, (1, 9), Some(&[1]));
    watcher.until_settled(Quorum::Quorate, &[1]);
    fake.block("quorum_getquorate");
    let (since, silent) = (Instant::now(), SystemTime::now());
    let talking = Arc::clone(&fake);
    let talker = thread::spawn(move || {
        while since.elapsed() < LEASE * 3 {
            talking.push_quorum(0, (1, 9), Some(&[1]));
            talking.push_quorum(1, (1, 9), Some(&[1]));
            thread::yield_now();
        }
    });
    let changes = watcher.until_cause(Cause::Stalled);
    let took = changes.last().unwrap().current.changed_at.duration_since(silent).unwrap();
    assert!(took < LEASE + SLACK, "published after {took:?}");
    talker.join().unwrap();
    assert!(!watcher.quorum.is_quorate());
    fake.unblock("quorum_getquorate");
    watcher.until_quorum(Quorum::Quorate);
}

/// A probe after the decision receives the answer that there is no quorum. In a real daemon
/// votequorum gives this answer; in the fake daemon, the quorum service does.
#[test]
#[ignore = "needs a C compiler: make test"]
fn a_negative_answer_to_the_probe_ends_quorum() {
    own_process!();
    let fake = FakeLibquorum::new("lease_veto");
    let watcher =
        Watcher::here(|builder| short_lease(fake_source(builder, fake.path()).server_uid(None)));
    fake.push_nodelist((1, 9), Some(&[1]), None, None);
    fake.push_quorum(1, (1, 9), Some(&[1]));
    watcher.until_settled(Quorum::Quorate, &[1]);
    fake.quorate(0);
    let changes = watcher.until_quorum(Quorum::Inquorate);
    assert!(changes.last().unwrap().is_loss());
    fake.push_quorum(1, (1, 9), Some(&[1]));
    watcher.until_quorum(Quorum::Quorate);
}
