//! Rings that end and form after Corosync's timeouts, on the simulated cluster. The clock is
//! paused, so the tests do not wait for these timeouts.

use std::time::Duration;

use actix::{Arbiter, System, clock};
use actix_quorum::{
    Backoff, Code, FencingToken, NodeId, Quorum, QuorumActor, QuorumHandle, RingState, VoteFlags,
    sim::{self, Cluster},
};

const TOKEN: Duration = Duration::from_millis(1650);
const CONSENSUS: Duration = Duration::from_millis(1980);
const GRACE: Duration = Duration::from_millis(1000);

/// The interval between two checks of every node.
const LOOK: Duration = Duration::from_millis(5);

fn run(test: impl Future<Output = ()>) {
    System::new().block_on(async {
        tokio::time::pause();
        test.await;
    });
}

fn start(cluster: &Cluster, id: u32) -> QuorumHandle {
    let soon = || Duration::from_millis(40)..=Duration::from_millis(80);
    let backoff = Backoff::default()
        .not_running(soon())
        .disconnected(soon())
        .transient(soon())
        .needs_operator(soon());
    QuorumActor::builder()
        .source(cluster.node(id))
        .backoff(backoff)
        .settle_grace(GRACE)
        .start_in_arbiter(&Arbiter::current())
}

/// A cluster and an actor on each node.
struct Nodes {
    cluster: Cluster,
    quorums: Vec<QuorumHandle>,
}

/// The effects of a fault on the node that has the fault (the victim) and on the other nodes.
#[derive(Debug, Default)]
struct Outcome {
    /// How long the victim was quorate while the others were quorate without it.
    quorate: Duration,
    /// How long the victim was exclusive while the others were quorate without it.
    exclusive: Duration,
    /// The time until the others were quorate without it.
    others_after: Option<Duration>,
    /// How long the first of the others was not quorate.
    others_interrupted: Duration,
    /// How long the first of the others was not exclusive.
    others_not_exclusive: Duration,
}

impl Nodes {
    async fn formed(cluster: Cluster) -> Self {
        let ids = cluster.nodes();
        let quorums = ids.iter().map(|id| start(&cluster, id.0)).collect();
        let nodes = Self { cluster, quorums };
        nodes.until("all are exclusive", |q| q.is_exclusive()).await;
        nodes
    }

    fn node(&self, id: u32) -> &QuorumHandle {
        &self.quorums[id as usize - 1]
    }

    async fn until(&self, what: &str, condition: impl Fn(&QuorumHandle) -> bool) {
        for _ in 0..20_000 {
            if self.quorums.iter().all(&condition) {
                return;
            }
            clock::sleep(LOOK).await;
        }
        let now: Vec<_> = self.quorums.iter().map(|q| q.snapshot().to_string()).collect();
        panic!("not in time: {what}: {now:#?}");
    }

    /// Checks every node until this time has passed.
    async fn watch(&self, victim: u32, time: Duration) -> Outcome {
        let mut outcome = Outcome::default();
        let since = clock::Instant::now();
        let others = || (1_u32..).zip(&self.quorums).filter(|(id, _)| *id != victim);
        while since.elapsed() < time {
            let without = |q: &QuorumHandle| !q.snapshot().members.contains(&NodeId(victim));
            let (_, other) = others().next().unwrap();
            let others_continue = others().any(|(_, q)| q.is_quorate() && without(q));
            if others_continue {
                outcome.others_after.get_or_insert_with(|| since.elapsed());
                outcome.quorate += LOOK * u32::from(self.node(victim).is_quorate());
                outcome.exclusive += LOOK * u32::from(self.node(victim).is_exclusive());
            }
            let both = self.node(victim).is_exclusive() && others().any(|(_, q)| q.is_exclusive());
            assert!(!(both && others_continue), "two partitions are exclusive");
            outcome.others_interrupted += LOOK * u32::from(!other.is_quorate());
            outcome.others_not_exclusive += LOOK * u32::from(!other.is_exclusive());
            clock::sleep(LOOK).await;
        }
        outcome
    }
}

type Fault = (&'static str, fn(&Cluster));

const FAULTS: [Fault; 6] = [
    ("cut", |cluster| cluster.partition(&[&[1], &[2, 3]]).unwrap()),
    ("sends are lost", |cluster| cluster.lose_sends(1).unwrap()),
    ("receives are lost", |cluster| cluster.lose_receives(1).unwrap()),
    ("sends to one peer are lost", |cluster| cluster.lose_sends_to(1, 2).unwrap()),
    ("paused", |cluster| cluster.pause(1).unwrap()),
    ("killed", |cluster| cluster.crash(1).unwrap()),
];

/// While the other nodes are quorate without a node, that node is not exclusive, and it stays
/// quorate for little longer than `settle_grace`.
#[test]
fn an_excluded_node_is_never_exclusive_and_soon_not_quorate() {
    run(async {
        for (what, fault) in FAULTS {
            let nodes = Nodes::formed(Cluster::new(3).timeouts(TOKEN, CONSENSUS)).await;
            fault(&nodes.cluster);
            let outcome = nodes.watch(1, Duration::from_secs(20)).await;
            let after = outcome.others_after.expect(what);
            let earliest = TOKEN * 8 / 10 + CONSENSUS;
            assert!(
                (earliest..TOKEN + CONSENSUS + LOOK * 2).contains(&after),
                "{what}: excluded after {after:?}"
            );
            let most = GRACE + TOKEN / 4 + Duration::from_millis(300);
            assert!(outcome.quorate <= most, "{what}: {outcome:?}");
            assert_eq!(outcome.exclusive, Duration::ZERO, "{what}: {outcome:?}");
            assert_eq!(outcome.others_interrupted, Duration::ZERO, "{what}: {outcome:?}");
            let gap = CONSENSUS + Duration::from_millis(500) + TOKEN / 5;
            assert!(outcome.others_not_exclusive <= gap, "{what}: {outcome:?}");
            for quorum in &nodes.quorums {
                quorum.stop().await;
            }
        }
    });
}

#[test]
fn fencing_tokens_grow_with_each_ring_and_are_the_same_on_all_members() {
    run(async {
        let nodes = Nodes::formed(Cluster::new(3).timeouts(TOKEN, CONSENSUS)).await;
        let token = |id| nodes.node(id).guard()?.fencing_token();
        let mut before: Option<FencingToken> = None;
        for round in 0..5 {
            let all = [1, 2, 3].map(token);
            assert!(
                all[0].is_some() && all.iter().all(|one| *one == all[0]),
                "the tokens are {all:?}"
            );
            assert!(all[0] > before, "{all:?} after {before:?}");
            match round % 2 {
                0 => nodes.cluster.lose_sends(1).unwrap(),
                _ => nodes.cluster.pause(1).unwrap(),
            }
            let outcome = nodes.watch(1, Duration::from_secs(10)).await;
            assert!(outcome.others_after.is_some());
            let during = token(2);
            assert_eq!((token(1), token(3)), (None, during));
            assert!(during > all[0]);
            before = during;
            nodes.cluster.heal();
            if round % 2 == 1 {
                nodes.cluster.resume(1).unwrap();
            }
            nodes.until("all are exclusive again", |q| q.is_exclusive()).await;
        }
    });
}

#[test]
fn the_old_state_of_a_resumed_daemon_is_not_believed() {
    run(async {
        let nodes = Nodes::formed(Cluster::new(3).timeouts(TOKEN, CONSENSUS)).await;
        nodes.cluster.pause(1).unwrap();
        let asleep = nodes.watch(1, Duration::from_secs(14)).await;
        assert!(asleep.others_after.is_some());
        assert!(!nodes.node(1).is_quorate());
        // Until the token timeout, the daemon answers with the old state, and its counters do not
        // change.
        nodes.cluster.resume(1).unwrap();
        for _ in 0..300 {
            let with_others = nodes.node(1).snapshot().ring_id == nodes.node(2).snapshot().ring_id;
            assert!(
                !nodes.node(1).is_quorate() || with_others,
                "believed too early: {}",
                nodes.node(1).snapshot()
            );
            clock::sleep(Duration::from_millis(10)).await;
        }
        nodes.until("all are exclusive again", |q| q.is_exclusive()).await;
    });
}

/// After the pause, the daemon decides on quorum as soon as the new ring has formed. The actor
/// trusts the daemon only after the daemon's token timer has had time to fire.
#[test]
fn quorum_that_returns_after_a_pause_is_not_lost_again() {
    run(async {
        // In the first cluster, rings form without a timeout.
        for cluster in [Cluster::new(5), Cluster::new(3).timeouts(TOKEN, CONSENSUS)] {
            let nodes = Nodes::formed(cluster).await;
            for after in (0..3000).step_by(100) {
                nodes.cluster.pause(1).unwrap();
                while nodes.node(1).quorum() != Quorum::Unknown {
                    clock::sleep(LOOK).await;
                }
                clock::sleep(Duration::from_millis(after)).await;
                nodes.cluster.resume(1).unwrap();
                let mut losses = 0;
                let mut was_quorate = false;
                for _ in 0..1000 {
                    clock::sleep(LOOK).await;
                    let is_quorate = nodes.node(1).is_quorate();
                    losses += u32::from(was_quorate && !is_quorate);
                    was_quorate = is_quorate;
                }
                assert!(was_quorate);
                assert_eq!(losses, 0, "resumed {after} ms after the loss");
            }
        }
    });
}

#[test]
fn guards_become_invalid_if_two_daemons_are_paused_while_the_third_is_quorate() {
    run(async {
        let cluster = Cluster::new(3).timeouts(TOKEN, CONSENSUS);
        cluster.votes(3, 3).unwrap();
        let nodes = Nodes::formed(cluster).await;
        let guards = [1, 2].map(|id| nodes.node(id).guard().unwrap());
        nodes.cluster.pause_all(&[1, 2]).unwrap();
        let quorate_alone = async {
            while nodes.node(3).snapshot().members != [NodeId(3)] {
                clock::sleep(LOOK).await;
            }
        };
        quorate_alone.await;
        assert!(nodes.node(3).is_quorate(), "3 of 5 votes");
        nodes.cluster.resume_all(&[1, 2]).unwrap();
        nodes.until("all are exclusive again", |q| q.is_exclusive()).await;
        assert!(guards.iter().all(|guard| !guard.is_valid()));
    });
}

#[test]
fn a_pause_that_is_shorter_than_the_token_timeout_changes_nothing() {
    run(async {
        let nodes = Nodes::formed(Cluster::new(3).timeouts(TOKEN, CONSENSUS)).await;
        let ring_id = nodes.node(2).snapshot().ring_id;
        nodes.cluster.pause(1).unwrap();
        clock::sleep(TOKEN / 2).await;
        nodes.cluster.resume(1).unwrap();
        let outcome = nodes.watch(1, Duration::from_secs(5)).await;
        assert_eq!(outcome.others_interrupted + outcome.others_not_exclusive, Duration::ZERO);
        assert_eq!(nodes.node(1).snapshot().ring_id, ring_id);
    });
}

/// A daemon that stops sends a leave message, so the other nodes do not wait for a timeout.
#[test]
fn a_stopped_daemon_is_excluded_without_a_timeout() {
    run(async {
        let nodes = Nodes::formed(Cluster::new(3).timeouts(TOKEN, CONSENSUS)).await;
        nodes.cluster.stop(1).unwrap();
        let outcome = nodes.watch(1, Duration::from_secs(10)).await;
        assert!(outcome.others_after < Some(Duration::from_millis(100)), "{outcome:?}");
        assert_eq!(outcome.quorate + outcome.others_interrupted, Duration::ZERO, "{outcome:?}");
    });
}

/// `last_man_standing` lowers the expected votes of nodes 1, 4 and 5 to 3. When node 4 then joins
/// nodes 2 and 3, these two nodes adopt the expected votes of node 4: nodes 2, 3 and 4 have 3 of 3
/// votes, and nodes 1 and 5 have 2 of 3.
#[test]
fn last_man_standing_can_make_two_partitions_quorate_but_neither_is_exclusive() {
    run(async {
        let window = Duration::from_secs(2);
        let cluster = Cluster::new(5).timeouts(TOKEN, CONSENSUS).last_man_standing(window);
        let nodes = Nodes::formed(cluster).await;
        nodes.cluster.partition(&[&[1, 4, 5], &[2, 3]]).unwrap();
        let expected = |id| nodes.node(id).snapshot().votes.as_ref().map(|votes| votes.expected);
        nodes.until("fewer votes are expected", |_| expected(1) == Some(3)).await;
        nodes.cluster.partition(&[&[1, 5], &[2, 3, 4]]).unwrap();
        clock::sleep(Duration::from_secs(30)).await;
        for node in &nodes.quorums {
            assert!(
                node.is_quorate() && !node.is_exclusive(),
                "not quorate, or exclusive: {}",
                node.snapshot()
            );
        }
    });
}

#[test]
fn a_ring_that_does_not_form_is_published_and_ends_quorum() {
    run(async {
        for timeouts in [false, true] {
            let cluster = Cluster::new(3);
            let cluster = if timeouts { cluster.timeouts(TOKEN, CONSENSUS) } else { cluster };
            let nodes = Nodes::formed(cluster).await;
            let guard = nodes.node(2).guard().unwrap();
            nodes.cluster.hold_rings();
            nodes.cluster.partition(&[&[1], &[2, 3]]).unwrap();
            nodes.until("the ring is re-forming", |q| q.snapshot().ring == RingState::Gather).await;
            assert!(nodes.node(2).snapshot().to_string().ends_with("ring is re-forming"));
            nodes.until("no node is quorate", |q| !q.is_quorate()).await;
            clock::sleep(Duration::from_secs(60)).await;
            assert!(nodes.quorums.iter().all(|q| q.quorum() == Quorum::Unknown));
            assert!(!guard.is_valid());
            nodes.cluster.release_rings();
            nodes.until("quorum is known on every node", |q| q.quorum() != Quorum::Unknown).await;
            let quorate = [1, 2, 3].map(|id| nodes.node(id).is_quorate());
            assert_eq!(quorate, [false, true, true]);
            for quorum in &nodes.quorums {
                quorum.stop().await;
            }
        }
    });
}

/// Rings form repeatedly, and none is announced: the daemons' member list does not change.
#[test]
fn rings_that_form_repeatedly_are_not_believed() {
    run(async {
        let nodes = Nodes::formed(Cluster::new(3).timeouts(TOKEN, CONSENSUS)).await;
        let ring_id = nodes.node(3).snapshot().ring_id;
        nodes.cluster.lose_link(1, 2).unwrap();
        nodes.until("no node is quorate", |q| !q.is_quorate()).await;
        for _ in 0..6_000 {
            assert!(nodes.quorums.iter().all(|q| !q.is_quorate() && !q.is_exclusive()));
            clock::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(nodes.node(3).snapshot().ring_id, ring_id, "nothing was announced");
        nodes.cluster.heal();
        nodes.until("all are exclusive again", |q| q.is_exclusive()).await;
    });
}

/// Returns the quorate nodes and the exclusive nodes, once the rings have settled.
async fn settled(nodes: &Nodes) -> (Vec<u32>, Vec<u32>) {
    clock::sleep(Duration::from_secs(30)).await;
    let which = |holds: fn(&QuorumHandle) -> bool| {
        (1..).zip(&nodes.quorums).filter(|(_, q)| holds(q)).map(|(id, _)| id).collect()
    };
    (which(QuorumHandle::is_quorate), which(QuorumHandle::is_exclusive))
}

#[test]
fn a_quorum_device_of_two_nodes_decides_between_them() {
    run(async {
        let nodes = Nodes::formed(Cluster::new(2).quorum_device(1)).await;
        let votes = nodes.node(1).snapshot().votes.clone().unwrap();
        assert_eq!((votes.total, votes.expected, votes.quorum, votes.qdevice), (3, 3, 2, 1));
        assert!(
            votes.flags.contains(VoteFlags::QDEVICE_REGISTERED)
                && votes.flags.contains(VoteFlags::QDEVICE_CAST_VOTE)
        );
        assert_eq!(settled(&nodes).await, (vec![1, 2], vec![1, 2]), "while both are up");

        nodes.cluster.partition(&[&[1], &[2]]).unwrap();
        assert_eq!(settled(&nodes).await, (vec![1], vec![]));
        assert_eq!(nodes.node(1).guard().unwrap().fencing_token(), None);
        nodes.cluster.cut_quorum_device(&[1]).unwrap();
        assert_eq!(settled(&nodes).await, (vec![2], vec![]), "only node 2 reaches the device");
        nodes.cluster.heal();
        assert_eq!(settled(&nodes).await, (vec![1, 2], vec![1, 2]));

        nodes.cluster.stop_quorum_device();
        assert_eq!(settled(&nodes).await, (vec![1, 2], vec![1, 2]), "2 of 3 votes");
        nodes.cluster.crash(2).unwrap();
        assert_eq!(settled(&nodes).await, (vec![], vec![]));
        nodes.cluster.start_quorum_device();
        assert_eq!(settled(&nodes).await, (vec![1], vec![]));
    });
}

/// With the algorithm `lms` the last node standing is quorate.
#[test]
fn a_quorum_device_of_three_nodes_keeps_the_last_node_quorate() {
    run(async {
        let nodes = Nodes::formed(Cluster::new(3).quorum_device(2)).await;
        let guard = nodes.node(1).guard().unwrap();
        nodes.cluster.crash(2).unwrap();
        assert_eq!(
            settled(&nodes).await,
            (vec![1, 3], vec![]),
            "without the device they have only 2 of 5 votes, so they are not exclusive"
        );
        nodes.cluster.crash(3).unwrap();
        assert_eq!(settled(&nodes).await, (vec![1], vec![]));
        assert!(!guard.is_valid(), "the device might have given its votes to the others");
    });
}

/// The device votes for one partition at a time, even if no new ring forms: nodes 3 and 4 are
/// paused at the same moment, so they keep their ring when they are resumed.
#[test]
fn a_quorum_device_decides_again_when_daemons_are_paused_and_resumed() {
    run(async {
        let nodes = Nodes::formed(Cluster::new(4).quorum_device(3)).await;
        nodes.cluster.partition(&[&[1], &[2], &[3, 4]]).unwrap();
        assert_eq!(settled(&nodes).await, (vec![3, 4], vec![]));
        nodes.cluster.pause_all(&[1, 3, 4]).unwrap();
        assert_eq!(settled(&nodes).await, (vec![2], vec![]));
        nodes.cluster.resume_all(&[1, 3, 4]).unwrap();
        assert_eq!(settled(&nodes).await, (vec![3, 4], vec![]));
        nodes.cluster.crash(3).unwrap();
        nodes.cluster.crash(4).unwrap();
        assert_eq!(settled(&nodes).await, (vec![1], vec![]));
    });
}

#[test]
fn with_a_tie_breaker_one_half_is_quorate_but_not_exclusive() {
    run(async {
        let nodes = Nodes::formed(Cluster::new(4).auto_tie_breaker(true)).await;
        nodes.cluster.partition(&[&[1, 2], &[3, 4]]).unwrap();
        assert_eq!(settled(&nodes).await, (vec![1, 2], vec![]));
        nodes.cluster.heal();
        nodes.cluster.partition(&[&[1, 2, 3], &[4]]).unwrap();
        assert_eq!(settled(&nodes).await, (vec![1, 2, 3], vec![1, 2, 3]));
    });
}

#[test]
fn with_last_man_standing_fewer_nodes_suffice_for_quorum_after_the_window() {
    run(async {
        let window = Duration::from_secs(10);
        let nodes = Nodes::formed(Cluster::new(4).last_man_standing(window)).await;
        nodes.cluster.crash(4).unwrap();
        clock::sleep(window / 2).await;
        assert_eq!(nodes.node(1).snapshot().votes.as_ref().unwrap().expected, 4);
        assert_eq!(settled(&nodes).await, (vec![1, 2, 3], vec![]));
        assert_eq!(nodes.node(1).snapshot().votes.as_ref().unwrap().expected, 3);
        nodes.cluster.crash(3).unwrap();
        assert_eq!(
            settled(&nodes).await,
            (vec![1, 2], vec![]),
            "2 of 3 votes; 2 of 4 were too few"
        );
        assert_eq!(nodes.node(1).guard().unwrap().fencing_token(), None);
    });
}

/// The interval between reads of the ring depends on both timeouts. Each read must be answered well
/// within the token timeout.
#[test]
fn a_node_on_a_live_ring_stays_exclusive_whatever_the_timeouts_are() {
    for (token, consensus) in
        [(1000, 5000), (500, 3000), (300, 3000), (200, 400), (100, 2000), (3000, 3600)]
    {
        run(async {
            let [token, consensus] = [token, consensus].map(Duration::from_millis);
            let nodes = Nodes::formed(Cluster::new(3).timeouts(token, consensus)).await;
            for _ in 0..6_000 {
                clock::sleep(LOOK).await;
                let now = nodes.node(1);
                assert!(now.is_exclusive(), "{token:?}, {consensus:?}: {}", now.snapshot());
            }
        });
    }
}

/// With long timeouts, the ring watch passes on three readings together. So it may still hold two
/// readings when a connection ends. These readings prove nothing about the ring of the next
/// connection.
#[test]
fn quorum_returns_with_the_next_connection_even_if_the_ring_has_changed() {
    for token in [1000, 3000] {
        for phase in 0..7 {
            run(async {
                let [token, consensus] = [token, token * 6 / 5].map(Duration::from_millis);
                let cluster = Cluster::new(3).timeouts(token, consensus);
                let late = || Duration::from_secs(15)..=Duration::from_secs(16);
                let quorum = QuorumActor::builder()
                    .source(cluster.node(1))
                    .backoff(Backoff::default().disconnected(late()).transient(late()))
                    .start_in_arbiter(&Arbiter::current());
                clock::sleep(Duration::from_millis(40_000 + 210 * phase)).await;
                assert!(quorum.is_exclusive(), "not exclusive: {}", quorum.snapshot());
                cluster.fault(1, sim::Fault::Dispatch(Code::LIBRARY)).unwrap();
                clock::sleep(Duration::from_millis(500)).await;
                assert!(!quorum.is_quorate());
                cluster.crash(3).unwrap();
                clock::sleep(Duration::from_secs(60)).await;
                assert!(quorum.is_exclusive(), "{token:?}, {phase}: {}", quorum.snapshot());
                quorum.stop().await;
            });
        }
    }
}
