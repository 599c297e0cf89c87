//! Three real nodes: what each side is told when the cluster comes apart and together.

mod support;

use std::collections::BTreeMap;

use actix_quorum::{Quorum, QuorumChanged};
use support::{Cluster, Watcher, lines};

/// An actor on each node, once it has told that the cluster has formed.
fn watch(cluster: &Cluster) -> BTreeMap<u32, Watcher> {
    cluster
        .nodes()
        .map(|node| {
            let watcher = Watcher::start(&node.netns);
            watcher.until_settled(Quorum::Quorate, &[1, 2, 3]);
            (node.id, watcher)
        })
        .collect()
}

/// Checks what holds of any sequence of changes, and returns who joined and who left in it.
#[track_caller]
fn composed(changes: &[QuorumChanged]) -> (Vec<u32>, Vec<u32>) {
    let (mut joined, mut left) = (Vec::new(), Vec::new());
    for pair in changes.windows(2) {
        assert_eq!(pair[0].current, pair[1].previous, "{}", lines(changes));
    }
    for change in changes {
        let mut members = change.previous.members.clone();
        members.retain(|node| !change.left.contains(node));
        members.extend(change.joined.iter().copied());
        members.sort_unstable();
        assert_eq!(members, change.current.members, "{change}");
        assert_eq!(change.missed, 0, "{change}");
        assert_eq!(change.current.sequence, change.previous.sequence + 1, "{change}");
        joined.extend(change.joined.iter().map(|node| node.0));
        left.extend(change.left.iter().map(|node| node.0));
    }
    (joined, left)
}

/// Whether the rings of these changes only ever moved on.
#[track_caller]
fn rings_grow(changes: &[QuorumChanged]) {
    let rings: Vec<u64> =
        changes.iter().filter_map(|change| Some(change.current.ring_id?.seq)).collect();
    assert!(rings.is_sorted(), "{}", lines(changes));
}

#[track_caller]
fn none_was(quorum: Quorum, changes: &[QuorumChanged]) {
    assert!(
        changes.iter().all(|change| change.current.quorum != quorum),
        "{quorum} among{}",
        lines(changes)
    );
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_partition_and_its_heal() {
    let cluster = Cluster::start(3);
    let nodes = watch(&cluster);

    cluster.isolate(3);
    for id in [1, 2] {
        let changes = nodes[&id].until_settled(Quorum::Quorate, &[1, 2]);
        assert_eq!(composed(&changes), (vec![], vec![3]), "node {id}");
        none_was(Quorum::Inquorate, &changes);
        rings_grow(&changes);
    }
    let changes = nodes[&3].until_settled(Quorum::Inquorate, &[3]);
    assert_eq!(composed(&changes), (vec![], vec![1, 2]));
    assert_eq!(changes.iter().filter(|change| change.is_loss()).count(), 1);
    let epochs = changes.last().unwrap().current.epoch - changes[0].previous.epoch;
    assert_eq!(epochs, 1, "{}", lines(&changes));
    assert!(!nodes[&3].quorum.is_quorate() && nodes[&1].quorum.is_quorate());

    cluster.rejoin(3);
    for id in [1, 2] {
        let changes = nodes[&id].until_settled(Quorum::Quorate, &[1, 2, 3]);
        assert_eq!(composed(&changes), (vec![3], vec![]), "node {id}");
        none_was(Quorum::Inquorate, &changes);
        let epochs = changes.last().unwrap().current.epoch - changes[0].previous.epoch;
        assert_eq!(epochs, 0, "{}", lines(&changes));
    }
    let changes = nodes[&3].until_settled(Quorum::Quorate, &[1, 2, 3]);
    assert_eq!(composed(&changes), (vec![1, 2], vec![]));
    assert!(changes.last().unwrap().is_gain());
    let rings: Vec<_> = nodes.values().map(|node| node.quorum.snapshot().ring_id).collect();
    assert!(rings.iter().all(|ring| ring.is_some() && *ring == rings[0]), "{rings:?}");
    let shown = cluster.node(1).wait_members(true, &[1, 2, 3]).ring_id;
    assert_eq!(rings[0].unwrap().to_string(), shown, "as corosync shows it");
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_nodes_death_and_its_slow_restart() {
    let cluster = Cluster::start(3);
    let nodes = watch(&cluster);

    cluster.kill(3);
    let changes = nodes[&3].until_lost();
    assert_eq!(changes.len(), 1, "at once: {}", lines(&changes));
    assert!(changes[0].is_loss() && changes[0].current.quorum == Quorum::Unknown);
    for id in [1, 2] {
        let changes = nodes[&id].until_settled(Quorum::Quorate, &[1, 2]);
        assert_eq!(composed(&changes), (vec![], vec![3]), "node {id}");
        none_was(Quorum::Inquorate, &changes);
    }

    cluster.start_node(3);
    for id in [1, 2] {
        let changes = nodes[&id].until_settled(Quorum::Quorate, &[1, 2, 3]);
        assert_eq!(composed(&changes), (vec![3], vec![]), "node {id}");
        none_was(Quorum::Inquorate, &changes);
    }
    // Corosync answers when it has a ring, of itself alone unless the others were quicker.
    let changes = nodes[&3].until_settled(Quorum::Quorate, &[1, 2, 3]);
    let (joined, left) = composed(&changes);
    assert_eq!(joined, left, "{}", lines(&changes));
    assert!(changes.iter().filter(|change| change.is_gain()).count() == 1);
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_nodes_graceful_stop() {
    let cluster = Cluster::start(3);
    let nodes = watch(&cluster);
    cluster.terminate(3);
    let changes = nodes[&3].until_lost();
    assert!(changes.last().unwrap().current.quorum == Quorum::Unknown, "{}", lines(&changes));
    for id in [1, 2] {
        let changes = nodes[&id].until_settled(Quorum::Quorate, &[1, 2]);
        assert_eq!(composed(&changes), (vec![], vec![3]), "node {id}");
        none_was(Quorum::Inquorate, &changes);
    }
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn an_instant_restart_shows_in_joined_and_in_left() {
    let cluster = Cluster::start(3);
    let nodes = watch(&cluster);
    let epochs: BTreeMap<_, _> =
        nodes.iter().map(|(id, node)| (*id, node.quorum.snapshot().epoch)).collect();
    cluster.restart_node(3);
    for id in [1, 2] {
        let changes =
            nodes[&id].until("3 restarted", |change| change.joined.iter().any(|node| node.0 == 3));
        assert_eq!(composed(&changes), (vec![3], vec![3]), "node {id}: {}", lines(&changes));
        let rejoined: Vec<u32> =
            changes.iter().flat_map(|change| change.rejoined()).map(|node| node.0).collect();
        assert_eq!(rejoined, [3], "node {id}: {}", lines(&changes));
        nodes[&id].until_settled(Quorum::Quorate, &[1, 2, 3]);
        assert_eq!(nodes[&id].quorum.snapshot().epoch, epochs[&id], "nothing was interrupted");
    }
    let changes = nodes[&3].until_settled(Quorum::Quorate, &[1, 2, 3]);
    let (joined, left) = composed(&changes);
    assert_eq!(joined, left, "{}", lines(&changes));
    assert!(changes[0].is_loss());
    assert!(nodes[&3].quorum.snapshot().epoch > epochs[&3]);
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn all_others_gone_is_inquorate() {
    let cluster = Cluster::start(3);
    let nodes = watch(&cluster);
    cluster.terminate(2);
    nodes[&1].until_settled(Quorum::Quorate, &[1, 3]);
    cluster.terminate(3);
    let changes = nodes[&1].until_settled(Quorum::Inquorate, &[1]);
    assert_eq!(composed(&changes), (vec![], vec![3]));
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_paused_node_shows_that_it_was_away() {
    let cluster = Cluster::start(3);
    let nodes = watch(&cluster);
    let epoch = nodes[&3].quorum.snapshot().epoch;
    cluster.pause(3);
    for id in [1, 2] {
        let changes = nodes[&id].until_settled(Quorum::Quorate, &[1, 2]);
        assert_eq!(composed(&changes), (vec![], vec![3]), "node {id}");
    }
    cluster.resume(3);
    // It may notice first that it was alone, or be told that the others left and joined at once.
    let changes = nodes[&3].until_settled(Quorum::Quorate, &[1, 2, 3]);
    let (joined, left) = composed(&changes);
    assert_eq!((joined, left), (vec![1, 2], vec![1, 2]), "{}", lines(&changes));
    assert!(nodes[&3].quorum.snapshot().epoch > epoch, "quorum cannot be vouched for meanwhile");
    for id in [1, 2] {
        let changes = nodes[&id].until_settled(Quorum::Quorate, &[1, 2, 3]);
        assert_eq!(composed(&changes), (vec![3], vec![]), "node {id}");
    }
}
