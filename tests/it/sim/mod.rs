//! Tests on the simulated cluster, and tests without a cluster.

mod alerts;
mod edges;
mod examples;
mod failsafe;
mod readme;
mod ring;
#[cfg(feature = "serde")]
mod serde;
mod subscribers;
mod verbs;
mod votes;
