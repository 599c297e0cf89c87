//! The recorded metrics, as Prometheus would scrape them, on the simulated cluster.

use std::{
    collections::BTreeMap,
    sync::mpsc,
    time::{Duration, Instant, SystemTime},
};

use actix::{Actor, Arbiter, Context, Handler, System, clock};
use actix_quorum::{
    Code, Quorum, QuorumActor, QuorumChanged,
    sim::{Cluster, Fault, Recorder},
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::support::{DEADLINE, Node, Token, Watcher, eventually, promtool};

/// Returns the value of each series, by its name with its labels.
fn scrape(prometheus: &PrometheusHandle) -> BTreeMap<String, f64> {
    let rendered = prometheus.render();
    let lines = rendered.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let series = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    lines.map(series).collect()
}

/// Handles its first message when the test allows it.
struct Slow(Option<mpsc::Receiver<()>>);

impl Actor for Slow {
    type Context = Context<Self>;
}

impl Handler<QuorumChanged> for Slow {
    type Result = ();

    fn handle(&mut self, _: QuorumChanged, _: &mut Self::Context) {
        let _ = self.0.take().map(|until| until.recv());
    }
}

#[test]
#[ignore = "needs promtool: make test"]
fn events_are_recorded_as_metrics() {
    own_process!();
    let prometheus = PrometheusBuilder::new().install_recorder().unwrap();
    System::new().block_on(async {
        tokio::time::pause();
        let cluster = Cluster::new(3);
        let quorum = QuorumActor::builder()
            .source(cluster.node(1))
            .lease(Duration::from_secs(4))
            .ha_cluster_metrics(true)
            .start_in_arbiter(&Arbiter::current());
        let value = |name: &str| *scrape(&prometheus).get(name).unwrap_or(&f64::NAN);
        assert_eq!(value("quorum_quorate"), 0.0, "before anything is known");
        assert_eq!(value("quorum_connected"), 0.0);
        assert_eq!(value("quorum_losses_total"), 0.0);
        assert_eq!(value("quorum_changes_total{cause=\"disconnected\"}"), 0.0);
        assert_eq!(value("quorum_disconnects_total{reason=\"CS_ERR_LIBRARY\"}"), 0.0);
        assert_eq!(value("quorum_lease_seconds"), 4.0);

        let mut recorder = Recorder::new(&quorum);
        let known = |change: &QuorumChanged| {
            change.current.quorum.is_quorate() && change.current.votes.is_some()
        };
        recorder.expect("quorum and the votes", known).await;
        assert_eq!(value("quorum_quorate"), 1.0);
        assert_eq!((value("quorum_connected"), value("quorum_settled")), (1.0, 1.0));
        assert_eq!(value("quorum_members"), 3.0);
        assert_eq!(value("quorum_votes_present"), 3.0);
        assert_eq!(value("quorum_votes_required"), 2.0);
        assert_eq!(value("quorum_changes_total{cause=\"connected\"}"), 1.0);
        let contact = value("quorum_last_contact_timestamp_seconds");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert!((contact - now.as_secs_f64()).abs() < 60.0, "the last contact was at {contact}");
        assert!(value("quorum_probe_round_trip_seconds_count") >= 1.0);
        let member = |id, node, local| {
            value(&format!(
                "ha_cluster_corosync_member_votes{{node_id=\"{id}\",node=\"{node}\",local=\"{local}\"}}"
            ))
        };
        assert_eq!(value("ha_cluster_corosync_quorate"), 1.0);
        assert_eq!(value("ha_cluster_corosync_quorum_votes{type=\"expected_votes\"}"), 3.0);
        assert_eq!((member(1, "n1", true), member(2, "n2", false)), (1.0, 1.0));

        let (unblock, until) = mpsc::channel();
        let slow = Slow::start_in_arbiter(&Arbiter::new().handle(), |_| Slow(Some(until)));
        let id = quorum.subscribe(slow.clone().recipient());
        assert_eq!(value("quorum_subscribers"), 1.0);
        // These are more changes than are kept for a slow subscriber.
        for _ in 0..1_000 {
            cluster.partition(&[&[1], &[2, 3]]).unwrap();
            cluster.heal();
        }
        clock::sleep(Duration::from_secs(1)).await;
        assert!(value("quorum_losses_total") >= 1_000.0);
        assert_eq!(value("quorum_quorate"), 1.0);
        assert_eq!(value("quorum_conflated_deliveries_total"), 0.0);
        unblock.send(()).unwrap();
        let deadline = Instant::now() + DEADLINE;
        while value("quorum_conflated_deliveries_total") == 0.0 {
            assert!(Instant::now() < deadline, "the merged message is counted");
            // Without a change, the actor records the counter once a second.
            clock::sleep(Duration::from_millis(100)).await;
        }
        quorum.unsubscribe(id);
        assert_eq!(value("quorum_subscribers"), 0.0);

        cluster.partition(&[&[1], &[2, 3]]).unwrap();
        clock::sleep(Duration::from_secs(1)).await;
        assert_eq!((value("quorum_quorate"), value("quorum_members")), (0.0, 1.0));
        assert_eq!((member(1, "n1", true), member(2, "n2", false)), (1.0, 0.0));
        assert_eq!(value("ha_cluster_corosync_quorate"), 0.0);

        cluster.crash(1).unwrap();
        clock::sleep(Duration::from_secs(1)).await;
        assert_eq!((value("quorum_connected"), value("quorum_votes_present")), (0.0, 0.0));
        assert_eq!(value("quorum_disconnects_total{reason=\"CS_ERR_LIBRARY\"}"), 1.0);
        assert!(value("quorum_connect_failures_total{reason=\"CS_ERR_LIBRARY\"}") >= 1.0);
        cluster.fault(1, Fault::Connect(Code(77))).unwrap();
        cluster.start(1).unwrap();
        clock::sleep(Duration::from_secs(1)).await;
        assert!(value("quorum_connect_failures_total{reason=\"code_77\"}") >= 1.0);
        quorum.stop().await;
        assert_eq!(value("quorum_changes_total{cause=\"stopped\"}"), 1.0);
    });
    promtool(&["check", "metrics"], &prometheus.render());
}

/// The actor records every gauge repeatedly. A recorder that forgets old values also receives them
/// again.
#[test]
fn a_recorder_that_is_installed_late_receives_every_gauge() {
    own_process!();
    System::new().block_on(async {
        tokio::time::pause();
        let cluster = Cluster::new(3);
        let lease = Duration::from_secs(4);
        let quorum = QuorumActor::builder()
            .source(cluster.node(1))
            .lease(lease)
            .ha_cluster_metrics(true)
            .start_in_arbiter(&Arbiter::current());
        let exclusive = async {
            while !quorum.is_exclusive() {
                clock::sleep(Duration::from_millis(100)).await;
            }
        };
        clock::timeout(Duration::from_secs(60), exclusive)
            .await
            .expect("the node becomes exclusive");
        let before = quorum.snapshot();
        let prometheus = PrometheusBuilder::new().install_recorder().unwrap();
        clock::sleep(lease / 2).await;
        assert_eq!(quorum.snapshot(), before, "nothing has changed");
        let value = |name: &str| *scrape(&prometheus).get(name).unwrap_or(&f64::NAN);
        for name in ["quorum_quorate", "quorum_connected", "quorum_settled", "quorum_exclusive"] {
            assert_eq!(value(name), 1.0, "the value of {name}");
        }
        assert_eq!((value("quorum_ring_watched"), value("quorum_ring_reforming")), (1.0, 0.0));
        assert_eq!((value("quorum_members"), value("quorum_votes_required")), (3.0, 2.0));
        assert_eq!((value("quorum_lease_seconds"), value("quorum_subscribers")), (4.0, 0.0));
        // The token and consensus timeouts of the simulation, and the default `settle_grace`.
        assert_eq!(value("quorum_token_lease_seconds"), 1.0 + 1.2 + 1.0);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        for name in
            ["quorum_token_last_seen_timestamp_seconds", "quorum_last_contact_timestamp_seconds"]
        {
            assert!((value(name) - now).abs() < 10.0, "{name}: {} at {now}", value(name));
        }
        assert_eq!(value("quorum_losses_total"), 0.0);
        assert_eq!(value("ha_cluster_corosync_quorate"), 1.0);
        let member = "ha_cluster_corosync_member_votes{node_id=\"1\",node=\"n1\",local=\"true\"}";
        assert_eq!(value(member), 1.0);
    });
}

/// The daemon reports the change, and the next read of the ring uses the new timeouts.
#[test]
#[ignore = "needs root and corosync: make test"]
fn a_reload_that_changes_the_timeouts_is_noticed() {
    own_process!();
    let prometheus = PrometheusBuilder::new().install_recorder().unwrap();
    let node = Node::single_with(|config| config.token = Token::Millis(1000));
    let watcher = Watcher::start(&node.netns);
    watcher.until_settled(Quorum::Quorate, &[1]);
    let until = |token: f64| {
        // The default consensus timeout is 1.2 times the token timeout, and `settle_grace` is 1 s.
        let lease = token + 1.2 * token + 1.0;
        eventually(&format!("the lease is {lease} s"), || {
            let found = scrape(&prometheus)["quorum_token_lease_seconds"];
            ((found - lease).abs() < 0.001).then_some(())
        });
    };
    until(1.0);
    for millis in [1700_u32, 600] {
        node.corosync.configure(|config| config.token = Token::Millis(millis));
        node.corosync.reload();
        until(f64::from(millis) / 1e3);
    }
    watcher.stop();
}
