use std::{
    task::{Context, Poll},
    time::Duration,
};

use crate::{error::Error, link::clock::Clock};

/// A periodic tick. The first tick is due at once. Several overdue ticks count as one.
#[derive(Debug)]
pub(super) enum Ticks {
    /// A timer that wakes the thread once for each tick. Tokio's timer wheel would need two or
    /// three wake-ups for a period of this length. A tick that became due while the system was
    /// suspended wakes the thread as soon as the system continues.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    System(linux::Timer),
    /// A timer on tokio's clock, which a test can pause.
    Tokio(tokio::time::Interval),
}

impl Ticks {
    pub(super) fn new(period: Duration, clock: Clock) -> Result<Self, Error> {
        Ok(match clock {
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Clock::System => Self::System(linux::Timer::new(period)?),
            #[allow(unreachable_patterns, reason = "reachable with `sim`, and on other systems")]
            _ => Self::Tokio(interval(period)),
        })
    }

    pub(super) fn period(&self) -> Duration {
        match self {
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Self::System(timer) => timer.period,
            Self::Tokio(interval) => interval.period(),
        }
    }

    /// Moves the next tick to `duration` from now. Later ticks follow at the same period.
    pub(super) fn reset_after(&mut self, duration: Duration) {
        match self {
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Self::System(timer) => timer.reset_after(duration),
            Self::Tokio(interval) => interval.reset_after(duration),
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Self::System(timer) => timer.poll(cx),
            Self::Tokio(interval) => interval.poll_tick(cx).map(|_| ()),
        }
    }
}

fn interval(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux {
    use std::{
        os::fd::OwnedFd,
        task::{Context, Poll, ready},
        time::Duration,
    };

    use rustix::{
        io::{Errno, read},
        time::{
            Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
            timerfd_settime,
        },
    };
    use tokio::io::{Interest, unix::AsyncFd};

    use crate::error::Error;

    /// A `timerfd(2)` on the clock that measures leases.
    #[derive(Debug)]
    pub(in super::super) struct Timer {
        fd: AsyncFd<OwnedFd>,
        pub(super) period: Duration,
    }

    impl Timer {
        pub(super) fn new(period: Duration) -> Result<Self, Error> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let fd =
                timerfd_create(TimerfdClockId::Boottime, flags).map_err(|error| match error {
                    Errno::MFILE | Errno::NFILE => Error::NoDescriptors,
                    error => Error::reactor(error),
                })?;
            // SAFETY: an `OwnedFd` stays open and unchanged until it is dropped, and the `AsyncFd`
            // drops it only after it has left the reactor.
            let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
                .map_err(Error::reactor)?;
            let mut timer = Self { fd, period };
            timer.reset_after(Duration::ZERO);
            Ok(timer)
        }

        pub(super) fn reset_after(&mut self, duration: Duration) {
            let time = |duration: Duration| {
                Timespec::try_from(duration).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
            };
            // Zero would disarm the timer.
            let it_value = time(duration.max(Duration::from_nanos(1)));
            let times = Itimerspec { it_interval: time(self.period), it_value };
            timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &times)
                .expect("the times are valid and the descriptor is a timer");
        }

        pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
            loop {
                // This fails only once the runtime shuts down: no tick follows.
                let Ok(mut guard) = ready!(self.fd.poll_read_ready_mut(cx)) else {
                    return Poll::Pending;
                };
                let mut times = [0; 8];
                let due = read(guard.get_inner_mut(), &mut times) != Err(Errno::AGAIN);
                guard.clear_ready();
                if due {
                    return Poll::Ready(());
                }
            }
        }
    }
}
