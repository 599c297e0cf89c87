//! Real Corosync daemons in network namespaces, impostors of them, a fake libquorum, and a browser,
//! for the tests.
//!
//! Everything here removes what it made when it is dropped, and sweeps away what a test process
//! that died could not remove. It needs root, Corosync and `ip`, except for the fake library;
//! the impostors need libqb's development files, and the browser is Chromium.

// Each test binary uses its own part.
#![allow(dead_code, unreachable_pub, unused_imports)]

mod browser;
mod cluster;
mod compile;
mod corosync;
mod daemon;
mod fake;
mod flipper;
pub mod hostile;
mod http;
mod leftovers;
mod netns;
mod process;
mod running;
#[cfg(feature = "web")]
mod service;
mod staged;
mod thread;
mod watcher;

use std::{
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    thread::sleep,
    time::{Duration, Instant},
};

use actix::Arbiter;

use self::compile::compile;
#[cfg(feature = "web")]
pub use self::service::{Service, Setup};
pub use self::{
    browser::Browser,
    cluster::{Cluster, Node, nodelist},
    corosync::{Config, Corosync, Ipc, Quorumtool},
    fake::{FakeLibquorum, List, Variant, fake_libquorum},
    flipper::Flipper,
    hostile::{Hostile, Message, Step},
    http::{Client, Event},
    leftovers::{TempDir, shm_of, sweep, unique_name},
    netns::Netns,
    process::{
        command, dev_shm_entries, open_fds, pause_process, rss_kib, runs_thread, threads,
        wait_asleep,
    },
    running::Running,
    staged::StagedLibquorum,
    thread::{as_user, fill_dev_shm, on_fresh_thread, small_dev_shm},
    watcher::{Forward, Watcher, assert_never_quorate, connected, lines, quick, quorate},
};

/// The turn of a test that can share with no other what is the process's: its descriptors, threads
/// and memory, and the lock around libquorum, which a call that hangs keeps.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a future of code that is no actor.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(future)
}

/// Keeps an arbiter busy until what is returned is dropped.
#[must_use]
pub fn hold(arbiter: &Arbiter) -> mpsc::Sender<()> {
    let (release, held) = mpsc::channel();
    arbiter.spawn_fn(move || {
        let _ = held.recv();
    });
    release
}

/// Polls `condition` until it gives a value, and panics with `what` when it has not by `deadline`.
///
/// The only place in the tests that sleeps, with [`eventually_async`].
#[track_caller]
pub fn eventually<T>(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = in_time(start, deadline, what, &mut condition) {
            return value;
        }
        sleep(Duration::from_millis(5));
    }
}

#[track_caller]
fn in_time<T>(
    start: Instant,
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> Option<T> {
    let value = condition();
    assert!(value.is_some() || start.elapsed() < deadline, "not within {deadline:?}: {what}");
    value
}

/// The same for a thread that has more to do.
pub async fn eventually_async<T>(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = in_time(start, deadline, what, &mut condition) {
            return value;
        }
        actix::clock::sleep(Duration::from_millis(5)).await;
    }
}
