//! `start_detached`: an actor for programs without an actix `System`, on the simulated cluster.

use std::{pin::pin, thread};

use actix::System;
use actix_quorum::{Connection, Quorum, QuorumActor, QuorumLost, sim::Cluster};
use futures_util::StreamExt;
use tokio::{runtime::Builder, time::timeout};

use crate::support::{DEADLINE, block_on, eventually, open_fds, runs_thread};

fn alone(cluster: &Cluster) {
    cluster.partition(&[&[1], &[2, 3]]).unwrap();
}

#[test]
fn in_a_tokio_program_a_guard_drops_its_work_when_quorum_is_lost() {
    own_process!();
    let cluster = Cluster::new(3);
    let quorum = QuorumActor::builder().source(cluster.node(1)).start_detached();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    let worker = quorum.clone();
    let working = runtime.spawn(async move {
        worker.wait_quorate().await.unwrap();
        let guard = worker.guard().expect("the node is quorate");
        alone(&cluster);
        timeout(DEADLINE, guard.run(std::future::pending::<()>())).await
    });
    assert_eq!(runtime.block_on(working).unwrap().unwrap(), Err(QuorumLost));
    assert!(System::try_current().is_none(), "the caller's thread has no System");
    runtime.block_on(quorum.stop());
}

#[test]
fn a_handle_works_on_an_executor_without_timers() {
    own_process!();
    let cluster = Cluster::new(3);
    let quorum = QuorumActor::builder().source(cluster.node(1)).start_detached();
    // Neither io nor time is enabled, so a timer would panic.
    let runtime = Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut changes = pin!(quorum.changes());
        quorum.wait_quorate().await.unwrap();
        assert!(quorum.is_quorate() && quorum.guard().is_some());
        alone(&cluster);
        while changes.next().await.expect("the actor is not stopped").current.quorum
            != Quorum::Inquorate
        {}
    });
    block_on(quorum.stop());
}

#[test]
fn the_thread_of_a_detached_actor_ends_when_the_actor_stops() {
    own_process!();
    let run = || {
        let quorum = QuorumActor::builder().source(Cluster::new(3).node(1)).start_detached();
        block_on(quorum.wait_quorate()).unwrap();
        assert!(runs_thread("quorum"));
        block_on(quorum.stop());
        assert_eq!(quorum.snapshot().connection, Connection::Stopped);
        eventually("the actor's thread ends", || (!runs_thread("quorum")).then_some(()));
    };
    // The first run opens the descriptors that tokio keeps for the process.
    run();
    let before = open_fds();
    run();
    eventually("the actor's descriptors are closed", || (open_fds() == before).then_some(()));
}

#[test]
fn a_handle_works_on_threads_without_a_runtime() {
    own_process!();
    let cluster = Cluster::new(3);
    let started = thread::spawn({
        let node = cluster.node(1);
        || QuorumActor::builder().source(node).start_detached()
    });
    let quorum = started.join().unwrap();
    eventually("the node is quorate", || quorum.is_quorate().then_some(()));
    alone(&cluster);
    eventually("the node is inquorate", || (quorum.quorum() == Quorum::Inquorate).then_some(()));
}
