//! Which nodes are truly quorate: a model of the cluster, by the rules of votequorum in their
//! simplest form. It has no notifications, connections or ring ids. What an actor may conclude from
//! its own events is checked by the oracle in `src/state/oracle/`.

use std::collections::BTreeSet;

use actix_quorum::{Code, Error, sim::Fault};

use super::history::{History, Verb};

pub(crate) struct Model {
    pub(crate) nodes: Vec<Node>,
    provider: bool,
    two_node: bool,
    waits_for_all: bool,
    sync_held: bool,
    rings: u64,
}

#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) id: u32,
    pub(crate) daemon: Daemon,
    link: usize,
    /// A unique number of the membership that the node is in.
    ring: u64,
    /// The members of that membership.
    pub(crate) members: Vec<u32>,
    /// The quorum that it reports to its clients.
    pub(crate) quorate: bool,
    /// Whether that quorum was decided for this membership.
    pub(crate) decided: bool,
    /// Whether it, or a node that it has met, has seen all nodes since it started.
    seen_all: bool,
    /// The number of actors that watch it.
    pub(crate) actors: usize,
    /// Whether it has just started, and stays alone until its actors have received that state.
    pub(crate) alone: bool,
    /// The ring whose members have not yet noticed that this node restarted.
    unnoticed: Option<u64>,
    faults: Faults,

    /// Whether it has sent any notification since the last reset.
    pub(crate) reported: bool,
    /// Whether quorum was lost in what it has sent.
    pub(crate) broke: bool,
    /// Whether its connections have ended.
    pub(crate) hung_up: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Daemon {
    Down,
    Running,
    Paused,
}

#[derive(Clone, Default)]
struct Faults {
    connect: Option<Code>,
    track_start: Option<Code>,
    server_uid: u32,
}

/// The reason why a verb must be refused.
#[derive(Debug, PartialEq)]
pub(crate) enum Refused {
    NoNode(u32),
    State(u32, Daemon),
    Overlap(u32),
    LeftOut(u32),
    NoVotes,
}

impl Model {
    pub(crate) fn new(history: &History) -> Self {
        let all: Vec<u32> = (1..=history.size).collect();
        let node = |id: &u32| Node {
            id: *id,
            daemon: Daemon::Running,
            link: 0,
            ring: 0,
            members: all.clone(),
            quorate: history.provider,
            decided: true,
            seen_all: true,
            actors: history.actors.iter().filter(|actor| *actor == id).count(),
            alone: false,
            unnoticed: None,
            faults: Faults::default(),
            reported: false,
            broke: false,
            hung_up: false,
        };
        Self {
            nodes: all.iter().map(node).collect(),
            provider: history.provider,
            two_node: history.two_node,
            waits_for_all: history.two_node || history.wait_for_all,
            sync_held: false,
            rings: 0,
        }
    }

    pub(crate) fn node(&self, id: u32) -> &Node {
        &self.nodes[id as usize - 1]
    }

    fn node_mut(&mut self, id: u32) -> &mut Node {
        &mut self.nodes[id as usize - 1]
    }

    /// Returns the error with which a node refuses a client.
    pub(crate) fn refusal(&self, id: u32) -> Option<Error> {
        let node = self.node(id);
        if node.daemon == Daemon::Down {
            return Some(Error::Connect(Code::LIBRARY));
        }
        let Faults { connect, track_start, server_uid } = node.faults;
        if let Some(code) = connect {
            return Some(Error::Connect(code));
        }
        if server_uid != 0 {
            return Some(Error::untrusted_server(Some(server_uid), 0));
        }
        if !self.provider {
            return Some(Error::NoProvider);
        }
        track_start.map(Error::TrackStart)
    }

    /// Applies a verb to the cluster.
    #[expect(clippy::too_many_lines, reason = "one case for each verb")]
    pub(crate) fn apply(&mut self, verb: &Verb) -> Result<(), Refused> {
        match verb {
            Verb::Partition(groups) => {
                let mut link = vec![None; self.nodes.len()];
                for (index, group) in groups.iter().enumerate() {
                    for id in group {
                        self.known(*id)?;
                        if link[*id as usize - 1].replace(index).is_some() {
                            return Err(Refused::Overlap(*id));
                        }
                    }
                }
                if let Some(id) =
                    (1..).zip(&link).find_map(|(id, link)| link.is_none().then_some(id))
                {
                    return Err(Refused::LeftOut(id));
                }
                for (node, link) in self.nodes.iter_mut().zip(link) {
                    node.link = link.unwrap_or_default();
                }
            }
            Verb::Heal => self.nodes.iter_mut().for_each(|node| node.link = 0),
            Verb::Crash(id) | Verb::Stop(id) => {
                self.expect(*id, &[Daemon::Running, Daemon::Paused])?;
                let node = self.node_mut(*id);
                node.daemon = Daemon::Down;
                (node.alone, node.unnoticed) = (false, None);
                node.hung_up = true;
            }
            Verb::Start(id) => {
                self.expect(*id, &[Daemon::Down])?;
                self.start(*id);
            }
            Verb::Restart(id) => {
                self.expect(*id, &[Daemon::Running, Daemon::Paused])?;
                let node = self.node_mut(*id);
                node.hung_up = true;
                // A second restart before the first was noticed is not noticed either.
                let on = if node.alone { node.unnoticed } else { Some(node.ring) };
                node.unnoticed = on.filter(|_| node.daemon == Daemon::Running && node.decided);
                self.start(*id);
            }
            Verb::Pause(id) => {
                self.expect(*id, &[Daemon::Running])?;
                self.node_mut(*id).daemon = Daemon::Paused;
            }
            Verb::Resume(id) => {
                self.expect(*id, &[Daemon::Paused])?;
                let node = self.node_mut(*id);
                node.daemon = Daemon::Running;
                // The actors for which it was alone may have ended.
                node.alone &= node.actors > 0;
            }
            Verb::ExpectedVotes(0) => return Err(Refused::NoVotes),
            Verb::ExpectedVotes(_) => {}
            Verb::HoldSync => self.sync_held = true,
            Verb::ReleaseSync => self.sync_held = false,
            Verb::Fault(id, fault) => {
                self.known(*id)?;
                let node = self.node_mut(*id);
                match fault {
                    Fault::Connect(code) => node.faults.connect = Some(*code),
                    Fault::TrackStart(code) => node.faults.track_start = Some(*code),
                    Fault::ServerUid(uid) => node.faults.server_uid = *uid,
                    Fault::Dispatch(_) => node.hung_up = true,
                    _ => {}
                }
            }
            Verb::Mend(id) => {
                self.known(*id)?;
                self.node_mut(*id).faults = Faults::default();
            }
            Verb::Flood(_)
            | Verb::Subscribe { .. }
            | Verb::Unsubscribe { .. }
            | Verb::EndSubscriber { .. }
            | Verb::LetRead { .. }
            | Verb::StopActor { .. }
            | Verb::Wait => {}
        }
        self.update();
        Ok(())
    }

    /// Resets the record of what the nodes have sent.
    pub(crate) fn reset_reports(&mut self) {
        for node in &mut self.nodes {
            (node.reported, node.broke, node.hung_up) = (false, false, false);
        }
    }

    /// Lets all actors receive their states, so that nodes that stayed alone for them find the
    /// other nodes. Returns the number of those nodes.
    pub(crate) fn settle(&mut self) -> usize {
        let mut found = 0;
        for node in self.nodes.iter_mut().filter(|node| node.daemon == Daemon::Running) {
            found += usize::from(std::mem::take(&mut node.alone));
        }
        self.update();
        found
    }

    pub(crate) fn is_any_alone(&self) -> bool {
        self.nodes.iter().any(|node| node.alone)
    }

    fn known(&self, id: u32) -> Result<(), Refused> {
        let known = self.nodes.iter().any(|node| node.id == id);
        if known { Ok(()) } else { Err(Refused::NoNode(id)) }
    }

    fn expect(&self, id: u32, wanted: &[Daemon]) -> Result<(), Refused> {
        self.known(id)?;
        let daemon = self.node(id).daemon;
        if wanted.contains(&daemon) { Ok(()) } else { Err(Refused::State(id, daemon)) }
    }

    /// Starts a daemon on its own ring, where it decides for itself.
    fn start(&mut self, id: u32) {
        self.rings += 1;
        let (ring, waits_for_all) = (self.rings, self.waits_for_all);
        let node = self.node_mut(id);
        node.daemon = Daemon::Running;
        node.alone = node.actors > 0;
        node.ring = ring;
        node.members = vec![id];
        node.seen_all = !waits_for_all;
        node.reported = true;
        self.decide(&[id]);
    }

    /// Puts nodes that reach each other into one membership, and lets them decide about quorum.
    fn update(&mut self) {
        for group in self.groups() {
            if !self.is_formed(&group) {
                self.form(&group);
            }
            if !self.sync_held || self.node(group[0]).decided {
                self.decide(&group);
            }
        }
    }

    /// Returns the groups of nodes that reach each other.
    fn groups(&self) -> BTreeSet<Vec<u32>> {
        let running = || self.nodes.iter().filter(|node| node.daemon == Daemon::Running);
        let reaches =
            |a: &Node, b: &Node| a.id == b.id || (a.link == b.link && !a.alone && !b.alone);
        let group = |a| running().filter(|b| reaches(a, b)).map(|b| b.id).collect();
        running().map(group).collect()
    }

    /// Whether these nodes are already one membership. A restart that the others have not noticed
    /// does not change a membership.
    fn is_formed(&self, group: &[u32]) -> bool {
        let first = self.node(group[0]);
        let there = |id: &u32| {
            let node = self.node(*id);
            let restarted = node.alone && node.unnoticed == Some(first.ring);
            group.contains(id)
                || (restarted && node.daemon == Daemon::Running && node.link == first.link)
        };
        group.iter().all(|id| self.node(*id).ring == first.ring) && first.members.iter().all(there)
    }

    fn form(&mut self, group: &[u32]) {
        self.rings += 1;
        let ring = self.rings;
        for id in group {
            let node = self.node_mut(*id);
            node.ring = ring;
            node.members = group.to_vec();
            node.decided = false;
            node.reported = true;
        }
    }

    fn decide(&mut self, group: &[u32]) {
        if !self.provider {
            return;
        }
        // Includes the nodes whose restart was not noticed.
        let members = self.node(group[0]).members.clone();
        let seen_all =
            members.len() == self.nodes.len() || group.iter().any(|id| self.node(*id).seen_all);
        let quorate = seen_all && self.has_votes(&members);
        let waits_for_all = self.waits_for_all;
        for id in group {
            let node = self.node_mut(*id);
            node.reported |= (node.quorate, node.decided) != (quorate, true);
            node.broke |= node.quorate && !quorate;
            node.quorate = quorate;
            node.decided = true;
            // A node that has lost quorum waits for all nodes again.
            node.seen_all = !waits_for_all || quorate;
        }
    }

    /// Whether these are more than half of the nodes, with one vote each; with `two_node` one of
    /// two is enough.
    fn has_votes(&self, group: &[u32]) -> bool {
        2 * group.len() > self.nodes.len() || (self.two_node && self.nodes.len() == 2)
    }
}
