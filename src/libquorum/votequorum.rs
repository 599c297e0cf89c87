//! The one request of libvotequorum that the probe makes.

use std::ffi::c_uint;

use corosync_sys as sys;

use super::{
    NodeId, PeerProcess,
    canceller::Peer,
    open::{HandleTable, Opened, Tie},
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
    tie: Tie,
    /// A request has failed: the daemon is gone, or the connection is.
    lost: bool,
    /// Whose votes were asked for last, and what was told.
    known: (Vec<NodeId>, Votes),
    /// How often nothing has changed.
    unchanged: usize,
}

/// What votequorum says of this node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Info {
    pub(crate) quorate: bool,
    pub(crate) local: NodeId,
    pub(crate) votes: Votes,
}

impl Votequorum {
    /// Blocks until the daemon answers.
    pub(crate) fn initialize(peer: Peer<'_>) -> Result<Self, Error> {
        #[cfg(feature = "linked")]
        let library = sys::VoteQuorum::linked();
        #[cfg(not(feature = "linked"))]
        // SAFETY: what the dynamic linker finds by this name is libvotequorum: the system's
        // administrator answers for it, as for each library that the program is linked with.
        let library = unsafe { sys::VoteQuorum::load() }?;
        let mut callbacks = sys::votequorum_callbacks_t::default();
        let Opened { handle: raw, tie } = HANDLES.make(
            b"votequorum",
            peer,
            // SAFETY: both pointers are to locals; the callbacks are none, and are copied.
            |raw| unsafe { (library.votequorum_initialize)(raw, &mut callbacks) },
            // SAFETY: the handle is open; `fd` is a local of the caller.
            |raw, fd| unsafe { (library.votequorum_fd_get)(raw, fd) },
            // SAFETY: `raw` is a handle that nobody else has, or none.
            |raw| unsafe { (library.votequorum_finalize)(raw) },
        )?;
        let known = (Vec::new(), Votes::default());
        Ok(Self { library, raw, tie, lost: false, known, unchanged: 0 })
    }

    pub(crate) fn server(&self) -> Option<PeerProcess> {
        self.tie.server
    }

    /// What it says of this node, and of the votes of these members. Blocks until the daemon
    /// answers; it does also while it synchronises (`exec/main.c`).
    pub(crate) fn info(&mut self, members: &[NodeId]) -> Result<Info, Error> {
        let told = self.get_info(NodeId(0))?;
        let votes = Votes {
            expected: told.node_expected_votes,
            highest_expected: told.highest_expected,
            total: told.total_votes,
            quorum: told.quorum,
            qdevice: told.qdevice_votes,
            configured: None,
            members: Vec::new(),
            flags: VoteFlags::from_bits_retain(told.flags),
        };
        self.learn(members, votes)?;
        Ok(Info {
            quorate: told.flags & sys::VOTEQUORUM_INFO_QUORATE != 0,
            local: NodeId(told.node_id),
            votes: self.known.1.clone(),
        })
    }

    /// Asks for the votes of each member if it may have others than it had, or is another; and
    /// otherwise of one of them in turn, since the votes of two can change and their sum stay what
    /// it was. Each is a request: to make hundreds every second would be a load.
    fn learn(&mut self, members: &[NodeId], votes: Votes) -> Result<(), Error> {
        let (asked, known) = &self.known;
        let before = known.members.get(self.unchanged % known.members.len().max(1)).copied();
        let sums = Votes { members: known.members.clone(), ..votes.clone() };
        if let Some((node, before)) = before.filter(|_| asked == members && *known == sums)
            && self.votes_of(node)? == Some(before)
        {
            self.unchanged += 1;
            return Ok(());
        }
        let mut told = Vec::with_capacity(members.len());
        for member in members {
            told.extend(self.votes_of(*member)?.map(|votes| (*member, votes)));
        }
        self.known = (members.to_vec(), Votes { members: told, ..votes });
        Ok(())
    }

    /// `None` if it has left meanwhile.
    fn votes_of(&mut self, node: NodeId) -> Result<Option<u32>, Error> {
        match self.get_info(node) {
            Ok(info) => Ok(Some(info.node_votes)),
            Err(Error::Request(Code::NOT_EXIST)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Node 0 is this one.
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
        HANDLES.close(&self.tie, self.lost, move || {
            // SAFETY: the handle was open until now, and its owner gives it up.
            unsafe { (library.votequorum_finalize)(raw) }
        });
    }
}

type GetInfo = unsafe extern "C" fn(
    sys::votequorum_handle_t,
    c_uint,
    *mut sys::votequorum_info,
) -> sys::cs_error_t;

/// What libvotequorum says of a node, and whether it does.
///
/// # Safety
///
/// `call` is libvotequorum's, and the handle is its own and used by nobody else meanwhile.
unsafe fn get_info(
    call: GetInfo,
    raw: sys::votequorum_handle_t,
    node: NodeId,
) -> (Code, sys::votequorum_info) {
    /// The name of the quorum device comes last, and libvotequorum copies it up to its NUL
    /// (`lib/votequorum.c`). If the daemon sent none, that copies what is behind the name on its
    /// stack, too, up to a zero there, which is a few words away.
    #[repr(C)]
    struct Roomy {
        info: sys::votequorum_info,
        room: [u8; ROOM],
    }

    let mut told = Roomy { info: sys::votequorum_info::default(), room: [0; ROOM] };
    // SAFETY: the caller vouches for the rest; `told` is a local, which begins with `info`.
    let code = Code(unsafe { call(raw, node.0, (&raw mut told).cast()) });
    (code, told.info)
}

/// How far a name may run on behind its place.
const ROOM: usize = 1024;

static HANDLES: HandleTable = HandleTable::new();

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn a_name_without_an_end_runs_over_nothing_else() {
        unsafe extern "C" fn overrun(
            _: sys::votequorum_handle_t,
            _: c_uint,
            info: *mut sys::votequorum_info,
        ) -> sys::cs_error_t {
            let name = offset_of!(sys::votequorum_info, qdevice_name);
            // SAFETY: `get_info` has room for as much behind the structure.
            unsafe { info.cast::<u8>().add(name).write_bytes(b'x', 255 + ROOM) };
            sys::CS_OK
        }

        // SAFETY: it looks at no handle.
        let (code, info) = unsafe { get_info(overrun, 0, NodeId(0)) };
        assert_eq!(code, Code::OK);
        assert!(info.qdevice_name.iter().all(|letter| letter.to_ne_bytes() == [b'x']));
    }
}
