//! An actor that works only while this node has quorum. It pauses while there is no quorum or the
//! state is unknown, and continues after a restart of Corosync.
//!
//! `cargo run --example supervised` runs on a simulated cluster. On a cluster node, run it with
//! `-- --corosync` and restart Corosync: the actor pauses and continues.

use std::time::Duration;

use actix::prelude::*;
use actix_quorum::{QuorumActor, QuorumChanged, QuorumHandle, sim::Cluster};
use tokio::time::sleep;

/// Every 200 ms, does work that only a quorate node may do.
struct Worker {
    quorum: QuorumHandle,
    /// The epoch of its last work.
    epoch: Option<u64>,
}

impl Actor for Worker {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(Duration::from_millis(200), |worker, _| {
            // The handle reports the current state; the last message may be old.
            if worker.quorum.is_quorate() {
                println!("working");
            }
        });
    }
}

impl Handler<QuorumChanged> for Worker {
    type Result = ();

    fn handle(&mut self, change: QuorumChanged, _: &mut Self::Context) {
        let is_quorate = change.current.quorum.is_quorate();
        if is_quorate && (change.is_gain() || change.interrupted()) {
            let epoch = change.current.epoch;
            if self.epoch.replace(epoch).is_some_and(|last| last != epoch) {
                println!("other nodes may have worked meanwhile: checking their results");
            }
        } else if change.is_loss() {
            println!("paused: {change}");
        }
    }
}

#[actix::main]
async fn main() -> std::io::Result<()> {
    let on_cluster_node = std::env::args().any(|argument| argument == "--corosync");
    let cluster = Cluster::new(3);
    let builder = QuorumActor::builder();
    let builder = if on_cluster_node { builder } else { builder.source(cluster.node(1)) };
    let quorum = builder.start();
    let worker = Worker { quorum: quorum.clone(), epoch: None };
    quorum.subscribe(worker.start().recipient());
    if on_cluster_node {
        return tokio::signal::ctrl_c().await;
    }
    sleep(Duration::from_secs(1)).await;
    println!("-- corosync on node 1 is killed");
    cluster.crash(1).expect("the daemon runs");
    sleep(Duration::from_secs(1)).await;
    println!("-- corosync on node 1 is started");
    cluster.start(1).expect("the daemon is down");
    sleep(Duration::from_secs(1)).await;
    quorum.stop().await;
    Ok(())
}
