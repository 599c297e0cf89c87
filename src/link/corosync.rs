use std::{
    os::fd::{AsRawFd, RawFd},
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use crate::{
    error::Error,
    libquorum::{
        Handle, Library, LibraryFile, Notification, QuorumType, Track, canceller::Canceller, model,
    },
    link::{
        blocking_worker::BlockingWorker,
        clock::{Clock, Moment},
        connection::sealed::{Connecting, QuorumConnection, Source},
        probe::{Probe, ProbeConfig, ProbeThread},
        ring_watch::{RingThread, RingWatch, unwatched_warning},
        trust::TrustPolicy,
    },
};

/// The Corosync that runs on this node, reached through libquorum.
///
/// It is the Corosync in the network namespace of the actor's arbiter, because libqb's sockets
/// belong to a network namespace. A new arbiter is in the namespace of the thread that starts it.
#[derive(Clone, Debug, Default)]
pub struct Corosync {
    file: Option<LibraryFile>,
    library: OnceLock<Library>,
    /// The reason given in the warning that libcmap is missing. Unset before that warning.
    warned: OnceLock<String>,
}

impl Corosync {
    /// Uses the libquorum that [`Library::load`] finds. It is loaded when the actor connects.
    pub fn new() -> Self {
        Self::default()
    }

    /// Uses the libquorum in the file at `path`. It is loaded when the actor connects.
    ///
    /// The dynamic linker still selects libvotequorum and libcmap. `LD_LIBRARY_PATH` applies to all
    /// three libraries and needs no `unsafe`.
    ///
    /// # Safety
    ///
    /// The conditions of [`Library::load_from`] apply: the code in the file runs. The file must be
    /// Corosync's libquorum until the actor has stopped.
    ///
    /// ```no_run
    /// use actix_quorum::{Corosync, QuorumActor};
    ///
    /// // SAFETY: only root can write there, and it is the libquorum of this machine's Corosync.
    /// let corosync = unsafe { Corosync::load_from("/opt/corosync/lib/libquorum.so.5") };
    /// let builder = QuorumActor::builder().source(corosync);
    /// ```
    #[allow(unsafe_code, reason = "the caller vouches for the file")]
    pub unsafe fn load_from(path: impl Into<PathBuf>) -> Self {
        // SAFETY: the caller vouches for the file.
        Self::with_file(unsafe { LibraryFile::new(path.into()) })
    }

    pub(crate) fn with_file(file: LibraryFile) -> Self {
        Self { file: Some(file), ..Self::default() }
    }

    fn library(&self) -> Result<Library, Error> {
        // A failure is not cached, because the library may be installed later.
        if let Some(library) = self.library.get() {
            return Ok(*library);
        }
        let library = match &self.file {
            Some(file) => file.load(),
            None => Library::load(),
        }?;
        Ok(*self.library.get_or_init(|| library))
    }

    /// Warns once about all consequences of a missing libcmap.
    fn warn(&self, why: &str) {
        if self.warned.set(why.to_owned()).is_ok() {
            crate::foreign::log!(
                log::Level::Warn,
                "{}. Corosync's version cannot be read either. Assuming Corosync 3; the next \
                 request would kill a daemon of Corosync 2. If this node runs Corosync 2, call \
                 QuorumBuilder::model(Model::V0)",
                unwatched_warning(why)
            );
        }
    }

    /// Opens a connection and starts tracking. Blocks while Corosync is hung, until `canceller`
    /// cancels the call.
    fn track(
        &self,
        trust: TrustPolicy,
        canceller: &Canceller,
    ) -> Result<Box<dyn QuorumConnection>, Error> {
        let library = self.library()?;
        let model = match trust.model {
            Some(model) => model,
            None => {
                let check = |server| trust.check_server(server);
                let found = model::find(library, trust.peer(canceller), check)?;
                found.assumed.inspect(|why| self.warn(why));
                found.model
            }
        };
        let mut handle = Handle::initialize_at_most(library, model, trust.peer(canceller))?;
        trust.check_server(handle.server())?;
        trust.check_provider(handle.quorum_type() == QuorumType::Set)?;
        let asked_at = CLOCK.now();
        // `CHANGES` delivers the current state as well (`exec/vsf_quorum.c`).
        let started = handle.track_start(Track::CHANGES);
        started
            .map_err(|error| if canceller.is_cancelled() { Error::Unresponsive } else { error })?;
        let fd = handle.fd()?;
        Ok(Box::new(Tracking { fd, asked_at, handle }))
    }
}

impl Source for Corosync {
    fn connect(
        self: Arc<Self>,
        trust: TrustPolicy,
        blocking_worker: &BlockingWorker,
    ) -> Connecting {
        let canceller = Canceller::default();
        let used = canceller.clone();
        let tracking = blocking_worker.run(canceller.clone(), move || self.track(trust, &used));
        Box::pin(async move {
            let mut tracking = Box::pin(tracking);
            // A server that does not answer may be another process that listens in Corosync's
            // place.
            for _ in 0..SERVER_CHECKS {
                if let Ok(tracking) =
                    tokio::time::timeout(SERVER_CHECK_INTERVAL, &mut tracking).await
                {
                    return tracking;
                }
                trust.server_uid.inspect(|uid| canceller.cancel_unless_run_by(*uid));
            }
            canceller.cancel_until(tracking).await
        })
    }

    fn clock(&self) -> Clock {
        CLOCK
    }

    fn probe(self: Arc<Self>, trust: TrustPolicy) -> Result<Arc<dyn Probe>, Error> {
        let config = ProbeConfig { library: self.library()?, trust, clock: CLOCK };
        Ok(Arc::new(ProbeThread::new(config)))
    }

    fn ring_watch(self: Arc<Self>, trust: TrustPolicy) -> Option<Arc<dyn RingWatch>> {
        let warned = self.warned.get().cloned();
        Some(Arc::new(RingThread::new(trust, CLOCK, warned)))
    }

    #[cfg(any(feature = "metrics", feature = "web"))]
    fn node_names(&self, trust: TrustPolicy) -> crate::link::names::NameSource {
        let canceller = Canceller::default();
        let used = canceller.clone();
        let read = move || {
            let cmap = crate::libquorum::cmap::Cmap::initialize(trust.peer(&used))?;
            trust.check_server(cmap.server())?;
            cmap.node_names()
        };
        crate::link::names::NameSource::Read { read: Box::new(read), canceller }
    }
}

#[derive(Debug)]
struct Tracking {
    fd: RawFd,
    asked_at: Moment,
    handle: Handle,
}

impl AsRawFd for Tracking {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

impl QuorumConnection for Tracking {
    fn dispatch(&mut self) -> Result<Option<Notification>, Error> {
        self.handle.try_dispatch()
    }

    fn has_provider(&self) -> bool {
        self.handle.quorum_type() == QuorumType::Set
    }

    fn hangs_up(&self) -> bool {
        self.handle.hangs_up()
    }

    fn asked_at(&self) -> Moment {
        self.asked_at
    }

    fn close(self: Box<Self>, blocking_worker: &BlockingWorker) {
        blocking_worker.close(self);
    }
}

const CLOCK: Clock = Clock::System;

/// How long to wait for Corosync to accept the connection. The attempt is then cancelled and
/// repeated, because a daemon that has lost the request never answers it.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// How often to check the user of the server while an attempt to connect is waiting.
const SERVER_CHECK_INTERVAL: Duration = Duration::from_millis(100);
const SERVER_CHECKS: u128 = ATTEMPT_TIMEOUT.as_millis() / SERVER_CHECK_INTERVAL.as_millis();
