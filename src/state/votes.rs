//! The meaning of votes for quorum.

use std::fmt;

use crate::libquorum::{NodeId, VoteFlags, Votes};

impl Votes {
    /// Returns the reason for missing quorum, if quorum is missing and the votes show the reason.
    pub(crate) fn shortage(&self) -> Option<Shortage<'_>> {
        let is_short = self.total < self.quorum || self.flags.contains(VoteFlags::WAIT_FOR_ALL);
        (is_short && !self.flags.contains(VoteFlags::QUORATE)).then_some(Shortage(self))
    }

    /// Returns the number of all votes that the cluster may have: the largest of all reported
    /// numbers.
    pub(crate) fn all(&self) -> u32 {
        let reported = [self.expected, self.highest_expected, self.total];
        reported.into_iter().chain(self.configured).max().unwrap_or(0)
    }

    /// Whether these members alone hold more than half of all votes. If a minority may become
    /// quorate by other means, they must hold all votes.
    pub(crate) fn is_majority(&self, members: &[NodeId]) -> bool {
        let ours: Option<Vec<u32>> = members.iter().map(|node| self.of(*node)).collect();
        let Some(ours) = ours else { return false };
        let ours: u64 = ours.into_iter().map(u64::from).sum();
        let all = u64::from(self.all());
        let flags = self.flags;
        let by_other_means = VoteFlags::LAST_MAN_STANDING
            | VoteFlags::ALLOW_DOWNSCALE
            | VoteFlags::QDEVICE_MASTER_WINS;
        if flags.intersects(by_other_means) {
            return all > 0 && ours + u64::from(self.qdevice) >= all && 2 * ours > all;
        }
        2 * ours > all
    }
}

/// The reason for missing quorum: `2 of 4 votes, 3 required`, or `4 of 5 votes, waits for all
/// nodes`.
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
