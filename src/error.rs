use std::{
    fmt,
    hash::{Hash, Hasher},
    io,
    ops::Deref,
    sync::Arc,
};

use corosync_sys::{self as sys, LoadError};

/// The reason why there is no connection to Corosync, or why a connection ended.
///
/// Each variant names the phase that failed, or the cause. A [`Code`] in a variant is the result of
/// a call to one of Corosync's libraries. The [`Display`](fmt::Display) form is one line that
/// reports what failed and, where possible, what to do next. If an error of the operating system is
/// the reason, the line contains its text, and the error is also the
/// [`source`](std::error::Error::source).
///
/// ```
/// use actix_quorum::{Connection, QuorumHandle};
///
/// fn report(quorum: &QuorumHandle) {
///     match &quorum.snapshot().connection {
///         Connection::Connecting { error: Some(error), .. } if error.is_permanent() => {
///             eprintln!("waiting does not help: {error}");
///         }
///         Connection::Connecting { error: Some(error), .. }
///         | Connection::Disconnected { error, .. } => eprintln!("{error}"),
///         _ => {}
///     }
/// }
/// ```
#[derive(Clone, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// libquorum could not be loaded. The [`LoadError`] gives the reason: for example, libquorum is
    /// not installed or is too old.
    #[error(transparent)]
    Load(LoadError),

    /// A call that connects to Corosync has failed: in libcmap, to read the version of the daemon
    /// (`cmap_initialize`, `cmap_get`), or in libquorum (`quorum_model_initialize`,
    /// `quorum_initialize`).
    #[error("cannot connect to corosync: {0}{help}", help = connect_help(*.0))]
    Connect(Code),

    /// libqb is configured to use sockets in the file system
    /// (`/etc/libqb/force-filesystem-sockets`), and Corosync's socket is missing there.
    #[error(
        "cannot connect to corosync: its socket is not in /run; corosync is not running \
         (`systemctl start corosync`), or this process does not share /run with corosync"
    )]
    NoSocket,

    /// Too few file descriptors are left to start the actor's arbiter, to load libquorum, to
    /// connect, or to create the timer of a connection. With too few descriptors, libquorum is not
    /// called to connect, because libqb would close a descriptor that it does not own (libqb
    /// `lib/ipcc.c`).
    #[error(
        "cannot connect to corosync: too few file descriptors are left; raise the limit of this \
         process (`ulimit -n`, systemd's LimitNOFILE=) or of the system (`sysctl fs.file-max`)"
    )]
    NoDescriptors,

    /// This thread waited 5 seconds for another thread of this process, which is still connecting.
    /// Each of Corosync's libraries can open only one handle at a time.
    #[error(
        "cannot connect to corosync: another thread of this process is already connecting and has \
         received no answer; check whether corosync is suspended or overloaded, and which process \
         listens on the sockets `quorum`, `votequorum` and `cmap` (`ss -xlp`)"
    )]
    ConnectInProgress,

    /// Corosync has not answered a connection attempt for 2 seconds. The attempt continues; after
    /// 10 seconds it is cancelled and repeated.
    #[error(
        "corosync does not answer: it is suspended, hung or overloaded, or another process listens \
         in its place; if `corosync-quorumtool` hangs too, check which process listens on the \
         sockets `quorum`, `votequorum` and `cmap` (`ss -xlp`); if it is corosync, restart corosync"
    )]
    Unresponsive,

    /// A thread of the actor or of a policy, or the runtime of such a thread, could not be started,
    /// or the thread has ended unexpectedly.
    #[error("{failure}: {0}; {help}", failure = thread_failure(.0), help = thread_help(.0))]
    Thread(#[source] IoError),

    /// The server process does not run as the required user, or its user is unknown. Its answers
    /// are not trusted.
    #[error(
        "refused a corosync service that is run by {}: expected uid {expected}; {}",
        Uid(*.found),
        server_help(*.found)
    )]
    #[non_exhaustive]
    UntrustedServer {
        /// The user id of the server process, if the system reports it.
        found: Option<u32>,
        /// The user id that is required, 0 by default.
        expected: u32,
    },

    /// Corosync runs without a quorum provider (`QUORUM_FREE`) and reports every node as quorate.
    #[error(
        "corosync has no quorum provider and would report every node as quorate; set `provider: \
         corosync_votequorum` in the `quorum` section of corosync.conf on all nodes and restart \
         corosync"
    )]
    NoProvider,

    /// Corosync accepted the connection but did not start tracking (`quorum_trackstart`).
    #[error("cannot start tracking quorum: {0}{help}", help = track_help(*.0))]
    TrackStart(Code),

    /// A call on an open connection failed (`quorum_getquorate`, `quorum_trackstop`,
    /// `quorum_fd_get`, `quorum_context_set`, `quorum_context_get`, `quorum_finalize`).
    #[error("a request to corosync failed: {0}{help}", help = request_help(*.0))]
    Request(Code),

    /// The connection has ended (`quorum_dispatch`). The code is [`Code::LIBRARY`] if Corosync has
    /// stopped, died or closed the connection, or has sent a notification that libquorum does not
    /// know. It is [`Code::MESSAGE_ERROR`] if Corosync has sent a message that is invalid or too
    /// large.
    ///
    /// [`Code::TRY_AGAIN`] does not mean that the connection has ended, only that no notification
    /// was waiting ([`Dispatch::OneNonblocking`](crate::libquorum::Dispatch::OneNonblocking)).
    #[error("{failure}: {0}{help}", failure = dispatch_failure(*.0), help = dispatch_help(*.0))]
    Dispatch(Code),

    /// The daemon has stayed in one ring for longer than the token and consensus timeouts together,
    /// and the counters and notifications of this connection do not show whether the last decision
    /// is about that ring. The actor has closed the connection and opens another one, whose first
    /// notifications are about the current ring. This does not end quorum, because the old decision
    /// was no longer trusted.
    #[error(
        "cannot tell whether corosync's last quorum decision is about its current ring, so the \
         actor reconnects; if this happens repeatedly, see corosync's log"
    )]
    NotAnnounced,

    /// This thread has too little stack left for `quorum_dispatch` or `cmap_dispatch`, which need
    /// more than 1 MiB (`lib/quorum.c`, `lib/cmap.c`). The function was not called. The stack is
    /// checked only on Linux with glibc.
    #[error(
        "this thread has only {available} bytes of stack left, but receiving notifications from \
         corosync needs {needed}; start the thread with a larger stack (RUST_MIN_STACK, \
         std::thread::Builder::stack_size, or `ulimit -s` for the main thread)"
    )]
    #[non_exhaustive]
    StackTooSmall {
        /// Bytes left on this thread's stack.
        available: usize,
        /// Bytes that a dispatch needs.
        needed: usize,
    },

    /// The runtime could not watch the file descriptor of the connection or of its timer.
    #[error("cannot watch the connection to corosync: {0}{help}", help = reactor_help(.0))]
    Reactor(#[source] IoError),

    /// The error of an actor in another process, read from JSON. Only its text is known.
    #[error("{0}")]
    Remote(String),
}

impl Error {
    /// Returns the error for a server that runs as another user, for tests of error handlers.
    pub fn untrusted_server(found: Option<u32>, expected: u32) -> Self {
        Self::UntrustedServer { found, expected }
    }

    /// Returns the error for a thread that could not be started or has ended.
    pub(crate) fn thread(error: io::Error) -> Self {
        Self::Thread(error.into())
    }

    /// Returns the error for a thread that ended without an answer.
    pub(crate) fn no_answer() -> Self {
        Self::thread(io::Error::new(NO_ANSWER, "no answer arrived"))
    }

    /// Returns the error for a descriptor that the runtime could not watch.
    pub(crate) fn reactor(error: impl Into<io::Error>) -> Self {
        Self::Reactor(error.into().into())
    }

    /// Whether waiting cannot help, because a library must be installed or the program must be
    /// changed.
    ///
    /// Every other error may go away, in some cases only after a change of Corosync's or the
    /// system's configuration. The actor tries again after each error; after a permanent one it
    /// waits longest ([`Backoff::needs_operator`](crate::Backoff::needs_operator)).
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Load(_) | Self::StackTooSmall { .. })
    }

    /// Returns the result code of Corosync's libraries, or `None` if the error has no code.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Connect(code)
            | Self::TrackStart(code)
            | Self::Request(code)
            | Self::Dispatch(code) => Some(*code),
            Self::NoSocket => Some(Code::NOT_EXIST),
            _ => None,
        }
    }
}

/// Serializes the error as its text.
#[cfg(feature = "serde")]
impl serde::Serialize for Error {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Deserializes the text as [`Error::Remote`]: the JSON contains nothing but the text.
#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Error {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::Remote)
    }
}

impl From<LoadError> for Error {
    fn from(error: LoadError) -> Self {
        Self::Load(error)
    }
}

/// An [`io::Error`] that can be cloned and compared. Two errors are equal if their kinds and texts
/// are equal.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct IoError(Arc<io::Error>);

impl From<io::Error> for IoError {
    fn from(error: io::Error) -> Self {
        Self(Arc::new(error))
    }
}

impl Deref for IoError {
    type Target = io::Error;

    fn deref(&self) -> &io::Error {
        &self.0
    }
}

impl Eq for IoError {}

impl PartialEq for IoError {
    fn eq(&self, other: &Self) -> bool {
        self.kind() == other.kind() && self.to_string() == other.to_string()
    }
}

impl Hash for IoError {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.kind().hash(state);
        self.to_string().hash(state);
    }
}

/// A result code of Corosync's libraries (`cs_error_t`), with its number in C.
///
/// Shown as `CS_ERR_LIBRARY (2)`. A number without a name is kept, and shown as `unknown error
/// (99)`.
///
/// ```
/// use actix_quorum::Code;
///
/// assert_eq!(Code(2), Code::LIBRARY);
/// assert_eq!(Code::LIBRARY.to_string(), "CS_ERR_LIBRARY (2)");
/// assert_eq!(Code(99).name(), None);
/// ```
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Code(pub u32);

impl Code {
    /// `CS_OK`: no error.
    pub const OK: Self = Self(sys::CS_OK);
    /// `CS_ERR_LIBRARY`: there is no connection to the daemon, or the connection has ended.
    pub const LIBRARY: Self = Self(sys::CS_ERR_LIBRARY);
    /// `CS_ERR_TRY_AGAIN`: from a dispatch, the queue is empty; from any other call, the daemon is
    /// starting or busy.
    pub const TRY_AGAIN: Self = Self(sys::CS_ERR_TRY_AGAIN);
    /// `CS_ERR_INVALID_PARAM`: the library or the daemon rejects an argument.
    pub const INVALID_PARAM: Self = Self(sys::CS_ERR_INVALID_PARAM);
    /// `CS_ERR_NO_MEMORY`: out of memory.
    pub const NO_MEMORY: Self = Self(sys::CS_ERR_NO_MEMORY);
    /// `CS_ERR_BAD_HANDLE`: the library has no such handle, or has closed it.
    pub const BAD_HANDLE: Self = Self(sys::CS_ERR_BAD_HANDLE);
    /// `CS_ERR_ACCESS`: the daemon refuses this user.
    pub const ACCESS: Self = Self(sys::CS_ERR_ACCESS);
    /// `CS_ERR_NOT_EXIST`: the shared memory of the connection, or a requested object, was not
    /// found.
    pub const NOT_EXIST: Self = Self(sys::CS_ERR_NOT_EXIST);
    /// `CS_ERR_EXIST`: tracking has already been started.
    pub const EXIST: Self = Self(sys::CS_ERR_EXIST);
    /// `CS_ERR_NO_SPACE`: /dev/shm is full.
    pub const NO_SPACE: Self = Self(sys::CS_ERR_NO_SPACE);
    /// `CS_ERR_INTERRUPT`: a signal interrupted the call.
    pub const INTERRUPT: Self = Self(sys::CS_ERR_INTERRUPT);
    /// `CS_ERR_NOT_SUPPORTED`: the daemon does not know this request.
    pub const NOT_SUPPORTED: Self = Self(sys::CS_ERR_NOT_SUPPORTED);
    /// `CS_ERR_MESSAGE_ERROR`: a message is invalid.
    pub const MESSAGE_ERROR: Self = Self(sys::CS_ERR_MESSAGE_ERROR);

    /// Returns the name in `corosync/corotypes.h`, if it is known.
    pub fn name(self) -> Option<&'static str> {
        sys::error_name(self.0)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name().unwrap_or("unknown error"), self.0)
    }
}

struct Uid(Option<u32>);

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(uid) => write!(f, "uid {uid}"),
            None => f.write_str("an unknown user"),
        }
    }
}

/// Returns what an operator can do about a server that runs as another user.
fn server_help(found: Option<u32>) -> &'static str {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let is_overflow_uid = |uid| {
        let overflow = read("/proc/sys/kernel/overflowuid").trim().parse().unwrap_or(65534);
        uid == overflow && !is_mapped(uid, &read("/proc/self/uid_map"))
    };
    if found.is_some_and(is_overflow_uid) {
        "in the user namespace of this process, this uid stands for every user that is not mapped \
         (/proc/self/uid_map), usually including the host's root, so corosync cannot be \
         distinguished from a process of another user; run this program outside the namespace"
    } else {
        "check which process listens on the sockets `quorum`, `votequorum` and `cmap` (`ss -xlp`); \
         if corosync is supposed to run as a user other than the expected one, set \
         QuorumBuilder::server_uid"
    }
}

/// Whether `uid_map` maps this user of the user namespace to a user outside (`user_namespaces(7)`).
fn is_mapped(uid: u32, uid_map: &str) -> bool {
    uid_map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().ok());
        let (Some(Some(first)), _, Some(Some(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        (first..first.saturating_add(count)).contains(&u64::from(uid))
    })
}

/// Returns the cause of a failed attempt to connect, and what an operator can do.
fn connect_help(code: Code) -> &'static str {
    match code {
        Code::LIBRARY => {
            "; corosync is not running (`systemctl start corosync`), or it runs in a different \
             network namespace from this process"
        }
        Code::TRY_AGAIN => {
            "; corosync is starting or busy: wait, and if this error persists, see corosync's log"
        }
        Code::ACCESS => {
            "; corosync refuses this user: as root, run `printf 'uidgid {\\n  uid: USER\\n}\\n' > \
             /etc/corosync/uidgid.d/USER`, where USER is the user of this process, and then \
             `corosync-cfgtool -R`"
        }
        Code::NOT_EXIST => {
            "; this process cannot see corosync's shared memory: share /dev/shm with corosync \
             (in a container, `--ipc=host` or a mount of the host's /dev/shm)"
        }
        Code::NO_SPACE => {
            "; /dev/shm is full, and a connection needs about 3 MiB there: free some space or \
             enlarge /dev/shm"
        }
        Code::NO_MEMORY => "; this process or corosync is out of memory: check their memory limits",
        _ => "; see corosync's log",
    }
}

/// Returns what a failed dispatch means for the connection.
fn dispatch_failure(code: Code) -> &'static str {
    match code {
        Code::TRY_AGAIN => "no notification from corosync is waiting",
        _ => "connection to corosync lost",
    }
}

/// The kind of the error for a thread that ended without an answer.
pub(crate) const NO_ANSWER: io::ErrorKind = io::ErrorKind::UnexpectedEof;

fn thread_failure(error: &IoError) -> &'static str {
    match error.kind() {
        NO_ANSWER => "a thread has ended unexpectedly",
        _ => "a thread could not be started",
    }
}

/// Returns what an operator can do about a thread that has ended or could not be started.
fn thread_help(error: &IoError) -> &'static str {
    match error.kind() {
        NO_ANSWER => "it has probably panicked: look for the message of the panic on stderr",
        _ => {
            "check whether a limit on tasks (TasksMax= of the unit, `ulimit -u`, pids.max of the \
             container) or on memory (`ulimit -v`) has been reached"
        }
    }
}

/// Returns the cause of a failed request on an open connection, or what an operator can do. A
/// connection on which Corosync does not answer is ended by the actor itself.
fn request_help(code: Code) -> &'static str {
    match code {
        Code::LIBRARY => {
            "; the connection has ended: corosync has stopped, died or closed it, or has not \
             answered in time"
        }
        code => track_help(code),
    }
}

/// Returns the cause of a failed start of tracking, or what an operator can do.
fn track_help(code: Code) -> &'static str {
    match code {
        Code::TRY_AGAIN => connect_help(code),
        code => dispatch_help(code),
    }
}

/// Returns what an operator can do about a descriptor that the runtime could not watch.
fn reactor_help(error: &IoError) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSPC) => {
            "; check the limit on epoll watches (`sysctl fs.epoll.max_user_watches`)"
        }
        Some(libc::ENOMEM) => "; the system is out of memory",
        _ => "",
    }
}

/// Returns the cause of a failed dispatch, or what an operator can do.
fn dispatch_help(code: Code) -> &'static str {
    match code {
        Code::LIBRARY => "; corosync has stopped, died or closed the connection",
        Code::TRY_AGAIN => "; try again later",
        Code::EXIST => "; tracking was already started",
        Code::MESSAGE_ERROR => {
            "; corosync has sent a message that is invalid or too large: check that corosync and \
             its libraries have matching versions"
        }
        _ => "; see corosync's log",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_shows_its_name_and_number() {
        assert_eq!(Code::LIBRARY.to_string(), "CS_ERR_LIBRARY (2)");
        assert_eq!(Code(77).to_string(), "unknown error (77)");
    }

    #[test]
    fn errors_explain_what_to_do_next() {
        for (error, help) in [
            (Error::Connect(Code::LIBRARY), "systemctl start corosync"),
            (Error::Connect(Code::ACCESS), "uidgid.d"),
            (Error::Connect(Code::ACCESS), "corosync-cfgtool -R"),
            (Error::Connect(Code::NOT_EXIST), "/dev/shm"),
            (Error::Connect(Code::NO_SPACE), "/dev/shm is full"),
            (Error::NoSocket, "systemctl start corosync"),
            (Error::NoDescriptors, "ulimit -n"),
            (Error::NoProvider, "provider: corosync_votequorum"),
            (
                Error::UntrustedServer { found: Some(1000), expected: 0 },
                "set QuorumBuilder::server_uid",
            ),
            (Error::StackTooSmall { available: 1, needed: 2 }, "RUST_MIN_STACK"),
            (Error::Unresponsive, "restart corosync"),
            (Error::NotAnnounced, "see corosync's log"),
            (Error::TrackStart(Code::NO_MEMORY), "corosync's log"),
            (Error::Request(Code::NO_MEMORY), "corosync's log"),
            (Error::Dispatch(Code::NO_MEMORY), "corosync's log"),
            (Error::TrackStart(Code::TRY_AGAIN), "starting or busy"),
            (Error::Request(Code::TRY_AGAIN), "starting or busy"),
            (Error::Dispatch(Code::MESSAGE_ERROR), "matching versions"),
            (Error::reactor(io::Error::from_raw_os_error(libc::ENOSPC)), "max_user_watches"),
            (Error::no_answer(), "message of the panic"),
            (Error::thread(io::Error::from_raw_os_error(libc::EAGAIN)), "limit on tasks"),
        ] {
            assert!(error.to_string().contains(help), "`{error}` does not contain {help:?}");
        }
    }

    #[test]
    fn the_error_for_an_untrusted_server_names_both_users() {
        let error = Error::UntrustedServer { found: Some(65534), expected: 0 }.to_string();
        assert!(error.contains("uid 65534: expected uid 0"), "{error}");
    }

    #[test]
    fn the_error_for_a_failed_request_names_a_missing_answer_as_a_possible_cause() {
        assert_eq!(
            Error::Request(Code::LIBRARY).to_string(),
            "a request to corosync failed: CS_ERR_LIBRARY (2); the connection has ended: corosync \
             has stopped, died or closed it, or has not answered in time"
        );
    }

    #[test]
    fn an_empty_queue_is_not_reported_as_a_lost_connection() {
        assert_eq!(
            Error::Dispatch(Code::TRY_AGAIN).to_string(),
            "no notification from corosync is waiting: CS_ERR_TRY_AGAIN (6); try again later"
        );
    }

    #[test]
    fn a_uid_is_mapped_if_the_map_of_its_user_namespace_contains_it() {
        assert!(is_mapped(65534, "         0          0 4294967295\n"));
        assert!(is_mapped(65534, "0 1000 1\n1 100000 65536\n"));
        assert!(!is_mapped(65534, "         0       1000          1\n"));
        assert!(!is_mapped(65534, "0 1000 1\n1 100000 65533\n"));
        assert!(!is_mapped(65534, ""));
    }

    #[test]
    fn only_errors_that_waiting_cannot_fix_are_permanent() {
        assert!(Error::StackTooSmall { available: 1, needed: 2 }.is_permanent());
        for error in
            [Error::Connect(Code::ACCESS), Error::NoProvider, Error::Dispatch(Code::LIBRARY)]
        {
            assert!(!error.is_permanent(), "{error}");
        }
    }

    #[test]
    fn a_system_error_is_kept_as_the_source() {
        let refused = || io::Error::from_raw_os_error(libc::EAGAIN);
        let error = Error::thread(refused());
        let source = std::error::Error::source(&error).expect("the error has a source");
        let source = source.downcast_ref::<IoError>().expect("the source is a system error");
        assert_eq!(source.raw_os_error(), Some(libc::EAGAIN));
        assert!(error.to_string().contains(&refused().to_string()), "{error}");
        assert_eq!(error, Error::thread(refused()));
        assert_ne!(error, Error::no_answer());
    }
}
