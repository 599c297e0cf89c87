//! Cuts a thousand connections to a running Corosync, one after another, and measures the time
//! until the subscriber receives the loss, the time until the node is quorate again, and the
//! resources that are left.

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
/// The number of cuts before the first count of memory, descriptors and files. After them the
/// history is full, and everything that is allocated once is allocated.
const WARM_UP: usize = 250;

pub(crate) fn run(report: &mut Report) {
    let netns = Arc::new(Netns::new());
    let corosync = Corosync::new("n1", &netns, Config { names: false, ..Config::default() });
    corosync.start();
    corosync.wait_ready();
    netns.run(|| {
        let running = start(DEFAULT_LEASE);
        let changes = running.changes();
        let quorate = |change: &QuorumChanged| change.current.quorum.is_quorate();
        changes.until(quorate);
        let (mut lost, mut back) = (Sample::default(), Sample::default());
        let mut before = (0, 0, 0);
        for cut in 0..WARM_UP + CUTS {
            if cut == WARM_UP {
                before = (allocated(), open_fds(), dev_shm_entries(std::process::id()).len());
            }
            let connection = tracking_connection();
            let start = clock::now();
            shutdown(connection, Shutdown::Both).expect("the descriptor is a socket");
            let at = changes.until(|change| change.current.quorum == Quorum::Unknown);
            lost.push((at - start) as f64 / 1e6);
            back.push((changes.until(quorate) - at) as f64 / 1e6);
        }
        let grown = allocated() as f64 - before.0 as f64;
        report.sample(
            "from the cut of a connection until the subscriber receives Unknown",
            "ms",
            &lost,
        );
        report.sample(
            "from then until the node is quorate again, delays of 10 to 20 ms",
            "ms",
            &back,
        );
        report.value("growth of memory over 1,000 reconnects", "B", grown, None);
        let fds = open_fds() as f64 - before.1 as f64;
        report.value("growth of open descriptors over 1,000 reconnects", "", fds, None);
        let entries = dev_shm_entries(std::process::id()).len() as f64 - before.2 as f64;
        report.value("growth of entries in /dev/shm over 1,000 reconnects", "", entries, None);
        running.system.stop();
    });
}

/// Returns the descriptor of the connection that tracks quorum.
fn tracking_connection() -> BorrowedFd<'static> {
    let fds = fs::read_dir("/proc/self/fd").expect("/proc is mounted").flatten();
    let fds = fds.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    // SAFETY: each descriptor was open just now and is used at once; a call on a descriptor that
    // was closed meanwhile returns an error.
    let mut fds = fds.map(|fd| unsafe { BorrowedFd::borrow_raw(fd) });
    let is_quorum = |fd: &BorrowedFd<'_>| {
        let peer = getpeername(fd).ok().flatten();
        let peer = peer.and_then(|peer| SocketAddrUnix::try_from(peer).ok());
        // libqb pads the name with zeros.
        peer.is_some_and(|peer| {
            peer.abstract_name().is_some_and(|name| name.starts_with(b"quorum\0"))
        })
    };
    fds.find(is_quorum).expect("the actor is connected")
}
