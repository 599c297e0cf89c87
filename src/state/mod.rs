//! Room 3: the state as pure values, and the folding of events into them.
//!
//! An event comes with the moment at which it happened; a new [`Snapshot`] and the [`QuorumChanged`] that leads to
//! it come out. There is no clock here, no input, no output and no running actor. Begin reading at `Tracker::apply`.

mod change;
mod continuity;
mod departures;
mod display;
mod event;
#[cfg(any(test, fuzzing))]
pub mod fuzz_driver;
pub(crate) mod lease;
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
