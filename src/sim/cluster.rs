use std::{
    collections::HashMap,
    fmt,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::{Either, select};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use super::{
    connection::{Client, Simulated},
    error::Error,
    totem::Timeouts,
    world::{Daemon, World},
};
use crate::{
    Code,
    connection::sealed,
    connector::Connector,
    lease::{Clock, Moment},
    libquorum::{NodeId, Server},
    probe::{Answer, Asking, Probe},
    ring_watch::RingWatch,
    state::{RingReading, RingUpdate},
    worker::Pending,
};

/// A simulated cluster. A clone is the same cluster.
///
/// Its nodes have the ids `1..=size`, are called `n1` and so on, have one vote each, and their
/// daemons run. What a verb does is
/// done when it returns; the actors on the nodes that it concerns are told as soon as they look.
#[derive(Clone, Debug)]
pub struct Cluster {
    state: Arc<Mutex<State>>,
    /// Moves on whenever a connection attempt that waits may succeed.
    changed: Arc<watch::Sender<()>>,
    /// What its time is counted from.
    made_at: Instant,
}

#[derive(Debug)]
struct State {
    world: World,
    nodes: HashMap<NodeId, Clients>,
}

/// Who is connected to a node, and how that goes wrong.
#[derive(Debug, Default)]
struct Clients {
    connected: Vec<Client>,
    /// How many sources there are whose actor may connect.
    sources: usize,
    faults: Faults,
}

#[derive(Debug, Default)]
struct Faults {
    connect: Option<Code>,
    track_start: Option<Code>,
    server_uid: u32,
    silent: bool,
}

/// Something that goes wrong between a node's daemon and its clients.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// Connecting fails with this code.
    Connect(Code),
    /// `quorum_trackstart` fails with this code.
    TrackStart(Code),
    /// `quorum_dispatch` fails with this code, once, on each connection that there is.
    Dispatch(Code),
    /// The server is run by this user. Connections that there are keep what they know.
    ServerUid(u32),
    /// When the daemon dies the descriptor does not tell, as with `qb_ipc_type: socket`.
    SilentDeath,
}

/// What the daemons say of rings that form at once.
const TIMEOUTS: Timeouts =
    Timeouts { token: Duration::from_millis(1000), consensus: Duration::from_millis(1200) };

/// How often the token comes then.
const TOKEN_HOLD: Duration = Duration::from_millis(10);

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

    fn change(&self, change: impl FnOnce(&mut World)) {
        self.change_all(|state| change(&mut state.world));
    }

    /// Changes something, and tells whom it concerns.
    fn change_all(&self, change: impl FnOnce(&mut State)) {
        {
            let mut state = self.state.lock();
            state.world.advance(self.made_at.elapsed());
            change(&mut state);
            state.tell();
        }
        self.changed.send_replace(());
    }

    /// Lets time have its effect for as long as the cluster is there.
    async fn drive(self) {
        let (state, sender, made_at) =
            (Arc::downgrade(&self.state), Arc::downgrade(&self.changed), self.made_at);
        let mut changed = self.changed.subscribe();
        drop(self);
        loop {
            let next = match state.upgrade() {
                Some(state) => state.lock().world.totem.next_due(),
                None => return,
            };
            let due = async {
                match next {
                    Some(due) => tokio::time::sleep_until(made_at + due).await,
                    None => std::future::pending().await,
                }
            };
            match select(pin!(due), pin!(changed.changed())).await {
                Either::Right((Ok(()), _)) => {}
                Either::Right((Err(_), _)) => return,
                Either::Left(_) => {
                    let (Some(state), Some(changed)) = (state.upgrade(), sender.upgrade()) else {
                        return;
                    };
                    Self { state, changed, made_at }.change(|_| {});
                }
            }
        }
    }
}

impl State {
    fn clients(&mut self, id: NodeId) -> &mut Clients {
        self.nodes.entry(id).or_default()
    }

    fn start(&mut self, id: NodeId, restarted: bool) {
        let alone = self.clients(id).sources > 0;
        self.world.start(id, alone, restarted);
    }

    /// Ends a node's connections as the death of its daemon does.
    fn disconnect(&mut self, id: NodeId) {
        let clients = self.clients(id);
        let silent = clients.faults.silent;
        clients.connected.drain(..).for_each(|client| client.hang_up(silent));
    }

    /// Passes on what the nodes have told.
    fn tell(&mut self) {
        for node in &mut self.world.nodes {
            let told = std::mem::take(&mut node.told);
            if let Some(clients) = self.nodes.get_mut(&node.id) {
                clients.connected.retain(|client| client.is_open());
                for client in &clients.connected {
                    told.iter().for_each(|notification| client.tell(notification.clone()));
                }
            }
        }
    }
}

/// A node of a simulated cluster: a [`Source`](crate::Source) for an actor.
pub struct Node {
    cluster: Cluster,
    id: NodeId,
    clock: Clock,
    /// Something on the actor's arbiter lets the cluster's time go on.
    is_driven: AtomicBool,
}

impl Node {
    fn new(cluster: Cluster, id: NodeId) -> Self {
        cluster.state.lock().clients(id).sources += 1;
        Self { cluster, id, clock: Clock::Tokio(Instant::now()), is_driven: AtomicBool::new(false) }
    }

    /// Its id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// What the daemon answers to a connection attempt now; `None` while it is paused.
    fn answer(&self, terms: sealed::Terms) -> Option<Result<Simulated, crate::Error>> {
        let answer = self.ask(terms);
        if matches!(answer, Some(Err(_))) {
            // Who is refused is told nothing that the others would have to wait for.
            self.cluster.change(|world| world.join(self.id));
        }
        answer
    }

    fn ask(&self, terms: sealed::Terms) -> Option<Result<Simulated, crate::Error>> {
        let mut state = self.cluster.state.lock();
        match state.world.node(self.id).map(|node| node.daemon) {
            Some(Daemon::Running) => {}
            Some(Daemon::Paused) => return None,
            Some(Daemon::Down) | None => {
                return Some(Err(crate::Error::Connect(Code::LIBRARY)));
            }
        }
        let (snapshot, provider) = (state.world.snapshot(self.id), state.world.provider);
        let clients = state.clients(self.id);
        let connected = || {
            if let Some(code) = clients.faults.connect {
                return Err(crate::Error::Connect(code));
            }
            let server = Server { uid: clients.faults.server_uid, pid: None };
            terms.check_server(Some(server))?;
            terms.check_provider(provider)?;
            if let Some(code) = clients.faults.track_start {
                return Err(crate::Error::TrackStart(code));
            }
            let cluster = self.cluster.clone();
            let id = self.id;
            let drained = move || cluster.drained(id);
            let asked_at = self.clock.now();
            let (client, connection) =
                Client::connect(provider, asked_at, snapshot, Box::new(drained))?;
            clients.connected.push(client);
            Ok(connection)
        };
        Some(connected())
    }
}

impl Cluster {
    /// A client has been told everything. A daemon that was alone for its sake joins the others
    /// when all have.
    fn drained(&self, id: NodeId) {
        let joins = |state: &mut State| {
            let clients = state.clients(id);
            let told = clients.connected.iter().filter(|client| client.is_drained()).count();
            told >= clients.sources
        };
        let alone = self.state.lock().world.node(id).is_some_and(|node| node.alone);
        if alone {
            self.change_all(|state| {
                if joins(state) {
                    state.world.join(id);
                }
            });
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.cluster.state.lock().clients(self.id).sources -= 1;
        self.cluster.drained(self.id);
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("id", &self.id).finish_non_exhaustive()
    }
}

impl sealed::Source for Node {
    fn clock(&self) -> Clock {
        self.clock
    }

    fn probe(self: Arc<Self>, _: sealed::Terms) -> Result<Arc<dyn Probe>, crate::Error> {
        Ok(Arc::new(SimulatedProbe(self)))
    }

    fn ring_watch(self: Arc<Self>, _: sealed::Terms) -> Option<Arc<dyn RingWatch>> {
        let (connection, is_new) = (AtomicU64::new(0), Arc::default());
        Some(Arc::new(SimulatedRingWatch { node: self, connection, is_new }))
    }

    #[cfg(any(feature = "metrics", feature = "web"))]
    fn node_names(&self, _: sealed::Terms) -> crate::names::NameSource {
        let name = |id: NodeId| (id, format!("n{id}"));
        crate::names::NameSource::Known(self.cluster.nodes().into_iter().map(name).collect())
    }

    fn connect(self: Arc<Self>, terms: sealed::Terms, _: &Connector) -> sealed::Connecting {
        if !self.is_driven.swap(true, Ordering::Relaxed) {
            actix::spawn(self.cluster.clone().drive());
        }
        let mut changed = self.cluster.changed.subscribe();
        Box::pin(async move {
            loop {
                changed.mark_unchanged();
                if let Some(answer) = self.answer(terms) {
                    return Ok(Box::new(answer?) as Box<dyn sealed::Tracked>);
                }
                // The sender is in `self.cluster`.
                let _ = changed.changed().await;
            }
        })
    }
}

/// Asks a node's daemon inline: it answers at once or, while it is paused, when it is resumed.
#[derive(Debug)]
struct SimulatedProbe(Arc<Node>);

impl Probe for SimulatedProbe {
    fn ask(&self, _: Vec<NodeId>) -> Asking {
        let node = Arc::clone(&self.0);
        let asked_at = node.clock.now();
        let mut changed = node.cluster.changed.subscribe();
        Box::pin(async move {
            loop {
                changed.mark_unchanged();
                if let Some(answer) = node.probed(asked_at) {
                    return answer;
                }
                // The sender is in `node.cluster`.
                let _ = changed.changed().await;
            }
        })
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    }
}

/// Reads a node's counters inline: there at once, or when the daemon is not paused any more. While it
/// synchronises it answers on connections that were made meanwhile only.
#[derive(Debug)]
struct SimulatedRingWatch {
    node: Arc<Node>,
    connection: AtomicU64,
    /// The connection was made while the daemon synchronised.
    is_new: Arc<AtomicBool>,
}

impl RingWatch for SimulatedRingWatch {
    fn cancel(&self) -> bool {
        self.connection.fetch_add(1, Ordering::Relaxed);
        self.is_new.store(true, Ordering::Relaxed);
        true
    }

    fn read(&self) -> Pending<RingUpdate> {
        let (node, is_new) = (Arc::clone(&self.node), Arc::clone(&self.is_new));
        let connection = self.connection.load(Ordering::Relaxed);
        let asked_at = node.clock.now();
        let mut changed = node.cluster.changed.subscribe();
        Box::pin(async move {
            loop {
                changed.mark_unchanged();
                if let Some(reading) = node.read_ring(asked_at, connection, &is_new) {
                    return reading.map(RingUpdate::Read);
                }
                // The sender is in `node.cluster`.
                let _ = changed.changed().await;
            }
        })
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    }
}

impl Node {
    /// What the daemon's counters are now; `None` while it does not answer.
    fn read_ring(
        &self,
        asked_at: Moment,
        connection: u64,
        is_new: &AtomicBool,
    ) -> Option<Result<RingReading, crate::Error>> {
        let mut state = self.cluster.state.lock();
        // Tokens are counted by the time that has passed.
        state.world.advance(self.cluster.made_at.elapsed());
        state.tell();
        let world = &state.world;
        if world.node(self.id)?.daemon == Daemon::Down {
            return Some(Err(crate::Error::Request(Code::LIBRARY)));
        }
        let (counters, configured_votes, synchronises) = world.ring_counters(self.id)?;
        if synchronises && !is_new.load(Ordering::Relaxed) {
            return None;
        }
        is_new.fetch_and(synchronises, Ordering::Relaxed);
        let now = self.clock.now();
        let Timeouts { token, consensus } = world.totem.timeouts.unwrap_or(TIMEOUTS);
        let tokens = match world.totem.timeouts {
            Some(_) => world.tokens(self.id, token / 6),
            None => {
                let elapsed = now.since(Moment::default()).as_nanos();
                u64::try_from(elapsed / TOKEN_HOLD.as_nanos()).unwrap_or(u64::MAX)
            }
        };
        Some(Ok(RingReading {
            connection,
            asked_at,
            answered_at: now,
            counters,
            tokens,
            token,
            consensus,
            configured_votes: Some(configured_votes),
        }))
    }

    /// What votequorum answers now; `None` while the daemon is paused.
    fn probed(&self, asked_at: Moment) -> Option<Result<Answer, crate::Error>> {
        let state = self.cluster.state.lock();
        match state.world.node(self.id)?.daemon {
            Daemon::Paused => None,
            Daemon::Down => Some(Err(crate::Error::Connect(Code::LIBRARY))),
            Daemon::Running => {
                let (quorate, votes) = state.world.votes(self.id);
                Some(Ok(Answer { asked_at, quorate, votes, local: Some(self.id) }))
            }
        }
    }
}
