//! Facts about processes from the kernel, and running programs.

use std::{
    fs,
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use super::eventually;

/// Runs a program to its end and returns its standard output; panics unless it succeeds.
#[track_caller]
pub fn command(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Returns the number of open file descriptors of this process.
pub fn open_fds() -> usize {
    let listed = fs::read_dir("/proc/self/fd").expect("/proc is mounted").count();
    listed - 1 // without the descriptor that lists them
}

/// Returns the number of threads of this process.
pub fn threads() -> usize {
    fs::read_dir("/proc/self/task").expect("/proc is mounted").count()
}

/// Whether a thread of this process has this name.
pub fn runs_thread(name: &str) -> bool {
    let threads = fs::read_dir("/proc/self/task").expect("/proc is mounted");
    threads.flatten().any(|thread| {
        let found = fs::read_to_string(thread.path().join("comm"));
        found.is_ok_and(|found| found.trim_end() == name)
    })
}

/// Waits until no thread of this process that makes blocking calls to Corosync is left.
#[track_caller]
pub fn no_thread_waits() {
    for name in ["quorum-connect", "quorum-probe", "quorum-ring", "quorum-names", "quorum-cancel"] {
        eventually(&format!("{name} ends"), || (!runs_thread(name)).then_some(()));
    }
}

/// Returns the resident memory of this process, in KiB.
pub fn rss_kib() -> u64 {
    fs::read_to_string("/proc/self/status")
        .expect("/proc is mounted")
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok())
        .expect("a process has a VmRSS line")
}

/// Returns the entries in `/dev/shm` of the connections of the client process `pid` to any libqb
/// server.
///
/// libqb names them `qb-<server>-<client>-<number>-<random>`, with both process ids.
pub fn dev_shm_entries(pid: u32) -> Vec<String> {
    dev_shm(|name| client_of(name) == Some(pid))
}

/// Returns the client in the name of a connection. The log of a daemon in memory is named
/// `qb-corosync-<server>-blackbox-...` and belongs to no client, though a later process may have
/// the process id of a daemon that was killed.
pub fn client_of(name: &str) -> Option<u32> {
    let mut parts = name.strip_prefix("qb-")?.split('-');
    let _server: u32 = parts.next()?.parse().ok()?;
    parts.next()?.parse().ok()
}

/// Returns the entries in `/dev/shm` that `wanted` accepts.
pub(super) fn dev_shm(wanted: impl Fn(&str) -> bool) -> Vec<String> {
    fs::read_dir("/dev/shm")
        .expect("/dev/shm is mounted")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| wanted(name))
        .collect()
}

/// Whether the process exists and is not a zombie.
pub(super) fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| state(&stat) != Some('Z'))
}

/// Returns one line for each thread of the process: its name, its state, and the kernel function in
/// which it waits.
pub(super) fn describe_threads(pid: u32) -> String {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let line = |thread: fs::DirEntry| {
        let read = |file| fs::read_to_string(thread.path().join(file)).unwrap_or_default();
        let state = state(&read("stat")).unwrap_or('?');
        format!("{} {state} {}", read("comm").trim_end(), read("wchan"))
    };
    threads.map(line).collect::<Vec<_>>().join("\n")
}

/// Whether every thread of the process is stopped by a signal.
pub(super) fn is_stopped(pid: u32) -> bool {
    let Ok(mut threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    threads.all(|thread| {
        let stat = thread.and_then(|thread| fs::read_to_string(thread.path().join("stat")));
        stat.is_ok_and(|stat| state(&stat) == Some('T'))
    })
}

/// Returns the state letter in a `stat` file. The name before it may contain any character.
fn state(stat: &str) -> Option<char> {
    stat.rsplit(") ").next()?.chars().next()
}

/// Suspends a process (SIGSTOP), and returns when it has stopped.
#[track_caller]
pub fn pause_process(pid: u32) {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("the process id is valid");
    kill_process(process, Signal::STOP).expect("the process exists");
    eventually(&format!("process {pid} stops"), || is_stopped(pid).then_some(()));
}

/// Waits until a thread of this process sleeps in `poll`.
pub fn wait_asleep(thread: i32) {
    eventually("the thread blocks in poll", || {
        let waits_in = fs::read_to_string(format!("/proc/self/task/{thread}/syscall")).ok()?;
        let number: i64 = waits_in.split(' ').next()?.parse().ok()?;
        [libc::SYS_poll, libc::SYS_ppoll].contains(&number).then_some(())
    });
}
