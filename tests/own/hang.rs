//! Daemons that hang. A thread that hangs while it connects prevents the process from opening any
//! other connection, so each test runs in its own process.

use std::{ptr, sync::mpsc, thread, time::Duration};

use actix_quorum::{Cause, Code, Error, Quorum, libquorum::Handle};

use crate::support::{
    Node, Watcher, eventually, no_thread_waits, quick, runs_thread, threads, wait_asleep,
};

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_hung_daemon_is_reported_and_blocks_neither_stop_nor_start() {
    own_process!();
    let node = Node::single();
    node.corosync.pause();
    let watcher = Watcher::start(&node.netns);
    assert_eq!(watcher.error(), Error::Unresponsive);
    watcher.stops_at_once();
    // The actor's threads end although the daemon is still hanging.
    no_thread_waits();
    node.corosync.resume();
    let watcher = Watcher::start_with(&node.netns, |builder| builder.backoff(quick()));
    watcher.until_settled(Quorum::Quorate, &[1]);
}

/// In each case the daemon is suspended in a different phase of the connection.
#[test]
#[ignore = "needs root and corosync: make test"]
fn stopping_takes_bounded_time_wherever_the_daemon_hangs() {
    own_process!();
    let node = Node::single();
    let watch = || {
        let lease = Duration::from_millis(1500);
        Watcher::start_with(&node.netns, |builder| builder.lease(lease).backoff(quick()))
    };
    // The daemon hangs before the actor connects.
    node.corosync.pause();
    watch().stops_at_once();
    no_thread_waits();
    node.corosync.resume();
    // The daemon hangs while the actor is connected.
    let watcher = watch();
    watcher.until_settled(Quorum::Quorate, &[1]);
    node.corosync.pause();
    watcher.stops_at_once();
    no_thread_waits();
    node.corosync.resume();
    // The daemon hangs until the lease has expired.
    let watcher = watch();
    watcher.until_settled(Quorum::Quorate, &[1]);
    node.corosync.pause();
    watcher.until_cause(Cause::Stalled);
    watcher.stops_at_once();
    no_thread_waits();
    node.corosync.resume();
    watch().until_settled(Quorum::Quorate, &[1]);
}

/// The test ends the `System` of the actor and does not call `stop`.
#[test]
#[ignore = "needs root and corosync: make test"]
fn a_dropped_actor_leaves_no_thread_behind_wherever_the_daemon_hangs() {
    own_process!();
    let node = Node::single();
    let watch = || {
        let lease = Duration::from_millis(1500);
        Watcher::start_with(&node.netns, |builder| builder.lease(lease).backoff(quick()))
    };
    drop(watch());
    no_thread_waits();
    let before = threads();
    let dropped = |watcher: Watcher| {
        drop(watcher);
        no_thread_waits();
        eventually("no other thread is left", || (threads() <= before).then_some(()));
        node.corosync.resume();
    };
    node.corosync.pause();
    let watcher = watch();
    assert_eq!(watcher.error(), Error::Unresponsive);
    assert!(runs_thread("quorum-connect"));
    dropped(watcher);
    let watcher = watch();
    watcher.until_settled(Quorum::Quorate, &[1]);
    node.corosync.pause();
    watcher.until_cause(Cause::Stalled);
    assert!(runs_thread("quorum-probe") && runs_thread("quorum-ring"));
    dropped(watcher);
    watch().until_settled(Quorum::Quorate, &[1]);
}

/// libquorum reports the interruption as `CS_ERR_TRY_AGAIN`, although the daemon still hangs.
#[test]
#[ignore = "needs root and corosync: make test"]
fn an_attempt_to_connect_to_a_hung_daemon_returns_try_again_if_a_signal_interrupts_it() {
    own_process!();
    let node = Node::single();
    node.run(|| {
        extern "C" fn nothing(_: i32) {}
        // SAFETY: the handler does nothing; without SA_RESTART it interrupts the waiting call.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as extern "C" fn(i32) as usize;
            assert_eq!(libc::sigaction(libc::SIGUSR1, &action, ptr::null_mut()), 0);
        }
        node.corosync.pause();
        let (send, received) = mpsc::channel();
        let connecting = thread::spawn(move || {
            send.send(rustix::thread::gettid()).unwrap();
            Handle::initialize()
        });
        let thread = received.recv().unwrap().as_raw_nonzero().get();
        wait_asleep(thread);
        // SAFETY: a plain system call, which has no effect on a thread that has ended.
        let interrupt = || unsafe {
            libc::syscall(libc::SYS_tgkill, std::process::id(), thread, libc::SIGUSR1)
        };
        // A newer libqb repeats the interrupted call a few times.
        eventually("the attempt ends", || {
            interrupt();
            connecting.is_finished().then_some(())
        });
        assert_eq!(connecting.join().unwrap().unwrap_err().code().unwrap(), Code::TRY_AGAIN);
        node.corosync.resume();
        let connected = || Handle::initialize().ok();
        assert_eq!(eventually("Corosync answers again", connected).quorate(), Ok(true));
    });
}
