use std::fmt;

use corosync_sys as sys;

use crate::libquorum::NodeId;

/// The votes of the cluster, as votequorum counts them on this node (`votequorum_getinfo(3)`).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Votes {
    /// The votes that this node expects of the whole cluster.
    pub expected: u32,
    /// The highest number of votes that any member expects.
    pub highest_expected: u32,
    /// The votes of all members, and of the quorum device.
    pub total: u32,
    /// How many votes make a quorum.
    pub quorum: u32,
    /// The votes of the quorum device.
    pub qdevice: u32,
    /// The votes of all nodes in the nodelist of `corosync.conf`, where that can be read.
    pub configured: Option<u32>,
    /// The votes of each member, ascending by node. In JSON an object with the node ids as keys.
    #[cfg_attr(feature = "serde", serde(serialize_with = "by_node"))]
    pub members: Vec<(NodeId, u32)>,
    /// How votequorum is configured, and how the quorum device does.
    pub flags: VoteFlags,
}

impl Votes {
    /// How many votes can go before quorum does. Zero if there is none, as for a node that waits for
    /// all others though there are votes enough, and where a tie-breaker alone makes quorum.
    ///
    /// ```
    /// # use actix_quorum::{VoteFlags, Votes};
    /// let mut votes = Votes::default();
    /// (votes.total, votes.quorum) = (5, 3);
    /// assert_eq!(votes.margin(), 0);
    /// // VOTEQUORUM_INFO_QUORATE
    /// votes.flags = VoteFlags::from_bits(2);
    /// assert_eq!(votes.margin(), 2);
    /// ```
    pub fn margin(&self) -> u32 {
        if self.flags.quorate() { self.total.saturating_sub(self.quorum) } else { 0 }
    }

    /// The votes of a member.
    pub fn of(&self, node: NodeId) -> Option<u32> {
        self.members.iter().find(|(member, _)| *member == node).map(|(_, votes)| *votes)
    }

    /// Why there is no quorum, if there is none and the votes tell.
    pub(crate) fn shortage(&self) -> Option<Shortage<'_>> {
        let is_short = self.total < self.quorum || self.flags.wait_for_all();
        (is_short && !self.flags.quorate()).then_some(Shortage(self))
    }

    /// All votes that the cluster may have: the largest number that anything tells.
    pub(crate) fn all(&self) -> u32 {
        let told = [self.expected, self.highest_expected, self.total];
        told.into_iter().chain(self.configured).max().unwrap_or(0)
    }

    /// Whether these members hold more than half of all votes by themselves; all of them where a
    /// minority may become quorate by other means.
    pub(crate) fn is_majority(&self, members: &[NodeId]) -> bool {
        let ours: Option<Vec<u32>> = members.iter().map(|node| self.of(*node)).collect();
        let Some(ours) = ours else { return false };
        let ours: u64 = ours.into_iter().map(u64::from).sum();
        let all = u64::from(self.all());
        let flags = self.flags;
        if flags.last_man_standing() || flags.allow_downscale() || flags.qdevice_master_wins() {
            return all > 0 && ours + u64::from(self.qdevice) >= all && 2 * ours > all;
        }
        2 * ours > all
    }
}

/// Why there is no quorum: `2 of 4 votes, 3 required`, or `4 of 5 votes, waits for all nodes`.
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

#[cfg(feature = "serde")]
fn by_node<S: serde::Serializer>(
    votes: &[(NodeId, u32)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(votes.iter().copied())
}

/// The flags of votequorum (`VOTEQUORUM_INFO_*` in `votequorum.h`), shown by their names there.
#[derive(Clone, Copy, Default, Eq, Hash, PartialEq)]
pub struct VoteFlags(u32);

impl VoteFlags {
    /// From the number that votequorum tells.
    pub fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The number that votequorum told.
    pub fn bits(self) -> u32 {
        self.0
    }

    fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }

    /// `two_node` is configured.
    pub fn two_node(self) -> bool {
        self.has(sys::VOTEQUORUM_INFO_TWONODE)
    }

    /// Votequorum holds this node for quorate.
    pub fn quorate(self) -> bool {
        self.has(sys::VOTEQUORUM_INFO_QUORATE)
    }

    /// `wait_for_all` is configured. It does not say whether it still waits.
    pub fn wait_for_all(self) -> bool {
        self.has(sys::VOTEQUORUM_INFO_WAIT_FOR_ALL)
    }

    /// `last_man_standing` is configured.
    pub fn last_man_standing(self) -> bool {
        self.has(sys::VOTEQUORUM_INFO_LAST_MAN_STANDING)
    }

    /// `auto_tie_breaker` is configured.
    pub fn auto_tie_breaker(self) -> bool {
        self.has(sys::VOTEQUORUM_INFO_AUTO_TIE_BREAKER)
    }

    /// `allow_downscale` is configured.
    pub fn allow_downscale(self) -> bool {
        self.has(sys::VOTEQUORUM_INFO_ALLOW_DOWNSCALE)
    }

    /// The partition with the quorum device is quorate, whatever votes it has (`master_wins`).
    pub fn qdevice_master_wins(self) -> bool {
        self.has(sys::VOTEQUORUM_INFO_QDEVICE_MASTER_WINS)
    }

    /// A quorum device is registered.
    pub fn qdevice_registered(self) -> bool {
        self.has(sys::VOTEQUORUM_INFO_QDEVICE_REGISTERED)
    }

    /// The quorum device answers.
    pub fn qdevice_alive(self) -> bool {
        self.has(sys::VOTEQUORUM_INFO_QDEVICE_ALIVE)
    }

    /// The quorum device gives us its votes.
    pub fn qdevice_casts_vote(self) -> bool {
        self.has(sys::VOTEQUORUM_INFO_QDEVICE_CAST_VOTE)
    }

    /// The names of those that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().filter(move |(flag, _)| self.has(*flag)).map(|(_, name)| name)
    }
}

const NAMES: [(u32, &str); 10] = [
    (sys::VOTEQUORUM_INFO_TWONODE, "two_node"),
    (sys::VOTEQUORUM_INFO_QUORATE, "quorate"),
    (sys::VOTEQUORUM_INFO_WAIT_FOR_ALL, "wait_for_all"),
    (sys::VOTEQUORUM_INFO_LAST_MAN_STANDING, "last_man_standing"),
    (sys::VOTEQUORUM_INFO_AUTO_TIE_BREAKER, "auto_tie_breaker"),
    (sys::VOTEQUORUM_INFO_ALLOW_DOWNSCALE, "allow_downscale"),
    (sys::VOTEQUORUM_INFO_QDEVICE_REGISTERED, "qdevice_registered"),
    (sys::VOTEQUORUM_INFO_QDEVICE_ALIVE, "qdevice_alive"),
    (sys::VOTEQUORUM_INFO_QDEVICE_CAST_VOTE, "qdevice_cast_vote"),
    (sys::VOTEQUORUM_INFO_QDEVICE_MASTER_WINS, "qdevice_master_wins"),
];

impl fmt::Debug for VoteFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// As a list of names.
#[cfg(feature = "serde")]
impl serde::Serialize for VoteFlags {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_have_the_names_of_the_configuration() {
        let flags = VoteFlags::from_bits(1 | 2 | 4 | 1 << 30);
        assert_eq!(flags.names().collect::<Vec<_>>(), ["two_node", "quorate", "wait_for_all"]);
        assert!(flags.two_node() && flags.quorate() && !flags.qdevice_alive());
        assert_eq!(flags.bits(), 7 | 1 << 30, "what we do not know survives");
    }

    #[test]
    fn the_margin_is_what_can_go() {
        let quorate = VoteFlags::from_bits(sys::VOTEQUORUM_INFO_QUORATE);
        let votes = |total, quorum, flags| Votes { total, quorum, flags, ..Votes::default() };
        let margin = |total, quorum| votes(total, quorum, quorate).margin();
        assert_eq!((margin(3, 2), margin(2, 2), margin(1, 2)), (1, 0, 0));
        // As with `wait_for_all`.
        assert_eq!(votes(4, 3, VoteFlags::default()).margin(), 0);
    }
}
