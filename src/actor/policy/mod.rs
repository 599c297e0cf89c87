//! Ready-made reactions of a service to a loss of quorum.
//!
//! [`StopSystem`] ends the process of an actix program. [`ExitProcess`] works in any program.
//! [`Systemd`] reports to systemd, whose watchdog can also end the service. For your own reaction,
//! read the changes in a loop:
//!
//! ```
//! use actix_quorum::QuorumHandle;
//! use futures_util::StreamExt;
//!
//! async fn react(quorum: QuorumHandle) {
//!     let mut changes = quorum.changes();
//!     while let Some(change) = changes.next().await {
//!         if change.is_loss() {
//!             println!("{change}");
//!         }
//!     }
//! }
//! # let cluster = actix_quorum::sim::Cluster::new(3);
//! # let quorum = actix_quorum::QuorumActor::builder().source(cluster.node(1)).start_detached();
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
//! # runtime.block_on(async {
//! #     quorum.wait_quorate().await.unwrap();
//! #     tokio::join!(react(quorum.clone()), quorum.stop());
//! # });
//! ```
//!
//! Code that must not run without quorum should call
//! [`is_quorate`](crate::QuorumHandle::is_quorate) first, or run under a
//! [guard](crate::QuorumGuard).
//!
//! The guide explains [the guarantees and their limits](crate::guide#self-fencing).

mod exit_process;
mod stop_system;
#[cfg(target_os = "linux")]
mod systemd;

#[cfg(target_os = "linux")]
pub use self::systemd::Systemd;
pub use self::{exit_process::ExitProcess, stop_system::StopSystem};
