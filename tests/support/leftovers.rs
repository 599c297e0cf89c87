//! Names that identify their process, and the removal of the leftovers of dead test processes.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    command, eventually,
    process::{dev_shm, is_alive},
};

/// A directory of this test process, removed on drop.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        let path = env::temp_dir().join(unique_name());
        fs::create_dir(&path).expect("no other process makes a directory of this name");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns a name, `aq-<process id>-<number>`, for something that must not outlive this process.
///
/// The first call removes the leftovers of dead processes.
pub fn unique_name() -> String {
    static SWEPT: Once = Once::new();
    static NEXT: AtomicU32 = AtomicU32::new(0);

    SWEPT.call_once(sweep);
    format!("{PREFIX}{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Removes the processes, namespaces, directories and shared memory of test processes that have
/// ended. Other processes may do the same at the same time.
pub fn sweep() {
    for name in command("ip", &["netns", "list"]).lines() {
        let name = name.split_whitespace().next().unwrap_or_default();
        if is_left_over(name) {
            remove_netns(name);
        }
    }
    let entries = fs::read_dir(env::temp_dir()).expect("the temporary directory can be read");
    for entry in entries.flatten() {
        if !entry.file_name().to_str().is_some_and(is_left_over) {
            continue;
        }
        for pid in read_pids(&entry.path()) {
            if !is_alive(pid) {
                remove_shm_of(pid);
            }
        }
        let _ = fs::remove_dir_all(entry.path());
    }
}

/// Deletes a network namespace, if it exists, and kills every process in it.
pub(super) fn remove_netns(name: &str) {
    let inside = || -> Vec<u32> {
        let output = process::Command::new("ip").args(["netns", "pids", name]).output();
        let output = output.expect("ip can be run");
        let pids = String::from_utf8_lossy(&output.stdout).into_owned();
        // A test that has entered the namespace on its main thread is listed too.
        let other = |pid: &u32| *pid != process::id();
        pids.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(other).collect()
    };
    eventually(&format!("the processes in {name} are gone"), || {
        let pids = inside();
        for pid in &pids {
            let pid = Pid::from_raw(i32::try_from(*pid).expect("the process id fits into i32"))
                .expect("a process id is not 0");
            let _ = kill_process(pid, Signal::KILL);
        }
        pids.is_empty().then_some(())
    });
    let _ = process::Command::new("ip").args(["netns", "delete", name]).output();
}

/// Returns the entries of the daemon `pid` in `/dev/shm`.
pub fn shm_of(pid: u32) -> Vec<String> {
    let connections = format!("qb-{pid}-");
    let blackbox = format!("qb-corosync-{pid}-blackbox");
    dev_shm(|name| name.starts_with(&connections) || name.starts_with(&blackbox))
}

/// Removes the entries of the daemon `pid`, which has ended.
pub(super) fn remove_shm_of(pid: u32) {
    for name in shm_of(pid) {
        let path = Path::new("/dev/shm").join(name);
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
}

/// Records a daemon's process id in its directory, for a later removal.
pub(super) fn note_pid(directory: &Path, pid: u32) {
    let mut pids = read_pids(directory);
    pids.push(pid);
    let lines: Vec<String> = pids.iter().map(u32::to_string).collect();
    fs::write(directory.join(PIDS), lines.join("\n")).expect("the directory is writable");
}

/// Returns the process ids recorded in a directory.
pub(super) fn read_pids(directory: &Path) -> Vec<u32> {
    let pids = fs::read_to_string(directory.join(PIDS)).unwrap_or_default();
    pids.lines().filter_map(|pid| pid.parse().ok()).collect()
}

fn is_left_over(name: &str) -> bool {
    let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse().ok());
    owner.is_some_and(|pid| !is_alive(pid))
}

const PREFIX: &str = "aq-";
const PIDS: &str = "pids";
