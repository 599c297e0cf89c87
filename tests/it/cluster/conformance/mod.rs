//! The simulated cluster and a real one cause the same changes.
//!
//! Each scenario is written once, and runs on both. For each node it lists the changes that the
//! actor on this node must publish, in order, in the form of [`observer`]. If a real cluster may
//! take one of several sequences, the scenario contains all of them.

mod backend;
mod nodes;
mod observer;
mod sequences;
mod v0;

use actix_quorum::{Error, NodeId, libquorum::Model};
use backend::{Backend, Real, RealV0, Settings, Sim};
use nodes::{Nodes, formed};
use sequences::{resumed, sequence, started};

/// Runs each scenario on the simulated cluster and on a real one. The scenarios after `with_any`
/// also run on a real cluster with model V0.
macro_rules! scenarios {
    (with_any: $($name:ident)* ; not_with_v0: $($other:ident)*) => {
        mod sim {
            $(#[test]
            fn $name() {
                super::$name::<super::Sim>();
            })*
            $(#[test]
            fn $other() {
                super::$other::<super::Sim>();
            })*
        }

        mod real {
            $(#[test]
            #[ignore = "needs root and corosync: make test"]
            fn $name() {
                super::$name::<super::Real>();
            })*
            $(#[test]
            #[ignore = "needs root and corosync: make test"]
            fn $other() {
                super::$other::<super::Real>();
            })*
        }

        mod real_v0 {
            $(#[test]
            #[ignore = "needs root and corosync: make test"]
            fn $name() {
                super::$name::<super::RealV0>();
            })*
        }
    };
}

scenarios! {
    with_any:
    a_new_actor_publishes_the_connection_the_membership_and_quorum
    a_minority_loses_quorum_until_the_partition_heals
    neither_half_of_an_even_split_is_quorate
    a_crashed_node_leaves_and_joins_again_after_a_slow_restart
    only_a_node_that_is_stopped_loses_quorum
    a_node_that_restarts_instantly_is_reported_as_left_and_joined
    after_a_reconnect_joined_and_left_refer_to_the_last_known_members
    a_node_loses_quorum_while_all_other_nodes_are_away
    the_state_of_a_paused_daemon_does_not_change_until_it_is_resumed
    two_paused_daemons_rejoin_one_after_the_other
    expected_votes_flip_quorum_on_the_same_ring
    expected_votes_below_the_present_votes_do_not_lower_the_required_votes
    expected_votes_outlive_the_restart_of_one_daemon
    a_reload_changes_the_votes_of_a_node
    a_reload_with_more_nodes_can_end_quorum
    a_reload_replaces_expected_votes_that_were_set_at_run_time
    with_wait_for_all_a_new_cluster_is_quorate_only_after_all_nodes_have_met
    with_wait_for_all_a_node_that_loses_quorum_waits_for_all_nodes_again
    with_two_node_each_node_stays_quorate_alone
    with_two_node_a_new_cluster_is_quorate_only_after_both_nodes_have_met
    ;
    not_with_v0:
    // With V0 the only notification is a decision without members.
    a_cluster_without_a_provider_is_refused_unless_allowed_and_then_always_quorate
}

fn a_new_actor_publishes_the_connection_the_membership_and_quorum<B: Backend>() {
    let (_backend, nodes) = formed::<B>(3, Settings::default());
    nodes.expect_quorate(&[1, 2, 3]);
}

fn a_minority_loses_quorum_until_the_partition_heals<B: Backend>() {
    let (backend, nodes) = formed::<B>(3, Settings::default());
    backend.partition(&[&[1, 2], &[3]]);
    nodes.expect(&[1, 2], &["quorate: new ring 1 2, unsettled; left 3", "quorate: ring 1 2"]);
    nodes.expect(
        &[3],
        &[
            "quorate: new ring 3, unsettled; left 1 2; interrupted",
            "inquorate: ring 3; interrupted",
        ],
    );
    nodes.expect_quorate(&[1, 2]);
    nodes.agree(&backend);

    backend.heal();
    nodes.expect(&[1, 2], &["quorate: new ring 1 2 3, unsettled; joined 3", "quorate: ring 1 2 3"]);
    nodes
        .expect(&[3], &["inquorate: new ring 1 2 3, unsettled; joined 1 2", "quorate: ring 1 2 3"]);
    nodes.agree(&backend);
}

/// Each half has two of four votes.
fn neither_half_of_an_even_split_is_quorate<B: Backend>() {
    let (backend, nodes) = formed::<B>(4, Settings::default());
    backend.partition(&[&[1, 2], &[3, 4]]);
    nodes.expect(
        &[1, 2],
        &["quorate: new ring 1 2, unsettled; left 3 4", "inquorate: ring 1 2; interrupted"],
    );
    nodes.expect(
        &[3, 4],
        &["quorate: new ring 3 4, unsettled; left 1 2", "inquorate: ring 3 4; interrupted"],
    );
    nodes.expect_quorate(&[]);
    backend.heal();
    nodes.expect(
        &[1, 2],
        &["inquorate: new ring 1 2 3 4, unsettled; joined 3 4", "quorate: ring 1 2 3 4"],
    );
    nodes.expect(
        &[3, 4],
        &["inquorate: new ring 1 2 3 4, unsettled; joined 1 2", "quorate: ring 1 2 3 4"],
    );
    nodes.agree(&backend);
}

fn a_crashed_node_leaves_and_joins_again_after_a_slow_restart<B: Backend>() {
    let (backend, nodes) = formed::<B>(3, Settings::default());
    backend.crash(3);
    nodes.expect(&[3], &["unknown: disconnected; interrupted"]);
    nodes.expect(&[1, 2], &["quorate: new ring 1 2, unsettled; left 3", "quorate: ring 1 2"]);
    nodes.expect_quorate(&[1, 2]);

    backend.start(3);
    nodes.expect(&[1, 2], &["quorate: new ring 1 2 3, unsettled; joined 3", "quorate: ring 1 2 3"]);
    nodes.expect_one_of(&[3], &started(3, &[1, 2, 3], &[1, 2, 3], "quorate"));
    nodes.agree(&backend);
}

fn only_a_node_that_is_stopped_loses_quorum<B: Backend>() {
    let (backend, nodes) = formed::<B>(3, Settings::default());
    backend.stop(3);
    nodes.expect(&[3], &["unknown: disconnected; interrupted"]);
    nodes.expect(&[1, 2], &["quorate: new ring 1 2, unsettled; left 3", "quorate: ring 1 2"]);
    nodes.agree(&backend);
}

fn a_node_that_restarts_instantly_is_reported_as_left_and_joined<B: Backend>() {
    let (backend, nodes) = formed::<B>(3, Settings::default());
    backend.restart(3);
    nodes.expect_one_of(
        &[1, 2],
        &[
            sequence(&[
                "quorate: new ring 1 2 3, unsettled; joined 3; left 3",
                "quorate: ring 1 2 3",
            ]),
            // The other nodes notice the end of node 3 before it has restarted.
            sequence(&[
                "quorate: new ring 1 2, unsettled; left 3",
                "quorate: ring 1 2",
                "quorate: new ring 1 2 3, unsettled; joined 3",
                "quorate: ring 1 2 3",
            ]),
        ],
    );
    nodes.expect(&[3], &["unknown: disconnected; interrupted"]);
    nodes.expect_one_of(&[3], &started(3, &[1, 2, 3], &[1, 2, 3], "quorate"));
    nodes.agree(&backend);
}

/// Node 3 crashes, and node 2 stops while node 3 is down. Then only node 3 starts again.
fn after_a_reconnect_joined_and_left_refer_to_the_last_known_members<B: Backend>() {
    let (backend, nodes) = formed::<B>(3, Settings::default());
    backend.crash(3);
    nodes.expect(&[3], &["unknown: disconnected; interrupted"]);
    nodes.expect(&[1, 2], &["quorate: new ring 1 2, unsettled; left 3", "quorate: ring 1 2"]);
    backend.stop(2);
    nodes.expect(&[2], &["unknown: disconnected; interrupted"]);
    nodes.expect(
        &[1],
        &["quorate: new ring 1, unsettled; left 2; interrupted", "inquorate: ring 1; interrupted"],
    );
    nodes.expect_quorate(&[]);

    backend.start(3);
    nodes.expect(&[1], &["inquorate: new ring 1 3, unsettled; joined 3", "quorate: ring 1 3"]);
    nodes.expect_one_of(&[3], &started(3, &[1, 2, 3], &[1, 3], "quorate"));
    // With V0 each ring after the first one of a connection begins another epoch.
    let epoch = nodes.quorum(3).snapshot().epoch;
    assert!(epoch == 1 || B::MODEL == Model::V0 && epoch == 2, "the epoch is {epoch}");
    nodes.agree(&backend);
}

fn a_node_loses_quorum_while_all_other_nodes_are_away<B: Backend>() {
    let (backend, nodes) = formed::<B>(3, Settings::default());
    backend.stop(3);
    nodes.expect(&[1], &["quorate: new ring 1 2, unsettled; left 3", "quorate: ring 1 2"]);
    nodes.expect(&[2], &["quorate: new ring 1 2, unsettled; left 3", "quorate: ring 1 2"]);
    nodes.expect(&[3], &["unknown: disconnected; interrupted"]);
    backend.crash(2);
    nodes.expect(
        &[1],
        &["quorate: new ring 1, unsettled; left 2; interrupted", "inquorate: ring 1; interrupted"],
    );
    nodes.expect(&[2], &["unknown: disconnected; interrupted"]);
    nodes.expect_quorate(&[]);

    backend.start(3);
    nodes.expect(&[1], &["inquorate: new ring 1 3, unsettled; joined 3", "quorate: ring 1 3"]);
    nodes.expect_one_of(&[3], &started(3, &[1, 2, 3], &[1, 3], "quorate"));
    backend.start(2);
    nodes.expect(&[1], &["quorate: new ring 1 2 3, unsettled; joined 2", "quorate: ring 1 2 3"]);
    nodes.expect(&[3], &["quorate: new ring 1 2 3, unsettled; joined 2", "quorate: ring 1 2 3"]);
    nodes.expect_one_of(&[2], &started(2, &[1, 2], &[1, 2, 3], "quorate"));
    nodes.agree(&backend);
}

/// The deadlines are long here, so the actor of the paused daemon still reports quorum.
fn the_state_of_a_paused_daemon_does_not_change_until_it_is_resumed<B: Backend>() {
    let (backend, nodes) = formed::<B>(3, Settings::default());
    backend.pause(3);
    nodes.expect(&[1, 2], &["quorate: new ring 1 2, unsettled; left 3", "quorate: ring 1 2"]);
    nodes.expect_quorate(&[1, 2, 3]);

    backend.resume(3);
    nodes.expect(&[1, 2], &["quorate: new ring 1 2 3, unsettled; joined 3", "quorate: ring 1 2 3"]);
    nodes.expect_one_of(&[3], &resumed(3, &[1, 2, 3], &[1, 2, 3]));
    nodes.agree(&backend);
}

fn two_paused_daemons_rejoin_one_after_the_other<B: Backend>() {
    let (backend, nodes) = formed::<B>(5, Settings::default());
    backend.pause(4);
    nodes.expect(
        &[1, 2, 3, 5],
        &["quorate: new ring 1 2 3 5, unsettled; left 4", "quorate: ring 1 2 3 5"],
    );
    backend.pause(5);
    nodes
        .expect(&[1, 2, 3], &["quorate: new ring 1 2 3, unsettled; left 5", "quorate: ring 1 2 3"]);
    nodes.expect_quorate(&[1, 2, 3, 4, 5]);

    // Node 4 does not find node 5, which is still paused.
    backend.resume(4);
    nodes.expect(
        &[1, 2, 3],
        &["quorate: new ring 1 2 3 4, unsettled; joined 4", "quorate: ring 1 2 3 4"],
    );
    nodes.expect_one_of(&[4], &resumed(4, &[1, 2, 3, 4, 5], &[1, 2, 3, 4]));
    backend.resume(5);
    nodes.expect(
        &[1, 2, 3, 4],
        &["quorate: new ring 1 2 3 4 5, unsettled; joined 5", "quorate: ring 1 2 3 4 5"],
    );
    nodes.expect_one_of(&[5], &resumed(5, &[1, 2, 3, 5], &[1, 2, 3, 4, 5]));
    nodes.agree(&backend);
}

fn expected_votes_flip_quorum_on_the_same_ring<B: Backend>() {
    let (backend, nodes) = formed::<B>(3, Settings::default());
    backend.expected_votes(7);
    nodes.expect(&[1, 2, 3], &["inquorate: ring 1 2 3; interrupted"]);
    nodes.expect_quorate(&[]);
    backend.expected_votes(3);
    nodes.expect(&[1, 2, 3], &["quorate: ring 1 2 3"]);
    // Three of five votes are enough, so quorum does not change.
    backend.expected_votes(5);
    nodes.know_votes(&[1, 2, 3], |votes| votes.expected == 5);
    backend.stop(3);
    nodes.expect(&[3], &["unknown: disconnected; interrupted"]);
    nodes.expect(
        &[1, 2],
        &[
            "quorate: new ring 1 2, unsettled; left 3; interrupted",
            "inquorate: ring 1 2; interrupted",
        ],
    );
    backend.expected_votes(3);
    nodes.expect(&[1, 2], &["quorate: ring 1 2"]);
    nodes.agree(&backend);
}

/// The daemon expects at least all present votes, and does not lower the required votes when nodes
/// leave.
fn expected_votes_below_the_present_votes_do_not_lower_the_required_votes<B: Backend>() {
    let (backend, nodes) = formed::<B>(3, Settings::default());
    backend.expected_votes(1);
    backend.stop(3);
    nodes.expect(&[3], &["unknown: disconnected; interrupted"]);
    nodes.expect(&[1, 2], &["quorate: new ring 1 2, unsettled; left 3", "quorate: ring 1 2"]);
    backend.stop(2);
    nodes.expect(&[2], &["unknown: disconnected; interrupted"]);
    nodes.expect(
        &[1],
        &["quorate: new ring 1, unsettled; left 2; interrupted", "inquorate: ring 1; interrupted"],
    );
    // The daemon ignores a key that is set to the value it already has, so another value is set in
    // between. With two expected votes, one vote is not enough.
    backend.expected_votes(1);
    backend.expected_votes(2);
    backend.expected_votes(1);
    nodes.expect(&[1], &["quorate: ring 1"]);
    nodes.agree(&backend);
}

/// A starting daemon expects the votes of its configuration, and adopts the expected votes
/// of the others.
fn expected_votes_outlive_the_restart_of_one_daemon<B: Backend>() {
    let (backend, nodes) = formed::<B>(3, Settings::default());
    backend.expected_votes(5);
    nodes.know_votes(&[1, 2, 3], |votes| votes.expected == 5);
    backend.stop(3);
    nodes.expect(&[3], &["unknown: disconnected; interrupted"]);
    nodes.expect(
        &[1, 2],
        &[
            "quorate: new ring 1 2, unsettled; left 3; interrupted",
            "inquorate: ring 1 2; interrupted",
        ],
    );
    backend.start(3);
    nodes.expect(
        &[1, 2],
        &["inquorate: new ring 1 2 3, unsettled; joined 3", "quorate: ring 1 2 3"],
    );
    nodes.expect_one_of(&[3], &started(3, &[1, 2, 3], &[1, 2, 3], "quorate"));
    backend.stop(2);
    nodes.expect(&[2], &["unknown: disconnected; interrupted"]);
    let first = "quorate: new ring 1 3, unsettled; left 2";
    let interrupted = format!("{first}; interrupted");
    let last = "inquorate: ring 1 3; interrupted";
    nodes.expect(&[1], &[&interrupted, last]);
    // Node 3 expected three votes until it learned of five.
    nodes.expect_one_of(&[3], &[sequence(&[first, last]), sequence(&[&interrupted, last])]);
    nodes.agree(&backend);
}

/// The configured votes of node 3 change from one to four, and back.
fn a_reload_changes_the_votes_of_a_node<B: Backend>() {
    let (backend, nodes) = formed::<B>(3, Settings::default());
    // Node 3 has four of six votes now. The other nodes expect six votes before they learn this.
    backend.votes(3, 4);
    nodes.expect(&[1, 2], &["inquorate: ring 1 2 3; interrupted", "quorate: ring 1 2 3"]);
    nodes.know_votes(&[1, 2, 3], |votes| votes.of(NodeId(3)) == Some(4));
    backend.partition(&[&[1, 2], &[3]]);
    nodes.expect(
        &[1, 2],
        &[
            "quorate: new ring 1 2, unsettled; left 3; interrupted",
            "inquorate: ring 1 2; interrupted",
        ],
    );
    nodes.expect(&[3], &["quorate: new ring 3, unsettled; left 1 2", "quorate: ring 3"]);
    backend.heal();
    nodes.expect(
        &[1, 2],
        &["inquorate: new ring 1 2 3, unsettled; joined 3", "quorate: ring 1 2 3"],
    );
    nodes.expect(&[3], &["quorate: new ring 1 2 3, unsettled; joined 1 2", "quorate: ring 1 2 3"]);
    nodes.agree(&backend);
    // votequorum removes the votes of node 3 before it lowers the expected votes.
    backend.votes(3, 1);
    nodes.expect(&[1, 2, 3], &["inquorate: ring 1 2 3; interrupted", "quorate: ring 1 2 3"]);
    nodes.agree(&backend);
}

/// Reloads with a nodelist of three nodes, of five, and of three again, while node 3 is stopped.
fn a_reload_with_more_nodes_can_end_quorum<B: Backend>() {
    let (backend, nodes) = formed::<B>(3, Settings::default());
    backend.stop(3);
    nodes.expect(&[3], &["unknown: disconnected; interrupted"]);
    nodes.expect(&[1, 2], &["quorate: new ring 1 2, unsettled; left 3", "quorate: ring 1 2"]);
    // A reload without a change publishes nothing.
    backend.reload(3);
    backend.reload(5);
    nodes.expect(&[1, 2], &["inquorate: ring 1 2; interrupted"]);
    nodes.expect_quorate(&[]);
    backend.reload(3);
    nodes.expect(&[1, 2], &["quorate: ring 1 2"]);
    nodes.agree(&backend);
}

/// The reload restores the expected votes of the nodelist.
fn a_reload_replaces_expected_votes_that_were_set_at_run_time<B: Backend>() {
    let (backend, nodes) = formed::<B>(3, Settings::default());
    backend.expected_votes(7);
    nodes.expect(&[1, 2, 3], &["inquorate: ring 1 2 3; interrupted"]);
    backend.reload(3);
    nodes.expect(&[1, 2, 3], &["quorate: ring 1 2 3"]);
    nodes.agree(&backend);
}

fn with_wait_for_all_a_new_cluster_is_quorate_only_after_all_nodes_have_met<B: Backend>() {
    let settings = Settings { wait_for_all: true, ..Settings::default() };
    let backend = B::formed(3, settings);
    for id in [1, 2, 3] {
        backend.crash(id);
    }
    let nodes = Nodes::watch(&backend, &[1, 2, 3]);
    nodes.expect(&[1, 2, 3], &["unknown: connecting"]);
    backend.start(1);
    nodes.expect(
        &[1],
        &["unknown: connected", "unknown: new ring 1, unsettled; joined 1", "inquorate: ring 1"],
    );
    // Without `wait_for_all`, two of three nodes would have quorum.
    backend.start(2);
    nodes.expect(&[1], &["inquorate: new ring 1 2, unsettled; joined 2", "inquorate: ring 1 2"]);
    nodes.expect_one_of(&[2], &started(2, &[], &[1, 2], "inquorate"));
    nodes.expect_quorate(&[]);
    backend.start(3);
    nodes.expect(
        &[1, 2],
        &["inquorate: new ring 1 2 3, unsettled; joined 3", "quorate: ring 1 2 3"],
    );
    nodes.expect_one_of(&[3], &started(3, &[], &[1, 2, 3], "quorate"));
    nodes.agree(&backend);

    // All nodes have met: two are enough now, and a node that returns to them does not wait.
    backend.stop(3);
    nodes.expect(&[3], &["unknown: disconnected; interrupted"]);
    nodes.expect(&[1, 2], &["quorate: new ring 1 2, unsettled; left 3", "quorate: ring 1 2"]);
    backend.start(3);
    nodes.expect(&[1, 2], &["quorate: new ring 1 2 3, unsettled; joined 3", "quorate: ring 1 2 3"]);
    nodes.expect_one_of(&[3], &started(3, &[1, 2, 3], &[1, 2, 3], "quorate"));
    nodes.agree(&backend);
}

/// A node that loses quorum does not wait for all nodes if it returns to nodes that have kept
/// quorum.
fn with_wait_for_all_a_node_that_loses_quorum_waits_for_all_nodes_again<B: Backend>() {
    let settings = Settings { wait_for_all: true, ..Settings::default() };
    let (backend, nodes) = formed::<B>(3, settings);
    backend.partition(&[&[1, 2], &[3]]);
    nodes.expect(&[1, 2], &["quorate: new ring 1 2, unsettled; left 3", "quorate: ring 1 2"]);
    nodes.expect(
        &[3],
        &[
            "quorate: new ring 3, unsettled; left 1 2; interrupted",
            "inquorate: ring 3; interrupted",
        ],
    );
    backend.heal();
    nodes.expect(&[1, 2], &["quorate: new ring 1 2 3, unsettled; joined 3", "quorate: ring 1 2 3"]);
    nodes
        .expect(&[3], &["inquorate: new ring 1 2 3, unsettled; joined 1 2", "quorate: ring 1 2 3"]);

    backend.partition(&[&[1], &[2], &[3]]);
    nodes.expect(
        &[1],
        &[
            "quorate: new ring 1, unsettled; left 2 3; interrupted",
            "inquorate: ring 1; interrupted",
        ],
    );
    nodes.expect(
        &[2],
        &[
            "quorate: new ring 2, unsettled; left 1 3; interrupted",
            "inquorate: ring 2; interrupted",
        ],
    );
    nodes.expect(
        &[3],
        &[
            "quorate: new ring 3, unsettled; left 1 2; interrupted",
            "inquorate: ring 3; interrupted",
        ],
    );
    backend.partition(&[&[1, 2], &[3]]);
    nodes.expect(&[1], &["inquorate: new ring 1 2, unsettled; joined 2", "inquorate: ring 1 2"]);
    nodes.expect(&[2], &["inquorate: new ring 1 2, unsettled; joined 1", "inquorate: ring 1 2"]);
    nodes.expect_quorate(&[]);
    backend.heal();
    nodes.expect(
        &[1, 2],
        &["inquorate: new ring 1 2 3, unsettled; joined 3", "quorate: ring 1 2 3"],
    );
    nodes
        .expect(&[3], &["inquorate: new ring 1 2 3, unsettled; joined 1 2", "quorate: ring 1 2 3"]);
    nodes.agree(&backend);
}

fn with_two_node_each_node_stays_quorate_alone<B: Backend>() {
    let (backend, nodes) = formed::<B>(2, Settings { two_node: true, ..Settings::default() });
    // Each node is quorate alone.
    backend.partition(&[&[1], &[2]]);
    nodes.expect(&[1], &["quorate: new ring 1, unsettled; left 2; interrupted", "quorate: ring 1"]);
    nodes.expect(&[2], &["quorate: new ring 2, unsettled; left 1; interrupted", "quorate: ring 2"]);
    nodes.expect_quorate(&[1, 2]);
    backend.heal();
    nodes.expect(
        &[1],
        &["quorate: new ring 1 2, unsettled; joined 2; interrupted", "quorate: ring 1 2"],
    );
    nodes.expect(
        &[2],
        &["quorate: new ring 1 2, unsettled; joined 1; interrupted", "quorate: ring 1 2"],
    );

    backend.crash(2);
    nodes.expect(&[2], &["unknown: disconnected; interrupted"]);
    nodes.expect(&[1], &["quorate: new ring 1, unsettled; left 2; interrupted", "quorate: ring 1"]);
    nodes.expect_quorate(&[1]);
    backend.start(2);
    nodes.expect(
        &[1],
        &["quorate: new ring 1 2, unsettled; joined 2; interrupted", "quorate: ring 1 2"],
    );
    nodes.expect_one_of(&[2], &started(2, &[1, 2], &[1, 2], "quorate"));
    nodes.agree(&backend);
}

fn with_two_node_a_new_cluster_is_quorate_only_after_both_nodes_have_met<B: Backend>() {
    let backend = B::formed(2, Settings { two_node: true, ..Settings::default() });
    backend.crash(1);
    backend.crash(2);
    let nodes = Nodes::watch(&backend, &[1, 2]);
    nodes.expect(&[1, 2], &["unknown: connecting"]);
    // `two_node` turns `wait_for_all` on.
    backend.start(1);
    nodes.expect(
        &[1],
        &["unknown: connected", "unknown: new ring 1, unsettled; joined 1", "inquorate: ring 1"],
    );
    backend.start(2);
    nodes.expect(&[1], &["inquorate: new ring 1 2, unsettled; joined 2", "quorate: ring 1 2"]);
    nodes.expect_one_of(&[2], &started(2, &[], &[1, 2], "quorate"));
    nodes.agree(&backend);
}

fn a_cluster_without_a_provider_is_refused_unless_allowed_and_then_always_quorate<B: Backend>() {
    let backend = B::formed(3, Settings { provider: false, ..Settings::default() });
    let refused = backend.watch(1);
    refused.expect(&["unknown: connecting"]);
    assert_eq!(refused.error(), Error::NoProvider);

    let accepted = backend.watch_with(1, |builder| builder.require_provider(false)).without_votes();
    accepted.expect(&[
        "unknown: connecting",
        "unknown: connected",
        "unknown: new ring 1 2 3, unsettled; joined 1 2 3",
        "quorate: ring 1 2 3",
    ]);
    // Without a provider, a single node is as quorate as all nodes together.
    backend.partition(&[&[1], &[2, 3]]);
    accepted.expect(&["quorate: new ring 1; left 2 3; interrupted"]);
    backend.heal();
    accepted.expect(&["quorate: new ring 1 2 3; joined 2 3; interrupted"]);
    assert!(accepted.quorum().is_quorate());
}
