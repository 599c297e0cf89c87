//! The rules that decide which daemons are trusted.

use crate::{
    error::Error,
    libquorum::{
        Model, PeerProcess,
        canceller::{Canceller, Peer},
    },
};

/// The conditions that a connection must meet to be trusted.
#[derive(Clone, Copy, Debug)]
pub struct TrustPolicy {
    /// Whether to refuse a Corosync without a quorum provider.
    pub require_provider: bool,
    /// The id of the user that the server must run as, or `None` for any user.
    pub server_uid: Option<u32>,
    /// The model to connect with, or `None` to select it by the version of the daemon.
    pub model: Option<Model>,
}

impl TrustPolicy {
    /// Returns the [`Peer`] of a connection whose server must meet these conditions.
    pub(crate) fn peer<'a>(&self, canceller: &'a Canceller) -> Peer<'a> {
        Peer { canceller, uid: self.server_uid }
    }

    /// Checks whether this server may be trusted.
    pub(crate) fn check_server(&self, server: Option<PeerProcess>) -> Result<(), Error> {
        let found = server.map(|server| server.uid);
        match self.server_uid {
            Some(expected) if found != Some(expected) => {
                Err(Error::UntrustedServer { found, expected })
            }
            _ => Ok(()),
        }
    }

    /// Checks whether Corosync may be trusted, given whether it has a quorum provider.
    pub(crate) fn check_provider(&self, has_provider: bool) -> Result<(), Error> {
        if self.require_provider && !has_provider { Err(Error::NoProvider) } else { Ok(()) }
    }
}
