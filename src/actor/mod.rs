//! Room 5: the actor, and what users hold of it.
//!
//! The actor starts, ends and restarts the connection and passes what comes from it to the state; its handle, guards
//! and messages are the public API. Nothing here talks to libquorum or decides about quorum. Begin reading at
//! `quorum_actor.rs`.

mod builder;
mod guard;
mod handle;
mod log_lines;
mod messages;
pub mod policy;
mod quorum_actor;
pub(crate) mod shared;

pub use self::{
    builder::QuorumBuilder,
    guard::{QuorumGuard, QuorumLost},
    handle::{QuorumHandle, Stopped},
    messages::{GetSnapshot, Subscribe, Unsubscribe},
    quorum_actor::QuorumActor,
};
