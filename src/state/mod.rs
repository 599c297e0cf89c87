//! Room 3: the state as pure values, and the rules that apply events to it.
//!
//! The rules receive an event with the moment at which it happened, and return a new [`Snapshot`]
//! and the [`QuorumChanged`] that leads to it. Code in this room reads no clock, does no input or
//! output and needs no running actor. Start reading at `Tracker::apply`.

mod change;
mod continuity;
mod departures;
mod display;
mod event;
#[cfg(any(test, fuzzing))]
pub mod fuzz_driver;
pub(crate) mod lease;
mod link_state;
mod nodes;
#[cfg(any(test, fuzzing))]
mod oracle;
mod ring;
mod snapshot;
mod tracker;
mod votes;

#[cfg(feature = "serde")]
pub(crate) use self::snapshot::rfc3339;
pub(crate) use self::{
    change::{AckOnDrop, Acknowledge},
    departures::DepartureLog,
    event::{BeliefPolicy, Event, Now},
    snapshot::first,
    tracker::Tracker,
};
pub use self::{
    change::{Cause, QuorumChanged},
    nodes::Nodes,
    ring::RingState,
    snapshot::{Connection, FencingToken, Quorum, Snapshot},
};
