//! Prints every change of quorum until interrupted.
//!
//! On a cluster node: `cargo run --example watch`, then `systemctl stop corosync`: expect `unknown`.

use actix::prelude::*;
use actix_quorum::{QuorumActor, QuorumChanged};

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
    let printer = Printer.start();
    let quorum = QuorumActor::builder().start();
    quorum.subscribe(printer.recipient());
    tokio::signal::ctrl_c().await?;
    quorum.stop().await;
    Ok(())
}
