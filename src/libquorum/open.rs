//! The handles of one library that are open, and the lock around making and closing them.

use std::{
    os::fd::{BorrowedFd, RawFd},
    thread,
    time::Duration,
};

use corosync_sys as sys;
use parking_lot::Mutex;

use super::{Server, descriptors, leftovers};
use crate::{Code, Error};

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

    /// Makes a handle of the `service`. Blocks until the daemon answers.
    ///
    /// The calls are those of the library, for a handle and its descriptor; all of its handles are
    /// numbers.
    pub(super) fn make(
        &self,
        service: &[u8],
        initialize: impl FnOnce(&mut u64) -> sys::cs_error_t,
        fd_get: impl FnOnce(u64, &mut RawFd) -> sys::cs_error_t,
        finalize: impl FnOnce(u64) -> sys::cs_error_t,
    ) -> Result<(u64, Option<(RawFd, Server)>), Error> {
        let mut open = self.0.try_lock_for(PATIENCE).ok_or(Error::Busy)?;
        let descriptors = descriptors::Guard::new()?;
        // Zero is no handle.
        let mut handle = 0;
        let code = Code(initialize(&mut handle));
        if code != Code::OK {
            // An error that the daemon sent leaves the handle open (libquorum `lib/quorum.c`). For one
            // that is no more, and for zero, this is CS_ERR_BAD_HANDLE.
            finalize(handle);
            descriptors.restore();
            return Err(Error::Connect(code));
        }
        let mut fd = -1;
        let mut server = None;
        if Code(fd_get(handle, &mut fd)) == Code::OK {
            // SAFETY: the library has just given the descriptor out; it is open until `close`.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            server = Server::of(fd, service, &open);
        }
        open.extend(server.map(|(socket, _)| socket));
        leftovers::opened();
        Ok((handle, server))
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
        let is_gone = server.filter(|_| lost).and_then(|(_, server)| server.wait_gone(SERVER_GONE));
        let close = move |open: &mut Vec<RawFd>| {
            open.retain(|socket| server.is_none_or(|(ours, _)| *socket != ours));
            let finalized = finalize();
            if let Some(is_gone) = is_gone {
                leftovers::closed(is_gone);
            }
            finalized
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
