//! The tests that need their own process: they count its descriptors, threads or memory, end it,
//! set its logger or its metrics recorder, or leave a thread hanging in libquorum, which prevents
//! the process from opening any other connection.
//!
//! Each test begins with `own_process!()`, which runs it alone in a new process of this program, or
//! starts its own processes. So these tests also run in parallel.

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
mod libcmap;
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
