//! Room 2: the connection of one actor to one daemon.
//!
//! This room contains the traits of a source and its connections, the threads that make blocking
//! calls (connect, probe, ring watch, node names), the loop that waits for the descriptor, and the
//! delays between attempts. Code in this room does not decide about quorum: it passes the daemon's
//! messages on unchanged. Start reading at `notifications.rs`, which waits for the descriptor and
//! dispatches. `notifications/ring_reads.rs` explains how the ring is read.

pub(crate) mod backoff;
pub(crate) mod blocking_worker;
pub(crate) mod clock;
pub(crate) mod connection;
pub(crate) mod corosync;
#[cfg(any(feature = "metrics", feature = "web"))]
pub(crate) mod names;
#[allow(unsafe_code)]
pub(crate) mod notifications;
pub(crate) mod probe;
pub(crate) mod ring_reading;
pub(crate) mod ring_watch;
pub(crate) mod trust;
pub(crate) mod worker;

pub use self::{backoff::Backoff, connection::Source, corosync::Corosync};
