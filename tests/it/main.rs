//! The tests that can share one process. They run side by side.
//!
//! One module per topic, grouped by the requirements of the tests:
//!
//! - `sim`: nothing; they run on the simulated cluster, most of them with a paused clock.
//! - `daemon`: root and one Corosync daemon, or a C compiler for a fake libquorum.
//! - `cluster`: root and several Corosync daemons, each in a network namespace.
//! - `web`: a server on loopback; some need Chromium.
//!
//! A test that needs its own process is in `tests/own/`.

#[path = "../support/mod.rs"]
mod support;

mod cluster;
mod daemon;
mod rooms;
mod sim;
#[cfg(feature = "web")]
mod web;
