//! Cancels calls that wait for a daemon. Corosync's libraries wait without a timeout, but a call
//! returns once its socket is shut down.

use std::{os::fd::RawFd, sync::Arc, thread, time::Duration};

use parking_lot::Mutex;

use super::server::{self, PeerProcess, Stream};
use crate::error::Error;

/// Cancels the calls of one thread. It knows the thread's connections and its attempt to connect.
#[allow(unreachable_pub, reason = "in a sealed trait with the features that read names")]
#[derive(Clone, Debug, Default)]
pub struct Canceller(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Whether the calls were cancelled for good.
    is_cancelled: bool,
    /// The user of the server that an attempt has reached, if this user is not trusted.
    refused: Option<u32>,
    /// The sockets of the connections. Each one is open as long as it is listed here.
    sockets: Vec<RawFd>,
    connecting: Option<Attempt>,
    /// Whether the last attempt was interrupted. The error of such an attempt shows nothing about
    /// the server.
    was_interrupted: bool,
}

/// A connection attempt. Only the library knows its socket.
#[derive(Debug)]
struct Attempt {
    service: &'static [u8],
    /// The sockets of this process that were connected to the service before the attempt.
    before: Vec<Stream>,
}

impl Canceller {
    /// Cancels for good: ends the waiting call, and makes every later call fail without waiting.
    ///
    /// A call that waits for an answer returns within two seconds (libqb `lib/ipcc.c`). A call that
    /// has not begun to wait yet is not ended: see [`cancel_until`](Self::cancel_until).
    pub(crate) fn cancel(&self) {
        let mut state = self.0.lock();
        state.is_cancelled = true;
        state.interrupt();
    }

    /// Ends the waiting call and the connections of the thread. The thread may connect again.
    ///
    /// Returns `false` if no connection was ended: the call has not begun to wait yet, or its
    /// socket cannot be identified now. The caller should then interrupt again later.
    pub(crate) fn interrupt(&self) -> bool {
        self.0.lock().interrupt()
    }

    /// Cancels for good if an attempt is waiting for a server that does not run as this user.
    pub(crate) fn cancel_unless_run_by(&self, uid: u32) {
        let mut state = self.0.lock();
        let Some((_, server)) = state.attempt().filter(|(_, server)| server.uid != uid) else {
            return;
        };
        state.refused = Some(server.uid);
        state.is_cancelled = true;
        state.interrupt();
    }

    /// If [`cancel_unless_run_by`](Self::cancel_unless_run_by) has cancelled, returns the user that
    /// the refused server runs as.
    pub(super) fn refused(&self) -> Option<u32> {
        self.0.lock().refused
    }

    /// Cancels repeatedly until `done` resolves.
    pub(crate) async fn cancel_until<T>(&self, done: impl Future<Output = T>) -> T {
        let mut done = std::pin::pin!(done);
        loop {
            self.cancel();
            if let Ok(done) = tokio::time::timeout(CANCEL_INTERVAL, &mut done).await {
                return done;
            }
        }
    }

    /// Cancels for good without waiting. If an attempt is under way, it may not have begun to wait
    /// yet, so another thread cancels it repeatedly until it has ended.
    pub(crate) fn cancel_to_the_end(&self) {
        self.cancel();
        if !self.is_connecting() {
            return;
        }
        let canceller = self.clone();
        let cancelling = move || {
            while canceller.is_connecting() {
                canceller.cancel();
                thread::sleep(CANCEL_INTERVAL);
            }
        };
        let started = thread::Builder::new().name("quorum-cancel".into()).spawn(cancelling);
        if let Err(error) = started {
            crate::foreign::log!(
                log::Level::Warn,
                "cannot make sure that an attempt to connect to corosync is cancelled: {}. If \
                 the attempt is not cancelled, it waits until corosync answers or ends",
                Error::thread(error)
            );
        }
    }

    /// Whether an attempt is under way. After [`cancel`](Self::cancel) no attempt begins.
    fn is_connecting(&self) -> bool {
        self.0.lock().connecting.is_some()
    }

    /// Whether the last attempt was interrupted.
    pub(super) fn was_interrupted(&self) -> bool {
        self.0.lock().was_interrupted
    }

    /// Whether the calls were cancelled for good.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.lock().is_cancelled
    }

    /// Records the beginning of an attempt. The sockets in `before` existed before the attempt.
    pub(super) fn begin(&self, service: &'static [u8], before: Vec<Stream>) -> Result<(), Error> {
        let mut state = self.0.lock();
        if state.is_cancelled {
            return Err(Error::Unresponsive);
        }
        state.connecting = Some(Attempt { service, before });
        state.was_interrupted = false;
        Ok(())
    }

    /// Records the end of the attempt, with its socket if it succeeded and the socket is known.
    pub(super) fn end(&self, socket: Option<RawFd>) {
        let mut state = self.0.lock();
        state.connecting = None;
        state.sockets.extend(socket);
        if state.is_cancelled {
            state.interrupt();
        }
    }

    /// Records that the connection with this socket is about to be closed.
    pub(super) fn closes(&self, socket: RawFd) {
        self.0.lock().sockets.retain(|other| *other != socket);
    }
}

impl State {
    /// Ends the waiting call and the connections. Returns whether there was a connection to end.
    fn interrupt(&mut self) -> bool {
        for socket in &self.sockets {
            server::shut_down(*socket);
        }
        let is_ended = self.attempt().is_some_and(|(stream, _)| stream.shut_down());
        self.was_interrupted |= is_ended;
        is_ended || !self.sockets.is_empty()
    }

    /// Returns the socket of the waiting attempt, and the server at its other end. Returns `None`
    /// without an attempt, or if its socket cannot be identified.
    fn attempt(&self) -> Option<(Stream, PeerProcess)> {
        let Attempt { service, before } = self.connecting.as_ref()?;
        let mut new = server::streams(service);
        new.retain(|(stream, _)| !before.contains(stream));
        // Several sockets mean that other code of this process connects at the same time. Then our
        // socket cannot be identified, and a socket of other code must not be shut down.
        if let [attempt] = new[..] { Some(attempt) } else { None }
    }
}

/// Cancels for good when it is dropped, unless it was disarmed.
#[derive(Debug)]
pub(crate) struct CancelOnDrop(Option<Canceller>);

impl CancelOnDrop {
    pub(crate) fn new(canceller: Canceller) -> Self {
        Self(Some(canceller))
    }

    pub(crate) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(canceller) = &self.0 {
            canceller.cancel_to_the_end();
        }
    }
}

/// How soon to cancel again, for a call that was not yet waiting.
const CANCEL_INTERVAL: Duration = Duration::from_millis(50);

/// The canceller of a connection, and the user that its server must run as.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer<'a> {
    /// Cancels the attempt, and calls on the connection.
    pub(crate) canceller: &'a Canceller,
    /// The id of the user that the server must run as, or `None` for any user.
    pub(crate) uid: Option<u32>,
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{
        io::{ErrorKind, Read},
        os::{
            fd::AsRawFd,
            linux::net::SocketAddrExt,
            unix::net::{SocketAddr, UnixListener, UnixStream},
        },
    };

    use super::*;

    #[test]
    fn an_attempt_that_is_cancelled_before_it_waits_ends_and_no_further_attempt_can_begin() {
        let service = b"cancelled_to_the_end";
        let address = SocketAddr::from_abstract_name(service).unwrap();
        let _silent = UnixListener::bind_addr(&address).unwrap();
        let canceller = Canceller::default();
        canceller.begin(service, Vec::new()).unwrap();
        canceller.cancel_to_the_end();
        // Like libqb, the test connects and then waits for the server's answer.
        let mut attempt = UnixStream::connect_addr(&address).unwrap();
        assert_eq!(attempt.read(&mut [0]).unwrap(), 0, "the connection is shut down");
        canceller.end(None);
        assert_eq!(canceller.begin(service, Vec::new()), Err(Error::Unresponsive));
    }

    /// Interrupts a call in each of its states.
    #[test]
    fn an_interrupt_reports_whether_it_reached_the_call_and_affects_no_later_attempt() {
        let service = b"interrupted";
        let address = SocketAddr::from_abstract_name(service).unwrap();
        let _silent = UnixListener::bind_addr(&address).unwrap();
        let connect = || UnixStream::connect_addr(&address).unwrap();
        let canceller = Canceller::default();
        assert!(!canceller.interrupt(), "no call is running");
        canceller.begin(service, Vec::new()).unwrap();
        assert!(!canceller.interrupt(), "the call is about to connect");
        assert!(!canceller.was_interrupted());
        let mut first = connect();
        let other = connect();
        assert!(!canceller.interrupt(), "either socket may be that of the call");
        drop(other);
        assert!(canceller.interrupt());
        assert!(canceller.was_interrupted());
        assert_eq!(first.read(&mut [0]).unwrap(), 0, "the connection is shut down");
        canceller.end(None);
        drop(first);

        assert!(!canceller.interrupt(), "the call has ended");
        canceller.begin(service, Vec::new()).unwrap();
        assert!(!canceller.was_interrupted(), "the next attempt was not interrupted");
        let mut second = connect();
        canceller.end(Some(second.as_raw_fd()));
        second.set_nonblocking(true).unwrap();
        assert_eq!(second.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(canceller.interrupt(), "a call on an open connection is interrupted");
        assert_eq!(second.read(&mut [0]).unwrap(), 0, "the connection is shut down");
        canceller.closes(second.as_raw_fd());
        assert!(!canceller.interrupt(), "the connection is closed");
    }
}
