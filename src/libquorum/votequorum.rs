//! The request of libvotequorum that the probe makes.

use std::ffi::c_uint;

use corosync_sys as sys;

use super::{
    NodeId, PeerProcess,
    canceller::Peer,
    open::{HandleTable, Opened, PeerLink},
};
use crate::{
    error::{Code, Error},
    libquorum::{VoteFlags, Votes},
};

/// A connection to Corosync's votequorum service.
#[derive(Debug)]
pub(crate) struct Votequorum {
    library: sys::VoteQuorum,
    raw: sys::votequorum_handle_t,
    peer_link: PeerLink,
    /// Whether a request has failed because the daemon or the connection has ended.
    lost: bool,
    /// The members of the last request, and the votes in the answer.
    known: (Vec<NodeId>, Votes),
    /// The number of requests so far in which nothing had changed. It selects the member to ask
    /// next.
    unchanged: usize,
}

/// The report of votequorum about this node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Info {
    pub(crate) quorate: bool,
    pub(crate) local: NodeId,
    pub(crate) votes: Votes,
}

impl Votequorum {
    /// Connects to votequorum. Blocks until the daemon answers.
    pub(crate) fn initialize(peer: Peer<'_>) -> Result<Self, Error> {
        #[cfg(feature = "linked")]
        let library = sys::VoteQuorum::linked();
        #[cfg(not(feature = "linked"))]
        // SAFETY: the library that the dynamic linker finds by this name is libvotequorum. The
        // system's administrator is responsible for that, as for each library that the program is
        // linked with.
        let library = unsafe { sys::VoteQuorum::load() }.map_err(super::library::not_loaded)?;
        let mut callbacks = sys::votequorum_callbacks_t::default();
        let Opened { handle: raw, peer_link } = HANDLES.make(
            b"votequorum",
            peer,
            // SAFETY: both pointers are to locals; the callbacks are all null, and are copied.
            |raw| unsafe { (library.votequorum_initialize)(raw, &mut callbacks) },
            // SAFETY: the handle is open; `fd` is a local of the caller.
            |raw, fd| unsafe { (library.votequorum_fd_get)(raw, fd) },
            // SAFETY: `raw` is a handle that no other code has, or no handle.
            |raw| unsafe { (library.votequorum_finalize)(raw) },
        )?;
        let known = (Vec::new(), Votes::default());
        Ok(Self { library, raw, peer_link, lost: false, known, unchanged: 0 })
    }

    pub(crate) fn server(&self) -> Option<PeerProcess> {
        self.peer_link.server
    }

    /// Requests the report about this node and the votes of these members. Blocks until the daemon
    /// answers; it answers even while it is synchronising (`exec/main.c`).
    pub(crate) fn info(&mut self, members: &[NodeId]) -> Result<Info, Error> {
        let info = self.get_info(NodeId(0))?;
        let votes = Votes {
            expected: info.node_expected_votes,
            highest_expected: info.highest_expected,
            total: info.total_votes,
            quorum: info.quorum,
            qdevice: info.qdevice_votes,
            configured: None,
            members: Vec::new(),
            qdevices: Vec::new(),
            flags: VoteFlags::from_bits_retain(info.flags),
        };
        self.update_votes(members, votes)?;
        Ok(Info {
            quorate: info.flags & sys::VOTEQUORUM_INFO_QUORATE != 0,
            local: NodeId(info.node_id),
            votes: self.known.1.clone(),
        })
    }

    /// Requests the votes of every member if the members, the totals or the flags in this node's
    /// report have changed. Otherwise it requests the votes of one member, a different one each
    /// time, and those of every member only if that member's votes have changed. This finds votes
    /// that move between two members while the total stays the same, and a quorum device that
    /// fails on another node. Each member costs one request, and requesting all of them every time
    /// would put a needless load on the daemon.
    fn update_votes(&mut self, members: &[NodeId], votes: Votes) -> Result<(), Error> {
        let (asked, known) = &self.known;
        let sums = Votes {
            members: known.members.clone(),
            qdevices: known.qdevices.clone(),
            ..votes.clone()
        };
        let next = members.get(self.unchanged % members.len().max(1)).copied();
        if let Some(node) = next.filter(|_| asked == members && *known == sums) {
            let before = known.of(node).map(|votes| (votes, known.qdevice_of(node)));
            if self.votes_of(node)? == before {
                self.unchanged += 1;
                return Ok(());
            }
        }
        let mut counted = Votes { members: Vec::with_capacity(members.len()), ..votes };
        for member in members {
            let Some((votes, qdevice)) = self.votes_of(*member)? else { continue };
            counted.members.push((*member, votes));
            counted.qdevices.extend((!qdevice.is_empty()).then_some((*member, qdevice)));
        }
        self.known = (members.to_vec(), counted);
        Ok(())
    }

    /// Returns the votes of a node and the state of its quorum device, or `None` if the node has
    /// left meanwhile.
    fn votes_of(&mut self, node: NodeId) -> Result<Option<(u32, VoteFlags)>, Error> {
        match self.get_info(node) {
            Ok(info) => {
                let flags = VoteFlags::from_bits_retain(info.flags);
                Ok(Some((info.node_votes, flags & VoteFlags::QDEVICE)))
            }
            Err(Error::Request(Code::NOT_EXIST)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Requests the report about a node. Node 0 is this node.
    fn get_info(&mut self, node: NodeId) -> Result<sys::votequorum_info, Error> {
        // SAFETY: the handle is open until `drop`, and `&mut self` keeps other threads out of it.
        let (code, info) = unsafe { get_info(self.library.votequorum_getinfo, self.raw, node) };
        self.lost |= code == Code::LIBRARY;
        if code == Code::OK { Ok(info) } else { Err(Error::Request(code)) }
    }
}

impl Drop for Votequorum {
    fn drop(&mut self) {
        let (library, raw) = (self.library, self.raw);
        HANDLES.close(&self.peer_link, self.lost, move || {
            // SAFETY: the handle was open until now, and its owner no longer uses it.
            unsafe { (library.votequorum_finalize)(raw) }
        });
    }
}

type GetInfo = unsafe extern "C" fn(
    sys::votequorum_handle_t,
    c_uint,
    *mut sys::votequorum_info,
) -> sys::cs_error_t;

/// Calls `votequorum_getinfo` and returns its code and the report about a node.
///
/// # Safety
///
/// `call` must be libvotequorum's function, `raw` must be one of its handles, and no other thread
/// may use the handle meanwhile.
unsafe fn get_info(
    call: GetInfo,
    raw: sys::votequorum_handle_t,
    node: NodeId,
) -> (Code, sys::votequorum_info) {
    /// The report, with room after it. The name of the quorum device comes last, and libvotequorum
    /// copies it up to its NUL (`lib/votequorum.c`). If the daemon sent no NUL, libvotequorum also
    /// copies what follows the name on its stack, up to the next zero byte, which is a few words
    /// away.
    #[repr(C)]
    struct PaddedInfo {
        info: sys::votequorum_info,
        padding: [u8; PADDING],
    }

    let mut padded = PaddedInfo { info: sys::votequorum_info::default(), padding: [0; PADDING] };
    // SAFETY: the caller guarantees the rest; `padded` is a local, which begins with `info`.
    let code = Code(unsafe { call(raw, node.0, (&raw mut padded).cast()) });
    (code, padded.info)
}

/// The room after the report, in bytes.
const PADDING: usize = 1024;

static HANDLES: HandleTable = HandleTable::new();

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn a_device_name_without_a_terminating_nul_overwrites_nothing_else() {
        unsafe extern "C" fn overrun(
            _: sys::votequorum_handle_t,
            _: c_uint,
            info: *mut sys::votequorum_info,
        ) -> sys::cs_error_t {
            let name = offset_of!(sys::votequorum_info, qdevice_name);
            // SAFETY: `get_info` has this much padding after the structure.
            unsafe { info.cast::<u8>().add(name).write_bytes(b'x', 255 + PADDING) };
            sys::CS_OK
        }

        // SAFETY: `overrun` does not use the handle.
        let (code, info) = unsafe { get_info(overrun, 0, NodeId(0)) };
        assert_eq!(code, Code::OK);
        assert!(info.qdevice_name.iter().all(|letter| letter.to_ne_bytes() == [b'x']));
    }
}
