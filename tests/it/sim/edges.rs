//! What a caller meets at the edges of the API.

use actix::{Arbiter, System, clock::timeout};
use actix_quorum::{Connection, QuorumActor, QuorumHandle, Stopped, sim::Cluster};

use crate::support::DEADLINE;

fn start(cluster: &Cluster) -> QuorumHandle {
    QuorumActor::builder().source(cluster.node(1)).start_in_arbiter(&Arbiter::current())
}

#[test]
fn what_waits_ends_with_the_actor() {
    System::new().block_on(async {
        let cluster = Cluster::new(3);
        cluster.partition(&[&[1], &[2, 3]]).unwrap();
        let quorum = start(&cluster);
        let (quorate, acquired) = (quorum.clone(), quorum.clone());
        let held = quorum.clone();
        let waiting = [
            actix::spawn(async move { quorate.wait_quorate().await }),
            actix::spawn(async move { acquired.acquire().await.map(drop) }),
            actix::spawn(async move { held.wait_for(|_| false).await.map(drop) }),
        ];
        let decided = quorum.wait_for(|now| now.settled);
        timeout(DEADLINE, decided).await.expect("decided").unwrap();
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
        quorum.stop().await;
        for waiting in waiting {
            let ended = timeout(DEADLINE, waiting).await.expect("it ends").unwrap();
            assert_eq!(ended, Err(Stopped));
        }
        assert_eq!(quorum.wait_quorate().await, Err(Stopped));
        let last = quorum.wait_for(|now| now.connection == Connection::Stopped).await;
        assert!(last.is_ok(), "it is asked about the last state");
    });
}

#[test]
fn a_guard_is_acquired_once_there_is_quorum() {
    System::new().block_on(async {
        let cluster = Cluster::new(3);
        cluster.partition(&[&[1], &[2, 3]]).unwrap();
        let quorum = start(&cluster);
        let waiting = quorum.clone();
        let waiting = actix::spawn(async move { waiting.acquire().await });
        timeout(DEADLINE, quorum.wait_for(|now| now.settled)).await.expect("decided").unwrap();
        assert!(!waiting.is_finished());
        cluster.heal();
        let guard = timeout(DEADLINE, waiting).await.expect("acquired").unwrap().unwrap();
        assert!(guard.is_valid());
        assert_eq!(guard.epoch(), quorum.snapshot().epoch);
        quorum.stop().await;
        assert!(!guard.is_valid());
    });
}
