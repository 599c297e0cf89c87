//! Compiling C.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use super::command;

/// Compiles a source to a file of this name, and returns the path of the file. The flags, including
/// libraries, come last.
///
/// The same source is compiled once and then copied: two paths load as two libraries.
#[track_caller]
pub(super) fn compile(name: &str, source: &str, flags: &[&str]) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = directory.join(name);
    let mut hasher = DefaultHasher::new();
    (source, flags).hash(&mut hasher);
    let compiled = directory.join(format!("compiled-{:016x}", hasher.finish()));
    if !compiled.exists() {
        let c = draft("c");
        fs::write(&c, source).expect("cargo has made the directory");
        let out = draft("out");
        let files = [
            "-o",
            out.to_str().expect("the path is UTF-8"),
            c.to_str().expect("the path is UTF-8"),
        ];
        command("cc", &[&["-Wall", "-Wextra"], &files[..], flags].concat());
        fs::rename(out, &compiled).expect("both paths are in one directory");
        fs::remove_file(c).expect("the directory is writable");
    }
    // Other processes may use an older file, so it is renamed and never overwritten.
    let copy = draft("copy");
    fs::copy(&compiled, &copy).expect("the disk has free space");
    fs::rename(copy, &path).expect("both paths are in one directory");
    path
}

/// The path of a file that no other process or thread writes.
fn draft(extension: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);

    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("draft-{}-{number}.{extension}", process::id()))
}
