//! The handles of one library that are open, and the lock around making and closing them.

use std::{os::fd::RawFd, thread, time::Duration};

use parking_lot::{Mutex, MutexGuard};

use super::Server;
use crate::Error;

/// The handles of one of Corosync's libraries that are open in this process.
///
/// Locked while a handle is made or closed: the libraries' tables of handles have no lock of their
/// own (libqb `lib/hdb.c`), and connecting in two threads at a time corrupts them. What is kept are
/// the sockets of the handles, to tell them apart.
#[derive(Debug)]
pub(super) struct Open(Mutex<Vec<RawFd>>);

impl Open {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Locks it to make a handle.
    pub(super) fn lock(&self) -> Result<MutexGuard<'_, Vec<RawFd>>, Error> {
        self.0.try_lock_for(PATIENCE).ok_or(Error::Busy)
    }

    /// Closes a handle by `finalize`, now or, if another thread hangs in making one, once it has
    /// ended. If the connection is `lost`, its server's process is waited for to be gone: only then
    /// libqb removes the connection's files from /dev/shm (libqb `lib/ipc_shm.c`).
    pub(super) fn close<T: Send + 'static>(
        &'static self,
        server: Option<(RawFd, Server)>,
        lost: bool,
        finalize: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        if let Some((_, server)) = server.filter(|_| lost) {
            server.wait_gone(SERVER_GONE);
        }
        let close = move |open: &mut Vec<RawFd>| {
            open.retain(|socket| server.is_none_or(|(ours, _)| *socket != ours));
            finalize()
        };
        if let Some(mut open) = self.0.try_lock_for(CLOSING) {
            return Some(close(&mut open));
        }
        // It must still be closed: Corosync would queue notifications for it without a bound.
        let closer = thread::Builder::new().name("corosync-closer".into());
        if let Err(error) = closer.spawn(move || drop(close(&mut self.0.lock()))) {
            log::error!("a connection to corosync stays open: cannot start a thread: {error}");
        }
        None
    }
}

/// How long to wait to make a handle: connecting takes milliseconds, unless the daemon is hung.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait to close one.
const CLOSING: Duration = Duration::from_millis(100);

/// How long to wait for the process of a dead daemon to be gone.
const SERVER_GONE: Duration = Duration::from_millis(200);
