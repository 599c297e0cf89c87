//! Who may say that there is quorum, by the rules of votequorum, written down as plainly as they
//! are said: it knows no notifications, no connections and no ring ids.

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
    /// A number for the membership that it is in; no two have the same.
    ring: u64,
    /// Who is in it.
    pub(crate) members: Vec<u32>,
    /// What it tells its clients about quorum.
    pub(crate) quorate: bool,
    /// Whether that is about this membership.
    pub(crate) decided: bool,
    /// Whether it or somebody it has met has seen all nodes, since it started.
    seen_all: bool,
    /// Who has been with it through every ring since the last decision.
    companions: BTreeSet<u32>,
    /// How many actors watch it.
    pub(crate) actors: usize,
    /// It has started, and finds the others once its actors have seen it alone.
    pub(crate) alone: bool,
    /// The ring whose members have not noticed yet that it restarted.
    unnoticed: Option<u64>,
    faults: Faults,

    /// Whether it has told anything since this was last taken back.
    pub(crate) told: bool,
    /// Whether quorum was lost, or may have been, in what it has told.
    pub(crate) broke: bool,
    /// Whether its connections ended.
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

/// Why a verb has to be refused.
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
            companions: all.iter().copied().collect(),
            quorate: history.provider,
            decided: true,
            seen_all: true,
            actors: history.actors.iter().filter(|actor| *actor == id).count(),
            alone: false,
            unnoticed: None,
            faults: Faults::default(),
            told: false,
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

    /// What a client that connects to a node is refused with.
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

    /// What a verb does to the cluster.
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
                // Who is restarted again, before anybody noticed the first time, is still not.
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
                // Those it was alone for may be gone.
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

    /// Takes back what the nodes have told since the last time.
    pub(crate) fn take_back(&mut self) {
        for node in &mut self.nodes {
            (node.told, node.broke, node.hung_up) = (false, false, false);
        }
    }

    /// All actors have done what there was to do: who waited for them finds the others. How many
    /// that were.
    pub(crate) fn settle(&mut self) -> usize {
        let mut found = 0;
        for node in self.nodes.iter_mut().filter(|node| node.daemon == Daemon::Running) {
            found += usize::from(std::mem::take(&mut node.alone));
        }
        self.update();
        found
    }

    pub(crate) fn anybody_alone(&self) -> bool {
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

    /// A daemon starts on a ring of its own, and decides for itself.
    fn start(&mut self, id: u32) {
        self.rings += 1;
        let (ring, waits_for_all) = (self.rings, self.waits_for_all);
        let node = self.node_mut(id);
        node.daemon = Daemon::Running;
        node.alone = node.actors > 0;
        node.ring = ring;
        node.members = vec![id];
        node.seen_all = !waits_for_all;
        node.told = true;
        self.decide(&[id]);
    }

    /// Has those who can hear each other be in one membership, and decide about quorum.
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

    /// Who can hear each other.
    fn groups(&self) -> BTreeSet<Vec<u32>> {
        let running = || self.nodes.iter().filter(|node| node.daemon == Daemon::Running);
        let hears = |a: &Node, b: &Node| a.id == b.id || (a.link == b.link && !a.alone && !b.alone);
        let group = |a| running().filter(|b| hears(a, b)).map(|b| b.id).collect();
        running().map(group).collect()
    }

    /// Whether these are in one membership, as far as they have noticed.
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
        let before: Vec<(u32, u64)> = group.iter().map(|id| (*id, self.node(*id).ring)).collect();
        for (id, old) in &before {
            let ring = self.rings;
            let along = before.iter().filter(|(_, other)| other == old).map(|(id, _)| *id);
            let along: BTreeSet<u32> = along.collect();
            let node = self.node_mut(*id);
            node.companions = &node.companions & &along;
            let others = self.nodes.len() - self.node(*id).companions.len();
            // A vote each: the others may have been quorate without this node.
            let may_be = if self.two_node && self.nodes.len() == 2 {
                others > 0
            } else {
                2 * others > self.nodes.len()
            };
            let node = self.node_mut(*id);
            node.broke |= node.quorate && may_be;
            node.ring = ring;
            node.members = group.to_vec();
            node.decided = false;
            node.told = true;
        }
    }

    fn decide(&mut self, group: &[u32]) {
        if !self.provider {
            return;
        }
        // With those who restarted unnoticed.
        let members = self.node(group[0]).members.clone();
        let seen_all =
            members.len() == self.nodes.len() || group.iter().any(|id| self.node(*id).seen_all);
        let quorate = seen_all && self.has_votes(&members);
        let waits_for_all = self.waits_for_all;
        for id in group {
            let node = self.node_mut(*id);
            node.told |= (node.quorate, node.decided) != (quorate, true);
            node.broke |= node.quorate && !quorate;
            node.quorate = quorate;
            node.decided = true;
            node.companions = members.iter().copied().collect();
            // Who has lost quorum waits for all again.
            node.seen_all = !waits_for_all || quorate;
        }
    }

    /// More than half of the nodes, of one vote each; one of two is enough with `two_node`.
    fn has_votes(&self, group: &[u32]) -> bool {
        2 * group.len() > self.nodes.len() || (self.two_node && self.nodes.len() == 2)
    }
}
