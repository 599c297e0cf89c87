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

/// A simulated cluster. Clones refer to the same cluster.
///
/// Its nodes have the ids `1..=size`, the names `n1` and so on, and one vote each. At first, all
/// daemons are running. Without [`timeouts`](Self::timeouts), a method has had its full effect on
/// the cluster when it returns. The actors on the affected nodes receive the notifications when
/// they next run.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub(super) state: Arc<Mutex<State>>,
    /// Changes whenever a waiting connection attempt may succeed.
    pub(super) changed: Arc<watch::Sender<()>>,
    /// The beginning of the cluster's time.
    pub(super) made_at: Instant,
}

/// The largest number of nodes (`PROCESSOR_COUNT_MAX`).
pub(super) const MAX_NODES: u32 = 384;

impl Cluster {
    /// Creates a cluster of this many nodes that has formed and is quorate.
    ///
    /// # Panics
    ///
    /// Panics if `size` is not 1 to 384, the limits of Corosync.
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

    /// Sets `two_node: 1` in the `quorum` section: each of the two nodes is quorate on its own,
    /// once it has seen the other one. As in Corosync, this also turns on `wait_for_all`.
    pub fn two_node(self, two_node: bool) -> Self {
        self.change(|world| world.configure_two_node(two_node));
        self
    }

    /// Sets `wait_for_all: 1` in the `quorum` section: a node that has started, or has lost quorum,
    /// is not quorate until it sees all nodes at the same time, or a quorate node.
    pub fn wait_for_all(self, wait_for_all: bool) -> Self {
        self.change(|world| world.configure_wait_for_all(wait_for_all));
        self
    }

    /// Sets `auto_tie_breaker: 1` in the `quorum` section: of two halves, the one with the lowest
    /// node is quorate. As in Corosync, this is ignored for an odd number of nodes without
    /// [`wait_for_all`](Self::wait_for_all).
    pub fn auto_tie_breaker(self, auto_tie_breaker: bool) -> Self {
        self.change(|world| world.configure_auto_tie_breaker(auto_tie_breaker));
        self
    }

    /// Sets `last_man_standing: 1` and this `last_man_standing_window` in the `quorum` section:
    /// when the window has passed after nodes left a quorate partition, the expected votes are
    /// reduced to the votes of the partition. As in Corosync, this also turns on `wait_for_all`.
    pub fn last_man_standing(self, window: Duration) -> Self {
        self.change(|world| world.configure_last_man_standing(window));
        self
    }

    /// Adds a quorum device with this many votes. Pass 1 to simulate the algorithm `ffsplit`, or
    /// the number of nodes minus 1 to simulate `lms`. As soon as a ring forms, the device gives its
    /// votes to the largest partition that reaches the device. Among equally large partitions, the
    /// one with the lowest node gets the votes.
    pub fn quorum_device(self, votes: u32) -> Self {
        self.change(|world| world.configure_device(votes));
        self
    }

    /// Sets `token` and `consensus` in the section `totem`, so that rings take time to end and to
    /// form: a node that has not seen the token for `token` leaves its ring, and a node that has
    /// waited for `consensus` forms a ring without the silent nodes. Time is measured by tokio's
    /// clock, which a test can pause. Without this, a ring forms immediately, and the daemons
    /// report timeouts of 1 s and 1.2 s.
    pub fn timeouts(self, token: Duration, consensus: Duration) -> Self {
        self.change(|world| world.totem.timeouts = Some(Timeouts { token, consensus }));
        self
    }

    /// Returns the node with this id, as a source for an actor.
    ///
    /// # Panics
    ///
    /// Panics if the node does not exist.
    #[track_caller]
    pub fn node(&self, id: u32) -> Node {
        match self.check(id) {
            Ok(id) => Node::new(self.clone(), id),
            Err(error) => panic!("{error}"),
        }
    }

    /// Returns the ids of all nodes, ascending.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.state.lock().world.nodes.iter().map(|node| node.id).collect()
    }

    /// Splits the cluster into groups that cannot reach each other.
    ///
    /// # Errors
    ///
    /// If a node does not exist, is listed more than once, or is in no group.
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

    /// Ends all partitions and losses: all nodes reach each other and the quorum device.
    pub fn heal(&self) {
        self.change(World::heal);
    }

    /// Loses all packets that a node sends to the others. The node still receives theirs, so it
    /// leaves its ring and forms no other: its daemon still answers with its old state.
    ///
    /// # Errors
    ///
    /// If the node does not exist.
    pub fn lose_sends(&self, id: u32) -> Result<(), Error> {
        let id = self.check(id)?;
        self.lose(self.nodes().into_iter().map(|peer| (id, peer)).collect());
        Ok(())
    }

    /// Loses all packets that are sent to a node, which then forms a ring alone. (In a real
    /// cluster, the nodes that receive its packets leave their ring and form it again, repeatedly.)
    ///
    /// # Errors
    ///
    /// If the node does not exist.
    pub fn lose_receives(&self, id: u32) -> Result<(), Error> {
        let id = self.check(id)?;
        self.lose(self.nodes().into_iter().map(|peer| (peer, id)).collect());
        Ok(())
    }

    /// Loses the packets that a node sends to one peer. The peer's packets still arrive.
    ///
    /// # Errors
    ///
    /// If a node does not exist.
    pub fn lose_sends_to(&self, id: u32, peer: u32) -> Result<(), Error> {
        let loss = (self.check(id)?, self.check(peer)?);
        self.lose(vec![loss]);
        Ok(())
    }

    /// Loses the packets between two nodes. If a third node reaches both, rings form repeatedly,
    /// and none of them is announced.
    ///
    /// # Errors
    ///
    /// If a node does not exist.
    pub fn lose_link(&self, id: u32, peer: u32) -> Result<(), Error> {
        let (id, peer) = (self.check(id)?, self.check(peer)?);
        self.lose(vec![(id, peer), (peer, id)]);
        Ok(())
    }

    fn lose(&self, mut losses: Vec<(NodeId, NodeId)>) {
        losses.retain(|(from, to)| from != to);
        self.change(|world| world.lose(losses));
    }

    /// Prevents rings from forming: nodes that lose their ring stay in totem's GATHER state and
    /// send no notification.
    pub fn hold_rings(&self) {
        self.change(|world| world.hold_rings(true));
    }

    /// Allows rings to form again.
    pub fn release_rings(&self) {
        self.change(|world| world.hold_rings(false));
    }

    /// Stops the quorum device's server. Its votes are lost.
    pub fn stop_quorum_device(&self) {
        self.change(|world| world.set_device(false, |_| false));
    }

    /// Starts the quorum device's server again. All nodes can reach it, even those that were
    /// [separated](Self::cut_quorum_device) from it.
    pub fn start_quorum_device(&self) {
        self.change(|world| world.set_device(true, |_| false));
    }

    /// Separates these nodes, and only these, from the quorum device.
    ///
    /// # Errors
    ///
    /// If a node does not exist.
    pub fn cut_quorum_device(&self, ids: &[u32]) -> Result<(), Error> {
        let ids = self.check_all(ids)?;
        self.change(|world| world.set_device(world.device_runs(), |id| ids.contains(&id)));
        Ok(())
    }

    /// Kills a node's daemon (`SIGKILL`). Its clients lose their connections and the messages that
    /// are waiting in them.
    ///
    /// # Errors
    ///
    /// If the node does not exist, or its daemon is down.
    pub fn crash(&self, id: u32) -> Result<(), Error> {
        self.end(id, |world, id| world.set_daemons(&[id], Daemon::Down))
    }

    /// Stops a node's daemon, as `systemctl stop corosync` does. The daemon first sends a leave
    /// message to the other nodes, so that with [`timeouts`](Self::timeouts) they do not wait for
    /// it.
    ///
    /// # Errors
    ///
    /// The errors of [`crash`](Self::crash).
    pub fn stop(&self, id: u32) -> Result<(), Error> {
        self.end(id, World::leave)
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
    /// Like a real daemon, it accepts clients before it has found the other nodes. It stays alone,
    /// and usually inquorate, until each actor whose source is this node has connected and received
    /// that state.
    ///
    /// # Errors
    ///
    /// If the node does not exist, or its daemon is not down.
    pub fn start(&self, id: u32) -> Result<(), Error> {
        let id = self.expect(id, &[Daemon::Down])?;
        self.change_all(|state| state.start(id, false));
        Ok(())
    }

    /// Kills a node's daemon and starts it again before the other nodes notice: they are notified
    /// in a single change that it left and joined.
    ///
    /// # Errors
    ///
    /// The errors of [`crash`](Self::crash).
    pub fn restart(&self, id: u32) -> Result<(), Error> {
        let id = self.expect(id, &[Daemon::Running, Daemon::Paused])?;
        self.change_all(|state| {
            state.disconnect(id);
            state.start(id, true);
        });
        Ok(())
    }

    /// Suspends a node's daemon (`SIGSTOP`), as if it were hung. Its clients receive nothing, and
    /// new connections to it wait. The other nodes continue without it.
    ///
    /// # Errors
    ///
    /// If the node does not exist, or its daemon is not running.
    pub fn pause(&self, id: u32) -> Result<(), Error> {
        self.pause_all(&[id])
    }

    /// Pauses several daemons at the same moment.
    ///
    /// # Errors
    ///
    /// The errors of [`pause`](Self::pause), for any of the nodes; then none is paused.
    pub fn pause_all(&self, ids: &[u32]) -> Result<(), Error> {
        let ids = self.expect_all(ids, &[Daemon::Running])?;
        self.change(|world| world.set_daemons(&ids, Daemon::Paused));
        Ok(())
    }

    /// Resumes a paused daemon. If other nodes have continued without the daemon, its clients are
    /// notified that those nodes left and joined.
    ///
    /// # Errors
    ///
    /// If the node does not exist, or is not paused.
    pub fn resume(&self, id: u32) -> Result<(), Error> {
        self.resume_all(&[id])
    }

    /// Resumes several paused daemons at the same moment.
    ///
    /// # Errors
    ///
    /// The errors of [`resume`](Self::resume), for any of the nodes; then none is resumed.
    pub fn resume_all(&self, ids: &[u32]) -> Result<(), Error> {
        let ids = self.expect_all(ids, &[Daemon::Paused])?;
        self.change(|world| world.set_daemons(&ids, Daemon::Running));
        // A client for which a resumed daemon has stayed alone may have ended.
        ids.into_iter().for_each(|id| self.drained(id));
        Ok(())
    }

    /// Sets the expected votes (the cmap key `quorum.expected_votes`) on every node whose daemon is
    /// running. This can change quorum without a change of membership. The setting ends with the
    /// daemon, and with a [`reload`](Self::reload).
    ///
    /// # Errors
    ///
    /// If `votes` is zero.
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
    /// If the node does not exist.
    pub fn votes(&self, id: u32, votes: u32) -> Result<(), Error> {
        let id = self.check(id)?;
        self.change(|world| world.set_votes(id, votes));
        Ok(())
    }

    /// Reloads the configuration (`corosync-cfgtool -R`) on every node whose daemon is running,
    /// with the nodes `1..=size` in the nodelist. The votes of these nodes are expected from then
    /// on, even if their daemons are down. New nodes are down until they are
    /// [started](Self::start).
    ///
    /// With the current size, it only ends the settings that were made at run time.
    ///
    /// # Errors
    ///
    /// If `size` is not 1 to 384, or the daemon of a node that is no longer listed is not down.
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

    /// Sets whether a quorum provider is configured. Without one, Corosync reports every node as
    /// quorate, and the actor refuses to connect unless
    /// [`require_provider(false)`](crate::QuorumBuilder::require_provider) is set. Affects
    /// connections made from now on.
    pub fn provider(&self, provider: bool) {
        self.change(|world| world.provider = provider);
    }

    /// Delays quorum decisions: memberships are reported, but decisions about them are not, as
    /// happens while a slow quorum device is deciding.
    pub fn hold_sync(&self) {
        self.change(|world| world.hold_sync(true));
    }

    /// Makes the delayed decisions.
    pub fn release_sync(&self) {
        self.change(|world| world.hold_sync(false));
    }

    /// Causes a fault between a node's daemon and its clients. It lasts until [`mend`](Self::mend),
    /// except for [`Fault::Dispatch`], which happens once.
    ///
    /// # Errors
    ///
    /// If the node does not exist.
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
    /// If the node does not exist.
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
            Some(Daemon::Running) => {
                let help = "crash or stop it before `start` or a `reload` without it, or pause it \
                            before `resume`";
                ("running", help)
            }
            Some(Daemon::Paused) => {
                let help = "crash or stop it before `start` or a `reload` without it, or resume it \
                            before `pause`";
                ("paused", help)
            }
            Some(Daemon::Down) | None => ("down", "start it first"),
        };
        Err(Error::State { node, state, help })
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut World)) {
        self.change_all(|state| change(&mut state.world));
    }

    /// Changes the state and delivers the resulting notifications.
    pub(super) fn change_all(&self, change: impl FnOnce(&mut State)) {
        {
            let mut state = self.state.lock();
            state.world.advance(self.made_at.elapsed());
            change(&mut state);
            state.deliver();
        }
        self.changed.send_replace(());
    }
}
