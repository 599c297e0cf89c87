//! The real libquorum, with a hook before its calls.

use std::{
    ffi::{CStr, c_char},
    path::{Path, PathBuf},
    sync::Mutex,
};

use libloading::{Library, Symbol};

use super::fake::compile_library;

/// A libquorum that runs a hook of the test before a function is called.
#[derive(Debug)]
pub struct StagedLibquorum {
    library: Library,
    path: PathBuf,
}

type Act = Box<dyn FnOnce() + Send>;

/// The hook before the next call of a function. There is one for the process, because C has no
/// closures.
static NEXT: Mutex<Option<(String, Act)>> = Mutex::new(None);

impl StagedLibquorum {
    #[track_caller]
    pub fn new(name: &str) -> Self {
        let flags = ["-Wl,--no-as-needed", "-l:libquorum.so.5", "-ldl"];
        let path = compile_library(name, include_str!("staged_libquorum.c"), &flags);
        // SAFETY: neither library has initializers that matter here.
        let library = unsafe { Library::new(&path) }.expect("what was compiled can be loaded");
        Self { library, path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `act` on the thread that next calls `function`, right before the call. The function is
    /// `quorum_model_initialize`, `quorum_trackstart` or `quorum_finalize`.
    pub fn before(&self, function: &str, act: impl FnOnce() + Send + 'static) {
        *NEXT.lock().unwrap() = Some((function.to_owned(), Box::new(act)));
        // SAFETY: the type is the one in the C source.
        let f: Symbol<'_, extern "C" fn(extern "C" fn(*const c_char))> =
            unsafe { self.library.get("staged_before") }.expect("the C source defines it");
        f(act_before);
    }
}

extern "C" fn act_before(function: *const c_char) {
    // SAFETY: the C source calls this with the name of one of its functions.
    let function = unsafe { CStr::from_ptr(function) };
    let mut next = NEXT.lock().unwrap();
    if next.as_ref().is_some_and(|(wanted, _)| wanted.as_bytes() == function.to_bytes()) {
        let (_, act) = next.take().expect("the function is staged");
        drop(next);
        act();
    }
}
