//! Threads with their own namespaces and users.

use std::{fs::File, io::Write, panic::resume_unwind, path::PathBuf, thread};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{Gid, Uid, UnshareFlags, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use super::Netns;

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

/// Fills `/dev/shm`, one of [`small_dev_shm`], until the returned file is removed.
pub fn fill_dev_shm() -> PathBuf {
    let path = PathBuf::from("/dev/shm/filler");
    let mut file = File::create(&path).expect("it is not full yet");
    while file.write_all(&[0; 4096]).is_ok() {}
    path
}

/// Runs `f` on a new thread with this user and group, and no other groups.
///
/// The rest of the process keeps its user, because these are the raw system calls.
pub fn as_user<T: Send>(uid: u32, gid: u32, f: impl FnOnce() -> T + Send) -> T {
    on_fresh_thread(|| {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        set_thread_groups(&[]).expect("root may drop groups");
        set_thread_res_gid(gid, gid, gid).expect("root may become any group");
        set_thread_res_uid(uid, uid, uid).expect("root may become any user");
        f()
    })
}
