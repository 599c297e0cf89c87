//! The clock that measures leases.

use std::time::Duration;

/// A moment on a [`Clock`], in nanoseconds. Zero is before all other moments.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Moment(pub(crate) u64);

impl Moment {
    #[cfg(test)]
    pub(crate) const BEGINNING: Self = Self(0);

    /// A moment after all others.
    pub(crate) const NEVER: Self = Self(u64::MAX);

    pub(crate) fn after(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }

    pub(crate) fn before(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(nanos))
    }

    /// Returns the time from `earlier` to this moment, or zero if `earlier` is later.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The clock that measures leases.
#[derive(Clone, Copy, Debug)]
pub enum Clock {
    /// The system's monotonic clock. On Linux and Android it also runs while the system is
    /// suspended, because the other nodes keep running.
    System,
    /// Tokio's clock, which a test can pause, counted from this moment.
    #[cfg(feature = "sim")]
    Tokio(tokio::time::Instant),
}

impl Clock {
    pub(crate) fn now(self) -> Moment {
        match self {
            Self::System => Moment(system_nanos()),
            #[cfg(feature = "sim")]
            Self::Tokio(since) => Moment(1).after(since.elapsed()),
        }
    }
}

fn system_nanos() -> u64 {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(CLOCK);
    // Neither is negative: the clock counts from the start of the system.
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}
