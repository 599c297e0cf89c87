//! A safe and complete wrapper around libquorum, for programs that need no actor.
//!
//! [`Handle`] is one connection to Corosync's quorum service. Its methods call the functions of
//! libquorum and block for as long as they do: every request waits for the daemon without a
//! timeout.
//!
//! ```no_run
//! use actix_quorum::libquorum::{Dispatch, Handle, Track};
//!
//! let mut handle = Handle::initialize()?;
//! handle.track_start(Track::CHANGES)?;
//! for notification in handle.dispatch(Dispatch::Blocking) {
//!     println!("{:?}", notification?);
//! }
//! # Ok::<(), actix_quorum::Error>(())
//! ```

// Room 1: the wrapper of Corosync's libraries. A callback takes no lock, logs nothing and does not
// panic. Start reading at `callbacks.rs`.

mod callbacks;
pub(crate) mod canceller;
pub(crate) mod cmap;
mod descriptors;
mod dispatch;
mod leftovers;
mod library;
pub(crate) mod model;
mod notification;
mod open;
#[cfg(any(test, fuzzing))]
pub(crate) mod scripted;
mod server;
mod stack;
pub(crate) mod votequorum;
mod votes;

use std::{cell::Cell, ffi::c_void, marker::PhantomData, os::fd::RawFd, ptr, time::Instant};

use corosync_sys as sys;

pub(crate) use self::library::LibraryFile;
use self::{
    callbacks::CallbackBuffer,
    canceller::{Canceller, Peer},
    open::{HandleTable, Opened, PeerLink},
};
pub use self::{
    dispatch::{Dispatch, Notifications},
    library::Library,
    model::Model,
    notification::{NodeId, Notification, ParseRingIdError, RingId},
    server::PeerProcess,
    votes::{VoteFlags, Votes},
};
use crate::error::{Code, Error};

/// Whether a quorum provider is configured (`quorum_initialize(3)`, `quorum_type`).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum QuorumType {
    /// `QUORUM_FREE`: no provider is configured, and Corosync reports every node as quorate.
    Free,
    /// `QUORUM_SET`: a provider decides about quorum.
    Set,
}

bitflags::bitflags! {
    /// The notifications that `quorum_trackstart` requests; `|` combines flags. Corosync accepts an
    /// empty set and delivers nothing for it.
    ///
    /// Measured on Corosync 3.1: every set of flags, except the empty set and `CHANGES_ONLY` alone,
    /// immediately delivers the current nodelist and quorum. `CHANGES` and `CHANGES_ONLY` deliver
    /// each later change.
    #[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
    pub struct Track: u32 {
        /// `CS_TRACK_CURRENT`: the current state.
        const CURRENT = sys::CS_TRACK_CURRENT;
        /// `CS_TRACK_CHANGES`: the current state and each change after it.
        const CHANGES = sys::CS_TRACK_CHANGES;
        /// `CS_TRACK_CHANGES_ONLY`: each change from now on, without the current state.
        const CHANGES_ONLY = sys::CS_TRACK_CHANGES_ONLY;
    }
}

/// A connection to Corosync's quorum service.
///
/// It can move between threads, but only one thread may use it at a time: otherwise libquorum
/// returns wrong answers. Dropping it closes the connection, as [`finalize`](Self::finalize) does.
///
/// ```compile_fail,E0277
/// fn used_by_two_at_a_time<T: Sync>() {}
/// used_by_two_at_a_time::<actix_quorum::libquorum::Handle>();
/// ```
#[derive(Debug)]
pub struct Handle {
    library: sys::Quorum,
    raw: sys::quorum_handle_t,
    model: Model,
    quorum_type: QuorumType,
    buffer: CallbackBuffer,
    peer_link: PeerLink,
    /// When a waiting message that could not be dispatched was first noticed.
    stuck_since: Option<Instant>,
    /// Whether a call has reported the end of the connection.
    lost: bool,
    closed: bool,
    /// Makes the type not `Sync`.
    one_thread_at_a_time: PhantomData<Cell<()>>,
}

impl Handle {
    /// Connects with model V1, or with V0 if the library or the daemon does not know V1.
    ///
    /// If the library knows V1, this first asks the daemon on another connection, through libcmap,
    /// whether it is from Corosync 2: a request for V1 would kill such a daemon. Without libcmap,
    /// it requests V1 and logs a warning.
    ///
    /// Blocks until the daemon answers. While the daemon is suspended (`SIGSTOP`), the call returns
    /// only if a signal interrupts it. [`Library::load`] describes which libquorum is used.
    ///
    /// # Errors
    ///
    /// [`Error::Load`], [`Error::NoDescriptors`], [`Error::ConnectInProgress`], [`Error::NoSocket`]
    /// and [`Error::Connect`].
    pub fn initialize() -> Result<Self, Error> {
        Self::initialize_with(Library::load()?)
    }

    /// Connects like [`initialize`](Self::initialize), through the given libquorum.
    ///
    /// # Errors
    ///
    /// [`Error::NoDescriptors`], [`Error::ConnectInProgress`], [`Error::NoSocket`] and
    /// [`Error::Connect`].
    pub fn initialize_with(library: Library) -> Result<Self, Error> {
        let peer = Peer { canceller: &Canceller::default(), uid: None };
        let found = model::find(library, peer, |_| Ok(()))?;
        Self::initialize_at_most(library, found.or_warn(), peer)
    }

    /// Connects with this model, or with V0 if the library or the daemon does not know V1.
    pub(crate) fn initialize_at_most(
        library: Library,
        model: Model,
        peer: Peer<'_>,
    ) -> Result<Self, Error> {
        match Self::connect(library, model, peer) {
            // A library before 3.1.0 lacks the function; a daemon of 3.0 refuses the request
            // (`exec/main.c` checks the range of request numbers).
            Err(Error::Load(_) | Error::Connect(Code::INVALID_PARAM)) if model == Model::V1 => {
                Self::connect(library, Model::V0, peer)
            }
            result => result,
        }
    }

    /// Connects with exactly this model: `quorum_model_initialize` for V1, `quorum_initialize` for
    /// V0. It does not check the daemon's version first: V1 kills a daemon of Corosync 2.
    ///
    /// # Errors
    ///
    /// The errors of [`initialize`](Self::initialize), and [`Error::Load`] if the library has no
    /// models.
    pub fn model_initialize(library: Library, model: Model) -> Result<Self, Error> {
        Self::connect(library, model, Peer { canceller: &Canceller::default(), uid: None })
    }

    pub(crate) fn connect(library: Library, model: Model, peer: Peer<'_>) -> Result<Self, Error> {
        let library = library.0;
        let model_initialize = match model {
            Model::V1 => Some(library.model_initialize()?),
            Model::V0 => None,
        };
        let mut quorum_type = sys::QUORUM_FREE;
        let initialize = |raw: &mut _| match model_initialize {
            Some(initialize) => {
                let mut callbacks = callbacks::V1;
                let data = (&raw mut callbacks).cast();
                let context = ptr::null_mut();
                // SAFETY: all pointers are to locals of the types that the model requires.
                // libquorum copies the callbacks, which are functions and stay valid.
                unsafe { initialize(raw, sys::QUORUM_MODEL_V1, data, &mut quorum_type, context) }
            }
            None => {
                let mut callbacks = callbacks::V0;
                // SAFETY: as above.
                unsafe { (library.quorum_initialize)(raw, &mut callbacks, &mut quorum_type) }
            }
        };
        let Opened { handle: raw, peer_link } = HANDLES.make(
            b"quorum",
            peer,
            initialize,
            // SAFETY: the handle is open; `fd` is a local of the caller.
            |raw, fd| unsafe { (library.quorum_fd_get)(raw, fd) },
            // SAFETY: `raw` is a handle that no other code has, or no handle.
            |raw| unsafe { (library.quorum_finalize)(raw) },
        )?;
        let quorum_type =
            if quorum_type == sys::QUORUM_FREE { QuorumType::Free } else { QuorumType::Set };
        Ok(Self {
            library,
            raw,
            model,
            quorum_type,
            buffer: CallbackBuffer::default(),
            peer_link,
            stuck_since: None,
            lost: false,
            closed: false,
            one_thread_at_a_time: PhantomData,
        })
    }

    /// Returns the model that the daemon and the library agreed on.
    pub fn model(&self) -> Model {
        self.model
    }

    /// Whether a quorum provider is configured, as the daemon reported when it accepted the
    /// connection.
    pub fn quorum_type(&self) -> QuorumType {
        self.quorum_type
    }

    /// Returns the process that accepted the connection, if the system reports it (on Linux).
    ///
    /// While Corosync is down, any process can listen in its place. Trust only a server that runs
    /// as the user that Corosync must run as.
    pub fn server(&self) -> Option<PeerProcess> {
        self.peer_link.server
    }

    /// Returns the descriptor that becomes readable when a notification is waiting
    /// (`quorum_fd_get`).
    ///
    /// It belongs to libquorum, which closes it with the handle: remove it from every reactor
    /// before that. With the transport `socket` it does *not* become readable when Corosync dies.
    ///
    /// # Errors
    ///
    /// [`Error::Request`].
    pub fn fd(&self) -> Result<RawFd, Error> {
        let mut fd = -1;
        // SAFETY: the handle is open until `close`; `fd` is a local.
        request(unsafe { (self.library.quorum_fd_get)(self.raw, &mut fd) })?;
        Ok(fd)
    }

    /// Whether the descriptor becomes readable when Corosync dies. With shared memory it does,
    /// because the descriptor is the connected stream socket.
    pub(crate) fn hangs_up(&self) -> bool {
        self.fd().is_ok_and(|fd| self.peer_link.socket == Some(fd))
    }

    /// Asks the daemon whether this node has quorum (`quorum_getquorate`).
    ///
    /// Blocks until the daemon answers: for ever while the daemon is suspended (`SIGSTOP`), and for
    /// the length of its synchronisation (30 s and more with a silent quorum device). The answer
    /// may be out of date, so prefer the notifications.
    ///
    /// # Errors
    ///
    /// [`Error::Request`], with [`Code::MESSAGE_ERROR`] if the answer is neither 0 nor 1.
    pub fn quorate(&mut self) -> Result<bool, Error> {
        let mut quorate = 0;
        // SAFETY: the handle is open until `close`, and `&mut self` keeps other threads out of it;
        // `quorate` is a local.
        let code = unsafe { (self.library.quorum_getquorate)(self.raw, &mut quorate) };
        self.check_answer(code)?;
        let quorate = u32::try_from(quorate).ok().and_then(callbacks::is_quorate);
        quorate.ok_or(Error::Request(Code::MESSAGE_ERROR))
    }

    /// Starts the notifications of this connection (`quorum_trackstart`).
    ///
    /// Blocks as [`quorate`](Self::quorate) does.
    ///
    /// # Errors
    ///
    /// [`Error::TrackStart`], with [`Code::EXIST`] if tracking was already started: the current
    /// state is then delivered once more.
    pub fn track_start(&mut self, track: Track) -> Result<(), Error> {
        // SAFETY: the handle is open until `close`, and `&mut self` keeps other threads out of it.
        let code = Code(unsafe { (self.library.quorum_trackstart)(self.raw, track.bits()) });
        self.lost |= is_over(code);
        if code == Code::OK { Ok(()) } else { Err(Error::TrackStart(code)) }
    }

    /// Stops the notifications (`quorum_trackstop`). Notifications already sent still arrive.
    ///
    /// Blocks as [`quorate`](Self::quorate) does.
    ///
    /// # Errors
    ///
    /// [`Error::Request`].
    pub fn track_stop(&mut self) -> Result<(), Error> {
        // SAFETY: the handle is open until `close`, and `&mut self` keeps other threads out of it.
        let code = unsafe { (self.library.quorum_trackstop)(self.raw) };
        self.check_answer(code)
    }

    /// Stores a pointer in the handle (`quorum_context_set`). libquorum does not dereference it.
    ///
    /// # Errors
    ///
    /// [`Error::Request`].
    #[expect(
        clippy::not_unsafe_ptr_arg_deref,
        reason = "libquorum does not dereference the pointer"
    )]
    pub fn context_set(&mut self, context: *const c_void) -> Result<(), Error> {
        // SAFETY: the handle is open until `close`; libquorum only stores the pointer.
        request(unsafe { (self.library.quorum_context_set)(self.raw, context) })
    }

    /// Returns the pointer that was last set, or null if none was set (`quorum_context_get`).
    ///
    /// # Errors
    ///
    /// [`Error::Request`].
    pub fn context_get(&self) -> Result<*const c_void, Error> {
        let mut context = ptr::null();
        // SAFETY: the handle is open until `close`; `context` is a local.
        request(unsafe { (self.library.quorum_context_get)(self.raw, &mut context) })?;
        Ok(context)
    }

    /// Closes the connection (`quorum_finalize`).
    ///
    /// If a call has reported the end of the connection, this waits up to 200 ms for the daemon's
    /// process to end, because libqb removes the connection's files from /dev/shm only after that
    /// (libqb `lib/ipc_shm.c`). libqb itself may wait another 40 ms. If another thread hangs while
    /// it connects, this gives up after another 100 ms and returns `Ok`; the connection is closed
    /// when that thread has finished.
    ///
    /// # Errors
    ///
    /// [`Error::Request`].
    pub fn finalize(mut self) -> Result<(), Error> {
        request(self.close())
    }

    fn close(&mut self) -> sys::cs_error_t {
        self.closed = true;
        let (library, raw) = (self.library, self.raw);
        let closed = HANDLES.close(&self.peer_link, self.lost, move || {
            // SAFETY: the handle was open until now, and its owner gives it up.
            unsafe { (library.quorum_finalize)(raw) }
        });
        closed.unwrap_or(sys::CS_OK)
    }

    fn check_answer(&mut self, code: sys::cs_error_t) -> Result<(), Error> {
        self.lost |= is_over(Code(code));
        request(code)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.closed {
            self.close();
        }
    }
}

fn request(code: sys::cs_error_t) -> Result<(), Error> {
    match Code(code) {
        Code::OK => Ok(()),
        code => Err(Error::Request(code)),
    }
}

/// Whether this code means that the connection has ended.
fn is_over(code: Code) -> bool {
    matches!(code, Code::LIBRARY | Code::BAD_HANDLE)
}

static HANDLES: HandleTable = HandleTable::new();
