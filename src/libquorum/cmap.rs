//! Reads through libcmap: the version and the configuration of Corosync, the names of the nodes,
//! and the counters of totem.

use std::{
    cell::Cell,
    collections::BTreeSet,
    ffi::{CStr, CString, c_char, c_void},
    os::fd::BorrowedFd,
    ptr,
};

use corosync_sys as sys;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

#[cfg(any(feature = "metrics", feature = "web"))]
use super::NodeId;
use super::{
    PeerProcess,
    canceller::Peer,
    open::{HandleTable, Opened, PeerLink},
    stack,
};
use crate::error::{Code, Error};
#[cfg(any(feature = "metrics", feature = "web"))]
use std::collections::BTreeMap;

/// The names of the nodes. A node without a name is not included.
#[cfg(any(feature = "metrics", feature = "web"))]
pub(crate) type NodeNames = BTreeMap<NodeId, String>;

/// A connection to Corosync's configuration map.
#[derive(Debug)]
pub(crate) struct Cmap {
    library: sys::Cmap,
    raw: sys::cmap_handle_t,
    peer_link: PeerLink,
    /// Whether a request has failed because the daemon or the connection has ended.
    lost: Cell<bool>,
}

impl Cmap {
    /// Connects to the default map. Blocks until the daemon answers.
    pub(crate) fn initialize(peer: Peer<'_>) -> Result<Self, Error> {
        let library = load()?;
        // SAFETY: the pointer is to a local of `open`.
        Self::open(library, peer, |raw| unsafe { (library.cmap_initialize)(raw) })
    }

    /// Connects to the default map as [`initialize`](Self::initialize) does, and tracks the keys
    /// with these prefixes: see [`has_changed`](Self::has_changed).
    ///
    /// The tracking starts before another handle can be opened, because neither libcmap's table of
    /// tracked keys nor its table of handles has a lock of its own.
    pub(crate) fn initialize_tracking(
        prefixes: &[&'static CStr],
        peer: Peer<'_>,
    ) -> Result<Self, Error> {
        let library = load()?;
        Self::open(library, peer, |raw| {
            // SAFETY: the pointer is to a local of `open`.
            let mut code = unsafe { (library.cmap_initialize)(raw) };
            for prefix in prefixes {
                if Code(code) != Code::OK {
                    break;
                }
                let (mut track, context) = (0, ptr::null_mut());
                // SAFETY: the handle was just opened; the string is static, `track` is a local, and
                // `ignore` is a function that needs no context.
                code = unsafe {
                    let (prefix, callback) = (prefix.as_ptr(), Some(ignore as _));
                    (library.cmap_track_add)(*raw, prefix, CHANGES, callback, context, &mut track)
                };
            }
            code
        })
    }

    /// Connects to the map of statistics. Blocks until the daemon answers.
    ///
    /// Never call it for a daemon [of Corosync 2](Self::is_corosync_2): the request kills that
    /// daemon.
    pub(crate) fn initialize_statistics(peer: Peer<'_>) -> Result<Self, Error> {
        let library = load()?;
        let initialize = library.initialize_map()?;
        // SAFETY: the pointer is to a local of `open`.
        Self::open(library, peer, |raw| unsafe { initialize(raw, sys::CMAP_MAP_STATS) })
    }

    fn open(
        library: sys::Cmap,
        peer: Peer<'_>,
        initialize: impl FnOnce(&mut u64) -> sys::cs_error_t,
    ) -> Result<Self, Error> {
        let Opened { handle: raw, peer_link } = HANDLES.make(
            b"cmap",
            peer,
            initialize,
            // SAFETY: the handle is open; `fd` is a local of the caller.
            |raw, fd| unsafe { (library.cmap_fd_get)(raw, fd) },
            // SAFETY: `raw` is a handle that no other code has, or no handle.
            |raw| unsafe { (library.cmap_finalize)(raw) },
        )?;
        Ok(Self { library, raw, peer_link, lost: Cell::new(false) })
    }

    pub(crate) fn server(&self) -> Option<PeerProcess> {
        self.peer_link.server
    }

    #[cfg(any(feature = "metrics", feature = "web"))]
    /// Returns the names in `nodelist.node.N.name` (`cmap_keys(7)`). For a node without a name, it
    /// returns the `ring0_addr` if that is a host name. Blocks as [`get_u64`](Self::get_u64) does.
    pub(crate) fn node_names(&self) -> Result<NodeNames, Error> {
        let mut names = NodeNames::new();
        for position in self.positions()? {
            let key = |field| format!("nodelist.node.{position}.{field}");
            let Some(id) = self.get_u32(&key("nodeid"))? else { continue };
            let name = match self.get_string(&key("name"))? {
                Some(name) => Some(name),
                None => {
                    self.get_string(&key("ring0_addr"))?.filter(|address| is_host_name(address))
                }
            };
            if let Some(name) = name {
                names.insert(NodeId(id), name);
            }
        }
        Ok(names)
    }

    /// Returns the votes of all nodes in the nodelist: the sum of `nodelist.node.N.quorum_votes`,
    /// whose default is 1. Returns `None` without a nodelist. Blocks as
    /// [`get_u64`](Self::get_u64) does.
    pub(crate) fn configured_votes(&self) -> Result<Option<u32>, Error> {
        let positions = self.positions()?;
        let mut votes = 0_u32;
        for position in &positions {
            let key = format!("nodelist.node.{position}.quorum_votes");
            votes = votes.saturating_add(self.get_u32(&key)?.unwrap_or(1));
        }
        Ok((!positions.is_empty()).then_some(votes))
    }

    /// Returns the positions in the nodelist, which are not node ids.
    fn positions(&self) -> Result<BTreeSet<u32>, Error> {
        let mut iteration = 0;
        // SAFETY: the handle is open; the string lives through the call, and the rest is a local.
        let code = unsafe {
            (self.library.cmap_iter_init)(self.raw, c"nodelist.node.".as_ptr(), &mut iteration)
        };
        self.succeeded(code)?;
        let mut positions = BTreeSet::new();
        let result = loop {
            let mut key: [c_char; sys::CMAP_KEYNAME_MAXLEN + 1] = [0; sys::CMAP_KEYNAME_MAXLEN + 1];
            // SAFETY: the handle and the iteration are open; there is room for the longest key, and
            // values that are not needed may be null.
            let code = unsafe {
                let (length, kind) = (ptr::null_mut(), ptr::null_mut());
                (self.library.cmap_iter_next)(self.raw, iteration, key.as_mut_ptr(), length, kind)
            };
            if code == sys::CS_ERR_NO_SECTIONS {
                break Ok(());
            }
            if let Err(error) = self.succeeded(code) {
                break Err(error);
            }
            // SAFETY: the array was all zero, and its last byte still is.
            let key = unsafe { CStr::from_ptr(key.as_ptr()) }.to_string_lossy();
            positions.extend(position(&key));
        };
        // SAFETY: the handle and the iteration are open.
        unsafe { (self.library.cmap_iter_finalize)(self.raw, iteration) };
        result.map(|()| positions)
    }

    /// Whether the daemon is from Corosync 2. Blocks until the daemon answers. This must be a
    /// connection to the default map.
    pub(crate) fn is_corosync_2(&self) -> Result<bool, Error> {
        self.has(IS_COROSYNC_2)
    }

    /// Whether a tracked key may have changed since the last call. Never blocks.
    ///
    /// The daemon reports a change before it answers any later request, on any connection. So after
    /// an answer, this reports all changes before that answer.
    pub(crate) fn has_changed(&self) -> Result<bool, Error> {
        let mut fd = -1;
        // SAFETY: the handle is open, and `fd` is a local.
        self.succeeded(unsafe { (self.library.cmap_fd_get)(self.raw, &mut fd) })?;
        // SAFETY: libcmap has just returned the descriptor; it stays open until `drop`.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let mut polled = [PollFd::new(&fd, PollFlags::IN)];
        if poll(&mut polled, Some(&Timespec::default())) == Ok(0) {
            return Ok(false);
        }
        // `cmap_dispatch` has the same buffer on its stack as `quorum_dispatch`.
        stack::check()?;
        // SAFETY: the handle is open, and no other thread uses it.
        let code = unsafe { (self.library.cmap_dispatch)(self.raw, sys::CS_DISPATCH_ALL) };
        self.succeeded(code).map(|()| true)
    }

    /// Whether this key exists. The type of its value does not matter.
    fn has(&self, key: &CStr) -> Result<bool, Error> {
        let (mut length, mut kind) = (0, 0);
        // SAFETY: the handle is open; the key lives through the call, and the rest are locals, or
        // null for the value, which is not needed.
        self.found(unsafe {
            let value = ptr::null_mut();
            (self.library.cmap_get)(self.raw, key.as_ptr(), value, &mut length, &mut kind)
        })
    }

    /// Returns the value of this key, if it exists. Blocks until the daemon answers. A daemon that
    /// is synchronising answers only on connections that were opened after the synchronisation
    /// began.
    pub(crate) fn get_u64(&self, key: &CStr) -> Result<Option<u64>, Error> {
        let mut value = 0;
        // SAFETY: the handle is open; the key lives through the call, and the value is a local.
        self.found(unsafe { (self.library.cmap_get_uint64)(self.raw, key.as_ptr(), &mut value) })
            .map(|found| found.then_some(value))
    }

    /// Returns the value of this key, if it exists. Blocks as [`get_u64`](Self::get_u64) does.
    pub(crate) fn get_u32(&self, key: &str) -> Result<Option<u32>, Error> {
        let (key, mut value) = (c_key(key), 0);
        // SAFETY: the handle is open; the key lives through the call, and the value is a local.
        self.found(unsafe { (self.library.cmap_get_uint32)(self.raw, key.as_ptr(), &mut value) })
            .map(|found| found.then_some(value))
    }

    #[cfg(any(feature = "metrics", feature = "web"))]
    fn get_string(&self, key: &str) -> Result<Option<String>, Error> {
        let (key, mut value) = (c_key(key), ptr::null_mut());
        // SAFETY: the handle is open; the key lives through the call, and the value is a local.
        let code = unsafe { (self.library.cmap_get_string)(self.raw, key.as_ptr(), &mut value) };
        if !self.found(code)? {
            return Ok(None);
        }
        // SAFETY: the value is a string that libcmap has just allocated for us.
        let string = unsafe { CStr::from_ptr(value) }.to_string_lossy().into_owned();
        // SAFETY: libcmap allocated it with malloc for the caller to free (`cmap_get(3)`).
        unsafe { libc::free(value.cast()) };
        Ok(Some(string))
    }

    fn succeeded(&self, code: sys::cs_error_t) -> Result<(), Error> {
        match Code(code) {
            Code::OK => Ok(()),
            code => {
                self.lost.set(self.lost.get() || code == Code::LIBRARY);
                Err(Error::Request(code))
            }
        }
    }

    /// Whether the key exists, as the code of its request shows.
    fn found(&self, code: sys::cs_error_t) -> Result<bool, Error> {
        match self.succeeded(code) {
            Ok(()) => Ok(true),
            Err(Error::Request(Code::NOT_EXIST)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn load() -> Result<sys::Cmap, Error> {
    #[cfg(feature = "linked")]
    return Ok(sys::Cmap::linked());
    #[cfg(not(feature = "linked"))]
    // SAFETY: the library that the dynamic linker finds by this name is libcmap. The system's
    // administrator is responsible for that, as for each library that the program is linked with.
    return unsafe { sys::Cmap::load() }.map_err(super::library::not_loaded);
}

/// The changes of tracked keys that the daemon reports: all of them.
const CHANGES: i32 =
    sys::CMAP_TRACK_ADD | sys::CMAP_TRACK_DELETE | sys::CMAP_TRACK_MODIFY | sys::CMAP_TRACK_PREFIX;

/// The callback for a change. It does nothing, because `has_changed` only reports whether keys may
/// have changed.
extern "C" fn ignore(
    _handle: sys::cmap_handle_t,
    _track: sys::cmap_track_handle_t,
    _event: i32,
    _key: *const c_char,
    _new: sys::cmap_notify_value,
    _old: sys::cmap_notify_value,
    _context: *mut c_void,
) {
}

/// A key that Corosync 2 has, and Corosync 3 does not.
const IS_COROSYNC_2: &CStr = c"runtime.connections.active";

/// Whether `ring0_addr` is a host name and not an IP address. An IPv6 address may have a zone.
#[cfg(any(feature = "metrics", feature = "web"))]
fn is_host_name(address: &str) -> bool {
    !address.is_empty() && !address.contains(':') && address.parse::<std::net::Ipv4Addr>().is_err()
}

/// Returns the position of a node in the nodelist, from any key of the node. Not every node has the
/// key `nodeid`: Corosync 2 derives the id of a node without it from the address.
fn position(key: &str) -> Option<u32> {
    key.strip_prefix("nodelist.node.")?.split_once('.')?.0.parse().ok()
}

fn c_key(key: &str) -> CString {
    CString::new(key).expect("a key contains no zero byte")
}

impl Drop for Cmap {
    fn drop(&mut self) {
        let (library, raw) = (self.library, self.raw);
        HANDLES.close(&self.peer_link, self.lost.get(), move || {
            // SAFETY: the handle was open until now, and its owner no longer uses it.
            unsafe { (library.cmap_finalize)(raw) }
        });
    }
}

static HANDLES: HandleTable = HandleTable::new();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_an_id_in_the_nodelist_still_has_a_position() {
        let keys = [
            "nodelist.local_node_pos",
            "nodelist.node.0.nodeid",
            "nodelist.node.0.ring0_addr",
            "nodelist.node.1.quorum_votes",
            "nodelist.node.1.ring0_addr",
            "nodelist.node.12.ring1_addr",
        ];
        let positions: BTreeSet<u32> = keys.into_iter().filter_map(position).collect();
        assert_eq!(positions, BTreeSet::from([0, 1, 12]));
    }
}
