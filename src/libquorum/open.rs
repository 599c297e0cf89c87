//! The lock around opening and closing the handles of one library.

use std::{
    os::fd::{BorrowedFd, RawFd},
    time::Duration,
};

use corosync_sys as sys;
use parking_lot::{Mutex, MutexGuard};

use super::{
    PeerProcess,
    canceller::{Canceller, Peer},
    descriptors, leftovers, server,
};
use crate::error::{Code, Error};

/// Opens and closes the handles of one of Corosync's libraries, one at a time. The libraries'
/// handle tables have no lock of their own (libqb `lib/hdb.c`), and two threads that connect at the
/// same time corrupt them.
pub(super) struct HandleTable {
    one_at_a_time: Mutex<()>,
    /// Handles that the next thread that unlocks the table must close.
    closing: Mutex<Vec<Close>>,
}

type Close = Box<dyn FnOnce() + Send>;

/// An open connection.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) handle: u64,
    pub(super) peer_link: PeerLink,
}

/// The link of a connection to its server.
#[derive(Clone, Debug)]
pub(super) struct PeerLink {
    /// The process that accepted the connection, if the system reports it.
    pub(super) server: Option<PeerProcess>,
    /// The connected socket, or `None` if it could not be identified.
    pub(super) socket: Option<RawFd>,
    canceller: Canceller,
}

impl HandleTable {
    pub(super) const fn new() -> Self {
        Self { one_at_a_time: Mutex::new(()), closing: Mutex::new(Vec::new()) }
    }

    /// Opens a handle of the `service`. Blocks until the daemon answers or `peer`'s canceller
    /// cancels the call.
    ///
    /// The closures call the library's functions for a handle and its descriptor. In each of the
    /// libraries a handle is a number.
    pub(super) fn make(
        &self,
        service: &'static [u8],
        peer: Peer<'_>,
        initialize: impl FnOnce(&mut u64) -> sys::cs_error_t,
        fd_get: impl FnOnce(u64, &mut RawFd) -> sys::cs_error_t,
        finalize: impl FnOnce(u64) -> sys::cs_error_t,
    ) -> Result<Opened, Error> {
        let alone =
            self.one_at_a_time.try_lock_for(CONNECT_TIMEOUT).ok_or(Error::ConnectInProgress)?;
        let mut restored = Ok(());
        let made = make(service, peer, initialize, fd_get, finalize, &mut restored);
        self.unlock(alone);
        // The logger runs without the lock.
        if let Err(error) = restored {
            crate::foreign::log!(
                log::Level::Error,
                "libqb closed file descriptor 0, which cannot be restored: {error}. The next file that \
                 this process opens becomes its standard input"
            );
        }
        made
    }

    /// Closes a handle with `finalize`. If another thread hangs while it opens a handle, this
    /// returns `None`, and the other thread closes this handle when it has finished. If the
    /// connection is `lost`, this first waits up to `SERVER_GONE` for the server's process to end,
    /// because libqb removes the connection's files from /dev/shm only after that (libqb
    /// `lib/ipc_shm.c`).
    pub(super) fn close<T: Send + 'static>(
        &'static self,
        peer_link: &PeerLink,
        lost: bool,
        finalize: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let is_gone =
            peer_link.server.filter(|_| lost).and_then(|server| server.wait_gone(SERVER_GONE));
        if let Some(socket) = peer_link.socket {
            // From now on the number may refer to another file.
            peer_link.canceller.closes(socket);
        }
        let close = move || {
            let finalized = finalize();
            if let Some(is_gone) = is_gone {
                leftovers::closed(is_gone);
            }
            finalized
        };
        if let Some(alone) = self.one_at_a_time.try_lock_for(CLOSE_TIMEOUT) {
            let closed = close();
            self.unlock(alone);
            return Some(closed);
        }
        // The handle must still be closed: otherwise Corosync would queue notifications for it
        // without a limit.
        self.closing.lock().push(Box::new(move || drop(close())));
        if let Some(alone) = self.one_at_a_time.try_lock() {
            self.unlock(alone);
        }
        None
    }

    /// Closes the handles that other threads could not close, and unlocks the table.
    fn unlock<'a>(&'a self, mut alone: MutexGuard<'a, ()>) {
        loop {
            let waiting = std::mem::take(&mut *self.closing.lock());
            waiting.into_iter().for_each(|close| close());
            drop(alone);
            // A thread that has added a handle meanwhile may have found the table locked.
            if self.closing.lock().is_empty() {
                return;
            }
            match self.one_at_a_time.try_lock() {
                Some(again) => alone = again,
                None => return,
            }
        }
    }
}

fn make(
    service: &'static [u8],
    peer: Peer<'_>,
    initialize: impl FnOnce(&mut u64) -> sys::cs_error_t,
    fd_get: impl FnOnce(u64, &mut RawFd) -> sys::cs_error_t,
    finalize: impl FnOnce(u64) -> sys::cs_error_t,
    restored: &mut rustix::io::Result<()>,
) -> Result<Opened, Error> {
    let descriptors = descriptors::Guard::new()?;
    let before: Vec<_> = server::streams(service).into_iter().map(|(stream, _)| stream).collect();
    peer.canceller.begin(service, before.clone())?;
    // Zero is not a valid handle.
    let mut handle = 0;
    let code = Code(initialize(&mut handle));
    if code != Code::OK {
        peer.canceller.end(None);
        // After an error from the daemon the handle is still open (libquorum `lib/quorum.c`). For a
        // closed handle, and for zero, `finalize` only returns CS_ERR_BAD_HANDLE.
        finalize(handle);
        *restored = descriptors.restore();
        return Err(not_connected(code, service, peer));
    }
    let (mut fd, mut found) = (-1, None);
    if Code(fd_get(handle, &mut fd)) == Code::OK {
        // SAFETY: the library has just returned the descriptor; it is open until `close`.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        found = PeerProcess::of(fd, service, &before);
    }
    let socket = found.filter(|found| found.is_ours).map(|found| found.socket);
    peer.canceller.end(socket);
    leftovers::opened();
    let server = found.map(|found| found.server);
    Ok(Opened { handle, peer_link: PeerLink { server, socket, canceller: peer.canceller.clone() } })
}

/// Returns the error of a failed attempt to connect. The library's code alone does not show the
/// cause.
fn not_connected(code: Code, service: &[u8], peer: Peer<'_>) -> Error {
    match (peer.uid, peer.canceller.refused()) {
        (Some(expected), Some(found)) => {
            return Error::UntrustedServer { found: Some(found), expected };
        }
        _ if peer.canceller.is_cancelled() || peer.canceller.was_interrupted() => {
            return Error::Unresponsive;
        }
        _ => {}
    }
    let is_absent = code == Code::NOT_EXIST
        && server::uses_file_system()
        && !server::socket_file(service).exists();
    if is_absent { Error::NoSocket } else { Error::Connect(code) }
}

/// How long to wait for the lock to open a handle: connecting takes milliseconds, unless the daemon
/// is hung.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for the lock to close a handle.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(100);

/// How long to wait for the process of a dead daemon to end.
const SERVER_GONE: Duration = Duration::from_millis(200);
