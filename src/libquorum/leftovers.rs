//! Removes the empty directories in /dev/shm that libqb leaves after a connection to a killed
//! daemon.
//!
//! The daemon creates a directory for each connection and removes it when the connection ends. If
//! the daemon was killed, the client removes the files in the directory, but the directory stays
//! (libqb `lib/ipc_shm.c`).

use std::{
    fs,
    path::Path,
    process,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{io::Errno, process::Pid};

/// Whether leftovers may remain, because the process of a daemon was still running when a
/// connection to it was closed.
static MAY_BE_MORE: AtomicBool = AtomicBool::new(false);

/// Call this after closing a connection whose daemon may have been killed. It removes the
/// leftovers. If the daemon's process is still running, they are removed when the next connection
/// is opened.
pub(super) fn closed(server_is_gone: bool) {
    MAY_BE_MORE.fetch_or(!server_is_gone, Ordering::Relaxed);
    if server_is_gone {
        remove();
    }
}

/// Call this after opening a connection. It removes the leftovers, if there may be any.
pub(super) fn opened() {
    if MAY_BE_MORE.swap(false, Ordering::Relaxed) {
        remove();
    }
}

/// Removes this process's directories whose daemon has ended. A directory that contains a file
/// stays.
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

/// Returns the process id of the server in the name of a connection, if the connection is this
/// client's. The name is `qb-SERVER-CLIENT-NUMBER-RANDOM`, with both process ids.
fn server_of(name: &str, client: &str) -> Option<i32> {
    let mut parts = name.strip_prefix("qb-")?.split('-');
    let server = parts.next()?.parse().ok()?;
    (parts.next()? == client).then_some(server)
}

/// Whether no process has this id. The result may be wrong for an id from another PID namespace.
/// That does no harm, because only empty directories are removed.
fn is_gone(pid: i32) -> bool {
    Pid::from_raw(pid)
        .is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(Errno::SRCH))
}

const DIRECTORY: &str = "/dev/shm";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_directories_of_this_process_are_considered() {
        assert_eq!(server_of("qb-12-345-6-AbCdEf", "345"), Some(12));
        assert_eq!(server_of("qb-12-3456-6-AbCdEf", "345"), None);
        assert_eq!(server_of("qb-345-12-6-AbCdEf", "345"), None);
        assert_eq!(server_of("qb-corosync-12-blackbox-header", "12"), None);
        assert_eq!(server_of("other-12-345-6-AbCdEf", "345"), None);
    }
}
