//! The declarations of `corosync/cmap.h`, except for most of the functions that get or set a value
//! of one type.

use std::ffi::{c_char, c_int, c_uint, c_void};

use crate::cs_dispatch_flags_t;

/// A connection to the cmap service.
pub type cmap_handle_t = u64;
/// An iteration over keys.
pub type cmap_iter_handle_t = u64;
/// A tracked key or prefix.
pub type cmap_track_handle_t = u64;

/// The longest key, in bytes. A buffer for a key needs one byte more, for the NUL.
pub const CMAP_KEYNAME_MAXLEN: usize = 255;
/// The shortest key, in bytes.
pub const CMAP_KEYNAME_MINLEN: usize = 3;

/// Tracks keys that are added; as an event: the key was added.
pub const CMAP_TRACK_ADD: i32 = 4;
/// Tracks keys that are deleted; as an event: the key was deleted.
pub const CMAP_TRACK_DELETE: i32 = 1;
/// Tracks keys that are modified; as an event: the key was modified.
pub const CMAP_TRACK_MODIFY: i32 = 2;
/// Tracks every key that begins with the given one. Never an event.
pub const CMAP_TRACK_PREFIX: i32 = 8;

/// The type of a value: one of `CMAP_VALUETYPE_*`, or 0 for no value. An enum in C.
pub type cmap_value_types_t = c_uint;

/// `i8`.
pub const CMAP_VALUETYPE_INT8: cmap_value_types_t = 1;
/// `u8`.
pub const CMAP_VALUETYPE_UINT8: cmap_value_types_t = 2;
/// `i16`.
pub const CMAP_VALUETYPE_INT16: cmap_value_types_t = 3;
/// `u16`.
pub const CMAP_VALUETYPE_UINT16: cmap_value_types_t = 4;
/// `i32`.
pub const CMAP_VALUETYPE_INT32: cmap_value_types_t = 5;
/// `u32`.
pub const CMAP_VALUETYPE_UINT32: cmap_value_types_t = 6;
/// `i64`.
pub const CMAP_VALUETYPE_INT64: cmap_value_types_t = 7;
/// `u64`.
pub const CMAP_VALUETYPE_UINT64: cmap_value_types_t = 8;
/// `f32`.
pub const CMAP_VALUETYPE_FLOAT: cmap_value_types_t = 9;
/// `f64`.
pub const CMAP_VALUETYPE_DOUBLE: cmap_value_types_t = 10;
/// A string that ends with a NUL.
pub const CMAP_VALUETYPE_STRING: cmap_value_types_t = 11;
/// Bytes.
pub const CMAP_VALUETYPE_BINARY: cmap_value_types_t = 12;

/// Which map to use: one of `CMAP_MAP_*`. An enum in C.
pub type cmap_map_t = c_uint;

/// The map that [`Cmap::cmap_initialize`] uses.
pub const CMAP_MAP_DEFAULT: cmap_map_t = 0;
/// Configuration and run-time state.
pub const CMAP_MAP_ICMAP: cmap_map_t = 0;
/// Statistics.
pub const CMAP_MAP_STATS: cmap_map_t = 1;

/// A value in a notification. All zero if there is none.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct cmap_notify_value {
    /// Its type.
    pub r#type: cmap_value_types_t,
    /// Its length in bytes.
    pub len: usize,
    /// The address of the value. It is valid during the callback, and need not be aligned for the
    /// type of the value.
    pub data: *const c_void,
}

/// Called with a change of a tracked key. Key and values are valid during the call.
pub type cmap_notify_fn_t = Option<
    unsafe extern "C" fn(
        cmap_handle: cmap_handle_t,
        cmap_track_handle: cmap_track_handle_t,
        event: i32,
        key_name: *const c_char,
        new_value: cmap_notify_value,
        old_value: cmap_notify_value,
        user_data: *mut c_void,
    ),
>;

library! {
    /// The functions of libcmap.
    pub struct Cmap("libcmap.so.4") {
        /// Connects to the daemon. Blocks for as long as the daemon is hung: `cmap_initialize(3)`.
        fn cmap_initialize(handle: *mut cmap_handle_t);
        /// Closes a connection and its fd. Blocks for about 40 ms if the daemon has just died:
        /// `cmap_finalize(3)`.
        fn cmap_finalize(handle: cmap_handle_t);
        /// Returns the fd that becomes readable when there is something to dispatch. Never blocks:
        /// `cmap_fd_get(3)`.
        fn cmap_fd_get(handle: cmap_handle_t, fd: *mut c_int);
        /// Calls the callbacks for the queued events, and blocks for events only with
        /// [`CS_DISPATCH_ONE`](crate::CS_DISPATCH_ONE) and
        /// [`CS_DISPATCH_BLOCKING`](crate::CS_DISPATCH_BLOCKING): `cmap_dispatch(3)`.
        fn cmap_dispatch(handle: cmap_handle_t, dispatch_types: cs_dispatch_flags_t);
        /// Returns the pointer stored in the connection. Never blocks: `cmap_context_get(3)`.
        fn cmap_context_get(handle: cmap_handle_t, context: *mut *const c_void);
        /// Stores a pointer of the caller's in the connection. Never blocks: `cmap_context_set(3)`.
        fn cmap_context_set(handle: cmap_handle_t, context: *const c_void);
        /// Stores a value. Blocks for as long as the daemon is hung or the cluster is
        /// synchronising: `cmap_set(3)`.
        fn cmap_set(
            handle: cmap_handle_t,
            key_name: *const c_char,
            value: *const c_void,
            value_len: usize,
            r#type: cmap_value_types_t,
        );
        /// Stores a `u32`, and blocks as `cmap_set` does: `cmap_set(3)`.
        fn cmap_set_uint32(handle: cmap_handle_t, key_name: *const c_char, value: u32);
        /// Stores a string, and blocks as `cmap_set` does: `cmap_set(3)`.
        fn cmap_set_string(
            handle: cmap_handle_t,
            key_name: *const c_char,
            value: *const c_char,
        );
        /// Deletes a key, and blocks as `cmap_set` does: `cmap_delete(3)`.
        fn cmap_delete(handle: cmap_handle_t, key_name: *const c_char);
        /// Fetches a value into a buffer of `*value_len` bytes, or only its length and type if
        /// `value` is null. Blocks for as long as the daemon is hung or the cluster is
        /// synchronising: `cmap_get(3)`.
        fn cmap_get(
            handle: cmap_handle_t,
            key_name: *const c_char,
            value: *mut c_void,
            value_len: *mut usize,
            r#type: *mut cmap_value_types_t,
        );
        /// Fetches a `u32`, and blocks as `cmap_get` does: `cmap_get(3)`.
        fn cmap_get_uint32(handle: cmap_handle_t, key_name: *const c_char, u32: *mut u32);
        /// Fetches a `u64`, and blocks as `cmap_get` does: `cmap_get(3)`.
        fn cmap_get_uint64(handle: cmap_handle_t, key_name: *const c_char, u64: *mut u64);
        /// Fetches a string that the caller has to `free`, and blocks as `cmap_get` does:
        /// `cmap_get(3)`.
        fn cmap_get_string(
            handle: cmap_handle_t,
            key_name: *const c_char,
            str: *mut *mut c_char,
        );
        /// Adds one to an integer, and blocks as `cmap_set` does: `cmap_inc(3)`.
        fn cmap_inc(handle: cmap_handle_t, key_name: *const c_char);
        /// Subtracts one from an integer, and blocks as `cmap_set` does: `cmap_dec(3)`.
        fn cmap_dec(handle: cmap_handle_t, key_name: *const c_char);
        /// Starts an iteration over the keys with a prefix, and blocks as `cmap_get` does:
        /// `cmap_iter_init(3)`.
        fn cmap_iter_init(
            handle: cmap_handle_t,
            prefix: *const c_char,
            cmap_iter_handle: *mut cmap_iter_handle_t,
        );
        /// Fetches the next key into a buffer of [`CMAP_KEYNAME_MAXLEN`]` + 1` bytes, or returns
        /// [`CS_ERR_NO_SECTIONS`](crate::CS_ERR_NO_SECTIONS) after the last, and blocks as
        /// `cmap_get` does: `cmap_iter_next(3)`.
        fn cmap_iter_next(
            handle: cmap_handle_t,
            iter_handle: cmap_iter_handle_t,
            key_name: *mut c_char,
            value_len: *mut usize,
            r#type: *mut cmap_value_types_t,
        );
        /// Ends an iteration, and blocks as `cmap_get` does: `cmap_iter_finalize(3)`.
        fn cmap_iter_finalize(handle: cmap_handle_t, iter_handle: cmap_iter_handle_t);
        /// Asks for notifications (`CMAP_TRACK_*`) of a key or a prefix, and blocks as `cmap_get`
        /// does: `cmap_track_add(3)`.
        fn cmap_track_add(
            handle: cmap_handle_t,
            key_name: *const c_char,
            track_type: i32,
            notify_fn: cmap_notify_fn_t,
            user_data: *mut c_void,
            cmap_track_handle: *mut cmap_track_handle_t,
        );
        /// Ends the notifications of one `cmap_track_add`, and blocks as `cmap_get` does:
        /// `cmap_track_delete(3)`.
        fn cmap_track_delete(handle: cmap_handle_t, track_handle: cmap_track_handle_t);
    }
    optional {
        /// Connects to the daemon for one of the maps. Blocks for as long as the daemon is hung:
        /// `cmap_initialize_map(3)`; absent before Corosync 3.0. It kills a daemon of Corosync 2.
        fn cmap_initialize_map(handle: *mut cmap_handle_t, map: cmap_map_t) as initialize_map;
    }
}
