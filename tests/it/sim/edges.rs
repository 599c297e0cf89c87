//! Edge cases of the API.

use std::time::Duration;

use actix::{Arbiter, System, clock::timeout};
use actix_quorum::{
    Cause, Code, Connection, Error, NodeId, Quorum, QuorumActor, QuorumChanged, QuorumHandle,
    QuorumLost, RingState, Snapshot, Stopped, VoteFlags, Votes, sim::Cluster,
    testing::ScriptedQuorum,
};
use futures_util::{FutureExt, StreamExt};

use crate::support::DEADLINE;

fn start(cluster: &Cluster) -> QuorumHandle {
    QuorumActor::builder().source(cluster.node(1)).start_in_arbiter(&Arbiter::current())
}

#[test]
fn waiting_calls_end_when_the_actor_stops() {
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
        timeout(DEADLINE, decided).await.expect("Corosync has decided").unwrap();
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
        quorum.stop().await;
        for waiting in waiting {
            let ended = timeout(DEADLINE, waiting).await.expect("the call ends").unwrap();
            assert_eq!(ended, Err(Stopped));
        }
        assert_eq!(quorum.wait_quorate().await, Err(Stopped));
        let last = quorum.wait_for(|now| now.connection == Connection::Stopped).await;
        assert!(last.is_ok(), "the condition is checked for the last state");
    });
}

#[test]
fn acquire_returns_a_guard_once_there_is_quorum() {
    System::new().block_on(async {
        let cluster = Cluster::new(3);
        cluster.partition(&[&[1], &[2, 3]]).unwrap();
        let quorum = start(&cluster);
        let waiting = quorum.clone();
        let waiting = actix::spawn(async move { waiting.acquire().await });
        timeout(DEADLINE, quorum.wait_for(|now| now.settled))
            .await
            .expect("Corosync has decided")
            .unwrap();
        assert!(!waiting.is_finished());
        cluster.heal();
        let guard =
            timeout(DEADLINE, waiting).await.expect("a guard is acquired").unwrap().unwrap();
        assert!(guard.is_valid());
        assert_eq!(guard.epoch(), quorum.snapshot().epoch);
        quorum.stop().await;
        assert!(!guard.is_valid());
    });
}

fn quorate(ring: &str, members: &[u32]) -> Snapshot {
    Snapshot::new(Quorum::Quorate, ring.parse().unwrap(), members.iter().copied())
}

/// Returns one vote for each member of a cluster of three nodes.
fn votes(members: &[u32]) -> Votes {
    let mut votes = Votes::default();
    (votes.expected, votes.highest_expected, votes.quorum) = (3, 3, 2);
    votes.members = members.iter().map(|node| (NodeId(*node), 1)).collect();
    votes.total = votes.members.len().try_into().unwrap();
    votes.flags = VoteFlags::QUORATE;
    votes
}

#[test]
fn a_scripted_handle_returns_the_published_state() {
    let script = ScriptedQuorum::new(quorate("1.9", &[1, 2, 3]));
    let quorum = script.handle();
    assert!(quorum.is_quorate() && !quorum.is_exclusive(), "the votes are not known");
    let guard = quorum.guard().unwrap();

    let mut exclusive = quorate("1.9", &[1, 2, 3]);
    exclusive.votes = Some(votes(&[1, 2, 3]));
    script.publish(exclusive.clone());
    assert!(quorum.is_exclusive() && guard.is_exclusive());
    assert_eq!(guard.fencing_token().map(u64::from), Some(9));
    exclusive.ring = RingState::Gather;
    script.publish(exclusive);
    assert!(quorum.is_quorate() && !quorum.is_exclusive());

    script.publish(Snapshot::new(Quorum::Inquorate, "3.d".parse().unwrap(), [3]));
    assert_eq!((quorum.quorum(), guard.is_valid()), (Quorum::Inquorate, false));
    script.publish(quorate("1.11", &[1, 2, 3]));
    assert!(quorum.is_quorate() && !guard.is_valid(), "the guard is from an earlier epoch");
    let guard = quorum.guard().unwrap();
    let mut interrupted = Snapshot::clone(&quorum.snapshot());
    interrupted.epoch = 7;
    script.publish(interrupted.clone());
    assert!(quorum.is_quorate() && !guard.is_valid(), "the epoch has changed");

    // A quorate state on a stalled connection is impossible: it is published as unknown.
    interrupted.connection = Connection::Stalled;
    script.publish(interrupted);
    assert_eq!((quorum.quorum(), quorum.snapshot().quorum), (Quorum::Unknown, Quorum::Unknown));
    script.publish(Snapshot::without_quorum(Connection::Stopped));
    script.publish(quorate("1.15", &[1, 2, 3]));
    assert_eq!(
        quorum.snapshot().connection,
        Connection::Stopped,
        "nothing is published after the stop"
    );
}

#[test]
fn waiting_and_streaming_work_on_a_scripted_handle() {
    System::new().block_on(async {
        let script = ScriptedQuorum::new(Snapshot::without_quorum(Connection::Connected));
        let quorum = script.handle();
        let mut changes = quorum.changes();
        assert_eq!(changes.next().await.unwrap().cause, Cause::Subscribed);
        assert_eq!(quorum.wait_quorate().now_or_never(), None);
        script.publish(quorate("1.9", &[1, 2]));
        assert_eq!(quorum.wait_quorate().now_or_never(), Some(Ok(())));
        let change = changes.next().await.unwrap();
        assert_eq!((change.cause, change.joined.to_string()), (Cause::Membership, "1 2".into()));
        assert!(change.is_gain());

        let guard = quorum.guard().unwrap();
        let work = guard.run(async {
            actix::clock::sleep(Duration::from_millis(1)).await;
            let error = Error::Dispatch(Code::LIBRARY);
            script.publish(Snapshot::without_quorum(Connection::disconnected(error)));
            actix::clock::sleep(Duration::from_secs(3600)).await;
        });
        assert_eq!(timeout(DEADLINE, work).await.expect("the work is dropped"), Err(QuorumLost));
        let change = changes.next().await.unwrap();
        assert_eq!((change.cause, change.left.to_string()), (Cause::Disconnected, "1 2".into()));
        quorum.stop().await;
        assert_eq!(changes.next().await.unwrap().cause, Cause::Stopped);
        assert!(changes.next().await.is_none());
        assert_eq!(quorum.wait_quorate().await, Err(Stopped));
    });
}

#[test]
fn a_constructed_change_lists_the_nodes_that_joined_and_left() {
    let (before, after) = (quorate("1.9", &[1, 2, 3]), quorate("1.d", &[3, 1, 4, 4]));
    let change = QuorumChanged::new(before, after, Cause::Membership);
    assert_eq!((change.joined.to_string(), change.left.to_string()), ("4".into(), "2".into()));
    assert_eq!(change, change.clone());
    assert_eq!(
        change.to_string(),
        "quorate: ring 1.d, members 1 3 4; joined 4; left 2 (was ring 1.9)"
    );
    let first = QuorumChanged::subscribed(quorate("1.9", &[1]));
    assert!(first.is_gain() && first.cause == Cause::Subscribed);
}

/// Callers also share and clone these types, and print them with `{:?}`.
#[test]
fn the_public_types_can_be_moved_to_other_threads() {
    fn moves<T: Send + Sync + Clone + std::fmt::Debug + 'static>() {}
    moves::<QuorumHandle>();
    moves::<actix_quorum::QuorumGuard>();
    moves::<Snapshot>();
    moves::<Error>();
    moves::<QuorumChanged>();
    moves::<actix_quorum::Nodes>();
    moves::<actix_quorum::Backoff>();
    moves::<actix_quorum::Corosync>();
}
