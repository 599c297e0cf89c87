//! Tests on the simulated cluster, and of what needs no cluster at all.

mod alerts;
mod edges;
mod examples;
mod failsafe;
mod property;
mod readme;
mod ring;
#[cfg(feature = "serde")]
mod serde;
mod subscribers;
mod verbs;
mod votes;
