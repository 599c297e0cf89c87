//! What services do when quorum is lost, on the simulated cluster. `StopSystem` ends the process, so
//! its tests are in `tests/own/`.

use std::{cell::RefCell, rc::Rc, time::Duration};

use actix::{Actor, Arbiter, System, clock};
use actix_quorum::{
    Cause, QuorumActor, QuorumHandle,
    policy::Call,
    sim::{Cluster, Recorder},
};

const SECOND: Duration = Duration::from_secs(1);

async fn quorate() -> (Cluster, QuorumHandle, Recorder) {
    tokio::time::pause();
    let cluster = Cluster::new(3);
    let builder = QuorumActor::builder().source(cluster.node(1));
    let quorum = builder.start_in_arbiter(&Arbiter::current());
    let mut probe = Recorder::new(&quorum);
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
