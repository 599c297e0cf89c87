//! The callbacks that libquorum calls. They copy their arguments and return.

use std::{cell::Cell, collections::VecDeque, ptr};

use corosync_sys as sys;

use super::{NodeId, Notification, RingId};
use crate::error::{Code, Error};

/// The callbacks of model V0.
pub(super) const V0: sys::quorum_callbacks_t =
    sys::quorum_callbacks_t { quorum_notify_fn: Some(on_quorum_v0) };

/// The callbacks of model V1.
pub(super) const V1: sys::quorum_model_v1_data_t = sys::quorum_model_v1_data_t {
    model: sys::QUORUM_MODEL_V1,
    quorum_notify_fn: Some(on_quorum),
    nodelist_notify_fn: Some(on_nodelist),
};

/// The notifications that the callbacks of one connection have delivered.
#[derive(Debug, Default)]
pub(super) struct CallbackBuffer {
    notifications: VecDeque<Notification>,
    /// Whether a callback received a list of more nodes than a cluster can have, or a decision that
    /// is neither 0 nor 1. The rest of the message cannot be trusted then, nor can later messages.
    malformed: bool,
}

impl CallbackBuffer {
    /// Runs `dispatch`, which calls `quorum_dispatch` for one notification, and collects the
    /// notifications of its callbacks in this buffer. Returns the first one, or `Ok(None)` if the
    /// queue is empty. After an error the connection has ended.
    ///
    /// libquorum calls the callbacks only on the dispatching thread. It passes the handle to them,
    /// but no pointer of the caller's choice. So this call keeps a pointer to this buffer in a
    /// thread-local variable until it returns. (The handle's context could hold the pointer, but
    /// the context belongs to the user of the handle.)
    pub(super) fn dispatch(
        &mut self,
        dispatch: impl FnOnce() -> sys::cs_error_t,
    ) -> Result<Option<Notification>, Error> {
        let outer = CURRENT_BUFFER.replace(ptr::from_mut(self));
        let code = Code(dispatch());
        CURRENT_BUFFER.set(outer);
        if self.malformed {
            return Err(Error::Dispatch(Code::MESSAGE_ERROR));
        }
        match (code, self.notifications.pop_front()) {
            (Code::OK, Some(notification)) => Ok(Some(notification)),
            (Code::TRY_AGAIN, None) => Ok(None),
            // `lib/quorum.c` returns CS_OK for a connection whose descriptor is closed.
            (Code::OK, None) => Err(Error::Dispatch(Code::BAD_HANDLE)),
            (code, _) => Err(Error::Dispatch(code)),
        }
    }

    fn push(&mut self, notification: Option<Notification>) {
        match notification {
            Some(notification) => self.notifications.push_back(notification),
            None => self.malformed = true,
        }
    }
}

thread_local! {
    /// The buffer of this thread's running dispatch, or null.
    static CURRENT_BUFFER: Cell<*mut CallbackBuffer> = const { Cell::new(ptr::null_mut()) };
}

fn deliver(notification: Option<Notification>) {
    // SAFETY: `CallbackBuffer::dispatch` stored the pointer from a `&mut`, which it holds until the
    // running dispatch has returned, and then removes the pointer. No other code uses the buffer
    // meanwhile.
    if let Some(buffer) = unsafe { CURRENT_BUFFER.get().as_mut() } {
        buffer.push(notification);
    }
}

/// The longest list of nodes that Corosync can send (`PROCESSOR_COUNT_MAX`).
const MAX_NODES: u32 = 384;

/// Copies a list of node ids. Returns `None` if it is longer than any list that Corosync sends.
///
/// # Safety
///
/// If `entries` is at most [`MAX_NODES`], `list` must be null or hold `entries` node ids for the
/// length of the call, at any alignment.
unsafe fn node_ids(list: *const u32, entries: u32) -> Option<Vec<NodeId>> {
    if list.is_null() || entries == 0 {
        return Some(Vec::new());
    }
    // SAFETY: the caller guarantees `entries` node ids, and the index stays below that.
    let id = |index: u32| NodeId(unsafe { list.add(index as usize).read_unaligned() });
    (entries <= MAX_NODES).then(|| (0..entries).map(id).collect())
}

/// Whether there is quorum, which Corosync reports as 0 or 1. Returns `None` for any other value,
/// which is not a decision: for a truncated message, libquorum passes on old contents of its stack.
pub(super) fn is_quorate(quorate: u32) -> Option<bool> {
    match quorate {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// Returns the notification of a decision, or `None` if it is not well formed.
fn quorum(quorate: u32, ring_id: RingId, members: Option<Vec<NodeId>>) -> Option<Notification> {
    Some(Notification::Quorum { quorate: is_quorate(quorate)?, ring_id, members: members? })
}

fn ring_id(ring_id: sys::quorum_ring_id) -> RingId {
    RingId { node_id: NodeId(ring_id.nodeid), seq: ring_id.seq }
}

/// Receives a quorum notification of model V0.
///
/// # Safety
///
/// Only `quorum_dispatch`, or its replacement in tests, may call this. If `entries` is at most
/// [`MAX_NODES`], `members` must be null or hold `entries` node ids for the length of the call.
unsafe extern "C" fn on_quorum_v0(
    _handle: sys::quorum_handle_t,
    quorate: u32,
    ring_seq: u64,
    entries: u32,
    members: *mut u32,
) {
    // SAFETY: libquorum keeps `members` valid until we return; `node_ids` copies it.
    let members = unsafe { node_ids(members, entries) };
    deliver(quorum(quorate, RingId { node_id: NodeId(0), seq: ring_seq }, members));
}

/// Receives a quorum notification of model V1.
///
/// # Safety
///
/// The conditions of [`on_quorum_v0`].
unsafe extern "C" fn on_quorum(
    _handle: sys::quorum_handle_t,
    quorate: u32,
    ring: sys::quorum_ring_id,
    entries: u32,
    members: *const u32,
) {
    // SAFETY: libquorum keeps `members` valid until we return; `node_ids` copies it.
    let members = unsafe { node_ids(members, entries) };
    deliver(quorum(quorate, ring_id(ring), members));
}

/// Receives a nodelist notification of model V1.
///
/// # Safety
///
/// The conditions of [`on_quorum_v0`], for all three lists. libquorum computes the address of each
/// list from the length of the previous one (`lib/quorum.c`). So a list must not be read if a list
/// before it is too long.
unsafe extern "C" fn on_nodelist(
    _handle: sys::quorum_handle_t,
    ring: sys::quorum_ring_id,
    member_entries: u32,
    members: *const u32,
    joined_entries: u32,
    joined: *const u32,
    left_entries: u32,
    left: *const u32,
) {
    let copy = || {
        // SAFETY: libquorum keeps `members` valid until we return; `node_ids` copies it.
        let members = unsafe { node_ids(members, member_entries) }?;
        // SAFETY: as for `members`, which was not too long.
        let joined = unsafe { node_ids(joined, joined_entries) }?;
        // SAFETY: as for `joined`, which was not too long.
        let left = unsafe { node_ids(left, left_entries) }?;
        Some(Notification::Nodelist { ring_id: ring_id(ring), members, joined, left })
    };
    deliver(copy());
}
