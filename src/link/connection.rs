//! The traits of a source of connections and of a connection.

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

/// A source of connections for the actor: [`Corosync`](crate::Corosync) on a cluster node, or a
/// node of a simulated cluster.
///
/// The trait is sealed: a source must report quorum correctly and fail safe, and only the sources
/// of this crate are trusted to do so.
pub trait Source: sealed::Source {}

impl<S: sealed::Source> Source for S {}

pub(crate) mod sealed {
    use super::*;

    /// A connection that is being opened.
    pub(crate) type Connecting =
        Pin<Box<dyn Future<Output = Result<Box<dyn QuorumConnection>, Error>> + Send>>;

    pub trait Source: fmt::Debug + Send + Sync + 'static {
        /// Returns the clock that measures the moments of this source.
        fn clock(&self) -> Clock;

        /// Connects and starts tracking. The future may never resolve but does not block: blocking
        /// calls run on `blocking_worker`.
        fn connect(
            self: Arc<Self>,
            trust: TrustPolicy,
            blocking_worker: &BlockingWorker,
        ) -> Connecting;

        /// Returns a probe that checks whether the daemon is alive. It does not connect yet.
        fn probe(self: Arc<Self>, trust: TrustPolicy) -> Result<Arc<dyn Probe>, Error>;

        /// Returns a reader of the daemon's ring counters, or `None` if there are none. It does not
        /// connect yet.
        fn ring_watch(self: Arc<Self>, trust: TrustPolicy) -> Option<Arc<dyn RingWatch>>;

        /// Returns a source of the node names.
        #[cfg(any(feature = "metrics", feature = "web"))]
        fn node_names(&self, trust: TrustPolicy) -> crate::link::names::NameSource;
    }

    /// A connection that tracks quorum.
    ///
    /// Its descriptor stays open and unchanged until the connection is closed or dropped.
    /// `LinkEvents` relies on this.
    pub trait QuorumConnection: AsRawFd + Send + fmt::Debug {
        /// Dispatches at most one notification, without blocking. `None` if the queue is empty.
        fn dispatch(&mut self) -> Result<Option<Notification>, Error>;

        /// Whether a quorum provider is configured. Without one, quorum decisions name no ring.
        fn has_provider(&self) -> bool;

        /// Whether the descriptor reports the daemon's death. If not, only a dispatch does.
        fn hangs_up(&self) -> bool;

        /// Returns when the daemon was asked to start tracking. It has answered, so it was alive
        /// after that.
        fn asked_at(&self) -> Moment;

        /// Closes the connection without blocking.
        fn close(self: Box<Self>, blocking_worker: &BlockingWorker);
    }
}
