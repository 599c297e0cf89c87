//! What the actor needs of a connection to Corosync, whichever it is.

use std::{fmt, os::fd::AsRawFd, pin::Pin, sync::Arc};

use crate::{
    error::Error,
    libquorum::Notification,
    link::{
        blocking_worker::BlockingWorker,
        clock::{Clock, Moment},
        probe::Probe,
        ring_watch::RingWatch,
        trust::TrustPolicy,
    },
};

/// Where the actor connects to: [`Corosync`](crate::Corosync) on a cluster node, a node of a
/// simulated cluster elsewhere.
///
/// Sealed: what is told about quorum has to be sound and fail safe, and only sources of this crate
/// are trusted to be.
pub trait Source: sealed::Source {}

impl<S: sealed::Source> Source for S {}

pub(crate) mod sealed {
    use super::*;

    /// A connection that is being made.
    pub(crate) type Connecting =
        Pin<Box<dyn Future<Output = Result<Box<dyn QuorumConnection>, Error>> + Send>>;

    pub trait Source: fmt::Debug + Send + Sync + 'static {
        /// What its moments are measured by.
        fn clock(&self) -> Clock;

        /// Connects and starts tracking. May never resolve, but does not block: what does is for
        /// the connector's thread.
        fn connect(
            self: Arc<Self>,
            trust: TrustPolicy,
            blocking_worker: &BlockingWorker,
        ) -> Connecting;

        /// What asks the daemon whether it lives. Does not connect yet.
        fn probe(self: Arc<Self>, trust: TrustPolicy) -> Result<Arc<dyn Probe>, Error>;

        /// What reads the counters of the daemon's ring; `None` where there are none. Does not
        /// connect yet.
        fn ring_watch(self: Arc<Self>, trust: TrustPolicy) -> Option<Arc<dyn RingWatch>>;

        /// The names of nodes.
        #[cfg(any(feature = "metrics", feature = "web"))]
        fn node_names(&self, trust: TrustPolicy) -> crate::link::names::NameSource;
    }

    /// A connection that tracks quorum.
    ///
    /// Its descriptor stays open and the same until it is closed or dropped; the readiness loop
    /// relies on that.
    pub trait QuorumConnection: AsRawFd + Send + fmt::Debug {
        /// Takes at most one notification off, without blocking. `None`: nothing waits.
        fn dispatch(&mut self) -> Result<Option<Notification>, Error>;

        /// Whether a quorum provider decides. Without one, quorum decisions have no ring.
        fn has_provider(&self) -> bool;

        /// Whether the descriptor tells when the daemon dies. If not, only a dispatch does.
        fn hangs_up(&self) -> bool;

        /// A moment that the daemon has lived after: when it was asked to start tracking.
        fn asked_at(&self) -> Moment;

        /// Closes the connection without blocking.
        fn close(self: Box<Self>, blocking_worker: &BlockingWorker);
    }
}
