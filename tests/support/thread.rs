//! Threads with their own namespaces and users.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::symlink,
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change},
    thread::{Gid, Uid, UnshareFlags, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use super::{Netns, TempDir, command};

/// Runs `f` on a new thread with the name of this one. A panic in it continues in the caller.
pub fn on_fresh_thread<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    let name = thread::current().name().unwrap_or("fresh").to_owned();
    let thread = thread::Builder::new().name(name);
    let ended = thread::scope(|scope| thread.spawn_scoped(scope, f).map(|thread| thread.join()));
    ended.expect("a thread can start").unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs `f` on a new thread with its own `/dev/shm` of `size` (as `mount` takes it: `4m`), which is
/// shared with the threads and daemons that `f` starts.
pub fn small_dev_shm<T: Send>(size: &str, f: impl FnOnce() -> T + Send) -> T {
    // `ip` shares an existing `/run/netns` among mount namespaces: then namespaces created by `f`
    // are visible outside, and namespaces deleted outside disappear inside.
    drop(Netns::new());
    on_fresh_thread(|| {
        let flags = UnshareFlags::NEWNS | UnshareFlags::FS;
        // SAFETY: the flags do not include `FILES`, which would separate the descriptors of other
        // threads.
        unsafe { rustix::thread::unshare_unsafe(flags) }.expect("root may unshare");
        mount_change("/dev/shm", MountPropagationFlags::PRIVATE).expect("/dev/shm is a mount");
        let options = std::ffi::CString::new(format!("size={size}")).expect("no NUL in a size");
        mount("tmpfs", "/dev/shm", "tmpfs", MountFlags::empty(), Some(options.as_c_str()))
            .expect("root may mount");
        f()
    })
}

/// Runs `f` on a new thread. For this thread and the threads that `f` starts, no library of this
/// name is installed. The process must not have loaded the library yet.
pub fn without_library<T: Send>(soname: &str, f: impl FnOnce() -> T + Send) -> T {
    let cache = command("ldconfig", &["-p"]);
    let line = cache.lines().find(|line| line.trim_start().starts_with(soname));
    let (_, file) =
        line.and_then(|line| line.split_once(" => ")).expect("the library is installed");
    let directory = Path::new(file).parent().expect("a file is in a directory");
    let directory = directory.canonicalize().expect("the file exists");
    let original = TempDir::new();
    on_fresh_thread(|| {
        let flags = UnshareFlags::NEWNS | UnshareFlags::FS;
        // SAFETY: the flags do not include `FILES`, as above.
        unsafe { rustix::thread::unshare_unsafe(flags) }.expect("root may unshare");
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).expect("the path is a mount");
        mount_bind(&directory, original.path()).expect("root may mount");
        mount("tmpfs", &directory, "tmpfs", MountFlags::empty(), None).expect("root may mount");
        for entry in fs::read_dir(original.path()).expect("the path is a directory") {
            let entry = entry.expect("the directory can be read");
            if entry.file_name() != soname {
                let link = directory.join(entry.file_name());
                symlink(entry.path(), link).expect("the directory is empty");
            }
        }
        f()
    })
}

/// Fills the `/dev/shm` of [`small_dev_shm`] until the returned file is removed.
pub fn fill_dev_shm() -> PathBuf {
    let path = PathBuf::from("/dev/shm/filler");
    let mut file = File::create(&path).expect("the file system is not full yet");
    while file.write_all(&[0; 4096]).is_ok() {}
    path
}

/// Runs `f` on a new thread with this user and group, and no other groups.
///
/// The rest of the process keeps its user, because the raw system calls affect only one thread.
pub fn as_user<T: Send>(uid: u32, gid: u32, f: impl FnOnce() -> T + Send) -> T {
    on_fresh_thread(|| {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        set_thread_groups(&[]).expect("root may drop groups");
        set_thread_res_gid(gid, gid, gid).expect("root may become any group");
        set_thread_res_uid(uid, uid, uid).expect("root may become any user");
        f()
    })
}
