//! What services do when quorum is lost, on the simulated cluster.

use std::{cell::RefCell, rc::Rc, time::Duration};

use actix::{Actor, Arbiter, System, clock};
use actix_quorum::{
    Cause, QuorumActor, QuorumHandle,
    policy::{Call, StopSystem},
    sim::{Cluster, Probe},
};

const SECOND: Duration = Duration::from_secs(1);

async fn quorate() -> (Cluster, QuorumHandle, Probe) {
    tokio::time::pause();
    let cluster = Cluster::new(3);
    let builder = QuorumActor::builder().source(cluster.node(1));
    let quorum = builder.start_in_arbiter(&Arbiter::current());
    let mut probe = Probe::new(&quorum);
    probe.expect_gain().await;
    (cluster, quorum, probe)
}

#[test]
fn a_closure_is_called_with_each_change() {
    System::new().block_on(async {
        let (cluster, quorum, mut probe) = quorate().await;
        let told = Rc::new(RefCell::new(Vec::new()));
        let notes = Rc::clone(&told);
        let call = Call::new(move |change| notes.borrow_mut().push(change));
        quorum.subscribe(call.start().recipient());
        cluster.partition(&[&[1], &[2, 3]]).unwrap();
        probe.expect_loss().await;
        clock::sleep(SECOND).await;
        let told = told.borrow();
        assert_eq!(told[0].cause, Cause::Subscribed);
        for pair in told.windows(2) {
            assert_eq!(pair[0].current, pair[1].previous);
        }
        assert!(told.iter().any(|change| change.is_loss()));
        assert_eq!(told.last().unwrap().current, quorum.snapshot());
    });
}

/// The exit code, if the system was stopped at all.
fn stopped(policy: StopSystem, course: impl AsyncFnOnce(&Cluster, &QuorumHandle)) -> Option<i32> {
    let runner = System::new();
    runner.block_on(async {
        let (cluster, quorum, _probe) = quorate().await;
        quorum.subscribe(policy.start().recipient());
        clock::sleep(SECOND).await;
        course(&cluster, &quorum).await;
        clock::sleep(SECOND / 10).await;
        System::current().stop_with_code(-1);
    });
    match runner.run_with_code().unwrap() {
        -1 => None,
        code => Some(code),
    }
}

#[test]
fn the_system_is_stopped_when_quorum_is_lost() {
    let lose = async |cluster: &Cluster, _: &QuorumHandle| {
        cluster.partition(&[&[1], &[2, 3]]).unwrap();
    };
    assert_eq!(stopped(StopSystem::with_code(75), lose), Some(75));
    assert_eq!(stopped(StopSystem::with_code(75), async |_, _| {}), None);
}

#[test]
fn the_system_is_stopped_after_the_time_and_no_sooner() {
    let policy = || StopSystem::with_code(75).after(10 * SECOND);
    let lose = |time: Duration| {
        async move |cluster: &Cluster, _: &QuorumHandle| {
            cluster.crash(1).unwrap();
            clock::sleep(time).await;
        }
    };
    assert_eq!(stopped(policy(), lose(9 * SECOND)), None);
    assert_eq!(stopped(policy(), lose(11 * SECOND)), Some(75));
}

#[test]
fn quorum_that_comes_back_in_time_keeps_the_system() {
    let flap = async |cluster: &Cluster, quorum: &QuorumHandle| {
        for _ in 0..5 {
            cluster.partition(&[&[1], &[2, 3]]).unwrap();
            clock::sleep(6 * SECOND).await;
            cluster.heal();
            quorum.wait_quorate().await;
            clock::sleep(6 * SECOND).await;
        }
    };
    assert_eq!(stopped(StopSystem::with_code(75).after(10 * SECOND), flap), None);
}

#[test]
fn stopping_in_order_is_no_loss() {
    let stop = async |_: &Cluster, quorum: &QuorumHandle| {
        quorum.stop().await;
        clock::sleep(SECOND).await;
    };
    assert_eq!(stopped(StopSystem::with_code(75), stop), None);
}

#[test]
fn who_had_no_quorum_yet_waits_for_it() {
    let runner = System::new();
    runner.block_on(async {
        tokio::time::pause();
        let cluster = Cluster::new(3);
        cluster.crash(1).unwrap();
        let builder = QuorumActor::builder().source(cluster.node(1));
        let quorum = builder
            .subscribe(StopSystem::with_code(75).start().recipient())
            .start_in_arbiter(&Arbiter::current());
        clock::sleep(60 * SECOND).await;
        assert!(!quorum.is_quorate());
        System::current().stop_with_code(0);
    });
    assert_eq!(runner.run_with_code().unwrap(), 0);
}
