//! Checks the stack before a dispatch, because `quorum_dispatch` has a buffer of 1 MiB on its
//! stack.

use crate::error::Error;

/// The stack that a dispatch needs: the 1 MiB buffer of libquorum's `quorum_dispatch`
/// (`IPC_DISPATCH_SIZE`), and the frames around it. Distributions build libquorum without stack
/// probes, so the guard page does not catch a small stack: the buffer overwrites the memory below
/// the stack.
const NEEDED: usize = 1024 * 1024 + 128 * 1024;

/// Fails if this thread has too little stack left to call `quorum_dispatch`.
pub(super) fn check() -> Result<(), Error> {
    let Some(lowest) = lowest_address() else { return Ok(()) };
    let here = 0u8;
    let available = (&raw const here).addr().saturating_sub(lowest);
    if available < NEEDED {
        Err(Error::StackTooSmall { available, needed: NEEDED })
    } else {
        Ok(())
    }
}

/// Returns the lowest usable address of this thread's stack, if the system reports it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn lowest_address() -> Option<usize> {
    use std::{cell::OnceCell, mem::MaybeUninit, ptr};

    thread_local! {
        // Read once per thread, because on the main thread glibc reads /proc/self/maps to find it.
        static LOWEST: OnceCell<Option<usize>> = const { OnceCell::new() };
    }

    fn read() -> Option<usize> {
        let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
        // SAFETY: `attributes` is a local and large enough; glibc fills it in when it returns 0.
        if unsafe { libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) } != 0 {
            return None;
        }
        let (mut lowest, mut size) = (ptr::null_mut(), 0);
        // SAFETY: `pthread_getattr_np` returned 0, so `attributes` is filled in; the other two are
        // locals that outlive the call.
        let code =
            unsafe { libc::pthread_attr_getstack(attributes.as_ptr(), &mut lowest, &mut size) };
        // SAFETY: `attributes` was filled in and is not used after this.
        unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
        (code == 0).then(|| lowest.addr())
    }

    LOWEST.with(|lowest| *lowest.get_or_init(read))
}

// Other C libraries report too little: musl, for example, only the used part of the main thread's
// stack.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn lowest_address() -> Option<usize> {
    None
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use std::thread;

    use super::*;

    fn on_a_stack_of(bytes: usize) -> Result<(), Error> {
        thread::Builder::new().stack_size(bytes).spawn(check).unwrap().join().unwrap()
    }

    #[test]
    fn a_small_stack_is_refused_before_libquorum_is_called() {
        // For a new thread, the C library may reuse an old stack of up to four times this size.
        // Such a stack is also too small.
        let error = on_a_stack_of(256 * 1024).unwrap_err();
        assert!(matches!(error, Error::StackTooSmall { available, needed } if available < needed));
        assert_eq!(on_a_stack_of(2 * 1024 * 1024), Ok(()));
    }
}
