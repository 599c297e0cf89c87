//! Tests on several daemons.

mod conformance;
mod harness;
mod outcomes;
mod ring;
