//! Atomics that loom replaces under `--cfg loom_check`, to test every order that the memory model
//! allows.

#[cfg(all(test, loom_check))]
pub(crate) use loom::sync::atomic::{AtomicU8, AtomicU64, Ordering};
#[cfg(not(all(test, loom_check)))]
pub(crate) use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
