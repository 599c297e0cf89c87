//! The program of the README: works while there is quorum. Run it on a cluster node.

use actix::prelude::*;
use actix_quorum::{QuorumActor, QuorumChanged, Stopped};

struct Replicator;

impl Actor for Replicator {
    type Context = Context<Self>;
}

impl Handler<QuorumChanged> for Replicator {
    type Result = ();

    fn handle(&mut self, change: QuorumChanged, _: &mut Self::Context) {
        println!("{change}");
        if change.is_loss() { /* stop writing */ }
    }
}

#[actix::main]
async fn main() -> Result<(), Stopped> {
    let replicator = Replicator.start();
    let quorum = QuorumActor::builder().start(); // own arbiter, supervised, connects to corosync
    quorum.subscribe(replicator.recipient()); // current state first, then every change
    quorum.wait_quorate().await?;
    assert!(quorum.is_quorate());
    quorum.stop().await;
    Ok(())
}
