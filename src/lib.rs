// The picture of the README, where there are no files beside it. The first that is named so is taken.
#![doc = include_str!("architecture.md")]
#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod actor;
mod backoff;
mod builder;
mod connection;
mod connector;
mod corosync;
mod display;
mod error;
mod foreign;
mod guard;
mod handle;
#[cfg(feature = "serde")]
pub mod json;
mod lease;
#[allow(unsafe_code)]
pub mod libquorum;
mod log_lines;
mod messages;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(any(feature = "metrics", feature = "web"))]
mod names;
mod nodes;
#[allow(unsafe_code)]
mod notifications;
#[cfg(any(test, fuzzing))]
mod oracle;
pub mod policy;
mod probe;
mod registry;
mod ring_watch;
mod shared;
#[cfg(feature = "sim")]
pub mod sim;
mod state;
mod sync;
pub mod testing;
mod turn;
mod votes;
#[cfg(feature = "web")]
pub mod web;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod whatever_comes;
mod worker;

#[doc = include_str!("../FAILURES.md")]
pub mod failures {}

#[doc = include_str!("../GUIDE.md")]
pub mod guide {}

pub use corosync_sys::LoadError;

pub use self::{
    actor::QuorumActor,
    backoff::Backoff,
    builder::QuorumBuilder,
    connection::Source,
    corosync::Corosync,
    error::{Code, Error, IoError},
    guard::{QuorumGuard, QuorumLost},
    handle::{QuorumHandle, Stopped},
    libquorum::{NodeId, ParseRingIdError, RingId},
    messages::{Cause, GetSnapshot, QuorumChanged, Subscribe, Unsubscribe},
    nodes::Nodes,
    registry::{Subscriber, SubscriptionId},
    state::{Connection, FencingToken, Quorum, RingState, Snapshot},
    votes::{VoteFlags, Votes},
};
