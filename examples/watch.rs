//! Prints every change of quorum in a simulated cluster that loses and regains nodes, or on this
//! cluster node until it is interrupted.
//!
//! `cargo run --example watch` needs only Rust. On a cluster node, run
//! `cargo run --example watch -- --corosync`, then `systemctl stop corosync`: the state becomes
//! `unknown`.

use std::time::Duration;

use actix::prelude::*;
use actix_quorum::{QuorumActor, QuorumChanged, sim::Cluster};
use tokio::time::sleep;

struct Printer;

impl Actor for Printer {
    type Context = Context<Self>;
}

impl Handler<QuorumChanged> for Printer {
    type Result = ();

    fn handle(&mut self, change: QuorumChanged, _: &mut Self::Context) {
        println!("{change}");
    }
}

#[actix::main]
async fn main() -> std::io::Result<()> {
    let printer = Printer.start().recipient();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == ["--corosync"] {
        let quorum = QuorumActor::builder().subscribe(printer).start();
        tokio::signal::ctrl_c().await?;
        quorum.stop().await;
    } else if !arguments.is_empty() {
        eprintln!("usage: watch [--corosync]");
        std::process::exit(1);
    } else {
        println!("-- node 1 of a simulated cluster of three");
        let cluster = Cluster::new(3);
        let quorum = QuorumActor::builder().source(cluster.node(1)).subscribe(printer).start();
        quorum.wait_quorate().await.unwrap();
        simulate(&cluster).await.expect("each event is possible after the one before");
        quorum.stop().await;
    }
    Ok(())
}

/// Causes the events that node 1 of three notices.
async fn simulate(cluster: &Cluster) -> Result<(), actix_quorum::sim::Error> {
    let pause = || sleep(Duration::from_secs(1));
    for event in ["node 3 crashes", "node 2 is cut off", "node 2 is back", "node 3 starts"] {
        pause().await;
        println!("-- {event}");
        match event {
            "node 3 crashes" => cluster.crash(3)?,
            "node 2 is cut off" => cluster.partition(&[&[1, 3], &[2]])?,
            "node 2 is back" => cluster.heal(),
            _ => cluster.start(3)?,
        }
    }
    pause().await;
    println!("-- corosync on node 1 is killed and started again");
    cluster.restart(1)?;
    pause().await;
    Ok(())
}
