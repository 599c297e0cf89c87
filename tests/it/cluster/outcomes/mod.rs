//! The simulated cluster and a real one reach the same states, for every fault of the network or of
//! a quorum device.
//!
//! Each scenario is written once, and runs on both. A scenario expects states, and not the changes
//! before them as the scenarios of [`conformance`](super::conformance) do: with these faults a real
//! cluster behaves differently each time.

mod lab;

use std::time::Duration;

use lab::{Lab, Real, Settings, Sim, expect, expect_one_of, expect_qdevices, expect_votes};

use crate::support::Algorithm;

/// Runs each scenario on both clusters.
macro_rules! scenarios {
    ($($name:ident)*) => {
        mod sim {
            $(#[test]
            fn $name() {
                super::$name::<super::Sim>();
            })*
        }

        mod real {
            $(#[test]
            #[ignore = "needs root and corosync: make test"]
            fn $name() {
                super::$name::<super::Real>();
            })*
        }
    };
}

scenarios! {
    a_node_whose_sends_are_lost_loses_quorum
    a_node_whose_receives_are_lost_loses_quorum
    a_node_that_cannot_send_to_one_peer_loses_quorum
    a_node_loses_quorum_while_the_two_others_are_paused
    two_nodes_keep_quorum_while_the_third_is_paused
    a_device_gives_its_vote_to_one_of_two_separated_nodes
    a_device_gives_its_vote_to_the_node_that_is_not_cut_off
    a_single_node_is_quorate_only_while_its_device_is_alive
    with_lms_a_single_node_and_the_device_are_quorate
    with_a_tie_breaker_one_half_is_quorate_but_never_exclusive
    with_last_man_standing_two_of_four_nodes_are_quorate_after_the_window
    with_last_man_standing_two_partitions_can_be_quorate
}

const ALL: &str = "quorate 1 2 3, exclusive";

fn all_three<L: Lab>(lab: &L) {
    expect(lab, &[(1, ALL), (2, ALL), (3, ALL)]);
}

/// Node 1 loses its ring, but still receives the packets of the others. Either it forms no ring, or
/// it excludes both others together and forms a ring of its own. Then its packets may disturb the
/// ring of the others repeatedly.
fn without_node_1<L: Lab>(lab: &L) {
    let (others, disturbed) = ("quorate 2 3, exclusive", "quorate 2 3, exclusive or not");
    expect_one_of(
        lab,
        &[
            &[(1, "unknown"), (2, others), (3, others)],
            &[(1, "inquorate 1"), (2, disturbed), (3, disturbed)],
        ],
    );
    lab.heal();
    all_three(lab);
}

fn a_node_whose_sends_are_lost_loses_quorum<L: Lab>() {
    let lab = L::formed(3, Settings { udpu: true, ..Settings::default() });
    all_three(&lab);
    lab.lose_sends(1);
    without_node_1(&lab);
}

fn a_node_whose_receives_are_lost_loses_quorum<L: Lab>() {
    let lab = L::formed(3, Settings { udpu: true, ..Settings::default() });
    all_three(&lab);
    lab.lose_receives(1);
    // Nodes 2 and 3 receive the packets of node 1, and form their ring repeatedly.
    let others = "quorate 2 3, exclusive or not";
    expect(&lab, &[(1, "inquorate 1"), (2, others), (3, others)]);
    lab.heal();
    all_three(&lab);
}

fn a_node_that_cannot_send_to_one_peer_loses_quorum<L: Lab>() {
    let lab = L::formed(3, Settings { udpu: true, ..Settings::default() });
    all_three(&lab);
    lab.lose_sends_to(1, 2);
    without_node_1(&lab);
}

/// Node 3 loses quorum while nodes 1 and 2 are paused together.
fn a_node_loses_quorum_while_the_two_others_are_paused<L: Lab>() {
    let lab = L::formed(3, Settings::default());
    all_three(&lab);
    lab.pause_all(&[1, 2]);
    expect(&lab, &[(1, "unknown"), (2, "unknown"), (3, "inquorate 3")]);
    lab.resume_all(&[1, 2]);
    all_three(&lab);
}

/// The other nodes keep quorum, and their guards stay valid.
fn two_nodes_keep_quorum_while_the_third_is_paused<L: Lab>() {
    let lab = L::formed(3, Settings::default());
    all_three(&lab);
    let before = lab.quorum(2).guard().unwrap();
    lab.pause_all(&[1]);
    let others = "quorate 2 3, exclusive";
    expect(&lab, &[(1, "unknown"), (2, others), (3, others)]);
    assert!(before.is_valid(), "node 1 cannot have been quorate alone");
    lab.resume_all(&[1]);
    all_three(&lab);
    assert!(before.is_valid());
}

fn a_device_gives_its_vote_to_one_of_two_separated_nodes<L: Lab>() {
    let device = Some(Algorithm::Ffsplit);
    let lab = L::formed(2, Settings { device, ..Settings::default() });
    let both = "quorate 1 2, exclusive";
    expect(&lab, &[(1, both), (2, both)]);
    expect_votes(&lab, 1, (3, 3, 2));
    expect_qdevices(&lab, 1, &[(1, true), (2, true)]);
    expect_qdevices(&lab, 2, &[(1, true), (2, true)]);
    lab.separate(1, 2);
    expect(&lab, &[(1, "quorate 1"), (2, "inquorate 2")]);
    expect_votes(&lab, 1, (2, 3, 2));
    expect_votes(&lab, 2, (1, 3, 2));
    expect_qdevices(&lab, 1, &[(1, true)]);
    expect_qdevices(&lab, 2, &[(2, false)]);
    lab.heal();
    expect(&lab, &[(1, both), (2, both)]);
}

fn a_device_gives_its_vote_to_the_node_that_is_not_cut_off<L: Lab>() {
    let device = Some(Algorithm::Ffsplit);
    let lab = L::formed(2, Settings { device, ..Settings::default() });
    let both = "quorate 1 2, exclusive";
    expect(&lab, &[(1, both), (2, both)]);
    let guard = lab.quorum(2).guard().unwrap();
    lab.cut(1);
    expect(&lab, &[(1, "inquorate 1"), (2, "quorate 2")]);
    assert!(!guard.is_valid(), "the device might have given its vote to node 1");
    lab.heal();
    expect(&lab, &[(1, both), (2, both)]);
}

/// Both nodes stay quorate without the device, but one node alone is quorate only with it.
fn a_single_node_is_quorate_only_while_its_device_is_alive<L: Lab>() {
    let device = Some(Algorithm::Ffsplit);
    let lab = L::formed(2, Settings { device, ..Settings::default() });
    let both = "quorate 1 2, exclusive";
    expect(&lab, &[(1, both), (2, both)]);
    lab.kill_device();
    expect_votes(&lab, 1, (2, 3, 2));
    expect_qdevices(&lab, 1, &[(1, false), (2, false)]);
    expect(&lab, &[(1, both), (2, both)]);
    lab.kill(2);
    expect(&lab, &[(1, "inquorate 1"), (2, "unknown")]);
    lab.start_device();
    expect(&lab, &[(1, "quorate 1"), (2, "unknown")]);
}

/// With the algorithm `lms` the device has two of the five votes.
fn with_lms_a_single_node_and_the_device_are_quorate<L: Lab>() {
    let device = Some(Algorithm::Lms);
    let lab = L::formed(3, Settings { device, ..Settings::default() });
    // Three of five votes belong to the nodes.
    all_three(&lab);
    expect_votes(&lab, 1, (5, 5, 3));
    lab.kill(2);
    expect(&lab, &[(1, "quorate 1 3"), (2, "unknown"), (3, "quorate 1 3")]);
    lab.kill(3);
    expect(&lab, &[(1, "quorate 1"), (3, "unknown")]);
    expect_votes(&lab, 1, (3, 5, 3));
}

/// With `auto_tie_breaker` the half with node 1 is quorate.
fn with_a_tie_breaker_one_half_is_quorate_but_never_exclusive<L: Lab>() {
    let lab = L::formed(4, Settings { auto_tie_breaker: true, ..Settings::default() });
    let all = "quorate 1 2 3 4, exclusive";
    expect(&lab, &[(1, all), (2, all), (3, all), (4, all)]);
    lab.partition(&[&[1, 2], &[3, 4]]);
    let (quorate, not) = ("quorate 1 2", "inquorate 3 4");
    expect(&lab, &[(1, quorate), (2, quorate), (3, not), (4, not)]);
    lab.heal();
    expect(&lab, &[(1, all), (2, all), (3, all), (4, all)]);
    lab.partition(&[&[1], &[2, 3, 4]]);
    let most = "quorate 2 3 4, exclusive";
    expect(&lab, &[(1, "inquorate 1"), (2, most), (3, most), (4, most)]);
}

/// Two of four nodes are quorate after the window has lowered the expected votes to three.
fn with_last_man_standing_two_of_four_nodes_are_quorate_after_the_window<L: Lab>() {
    let window = Some(Duration::from_secs(2));
    let lab = L::formed(4, Settings { last_man_standing: window, ..Settings::default() });
    let all = "quorate 1 2 3 4, exclusive";
    expect(&lab, &[(1, all), (2, all), (3, all), (4, all)]);
    lab.kill(4);
    // After the window, nodes 1 to 3 expect only their own votes.
    expect_votes(&lab, 1, (3, 3, 2));
    expect(&lab, &[(1, "quorate 1 2 3"), (2, "quorate 1 2 3"), (3, "quorate 1 2 3")]);
    lab.kill(3);
    expect(&lab, &[(1, "quorate 1 2"), (2, "quorate 1 2")]);
}

/// After the window, nodes 1, 4 and 5 expect 3 votes. When node 4 then joins nodes 2 and 3, these
/// three nodes are quorate with 3 votes, and nodes 1 and 5 with 2 of 3.
fn with_last_man_standing_two_partitions_can_be_quorate<L: Lab>() {
    let window = Some(Duration::from_secs(2));
    let lab = L::formed(5, Settings { last_man_standing: window, ..Settings::default() });
    let all = "quorate 1 2 3 4 5, exclusive";
    expect(&lab, &[(1, all), (2, all), (3, all), (4, all), (5, all)]);
    lab.partition(&[&[1, 4, 5], &[2, 3]]);
    expect_votes(&lab, 1, (3, 3, 2));
    lab.partition(&[&[1, 5], &[2, 3, 4]]);
    let (two, three) = ("quorate 1 5", "quorate 2 3 4");
    expect(&lab, &[(1, two), (2, three), (3, three), (4, three), (5, two)]);
}
