//! What the actor needs of a connection to Corosync, whichever it is.

use std::{fmt, os::fd::AsRawFd, pin::Pin, sync::Arc};

use crate::{Error, connector::Connector, libquorum::Notification};

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
        /// Connects and starts tracking. May never resolve, but does not block: what does is for
        /// the connector's thread.
        fn connect(self: Arc<Self>, terms: Terms, connector: &Connector) -> Connecting;
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
    }

    impl Terms {
        /// Whether a server with these properties may be believed.
        pub(crate) fn check(
            &self,
            server_uid: Option<u32>,
            has_provider: bool,
        ) -> Result<(), Error> {
            if let Some(expected) = self.server_uid
                && server_uid != Some(expected)
            {
                return Err(Error::Server { found: server_uid, expected });
            }
            if self.require_provider && !has_provider { Err(Error::NoProvider) } else { Ok(()) }
        }
    }
}
