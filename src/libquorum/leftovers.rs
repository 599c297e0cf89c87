//! The empty directories in /dev/shm that libqb leaves of connections to a daemon that was killed.
//!
//! The daemon makes a directory for each connection, and removes it when the connection ends. If it was
//! killed, the client removes the files in it, and the directory stays (libqb `lib/ipc_shm.c`).

use std::{
    fs,
    path::Path,
    process,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{io::Errno, process::Pid};

/// A daemon that was killed may not be gone yet.
static MAY_BE_MORE: AtomicBool = AtomicBool::new(false);

/// A connection to a daemon that may have been killed is closed. If its process is not gone, what is
/// left is removed with the next connection.
pub(super) fn closed(server_is_gone: bool) {
    MAY_BE_MORE.fetch_or(!server_is_gone, Ordering::Relaxed);
    if server_is_gone {
        remove();
    }
}

/// A connection is made.
pub(super) fn opened() {
    if MAY_BE_MORE.swap(false, Ordering::Relaxed) {
        remove();
    }
}

/// Removes those of this process whose daemon is gone. A directory that holds a file stays.
fn remove() {
    let Ok(entries) = fs::read_dir(DIRECTORY) else { return };
    let client = process::id().to_string();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let server = name.to_str().and_then(|name| server_of(name, &client));
        if server.is_some_and(is_gone) {
            let _ = fs::remove_dir(Path::new(DIRECTORY).join(name));
        }
    }
}

/// The server of a connection of this client: `qb-SERVER-CLIENT-NUMBER-RANDOM`, both process ids.
fn server_of(name: &str, client: &str) -> Option<i32> {
    let mut parts = name.strip_prefix("qb-")?.split('-');
    let server = parts.next()?.parse().ok()?;
    (parts.next()? == client).then_some(server)
}

/// Whether there is no process of this id. One of another PID namespace may have it; then the ids in the
/// names are of that namespace too, and what is removed is empty all the same.
fn is_gone(pid: i32) -> bool {
    Pid::from_raw(pid)
        .is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(Errno::SRCH))
}

const DIRECTORY: &str = "/dev/shm";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_of_this_process_is_looked_at() {
        assert_eq!(server_of("qb-12-345-6-AbCdEf", "345"), Some(12));
        assert_eq!(server_of("qb-12-3456-6-AbCdEf", "345"), None);
        assert_eq!(server_of("qb-345-12-6-AbCdEf", "345"), None);
        assert_eq!(server_of("qb-corosync-12-blackbox-header", "12"), None);
        assert_eq!(server_of("other-12-345-6-AbCdEf", "345"), None);
    }
}
