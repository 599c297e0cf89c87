//! Ending calls that wait for a daemon: Corosync's libraries wait without a timeout, but not on a
//! socket that was shut down.

use std::{os::fd::RawFd, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::server::{self, PeerProcess, Stream};
use crate::error::Error;

/// The connections that one thread has and makes, and what ends the call that it waits in.
#[allow(unreachable_pub, reason = "in a sealed trait with the features that read names")]
#[derive(Clone, Debug, Default)]
pub struct Canceller(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Nothing is to be waited for any more.
    is_cancelled: bool,
    /// The user whose server was found to be at the other end of an attempt, and is not to be.
    refused: Option<u32>,
    /// The sockets of the connections. Each is open as long as it is here.
    sockets: Vec<RawFd>,
    connecting: Option<Attempt>,
}

/// An attempt to connect, whose socket only the library knows.
#[derive(Debug)]
struct Attempt {
    service: &'static [u8],
    /// Those that were there before: of other connections of this process, whosever they are.
    before: Vec<Stream>,
}

impl Canceller {
    /// Cuts it for good: ends the call that waits, and every later one at once.
    ///
    /// A call that waits for an answer returns within two seconds (libqb `lib/ipcc.c`). One that is
    /// about to wait is not seen yet: see [`cancel_until`](Self::cut_until).
    pub(crate) fn cancel(&self) {
        let mut state = self.0.lock();
        state.is_cancelled = true;
        state.interrupt();
    }

    /// Ends the call that waits, with its connection. The thread may connect again.
    pub(crate) fn interrupt(&self) {
        self.0.lock().interrupt();
    }

    /// Cuts it if whoever is at the other end of an attempt, and has not answered, is not this user.
    pub(crate) fn cancel_unless_run_by(&self, uid: u32) {
        let mut state = self.0.lock();
        let Some((_, server)) = state.attempt().filter(|(_, server)| server.uid != uid) else {
            return;
        };
        state.refused = Some(server.uid);
        state.is_cancelled = true;
        state.interrupt();
    }

    pub(super) fn refused(&self) -> Option<u32> {
        self.0.lock().refused
    }

    /// Cuts it, again and again until `done` is.
    pub(crate) async fn cancel_until<T>(&self, done: impl Future<Output = T>) -> T {
        let mut done = std::pin::pin!(done);
        loop {
            self.cancel();
            if let Ok(done) = tokio::time::timeout(AGAIN, &mut done).await {
                return done;
            }
        }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.lock().is_cancelled
    }

    /// An attempt to connect begins, `before` which these sockets were there.
    pub(super) fn begin(&self, service: &'static [u8], before: Vec<Stream>) -> Result<(), Error> {
        let mut state = self.0.lock();
        if state.is_cancelled {
            return Err(Error::Unresponsive);
        }
        state.connecting = Some(Attempt { service, before });
        Ok(())
    }

    /// The attempt has ended, with this socket if it succeeded and the socket is known.
    pub(super) fn end(&self, socket: Option<RawFd>) {
        let mut state = self.0.lock();
        state.connecting = None;
        state.sockets.extend(socket);
        if state.is_cancelled {
            state.interrupt();
        }
    }

    /// The connection with this socket is about to be closed.
    pub(super) fn closes(&self, socket: RawFd) {
        self.0.lock().sockets.retain(|other| *other != socket);
    }
}

impl State {
    fn interrupt(&mut self) {
        for socket in &self.sockets {
            server::shut_down(*socket);
        }
        if let Some((stream, _)) = self.attempt() {
            server::shut_down(stream.fd);
        }
    }

    /// The socket of the attempt that waits, and who is at its other end.
    fn attempt(&self) -> Option<(Stream, PeerProcess)> {
        let Attempt { service, before } = self.connecting.as_ref()?;
        let mut new = server::streams(service);
        new.retain(|(stream, _)| !before.contains(stream));
        // With several, other code of this process connects just now, too: which is ours is not known,
        // and nobody else's may be shut down.
        if let [attempt] = new[..] { Some(attempt) } else { None }
    }
}

/// How soon to look again for a call that was not there yet.
const AGAIN: Duration = Duration::from_millis(50);

/// On whose behalf, and to whom, a connection is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer<'a> {
    /// What ends the attempt, and calls on the connection.
    pub(crate) canceller: &'a Canceller,
    /// Who is to be at the other end; anybody if `None`.
    pub(crate) uid: Option<u32>,
}
