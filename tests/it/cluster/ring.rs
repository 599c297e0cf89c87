//! Three real nodes: the flags of their quorum devices, a ring that ends while its daemons are
//! alive, and fencing tokens.

use actix_quorum::{FencingToken, NodeId, Quorum, VoteFlags};

use crate::support::{Algorithm, Cluster, Transport, Watcher, eventually, quick};

/// Returns the fencing token of a node, once it is exclusive.
fn exclusive(watcher: &Watcher) -> FencingToken {
    eventually("the node is exclusive", || {
        let token = watcher.quorum.guard()?.fencing_token()?;
        watcher.quorum.is_exclusive().then_some(token)
    })
}

/// With `master_wins` a partition is quorate if any of its nodes has the quorum device
/// (`check_qdevice_master` in `exec/votequorum.c`), so node 1 must know whether any other node has
/// it.
#[test]
#[ignore = "needs root and corosync: make test"]
fn master_wins_is_reported_even_if_only_other_members_have_a_quorum_device() {
    let cluster = Cluster::start_with_device(3, Algorithm::Lms, |config| {
        config.device.as_mut().unwrap().master_wins = true;
    });
    // The client of the quorum device on node 1 ends with the daemon, and is not started again.
    let corosync = &cluster.node(1).corosync;
    corosync.kill();
    corosync.start();
    cluster.wait_formed();
    let one = Watcher::start_with(&cluster.node(1).netns, |builder| builder.backoff(quick()));
    let has_device = |node| {
        let votes = one.quorum.snapshot().votes.clone();
        votes.map(|votes| votes.qdevice_of(NodeId(node)).contains(VoteFlags::QDEVICE_MASTER_WINS))
    };
    let others = || (has_device(2)? && has_device(3)?).then_some(());
    eventually("the devices of the others are known", others);
    assert_eq!(has_device(1), Some(false));
    let wins = || one.quorum.snapshot().votes.as_ref().unwrap().flags;
    assert!(wins().contains(VoteFlags::QDEVICE_MASTER_WINS), "the flags are {:?}", wins());
    // A node that has left may still have its device, so `master_wins` is still reported.
    for id in [2, 3] {
        cluster.node(id).corosync.kill();
    }
    eventually("node 1 is alone", || (*one.quorum.snapshot().members == [NodeId(1)]).then_some(()));
    eventually("the votes are known", || {
        let now = one.quorum.snapshot();
        now.votes.as_ref().filter(|votes| votes.members.len() == 1).map(|_| ())
    });
    assert!(wins().contains(VoteFlags::QDEVICE_MASTER_WINS), "the flags are {:?}", wins());
}

/// Node 1 must read the flags of node 2, because the votes and node 1's own flags stay the same.
#[test]
#[ignore = "needs root and corosync: make test"]
fn the_failure_of_another_members_quorum_device_is_reported() {
    let cluster = Cluster::start_with_device(3, Algorithm::Lms, |_| {});
    let one = Watcher::start_with(&cluster.node(1).netns, |builder| builder.backoff(quick()));
    let alive = |node| {
        let votes = one.quorum.snapshot().votes.clone()?;
        Some(votes.qdevice_of(NodeId(node)).contains(VoteFlags::QDEVICE_ALIVE))
    };
    eventually("all devices are alive", || (alive(1)? && alive(2)? && alive(3)?).then_some(()));
    cluster.qdevice(2).kill();
    eventually("the device of node 2 is not alive", || (!alive(2)?).then_some(()));
    assert_eq!((alive(1), alive(3)), (Some(true), Some(true)));
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn an_excluded_node_is_never_exclusive_and_soon_not_quorate() {
    let cluster = Cluster::start_with(3, |config| config.transport = Transport::Udpu);
    let [one, two] = [1, 2]
        .map(|id| Watcher::start_with(&cluster.node(id).netns, |builder| builder.backoff(quick())));
    let before = exclusive(&one);
    assert_eq!(exclusive(&two), before, "all members of a ring have the same token");

    // Node 1's daemon notices that its token no longer returns, but informs no client.
    cluster.lose_sends_to(1, 2);
    eventually("the others are quorate without node 1", || {
        let now = two.quorum.snapshot();
        let without = !now.members.contains(&NodeId(1)) && two.quorum.is_quorate();
        assert!(
            !(without && one.quorum.is_exclusive()),
            "node 1 is exclusive while others are quorate without it: {now}"
        );
        without.then_some(())
    });
    eventually("node 1 is not quorate", || (!one.quorum.is_quorate()).then_some(()));
    assert!(one.quorum.guard().is_none() && !one.quorum.is_exclusive());
    assert_ne!(one.quorum.quorum(), Quorum::Quorate);
    let during = exclusive(&two);
    assert!(during > before, "{during} after {before}");

    cluster.heal_faults(1);
    let after = eventually("both are on one ring", || {
        let after = exclusive(&one);
        (exclusive(&two) == after).then_some(after)
    });
    assert!(after > during, "{after} after {during}");
}

/// The name of a round, a fault of node 3, and the repair of this fault.
type Round = (&'static str, fn(&Cluster), fn(&Cluster));

const ROUNDS: [Round; 5] = [
    ("partition", |cluster| cluster.partition(&[&[1, 2], &[3]]), Cluster::heal),
    ("kill", |cluster| cluster.kill(3), |cluster| cluster.start_node(3)),
    ("stop", |cluster| cluster.stop(3), |cluster| cluster.start_node(3)),
    ("pause", |cluster| cluster.pause(3), |cluster| cluster.resume(3)),
    ("restart", |cluster| cluster.restart_node(3), |_| {}),
];

#[test]
#[ignore = "needs root and corosync: make test"]
fn fencing_tokens_grow_through_partitions_kills_and_restarts() {
    let cluster = Cluster::start(3);
    let watchers = [1, 2, 3]
        .map(|id| Watcher::start_with(&cluster.node(id).netns, |builder| builder.backoff(quick())));
    let mut highest = None;
    // Waits until all these nodes have the same token, larger than all earlier tokens.
    let mut agree = |what: &str, nodes: &[Watcher]| {
        let token = eventually(&format!("{what}: a new token"), || {
            let tokens: Option<Vec<FencingToken>> =
                nodes.iter().map(|node| node.quorum.guard()?.fencing_token()).collect();
            let tokens = tokens?;
            let highest_before = highest;
            assert!(
                tokens.iter().all(|token| Some(*token) >= highest_before),
                "{what}: {tokens:?}"
            );
            let same = tokens.iter().all(|token| *token == tokens[0]);
            (same && Some(tokens[0]) > highest_before).then_some(tokens[0])
        });
        highest = Some(token);
    };
    agree("formed", &watchers);
    for (what, fault, undo) in ROUNDS {
        fault(&cluster);
        if what != "restart" {
            agree(what, &watchers[..2]);
            eventually("node 3 has no token", || {
                watchers[2].quorum.guard().is_none_or(|g| g.fencing_token().is_none()).then_some(())
            });
        }
        undo(&cluster);
        agree(&format!("after {what}"), &watchers);
    }
}
