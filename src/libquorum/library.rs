//! The libquorum that is loaded or linked.

use std::path::{Path, PathBuf};

use corosync_sys as sys;

use super::descriptors;
use crate::error::Error;

/// A libquorum in memory.
#[derive(Clone, Copy, Debug)]
pub struct Library(pub(super) sys::Quorum);

impl Library {
    /// Loads the `libquorum.so.5` that the dynamic linker finds. With the feature `linked`, returns
    /// the library that the program was linked with. The library stays loaded.
    ///
    /// # Errors
    ///
    /// [`Error::Load`] if the library is missing, lacks a symbol or is too old.
    /// [`Error::NoDescriptors`] if no descriptor is left to open it.
    pub fn load() -> Result<Self, Error> {
        #[cfg(feature = "linked")]
        return Ok(Self(sys::Quorum::linked()));
        #[cfg(not(feature = "linked"))]
        // SAFETY: the library that the dynamic linker finds by this name is libquorum. The system's
        // administrator is responsible for that, as for each library that the program is linked
        // with.
        return Ok(Self(unsafe { sys::Quorum::load() }.map_err(not_loaded)?));
    }

    /// Loads libquorum from the file at `path`. The library stays loaded.
    ///
    /// # Errors
    ///
    /// The errors of [`load`](Self::load).
    ///
    /// # Safety
    ///
    /// The code in the file runs, now and whenever a function of libquorum is called. The file and
    /// its dependencies must be Corosync's libraries.
    pub unsafe fn load_from(path: impl AsRef<Path>) -> Result<Self, Error> {
        // SAFETY: the caller guarantees that the file is libquorum.
        Ok(Self(unsafe { sys::Quorum::load_from(path) }.map_err(not_loaded)?))
    }
}

/// Returns the reason why one of Corosync's libraries was not loaded. If no descriptor is free, the
/// dynamic linker cannot open any file, whether or not the library is installed.
pub(super) fn not_loaded(error: sys::LoadError) -> Error {
    if descriptors::any_left() { error.into() } else { Error::NoDescriptors }
}

/// The path of a file that the caller has guaranteed to be libquorum.
#[derive(Clone, Debug)]
pub(crate) struct LibraryFile(PathBuf);

impl LibraryFile {
    /// Creates the path of a file that is loaded later.
    ///
    /// # Safety
    ///
    /// The conditions of [`Library::load_from`], each time it is loaded.
    pub(crate) unsafe fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn load(&self) -> Result<Library, Error> {
        // SAFETY: `new` has the same conditions.
        unsafe { Library::load_from(&self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_installed_is_a_permanent_error() {
        // SAFETY: the file does not exist.
        let error = unsafe { Library::load_from("/nowhere/libquorum.so.5") }.unwrap_err();
        assert!(error.is_permanent());
    }
}
