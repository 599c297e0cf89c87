//! A worker in a tokio program, without actix, that works only while this node has quorum.
//!
//! `cargo run --example tokio` runs on a simulated cluster. On a cluster node, run it with
//! `-- --corosync` and restart Corosync: the worker is dropped and begins again.

use std::{env, time::Duration};

use actix_quorum::{QuorumActor, QuorumHandle, QuorumLost, sim::Cluster};
use tokio::time::sleep;

/// Work that only a quorate node may do.
async fn work() {
    loop {
        println!("working");
        sleep(Duration::from_millis(200)).await;
    }
}

/// Works under a guard, and begins again in each new epoch, until the actor stops.
async fn worker(quorum: QuorumHandle) {
    while let Ok(guard) = quorum.acquire().await {
        println!("begins in epoch {}", guard.epoch());
        // The guard drops the work when quorum is lost, at its next await.
        if let Err(QuorumLost) = guard.run(work()).await {
            println!("dropped: {}", quorum.snapshot());
        }
    }
}

#[tokio::main]
async fn main() {
    let cluster = Cluster::new(3);
    let builder = QuorumActor::builder();
    if env::args().any(|argument| argument == "--corosync") {
        let quorum = builder.start_detached();
        tokio::select! {
            () = worker(quorum.clone()) => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        quorum.stop().await;
    } else {
        let quorum = builder.source(cluster.node(1)).start_detached();
        tokio::select! {
            () = worker(quorum.clone()) => {}
            () = lose_and_regain(&cluster) => {}
        }
        quorum.stop().await;
    }
}

/// Spends one second with quorum, one without it, and one with it again.
async fn lose_and_regain(cluster: &Cluster) {
    sleep(Duration::from_secs(1)).await;
    cluster.partition(&[&[1], &[2, 3]]).expect("the cluster has these nodes");
    sleep(Duration::from_secs(1)).await;
    cluster.heal();
    sleep(Duration::from_secs(1)).await;
}
