//! Nodes, and a cluster of them on one switch.

use std::{collections::BTreeMap, fmt::Write, sync::Arc};

use super::{
    Algorithm, Config, Corosync, Device, Netns, Qdevice, Qnetd, Quorumtool, eventually,
    faults::Faults,
};

/// A network namespace with a daemon.
#[derive(Debug)]
pub struct Node {
    pub id: u32,
    pub corosync: Corosync,
    pub netns: Arc<Netns>,
}

impl Node {
    /// Starts a cluster of one node, and waits until clients can connect.
    #[track_caller]
    pub fn single() -> Self {
        Self::single_with(|_| {})
    }

    /// Like [`single`](Self::single), with another configuration.
    #[track_caller]
    pub fn single_with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        change(&mut config);
        let node = Self::new(1, Arc::new(Netns::new()), config);
        node.corosync.start();
        node.corosync.wait_ready();
        node
    }

    fn new(id: u32, netns: Arc<Netns>, config: Config) -> Self {
        Self { id, corosync: Corosync::new(&format!("n{id}"), &netns, config), netns }
    }

    /// Runs `f` on a fresh thread in the node's network namespace, where libquorum finds its
    /// daemon.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.netns.run(f)
    }

    /// Waits until the node's quorumtool shows the `wanted` state, and returns its output.
    #[track_caller]
    pub fn wait(&self, what: &str, wanted: impl Fn(&Quorumtool) -> bool) -> Quorumtool {
        eventually(&format!("n{}: {what}", self.id), || self.corosync.quorumtool().filter(&wanted))
    }

    /// Waits until the node is quorate, or not, with exactly these members.
    #[track_caller]
    pub fn wait_members(&self, quorate: bool, members: &[u32]) -> Quorumtool {
        let what = format!("quorate {quorate} with members {members:?}");
        self.wait(&what, |shown| shown.quorate == quorate && shown.members == members)
    }
}

/// Up to nine nodes, `n1` to `n9`, each in a namespace linked to a switch.
#[derive(Debug)]
pub struct Cluster {
    /// Declared above the nodes, because they are clients of the nodes' daemons.
    qdevices: BTreeMap<u32, Qdevice>,
    qnetd: Option<Qnetd>,
    nodes: BTreeMap<u32, Node>,
    pub(super) switch: Netns,
    pub(super) faults: Faults,
    has_provider: bool,
}

impl Cluster {
    /// Starts nodes `1..=size` and waits until they have formed.
    #[track_caller]
    pub fn start(size: u32) -> Self {
        Self::start_with(size, |_| {})
    }

    /// Like [`start`](Self::start), with another configuration for all nodes.
    #[track_caller]
    pub fn start_with(size: u32, change: impl FnOnce(&mut Config)) -> Self {
        assert!((1..=9).contains(&size), "one to nine nodes");
        let mut config = Config { nodes: nodelist(size), ..Config::default() };
        change(&mut config);

        let switch = Netns::new();
        let mut lines = String::from("link add br0 type bridge\nlink set br0 up\n");
        let mut nodes = BTreeMap::new();
        for id in 1..=size {
            let netns = Netns::new();
            writeln!(lines, "link add v{id} type veth peer name eth0 netns {}", netns.name())
                .unwrap();
            writeln!(lines, "link set v{id} master br0 up").unwrap();
            nodes.insert(id, Node::new(id, Arc::new(netns), config.clone()));
        }
        switch.ip(&lines);
        for (node, (_, address)) in nodes.values().zip(nodelist(size)) {
            node.netns.ip(&format!("addr add {address}/24 dev eth0\nlink set eth0 up"));
            node.corosync.start();
        }
        let cluster = Self {
            qdevices: BTreeMap::new(),
            qnetd: None,
            nodes,
            switch,
            faults: Faults::default(),
            has_provider: config.provider.is_some(),
        };
        cluster.wait_formed();
        cluster
    }

    /// Like [`start_with`](Self::start_with), with a quorum device: a `corosync-qnetd` on the
    /// switch and a `corosync-qdevice` beside each daemon. Waits until every node counts the
    /// device's votes.
    #[track_caller]
    pub fn start_with_device(
        size: u32,
        algorithm: Algorithm,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let device = Device::new(algorithm, size, QNETD);
        let votes = size + device.votes;
        let mut master_wins = false;
        let mut cluster = Self::start_with(size, |config| {
            config.device = Some(device);
            change(config);
            master_wins = config.device.as_ref().is_some_and(|device| device.master_wins);
        });
        let qnetd = Qnetd::new();
        cluster.switch.ip(&format!(
            "link add vq type veth peer name eth0 netns {}\nlink set vq master br0 up",
            qnetd.netns().name()
        ));
        qnetd.netns().ip(&format!("addr add {QNETD}/24 dev eth0\nlink set eth0 up"));
        qnetd.start();
        for node in cluster.nodes.values() {
            let qdevice = Qdevice::new(node.id, &node.netns, master_wins);
            qdevice.start();
            cluster.qdevices.insert(node.id, qdevice);
        }
        cluster.qnetd = Some(qnetd);
        eventually("every node counts the device's votes", || {
            let mut shown = cluster.nodes.values().map(|node| node.corosync.total_votes());
            shown.all(|shown| shown == Some(votes)).then_some(())
        });
        cluster
    }

    /// The server of the quorum device.
    #[track_caller]
    pub fn qnetd(&self) -> &Qnetd {
        self.qnetd.as_ref().expect("the cluster was started with a quorum device")
    }

    /// The client of the quorum device beside this node's daemon. It ends with the daemon.
    #[track_caller]
    pub fn qdevice(&self, id: u32) -> &Qdevice {
        self.qdevices.get(&id).unwrap_or_else(|| panic!("node {id} has no quorum device"))
    }

    /// Waits until every node shows all nodes as members, quorate, on the same ring.
    #[track_caller]
    pub fn wait_formed(&self) {
        let all: Vec<u32> = self.nodes.keys().copied().collect();
        if !self.has_provider {
            // `corosync-quorumtool` shows no state without a provider.
            let formed = || self.nodes.values().all(|node| node.corosync.members() == all);
            return eventually("the cluster forms", || formed().then_some(()));
        }
        eventually("the cluster forms", || {
            let mut shown = self.nodes.values().map(|node| node.corosync.quorumtool());
            let first = shown.next()??;
            let formed = first.quorate && first.members == all;
            (formed && shown.all(|other| other.as_ref() == Some(&first))).then_some(())
        });
    }

    #[track_caller]
    pub fn node(&self, id: u32) -> &Node {
        self.nodes.get(&id).unwrap_or_else(|| panic!("there is no node {id}"))
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// Separates these groups from one another, and from the nodes in no group. Links that are down
    /// stay down.
    ///
    /// Returns once every running daemon has noticed the partition over knet. A daemon that
    /// noticed it only after a heal would leave the new ring.
    #[track_caller]
    pub fn partition(&self, groups: &[&[u32]]) {
        let group_of = |id: &u32| groups.iter().position(|group| group.contains(id));
        self.separate(|id| group_of(&id));
        let running = self.nodes.values().filter(|node| node.corosync.answers());
        for node in running {
            let cut = self.nodes.keys().filter(|peer| group_of(peer) != group_of(&node.id));
            for peer in cut {
                eventually("knet notices that a link is down", || {
                    (node.corosync.knet_is_connected(*peer) != Some(true)).then_some(())
                });
            }
        }
    }

    /// Takes the node's link down at the switch, so that the node keeps its address.
    pub fn isolate(&self, id: u32) {
        self.switch.ip(&format!("link set v{id} down"));
    }

    /// Ends every partition, isolation and loss.
    pub fn heal(&self) {
        self.end_faults();
        let lines = self.nodes.keys().map(|id| format!("link set v{id} up\n"));
        self.switch.ip(&lines.collect::<String>());
    }

    /// Changes the configuration of all nodes, and makes the running nodes reload it. Returns once
    /// each of them has reloaded it: a later reload would read the next configuration.
    #[track_caller]
    pub fn reload(&self, change: impl Fn(&mut Config)) {
        self.nodes.values().for_each(|node| node.corosync.configure(&change));
        let running = self.nodes.values().filter(|node| node.corosync.answers());
        let running: Vec<_> = running.map(|node| (node, node.corosync.reloads())).collect();
        let (first, _) = running.first().expect("a node runs");
        first.corosync.reload();
        for (node, before) in running {
            eventually("the node reloads its configuration", || {
                (node.corosync.reloads() > before).then_some(())
            });
            // The daemon answers this request after the reload.
            node.corosync.knet_is_connected(node.id);
        }
    }

    pub fn kill(&self, id: u32) {
        self.node(id).corosync.kill();
    }

    pub fn stop(&self, id: u32) {
        self.node(id).corosync.stop();
    }

    /// Starts a node that has ended, without waiting for it.
    pub fn start_node(&self, id: u32) {
        self.node(id).corosync.start();
    }

    /// Kills the node and immediately starts it, usually before the others notice.
    pub fn restart_node(&self, id: u32) {
        self.node(id).corosync.restart();
    }

    pub fn pause(&self, id: u32) {
        self.node(id).corosync.pause();
    }

    pub fn resume(&self, id: u32) {
        self.node(id).corosync.resume();
    }
}

/// Returns the nodelist of a cluster with nodes `1..=size`, no matter how many nodes are running.
pub fn nodelist(size: u32) -> Vec<(u32, String)> {
    (1..=size).map(|id| (id, format!("10.0.0.{id}"))).collect()
}

/// The address of the quorum device's server.
const QNETD: &str = "10.0.0.100";
