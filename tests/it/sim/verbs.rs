//! Calls that the simulated cluster refuses, and their error texts.

use actix_quorum::{
    NodeId,
    sim::{Cluster, Error},
};

#[test]
#[should_panic(expected = "a cluster has 1 to 384 nodes, got 0")]
fn a_cluster_without_nodes_is_refused() {
    Cluster::new(0);
}

#[test]
#[should_panic(expected = "a cluster has 1 to 384 nodes, got 385")]
fn a_cluster_with_more_nodes_than_corosync_allows_is_refused() {
    Cluster::new(385);
}

#[test]
fn a_cluster_may_have_as_many_nodes_as_corosync_allows() {
    let cluster = Cluster::new(384);
    assert_eq!(cluster.nodes().len(), 384);
    cluster.crash(384).unwrap();
}

#[test]
#[should_panic(expected = "there is no node 4; this cluster has nodes 1 to 3")]
fn a_node_outside_of_the_cluster_is_refused() {
    Cluster::new(3).node(4);
}

#[test]
fn the_error_for_an_unknown_node_lists_the_known_ones() {
    let cluster = Cluster::new(3);
    let error = cluster.crash(4).unwrap_err();
    assert!(matches!(error, Error::NoNode { node: NodeId(4), size: 3, .. }));
    assert_eq!(error.to_string(), "there is no node 4; this cluster has nodes 1 to 3");
    for result in [
        cluster.crash(4),
        cluster.stop(4),
        cluster.start(4),
        cluster.restart(4),
        cluster.pause(4),
        cluster.resume(4),
        cluster.votes(4, 1),
        cluster.mend(4),
        cluster.partition(&[&[1, 2, 3, 4]]),
    ] {
        assert_eq!(result, Err(error.clone()));
    }
}

#[test]
fn a_partition_must_list_each_node_once() {
    let cluster = Cluster::new(3);
    let overlap = cluster.partition(&[&[1, 2], &[2, 3]]).unwrap_err();
    assert_eq!(overlap, Error::Overlap(NodeId(2)));
    assert!(overlap.to_string().contains("node 2 is listed more than once"), "{overlap}");
    let left_out = cluster.partition(&[&[1, 2]]).unwrap_err();
    assert_eq!(left_out, Error::LeftOut(NodeId(3)));
    assert!(left_out.to_string().contains("`&[3]`"), "{left_out}");
}

#[test]
fn the_error_for_a_wrong_state_suggests_a_method() {
    let cluster = Cluster::new(3);
    let text = |result: Result<(), Error>| result.unwrap_err().to_string();
    assert_eq!(
        text(cluster.start(1)),
        "node 1 is running: crash or stop it before `start` or a `reload` without it, or \
         pause it before `resume`"
    );
    assert!(cluster.resume(1).is_err());
    cluster.pause(1).unwrap();
    assert_eq!(
        text(cluster.pause(1)),
        "node 1 is paused: crash or stop it before `start` or a `reload` without it, or \
         resume it before `pause`"
    );
    cluster.crash(1).unwrap();
    assert_eq!(text(cluster.crash(1)), "node 1 is down: start it first");
    assert!(cluster.expected_votes(0).is_err());
}
