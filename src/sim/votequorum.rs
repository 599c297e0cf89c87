//! The decision of a daemon about quorum, as in `exec/votequorum.c`.

use std::{collections::BTreeMap, time::Duration};

use crate::libquorum::NodeId;

/// The votequorum of one daemon.
#[derive(Clone, Debug)]
pub(super) struct Votequorum {
    id: NodeId,
    /// The votes of the members, including this node.
    members: BTreeMap<NodeId, Votes>,
    /// The votes that the quorum device gives to this node, or `None` without a device.
    pub(super) device: Option<u32>,
    /// The number of members of the previous ring.
    previous_members: usize,
    /// The lowest node id of the last ring with enough votes.
    lowest: NodeId,
    /// The number of votes that make a quorum.
    quorum: u32,
    pub(super) quorate: bool,
    /// Whether this node must see all nodes before it may be quorate (`wait_for_all_status`).
    waiting: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Votes {
    pub(super) votes: u32,
    pub(super) expected: u32,
}

/// The options of the section `quorum`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options {
    pub(super) two_node: bool,
    pub(super) wait_for_all: bool,
    pub(super) auto_tie_breaker: bool,
    /// The `last_man_standing_window`.
    pub(super) last_man_standing: Option<Duration>,
}

/// The messages between the daemons of a ring.
#[derive(Clone, Copy, Debug)]
pub(super) enum Message {
    /// `MESSAGE_REQ_EXEC_VOTEQUORUM_NODEINFO`
    Info(Info),
    /// `VOTEQUORUM_RECONFIG_PARAM_NODE_VOTES`
    Votes(NodeId, u32),
    /// `VOTEQUORUM_RECONFIG_PARAM_EXPECTED_VOTES`
    Expected(u32),
}

/// The report of a node about itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Info {
    id: NodeId,
    votes: Votes,
    quorate: bool,
    waiting: bool,
}

impl Votequorum {
    /// Creates the votequorum of a daemon that has just started.
    pub(super) fn new(id: NodeId, votes: Votes, options: Options) -> Self {
        let mut votequorum = Self {
            id,
            members: BTreeMap::from([(id, votes)]),
            device: None,
            previous_members: 0,
            lowest: id,
            quorum: 0,
            quorate: false,
            waiting: options.wait_for_all,
        };
        votequorum.recalculate(false, options);
        votequorum
    }

    pub(super) fn info(&mut self) -> Info {
        let votes = *self.own();
        Info { id: self.id, votes, quorate: self.quorate, waiting: self.waiting }
    }

    /// Returns the result of `votequorum_getinfo`.
    pub(super) fn votes(&self) -> crate::libquorum::Votes {
        let members = self.members.iter().map(|(id, member)| (*id, member.votes));
        crate::libquorum::Votes {
            expected: self.members.get(&self.id).map_or(0, |own| own.expected),
            highest_expected: self
                .members
                .values()
                .map(|member| member.expected)
                .max()
                .unwrap_or(0),
            total: self.total(),
            quorum: self.quorum,
            qdevice: self.device.unwrap_or(0),
            members: members.collect(),
            ..crate::libquorum::Votes::default()
        }
    }

    /// Decides about a ring. `infos` are the reports of its members when it formed, ascending.
    ///
    /// All reports are applied together. If the members expect different votes, the decision of a
    /// real ring may depend on the order of the messages.
    pub(super) fn sync(&mut self, infos: &[Info], options: Options) {
        self.previous_members = self.members.len();
        self.members.retain(|id, _| infos.binary_search_by_key(id, |info| info.id).is_ok());
        let (quorate, others): (Vec<&Info>, Vec<&Info>) =
            infos.iter().partition(|info| info.quorate);
        let adopts = !self.quorate && !quorate.is_empty();
        quorate.into_iter().chain(others).for_each(|info| self.record(info));
        self.recalculate(adopts, options);
    }

    /// Applies this configuration (`votequorum_refresh_config`). Returns the messages to send to
    /// the members of the ring, including this node.
    pub(super) fn refresh(&mut self, new: Votes) -> Vec<Message> {
        let old = std::mem::replace(self.own(), new);
        let mut messages = vec![Message::Info(self.info())];
        if new.votes != old.votes {
            messages.push(Message::Votes(self.id, new.votes));
        }
        if new.expected != old.expected {
            messages.push(Message::Expected(new.expected));
        }
        messages
    }

    pub(super) fn receive(&mut self, message: Message, options: Options) {
        match message {
            Message::Info(info) => {
                let adopts = !self.quorate && info.quorate;
                self.record(&info);
                self.recalculate(adopts, options);
            }
            Message::Votes(id, votes) => {
                if let Some(member) = self.members.get_mut(&id) {
                    member.votes = votes;
                    self.recalculate(true, options);
                }
            }
            Message::Expected(expected) => {
                self.members.values_mut().for_each(|member| member.expected = expected);
                self.recalculate(true, options);
            }
        }
    }

    /// Records the report of a member. If the member is quorate and this node is not, this node
    /// adopts the expected votes of the member. If the member is quorate and does not wait for all
    /// nodes, this node does not wait any longer either.
    fn record(&mut self, info: &Info) {
        let mut votes = info.votes;
        if !info.quorate {
            votes.expected = self.own().expected;
        } else if !self.quorate {
            self.own().expected = votes.expected;
        }
        self.members.insert(info.id, votes);
        if info.quorate && !info.waiting {
            self.waiting = false;
        }
    }

    /// Whether the timer of `last_man_standing` starts with a ring of these members.
    pub(super) fn awaits_last_man_standing(&self, members: &[NodeId], options: Options) -> bool {
        let has_left = self.members.keys().any(|id| members.binary_search(id).is_err());
        let count = u32::try_from(members.len()).unwrap_or(u32::MAX);
        let has_lowest = members.contains(&self.lowest);
        options.last_man_standing.is_some()
            && (count >= self.quorum && has_left
                || count <= self.quorum && options.auto_tie_breaker && has_lowest)
    }

    /// Ends the window of `last_man_standing`: from now on only the present nodes are expected.
    pub(super) fn last_man_standing(&mut self, options: Options) {
        if self.quorate {
            let nodes =
                self.members.len() + usize::from(self.device.is_some_and(|votes| votes > 0));
            let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
            self.members.values_mut().for_each(|member| member.expected = nodes);
            self.recalculate(true, options);
        }
    }

    /// Sets the votes that the quorum device gives to this node (`votequorum_qdevice_poll`).
    /// Returns whether they have changed.
    pub(super) fn poll_device(&mut self, votes: Option<u32>, options: Options) -> bool {
        let changed = self.device != votes;
        self.device = votes;
        if changed {
            self.recalculate(false, options);
        }
        changed
    }

    fn total(&self) -> u32 {
        let members = self.members.values().map(|member| member.votes);
        members.fold(self.device.unwrap_or(0), u32::saturating_add)
    }

    /// Recalculates quorum like `recalculate_quorum`, with `calculate_quorum` and `are_we_quorate`.
    fn recalculate(&mut self, allow_decrease: bool, options: Options) {
        let total = self.total();
        let own = self.own();
        own.expected = own.expected.max(total);
        let expected = own.expected;

        let highest = self.members.values().map(|member| member.expected).max().unwrap_or(0);
        let needed = highest.max(total) / 2 + 1;
        self.quorum = if options.two_node && self.members.len() <= 2 {
            1
        } else if allow_decrease {
            needed
        } else {
            needed.max(self.quorum)
        };

        if options.wait_for_all && self.waiting && total != expected {
            return;
        }
        self.quorate = total >= self.quorum;
        if self.quorate {
            self.lowest = *self.members.keys().next().expect("a node is a member of its ring");
        } else if options.auto_tie_breaker {
            // The nodes that have left must be too few for quorum. (Corosync subtracts unsigned
            // numbers, so a node never gains quorum in this way when others join.)
            let gone = self.previous_members.checked_sub(self.members.len());
            self.quorate = total == expected / 2
                && gone
                    .is_some_and(|gone| u32::try_from(gone).is_ok_and(|gone| gone < self.quorum))
                && self.members.contains_key(&self.lowest);
        }
        // A node that has lost quorum waits for all nodes again.
        self.waiting = options.wait_for_all && !self.quorate;
    }

    fn own(&mut self) -> &mut Votes {
        self.members.get_mut(&self.id).expect("a node is a member of its ring")
    }
}
