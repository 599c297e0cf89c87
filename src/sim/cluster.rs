use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use super::{
    clients::{Clients, Fault, Faults, State},
    error::Error,
    node::Node,
    totem::Timeouts,
    world::{Daemon, World},
};
use crate::libquorum::NodeId;

/// A simulated cluster. A clone is the same cluster.
///
/// Its nodes have the ids `1..=size`, are called `n1` and so on, have one vote each, and their
/// daemons run. What a verb does is
/// done when it returns; the actors on the nodes that it concerns are told as soon as they look.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub(super) state: Arc<Mutex<State>>,
    /// Moves on whenever a connection attempt that waits may succeed.
    pub(super) changed: Arc<watch::Sender<()>>,
    /// What its time is counted from.
    pub(super) made_at: Instant,
}

/// How many nodes a cluster can have (`PROCESSOR_COUNT_MAX`).
pub(super) const MAX_NODES: u32 = 384;

impl Cluster {
    /// A cluster of this many nodes that has formed and is quorate.
    ///
    /// # Panics
    ///
    /// If `size` is not 1 to 384, which is what Corosync can have.
    #[track_caller]
    pub fn new(size: u32) -> Self {
        assert!(
            (1..=MAX_NODES).contains(&size),
            "a cluster has 1 to {MAX_NODES} nodes, got {size}"
        );
        let world = World::new(size);
        let nodes = (1..=size).map(|id| (NodeId(id), Clients::default())).collect();
        let state = Arc::new(Mutex::new(State { world, nodes }));
        Self { state, changed: Arc::new(watch::Sender::new(())), made_at: Instant::now() }
    }

    /// With `two_node: 1` in the section `quorum`: of two nodes either alone is quorate, once both
    /// have been seen. Corosync turns `wait_for_all` on with it, and so does this.
    pub fn two_node(self, two_node: bool) -> Self {
        self.change(|world| world.configure_two_node(two_node));
        self
    }

    /// With `wait_for_all: 1` in the section `quorum`: a node that starts, or loses quorum, is not
    /// quorate until it sees all nodes at once, or somebody who is quorate.
    pub fn wait_for_all(self, wait_for_all: bool) -> Self {
        self.change(|world| world.configure_wait_for_all(wait_for_all));
        self
    }

    /// With `auto_tie_breaker: 1` in the section `quorum`: of two halves the one with the lowest node
    /// is quorate. As Corosync does, this ignores it for an odd number of nodes without
    /// [`wait_for_all`](Self::wait_for_all).
    pub fn auto_tie_breaker(self, auto_tie_breaker: bool) -> Self {
        self.change(|world| world.configure_auto_tie_breaker(auto_tie_breaker));
        self
    }

    /// With `last_man_standing: 1` and this `last_man_standing_window` in the section `quorum`: once the
    /// window has passed after nodes have left a quorate partition, no more votes are expected than it
    /// has. Turns `wait_for_all` on, too.
    pub fn last_man_standing(self, window: Duration) -> Self {
        self.change(|world| world.configure_last_man_standing(window));
        self
    }

    /// With a quorum device that has this many votes: one with the algorithm `ffsplit`, one less than
    /// there are nodes with `lms`. It gives them to the largest partition that reaches it, of several to
    /// the one with the lowest node, as soon as a ring forms.
    pub fn quorum_device(self, votes: u32) -> Self {
        self.change(|world| world.configure_device(votes));
        self
    }

    /// Has rings end and form in time, as with this `token` and `consensus` in the section `totem`: who
    /// has not seen the token for the one leaves its ring, and who has waited for the other forms one
    /// without those that are silent. By tokio's clock, which a test may pause. Without this a ring
    /// forms at once, and the daemons say that the timeouts are 1 s and 1.2 s.
    pub fn timeouts(self, token: Duration, consensus: Duration) -> Self {
        self.change(|world| world.totem.timeouts = Some(Timeouts { token, consensus }));
        self
    }

    /// The node with this id, as a source for an actor.
    ///
    /// # Panics
    ///
    /// If there is no such node.
    #[track_caller]
    pub fn node(&self, id: u32) -> Node {
        match self.check(id) {
            Ok(id) => Node::new(self.clone(), id),
            Err(error) => panic!("{error}"),
        }
    }

    /// The ids of all nodes, ascending.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.state.lock().world.nodes.iter().map(|node| node.id).collect()
    }

    /// Cuts the cluster into groups that do not hear each other.
    ///
    /// # Errors
    ///
    /// If a node is unknown, in two groups or in none.
    pub fn partition(&self, groups: &[&[u32]]) -> Result<(), Error> {
        let mut group_of = HashMap::new();
        for (index, group) in groups.iter().enumerate() {
            for id in *group {
                let id = self.check(*id)?;
                if group_of.insert(id, index).is_some() {
                    return Err(Error::Overlap(id));
                }
            }
        }
        if let Some(id) = self.nodes().into_iter().find(|id| !group_of.contains_key(id)) {
            return Err(Error::LeftOut(id));
        }
        self.change(|world| world.link(|id| group_of[&id]));
        Ok(())
    }

    /// Lets all nodes hear each other again, and the quorum device: ends partitions and losses.
    pub fn heal(&self) {
        self.change(World::heal);
    }

    /// Loses all that a node sends to the others. It hears them, so it leaves its ring and forms none:
    /// its daemon goes on answering with what it knew.
    ///
    /// # Errors
    ///
    /// If there is no such node.
    pub fn lose_sends(&self, id: u32) -> Result<(), Error> {
        let id = self.check(id)?;
        self.lose(self.nodes().into_iter().map(|peer| (id, peer)).collect());
        Ok(())
    }

    /// Loses all that is sent to a node. It forms a ring alone. (Those who hear it on a real cluster leave
    /// their ring, and form it anew, again and again.)
    ///
    /// # Errors
    ///
    /// If there is no such node.
    pub fn lose_receives(&self, id: u32) -> Result<(), Error> {
        let id = self.check(id)?;
        self.lose(self.nodes().into_iter().map(|peer| (peer, id)).collect());
        Ok(())
    }

    /// Loses what a node sends to one peer. The peer's packets still arrive.
    ///
    /// # Errors
    ///
    /// If there is no such node.
    pub fn lose_sends_to(&self, id: u32, peer: u32) -> Result<(), Error> {
        let loss = (self.check(id)?, self.check(peer)?);
        self.lose(vec![loss]);
        Ok(())
    }

    /// Loses what two nodes send to each other. If a third one hears both, rings form again and again,
    /// and none of them is announced.
    ///
    /// # Errors
    ///
    /// If there is no such node.
    pub fn lose_link(&self, id: u32, peer: u32) -> Result<(), Error> {
        let (id, peer) = (self.check(id)?, self.check(peer)?);
        self.lose(vec![(id, peer), (peer, id)]);
        Ok(())
    }

    fn lose(&self, mut losses: Vec<(NodeId, NodeId)>) {
        losses.retain(|(from, to)| from != to);
        self.change(|world| world.lose(losses));
    }

    /// Lets no ring form: nodes that lose theirs stay in totem's GATHER state, and tell nobody.
    pub fn hold_rings(&self) {
        self.change(|world| world.hold_rings(true));
    }

    /// Lets rings form again.
    pub fn release_rings(&self) {
        self.change(|world| world.hold_rings(false));
    }

    /// Ends the quorum device's server. Its votes are gone.
    pub fn stop_quorum_device(&self) {
        self.change(|world| world.set_device(false, |_| false));
    }

    /// Starts the quorum device's server again.
    pub fn start_quorum_device(&self) {
        self.change(|world| world.set_device(true, |_| false));
    }

    /// Cuts these nodes off from the quorum device, and no others.
    ///
    /// # Errors
    ///
    /// If there is no such node.
    pub fn cut_quorum_device(&self, ids: &[u32]) -> Result<(), Error> {
        let ids = self.check_all(ids)?;
        self.change(|world| world.set_device(world.device_runs(), |id| ids.contains(&id)));
        Ok(())
    }

    /// Kills a node's daemon (`SIGKILL`). Its clients lose their connections, and what was waiting
    /// in them.
    ///
    /// # Errors
    ///
    /// If there is no such node, or its daemon is down.
    pub fn crash(&self, id: u32) -> Result<(), Error> {
        self.end(id, |world, id| world.set_daemons(&[id], Daemon::Down))
    }

    /// Stops a node's daemon in order (`SIGTERM`). It says good-bye to the others, so that with
    /// [`timeouts`](Self::timeouts) they do not wait for it.
    ///
    /// # Errors
    ///
    /// As [`crash`](Self::crash).
    pub fn stop(&self, id: u32) -> Result<(), Error> {
        self.end(id, World::say_goodbye)
    }

    fn end(&self, id: u32, end: impl FnOnce(&mut World, NodeId)) -> Result<(), Error> {
        let id = self.expect(id, &[Daemon::Running, Daemon::Paused])?;
        self.change_all(|state| {
            state.disconnect(id);
            end(&mut state.world, id);
        });
        Ok(())
    }

    /// Starts a node's daemon.
    ///
    /// As a real one it takes clients before it has found the others: it is alone, and inquorate,
    /// until each actor that was given this node has connected and been told so.
    ///
    /// # Errors
    ///
    /// If there is no such node, or its daemon runs.
    pub fn start(&self, id: u32) -> Result<(), Error> {
        let id = self.expect(id, &[Daemon::Down])?;
        self.change_all(|state| state.start(id, false));
        Ok(())
    }

    /// Kills a node's daemon and starts it at once, before the others notice: to them it has joined
    /// and left in one.
    ///
    /// # Errors
    ///
    /// As [`crash`](Self::crash).
    pub fn restart(&self, id: u32) -> Result<(), Error> {
        let id = self.expect(id, &[Daemon::Running, Daemon::Paused])?;
        self.change_all(|state| {
            state.disconnect(id);
            state.start(id, true);
        });
        Ok(())
    }

    /// Stops a node's daemon where it is (`SIGSTOP`), as if it hung. Its clients are told nothing,
    /// and connecting to it waits. The others go on without it.
    ///
    /// # Errors
    ///
    /// If there is no such node, or its daemon does not run.
    pub fn pause(&self, id: u32) -> Result<(), Error> {
        self.pause_all(&[id])
    }

    /// Pauses several daemons at the same moment.
    ///
    /// # Errors
    ///
    /// As [`pause`](Self::pause), for any of them; then none is paused.
    pub fn pause_all(&self, ids: &[u32]) -> Result<(), Error> {
        let ids = self.expect_all(ids, &[Daemon::Running])?;
        self.change(|world| world.set_daemons(&ids, Daemon::Paused));
        Ok(())
    }

    /// Lets a paused daemon go on. Its clients are told that everybody else left and joined.
    ///
    /// # Errors
    ///
    /// If there is no such node, or it is not paused.
    pub fn resume(&self, id: u32) -> Result<(), Error> {
        self.resume_all(&[id])
    }

    /// Lets several paused daemons go on at the same moment.
    ///
    /// # Errors
    ///
    /// As [`resume`](Self::resume), for any of them; then none goes on.
    pub fn resume_all(&self, ids: &[u32]) -> Result<(), Error> {
        let ids = self.expect_all(ids, &[Daemon::Paused])?;
        self.change(|world| world.set_daemons(&ids, Daemon::Running));
        // Those they were alone for may be gone.
        ids.into_iter().for_each(|id| self.drained(id));
        Ok(())
    }

    /// Sets the expected votes (the cmap key `quorum.expected_votes`) on every node whose daemon
    /// runs: quorum can flip by it with no change of membership. Ends with the daemon, and with a
    /// [`reload`](Self::reload).
    ///
    /// # Errors
    ///
    /// If it is zero.
    pub fn expected_votes(&self, votes: u32) -> Result<(), Error> {
        if votes == 0 {
            return Err(Error::ExpectedVotes(votes));
        }
        self.change(|world| world.set_expected_votes(votes));
        Ok(())
    }

    /// Sets a node's votes (`quorum_votes` in its entry of the nodelist), and reloads.
    ///
    /// # Errors
    ///
    /// If there is no such node.
    pub fn votes(&self, id: u32, votes: u32) -> Result<(), Error> {
        let id = self.check(id)?;
        self.change(|world| world.set_votes(id, votes));
        Ok(())
    }

    /// Reloads the configuration (`corosync-cfgtool -R`) on every node whose daemon runs, with
    /// nodes `1..=size` in the nodelist. Their votes are expected from then on, whether or not they
    /// run: new ones are down until they are [started](Self::start).
    ///
    /// With the size that the cluster has it ends what was set at run time, and no more.
    ///
    /// # Errors
    ///
    /// If `size` is not 1 to 384, or the daemon of a node that is not listed any more runs.
    pub fn reload(&self, size: u32) -> Result<(), Error> {
        if !(1..=MAX_NODES).contains(&size) {
            return Err(Error::Size(size));
        }
        for id in self.nodes().into_iter().filter(|id| id.0 > size) {
            self.expect(id.0, &[Daemon::Down])?;
        }
        self.change(|world| world.set_nodelist(size));
        Ok(())
    }

    /// Whether a quorum provider is configured. Without one Corosync calls every node quorate,
    /// which the actor refuses. Holds for connections made from now on.
    pub fn provider(&self, provider: bool) {
        self.change(|world| world.provider = provider);
    }

    /// Keeps quorum decisions back: memberships are told, what they mean for quorum is not, as
    /// while a quorum device takes its time.
    pub fn hold_sync(&self) {
        self.change(|world| world.hold_sync(true));
    }

    /// Makes the decisions that were kept back.
    pub fn release_sync(&self) {
        self.change(|world| world.hold_sync(false));
    }

    /// Has something go wrong between a node's daemon and its clients, until [`mend`](Self::mend).
    ///
    /// # Errors
    ///
    /// If there is no such node.
    pub fn fault(&self, id: u32, fault: Fault) -> Result<(), Error> {
        let id = self.check(id)?;
        self.change_all(|state| {
            let clients = state.clients(id);
            match fault {
                Fault::Connect(code) => clients.faults.connect = Some(code),
                Fault::TrackStart(code) => clients.faults.track_start = Some(code),
                Fault::ServerUid(uid) => clients.faults.server_uid = uid,
                Fault::SilentDeath => clients.faults.silent = true,
                Fault::Dispatch(code) => {
                    clients.connected.drain(..).for_each(|client| client.fail(code));
                }
            }
        });
        Ok(())
    }

    /// Ends all faults of a node.
    ///
    /// # Errors
    ///
    /// If there is no such node.
    pub fn mend(&self, id: u32) -> Result<(), Error> {
        let id = self.check(id)?;
        self.change_all(|state| state.clients(id).faults = Faults::default());
        Ok(())
    }

    fn check(&self, id: u32) -> Result<NodeId, Error> {
        let state = self.state.lock();
        match state.world.node(NodeId(id)) {
            Some(node) => Ok(node.id),
            None => {
                let size = state.world.nodes.last().map_or(0, |node| node.id.0);
                Err(Error::NoNode { node: NodeId(id), size })
            }
        }
    }

    fn check_all(&self, ids: &[u32]) -> Result<Vec<NodeId>, Error> {
        ids.iter().map(|id| self.check(*id)).collect()
    }

    fn expect_all(&self, ids: &[u32], wanted: &[Daemon]) -> Result<Vec<NodeId>, Error> {
        ids.iter().map(|id| self.expect(*id, wanted)).collect()
    }

    /// Checks that a node's daemon is in one of these states.
    fn expect(&self, id: u32, wanted: &[Daemon]) -> Result<NodeId, Error> {
        let node = self.check(id)?;
        let daemon = self.state.lock().world.node(node).map(|node| node.daemon);
        let (state, help) = match daemon {
            Some(daemon) if wanted.contains(&daemon) => return Ok(node),
            Some(Daemon::Running) => ("running", "crash or stop it first, or restart it"),
            Some(Daemon::Paused) => ("paused", "resume it first"),
            Some(Daemon::Down) | None => ("down", "start it first"),
        };
        Err(Error::State { node, state, help })
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut World)) {
        self.change_all(|state| change(&mut state.world));
    }

    /// Changes something, and tells whom it concerns.
    pub(super) fn change_all(&self, change: impl FnOnce(&mut State)) {
        {
            let mut state = self.state.lock();
            state.world.advance(self.made_at.elapsed());
            change(&mut state);
            state.tell();
        }
        self.changed.send_replace(());
    }
}
