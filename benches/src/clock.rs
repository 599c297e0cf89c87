//! What time is measured by.

/// `CLOCK_MONOTONIC` in nanoseconds: the same in every process and every language.
pub(crate) fn now() -> u64 {
    nanos(libc::CLOCK_MONOTONIC)
}

/// The time that this thread has run.
pub(crate) fn thread_time() -> u64 {
    nanos(libc::CLOCK_THREAD_CPUTIME_ID)
}

pub(crate) fn nanos(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a local.
    assert_eq!(unsafe { libc::clock_gettime(clock, &mut time) }, 0);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}
