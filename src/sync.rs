//! The atomics that are tried in every order that the memory model allows, by loom, under
//! `--cfg loom_check`.

#[cfg(all(test, loom_check))]
pub(crate) use loom::sync::atomic::{AtomicU8, AtomicU64, Ordering};
#[cfg(not(all(test, loom_check)))]
pub(crate) use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
