//! An actor that works while there is quorum, pauses while there is none or nobody knows, and
//! survives a restart of Corosync.
//!
//! `cargo run --example supervised` shows it on a simulated cluster; with `-- --corosync` on a
//! cluster node, restart Corosync and see it pause and go on.

use std::time::Duration;

use actix::prelude::*;
use actix_quorum::{QuorumActor, QuorumChanged, QuorumHandle, sim::Cluster};
use tokio::time::sleep;

/// Does something every 200 ms that only the quorate part of a cluster may do.
struct Worker {
    quorum: QuorumHandle,
    /// The epoch in which it worked last.
    epoch: Option<u64>,
}

impl Actor for Worker {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(Duration::from_millis(200), |worker, _| {
            // Asked right before, and not remembered from a message, which may be late.
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
                println!("others may have worked meanwhile: looking at what they did");
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
    cluster.crash(1).expect("it runs");
    sleep(Duration::from_secs(1)).await;
    println!("-- and started again");
    cluster.start(1).expect("it is down");
    sleep(Duration::from_secs(1)).await;
    quorum.stop().await;
    Ok(())
}
