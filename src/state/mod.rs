//! What is true now: pure values, and the folding of events into them.
//!
//! No clock, no input, no output, no actix: an event comes with the moment at which it happened, and
//! a [`Snapshot`] comes out. Begin reading at `Tracker::apply`.

mod continuity;
mod ring;
mod snapshot;
mod tracker;

#[cfg(feature = "serde")]
pub(crate) use self::snapshot::rfc3339;
pub use self::{
    ring::RingState,
    snapshot::{Connection, FencingToken, Quorum, Snapshot},
};
pub(crate) use self::{
    ring::{RingCounters, RingReading, SECOND_READ},
    snapshot::first,
    tracker::{Departures, Event, Now, RingUpdate, Rules, Tracker},
};
