//! Tests on several daemons.

mod conformance;
mod harness;
mod ring;
