//! Tests on one real daemon, or on a fake libquorum.

mod actor;
mod examples;
mod fake;
mod handle;
mod harness;
mod quorum_watch;
