//! Loads libraries that are missing, too old, not Corosync's, or correct.

use std::path::Path;

use corosync_sys::{CS_ERR_BAD_HANDLE, Cmap, LoadError, Quorum, VoteQuorum};

use crate::support::Scratch;

/// The functions that every supported version of libcmap has.
const CMAP: [&str; 21] = [
    "cmap_initialize",
    "cmap_finalize",
    "cmap_fd_get",
    "cmap_dispatch",
    "cmap_context_get",
    "cmap_context_set",
    "cmap_set",
    "cmap_set_uint32",
    "cmap_set_string",
    "cmap_delete",
    "cmap_get",
    "cmap_get_uint32",
    "cmap_get_uint64",
    "cmap_get_string",
    "cmap_inc",
    "cmap_dec",
    "cmap_iter_init",
    "cmap_iter_next",
    "cmap_iter_finalize",
    "cmap_track_add",
    "cmap_track_delete",
];

const QUORUM: [&str; 9] = [
    "quorum_initialize",
    "quorum_finalize",
    "quorum_fd_get",
    "quorum_dispatch",
    "quorum_getquorate",
    "quorum_trackstart",
    "quorum_trackstop",
    "quorum_context_set",
    "quorum_context_get",
];

/// Returns C code that defines functions with these names. No test calls them.
fn defining(functions: &[&str]) -> String {
    functions
        .iter()
        .map(|name| format!("int {name}(void); int {name}(void) {{ return 1; }}\n"))
        .collect()
}

/// Loads a library without constructors, whose functions are not called.
fn load_quorum_from(path: &Path) -> Result<Quorum, LoadError> {
    // SAFETY: the file of each test does not exist, is not a library, or contains only functions
    // that are not called.
    unsafe { Quorum::load_from(path) }
}

#[test]
fn a_missing_file_is_reported_as_missing_whatever_its_name() {
    let path = Path::new("/nonexistent/libquorum.so.5");
    let Err(LoadError::Library { library, reason }) = load_quorum_from(path) else {
        panic!("there is no such file");
    };
    assert_eq!(library, "libquorum.so.5");
    assert!(reason.contains("/nonexistent/libquorum.so.5"), "{reason}");
    let old = load_quorum_from(Path::new("/nonexistent/libquorum.so.4"));
    assert!(matches!(old, Err(LoadError::Library { .. })), "{old:?}");
}

#[test]
fn a_file_that_is_not_a_library_is_refused() {
    let result = load_quorum_from(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")));
    assert!(matches!(result, Err(LoadError::Library { .. })), "{result:?}");
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_different_library_is_refused() {
    let scratch = Scratch::new("another");
    let path = scratch.library("libquorum.so.5", &defining(&["votequorum_initialize"]));
    let error = load_quorum_from(&path).expect_err("it is not libquorum");
    let symbol = "quorum_initialize";
    assert_eq!(error, LoadError::Symbol { library: "libquorum.so.5", symbol });
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_library_that_lacks_a_required_symbol_does_not_load() {
    let scratch = Scratch::new("each");
    for missing in QUORUM {
        let rest: Vec<_> = QUORUM.into_iter().filter(|name| *name != missing).collect();
        let path = scratch.library(&format!("without_{missing}.so"), &defining(&rest));
        let error = load_quorum_from(&path).expect_err("a symbol is missing");
        assert_eq!(error, LoadError::Symbol { library: "libquorum.so.5", symbol: missing });
    }
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn libquorum_before_3_1_loads_without_models() {
    let scratch = Scratch::new("before_3_1");
    let path = scratch.library("libquorum.so.5.0.0", &defining(&QUORUM));
    let quorum = load_quorum_from(&path).expect("the library has all required functions");
    assert!(quorum.quorum_model_initialize.is_none());
    assert_eq!(
        quorum.model_initialize(),
        Err(LoadError::TooOld {
            library: "libquorum.so.5",
            found: "libquorum.so.5 (without quorum_model_initialize)".to_owned(),
            needs: "corosync 3.1.0",
        })
    );
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn libcmap_before_3_0_loads_without_the_statistics_map() {
    let scratch = Scratch::new("before_3_0");
    let path = scratch.library("libcmap.so.4.0.0", &defining(&CMAP));
    // SAFETY: the file contains only functions, which are not called.
    let cmap = unsafe { Cmap::load_from(&path) }.expect("the library has the other functions");
    assert_eq!(
        cmap.initialize_map(),
        Err(LoadError::TooOld {
            library: "libcmap.so.4",
            found: "libcmap.so.4 (without cmap_initialize_map)".to_owned(),
            needs: "corosync 3.0.0",
        })
    );
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_symlink_to_an_older_library_is_reported_as_too_old() {
    let scratch = Scratch::new("older_link");
    let target = scratch.library("libquorum.so.4.0.1", &defining(&QUORUM));
    let link = scratch.path().join("libquorum.so");
    std::os::unix::fs::symlink(&target, &link).expect("the directory is writable");
    let error = load_quorum_from(&link).expect_err("the link points to version 4");
    let found = target.canonicalize().expect("the library exists").display().to_string();
    assert_eq!(error, too_old(&found));
}

// The next two tests do not run with `linked`: a linked program does not start without the library.

#[test]
#[cfg(not(feature = "linked"))]
#[ignore = "needs a C compiler and glibc: make test"]
fn load_reports_what_to_install_if_the_library_is_missing() {
    if !libquorum_is_hidden("load_reports_what_to_install_if_the_library_is_missing", &[]) {
        return;
    }
    // SAFETY: the dynamic linker of this process finds no libquorum.
    let error = unsafe { Quorum::load() }.expect_err("the library is hidden");
    assert!(matches!(error, LoadError::Library { library: "libquorum.so.5", .. }), "{error:?}");
    let message = error.to_string();
    assert!(message.contains("install libquorum5 (Debian"), "{message}");
}

#[test]
#[cfg(not(feature = "linked"))]
#[ignore = "needs a C compiler and glibc: make test"]
fn load_reports_that_an_older_library_is_too_old() {
    let name = "load_reports_that_an_older_library_is_too_old";
    if !libquorum_is_hidden(name, &["libquorum.so.4"]) {
        return;
    }
    // SAFETY: the libquorum.so.4 that is found has no constructors, and its functions are not called.
    let error = unsafe { Quorum::load() }.expect_err("the library is hidden");
    assert_eq!(error, too_old("libquorum.so.4"));
}

/// Runs a test again in a process that finds no libquorum.so.5, but finds `others`. Returns `true` in
/// that process, and `false` in this one once the test has passed in the other.
#[cfg(not(feature = "linked"))]
fn libquorum_is_hidden(test: &str, others: &[&str]) -> bool {
    const HIDE: &str = r#"
        #include <stdint.h>
        #include <string.h>
        unsigned la_version(unsigned version);
        unsigned la_version(unsigned version) { return version; }
        char *la_objsearch(const char *name, uintptr_t *cookie, unsigned flag);
        char *la_objsearch(const char *name, uintptr_t *cookie, unsigned flag)
        {
            (void) cookie;
            (void) flag;
            return strstr(name, "libquorum.so.5") ? NULL : (char *) name;
        }
    "#;
    if std::env::var_os("LD_AUDIT").is_some() {
        return true;
    }
    let scratch = Scratch::new(test);
    for other in others {
        scratch.library(other, &defining(&QUORUM));
    }
    let output =
        std::process::Command::new(std::env::current_exe().expect("the test program is running"))
            .args(["--exact", &format!("load::{test}"), "--include-ignored"])
            // An audit library (`rtld-audit(7)`) can hide an installed library from the dynamic linker.
            .env("LD_AUDIT", scratch.library("hide.so", HIDE))
            .env("LD_LIBRARY_PATH", scratch.path())
            .output()
            .expect("the test program can be started again");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

fn too_old(found: &str) -> LoadError {
    let (library, needs) = ("libquorum.so.5", "corosync 2.0.0");
    LoadError::TooOld { library, found: found.to_owned(), needs }
}

#[test]
#[ignore = "needs corosync's libraries: make test"]
fn the_installed_libraries_can_be_loaded_and_called() {
    // Each library looks up the handle, which was never opened, and sends no request to the daemon.
    // SAFETY: the installed libraries are Corosync's; 0 is not an open handle.
    let code = unsafe { (Quorum::load().expect("libquorum is installed").quorum_finalize)(0) };
    assert_eq!(code, CS_ERR_BAD_HANDLE);
    // SAFETY: as above.
    let code =
        unsafe { (VoteQuorum::load().expect("libvotequorum is installed").votequorum_finalize)(0) };
    assert_eq!(code, CS_ERR_BAD_HANDLE);
    // SAFETY: as above.
    let code = unsafe { (Cmap::load().expect("libcmap is installed").cmap_finalize)(0) };
    assert_eq!(code, CS_ERR_BAD_HANDLE);
}

#[test]
#[cfg(feature = "linked")]
#[ignore = "needs corosync's libraries: make test"]
fn linked_and_loaded_functions_are_the_same() {
    // `Debug` shows the address of each function.
    // SAFETY: the installed libraries are Corosync's.
    let loaded = unsafe { (Quorum::load(), VoteQuorum::load(), Cmap::load()) };
    let linked = (Quorum::linked(), VoteQuorum::linked(), Cmap::linked());
    assert_eq!(
        format!("{:?}", loaded.0.expect("the library is installed")),
        format!("{:?}", linked.0)
    );
    assert_eq!(
        format!("{:?}", loaded.1.expect("the library is installed")),
        format!("{:?}", linked.1)
    );
    assert_eq!(
        format!("{:?}", loaded.2.expect("the library is installed")),
        format!("{:?}", linked.2)
    );
}
