//! The dispatch of notifications (`quorum_dispatch(3)`).

use std::{
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use corosync_sys as sys;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Handle, Notification, stack};
use crate::error::{Code, Error};

/// How many notifications to dispatch, and whether to wait for them (`quorum_dispatch(3)`).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Dispatch {
    /// `CS_DISPATCH_ONE`: one notification. Waits until it arrives.
    One,
    /// `CS_DISPATCH_ALL`: all waiting notifications, without blocking.
    All,
    /// `CS_DISPATCH_BLOCKING`: one notification after another, until the connection ends.
    Blocking,
    /// `CS_DISPATCH_ONE_NONBLOCKING`: one notification if one is waiting, otherwise
    /// [`Code::TRY_AGAIN`].
    OneNonblocking,
}

impl Handle {
    /// Dispatches notifications, as `quorum_dispatch` does with the flag that corresponds to
    /// `dispatch`.
    ///
    /// The iterator is lazy. Each step calls `quorum_dispatch` once for one notification, so your
    /// code runs between these calls and never inside a callback from C. To stop
    /// [`Dispatch::Blocking`], stop iterating. The iterator ends after an error, or when it has
    /// dispatched what the flag requests.
    ///
    /// # Errors
    ///
    /// - [`Error::Dispatch`] with [`Code::TRY_AGAIN`] if the queue is empty
    ///   ([`Dispatch::OneNonblocking`] only).
    /// - [`Error::Dispatch`] with any other code if the connection has ended. Drop the handle: the
    ///   notifications that were waiting are lost.
    /// - [`Error::StackTooSmall`] on a thread whose stack is too small.
    #[must_use = "iterate over it: otherwise nothing is dispatched"]
    pub fn dispatch(&mut self, dispatch: Dispatch) -> Notifications<'_> {
        Notifications { handle: self, dispatch, ended: false }
    }

    /// Dispatches at most one notification, without blocking.
    ///
    /// `Ok(None)` means that the queue is empty and the descriptor may be waited on again. After
    /// `Some`, more notifications may be waiting: call this again before you wait.
    ///
    /// # Errors
    ///
    /// The errors of [`dispatch`](Self::dispatch), without [`Code::TRY_AGAIN`].
    pub fn try_dispatch(&mut self) -> Result<Option<Notification>, Error> {
        self.dispatch_one(sys::CS_DISPATCH_ONE_NONBLOCKING)
    }

    fn dispatch_one(
        &mut self,
        flag: sys::cs_dispatch_flags_t,
    ) -> Result<Option<Notification>, Error> {
        stack::check()?;
        let (library, raw) = (self.library, self.raw);
        // SAFETY: the handle is open until `close`, and `&mut self` keeps other threads out of it.
        let dispatched = self.buffer.dispatch(|| unsafe { (library.quorum_dispatch)(raw, flag) });
        let dispatched = match dispatched {
            Ok(None) if self.is_stuck() => Err(Error::Dispatch(Code::MESSAGE_ERROR)),
            dispatched => dispatched,
        };
        match &dispatched {
            Ok(Some(_)) => self.stuck_since = None,
            Ok(None) => {}
            Err(_) => self.lost = true,
        }
        dispatched
    }

    /// Whether a message has been waiting for [`STUCK_AFTER`] although dispatches were tried. A
    /// message that is larger than libquorum's buffer stays in the queue and blocks all later ones
    /// (libqb `lib/ringbuffer.c`), while libquorum reports an empty queue.
    fn is_stuck(&mut self) -> bool {
        if !self.is_readable() {
            self.stuck_since = None;
            return false;
        }
        // The message may have arrived only after the dispatch.
        self.stuck_since.get_or_insert_with(Instant::now).elapsed() >= STUCK_AFTER
    }

    fn is_readable(&self) -> bool {
        let Ok(fd) = self.fd() else { return false };
        // SAFETY: libquorum has just returned the descriptor; it stays open until `close`.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let mut polled = [PollFd::new(&fd, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }
}

/// An iterator over the notifications of one [`Handle::dispatch`].
#[derive(Debug)]
pub struct Notifications<'a> {
    handle: &'a mut Handle,
    dispatch: Dispatch,
    ended: bool,
}

impl Iterator for Notifications<'_> {
    type Item = Result<Notification, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let waits = matches!(self.dispatch, Dispatch::One | Dispatch::Blocking);
        let next = match waits {
            true => self.handle.dispatch_one(sys::CS_DISPATCH_ONE),
            false => self.handle.dispatch_one(sys::CS_DISPATCH_ONE_NONBLOCKING),
        };
        let only_one = matches!(self.dispatch, Dispatch::One | Dispatch::OneNonblocking);
        self.ended = only_one || !matches!(next, Ok(Some(_)));
        match next {
            Ok(None) if self.dispatch != Dispatch::All => {
                Some(Err(Error::Dispatch(Code::TRY_AGAIN)))
            }
            next => next.transpose(),
        }
    }
}

/// How long a message may wait although dispatches are tried. A message that is not too large is
/// dispatched at the next attempt.
const STUCK_AFTER: Duration = Duration::from_millis(200);
