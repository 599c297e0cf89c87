//! What the nodes are called.

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

/// Where the names come from.
pub enum NameSource {
    /// They are known.
    Known(NodeNames),
    /// They have to be read, which may block until the line is cut.
    Read {
        /// Reads them.
        read: Box<dyn Fn() -> Result<NodeNames, Error> + Send>,
        /// What ends a reading.
        canceller: Canceller,
    },
}

/// The names that Corosync's configuration gives to nodes.
///
/// Reading them blocks while Corosync synchronises or hangs, so a thread does it that nobody waits
/// for, and of which there is one at most. A reading that takes too long is ended.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: Mutex<Arc<NodeNames>>,
    reading: Mutex<Reading>,
    canceller: Mutex<Canceller>,
    read_at: Mutex<Option<Instant>>,
    /// They were read, or could not be, at least once.
    were_read: AtomicBool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Reading {
    #[default]
    Idle,
    /// The thread reads them.
    Busy,
    /// They may have changed since it began to.
    Again,
}

/// How long a reading may take: longer than Corosync waits for a silent quorum device when it
/// synchronises (`quorum.device.sync_timeout`, 30 s).
const LONGEST: Duration = Duration::from_secs(40);

/// How long to wait between two readings, however often there is reason to.
const PAUSE: Duration = Duration::from_secs(1);

/// How old they may be: a configuration that is read again tells only what it changes for votes.
const AGE: Duration = Duration::from_secs(30);

impl Names {
    pub(crate) fn known(&self) -> Arc<NodeNames> {
        Arc::clone(&self.known.lock())
    }

    /// The same, once they were read or could not be.
    #[cfg(feature = "metrics")]
    pub(crate) fn once_read(&self) -> Option<Arc<NodeNames>> {
        self.were_read.load(Ordering::Acquire).then(|| self.known())
    }

    /// Whether it is time to read them though nothing has happened.
    pub(crate) fn are_old(&self) -> bool {
        self.read_at.lock().is_none_or(|read_at| read_at.elapsed() > AGE)
    }

    /// Has them read, some time.
    pub(crate) fn read(self: &Arc<Self>, source: impl FnOnce() -> NameSource) {
        let mut reading = self.reading.lock();
        if *reading != Reading::Idle {
            *reading = Reading::Again;
            if self.read_at.lock().is_some_and(|began_at| began_at.elapsed() > LONGEST) {
                self.canceller.lock().interrupt();
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
        // The logger is not run under a lock.
        drop(reading);
        if let Err(error) = started {
            crate::foreign::log!(
                log::Level::Warn,
                "node names are not read: cannot start a thread: {error}"
            );
        }
    }

    /// Ends a reading, and whatever it waits for.
    pub(crate) fn close(&self) {
        self.canceller.lock().cancel();
    }

    fn work(&self, read: &dyn Fn() -> Result<NodeNames, Error>) {
        loop {
            match read() {
                Ok(names) => *self.known.lock() = Arc::new(names),
                // It may have gone again; the next connection reads them anew.
                Err(error) => {
                    crate::foreign::log!(log::Level::Debug, "node names are not known: {error}")
                }
            }
            self.were_read.store(true, Ordering::Release);
            // However long that took, they are as new as they get.
            *self.read_at.lock() = Some(Instant::now());
            // The next reason to read them may be close behind.
            thread::sleep(PAUSE);
            if self.is_done() {
                return;
            }
        }
    }

    /// Whether nothing has changed since the reading began.
    fn is_done(&self) -> bool {
        let mut reading = self.reading.lock();
        *reading = if *reading == Reading::Again { Reading::Busy } else { Reading::Idle };
        *reading == Reading::Idle
    }
}

impl fmt::Debug for NameSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NameSource").finish_non_exhaustive()
    }
}
