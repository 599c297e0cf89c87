//! Decides whether the votes prove that quorum was held without a break.

use std::mem;

use crate::libquorum::{NodeId, VoteFlags, Votes};

/// Tracks the nodes that have not left this node's ring since the last decision.
#[derive(Debug, Default)]
pub(super) struct Continuity {
    /// The nodes that have been in every ring with this node since the last decision. `None` before
    /// the first decision of a connection.
    companions: Option<Vec<NodeId>>,
    /// For each membership change after which the votes are not yet known: the companions that
    /// remained after it, and the votes before it.
    unchecked: Vec<Unchecked>,
}

#[derive(Debug, PartialEq)]
struct Unchecked {
    companions: Vec<NodeId>,
    before: Votes,
}

impl Continuity {
    /// Records a decision about a ring with these members.
    pub(super) fn decide(&mut self, members: &[NodeId]) {
        self.companions = Some(members.to_vec());
    }

    /// Records a new ring with these members. The nodes in `left` have left the previous ring, even
    /// if they are members of the new one. Returns whether other nodes may have been quorate
    /// without this node. Returns `false` if quorum was not held before: then nothing can be
    /// interrupted.
    pub(super) fn membership(
        &mut self,
        members: &[NodeId],
        left: &[NodeId],
        votes: Option<&Votes>,
        was_held: bool,
    ) -> bool {
        let Some(companions) = &mut self.companions else { return false };
        companions.retain(|node| members.contains(node) && !left.contains(node));
        if !was_held {
            self.unchecked.clear();
            return false;
        }
        let Some(votes) = votes else { return true };
        let unchecked = Unchecked { companions: companions.clone(), before: votes.clone() };
        if !self.unchecked.contains(&unchecked) {
            self.unchecked.push(unchecked);
        }
        others_may_be_quorate(companions, votes, votes)
    }

    /// Records the votes of the current membership. Returns whether these votes show that other
    /// nodes may have been quorate without this node, although the earlier votes did not show that.
    pub(super) fn votes(&mut self, votes: &Votes) -> bool {
        mem::take(&mut self.unchecked).iter().any(|Unchecked { companions, before }| {
            !others_may_be_quorate(companions, before, before)
                && others_may_be_quorate(companions, before, votes)
        })
    }
}

/// Whether all votes except those of `companions` are enough to make another partition quorate.
/// Each companion is counted with the smaller of its votes in `before` and `after`: if in doubt,
/// the result is `true`.
fn others_may_be_quorate(companions: &[NodeId], before: &Votes, after: &Votes) -> bool {
    let ours: u64 = companions
        .iter()
        .map(|node| match (before.of(*node), after.of(*node)) {
            (Some(before), Some(after)) => u64::from(before.min(after)),
            (known, None) | (None, known) => known.map_or(0, u64::from),
        })
        .sum();
    let all = u64::from(before.all().max(after.all()));
    let others = all.saturating_sub(ours);
    let quorum = u64::from(before.quorum.min(after.quorum));
    others >= lowest_threshold(before.flags | after.flags, quorum, all).max(1)
}

/// Returns the fewest votes that can make another partition quorate, if this one needs `quorum`
/// votes.
fn lowest_threshold(flags: VoteFlags, quorum: u64, all: u64) -> u64 {
    let has_tie_breaker = flags.contains(VoteFlags::AUTO_TIE_BREAKER);
    let one_is_enough =
        VoteFlags::TWO_NODE | VoteFlags::QDEVICE_MASTER_WINS | VoteFlags::ALLOW_DOWNSCALE;
    if flags.intersects(one_is_enough) {
        1
    } else if flags.contains(VoteFlags::LAST_MAN_STANDING) {
        // The other partition may expect fewer votes than this one. Without a tie-breaker it needs
        // at least two nodes (`votequorum(5)`).
        quorum.min(if has_tie_breaker { 1 } else { 2 })
    } else if has_tie_breaker {
        quorum.min(all.div_ceil(2))
    } else {
        quorum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn votes(quorum: u32, members: &[(u32, u32)], all: u32) -> Votes {
        let members: Vec<_> = members.iter().map(|(node, votes)| (NodeId(*node), *votes)).collect();
        let total = members.iter().map(|(_, votes)| votes).sum();
        let (highest_expected, expected) = (all, all);
        Votes { quorum, total, highest_expected, expected, members, ..Votes::default() }
    }

    fn ids(nodes: &[u32]) -> Vec<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    /// Returns whether a new ring with the members `after` interrupts the quorum of `members`. The
    /// nodes in `left` have left the previous ring.
    fn is_broken(members: &[u32], after: &[u32], left: &[u32], votes: Option<&Votes>) -> bool {
        let mut continuity = Continuity::default();
        continuity.decide(&ids(members));
        continuity.membership(&ids(after), &ids(left), votes, true)
    }

    #[test]
    fn a_node_with_a_majority_of_the_votes_may_have_been_quorate_alone() {
        let votes = votes(3, &[(1, 1), (2, 1), (3, 3)], 5);
        assert!(is_broken(&[1, 2, 3], &[1, 2, 3], &[3], Some(&votes)));
        assert!(
            !is_broken(&[1, 2, 3], &[1, 2, 3], &[1, 2], Some(&votes)),
            "node 3 stayed with this node"
        );
    }

    #[test]
    fn a_minority_that_was_away_does_not_break_continuity() {
        let votes = votes(2, &[(1, 1), (2, 1), (3, 1)], 3);
        assert!(!is_broken(&[1, 2, 3], &[1, 2], &[3], Some(&votes)));
        assert!(!is_broken(&[1, 2, 3], &[1, 2, 3], &[3], Some(&votes)));
        assert!(is_broken(&[1, 2, 3], &[1, 2, 3], &[2, 3], Some(&votes)));
    }

    #[test]
    fn the_votes_of_a_quorum_device_are_counted_for_the_nodes_that_left() {
        // There are two nodes with one vote each, and a device with one vote.
        let mut two = votes(2, &[(1, 1), (2, 1)], 3);
        two.qdevice = 1;
        assert!(is_broken(&[1, 2], &[1], &[2], Some(&two)));
        // There are three nodes with one vote each, and a device with two votes (the algorithm
        // lms).
        let three = votes(3, &[(1, 1), (2, 1), (3, 1)], 5);
        assert!(is_broken(&[1, 2, 3], &[1, 2, 3], &[3], Some(&three)));
    }

    #[test]
    fn half_of_the_votes_may_have_been_enough_with_a_tie_breaker() {
        let mut four = votes(3, &[(1, 1), (2, 1), (3, 1), (4, 1)], 4);
        assert!(!is_broken(&[1, 2, 3, 4], &[1, 2, 3, 4], &[3, 4], Some(&four)));
        four.flags = VoteFlags::AUTO_TIE_BREAKER;
        assert!(is_broken(&[1, 2, 3, 4], &[1, 2, 3, 4], &[3, 4], Some(&four)));
        assert!(!is_broken(&[1, 2, 3, 4], &[1, 2, 3, 4], &[4], Some(&four)));
    }

    #[test]
    fn with_last_man_standing_two_other_nodes_may_have_been_quorate() {
        let mut five = votes(3, &[(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)], 5);
        let all = [1, 2, 3, 4, 5];
        assert!(!is_broken(&all, &all, &[4, 5], Some(&five)));
        five.flags = VoteFlags::LAST_MAN_STANDING;
        assert!(is_broken(&all, &all, &[4, 5], Some(&five)));
        assert!(!is_broken(&all, &all, &[5], Some(&five)));
        five.flags |= VoteFlags::AUTO_TIE_BREAKER;
        assert!(is_broken(&all, &all, &[5], Some(&five)));
    }

    #[test]
    fn with_two_node_master_wins_or_downscale_one_other_vote_may_have_been_enough() {
        let mut five = votes(3, &[(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)], 5);
        let all = [1, 2, 3, 4, 5];
        assert!(!is_broken(&all, &all, &[5], Some(&five)));
        for option in
            [VoteFlags::TWO_NODE, VoteFlags::QDEVICE_MASTER_WINS, VoteFlags::ALLOW_DOWNSCALE]
        {
            five.flags = option;
            assert!(is_broken(&all, &all, &[5], Some(&five)), "with {option:?}");
        }
    }

    #[test]
    fn with_two_node_either_half_is_quorate() {
        let mut two = votes(1, &[(1, 1), (2, 1)], 2);
        two.flags = VoteFlags::TWO_NODE;
        assert!(is_broken(&[1, 2], &[1], &[2], Some(&two)));
    }

    #[test]
    fn unknown_votes_break_continuity() {
        assert!(is_broken(&[1, 2, 3], &[1, 2], &[3], None));
        let mut continuity = Continuity::default();
        assert!(!continuity.membership(&ids(&[1]), &[], None, true), "nothing was decided before");
    }

    #[test]
    fn if_votes_have_changed_since_the_decision_the_worse_values_are_used() {
        let before = votes(2, &[(1, 1), (2, 1), (3, 1)], 3);
        let mut continuity = Continuity::default();
        continuity.decide(&ids(&[1, 2, 3]));
        assert!(!continuity.membership(&ids(&[1, 2, 3]), &ids(&[3]), Some(&before), true));
        assert!(continuity.votes(&votes(3, &[(1, 1), (2, 1), (3, 3)], 5)));
        assert!(
            !continuity.votes(&votes(3, &[(1, 1), (2, 1), (3, 3)], 5)),
            "continuity breaks only once"
        );
    }

    #[test]
    fn a_tie_breaker_that_was_set_since_the_last_decision_breaks_continuity() {
        let mut four = votes(3, &[(1, 1), (2, 1), (3, 1), (4, 1)], 4);
        let mut continuity = Continuity::default();
        continuity.decide(&ids(&[1, 2, 3, 4]));
        assert!(!continuity.membership(&ids(&[1, 2, 3, 4]), &ids(&[3, 4]), Some(&four), true));
        four.flags = VoteFlags::AUTO_TIE_BREAKER;
        assert!(continuity.votes(&four));
    }

    #[test]
    fn a_node_that_joins_and_dies_before_the_decision_does_not_break_continuity() {
        let votes = votes(2, &[(1, 1), (2, 1)], 3);
        let mut continuity = Continuity::default();
        continuity.decide(&ids(&[1, 2]));
        assert!(!continuity.membership(&ids(&[1, 2, 3]), &[], Some(&votes), true));
        assert!(!continuity.membership(&ids(&[1, 2]), &ids(&[3]), Some(&votes), true));
    }

    #[test]
    fn nodes_that_left_and_rejoined_without_a_decision_break_continuity() {
        let votes = votes(2, &[(1, 1), (2, 1), (3, 1)], 3);
        let mut continuity = Continuity::default();
        continuity.decide(&ids(&[1, 2, 3]));
        assert!(continuity.membership(&ids(&[1]), &ids(&[2, 3]), Some(&votes), true));
        assert!(
            continuity.membership(&ids(&[1, 2, 3]), &[], Some(&votes), true),
            "nodes 2 and 3 were away"
        );
    }
}
