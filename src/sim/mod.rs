//! A simulated Corosync cluster, for examples and for tests of your own actors. Feature `sim`.
//!
//! [`Cluster::new`] makes nodes that have formed a cluster; [`Cluster::node`] is a
//! [`Source`](crate::Source) for [`QuorumActor::builder`](crate::QuorumActor::builder). The verbs of
//! [`Cluster`] then do to the cluster what happens to real ones, and the actor tells what it would
//! tell there: everything but the daemons is the real thing.
//!
//! # Testing your actors
//!
//! Nothing here needs Corosync, root or real time. A [`Recorder`] says what was told. With tokio's
//! clock paused a test of what happens after half a minute takes milliseconds; the actor has to run
//! on the test's own arbiter then, whose clock it is:
//! [`start_in_arbiter`](crate::QuorumBuilder::start_in_arbiter). When a recorder on that arbiter has
//! seen a change, a subscriber on it has it in its mailbox, and handles it before what it is sent
//! after.
//!
//! ```toml
//! [dev-dependencies]
//! actix-quorum = { version = "0.1", features = ["sim"] }
//! tokio = { version = "1", features = ["test-util"] }
//! ```
//!
//! ```
//! use actix::prelude::*;
//! use actix_quorum::{QuorumActor, QuorumChanged, sim::{Cluster, Recorder}};
//!
//! /// Your actor: may write while there is quorum.
//! #[derive(Default)]
//! struct Writer {
//!     writing: bool,
//! }
//!
//! impl Actor for Writer {
//!     type Context = Context<Self>;
//! }
//!
//! impl Handler<QuorumChanged> for Writer {
//!     type Result = ();
//!
//!     fn handle(&mut self, change: QuorumChanged, _: &mut Self::Context) {
//!         self.writing = change.current.quorum.is_quorate();
//!     }
//! }
//!
//! #[derive(Message)]
//! #[rtype(result = "bool")]
//! struct IsWriting;
//!
//! impl Handler<IsWriting> for Writer {
//!     type Result = bool;
//!
//!     fn handle(&mut self, _: IsWriting, _: &mut Self::Context) -> bool {
//!         self.writing
//!     }
//! }
//!
//! # fn main() {
//! # System::new().block_on(
//! // With `#[actix::test]` above it, this is a test.
//! async {
//!     tokio::time::pause();
//!     let cluster = Cluster::new(3);
//!     let writer = Writer::default().start();
//!     let quorum = QuorumActor::builder()
//!         .source(cluster.node(1))
//!         .subscribe(writer.clone().recipient())
//!         .start_in_arbiter(&Arbiter::current());
//!     let mut recorder = Recorder::new(&quorum);
//!
//!     recorder.expect_gain().await;
//!     assert_eq!(writer.send(IsWriting).await, Ok(true));
//!
//!     cluster.partition(&[&[1], &[2, 3]]).unwrap();
//!     recorder.expect_loss().await;
//!     assert_eq!(writer.send(IsWriting).await, Ok(false));
//!
//!     tokio::time::sleep(std::time::Duration::from_secs(3600)).await; // takes no time
//!     cluster.heal();
//!     let change = recorder.expect_gain().await;
//!     assert!(change.current.epoch > 0, "others may have written meanwhile");
//!     assert_eq!(writer.send(IsWriting).await, Ok(true));
//!     quorum.stop().await;
//! }
//! # ); }
//! ```
//!
//! # What it leaves out
//!
//! Time, unless [`Cluster::timeouts`] is set: what a verb does to the cluster is done when it returns,
//! where a real cluster takes a token and a consensus timeout, and may form a ring in between that
//! nobody meant. A quorum device decides at once. The option `allow_downscale` of votequorum, and a
//! quorum device with `master_wins`.

mod clients;
mod cluster;
mod connection;
mod error;
mod node;
mod recorder;
mod totem;
mod votequorum;
mod world;

pub use self::{clients::Fault, cluster::Cluster, error::Error, node::Node, recorder::Recorder};
