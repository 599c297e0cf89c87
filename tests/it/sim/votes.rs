//! What the votes show: the reason for missing quorum, and the nodes whose loss would not end
//! quorum.

use std::time::Duration;

use actix::{Arbiter, System};
use actix_quorum::{
    NodeId, Quorum, QuorumActor, QuorumChanged, QuorumHandle,
    sim::{Cluster, Recorder},
};

/// Runs a test with an actor on node 1, in virtual time.
fn on<F: Future<Output = ()>>(
    cluster: Cluster,
    test: impl FnOnce(Cluster, QuorumHandle, Recorder) -> F,
) {
    System::new().block_on(async {
        tokio::time::pause();
        let builder = QuorumActor::builder().source(cluster.node(1));
        let quorum = builder.start_in_arbiter(&Arbiter::current());
        let mut recorder = Recorder::new(&quorum).deadline(Duration::from_secs(3600));
        recorder.expect_gain().await;
        test(cluster, quorum, recorder).await;
    });
}

/// Matches a settled change with this many members and votes.
fn settled(members: usize, total: u32) -> impl Fn(&QuorumChanged) -> bool {
    move |change| {
        let now = &change.current;
        let are_known = now.votes.as_ref().is_some_and(|votes| votes.total == total);
        now.settled
            && now.members.len() == members
            && are_known
            && now.quorate_without(&[]).is_some()
    }
}

#[test]
fn the_text_of_an_inquorate_state_shows_the_number_of_votes() {
    on(Cluster::new(4), |cluster, _, mut recorder| async move {
        cluster.partition(&[&[1, 2], &[3, 4]]).unwrap();
        let change = recorder.expect("a settled state with 2 of 4 votes", settled(2, 2)).await;
        let line = change.to_string();
        assert!(line.starts_with("inquorate: ring "), "{line}");
        assert!(line.contains(", members 1 2; 2 of 4 votes, 3 required"), "{line}");
        assert!(!line.contains("; votes "), "the votes are shown only once: {line}");
    });
}

#[test]
fn a_node_that_is_waiting_for_all_nodes_reports_this_and_has_no_margin() {
    on(Cluster::new(5).wait_for_all(true), |cluster, _, mut recorder| async move {
        cluster.partition(&[&[1], &[2], &[3], &[4], &[5]]).unwrap();
        let change = recorder.expect("a settled state with 1 of 5 votes", settled(1, 1)).await;
        assert!(change.to_string().contains("; 1 of 5 votes, 3 required"), "{change}");
        cluster.partition(&[&[1, 2, 3, 4], &[5]]).unwrap();
        let change = recorder.expect("a settled state with 4 of 5 votes", settled(4, 4)).await;
        let (now, line) = (&change.current, change.to_string());
        assert_eq!(now.quorum, Quorum::Inquorate);
        assert!(line.contains(", members 1 2 3 4; 4 of 5 votes, waits for all nodes"), "{line}");
        let votes = now.votes.as_ref().unwrap();
        assert_eq!((votes.total, votes.quorum, votes.margin()), (4, 3, 0));
        assert_eq!(now.quorate_without(&[]), Some(false));
        cluster.heal();
        let change = recorder.expect("a settled state with all votes", settled(5, 5)).await;
        assert!(!change.to_string().contains("waits"), "{change}");
        assert_eq!(change.current.votes.as_ref().unwrap().margin(), 2);
    });
}

#[test]
fn the_half_with_the_tie_breaker_is_quorate_without_a_margin() {
    on(Cluster::new(4).auto_tie_breaker(true), |cluster, _, mut recorder| async move {
        cluster.partition(&[&[1, 2], &[3, 4]]).unwrap();
        let change = recorder.expect("a settled state with 2 of 4 votes", settled(2, 2)).await;
        let now = &change.current;
        assert!(now.quorum.is_quorate(), "{change}");
        assert_eq!(now.quorate_without(&[]), Some(true));
        assert_eq!(now.quorate_without(&[NodeId(3)]), Some(true), "node 3 is not a member");
        assert_eq!(now.quorate_without(&[NodeId(2)]), Some(false));
        assert_eq!(now.votes.as_ref().unwrap().margin(), 0);
        assert!(!change.to_string().contains("required"), "{change}");
    });
}

#[test]
fn the_votes_of_another_membership_are_not_used() {
    on(Cluster::new(4), |cluster, quorum, mut recorder| async move {
        quorum.wait_for(|now| now.quorate_without(&[]) == Some(true)).await.unwrap();
        assert_eq!(quorum.snapshot().quorate_without(&[NodeId(2)]), Some(true));
        cluster.partition(&[&[1, 2, 3], &[4]]).unwrap();
        let changes = recorder.up_to("a settled state with 3 of 4 votes", settled(3, 3)).await;
        let changed: Vec<_> =
            changes.iter().filter(|change| change.current.members.len() == 3).collect();
        let (last, before) = changed.split_last().unwrap();
        assert!(!before.is_empty());
        // These changes still have the votes of four nodes.
        for change in before {
            assert_eq!(change.current.quorate_without(&[NodeId(2)]), None, "{change}");
            assert_eq!(change.current.quorate_without(&[]), None, "{change}");
        }
        assert_eq!(last.current.quorate_without(&[NodeId(2)]), Some(false));
    });
}
