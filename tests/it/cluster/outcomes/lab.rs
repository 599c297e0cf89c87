//! A cluster with faults, simulated or real, and the final states of its nodes.

use std::{collections::BTreeMap, time::Duration};

use actix_quorum::{NodeId, Quorum, QuorumBuilder, QuorumHandle, VoteFlags, sim};

use crate::support::{Algorithm, Cluster, Config, Transport, Watcher, eventually, quick};

/// The configuration of a cluster.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) device: Option<Algorithm>,
    pub(crate) auto_tie_breaker: bool,
    pub(crate) last_man_standing: Option<Duration>,
    /// Whether the transport of a real cluster is udpu, and not knet.
    pub(crate) udpu: bool,
}

/// The operations of a scenario on a cluster with the nodes `1..=size`.
pub(crate) trait Lab {
    fn formed(size: u32, settings: Settings) -> Self;

    fn lose_sends(&self, id: u32);
    fn lose_receives(&self, id: u32);
    fn lose_sends_to(&self, id: u32, peer: u32);

    /// Separates two nodes of a cluster of two. Both reach the quorum device.
    fn separate(&self, id: u32, peer: u32);

    /// Separates a node from all others and from the quorum device.
    fn cut(&self, id: u32);

    fn partition(&self, groups: &[&[u32]]);
    fn heal(&self);
    fn kill(&self, id: u32);
    fn pause_all(&self, ids: &[u32]);
    fn resume_all(&self, ids: &[u32]);
    fn kill_device(&self);
    fn start_device(&self);

    fn quorum(&self, id: u32) -> &QuorumHandle;
}

/// Waits until each of these nodes is in this state: `quorate 1 2, exclusive`, `quorate 1`,
/// `inquorate 2`, `unknown`. A quorate node has a fencing token if and only if its state is
/// exclusive.
#[track_caller]
pub(crate) fn expect<L: Lab>(lab: &L, states: &[(u32, &str)]) {
    expect_one_of(lab, &[states]);
}

/// Waits until all nodes are in the states of one of these lists, which have the same nodes. A
/// state that ends with `, exclusive or not` matches both.
#[track_caller]
pub(crate) fn expect_one_of<L: Lab>(lab: &L, lists: &[&[(u32, &str)]]) {
    let mut now = Vec::new();
    let any = || {
        now = lists[0].iter().map(|(id, _)| (*id, state(lab.quorum(*id)))).collect();
        let matches = |states: &&[(u32, &str)]| {
            now.iter().zip(*states).all(|((_, now), (_, wanted))| is_in_state(now, wanted))
        };
        lists.iter().any(matches).then_some(())
    };
    let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually("the nodes reach the expected states", any);
    }));
    assert!(waited.is_ok(), "wanted {lists:#?}\ngot {now:#?}");
}

fn is_in_state(now: &str, wanted: &str) -> bool {
    match wanted.strip_suffix(", exclusive or not") {
        Some(wanted) => now.split(',').next() == Some(wanted),
        None => now == wanted,
    }
}

/// Waits until votequorum reports these votes on a node: present, expected, and required.
#[track_caller]
pub(crate) fn expect_votes<L: Lab>(lab: &L, id: u32, wanted: (u32, u32, u32)) {
    eventually("the votes are known", || {
        let votes = lab.quorum(id).snapshot().votes.clone()?;
        ((votes.total, votes.expected, votes.quorum) == wanted).then_some(())
    });
}

/// Waits until a node reports that each of these members has a quorum device that is alive, and
/// which of the devices cast their votes.
#[track_caller]
pub(crate) fn expect_qdevices<L: Lab>(lab: &L, id: u32, wanted: &[(u32, bool)]) {
    let alive = VoteFlags::QDEVICE_REGISTERED | VoteFlags::QDEVICE_ALIVE;
    eventually("the state of the quorum devices is known", || {
        let votes = lab.quorum(id).snapshot().votes.clone()?;
        let flags = |casts| if casts { alive | VoteFlags::QDEVICE_CAST_VOTE } else { alive };
        let wanted = wanted.iter().map(|(id, casts)| (NodeId(*id), flags(*casts)));
        votes.qdevices.iter().copied().eq(wanted).then_some(())
    });
}

fn state(quorum: &QuorumHandle) -> String {
    let (now, exclusive) = (quorum.snapshot(), quorum.is_exclusive());
    if now.quorum == Quorum::Unknown {
        return now.quorum.to_string();
    }
    let members: String = now.members.iter().map(|node| format!(" {node}")).collect();
    let exclusive = match (exclusive, now.fencing_token()) {
        (true, Some(_)) => ", exclusive",
        (false, None) => "",
        // The two values are read one after the other, so they can differ for a moment.
        _ => ", exclusivity and fencing token differ",
    };
    format!("{}{members}{exclusive}", now.quorum)
}

fn settings(builder: QuorumBuilder) -> QuorumBuilder {
    builder.backoff(quick())
}

/// The simulated cluster, with short timeouts.
pub(crate) struct Sim {
    cluster: sim::Cluster,
    watchers: BTreeMap<u32, Watcher>,
}

impl Lab for Sim {
    fn formed(size: u32, setup: Settings) -> Self {
        let mut cluster = sim::Cluster::new(size)
            .timeouts(Duration::from_millis(400), Duration::from_millis(480));
        if let Some(algorithm) = setup.device {
            cluster = cluster.quorum_device(match algorithm {
                Algorithm::Ffsplit => 1,
                Algorithm::Lms => size - 1,
            });
        }
        if setup.auto_tie_breaker {
            cluster = cluster.auto_tie_breaker(true);
        }
        if let Some(window) = setup.last_man_standing {
            cluster = cluster.last_man_standing(window);
        }
        let watcher = |id| {
            let node = cluster.node(id);
            (id, Watcher::here(|builder| settings(builder).source(node)))
        };
        let watchers = (1..=size).map(watcher).collect();
        Self { cluster, watchers }
    }

    fn lose_sends(&self, id: u32) {
        self.cluster.lose_sends(id).unwrap();
    }

    fn lose_receives(&self, id: u32) {
        self.cluster.lose_receives(id).unwrap();
    }

    fn lose_sends_to(&self, id: u32, peer: u32) {
        self.cluster.lose_sends_to(id, peer).unwrap();
    }

    fn separate(&self, id: u32, peer: u32) {
        self.cluster.partition(&[&[id], &[peer]]).unwrap();
    }

    fn cut(&self, id: u32) {
        self.cluster.cut_quorum_device(&[id]).unwrap();
        let others: Vec<u32> = self.watchers.keys().copied().filter(|other| *other != id).collect();
        self.cluster.partition(&[&[id], &others]).unwrap();
    }

    fn partition(&self, groups: &[&[u32]]) {
        self.cluster.partition(groups).unwrap();
    }

    fn heal(&self) {
        self.cluster.heal();
    }

    fn kill(&self, id: u32) {
        self.cluster.crash(id).unwrap();
    }

    fn pause_all(&self, ids: &[u32]) {
        self.cluster.pause_all(ids).unwrap();
    }

    fn resume_all(&self, ids: &[u32]) {
        self.cluster.resume_all(ids).unwrap();
    }

    fn kill_device(&self) {
        self.cluster.stop_quorum_device();
    }

    fn start_device(&self) {
        self.cluster.start_quorum_device();
    }

    fn quorum(&self, id: u32) -> &QuorumHandle {
        &self.watchers[&id].quorum
    }
}

/// Corosync daemons, each in a network namespace.
pub(crate) struct Real {
    watchers: BTreeMap<u32, Watcher>,
    cluster: Cluster,
}

impl Lab for Real {
    fn formed(size: u32, setup: Settings) -> Self {
        let configure = |config: &mut Config| {
            if setup.udpu {
                config.transport = Transport::Udpu;
            }
            if setup.auto_tie_breaker {
                config.quorum.push("auto_tie_breaker: 1".to_owned());
            }
            if let Some(window) = setup.last_man_standing {
                config.quorum.push("last_man_standing: 1".to_owned());
                let window = window.as_millis();
                config.quorum.push(format!("last_man_standing_window: {window}"));
            }
        };
        let cluster = match setup.device {
            Some(algorithm) => Cluster::start_with_device(size, algorithm, configure),
            None => Cluster::start_with(size, configure),
        };
        let watcher = |id| (id, Watcher::start_with(&cluster.node(id).netns, settings));
        Self { watchers: (1..=size).map(watcher).collect(), cluster }
    }

    fn lose_sends(&self, id: u32) {
        self.cluster.lose_sends(id);
    }

    fn lose_receives(&self, id: u32) {
        self.cluster.lose_receives(id);
    }

    fn lose_sends_to(&self, id: u32, peer: u32) {
        self.cluster.lose_sends_to(id, peer);
    }

    fn separate(&self, id: u32, peer: u32) {
        self.cluster.lose_link(id, peer);
    }

    fn cut(&self, id: u32) {
        self.cluster.cut(id);
    }

    fn partition(&self, groups: &[&[u32]]) {
        self.cluster.partition(groups);
    }

    fn heal(&self) {
        self.cluster.heal();
    }

    fn kill(&self, id: u32) {
        self.cluster.kill(id);
    }

    fn pause_all(&self, ids: &[u32]) {
        ids.iter().for_each(|id| self.cluster.pause(*id));
    }

    fn resume_all(&self, ids: &[u32]) {
        ids.iter().for_each(|id| self.cluster.resume(*id));
    }

    fn kill_device(&self) {
        self.cluster.qnetd().kill();
    }

    fn start_device(&self) {
        self.cluster.qnetd().start();
    }

    fn quorum(&self, id: u32) -> &QuorumHandle {
        &self.watchers[&id].quorum
    }
}
