//! Compiling C.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use super::command;

/// Compiles to a file of this name, and returns its path. The flags come last, libraries too.
#[track_caller]
pub(super) fn compile(name: &str, source: &str, flags: &[&str]) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);

    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = directory.join(name);
    // Other processes may use an older one, or be compiling it too: rename, never write.
    let draft = format!("{}-{}-{name}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let (c, out) = (directory.join(format!("{draft}.c")), directory.join(draft));
    fs::write(&c, source).expect("cargo has made the directory");

    let files = ["-o", out.to_str().expect("a plain path"), c.to_str().expect("a plain path")];
    command("cc", &[&["-Wall", "-Wextra"], &files[..], flags].concat());
    fs::rename(out, &path).expect("both are in one directory");
    fs::remove_file(c).expect("it is ours");
    path
}
