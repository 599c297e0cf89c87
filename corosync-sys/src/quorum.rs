//! The declarations of `corosync/quorum.h`.

use std::ffi::{c_int, c_uint, c_void};

use crate::cs_dispatch_flags_t;

/// A connection to the quorum service.
pub type quorum_handle_t = u64;

/// The interface of a connection, which determines its callbacks: one of `QUORUM_MODEL_*`. An enum
/// in C.
pub type quorum_model_t = c_uint;

/// [`quorum_model_v0_data_t`]: one callback, with the number of the ring and its members.
pub const QUORUM_MODEL_V0: quorum_model_t = 0;
/// [`quorum_model_v1_data_t`]: two callbacks, with the ring id and the lists of members and of
/// nodes that joined and left.
pub const QUORUM_MODEL_V1: quorum_model_t = 1;

/// A quorum type: no quorum provider is configured, so the node always reports that it is quorate.
pub const QUORUM_FREE: u32 = 0;
/// A quorum type: a quorum provider is configured.
pub const QUORUM_SET: u32 = 1;

/// The identity of a ring: the node that formed it, and a growing number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct quorum_ring_id {
    /// The node that represents the ring.
    pub nodeid: u32,
    /// The number of the ring. Corosync prints it in hex.
    pub seq: u64,
}

/// Called with the quorum and the members (model 0). The list is valid during the call.
pub type quorum_notification_fn_t = Option<
    unsafe extern "C" fn(
        handle: quorum_handle_t,
        quorate: u32,
        ring_seq: u64,
        view_list_entries: u32,
        view_list: *mut u32,
    ),
>;

/// Called with the quorum and the members (model 1). The list is valid during the call.
pub type quorum_v1_quorum_notification_fn_t = Option<
    unsafe extern "C" fn(
        handle: quorum_handle_t,
        quorate: u32,
        ring_id: quorum_ring_id,
        member_list_entries: u32,
        member_list: *const u32,
    ),
>;

/// Called with the members, and the nodes that joined and left (model 1). The lists are valid
/// during the call.
pub type quorum_v1_nodelist_notification_fn_t = Option<
    unsafe extern "C" fn(
        handle: quorum_handle_t,
        ring_id: quorum_ring_id,
        member_list_entries: u32,
        member_list: *const u32,
        joined_list_entries: u32,
        joined_list: *const u32,
        left_list_entries: u32,
        left_list: *const u32,
    ),
>;

/// The callback of [`Quorum::quorum_initialize`]. The library copies it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct quorum_callbacks_t {
    /// Called when quorum or members change.
    pub quorum_notify_fn: quorum_notification_fn_t,
}

/// The beginning of each `quorum_model_v*_data_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct quorum_model_data_t {
    /// The model: one of `QUORUM_MODEL_*`.
    pub model: quorum_model_t,
}

/// The callback of model 0. The library copies it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct quorum_model_v0_data_t {
    /// [`QUORUM_MODEL_V0`].
    pub model: quorum_model_t,
    /// Called when quorum or members change.
    pub quorum_notify_fn: quorum_notification_fn_t,
}

/// The callbacks of model 1. The library copies them.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct quorum_model_v1_data_t {
    /// [`QUORUM_MODEL_V1`].
    pub model: quorum_model_t,
    /// Called when quorum or members change, after `nodelist_notify_fn`.
    pub quorum_notify_fn: quorum_v1_quorum_notification_fn_t,
    /// Called when the members change.
    pub nodelist_notify_fn: quorum_v1_nodelist_notification_fn_t,
}

library! {
    /// The functions of libquorum.
    ///
    /// Call them as `(quorum.quorum_fd_get)(handle, &mut fd)`.
    pub struct Quorum("libquorum.so.5") {
        /// Connects to the daemon with model 0. Blocks for as long as the daemon is hung:
        /// `quorum_initialize(3)`.
        fn quorum_initialize(
            handle: *mut quorum_handle_t,
            callbacks: *mut quorum_callbacks_t,
            quorum_type: *mut u32,
        );
        /// Closes a connection and its fd. Blocks for about 40 ms if the daemon has just died:
        /// `quorum_finalize(3)`.
        fn quorum_finalize(handle: quorum_handle_t);
        /// Returns the fd that becomes readable when there is something to dispatch. Never blocks:
        /// `quorum_fd_get(3)`.
        fn quorum_fd_get(handle: quorum_handle_t, fd: *mut c_int);
        /// Calls the callbacks for the queued events, and blocks for events only with
        /// [`CS_DISPATCH_ONE`](crate::CS_DISPATCH_ONE) and
        /// [`CS_DISPATCH_BLOCKING`](crate::CS_DISPATCH_BLOCKING): `quorum_dispatch(3)`.
        fn quorum_dispatch(handle: quorum_handle_t, dispatch_types: cs_dispatch_flags_t);
        /// Asks the daemon whether the node is quorate. Blocks for as long as the daemon is hung or
        /// the cluster is synchronising: `quorum_getquorate(3)`.
        fn quorum_getquorate(handle: quorum_handle_t, quorate: *mut c_int);
        /// Asks the daemon for notifications (`CS_TRACK_*`). Blocks for as long as the daemon is
        /// hung or the cluster is synchronising: `quorum_trackstart(3)`.
        fn quorum_trackstart(handle: quorum_handle_t, flags: c_uint);
        /// Asks the daemon to stop notifications. Blocks for as long as the daemon is hung or the
        /// cluster is synchronising: `quorum_trackstop(3)`.
        fn quorum_trackstop(handle: quorum_handle_t);
        /// Stores a pointer of the caller's in the connection. Never blocks:
        /// `quorum_context_set(3)`.
        fn quorum_context_set(handle: quorum_handle_t, context: *const c_void);
        /// Returns the pointer stored in the connection. Never blocks: `quorum_context_get(3)`.
        fn quorum_context_get(handle: quorum_handle_t, context: *mut *const c_void);
    }
    optional {
        /// Connects to the daemon with any model. Blocks for as long as the daemon is hung:
        /// `quorum_model_initialize(3)`; absent before Corosync 3.1.0. Model V1 kills a daemon of
        /// Corosync 2.
        fn quorum_model_initialize(
            handle: *mut quorum_handle_t,
            model: quorum_model_t,
            model_data: *mut quorum_model_data_t,
            quorum_type: *mut u32,
            context: *mut c_void,
        ) as model_initialize;
    }
}
