//! A libquorum that follows a test's script.

use std::{
    ffi::{CString, c_char, c_int},
    path::{Path, PathBuf},
    ptr,
};

use libloading::{Library, Symbol};

use super::compile;

/// Compiles a shared library and returns its path.
///
/// It has no soname, so that the loader never takes it for the real libquorum.
#[track_caller]
pub fn fake_libquorum(name: &str, source: &str) -> PathBuf {
    compile_library(name, source, &[])
}

/// The kind of libquorum to imitate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Variant {
    /// The libquorum of Corosync 3.1 and later.
    Model,
    /// An older libquorum, without `quorum_model_initialize`.
    NoModel,
    /// A libquorum whose failing initialize stores a handle that must be finalized.
    FailKeepsHandle,
    /// A libquorum whose failing initialize closes descriptor 0 of this process.
    FailClosesZero,
    /// A libquorum whose connections do not identify their server.
    Datagram,
}

/// A separate fake libquorum: load it by its [`path`](Self::path).
///
/// Functions are named by their C names. By default they succeed.
#[derive(Debug)]
pub struct FakeLibquorum {
    library: Library,
    path: PathBuf,
}

impl FakeLibquorum {
    #[track_caller]
    pub fn new(name: &str) -> Self {
        Self::variant(name, Variant::Model)
    }

    #[track_caller]
    pub fn variant(name: &str, variant: Variant) -> Self {
        let flags: &[&str] = match variant {
            Variant::Model => &[],
            Variant::NoModel => &["-DNO_MODEL"],
            Variant::FailKeepsHandle => &["-DFAIL_KEEPS_HANDLE"],
            Variant::FailClosesZero => &["-DFAIL_CLOSES_ZERO"],
            Variant::Datagram => &["-DDATAGRAM"],
        };
        let path = compile_library(name, include_str!("fake_libquorum.c"), flags);
        // SAFETY: the library has no initializers.
        let library = unsafe { Library::new(&path) }.expect("the compiled library can be loaded");
        Self { library, path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next `times` calls of `function` return `code` and do nothing else.
    pub fn fail(&self, function: &str, code: c_int, times: u32) {
        self.set_return(
            function,
            code,
            c_int::try_from(times).expect("the number fits into c_int"),
        );
    }

    /// All calls of `function` return `code` and do nothing else.
    pub fn fail_always(&self, function: &str, code: c_int) {
        self.set_return(function, code, -1);
    }

    /// `function` works again.
    pub fn succeed(&self, function: &str) {
        self.set_return(function, 0, 0);
    }

    fn set_return(&self, function: &str, code: c_int, times: c_int) {
        type Control = unsafe extern "C" fn(*const c_char, c_int, c_int);
        let function = c_name(function);
        // SAFETY: the type is the one in the C source.
        let f: Symbol<'_, Control> = unsafe { self.symbol("fake_return") };
        // SAFETY: the string lives through the call.
        unsafe { f(function.as_ptr(), code, times) };
    }

    /// Calls of `function` hang until [`unblock`](Self::unblock).
    pub fn block(&self, function: &str) {
        self.set_blocked(function, true);
    }

    pub fn unblock(&self, function: &str) {
        self.set_blocked(function, false);
    }

    fn set_blocked(&self, function: &str, blocked: bool) {
        type Control = unsafe extern "C" fn(*const c_char, c_int);
        let function = c_name(function);
        // SAFETY: the type is the one in the C source.
        let f: Symbol<'_, Control> = unsafe { self.symbol("fake_block") };
        // SAFETY: the string lives through the call.
        unsafe { f(function.as_ptr(), blocked.into()) };
    }

    /// Returns how often `function` was called, including blocked calls.
    pub fn calls(&self, function: &str) -> usize {
        type Control = unsafe extern "C" fn(*const c_char) -> c_int;
        let function = c_name(function);
        // SAFETY: the type is the one in the C source.
        let f: Symbol<'_, Control> = unsafe { self.symbol("fake_calls") };
        // SAFETY: the string lives through the call.
        let calls = unsafe { f(function.as_ptr()) };
        usize::try_from(calls).expect("the number fits into usize")
    }

    /// Returns the number of handles that are initialized and not finalized.
    pub fn open_handles(&self) -> usize {
        // SAFETY: the type is the one in the C source.
        let f: Symbol<'_, extern "C" fn() -> c_int> = unsafe { self.symbol("fake_open_handles") };
        usize::try_from(f()).expect("the number fits into usize")
    }

    /// Returns the number of handles that track: the connections of actors, without those of their
    /// probes.
    pub fn tracking_handles(&self) -> usize {
        // SAFETY: the type is the one in the C source.
        let f: Symbol<'_, extern "C" fn() -> c_int> =
            unsafe { self.symbol("fake_tracking_handles") };
        usize::try_from(f()).expect("the number fits into usize")
    }

    /// Sets the type that the next initialize reports: `QUORUM_FREE` is 0, `QUORUM_SET` 1 (the
    /// default).
    pub fn quorum_type(&self, quorum_type: u32) {
        // SAFETY: the type is the one in the C source.
        let f: Symbol<'_, extern "C" fn(u32)> = unsafe { self.symbol("fake_quorum_type") };
        f(quorum_type);
    }

    /// Sets the answer of `quorum_getquorate`. The default is 0. Each pushed decision sets it too.
    pub fn quorate(&self, quorate: c_int) {
        // SAFETY: the type is the one in the C source.
        let f: Symbol<'_, extern "C" fn(c_int)> = unsafe { self.symbol("fake_quorate") };
        f(quorate);
    }

    /// Makes the connections' fds readable with nothing to dispatch.
    pub fn wake(&self) {
        // SAFETY: the type is the one in the C source.
        let f: Symbol<'_, extern "C" fn()> = unsafe { self.symbol("fake_wake") };
        f();
    }

    /// Simulates the daemon's death: fds hang up, dispatch fails, and queued notifications are
    /// lost.
    pub fn hang_up(&self) {
        self.end_connections(false);
    }

    /// Does the same, but the fds do not report the hang-up, as with `qb_ipc_type: socket`.
    pub fn hang_up_silently(&self) {
        self.end_connections(true);
    }

    fn end_connections(&self, silently: bool) {
        // SAFETY: the type is the one in the C source.
        let f: Symbol<'_, extern "C" fn(c_int)> = unsafe { self.symbol("fake_hang_up") };
        f(silently.into());
    }

    /// Queues a quorum notification for dispatch. `ring` is a node id and a number.
    pub fn push_quorum(&self, quorate: u32, ring: (u32, u64), members: List<'_>) {
        type Push = unsafe extern "C" fn(u32, u32, u64, u32, *const u32);
        let (entries, ids) = c_list(members);
        // SAFETY: the type is the one in the C source.
        let f: Symbol<'_, Push> = unsafe { self.symbol("fake_push_quorum") };
        // SAFETY: the list is null or has `entries` ids, and is copied.
        unsafe { f(quorate, ring.0, ring.1, entries, ids) };
    }

    /// Queues a nodelist notification for dispatch. A V0 connection does not receive it.
    pub fn push_nodelist(
        &self,
        ring: (u32, u64),
        members: List<'_>,
        joined: List<'_>,
        left: List<'_>,
    ) {
        type Push =
            unsafe extern "C" fn(u32, u64, u32, *const u32, u32, *const u32, u32, *const u32);
        let [(n, members), (j, joined), (l, left)] = [members, joined, left].map(c_list);
        // SAFETY: the type is the one in the C source.
        let f: Symbol<'_, Push> = unsafe { self.symbol("fake_push_nodelist") };
        // SAFETY: each list is null or has its number of ids, and is copied.
        unsafe { f(ring.0, ring.1, n, members, j, joined, l, left) };
    }

    /// Makes the last queued notification claim these lengths for its lists (members, joined,
    /// left), whatever they contain. It must not have been dispatched.
    pub fn claim(&self, members: u32, joined: u32, left: u32) {
        // SAFETY: the type is the one in the C source.
        let f: Symbol<'_, extern "C" fn(u32, u32, u32)> = unsafe { self.symbol("fake_claim") };
        f(members, joined, left);
    }

    /// # Safety
    ///
    /// `T` must be the symbol's type in the C source.
    unsafe fn symbol<T>(&self, name: &str) -> Symbol<'_, T> {
        // SAFETY: the caller guarantees the type.
        unsafe { self.library.get(name) }.expect("the C source defines the function")
    }
}

/// A list of node ids; `None` is a null pointer with count 0.
pub type List<'a> = Option<&'a [u32]>;

fn c_list(list: List<'_>) -> (u32, *const u32) {
    list.map_or((0, ptr::null()), |ids| {
        (u32::try_from(ids.len()).expect("the list is short"), ids.as_ptr())
    })
}

fn c_name(function: &str) -> CString {
    CString::new(function).expect("the name has no NUL")
}

/// Compiles a shared library with this name, and returns its path.
#[track_caller]
pub(super) fn compile_library(name: &str, source: &str, flags: &[&str]) -> PathBuf {
    compile(&format!("{name}.so"), source, &[&["-shared", "-fPIC", "-pthread"], flags].concat())
}
