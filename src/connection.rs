//! What the actor needs of a connection to Corosync, whichever it is.

use std::{fmt, os::fd::AsRawFd};

use crate::{Error, libquorum::Notification};

/// Where the actor connects to: [`Corosync`](crate::Corosync) on a cluster node.
///
/// Sealed: what is told about quorum has to be sound and fail safe, and only sources of this crate
/// are trusted to be.
pub trait Source: sealed::Source {}

impl<S: sealed::Source> Source for S {}

pub(crate) mod sealed {
    use super::*;

    pub trait Source: fmt::Debug + Send + Sync + 'static {
        /// Connects and starts tracking. May block for ever.
        fn connect(&self, terms: &Terms) -> Result<Box<dyn Tracked>, Error>;
    }

    /// A connection that tracks quorum.
    ///
    /// Its descriptor stays open and the same until it is dropped, which may block: the readiness
    /// loop relies on the first and the connector is there for the second.
    pub trait Tracked: AsRawFd + Send + fmt::Debug {
        /// Takes at most one notification off, without blocking. `None`: nothing waits.
        fn dispatch(&mut self) -> Result<Option<Notification>, Error>;

        /// Whether a quorum provider decides. Without one, quorum decisions have no ring.
        fn has_provider(&self) -> bool;
    }

    /// What a connection must satisfy to be believed.
    #[derive(Clone, Copy, Debug)]
    pub struct Terms {
        /// Refuse a Corosync without a quorum provider.
        pub require_provider: bool,
        /// Refuse a server that is not run by this user.
        pub server_uid: Option<u32>,
    }
}
