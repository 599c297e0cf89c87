//! Support for the tests: real Corosync daemons in network namespaces, servers that pose as
//! Corosync, a fake libquorum, and a browser.
//!
//! Everything here removes what it created when it is dropped, and removes the leftovers of test
//! processes that died. It needs root, Corosync and `ip`, except for the fake library; the
//! servers that pose as Corosync need libqb's development files, and the browser is Chromium.

// Each of the two test programs uses a part of this module.
#![allow(dead_code, unreachable_pub, unused_imports, unused_macros)]

mod browser;
mod cases;
mod cluster;
mod compile;
mod corosync;
mod daemon;
mod fake;
mod faults;
mod flipper;
pub mod hostile;
mod http;
mod impostor;
mod leftovers;
mod loaded;
mod netns;
#[macro_use]
mod own_process;
mod process;
mod promtool;
mod qdevice;
mod report;
mod running;
#[cfg(feature = "web")]
mod service;
mod staged;
mod thread;
mod watcher;

use std::{
    fs::File,
    path::Path,
    sync::{Arc, mpsc},
    thread::sleep,
    time::{Duration, Instant},
};

use actix::Arbiter;
use actix_quorum::{QuorumHandle, RingState, Snapshot};
use rustix::fs::{FlockOperation, flock};

use self::compile::compile;
#[cfg(feature = "web")]
pub use self::service::{Service, Setup};
pub use self::{
    browser::Browser,
    cases::{Case, Process, case_command, run_case, run_cases, with_code},
    cluster::{Cluster, Node, nodelist},
    corosync::{Config, Corosync, Ipc, Quorumtool, Token, Transport},
    fake::{FakeLibquorum, List, Variant, fake_libquorum},
    flipper::Flipper,
    hostile::{Hostile, Message, Step},
    http::{Client, Event},
    impostor::{Impostor, connect_as_other_code},
    leftovers::{TempDir, shm_of, sweep, unique_name},
    loaded::{FUNCTIONS, Fake, THREE, connect, fake_source, ids, until_connected},
    netns::Netns,
    own_process::is_run_elsewhere,
    process::{
        client_of, command, dev_shm_entries, no_thread_waits, open_fds, pause_process, rss_kib,
        runs_thread, threads, wait_asleep,
    },
    promtool::promtool,
    qdevice::{Algorithm, Device, Qdevice, Qnetd},
    running::{Running, binary, example},
    staged::StagedLibquorum,
    thread::{as_user, fill_dev_shm, on_fresh_thread, small_dev_shm, without_library},
    watcher::{
        Forward, Watcher, assert_never_quorate, connected, last_quorate, lines, quick, quorate,
    },
};

/// How long a test waits for an expected event. A test waits that long only if the event does not
/// happen, so the time is long enough for a busy machine. No time in the crate depends on it.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Locks out the other tests that assert how long something takes, in all processes. Drop the file
/// to unlock.
#[must_use]
pub fn alone() -> File {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("alone");
    let file = File::create(path).expect("cargo has made the directory");
    flock(&file, FlockOperation::LockExclusive).expect("a file can be locked");
    file
}

/// Runs a future outside of actors.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(future)
}

/// Blocks an arbiter until the returned sender is dropped.
#[must_use]
pub fn hold(arbiter: &Arbiter) -> mpsc::Sender<()> {
    let (release, held) = mpsc::channel();
    arbiter.spawn_fn(move || {
        let _ = held.recv();
    });
    release
}

/// Polls `condition` until it returns a value. Panics with `what` if it returns none
/// within [`DEADLINE`].
///
/// Only this and [`eventually_async`] sleep in the tests.
#[track_caller]
pub fn eventually<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    eventually_within(DEADLINE, what, condition)
}

/// Like [`eventually`], with a deadline that is part of a guarantee.
#[track_caller]
pub fn eventually_within<T>(
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

/// Waits until everything that follows a gain of quorum is published: the votes and the state of
/// the ring. Returns the last snapshot.
#[track_caller]
pub fn all_published(quorum: &QuorumHandle) -> Arc<Snapshot> {
    eventually("everything about the quorate ring is published", || {
        let now = quorum.snapshot();
        (now.ring == RingState::Operational && now.fencing_token().is_some()).then_some(now)
    })
}

/// Does the same as [`eventually`] on a thread with other tasks.
pub async fn eventually_async<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = in_time(start, DEADLINE, what, &mut condition) {
            return value;
        }
        actix::clock::sleep(Duration::from_millis(5)).await;
    }
}
