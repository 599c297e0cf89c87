//! Flips of quorum on a real Corosync, as they arrive at different clients.

use crate::report::Report;

pub(crate) fn run(_: &mut Report) {}

pub(crate) fn client(_: &str) {}
