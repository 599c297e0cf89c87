//! Which model to connect with: what it is, and how to find out which one a daemon can take.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{Library, PeerProcess, canceller::Peer, cmap::Cmap};
use crate::error::{Code, Error};

/// Which callbacks a connection has (`quorum_model_initialize(3)`).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Model {
    /// Quorum notifications only, the ring without its node id. All versions.
    V0,
    /// Nodelist notifications too, which say who joined and who left. Corosync 3.1.0 and later.
    ///
    /// A daemon of Corosync 2 **dies** of the request for it: it has no such request, and does not
    /// check that it has.
    V1,
}

/// The model to ask the daemon for: V1, unless the library does not know it or the daemon is one of
/// Corosync 2. `check` says whether a server may be believed.
///
/// Blocks until the daemon answers. What it is asked harms none: one key of the default map.
pub(crate) fn find(
    library: Library,
    peer: Peer<'_>,
    check: impl Fn(Option<PeerProcess>) -> Result<(), Error>,
) -> Result<Model, Error> {
    if library.0.model_initialize().is_err() {
        return Ok(Model::V0);
    }
    let cmap = match Cmap::initialize(peer) {
        Ok(cmap) => cmap,
        Err(Error::Load(why)) => {
            warn(&why.to_string());
            return Ok(Model::V1);
        }
        // Not known is not V1: the daemon that does not take this request may take the next.
        Err(error) => return Err(error),
    };
    check(cmap.server())?;
    match cmap.is_corosync_2() {
        Ok(is_corosync_2) => Ok(if is_corosync_2 { Model::V0 } else { Model::V1 }),
        Err(_) if peer.canceller.is_cancelled() => Err(Error::Unresponsive),
        Err(error) => Err(Error::Connect(error.code().unwrap_or(Code::LIBRARY))),
    }
}

/// Says once what cannot be found out.
fn warn(why: &str) {
    static IS_WARNED: AtomicBool = AtomicBool::new(false);
    if !IS_WARNED.swap(true, Ordering::Relaxed) {
        crate::foreign::log!(
            log::Level::Warn,
            "corosync is not asked for its version, and taken for Corosync 3: {why}. A daemon of \
             Corosync 2 would die of that: with one, set QuorumBuilder::model(Model::V0)"
        );
    }
}
