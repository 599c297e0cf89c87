//! The names of the nodes.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    error::Error,
    libquorum::{canceller::Canceller, cmap::NodeNames},
};

/// Where the node names come from.
pub enum NameSource {
    /// The names are known.
    Known(NodeNames),
    /// The names must be read. A read may block until it is cancelled.
    Read {
        /// Reads the names.
        read: Box<dyn Fn() -> Result<NodeNames, Error> + Send>,
        /// Cancels a read.
        canceller: Canceller,
    },
}

/// The node names in Corosync's configuration.
///
/// Reading them blocks while Corosync is synchronising or is hung, so at most one separate thread
/// reads them, and no other thread waits for it. A read that takes too long is cancelled.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: Mutex<Arc<NodeNames>>,
    reading: Mutex<Reading>,
    canceller: Mutex<Canceller>,
    /// When the current read began, or when the last one ended.
    read_at: Mutex<Option<Instant>>,
    /// Whether at least one read was made, successfully or not.
    were_read: AtomicBool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Reading {
    #[default]
    Idle,
    /// The thread is reading.
    Busy,
    /// The thread is reading, and the names may have changed since it began.
    Again,
}

/// How long a read may take before the next request cancels it. Corosync waits less than that for a
/// silent quorum device when it synchronises (`quorum.device.sync_timeout`, 30 s).
const READ_TIMEOUT: Duration = Duration::from_secs(40);

/// The shortest pause between two reads.
const PAUSE: Duration = Duration::from_secs(1);

/// How old the names may be. A reload that changes only names causes no quorum notification, so the
/// names are read regularly.
const MAX_AGE: Duration = Duration::from_secs(30);

impl Names {
    pub(crate) fn known(&self) -> Arc<NodeNames> {
        Arc::clone(&self.known.lock())
    }

    /// Returns the names, or `None` before the first read has ended. If every read so far has
    /// failed, the map is empty.
    #[cfg(feature = "metrics")]
    pub(crate) fn once_read(&self) -> Option<Arc<NodeNames>> {
        self.were_read.load(Ordering::Acquire).then(|| self.known())
    }

    /// Whether the names must be read, because no read was made within `MAX_AGE`.
    pub(crate) fn are_old(&self) -> bool {
        self.read_at.lock().is_none_or(|read_at| read_at.elapsed() > MAX_AGE)
    }

    /// Starts a read, or requests another one after the current read.
    pub(crate) fn read(self: &Arc<Self>, source: impl FnOnce() -> NameSource) {
        let mut reading = self.reading.lock();
        if *reading != Reading::Idle {
            *reading = Reading::Again;
            if self.read_at.lock().is_some_and(|began_at| began_at.elapsed() > READ_TIMEOUT) {
                self.interrupt();
            }
            return;
        }
        *self.read_at.lock() = Some(Instant::now());
        let read = match source() {
            NameSource::Known(names) => {
                *self.known.lock() = Arc::new(names);
                self.were_read.store(true, Ordering::Release);
                return;
            }
            NameSource::Read { read, canceller } => {
                *self.canceller.lock() = canceller;
                read
            }
        };
        let names = Arc::clone(self);
        let thread = thread::Builder::new().name("quorum-names".into());
        let started = thread.spawn(move || names.work(&*read));
        if started.is_ok() {
            *reading = Reading::Busy;
        }
        // The lock is released first, because the logger must not run under a lock.
        drop(reading);
        if let Err(error) = started {
            crate::foreign::log!(
                log::Level::Warn,
                "cannot read the node names: {}. Until a later attempt succeeds, names may be \
                 missing or out of date",
                Error::thread(error)
            );
        }
    }

    /// Ends the waiting call of a read, and the read's connection.
    pub(crate) fn interrupt(&self) {
        self.canceller.lock().interrupt();
    }

    /// Cancels the current read, if there is one. No further read begins.
    pub(crate) fn close(&self) {
        let canceller = self.canceller.lock().clone();
        canceller.cancel_to_the_end();
    }

    fn work(&self, read: &dyn Fn() -> Result<NodeNames, Error>) {
        loop {
            match read() {
                Ok(names) => *self.known.lock() = Arc::new(names),
                // Corosync may have ended. The next connection reads the names again.
                Err(error) => {
                    crate::foreign::log!(log::Level::Debug, "cannot read the node names: {error}")
                }
            }
            self.were_read.store(true, Ordering::Release);
            // The age counts from the end of the read, however long it took.
            *self.read_at.lock() = Some(Instant::now());
            // Requests that arrive during the pause cause only one more read.
            if !self.is_closed() {
                thread::sleep(PAUSE);
            }
            if self.is_done() {
                return;
            }
        }
    }

    /// Whether no further read is needed: none was requested since the last one began, or `close`
    /// was called.
    fn is_done(&self) -> bool {
        let mut reading = self.reading.lock();
        let again = *reading == Reading::Again && !self.is_closed();
        *reading = if again { Reading::Busy } else { Reading::Idle };
        !again
    }

    fn is_closed(&self) -> bool {
        self.canceller.lock().is_cancelled()
    }
}

impl fmt::Debug for NameSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NameSource").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::AtomicUsize,
        mpsc::{Receiver, channel},
    };

    use super::*;

    #[test]
    fn the_names_are_not_read_again_after_closing() {
        let names = Arc::new(Names::default());
        let (reads, deadline) = (Arc::new(AtomicUsize::new(0)), Duration::from_secs(20));
        let (answer, answered): (_, Receiver<()>) = channel();
        names.read(|| {
            let (reads, answered) = (Arc::clone(&reads), Mutex::new(answered));
            let read = move || {
                reads.fetch_add(1, Ordering::AcqRel);
                let _ = answered.lock().recv();
                Err(Error::Unresponsive)
            };
            NameSource::Read { read: Box::new(read), canceller: Canceller::default() }
        });
        // The names may have changed, so another read is requested during the first one.
        names.read(|| unreachable!("a read is under way"));
        names.close();
        drop(answer);
        let began_at = Instant::now();
        while *names.reading.lock() != Reading::Idle {
            assert!(began_at.elapsed() < deadline, "the thread ends");
            thread::yield_now();
        }
        assert_eq!(reads.load(Ordering::Acquire), 1);
    }
}
