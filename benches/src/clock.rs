//! The clocks of the benchmarks.

/// Returns the time of `CLOCK_MONOTONIC`, in nanoseconds. The clock is the same in all processes.
pub(crate) fn now() -> u64 {
    nanos(libc::CLOCK_MONOTONIC)
}

/// Returns the CPU time of this thread, in nanoseconds.
pub(crate) fn thread_time() -> u64 {
    nanos(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Returns the time of a clock, in nanoseconds.
pub(crate) fn nanos(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a local.
    assert_eq!(unsafe { libc::clock_gettime(clock, &mut time) }, 0);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}
