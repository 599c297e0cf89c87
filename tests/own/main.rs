//! The tests that need a process of their own: they count its descriptors, threads or memory, end
//! it, set its logger or its metrics recorder, or leave a thread hanging in libquorum, which keeps
//! every other thread of the process from connecting.
//!
//! Each begins with `own_process!()`, which runs it alone in a new process of this program (`exit`
//! and the policies that end the process start theirs themselves). So they too run side by side.

#[path = "../support/mod.rs"]
#[macro_use]
mod support;

mod descriptors;
mod detached;
mod encrypted;
mod exit;
mod exit_process;
mod files;
#[cfg(feature = "metrics")]
mod foreign;
mod hang;
mod hostile;
mod hung;
mod lease;
mod logger;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "web")]
mod names;
mod reconnect;
mod soak;
mod stop;
mod stop_system;
#[cfg(target_os = "linux")]
mod systemd;
mod user_namespace;
