//! The server of a connection: the process that accepted it.

use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Pid;

/// The process that accepted a connection to one of Corosync's services.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub struct PeerProcess {
    /// The user id that it had when it started to listen. Corosync usually has 0, the id of root.
    pub uid: u32,
    /// Its process id, if this process can see it (not across PID namespaces).
    pub pid: Option<i32>,
}

impl PeerProcess {
    /// Returns the server of the connection of `fd`, and the socket that is connected to that
    /// server. Returns `None` if the system does not report the server.
    ///
    /// With shared memory, libqb's default, `fd` is the connected stream socket, and the kernel
    /// knows its peer. With `system { qb_ipc_type: socket }` it is a datagram socket, which has no
    /// peer credentials. Then the stream socket is looked up among this process's descriptors: the
    /// one that is connected to the socket of `service` and is not in `before`.
    pub(super) fn of(fd: BorrowedFd<'_>, service: &[u8], before: &[Stream]) -> Option<Found> {
        if is_stream(fd) {
            return Some(Found { server: peer(fd)?, socket: fd.as_raw_fd(), is_ours: true });
        }
        let mut ours = streams(service);
        ours.retain(|(stream, _)| !before.contains(stream));
        // If other code of this process has just connected too, the users of all servers must
        // agree. If the process ids differ, the id for this connection is not known.
        let &(stream, Self { uid, pid }) = ours.first()?;
        let pid = pid.filter(|_| ours.iter().all(|(_, server)| server.pid == pid));
        let server = Self { uid, pid };
        let agree = ours.iter().all(|(_, server)| server.uid == uid);
        agree.then_some(Found { server, socket: stream.fd, is_ours: ours.len() == 1 })
    }

    /// Waits until the process has ended, at most for `timeout`. Returns whether it has ended, or
    /// `None` if this process cannot see it.
    pub(super) fn wait_gone(self, timeout: Duration) -> Option<bool> {
        let pid = self.pid.and_then(Pid::from_raw)?;
        let deadline = Instant::now() + timeout;
        while rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH) {
            if Instant::now() >= deadline {
                return Some(false);
            }
            thread::sleep(Duration::from_millis(2));
        }
        Some(true)
    }
}

/// A server, and a socket that is connected to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) server: PeerProcess,
    pub(super) socket: RawFd,
    /// Whether the socket must be the connection's own, and cannot belong to other code in this
    /// process.
    pub(super) is_ours: bool,
}

/// A socket, identified by its descriptor number and its inode. If the number now refers to another
/// inode, it is another socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Stream {
    pub(super) fd: RawFd,
    inode: u64,
}

impl Stream {
    /// Ends the calls that wait on this socket. Returns `false` if this fails, because the socket
    /// is closed or no descriptor is free.
    pub(super) fn shut_down(self) -> bool {
        // SAFETY: the number was open a moment ago. If it was closed since, or refers to another
        // file, the calls below fail, or read, or duplicate that file.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
        // Closing a duplicate of another file would release the record locks of this process on it
        // (`fcntl_locking(2)`).
        if !self.is_at(fd) {
            return false;
        }
        // The library may close the socket at any time. The duplicate stays open.
        let Ok(socket) = rustix::io::fcntl_dupfd_cloexec(fd, 3) else { return false };
        self.is_at(socket.as_fd())
            && rustix::net::shutdown(&socket, rustix::net::Shutdown::Both).is_ok()
    }

    fn is_at(self, fd: BorrowedFd<'_>) -> bool {
        rustix::fs::fstat(fd).is_ok_and(|found| found.st_ino == self.inode)
    }
}

/// Ends the calls that wait on this socket, which must be open.
pub(super) fn shut_down(socket: RawFd) {
    // SAFETY: the caller guarantees that the socket is open.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    // The socket may no longer be connected.
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
}

/// Whether libqb uses sockets in the file system. Read once, as libqb itself does (`lib/unix.c`).
pub(super) fn uses_file_system() -> bool {
    static USES: OnceLock<bool> = OnceLock::new();

    *USES.get_or_init(|| cfg!(not(target_os = "linux")) || Path::new(FORCE_FILE_SYSTEM).exists())
}

/// Returns the path of a service's socket in the file system. Distributions build libqb with this
/// path.
pub(super) fn socket_file(service: &[u8]) -> PathBuf {
    Path::new("/var/run").join(OsStr::from_bytes(service))
}

const FORCE_FILE_SYSTEM: &str = "/etc/libqb/force-filesystem-sockets";

#[cfg(target_os = "linux")]
fn is_stream(fd: BorrowedFd<'_>) -> bool {
    rustix::net::sockopt::socket_type(fd) == Ok(rustix::net::SocketType::STREAM)
}

/// Reads `SO_PEERCRED`. rustix cannot represent the process id 0, which a peer in another PID
/// namespace has.
#[cfg(target_os = "linux")]
fn peer(fd: BorrowedFd<'_>) -> Option<PeerProcess> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = libc::socklen_t::try_from(size_of_val(&peer)).ok()?;
    // SAFETY: `fd` is open as long as it is borrowed; `peer` and `size` are locals, and `size` is
    // the size of `peer`.
    let code = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &mut size,
        )
    };
    // A socket without a peer has an invalid uid.
    let known = code == 0 && peer.uid != libc::uid_t::MAX;
    known.then_some(PeerProcess { uid: peer.uid, pid: (peer.pid > 0).then_some(peer.pid) })
}

/// Returns the stream sockets of this process that are connected to the socket of `service`, with
/// their servers.
#[cfg(target_os = "linux")]
pub(super) fn streams(service: &[u8]) -> Vec<(Stream, PeerProcess)> {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
    open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok())
        .filter_map(|number| {
            // SAFETY: the number was open a moment ago. If it was closed since, or refers to
            // another file, the calls below fail or describe that file: they only read.
            let fd = unsafe { BorrowedFd::borrow_raw(number) };
            let address = rustix::net::getpeername(fd).ok()??;
            let address = rustix::net::SocketAddrUnix::try_from(address).ok()?;
            let here = is_of(&address, service) && is_stream(fd);
            let server = here.then(|| peer(fd))??;
            let inode = rustix::fs::fstat(fd).ok()?.st_ino;
            Some((Stream { fd: number, inode }, server))
        })
        .collect()
}

/// Whether this is the address of a service: the abstract socket of its name, which libqb pads with
/// zeros, or a socket of its name in the file system.
#[cfg(target_os = "linux")]
fn is_of(address: &rustix::net::SocketAddrUnix, service: &[u8]) -> bool {
    let unpadded = |name: &[u8]| name.split(|byte| *byte == 0).next() == Some(service);
    let file_name = |path: &[u8]| path.rsplit(|byte| *byte == b'/').next() == Some(service);
    address.abstract_name().is_some_and(unpadded) || address.path_bytes().is_some_and(file_name)
}

#[cfg(not(target_os = "linux"))]
fn is_stream(_: BorrowedFd<'_>) -> bool {
    true
}

#[cfg(not(target_os = "linux"))]
fn peer(_: BorrowedFd<'_>) -> Option<PeerProcess> {
    None
}

#[cfg(not(target_os = "linux"))]
pub(super) fn streams(_: &[u8]) -> Vec<(Stream, PeerProcess)> {
    Vec::new()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{fs::File, io::Write, os::unix::net::UnixStream};

    use rustix::fs::{FlockOperation, fcntl_lock};

    use super::*;

    fn stream(socket: &UnixStream) -> Stream {
        let inode = rustix::fs::fstat(socket).unwrap().st_ino;
        Stream { fd: socket.as_raw_fd(), inode }
    }

    #[test]
    fn a_socket_that_reuses_the_descriptor_number_of_a_closed_one_is_not_shut_down() {
        let (_peer, closed) = UnixStream::pair().unwrap();
        let (mut peer, other) = UnixStream::pair().unwrap();
        let found = Stream { fd: other.as_raw_fd(), ..stream(&closed) };
        assert!(!found.shut_down());
        peer.write_all(b"it is open").unwrap();
        assert!(stream(&other).shut_down());
        assert!(peer.write_all(b"it is shut down").is_err());
    }

    /// The test imitates another thread that has opened and locked the file after the socket was
    /// closed.
    #[test]
    fn a_locked_file_that_reuses_the_descriptor_number_of_a_closed_socket_stays_locked() {
        let (_peer, closed) = UnixStream::pair().unwrap();
        let path = std::env::temp_dir().join(format!("aq-locked-{}", std::process::id()));
        let create = || File::options().write(true).create(true).truncate(true).open(&path);
        let (file, other) = (create().unwrap(), create().unwrap());
        std::fs::remove_file(&path).unwrap();
        fcntl_lock(&file, FlockOperation::LockExclusive).unwrap();
        let found = Stream { fd: file.as_raw_fd(), ..stream(&closed) };
        assert!(!found.shut_down());
        let lock = libc::flock {
            l_type: libc::F_WRLCK.try_into().unwrap(),
            l_whence: libc::SEEK_SET.try_into().unwrap(),
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        // SAFETY: the descriptor is open, and the lock is a local.
        let locked = unsafe { libc::fcntl(other.as_raw_fd(), libc::F_OFD_SETLK, &lock) };
        assert_eq!(locked, -1, "the lock of another owner is refused");
    }
}
