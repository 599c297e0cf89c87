//! Votes as libvotequorum reports them.

#[cfg(feature = "serde")]
use std::collections::BTreeMap;

use corosync_sys as sys;
#[cfg(feature = "serde")]
use serde::Deserialize;

use super::NodeId;

/// The votes of the cluster, as votequorum counts them on this node (`votequorum_getinfo(3)`).
///
/// In JSON, `members` and `qdevices` are objects with the node ids as keys, and `margin` is the
/// result of [`margin`](Self::margin).
///
/// ```
/// use actix_quorum::{NodeId, QuorumActor, sim::Cluster};
/// # #[actix::main]
/// # async fn main() -> Result<(), actix_quorum::Stopped> {
/// # let quorum = QuorumActor::builder().source(Cluster::new(3).node(1)).start();
///
/// let now = quorum.wait_for(|now| now.quorum.is_quorate() && now.votes.is_some()).await?;
/// let votes = now.votes.as_ref().expect("`wait_for` has checked it");
/// assert_eq!((votes.total, votes.expected, votes.quorum), (3, 3, 2));
/// assert_eq!((votes.margin(), votes.of(NodeId(1))), (1, Some(1)));
/// # quorum.stop().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize))]
#[non_exhaustive]
pub struct Votes {
    /// The number of votes that this node expects in the whole cluster.
    pub expected: u32,
    /// The highest number of votes that any member expects.
    pub highest_expected: u32,
    /// The votes of all members and of the quorum device.
    pub total: u32,
    /// The number of votes that make a quorum.
    pub quorum: u32,
    /// The votes of the quorum device.
    pub qdevice: u32,
    /// The votes of all nodes in the nodelist of `corosync.conf`, if the nodelist can be read.
    pub configured: Option<u32>,
    /// The votes of each member, ascending by node.
    #[cfg_attr(feature = "serde", serde(deserialize_with = "by_node"))]
    pub members: Vec<(NodeId, u32)>,
    /// What each member with a quorum device reports about the device (the flags that begin with
    /// `QDEVICE`), ascending by node.
    ///
    /// A probe reads the flags of all members if the members, one of the totals above or this
    /// node's flags have changed. Otherwise it reads the flags of one member, in turn. So a change
    /// on another member may go unnoticed for as many probes as there are members. With three
    /// members and the default interval of a quarter of the lease, that is 3/4 of the lease.
    #[cfg_attr(feature = "serde", serde(default, deserialize_with = "by_node"))]
    pub qdevices: Vec<(NodeId, VoteFlags)>,
    /// The configuration of votequorum and the state of the quorum device.
    pub flags: VoteFlags,
}

impl Votes {
    /// Returns how many votes this partition can lose without losing quorum. The result is zero
    /// without quorum, for example while this node has enough votes but is still waiting for all
    /// nodes. It is also zero if the partition has quorum only because of a tie-breaker.
    ///
    /// ```
    /// # use actix_quorum::{VoteFlags, Votes};
    /// let mut votes = Votes::default();
    /// (votes.total, votes.quorum) = (5, 3);
    /// assert_eq!(votes.margin(), 0);
    /// votes.flags = VoteFlags::QUORATE;
    /// assert_eq!(votes.margin(), 2);
    /// ```
    pub fn margin(&self) -> u32 {
        if self.flags.contains(VoteFlags::QUORATE) {
            self.total.saturating_sub(self.quorum)
        } else {
            0
        }
    }

    /// Returns the votes of a member, or `None` if the node is not a member or its votes are not
    /// known.
    pub fn of(&self, node: NodeId) -> Option<u32> {
        self.members.iter().find(|(member, _)| *member == node).map(|(_, votes)| *votes)
    }

    /// Returns the state of a member's quorum device: the flags that begin with `QDEVICE`. Empty if
    /// the node has no quorum device or is not a member.
    pub fn qdevice_of(&self, node: NodeId) -> VoteFlags {
        let found = self.qdevices.iter().find(|(member, _)| *member == node);
        found.map(|(_, flags)| *flags).unwrap_or_default()
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Votes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;

        let Self { expected, highest_expected, total, quorum, qdevice, configured, .. } = self;
        let members: BTreeMap<NodeId, u32> = self.members.iter().copied().collect();
        let qdevices: BTreeMap<NodeId, VoteFlags> = self.qdevices.iter().copied().collect();
        let mut votes = serializer.serialize_struct("Votes", 10)?;
        votes.serialize_field("expected", expected)?;
        votes.serialize_field("highest_expected", highest_expected)?;
        votes.serialize_field("total", total)?;
        votes.serialize_field("quorum", quorum)?;
        votes.serialize_field("qdevice", qdevice)?;
        votes.serialize_field("configured", configured)?;
        votes.serialize_field("members", &members)?;
        votes.serialize_field("qdevices", &qdevices)?;
        votes.serialize_field("flags", &self.flags)?;
        votes.serialize_field("margin", &self.margin())?;
        votes.end()
    }
}

#[cfg(feature = "serde")]
fn by_node<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<(NodeId, T)>, D::Error> {
    BTreeMap::<NodeId, T>::deserialize(deserializer).map(|values| values.into_iter().collect())
}

bitflags::bitflags! {
    /// The flags of votequorum (`VOTEQUORUM_INFO_*` in `votequorum.h`). Bits without a name here
    /// are kept.
    ///
    /// ```
    /// use actix_quorum::VoteFlags;
    ///
    /// let flags = VoteFlags::QUORATE | VoteFlags::TWO_NODE;
    /// assert!(flags.contains(VoteFlags::TWO_NODE));
    /// assert_eq!(flags.names().collect::<Vec<_>>(), ["two_node", "quorate"]);
    /// ```
    #[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
    pub struct VoteFlags: u32 {
        /// `two_node` is configured.
        const TWO_NODE = sys::VOTEQUORUM_INFO_TWONODE;
        /// Votequorum reports this node as quorate.
        const QUORATE = sys::VOTEQUORUM_INFO_QUORATE;
        /// `wait_for_all` is configured. The flag does not show whether the node is still waiting.
        const WAIT_FOR_ALL = sys::VOTEQUORUM_INFO_WAIT_FOR_ALL;
        /// `last_man_standing` is configured.
        const LAST_MAN_STANDING = sys::VOTEQUORUM_INFO_LAST_MAN_STANDING;
        /// `auto_tie_breaker` is configured.
        const AUTO_TIE_BREAKER = sys::VOTEQUORUM_INFO_AUTO_TIE_BREAKER;
        /// `allow_downscale` is configured.
        const ALLOW_DOWNSCALE = sys::VOTEQUORUM_INFO_ALLOW_DOWNSCALE;
        /// A quorum device is registered.
        const QDEVICE_REGISTERED = sys::VOTEQUORUM_INFO_QDEVICE_REGISTERED;
        /// The quorum device answers.
        const QDEVICE_ALIVE = sys::VOTEQUORUM_INFO_QDEVICE_ALIVE;
        /// The quorum device gives this partition its votes.
        const QDEVICE_CAST_VOTE = sys::VOTEQUORUM_INFO_QDEVICE_CAST_VOTE;
        /// The partition with the quorum device is quorate, however many votes it has
        /// (`master_wins`). One member with such a device is enough (`check_qdevice_master` in
        /// `exec/votequorum.c`), so the actor sets this flag if any member has had one since the
        /// actor was started.
        const QDEVICE_MASTER_WINS = sys::VOTEQUORUM_INFO_QDEVICE_MASTER_WINS;
        // The bits without a name.
        const _ = !0;
    }
}

impl VoteFlags {
    /// All flags that describe the state of a quorum device.
    pub(crate) const QDEVICE: Self = Self::QDEVICE_REGISTERED
        .union(Self::QDEVICE_ALIVE)
        .union(Self::QDEVICE_CAST_VOTE)
        .union(Self::QDEVICE_MASTER_WINS);

    /// Returns the names of the flags that are set, as in `votequorum.h`, in lower case.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, name)| name)
    }
}

const NAMES: [(VoteFlags, &str); 10] = [
    (VoteFlags::TWO_NODE, "two_node"),
    (VoteFlags::QUORATE, "quorate"),
    (VoteFlags::WAIT_FOR_ALL, "wait_for_all"),
    (VoteFlags::LAST_MAN_STANDING, "last_man_standing"),
    (VoteFlags::AUTO_TIE_BREAKER, "auto_tie_breaker"),
    (VoteFlags::ALLOW_DOWNSCALE, "allow_downscale"),
    (VoteFlags::QDEVICE_REGISTERED, "qdevice_registered"),
    (VoteFlags::QDEVICE_ALIVE, "qdevice_alive"),
    (VoteFlags::QDEVICE_CAST_VOTE, "qdevice_cast_vote"),
    (VoteFlags::QDEVICE_MASTER_WINS, "qdevice_master_wins"),
];

/// Serializes the flags as a list of names.
#[cfg(feature = "serde")]
impl serde::Serialize for VoteFlags {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

/// Deserializes a list of names. Unknown names, for example from a later version, are ignored.
#[cfg(feature = "serde")]
impl<'de> Deserialize<'de> for VoteFlags {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        let is_set = |(_, name): &(Self, &str)| names.iter().any(|set| set == name);
        Ok(NAMES.into_iter().filter(is_set).map(|(flag, _)| flag).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_have_the_names_used_in_the_configuration() {
        let flags = VoteFlags::from_bits_retain(1 | 2 | 4 | 1 << 30);
        assert_eq!(flags.names().collect::<Vec<_>>(), ["two_node", "quorate", "wait_for_all"]);
        assert!(flags.contains(VoteFlags::TWO_NODE | VoteFlags::QUORATE));
        assert!(!flags.contains(VoteFlags::QDEVICE_ALIVE));
        assert_eq!(flags.bits(), 7 | 1 << 30, "unknown bits are kept");
    }

    #[test]
    fn the_margin_is_the_number_of_votes_that_can_be_lost() {
        let quorate = VoteFlags::QUORATE;
        let votes = |total, quorum, flags| Votes { total, quorum, flags, ..Votes::default() };
        let margin = |total, quorum| votes(total, quorum, quorate).margin();
        assert_eq!((margin(3, 2), margin(2, 2), margin(1, 2)), (1, 0, 0));
        // This node is not quorate, because it is still waiting for all other nodes.
        assert_eq!(votes(4, 3, VoteFlags::default()).margin(), 0);
    }
}
