//! The guard around a connection attempt against a bug of libqb that closes descriptor 0.
//!
//! When `socket()` fails in libqb's connect, it shuts down and closes the descriptor number that
//! its zeroed memory holds (libqb `lib/ipcc.c`, `qb_ipcc_connect`): standard input, or whatever
//! has number 0 by then. So we make sure that there are descriptors before libqb is called, and
//! put descriptor 0 back should it be gone after a failure.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::{
    fs::{Mode, OFlags},
    io::{self, Errno},
};

use crate::error::Error;

/// How many descriptors libqb needs at a time to connect (three), with some for other threads.
const HEADROOM: usize = 8;

/// Descriptor 0 as it was before a connection attempt.
pub(super) struct Guard {
    standard_input: OwnedFd,
}

impl Guard {
    /// Checks that enough descriptors are free, and that number 0 is not among them.
    pub(super) fn new() -> Result<Self, Error> {
        Self::open().map_err(|_| Error::NoDescriptors)
    }

    fn open() -> io::Result<Self> {
        let mut null = open_null()?;
        if is_zero(&null) {
            // Number 0 was free. Left so, libqb would be given it for its socket. It stays open on
            // purpose, as the standard input that this process did not have.
            std::mem::forget(null);
            null = open_null()?;
        }
        let headroom: Vec<OwnedFd> =
            (0..HEADROOM).map(|_| io::fcntl_dupfd_cloexec(&null, 3)).collect::<io::Result<_>>()?;
        drop(headroom);
        let standard_input = io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
        Ok(Self { standard_input })
    }

    /// Opens descriptor 0 again if a failed attempt has closed it.
    pub(super) fn restore(self) -> io::Result<()> {
        match io::fcntl_getfd(rustix::stdio::stdin()) {
            Err(Errno::BADF) => rustix::stdio::dup2_stdin(&self.standard_input),
            _ => Ok(()),
        }
    }
}

/// Whether a file can be opened.
pub(super) fn any_left() -> bool {
    open_null().is_ok()
}

fn open_null() -> io::Result<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        // Where there is no /dev, as in a bare chroot, anything that can be opened will do.
        .or_else(|_| rustix::fs::open("/", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()))
}

fn is_zero(fd: &OwnedFd) -> bool {
    fd.as_raw_fd() == 0
}
