//! Threads with their own namespaces and users.

use std::{fs::File, io::Write, panic::resume_unwind, path::PathBuf, thread};

use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{Gid, Uid, UnshareFlags, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use super::Netns;

/// Runs `f` on a fresh thread, which has the name of this one. A panic in it goes on in the caller.
pub fn on_fresh_thread<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    let name = thread::current().name().unwrap_or("fresh").to_owned();
    let thread = thread::Builder::new().name(name);
    let ended = thread::scope(|scope| thread.spawn_scoped(scope, f).map(|thread| thread.join()));
    ended.expect("a thread can start").unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs `f` on a fresh thread that has a `/dev/shm` of `size` (as `mount` takes it: `4m`) of its
/// own, shared with the threads and the daemons that it starts.
pub fn small_dev_shm<T: Send>(size: &str, f: impl FnOnce() -> T + Send) -> T {
    // `ip` shares `/run/netns` among mount namespaces once it is there: then those made by `f` are
    // seen outside, and those deleted outside go away inside.
    drop(Netns::new());
    on_fresh_thread(|| {
        let flags = UnshareFlags::NEWNS | UnshareFlags::FS;
        // SAFETY: `FILES`, which would leave other threads without our descriptors, is not among
        // the flags.
        unsafe { rustix::thread::unshare_unsafe(flags) }.expect("root may unshare");
        mount_change("/dev/shm", MountPropagationFlags::PRIVATE).expect("/dev/shm is a mount");
        let options = std::ffi::CString::new(format!("size={size}")).expect("no NUL in a size");
        mount("tmpfs", "/dev/shm", "tmpfs", MountFlags::empty(), Some(options.as_c_str()))
            .expect("root may mount");
        f()
    })
}

/// Fills `/dev/shm`, one of [`small_dev_shm`], until the file that is returned is removed.
pub fn fill_dev_shm() -> PathBuf {
    let path = PathBuf::from("/dev/shm/filler");
    let mut file = File::create(&path).expect("it is not full yet");
    while file.write_all(&[0; 4096]).is_ok() {}
    path
}

/// Runs `f` on a fresh thread of this user and group, with no other groups.
///
/// The rest of the process stays what it is: these are the raw system calls.
pub fn as_user<T: Send>(uid: u32, gid: u32, f: impl FnOnce() -> T + Send) -> T {
    on_fresh_thread(|| {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        set_thread_groups(&[]).expect("root may drop groups");
        set_thread_res_gid(gid, gid, gid).expect("root may become any group");
        set_thread_res_uid(uid, uid, uid).expect("root may become any user");
        f()
    })
}
