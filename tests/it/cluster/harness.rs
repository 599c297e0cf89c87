//! The harness itself: if these tests fail, the other tests on several daemons prove nothing.

use crate::support::Cluster;

#[test]
#[ignore = "needs root and corosync: make test"]
fn an_isolated_node_loses_quorum_and_the_others_keep_it() {
    let cluster = Cluster::start(3);
    cluster.isolate(3);
    cluster.node(3).wait_members(false, &[3]);
    cluster.node(1).wait_members(true, &[1, 2]);
    cluster.node(2).wait_members(true, &[1, 2]);
    cluster.heal();
    cluster.wait_formed();
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_partition_separates_its_groups() {
    let cluster = Cluster::start(5);
    cluster.partition(&[&[1, 4], &[5]]);
    cluster.node(1).wait_members(false, &[1, 4]);
    cluster.node(4).wait_members(false, &[1, 4]);
    cluster.node(5).wait_members(false, &[5]);
    cluster.node(2).wait_members(false, &[2, 3]);
    cluster.node(3).wait_members(false, &[2, 3]);
    cluster.partition(&[&[1], &[2]]);
    cluster.node(5).wait_members(true, &[3, 4, 5]);
    cluster.node(1).wait_members(false, &[1]);
    cluster.node(2).wait_members(false, &[2]);
    cluster.heal();
    cluster.wait_formed();
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn nodes_can_be_stopped_started_restarted_and_paused() {
    let cluster = Cluster::start(3);
    let node = cluster.node(3);
    let ring = cluster.node(1).wait_members(true, &[1, 2, 3]).ring_id;

    cluster.stop(3);
    assert_eq!(node.corosync.exit_status().and_then(|status| status.code()), Some(0));
    cluster.node(1).wait_members(true, &[1, 2]);
    cluster.start_node(3);
    cluster.wait_formed();

    let pid = node.corosync.pid();
    cluster.restart_node(3);
    assert_ne!(node.corosync.pid(), pid);
    cluster.wait_formed();
    assert_ne!(cluster.node(1).wait_members(true, &[1, 2, 3]).ring_id, ring);

    cluster.pause(3);
    cluster.node(1).wait_members(true, &[1, 2]);
    cluster.resume(3);
    cluster.wait_formed();
}
