//! A replacement for libquorum that calls the real callbacks with the arguments that a test
//! chooses, well-formed or malformed.

use std::ptr;

use super::{
    Notification,
    callbacks::{CallbackBuffer, V0, V1},
    sys,
};
use crate::error::Error;

/// A list of node ids, as a callback receives it.
#[derive(Debug)]
pub(crate) enum List {
    /// A null pointer, with any length.
    Null(u32),
    /// A pointer that must not be read: the list has no entries or too many, or follows a list that
    /// has too many.
    Dangling(u32),
    /// The ids, in an allocation that begins with this many other bytes, which shift the ids off
    /// their alignment.
    Ids(Vec<u32>, usize),
}

/// One call of a callback.
#[derive(Debug)]
pub(crate) enum Call {
    QuorumV0 { quorate: u32, seq: u64, members: List },
    Quorum { quorate: u32, ring: (u32, u64), members: List },
    Nodelist { ring: (u32, u64), members: List, joined: List, left: List },
}

/// The callback buffer of a scripted connection.
#[derive(Debug, Default)]
pub(crate) struct Scripted(CallbackBuffer);

impl Scripted {
    /// Runs one dispatch, which makes these calls and returns this code.
    pub(crate) fn dispatch(
        &mut self,
        calls: &[Call],
        code: sys::cs_error_t,
    ) -> Result<Option<Notification>, Error> {
        self.0.dispatch(|| {
            calls.iter().for_each(Call::make);
            code
        })
    }
}

impl Call {
    fn make(&self) {
        let on_quorum_v0 = V0.quorum_notify_fn.expect("the model has this callback");
        let on_quorum = V1.quorum_notify_fn.expect("the model has this callback");
        let on_nodelist = V1.nodelist_notify_fn.expect("the model has this callback");
        match self {
            Self::QuorumV0 { quorate, seq, members } => members.lend(|entries, members| {
                // SAFETY: `List` holds as many ids as `entries` says, until this returns, or must
                // not be read.
                unsafe { on_quorum_v0(0, *quorate, *seq, entries, members.cast_mut()) };
            }),
            Self::Quorum { quorate, ring, members } => members.lend(|entries, members| {
                // SAFETY: as above.
                unsafe { on_quorum(0, *quorate, ring_id(*ring), entries, members) };
            }),
            Self::Nodelist { ring, members, joined, left } => {
                members.lend(|member_entries, members| {
                    joined.lend(|joined_entries, joined| {
                        // SAFETY: as above, for all three.
                        left.lend(|left_entries, left| unsafe {
                            on_nodelist(
                                0,
                                ring_id(*ring),
                                member_entries,
                                members,
                                joined_entries,
                                joined,
                                left_entries,
                                left,
                            );
                        });
                    });
                });
            }
        }
    }
}

fn ring_id((nodeid, seq): (u32, u64)) -> sys::quorum_ring_id {
    sys::quorum_ring_id { nodeid, seq }
}

impl List {
    fn lend(&self, to: impl FnOnce(u32, *const u32)) {
        match self {
            Self::Null(entries) => to(*entries, ptr::null()),
            Self::Dangling(entries) => to(*entries, ptr::dangling()),
            Self::Ids(ids, off) => {
                let mut memory = vec![0; *off];
                memory.extend(ids.iter().flat_map(|id| id.to_ne_bytes()));
                let entries =
                    u32::try_from(ids.len()).expect("the length of a list fits into 32 bits");
                to(entries, memory.into_boxed_slice()[*off..].as_ptr().cast());
            }
        }
    }

    /// Returns the ids that a callback must read, or `None` if the list is too long.
    pub(crate) fn ids(&self) -> Option<Vec<u32>> {
        match self {
            Self::Null(_) | Self::Dangling(0) => Some(Vec::new()),
            Self::Dangling(_) => None,
            // `PROCESSOR_COUNT_MAX`
            Self::Ids(ids, _) => (ids.len() <= 384).then(|| ids.clone()),
        }
    }
}
