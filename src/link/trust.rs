//! Which daemons are believed.

use crate::{
    error::Error,
    libquorum::{
        Model, PeerProcess,
        canceller::{Canceller, Peer},
    },
};

/// What a connection must satisfy to be believed.
#[derive(Clone, Copy, Debug)]
pub struct TrustPolicy {
    /// Refuse a Corosync without a quorum provider.
    pub require_provider: bool,
    /// Refuse a server that is not run by this user.
    pub server_uid: Option<u32>,
    /// The model to connect with; `None` to find out which one the daemon can take.
    pub model: Option<Model>,
}

impl TrustPolicy {
    /// For whom a connection is made that must satisfy this.
    pub(crate) fn peer<'a>(&self, canceller: &'a Canceller) -> Peer<'a> {
        Peer { canceller, uid: self.server_uid }
    }

    /// Whether this server may be believed.
    pub(crate) fn check_server(&self, server: Option<PeerProcess>) -> Result<(), Error> {
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
