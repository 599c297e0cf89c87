//! libquorum, loaded or linked.

use std::path::{Path, PathBuf};

use corosync_sys as sys;

use super::descriptors;
use crate::error::Error;

/// libquorum, in memory.
#[derive(Clone, Copy, Debug)]
pub struct Library(pub(super) sys::Quorum);

impl Library {
    /// Loads `libquorum.so.5` from where the dynamic linker finds it; with the feature `linked`,
    /// takes the one that the program was linked with. It stays loaded.
    ///
    /// # Errors
    ///
    /// [`Error::Load`] tells a missing library, one that lacks a symbol and one that is too old;
    /// [`Error::NoDescriptors`] if there is none left to open it with.
    pub fn load() -> Result<Self, Error> {
        #[cfg(feature = "linked")]
        return Ok(Self(sys::Quorum::linked()));
        #[cfg(not(feature = "linked"))]
        // SAFETY: what the dynamic linker finds by this name is libquorum: the system's
        // administrator answers for it, as for each library that the program is linked with.
        return Ok(Self(unsafe { sys::Quorum::load() }.map_err(not_loaded)?));
    }

    /// Loads libquorum from the file at `path`. It stays loaded.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    ///
    /// # Safety
    ///
    /// The code in the file runs, now and whenever a function of libquorum is called. It must be
    /// Corosync's libquorum, and so must be what it depends on.
    pub unsafe fn load_from(path: impl AsRef<Path>) -> Result<Self, Error> {
        // SAFETY: the caller vouches for the file.
        Ok(Self(unsafe { sys::Quorum::load_from(path) }.map_err(not_loaded)?))
    }
}

/// Why libquorum was not loaded. The dynamic linker calls a file missing that it cannot open.
fn not_loaded(error: sys::LoadError) -> Error {
    if descriptors::any_left() { error.into() } else { Error::NoDescriptors }
}

/// A file that somebody has vouched for as libquorum.
#[derive(Clone, Debug)]
pub(crate) struct LibraryFile(PathBuf);

impl LibraryFile {
    /// # Safety
    ///
    /// As [`Library::load_from`], whenever it is loaded.
    pub(crate) unsafe fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn load(&self) -> Result<Library, Error> {
        // SAFETY: it was made under the same condition.
        unsafe { Library::load_from(&self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_installed_is_a_permanent_error() {
        // SAFETY: there is no such file.
        let error = unsafe { Library::load_from("/nowhere/libquorum.so.5") }.unwrap_err();
        assert!(error.is_permanent());
    }
}
