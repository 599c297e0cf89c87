//! What the actor needs of a connection to Corosync, whichever it is.

use std::{fmt, os::fd::AsRawFd, pin::Pin, sync::Arc};

use crate::{
    Error,
    connector::Connector,
    lease::{Clock, Moment},
    libquorum::{
        Model, Notification, Server,
        line::{Line, Peer},
    },
    probe::Probe,
    ring_watch::RingWatch,
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
        Pin<Box<dyn Future<Output = Result<Box<dyn Tracked>, Error>> + Send>>;

    pub trait Source: fmt::Debug + Send + Sync + 'static {
        /// What its moments are measured by.
        fn clock(&self) -> Clock;

        /// Connects and starts tracking. May never resolve, but does not block: what does is for
        /// the connector's thread.
        fn connect(self: Arc<Self>, terms: Terms, connector: &Connector) -> Connecting;

        /// What asks the daemon whether it lives. Does not connect yet.
        fn probe(self: Arc<Self>, terms: Terms) -> Result<Arc<dyn Probe>, Error>;

        /// What reads the counters of the daemon's ring; `None` where there are none. Does not
        /// connect yet.
        fn ring_watch(self: Arc<Self>, terms: Terms) -> Option<Arc<dyn RingWatch>>;

        /// The names of nodes.
        #[cfg(any(feature = "metrics", feature = "web"))]
        fn node_names(&self, terms: Terms) -> crate::names::NameSource;
    }

    /// A connection that tracks quorum.
    ///
    /// Its descriptor stays open and the same until it is closed or dropped; the readiness loop
    /// relies on that.
    pub trait Tracked: AsRawFd + Send + fmt::Debug {
        /// Takes at most one notification off, without blocking. `None`: nothing waits.
        fn dispatch(&mut self) -> Result<Option<Notification>, Error>;

        /// Whether a quorum provider decides. Without one, quorum decisions have no ring.
        fn has_provider(&self) -> bool;

        /// Whether the descriptor tells when the daemon dies. If not, only a dispatch does.
        fn hangs_up(&self) -> bool;

        /// A moment that the daemon has lived after: when it was asked to start tracking.
        fn asked_at(&self) -> Moment;

        /// Closes the connection without blocking.
        fn close(self: Box<Self>, connector: &Connector);
    }

    /// What a connection must satisfy to be believed.
    #[derive(Clone, Copy, Debug)]
    pub struct Terms {
        /// Refuse a Corosync without a quorum provider.
        pub require_provider: bool,
        /// Refuse a server that is not run by this user.
        pub server_uid: Option<u32>,
        /// The model to connect with; `None` to find out which one the daemon can take.
        pub model: Option<Model>,
    }

    impl Terms {
        /// For whom a connection is made that must satisfy this.
        pub(crate) fn peer<'a>(&self, line: &'a Line) -> Peer<'a> {
            Peer { line, uid: self.server_uid }
        }

        /// Whether this server may be believed.
        pub(crate) fn check_server(&self, server: Option<Server>) -> Result<(), Error> {
            let found = server.map(|server| server.uid);
            match self.server_uid {
                Some(expected) if found != Some(expected) => {
                    Err(Error::UntrustedServer { found, expected })
                }
                _ => Ok(()),
            }
        }

        /// Whether a Corosync with or without a provider may be believed.
        pub(crate) fn check_provider(&self, has_provider: bool) -> Result<(), Error> {
            if self.require_provider && !has_provider { Err(Error::NoProvider) } else { Ok(()) }
        }
    }
}
