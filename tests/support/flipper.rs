//! Changes of quorum, as fast as Corosync makes them.

use corosync_sys::Cmap;

/// Sets the expected votes through libcmap, which is faster than the tool.
#[derive(Debug)]
pub struct Flipper {
    cmap: Cmap,
    handle: corosync_sys::cmap_handle_t,
}

impl Flipper {
    /// Connects to the daemon. Must be called in the daemon's namespace.
    pub fn new() -> Self {
        // SAFETY: the system's libcmap.
        let cmap = unsafe { Cmap::load() }.unwrap();
        let mut handle = 0;
        // SAFETY: the handle is a local.
        assert_eq!(unsafe { (cmap.cmap_initialize)(&mut handle) }, corosync_sys::CS_OK);
        Self { cmap, handle }
    }

    /// Returns once the daemon has set the expected votes. The quorum decision follows.
    pub fn flip(&self, quorate: bool) {
        let votes = if quorate { 1 } else { 3 };
        let key = c"quorum.expected_votes".as_ptr();
        // SAFETY: the handle is open and the key ends with a NUL.
        let code = unsafe { (self.cmap.cmap_set_uint32)(self.handle, key, votes) };
        assert_eq!(code, corosync_sys::CS_OK);
    }
}

impl Drop for Flipper {
    fn drop(&mut self) {
        // SAFETY: the handle is open and is not used again.
        unsafe { (self.cmap.cmap_finalize)(self.handle) };
    }
}
