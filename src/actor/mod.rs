//! Room 5: the actor and its public API.
//!
//! The actor opens, closes and reopens the connection and passes each event of the connection to
//! the state. Its handle, guards and messages are the public API. Code in this room neither calls
//! libquorum nor decides about quorum. Start reading at `quorum_actor.rs`.

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
