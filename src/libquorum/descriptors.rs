//! Guards a connection attempt against a bug of libqb that closes descriptor 0.
//!
//! When `socket()` fails in libqb's connect, libqb shuts down and closes the descriptor number in
//! its zeroed memory (libqb `lib/ipcc.c`, `qb_ipcc_connect`): standard input, or any other file
//! that has number 0. So this guard checks that descriptors are free before libqb is called, and
//! restores descriptor 0 if a failed attempt has closed it.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::{
    fs::{Mode, OFlags},
    io::{self, Errno},
};

use crate::error::Error;

/// The number of descriptors that must be free: libqb needs three at a time, and other threads may
/// need some.
const HEADROOM: usize = 8;

/// Descriptor 0 as it was before a connection attempt.
pub(super) struct Guard {
    standard_input: OwnedFd,
}

impl Guard {
    /// Checks that enough descriptors are free, and occupies number 0 if it is free.
    pub(super) fn new() -> Result<Self, Error> {
        Self::open().map_err(|_| Error::NoDescriptors)
    }

    fn open() -> io::Result<Self> {
        let mut null = open_null()?;
        if is_zero(&null) {
            // Number 0 was free, and libqb would receive it for its socket. The file stays open on
            // purpose, in place of the missing standard input of this process.
            std::mem::forget(null);
            null = open_null()?;
        }
        let headroom: Vec<OwnedFd> =
            (0..HEADROOM).map(|_| io::fcntl_dupfd_cloexec(&null, 3)).collect::<io::Result<_>>()?;
        drop(headroom);
        let standard_input = io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
        Ok(Self { standard_input })
    }

    /// Restores descriptor 0 if a failed attempt has closed it.
    pub(super) fn restore(self) -> io::Result<()> {
        match io::fcntl_getfd(rustix::stdio::stdin()) {
            Err(Errno::BADF) => rustix::stdio::dup2_stdin(&self.standard_input),
            _ => Ok(()),
        }
    }
}

/// Whether a file descriptor is free.
pub(super) fn any_left() -> bool {
    open_null().is_ok()
}

fn open_null() -> io::Result<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        // Without /dev, for example in a bare chroot, any file that can be opened will do.
        .or_else(|_| rustix::fs::open("/", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()))
}

fn is_zero(fd: &OwnedFd) -> bool {
    fd.as_raw_fd() == 0
}
