//! What the votes show: why quorum is missing, and whether the members hold a majority.

use std::fmt;

use crate::libquorum::{NodeId, VoteFlags, Votes};

impl Votes {
    /// Returns why this node has no quorum, if it has none and the votes show the reason.
    pub(crate) fn shortage(&self) -> Option<Shortage<'_>> {
        let is_short = self.total < self.quorum || self.flags.contains(VoteFlags::WAIT_FOR_ALL);
        (is_short && !self.flags.contains(VoteFlags::QUORATE)).then_some(Shortage(self))
    }

    /// Returns how many votes the whole cluster may have: the largest of the expected, the highest
    /// expected, the total and the configured votes.
    pub(crate) fn all(&self) -> u32 {
        let reported = [self.expected, self.highest_expected, self.total];
        reported.into_iter().chain(self.configured).max().unwrap_or(0)
    }

    /// Whether these members alone hold more than half of all votes. If a minority may become
    /// quorate by other means, the members and the quorum device together must also hold all votes.
    pub(crate) fn is_majority(&self, members: &[NodeId]) -> bool {
        let ours: Option<Vec<u32>> = members.iter().map(|node| self.of(*node)).collect();
        let Some(ours) = ours else { return false };
        let ours: u64 = ours.into_iter().map(u64::from).sum();
        let all = u64::from(self.all());
        let by_other_means = VoteFlags::LAST_MAN_STANDING
            | VoteFlags::ALLOW_DOWNSCALE
            | VoteFlags::QDEVICE_MASTER_WINS;
        let holds_all = ours + u64::from(self.qdevice) >= all;
        2 * ours > all && (holds_all || !self.flags.intersects(by_other_means))
    }
}

/// The reason why this node has no quorum: `2 of 4 votes, 3 required`, or
/// `4 of 5 votes, waits for all nodes`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shortage<'a>(&'a Votes);

impl fmt::Display for Shortage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Votes { total, expected, quorum, .. } = self.0;
        write!(f, "{total} of {expected} votes, ")?;
        if total < quorum {
            write!(f, "{quorum} required")
        } else {
            f.write_str("waits for all nodes")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_for_missing_quorum_is_given_if_the_votes_show_it() {
        let shortage = |total, flags| {
            let votes = Votes { total, expected: 4, quorum: 3, flags, ..Votes::default() };
            votes.shortage().map(|shortage| shortage.to_string())
        };
        let (none, waits) = (VoteFlags::empty(), VoteFlags::WAIT_FOR_ALL);
        assert_eq!(shortage(2, none).as_deref(), Some("2 of 4 votes, 3 required"));
        assert_eq!(shortage(2, waits).as_deref(), Some("2 of 4 votes, 3 required"));
        assert_eq!(shortage(3, waits).as_deref(), Some("3 of 4 votes, waits for all nodes"));
        assert_eq!(shortage(3, none), None, "the votes do not show the reason");
        assert_eq!(shortage(2, VoteFlags::QUORATE), None, "a tie-breaker gives quorum");
        assert_eq!(shortage(3, waits | VoteFlags::QUORATE), None);
    }

    /// Returns the votes of these members and of a device, in a cluster that may have `all` votes.
    fn votes(members: &[u32], qdevice: u32, all: u32) -> Votes {
        let members = (1..).map(NodeId).zip(members.iter().copied()).collect();
        Votes { members, qdevice, expected: all, ..Votes::default() }
    }

    /// Returns whether all members together hold a majority.
    fn is_majority(votes: &Votes) -> bool {
        let members: Vec<NodeId> = votes.members.iter().map(|(node, _)| *node).collect();
        votes.is_majority(&members)
    }

    #[test]
    fn a_majority_is_more_than_half_of_the_largest_reported_number_of_votes() {
        let three = votes(&[1, 1, 1], 0, 5);
        assert!(is_majority(&three) && !is_majority(&votes(&[1, 1, 1], 0, 6)));
        assert!(!is_majority(&votes(&[1, 1, 1], 1, 6)), "the vote of a device does not count");
        for larger in [
            Votes { highest_expected: 6, ..three.clone() },
            Votes { total: 6, ..three.clone() },
            Votes { configured: Some(6), ..three.clone() },
        ] {
            assert!(!is_majority(&larger), "{larger:?}");
        }
        assert!(!three.is_majority(&[1, 2, 3, 4].map(NodeId)), "the votes of node 4 are not known");
        assert!(!is_majority(&Votes::default()), "there are no votes");
    }

    #[test]
    fn if_a_minority_may_become_quorate_a_majority_needs_all_votes() {
        for flags in [
            VoteFlags::LAST_MAN_STANDING,
            VoteFlags::ALLOW_DOWNSCALE,
            VoteFlags::QDEVICE_MASTER_WINS,
        ] {
            let is_majority = |members: &[u32], qdevice, all| {
                is_majority(&Votes { flags, ..votes(members, qdevice, all) })
            };
            assert!(is_majority(&[1, 1, 1], 0, 3) && !is_majority(&[1, 1, 1], 0, 4), "{flags:?}");
            assert!(is_majority(&[1, 1, 1], 1, 4), "{flags:?}: with the device");
            assert!(!is_majority(&[1], 1, 2), "{flags:?}: the device has half of the votes");
        }
    }
}
