//! The callbacks that libquorum calls: they copy what they are given and return.

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

/// What the callbacks of one connection delivered.
#[derive(Debug, Default)]
pub(super) struct CallbackBuffer {
    notifications: VecDeque<Notification>,
    /// A list was longer than a cluster can be, or a decision neither for quorum nor against it. What
    /// is behind it cannot be trusted, nor what follows.
    malformed: bool,
}

impl CallbackBuffer {
    /// Runs `dispatch`, a call of `quorum_dispatch` for one notification, with this inbox open to
    /// its callbacks. `Ok(None)` if nothing waits; after an error the connection is over.
    ///
    /// libquorum calls back on the thread that dispatches and from nowhere else, and its callbacks
    /// are not told of whom they are; so what tells them is kept for this thread and this call.
    /// (The handle's context could tell, but it belongs to the user of the handle.)
    pub(super) fn dispatch(
        &mut self,
        dispatch: impl FnOnce() -> sys::cs_error_t,
    ) -> Result<Option<Notification>, Error> {
        let outer = HANDLES.replace(ptr::from_mut(self));
        let code = Code(dispatch());
        HANDLES.set(outer);
        if self.malformed {
            return Err(Error::Dispatch(Code::MESSAGE_ERROR));
        }
        match (code, self.notifications.pop_front()) {
            (Code::OK, Some(notification)) => Ok(Some(notification)),
            (Code::TRY_AGAIN, None) => Ok(None),
            // `lib/quorum.c` says CS_OK for a connection whose descriptor is closed.
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
    /// The inbox of the dispatch that this thread is in, or null.
    static HANDLES: Cell<*mut CallbackBuffer> = const { Cell::new(ptr::null_mut()) };
}

fn deliver(notification: Option<Notification>) {
    // SAFETY: `CallbackBuffer::dispatch` put the pointer there from a `&mut` that it holds until the dispatch
    // whose callback we are has returned, and takes it away again; nobody uses the inbox meanwhile.
    if let Some(inbox) = unsafe { HANDLES.get().as_mut() } {
        inbox.push(notification);
    }
}

/// The longest list of nodes that Corosync can send (`PROCESSOR_COUNT_MAX`).
const MAX_NODES: u32 = 384;

/// Copies a list of node ids; `None` if it is longer than any that Corosync sends.
///
/// # Safety
///
/// Up to [`MAX_NODES`] entries, `list` is null or holds `entries` node ids for the length of the
/// call, at any alignment.
unsafe fn node_ids(list: *const u32, entries: u32) -> Option<Vec<NodeId>> {
    if list.is_null() || entries == 0 {
        return Some(Vec::new());
    }
    // SAFETY: the caller gives `entries` node ids, and the index stays below that.
    let id = |index: u32| NodeId(unsafe { list.add(index as usize).read_unaligned() });
    (entries <= MAX_NODES).then(|| (0..entries).map(id).collect())
}

/// Whether there is quorum, which Corosync tells as 0 or 1. Anything else is no decision: what a
/// message that is cut short leaves out, libquorum makes up of what its stack held before.
pub(super) fn is_quorate(quorate: u32) -> Option<bool> {
    match quorate {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// The notification of a decision; `None` if it is not well formed.
fn quorum(quorate: u32, ring_id: RingId, members: Option<Vec<NodeId>>) -> Option<Notification> {
    Some(Notification::Quorum { quorate: is_quorate(quorate)?, ring_id, members: members? })
}

fn ring_id(ring_id: sys::quorum_ring_id) -> RingId {
    RingId { node_id: NodeId(ring_id.nodeid), seq: ring_id.seq }
}

/// # Safety
///
/// For libquorum only: it calls this inside `quorum_dispatch`, with `members` null or holding
/// `entries` node ids for the length of the call.
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

/// # Safety
///
/// As [`on_quorum_v0`].
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

/// # Safety
///
/// As [`on_quorum_v0`], for all three lists. libquorum finds each list behind the one before it
/// (`lib/quorum.c`), so none is read behind one that is too long.
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
