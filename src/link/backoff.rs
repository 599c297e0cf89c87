use std::{mem, ops::RangeInclusive, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use crate::error::{Code, Error};

/// How long the actor waits before it reconnects.
///
/// Each kind of failure has its own range of delays. The delay doubles with each failure of that
/// kind, from the lower end of the range to the upper end. Each delay is extended by a random time
/// of up to its own length, so that the nodes of a cluster do not reconnect at the same time. All
/// delays start over after a connection that has lasted for [`reset_after`](Self::reset_after).
///
/// ```
/// use std::time::Duration;
/// use actix_quorum::Backoff;
///
/// let minutes = Duration::from_secs(60)..=Duration::from_secs(600);
/// let backoff = Backoff::default().needs_operator(minutes);
/// ```
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[must_use = "it has no effect before it is given to `QuorumBuilder::backoff`"]
pub struct Backoff {
    not_running: RangeInclusive<Duration>,
    disconnected: RangeInclusive<Duration>,
    transient: RangeInclusive<Duration>,
    needs_operator: RangeInclusive<Duration>,
    reset_after: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            not_running: ms(10)..=ms(40),
            disconnected: ms(10)..=ms(100),
            transient: ms(500)..=ms(10_000),
            needs_operator: ms(30_000)..=ms(60_000),
            reset_after: ms(10_000),
        }
    }
}

impl Backoff {
    /// The delays while Corosync is not running, is starting or does not answer, and while another
    /// process listens in its place. Default 10 to 40 ms, so that the actor reconnects soon after a
    /// restart of Corosync. Once these delays add up to a minute, they keep doubling, up to 0.5 s
    /// or to the end of the range, whichever is longer. So a node without Corosync is not kept
    /// busy. These delays also start over once Corosync has been running in between.
    ///
    /// # Panics
    ///
    /// Panics if the range is empty or begins at zero.
    pub fn not_running(self, delays: RangeInclusive<Duration>) -> Self {
        Self { not_running: checked(delays), ..self }
    }

    /// The delays after a working connection was lost. Default 10 to 100 ms. A killed Corosync
    /// takes longer than that to start, so more frequent attempts would not help. Once these delays
    /// add up to a minute, they grow further, as with [`not_running`](Self::not_running).
    ///
    /// # Panics
    ///
    /// Panics if the range is empty or begins at zero.
    pub fn disconnected(self, delays: RangeInclusive<Duration>) -> Self {
        Self { disconnected: checked(delays), ..self }
    }

    /// The delays after a failure that may be temporary, such as a full /dev/shm. Default 0.5 to
    /// 10 s.
    ///
    /// # Panics
    ///
    /// Panics if the range is empty or begins at zero.
    pub fn transient(self, delays: RangeInclusive<Duration>) -> Self {
        Self { transient: checked(delays), ..self }
    }

    /// The delays after a failure that needs an operator: refused permission, no library, no quorum
    /// provider, a stack that is too small. Default 30 to 60 s; Corosync writes two lines to its
    /// log for each refused attempt.
    ///
    /// # Panics
    ///
    /// Panics if the range is empty or begins at zero.
    pub fn needs_operator(self, delays: RangeInclusive<Duration>) -> Self {
        Self { needs_operator: checked(delays), ..self }
    }

    /// How long a connection must last for the delays to start over. Default 10 s.
    pub fn reset_after(self, reset_after: Duration) -> Self {
        Self { reset_after, ..self }
    }
}

fn checked(delays: RangeInclusive<Duration>) -> RangeInclusive<Duration> {
    assert!(
        !delays.is_empty() && !delays.start().is_zero(),
        "backoff delays must be a nonempty range that does not begin at zero, got {delays:?}"
    );
    delays
}

/// Computes the delays before one actor reconnects.
#[derive(Debug)]
pub(crate) struct Delays {
    backoff: Backoff,
    /// One for each [`Kind`].
    series: [Series; 4],
    /// Whether Corosync was absent at the last failure that shows whether Corosync is running.
    was_absent: bool,
}

/// The delays after failures of one kind.
#[derive(Debug, Default)]
struct Series {
    /// The delays that are still to come. Created when the first one is needed.
    running: Option<ExponentialBackoff>,
    /// The sum of the delays so far.
    waited: Duration,
    /// Whether the delays have become longer, because attempts were frequent for a long time.
    is_rare: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    NotRunning,
    Disconnected,
    Transient,
    NeedsOperator,
}

impl Delays {
    pub(crate) fn new(backoff: Backoff) -> Self {
        Self { backoff, series: Default::default(), was_absent: false }
    }

    /// Returns how long to wait after this error.
    pub(crate) fn after(&mut self, error: &Error) -> Duration {
        let kind = kind(error);
        let range = match kind {
            Kind::NotRunning => &self.backoff.not_running,
            Kind::Disconnected => &self.backoff.disconnected,
            Kind::Transient => &self.backoff.transient,
            Kind::NeedsOperator => &self.backoff.needs_operator,
        };
        let (mut shortest, mut longest) = (*range.start(), *range.end());
        if self.shows_corosync(error, kind) {
            self.series[Kind::NotRunning as usize] = Series::default();
        }
        let series = &mut self.series[kind as usize];
        if matches!(kind, Kind::NotRunning | Kind::Disconnected) && series.waited >= FREQUENT_FOR {
            (shortest, longest) = (longest, longest.max(RARE_DELAY));
            if !mem::replace(&mut series.is_rare, true) {
                series.running = None;
            }
        }
        let delays = series.running.get_or_insert_with(|| {
            ExponentialBuilder::new()
                .with_min_delay(shortest)
                .with_max_delay(longest)
                .with_jitter()
                .without_max_times()
                .build()
        });
        let delay = delays.next().unwrap_or(longest);
        series.waited += delay;
        delay
    }

    /// Whether this error shows that Corosync was running or has come back: a connection was lost,
    /// or Corosync was absent at an earlier error and is now starting ("busy", `TRY_AGAIN`) or
    /// running.
    fn shows_corosync(&mut self, error: &Error, kind: Kind) -> bool {
        match error {
            Error::Connect(Code::LIBRARY) | Error::NoSocket | Error::UntrustedServer { .. } => {
                self.was_absent = true;
                false
            }
            // These are failures of this process, so they show nothing about Corosync.
            Error::Load(_)
            | Error::NoDescriptors
            | Error::ConnectInProgress
            | Error::Thread(_)
            | Error::StackTooSmall { .. } => false,
            // A lost connection shows that Corosync was running.
            _ => mem::replace(&mut self.was_absent, false) || matches!(kind, Kind::Disconnected),
        }
    }

    /// Resets the delays if the connection that has ended lasted long enough.
    pub(crate) fn connection_lasted(&mut self, lasted: Duration) {
        if lasted >= self.backoff.reset_after {
            self.series = Default::default();
        }
    }
}

/// While Corosync is not running, or while connections are lost repeatedly, the delays become
/// longer once they add up to this time. A restart of Corosync takes less time.
const FREQUENT_FOR: Duration = Duration::from_secs(60);

/// The shortest delay after `FREQUENT_FOR`; the jitter may double it. An attempt costs about 0.3
/// ms.
const RARE_DELAY: Duration = Duration::from_millis(500);

fn kind(error: &Error) -> Kind {
    match error {
        // `UntrustedServer`: another process listens while Corosync is not running. `Unresponsive`:
        // the attempt itself has already taken long, so a short delay is enough.
        Error::Connect(Code::LIBRARY | Code::TRY_AGAIN)
        | Error::NoSocket
        | Error::UntrustedServer { .. }
        | Error::Unresponsive => Kind::NotRunning,
        // `TrackStart`: the daemon died between two requests of this attempt, so it may be
        // restarting.
        Error::TrackStart(Code::LIBRARY | Code::TRY_AGAIN)
        | Error::Dispatch(_)
        | Error::NotAnnounced => Kind::Disconnected,
        Error::Connect(Code::ACCESS)
        | Error::Load(_)
        | Error::NoProvider
        | Error::StackTooSmall { .. } => Kind::NeedsOperator,
        _ => Kind::Transient,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delays(error: &Error, n: usize) -> Vec<Duration> {
        let mut delays = Delays::new(Backoff::default());
        (0..n).map(|_| delays.after(error)).collect()
    }

    #[test]
    fn delays_grow_to_the_cap_with_jitter() {
        for (error, shortest, longest) in [
            (Error::Connect(Code::LIBRARY), 10, 40),
            (Error::Connect(Code::TRY_AGAIN), 10, 40),
            (Error::NoSocket, 10, 40),
            (Error::untrusted_server(Some(65534), 0), 10, 40),
            (Error::Unresponsive, 10, 40),
            (Error::Dispatch(Code::LIBRARY), 10, 100),
            (Error::Connect(Code::NO_SPACE), 500, 10_000),
            (Error::Connect(Code::ACCESS), 30_000, 60_000),
        ] {
            let (shortest, longest) =
                (Duration::from_millis(shortest), Duration::from_millis(longest));
            let mut expected = shortest;
            for delay in delays(&error, 20) {
                assert!((expected..=expected * 2).contains(&delay), "{error}: {delay:?}");
                expected = (expected * 2).min(longest);
            }
            assert_eq!(expected, longest);
        }
    }

    /// After an error that shows that Corosync is running, attempts become frequent again.
    #[test]
    fn attempts_become_rare_after_corosync_has_been_down_for_a_minute() {
        let (absent, lost) = (Error::Connect(Code::LIBRARY), Error::Dispatch(Code::LIBRARY));
        for error in [&absent, &Error::NoSocket, &Error::untrusted_server(None, 0), &lost] {
            let mut delays = Delays::new(Backoff::default());
            let mut waited = Duration::ZERO;
            while waited < Duration::from_secs(60) {
                let delay = delays.after(error);
                assert!(delay <= Duration::from_millis(200), "{delay:?} after {waited:?}");
                waited += delay;
            }
            for _ in 0..10 {
                delays.after(error);
            }
            for _ in 0..10 {
                let delay = delays.after(error);
                assert!((Duration::from_millis(500)..=Duration::from_secs(1)).contains(&delay));
            }
            delays.connection_lasted(Duration::from_secs(10));
            assert!(delays.after(error) <= Duration::from_millis(20));
        }
        for sign in [Error::Connect(Code::TRY_AGAIN), lost] {
            let mut delays = Delays::new(Backoff::default());
            for _ in 0..10_000 {
                delays.after(&absent);
            }
            delays.after(&sign);
            assert!(delays.after(&absent) <= Duration::from_millis(40), "after {sign}");
        }
    }

    /// A daemon that was busy for a minute accepts a connection and dies soon afterwards.
    #[test]
    fn a_lost_connection_resets_the_delays_for_a_daemon_that_is_not_running() {
        let mut delays = Delays::new(Backoff::default());
        for _ in 0..10_000 {
            delays.after(&Error::Connect(Code::TRY_AGAIN));
        }
        delays.after(&Error::Dispatch(Code::LIBRARY));
        assert!(delays.after(&Error::Connect(Code::LIBRARY)) <= Duration::from_millis(40));
    }

    #[test]
    fn a_failure_of_this_process_does_not_reset_the_delays() {
        let mut delays = Delays::new(Backoff::default());
        for _ in 0..10_000 {
            delays.after(&Error::NoSocket);
            delays.after(&Error::NoDescriptors);
        }
        assert!(delays.after(&Error::NoSocket) >= RARE_DELAY);
    }

    #[test]
    fn each_kind_of_failure_has_its_own_delays() {
        let mut delays = Delays::new(Backoff::default());
        for _ in 0..20 {
            delays.after(&Error::Connect(Code::ACCESS));
        }
        assert!(delays.after(&Error::Connect(Code::LIBRARY)) <= Duration::from_millis(20));
    }

    #[test]
    fn only_a_connection_that_lasted_long_enough_resets_the_delays() {
        let lost = Error::Dispatch(Code::LIBRARY);
        let mut delays = Delays::new(Backoff::default());
        for _ in 0..20 {
            delays.after(&lost);
        }
        delays.connection_lasted(Duration::from_secs(9));
        assert!(delays.after(&lost) >= Duration::from_millis(100));
        delays.connection_lasted(Duration::from_secs(10));
        assert!(delays.after(&lost) <= Duration::from_millis(20));
    }

    #[test]
    #[should_panic(expected = "does not begin at zero")]
    fn a_delay_of_zero_is_refused() {
        let _ = Backoff::default().disconnected(Duration::ZERO..=Duration::from_secs(1));
    }
}
