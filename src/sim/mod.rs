//! A simulated Corosync cluster, for examples and for tests of your own actors. Feature `sim`.
//!
//! [`Cluster::new`] creates nodes that have formed a cluster. [`Cluster::node`] is a
//! [`Source`](crate::Source) for [`QuorumActor::builder`](crate::QuorumActor::builder). The methods
//! of [`Cluster`] then cause the events of real clusters, and the actor publishes what it would
//! publish on a real cluster: only the daemons are simulated.
//!
//! # Testing your actors
//!
//! These tests need neither Corosync nor root nor real time. A [`Recorder`] waits for published
//! changes. With tokio's clock paused, a test of what happens after half a minute takes
//! milliseconds. The clock belongs to the test's own arbiter, so the actor must run there:
//! [`start_in_arbiter`](crate::QuorumBuilder::start_in_arbiter). When a recorder on that arbiter
//! has received a change, each subscriber on the same arbiter has the change in its mailbox, and
//! handles it before any message that is sent later.
//!
//! ```toml
//! [dev-dependencies]
//! actix-quorum = { path = "a clone of this repository", features = ["sim"] }
//! tokio = { version = "1", features = ["test-util"] }
//! ```
//!
//! ```
//! use actix::prelude::*;
//! use actix_quorum::{QuorumActor, QuorumChanged, sim::{Cluster, Recorder}};
//!
//! /// Your actor, which may write while this node has quorum.
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
//! // Put `#[actix::test]` above an `async fn` with this body.
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
//!     assert!(change.current.epoch > 0, "other nodes may have written meanwhile");
//!     assert_eq!(writer.send(IsWriting).await, Ok(true));
//!     quorum.stop().await;
//! }
//! # ); }
//! ```
//!
//! # Limits
//!
//! Unless [`Cluster::timeouts`] is set, the simulation has no delays: a method has had its effect
//! on the cluster when it returns. A real cluster needs time: after a failure, it forms a ring when
//! its token and consensus timeouts have passed, and it may form another ring in between. A
//! simulated quorum device decides immediately. Votequorum's option `allow_downscale` and a quorum
//! device with `master_wins` are not simulated.

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
