use std::{ops::RangeInclusive, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use crate::error::{Code, Error};

/// How long the actor waits before it connects again.
///
/// Delays double from the lower end of a range to its upper end, and each is lengthened at random
/// by up to its own length, so that the nodes of a cluster do not act in step. There is a range for
/// each kind of failure, and each starts over once a connection has lasted.
///
/// ```
/// use std::time::Duration;
/// use actix_quorum::Backoff;
///
/// let backoff = Backoff::default().needs_operator(Duration::from_secs(60)..=Duration::from_secs(600));
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
    /// While Corosync is not running or is starting, somebody else listens in its place, or it does not
    /// answer. Default 10 to 40 ms: whoever restarts Corosync waits for this. After a minute of it the
    /// delays grow further, to half a second if this is shorter, so that a node without Corosync is not
    /// kept busy.
    ///
    /// # Panics
    ///
    /// If the range is empty or begins at zero, as all of these.
    pub fn not_running(self, delays: RangeInclusive<Duration>) -> Self {
        Self { not_running: checked(delays), ..self }
    }

    /// After a connection that worked was lost. Default 10 to 100 ms: a Corosync that was killed takes
    /// longer than that to start. After a minute of such delays they grow as those of
    /// [`not_running`](Self::not_running).
    pub fn disconnected(self, delays: RangeInclusive<Duration>) -> Self {
        Self { disconnected: checked(delays), ..self }
    }

    /// When something is wrong that may pass, such as a full /dev/shm. Default 0.5 to 10 s.
    pub fn transient(self, delays: RangeInclusive<Duration>) -> Self {
        Self { transient: checked(delays), ..self }
    }

    /// When somebody has to act: permission refused, no library, no quorum provider, too small a stack.
    /// Default 30 to 60 s; Corosync writes two lines to its log for
    /// each refused attempt.
    pub fn needs_operator(self, delays: RangeInclusive<Duration>) -> Self {
        Self { needs_operator: checked(delays), ..self }
    }

    /// How long a connection must have lasted for the delays to start over. Default 10 s.
    pub fn reset_after(self, reset_after: Duration) -> Self {
        Self { reset_after, ..self }
    }
}

fn checked(delays: RangeInclusive<Duration>) -> RangeInclusive<Duration> {
    assert!(
        !delays.is_empty() && !delays.start().is_zero(),
        "backoff delays must be a range that is not empty and does not begin at zero, got {delays:?}"
    );
    delays
}

/// The delays of one actor.
#[derive(Debug)]
pub(crate) struct Delays {
    backoff: Backoff,
    /// One for each [`Kind`].
    series: [Series; 4],
}

/// The delays after failures of one kind.
#[derive(Debug, Default)]
struct Series {
    /// Made when it is first needed.
    running: Option<ExponentialBackoff>,
    /// How long they were in sum.
    waited: Duration,
    /// They are those after a long time.
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
        Self { backoff, series: Default::default() }
    }

    /// How long to wait after this error.
    pub(crate) fn after(&mut self, error: &Error) -> Duration {
        let kind = kind(error);
        let range = match kind {
            Kind::NotRunning => &self.backoff.not_running,
            Kind::Disconnected => &self.backoff.disconnected,
            Kind::Transient => &self.backoff.transient,
            Kind::NeedsOperator => &self.backoff.needs_operator,
        };
        let (mut shortest, mut longest) = (*range.start(), *range.end());
        // Any other failure, and "busy", shows that Corosync is there.
        if !matches!(error, Error::Connect(Code::LIBRARY)) {
            self.series[Kind::NotRunning as usize] = Series::default();
        }
        let series = &mut self.series[kind as usize];
        if matches!(kind, Kind::NotRunning | Kind::Disconnected) && series.waited >= OFTEN {
            (shortest, longest) = (longest, longest.max(RARELY));
            if !std::mem::replace(&mut series.is_rare, true) {
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

    /// Starts over if a connection that has ended had lasted long enough.
    pub(crate) fn connection_lasted(&mut self, lasted: Duration) {
        if lasted >= self.backoff.reset_after {
            self.series = Default::default();
        }
    }
}

/// For how long the delays without Corosync stay short: it takes less than that to restart.
const OFTEN: Duration = Duration::from_secs(60);

/// To what they grow then; with the jitter up to twice as much. An attempt costs some 0.3 ms.
const RARELY: Duration = Duration::from_millis(500);

fn kind(error: &Error) -> Kind {
    match error {
        // Somebody else listens in its place, or an attempt has waited long already.
        Error::Connect(Code::LIBRARY | Code::TRY_AGAIN)
        | Error::NoSocket
        | Error::UntrustedServer { .. }
        | Error::Unresponsive => Kind::NotRunning,
        // The daemon died between two requests of ours: it is restarting.
        Error::TrackStart(Code::LIBRARY | Code::TRY_AGAIN) | Error::Dispatch(_) => {
            Kind::Disconnected
        }
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

    /// After a minute without Corosync attempts become rare, and after a sign of it frequent again.
    #[test]
    fn a_daemon_that_is_away_for_long_is_asked_for_rarely() {
        let (absent, lost) = (Error::Connect(Code::LIBRARY), Error::Dispatch(Code::LIBRARY));
        for error in [&absent, &lost] {
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
            assert!(delays.after(&absent) <= Duration::from_millis(40), "{sign}");
        }
    }

    #[test]
    fn kinds_of_failure_do_not_lengthen_each_other() {
        let mut delays = Delays::new(Backoff::default());
        for _ in 0..20 {
            delays.after(&Error::Connect(Code::ACCESS));
        }
        assert!(delays.after(&Error::Connect(Code::LIBRARY)) <= Duration::from_millis(20));
    }

    #[test]
    fn only_a_connection_that_lasted_starts_over() {
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
