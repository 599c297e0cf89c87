//! A thousand connections to a living Corosync, one after the other: each is cut where it would be
//! if Corosync had dropped us.

use std::{
    fs,
    os::fd::{BorrowedFd, RawFd},
    sync::Arc,
};

use actix_quorum::{Quorum, QuorumChanged};
use rustix::net::{Shutdown, SocketAddrUnix, getpeername, shutdown};

use crate::{
    clock,
    daemon::{DEFAULT_LEASE, start},
    memory::allocated,
    report::Report,
    stats::Sample,
    support::{Config, Corosync, Netns, dev_shm_entries, open_fds},
};

const CUTS: usize = 1_000;
/// What is made once, and the history of changes, which is full then.
const BEFORE: usize = 250;

pub(crate) fn run(report: &mut Report) {
    let netns = Arc::new(Netns::new());
    let corosync = Corosync::new("n1", &netns, Config { names: false, ..Config::default() });
    corosync.start();
    corosync.wait_ready();
    netns.run(|| {
        let running = start(DEFAULT_LEASE);
        let told = running.told();
        let quorate = |change: &QuorumChanged| change.current.quorum.is_quorate();
        told.until(quorate);
        let (mut lost, mut back) = (Sample::default(), Sample::default());
        let mut before = (0, 0, 0);
        for cut in 0..BEFORE + CUTS {
            if cut == BEFORE {
                before = (allocated(), open_fds(), dev_shm_entries(std::process::id()).len());
            }
            let connection = tracking();
            let start = clock::now();
            shutdown(connection, Shutdown::Both).expect("it is a socket");
            let at = told.until(|change| change.current.quorum == Quorum::Unknown);
            lost.push((at - start) as f64 / 1e6);
            back.push((told.until(quorate) - at) as f64 / 1e6);
        }
        let grown = allocated() as f64 - before.0 as f64;
        report.sample("a cut connection, until Unknown at the subscriber", "ms", &lost);
        report.sample("until it is quorate again, delays of 10 to 20 ms", "ms", &back);
        report.value("memory after 1,000 reconnects, more", "B", grown, None);
        let fds = open_fds() as f64 - before.1 as f64;
        report.value("descriptors after 1,000 reconnects, more", "", fds, None);
        let entries = dev_shm_entries(std::process::id()).len() as f64 - before.2 as f64;
        report.value("entries of /dev/shm after 1,000 reconnects, more", "", entries, None);
        running.system.stop();
    });
}

/// The descriptor of the connection that tracks quorum.
fn tracking() -> BorrowedFd<'static> {
    let fds = fs::read_dir("/proc/self/fd").expect("/proc is mounted").flatten();
    let fds = fds.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    // SAFETY: each was open just now, and is used at once; one that is closed meanwhile is an error.
    let mut fds = fds.map(|fd| unsafe { BorrowedFd::borrow_raw(fd) });
    let is_quorum = |fd: &BorrowedFd<'_>| {
        let peer = getpeername(fd).ok().flatten();
        let peer = peer.and_then(|peer| SocketAddrUnix::try_from(peer).ok());
        // libqb pads the name with zeros.
        peer.is_some_and(|peer| {
            peer.abstract_name().is_some_and(|name| name.starts_with(b"quorum\0"))
        })
    };
    fds.find(is_quorum).expect("it is connected")
}
