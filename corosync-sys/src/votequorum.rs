//! The declarations of `corosync/votequorum.h`, except for the calls of quorum devices.

use std::ffi::{c_char, c_int, c_uint, c_void};

use crate::cs_dispatch_flags_t;

/// A connection to the votequorum service.
pub type votequorum_handle_t = u64;

/// A flag of [`votequorum_info`]: `two_node` is configured.
pub const VOTEQUORUM_INFO_TWONODE: c_uint = 1;
/// A flag of [`votequorum_info`]: the node is quorate.
pub const VOTEQUORUM_INFO_QUORATE: c_uint = 2;
/// A flag of [`votequorum_info`]: `wait_for_all` is configured. It does not mean that the node is
/// still waiting.
pub const VOTEQUORUM_INFO_WAIT_FOR_ALL: c_uint = 4;
/// A flag of [`votequorum_info`]: `last_man_standing` is configured.
pub const VOTEQUORUM_INFO_LAST_MAN_STANDING: c_uint = 8;
/// A flag of [`votequorum_info`]: `auto_tie_breaker` is configured.
pub const VOTEQUORUM_INFO_AUTO_TIE_BREAKER: c_uint = 16;
/// A flag of [`votequorum_info`]: `allow_downscale` is configured.
pub const VOTEQUORUM_INFO_ALLOW_DOWNSCALE: c_uint = 32;
/// A flag of [`votequorum_info`]: a quorum device is registered.
pub const VOTEQUORUM_INFO_QDEVICE_REGISTERED: c_uint = 64;
/// A flag of [`votequorum_info`]: the quorum device is alive.
pub const VOTEQUORUM_INFO_QDEVICE_ALIVE: c_uint = 128;
/// A flag of [`votequorum_info`]: the quorum device casts its vote.
pub const VOTEQUORUM_INFO_QDEVICE_CAST_VOTE: c_uint = 256;
/// A flag of [`votequorum_info`]: the quorum device has `master_wins`, so its partition is quorate.
pub const VOTEQUORUM_INFO_QDEVICE_MASTER_WINS: c_uint = 512;
/// A flag of [`votequorum_info`]: the quorum device has more information about this node. Added
/// after Corosync 3.1.10.
pub const VOTEQUORUM_INFO_QDEVICE_HAS_EXTRA_INFO: c_uint = 1024;

/// A model of `votequorum_model_initialize`, which is not declared here. Added after Corosync
/// 3.1.10.
pub const VOTEQUORUM_MODEL_V1: c_uint = 1;

/// The node id of the quorum device.
pub const VOTEQUORUM_QDEVICE_NODEID: c_uint = 0;
/// The size of [`votequorum_info::qdevice_name`].
pub const VOTEQUORUM_QDEVICE_MAX_NAME_LEN: usize = 255;
/// The default of the time without a poll after which a quorum device counts as dead, in
/// milliseconds.
pub const VOTEQUORUM_QDEVICE_DEFAULT_TIMEOUT: c_uint = 10000;
/// The same time while the cluster is synchronising, in milliseconds.
pub const VOTEQUORUM_QDEVICE_DEFAULT_SYNC_TIMEOUT: c_uint = 30000;

/// The largest size of a quorum device's information about a node, in bytes. Added after Corosync
/// 3.1.10.
pub const VOTEQUORUM_QDEVICE_EXTRA_NODEINFO_MAXSIZE: usize = 4096;

/// A node state: a member.
pub const VOTEQUORUM_NODESTATE_MEMBER: c_uint = 1;
/// A node state: known, but not a member.
pub const VOTEQUORUM_NODESTATE_DEAD: c_uint = 2;
/// A node state: a member that is shutting down.
pub const VOTEQUORUM_NODESTATE_LEAVING: c_uint = 3;

/// The result of [`VoteQuorum::votequorum_getinfo`], about a node and the cluster.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct votequorum_info {
    /// The requested node.
    pub node_id: c_uint,
    /// Its state: one of `VOTEQUORUM_NODESTATE_*`.
    pub node_state: c_uint,
    /// Its votes.
    pub node_votes: c_uint,
    /// The number of votes that it expects in the whole cluster.
    pub node_expected_votes: c_uint,
    /// The highest number of votes that any node expects.
    pub highest_expected: c_uint,
    /// The votes of all members and of the quorum device.
    pub total_votes: c_uint,
    /// The votes that make a quorum.
    pub quorum: c_uint,
    /// `VOTEQUORUM_INFO_*`.
    pub flags: c_uint,
    /// The votes of the quorum device.
    pub qdevice_votes: c_uint,
    /// The name of the quorum device, up to the first zero.
    pub qdevice_name: [c_char; VOTEQUORUM_QDEVICE_MAX_NAME_LEN],
}

impl Default for votequorum_info {
    fn default() -> Self {
        Self {
            node_id: 0,
            node_state: 0,
            node_votes: 0,
            node_expected_votes: 0,
            highest_expected: 0,
            total_votes: 0,
            quorum: 0,
            flags: 0,
            qdevice_votes: 0,
            qdevice_name: [0; VOTEQUORUM_QDEVICE_MAX_NAME_LEN],
        }
    }
}

/// A node and its state.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct votequorum_node_t {
    /// The node.
    pub nodeid: u32,
    /// One of `VOTEQUORUM_NODESTATE_*`.
    pub state: u32,
}

/// The identity of a ring, like [`quorum_ring_id`](crate::quorum_ring_id).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct votequorum_ring_id_t {
    /// The node that represents the ring.
    pub nodeid: u32,
    /// The number of the ring. Corosync prints it in hex.
    pub seq: u64,
}

/// Called with the quorum and all known nodes, including dead ones. The list is valid during the
/// call.
pub type votequorum_quorum_notification_fn_t = Option<
    unsafe extern "C" fn(
        handle: votequorum_handle_t,
        context: u64,
        quorate: u32,
        node_list_entries: u32,
        node_list: *mut votequorum_node_t,
    ),
>;

/// Called with the members. The list is valid during the call.
pub type votequorum_nodelist_notification_fn_t = Option<
    unsafe extern "C" fn(
        handle: votequorum_handle_t,
        context: u64,
        ring_id: votequorum_ring_id_t,
        node_list_entries: u32,
        node_list: *mut u32,
    ),
>;

/// Called with the expected votes.
pub type votequorum_expectedvotes_notification_fn_t =
    Option<unsafe extern "C" fn(handle: votequorum_handle_t, context: u64, expected_votes: u32)>;

/// The callbacks of [`VoteQuorum::votequorum_initialize`]. The library copies them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct votequorum_callbacks_t {
    /// Called when quorum or a node's state changes.
    pub votequorum_quorum_notify_fn: votequorum_quorum_notification_fn_t,
    /// Called when the expected votes are set.
    pub votequorum_expectedvotes_notify_fn: votequorum_expectedvotes_notification_fn_t,
    /// Called when the members change.
    pub votequorum_nodelist_notify_fn: votequorum_nodelist_notification_fn_t,
}

library! {
    /// The functions of libvotequorum.
    ///
    /// The daemon answers these requests even while the cluster is synchronising.
    pub struct VoteQuorum("libvotequorum.so.8") {
        /// Connects to the daemon. Blocks for as long as the daemon is hung, and fails unless
        /// votequorum is the quorum provider: `votequorum_initialize(3)`.
        fn votequorum_initialize(
            handle: *mut votequorum_handle_t,
            callbacks: *mut votequorum_callbacks_t,
        );
        /// Closes a connection and its fd. Blocks for about 40 ms if the daemon has just died:
        /// `votequorum_finalize(3)`.
        fn votequorum_finalize(handle: votequorum_handle_t);
        /// Calls the callbacks for the queued events, and blocks for events only with
        /// [`CS_DISPATCH_ONE`](crate::CS_DISPATCH_ONE) and
        /// [`CS_DISPATCH_BLOCKING`](crate::CS_DISPATCH_BLOCKING): `votequorum_dispatch(3)`.
        fn votequorum_dispatch(handle: votequorum_handle_t, dispatch_types: cs_dispatch_flags_t);
        /// Returns the fd that becomes readable when there is something to dispatch. Never blocks:
        /// `votequorum_fd_get(3)`.
        fn votequorum_fd_get(handle: votequorum_handle_t, fd: *mut c_int);
        /// Asks the daemon for the votes and the state of a node (0: this one). Blocks for as long
        /// as the daemon is hung: `votequorum_getinfo(3)`.
        fn votequorum_getinfo(
            handle: votequorum_handle_t,
            nodeid: c_uint,
            info: *mut votequorum_info,
        );
        /// Sets the expected votes of the cluster. Blocks for as long as the daemon is hung:
        /// `votequorum_setexpected(3)`.
        fn votequorum_setexpected(handle: votequorum_handle_t, expected_votes: c_uint);
        /// Sets the votes of a node. Blocks for as long as the daemon is hung:
        /// `votequorum_setvotes(3)`.
        fn votequorum_setvotes(handle: votequorum_handle_t, nodeid: c_uint, votes: c_uint);
        /// Asks the daemon for notifications (`CS_TRACK_*`). Blocks for as long as the daemon is
        /// hung: `votequorum_trackstart(3)`.
        fn votequorum_trackstart(handle: votequorum_handle_t, context: u64, flags: c_uint);
        /// Asks the daemon to stop notifications. Blocks for as long as the daemon is hung:
        /// `votequorum_trackstop(3)`.
        fn votequorum_trackstop(handle: votequorum_handle_t);
        /// Returns the pointer stored in the connection. Never blocks: `votequorum_context_get(3)`.
        fn votequorum_context_get(handle: votequorum_handle_t, context: *mut *mut c_void);
        /// Stores a pointer of the caller's in the connection. Never blocks:
        /// `votequorum_context_set(3)`.
        fn votequorum_context_set(handle: votequorum_handle_t, context: *mut c_void);
    }
    optional {}
}
