//! The model of a connection, and the selection of the model by the daemon's version.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{Library, PeerProcess, canceller::Peer, cmap::Cmap};
use crate::error::{Code, Error};

/// The interface of libquorum that a connection uses, which determines the notifications that it
/// receives (`quorum_model_initialize(3)`).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Model {
    /// Quorum notifications only, whose ring ids lack the node id. Available in all versions of
    /// Corosync.
    V0,
    /// Quorum notifications, and nodelist notifications with the nodes that joined and left.
    /// Available in Corosync 3.1.0 and later.
    ///
    /// A request for V1 **kills** a daemon of Corosync 2, which does not know this request and does
    /// not check request numbers.
    V1,
}

/// The model to request.
#[derive(Debug)]
pub(crate) struct FoundModel {
    pub(crate) model: Model,
    /// If libcmap cannot be loaded, the reason. The daemon's version is then not known, and
    /// Corosync 3 is assumed.
    pub(crate) assumed: Option<String>,
}

impl From<Model> for FoundModel {
    fn from(model: Model) -> Self {
        Self { model, assumed: None }
    }
}

/// Returns the model to request: V1, unless the library does not know it or the daemon is from
/// Corosync 2. `check` checks whether a server may be trusted.
///
/// Blocks until the daemon answers. The request is safe for every daemon: it reads one key of the
/// default map.
pub(crate) fn find(
    library: Library,
    peer: Peer<'_>,
    check: impl Fn(Option<PeerProcess>) -> Result<(), Error>,
) -> Result<FoundModel, Error> {
    if library.0.model_initialize().is_err() {
        return Ok(Model::V0.into());
    }
    let cmap = match Cmap::initialize(peer) {
        Ok(cmap) => cmap,
        Err(Error::Load(why)) => {
            return Ok(FoundModel { model: Model::V1, assumed: Some(why.to_string()) });
        }
        // An unknown version does not allow V1: the next daemon may be from Corosync 2.
        Err(error) => return Err(error),
    };
    check(cmap.server())?;
    match cmap.is_corosync_2() {
        Ok(is_corosync_2) => Ok(if is_corosync_2 { Model::V0 } else { Model::V1 }.into()),
        Err(_) if peer.canceller.is_cancelled() => Err(Error::Unresponsive),
        Err(error) => Err(Error::Connect(error.code().unwrap_or(Code::LIBRARY))),
    }
}

impl FoundModel {
    /// Returns the model, and warns once if the version is not known.
    pub(super) fn or_warn(self) -> Model {
        static HAS_WARNED: AtomicBool = AtomicBool::new(false);
        if let Some(why) = self.assumed
            && !HAS_WARNED.swap(true, Ordering::Relaxed)
        {
            crate::foreign::log!(
                log::Level::Warn,
                "cannot read corosync's version: {why}. Assuming Corosync 3; the next request \
                 would kill a daemon of Corosync 2. If this node runs Corosync 2, call \
                 Handle::model_initialize with Model::V0"
            );
        }
        self.model
    }
}
