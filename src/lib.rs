// Defines the README's picture and links for the documentation, where the README's files do not
// exist. Markdown uses the first definition of a link, so these replace those in the README.
#![doc = include_str!("architecture.md")]
#![doc = "[failures]: crate::failures"]
#![doc = "[guide]: crate::guide"]
#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]
#![warn(clippy::too_many_lines)]
#![cfg_attr(docsrs, feature(doc_cfg))]

// The property tests refer to the crate by name, as its users do.
#[cfg(test)]
extern crate self as actix_quorum;

mod actor;
mod error;
mod foreign;
#[cfg(feature = "serde")]
pub mod json;
#[allow(unsafe_code)]
pub mod libquorum;
mod link;
#[cfg(feature = "metrics")]
pub mod metrics;
mod registry;
#[cfg(feature = "sim")]
pub mod sim;
mod state;
mod sync;
pub mod testing;
#[cfg(feature = "web")]
pub mod web;

#[doc = include_str!("../FAILURES.md")]
pub mod failures {}

#[doc = include_str!("../GUIDE.md")]
pub mod guide {}

pub use corosync_sys::LoadError;

/// The property tests are part of the unit tests, in which the oracle in `state/oracle/` checks
/// every event of every actor.
#[cfg(all(test, feature = "sim"))]
#[path = "../tests/property/mod.rs"]
mod property;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub use self::state::fuzz_driver;
pub use self::{
    actor::{
        GetSnapshot, QuorumActor, QuorumBuilder, QuorumGuard, QuorumHandle, QuorumLost, Stopped,
        Subscribe, Unsubscribe, policy,
    },
    error::{Code, Error, IoError},
    libquorum::{NodeId, ParseRingIdError, RingId, VoteFlags, Votes},
    link::{Backoff, Corosync, Source},
    registry::{Subscriber, SubscriptionId},
    state::{Cause, Connection, FencingToken, Nodes, Quorum, QuorumChanged, RingState, Snapshot},
};
