//! The operations of a scenario on a simulated or a real cluster.

use std::time::Duration;

use actix_quorum::{QuorumBuilder, Snapshot, libquorum::Model, sim};

use super::observer::Observer;

use crate::support::{Cluster, Watcher, nodelist, quick};

/// A cluster with the nodes `1..=size`.
pub(crate) trait Backend {
    /// The model of libquorum that its actors use or imitate.
    const MODEL: Model = Model::V1;

    /// A cluster that has formed.
    fn formed(size: u32, settings: Settings) -> Self;

    fn partition(&self, groups: &[&[u32]]);
    fn heal(&self);
    fn crash(&self, id: u32);
    fn stop(&self, id: u32);
    fn start(&self, id: u32);
    fn restart(&self, id: u32);
    fn pause(&self, id: u32);
    fn resume(&self, id: u32);

    /// Sets the cmap key `quorum.expected_votes` on every running node.
    fn expected_votes(&self, votes: u32);

    /// Reloads a configuration with this many votes for a node in the nodelist.
    fn votes(&self, id: u32, votes: u32);

    /// Reloads a configuration with the nodes `1..=nodes` in its nodelist.
    fn reload(&self, nodes: u32);

    /// Starts an actor on a node, with these additional settings.
    fn watch_with(&self, id: u32, settings: fn(QuorumBuilder) -> QuorumBuilder) -> Observer;

    fn watch(&self, id: u32) -> Observer {
        self.watch_with(id, |builder| builder)
    }

    /// Whether corosync-quorumtool shows this settled state of a node.
    fn is_shown(&self, id: u32, snapshot: &Snapshot) -> bool;
}

/// The configuration of a cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) two_node: bool,
    pub(crate) wait_for_all: bool,
    pub(crate) provider: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { two_node: false, wait_for_all: false, provider: true }
    }
}

/// The simulated cluster.
pub(crate) struct Sim(sim::Cluster);

impl Backend for Sim {
    fn formed(size: u32, settings: Settings) -> Self {
        let mut cluster = sim::Cluster::new(size);
        if settings.two_node {
            cluster = cluster.two_node(true);
        }
        if settings.wait_for_all {
            cluster = cluster.wait_for_all(true);
        }
        cluster.provider(settings.provider);
        Self(cluster)
    }

    fn partition(&self, groups: &[&[u32]]) {
        self.0.partition(groups).unwrap();
    }

    fn heal(&self) {
        self.0.heal();
    }

    fn crash(&self, id: u32) {
        self.0.crash(id).unwrap();
    }

    fn stop(&self, id: u32) {
        self.0.stop(id).unwrap();
    }

    fn start(&self, id: u32) {
        self.0.start(id).unwrap();
    }

    fn restart(&self, id: u32) {
        self.0.restart(id).unwrap();
    }

    fn pause(&self, id: u32) {
        self.0.pause(id).unwrap();
    }

    fn resume(&self, id: u32) {
        self.0.resume(id).unwrap();
    }

    fn expected_votes(&self, votes: u32) {
        self.0.expected_votes(votes).unwrap();
    }

    fn votes(&self, id: u32, votes: u32) {
        self.0.votes(id, votes).unwrap();
    }

    fn reload(&self, nodes: u32) {
        self.0.reload(nodes).unwrap();
    }

    fn watch_with(&self, id: u32, settings: fn(QuorumBuilder) -> QuorumBuilder) -> Observer {
        let node = self.0.node(id);
        let settings = |builder: QuorumBuilder| settings(patient(builder).source(node));
        Observer::first_only(id, Watcher::here(settings))
    }

    fn is_shown(&self, _: u32, _: &Snapshot) -> bool {
        true
    }
}

/// Corosync daemons, each in a network namespace.
pub(crate) struct Real(Cluster);

impl Backend for Real {
    fn formed(size: u32, settings: Settings) -> Self {
        Self(Cluster::start_with(size, |config| {
            config.two_node = settings.two_node;
            config.wait_for_all = settings.wait_for_all.then_some(true);
            if !settings.provider {
                config.provider = None;
            }
        }))
    }

    fn partition(&self, groups: &[&[u32]]) {
        self.0.partition(groups);
    }

    fn heal(&self) {
        self.0.heal();
    }

    fn crash(&self, id: u32) {
        self.0.kill(id);
    }

    fn stop(&self, id: u32) {
        self.0.stop(id);
    }

    fn start(&self, id: u32) {
        self.0.start_node(id);
    }

    fn restart(&self, id: u32) {
        self.0.restart_node(id);
    }

    fn pause(&self, id: u32) {
        self.0.pause(id);
    }

    fn resume(&self, id: u32) {
        self.0.resume(id);
    }

    fn expected_votes(&self, votes: u32) {
        let running = self.0.nodes().filter(|node| node.corosync.exit_status().is_none());
        running.for_each(|node| node.corosync.expected_votes(votes));
    }

    fn votes(&self, id: u32, votes: u32) {
        self.0.reload(|config| {
            config.votes.insert(id, votes);
        });
    }

    fn reload(&self, nodes: u32) {
        self.0.reload(|config| config.nodes = nodelist(nodes));
    }

    fn watch_with(&self, id: u32, settings: fn(QuorumBuilder) -> QuorumBuilder) -> Observer {
        let settings = |builder: QuorumBuilder| settings(patient(builder));
        Observer::any(id, Watcher::start_with(&self.0.node(id).netns, settings), Self::MODEL)
    }

    fn is_shown(&self, id: u32, snapshot: &Snapshot) -> bool {
        is_shown(&self.0, id, snapshot, |ring| ring)
    }
}

/// The same daemons, whose clients use model V0, as those of Corosync before 3.1 do.
pub(crate) struct RealV0(Real);

impl Backend for RealV0 {
    const MODEL: Model = Model::V0;

    fn formed(size: u32, settings: Settings) -> Self {
        Self(Real::formed(size, settings))
    }

    fn partition(&self, groups: &[&[u32]]) {
        self.0.partition(groups);
    }

    fn heal(&self) {
        self.0.heal();
    }

    fn crash(&self, id: u32) {
        self.0.crash(id);
    }

    fn stop(&self, id: u32) {
        self.0.stop(id);
    }

    fn start(&self, id: u32) {
        self.0.start(id);
    }

    fn restart(&self, id: u32) {
        self.0.restart(id);
    }

    fn pause(&self, id: u32) {
        self.0.pause(id);
    }

    fn resume(&self, id: u32) {
        self.0.resume(id);
    }

    fn expected_votes(&self, votes: u32) {
        self.0.expected_votes(votes);
    }

    fn votes(&self, id: u32, votes: u32) {
        self.0.votes(id, votes);
    }

    fn reload(&self, nodes: u32) {
        self.0.reload(nodes);
    }

    fn watch_with(&self, id: u32, settings: fn(QuorumBuilder) -> QuorumBuilder) -> Observer {
        let settings = |builder: QuorumBuilder| settings(patient(builder)).model(Self::MODEL);
        let netns = &self.0.0.node(id).netns;
        Observer::any(id, Watcher::start_with(netns, settings), Self::MODEL)
    }

    /// The ring is shown without the node that formed it.
    fn is_shown(&self, id: u32, snapshot: &Snapshot) -> bool {
        is_shown(&self.0.0, id, snapshot, |ring| ring.split('.').next_back().unwrap_or_default())
    }
}

/// Whether `corosync-quorumtool` shows this state. `known` returns the part of a ring id that the
/// actor knows.
fn is_shown(cluster: &Cluster, id: u32, snapshot: &Snapshot, known: fn(&str) -> &str) -> bool {
    let ring = snapshot.ring_id.expect("the cluster is settled").to_string();
    cluster.node(id).corosync.quorumtool().is_some_and(|shown| {
        shown.quorate == snapshot.quorum.is_quorate()
            && shown.members.iter().copied().eq(snapshot.members.iter().map(|node| node.0))
            && known(&shown.ring_id) == ring
    })
}

/// Sets long deadlines, because no deadline may pass here: other tests cover the deadlines.
pub(crate) fn patient(builder: QuorumBuilder) -> QuorumBuilder {
    let minutes = Duration::from_secs(600);
    let asked = Duration::from_millis(500);
    builder.backoff(quick()).lease(minutes).probe_interval(asked).settle_grace(minutes)
}
