use std::{
    future::{pending, poll_fn},
    mem,
    os::unix::net::UnixStream,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures_util::stream;
use parking_lot::Mutex;
use tokio::{
    runtime::Builder,
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::*;
use crate::{
    libquorum::RingId,
    link::{
        ring_reading::{HeldReadings, RingCounters, RingReading},
        worker::{Answers, Schedule},
    },
};

/// A connection whose server sends nothing. One notification may be waiting.
#[derive(Debug)]
struct Silent {
    socket: UnixStream,
    waiting: Option<Notification>,
    hangs_up: bool,
}

impl AsRawFd for Silent {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl QuorumConnection for Silent {
    fn dispatch(&mut self) -> Result<Option<Notification>, Error> {
        Ok(self.waiting.take())
    }

    fn has_provider(&self) -> bool {
        true
    }

    fn hangs_up(&self) -> bool {
        self.hangs_up
    }

    fn asked_at(&self) -> Moment {
        Moment::default()
    }

    fn close(self: Box<Self>, _: &BlockingWorker) {}
}

/// A probe that never answers. The first attempt to interrupt it fails.
#[derive(Debug, Default)]
struct Hung(AtomicUsize);

impl Probe for Hung {
    fn ask(&self, _: Vec<NodeId>) -> PendingProbe {
        Box::pin(pending())
    }

    fn interrupt(&self) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed) > 0
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.unwrap().block_on(test);
}

fn events(connection: Silent, probe: &Arc<Hung>, start: Instant) -> LinkEvents {
    let probe = Arc::clone(probe) as Arc<dyn Probe>;
    let (worker, clock) = (BlockingWorker::default(), Clock::Tokio(start));
    LinkEvents::new(Box::new(connection), worker, probe, None, LONGEST_TICK, clock).unwrap()
}

async fn next(events: &mut LinkEvents) -> Option<Result<LinkEvent, Error>> {
    poll_fn(|cx| Pin::new(&mut *events).poll_next(cx)).await
}

/// Corosync sends the current state when it is asked to start tracking, which is before the
/// stream exists.
#[test]
fn the_first_notification_carries_the_time_of_the_request_to_track() {
    run(async {
        let (_peer, socket) = UnixStream::pair().unwrap();
        let waiting = Some(Notification::quorum(true, RingId::default(), Vec::new()));
        let connection = Silent { socket, waiting, hangs_up: true };
        let asked_at = connection.asked_at();
        let mut events = events(connection, &Arc::default(), Instant::now());
        let event = next(&mut events).await;
        let Some(Ok(LinkEvent::Notified { drained_at, .. })) = event else {
            panic!("not a notification: {event:?}");
        };
        assert_eq!(drained_at, asked_at);
    });
}

#[test]
fn an_interrupt_that_missed_the_call_is_repeated_soon() {
    run(async {
        let start = Instant::now();
        let (_peer, socket) = UnixStream::pair().unwrap();
        let probe = Arc::new(Hung::default());
        let mut events = events(Silent { socket, waiting: None, hangs_up: true }, &probe, start);
        let mut interrupted_at = Vec::new();
        while interrupted_at.len() < 3 {
            let event = next(&mut events).await;
            assert!(matches!(event, Some(Ok(LinkEvent::Tick))), "not a tick: {event:?}");
            if probe.0.load(Ordering::Relaxed) > interrupted_at.len() {
                interrupted_at.push(start.elapsed());
            }
        }
        let [missed, first, second] = interrupted_at[..] else { unreachable!() };
        assert!(first - missed <= 2 * LONGEST_TICK, "interrupted at {interrupted_at:?}");
        assert!(second - first >= 2 * ANSWER_TIMEOUT, "interrupted at {interrupted_at:?}");
    });
}

pub(super) const TOKEN: Duration = Duration::from_millis(1000);
pub(super) const CONSENSUS: Duration = Duration::from_millis(1200);

/// Returns a reading of a daemon whose counters do not change, except for the tokens.
pub(super) fn reading(
    connection: u64,
    asked_at: Moment,
    answered_at: Moment,
    tokens: u64,
) -> RingReading {
    RingReading {
        connection,
        asked_at,
        answered_at,
        counters: RingCounters::default(),
        tokens,
        token: TOKEN,
        consensus: CONSENSUS,
        configured_votes: None,
        age: Duration::ZERO,
    }
}

/// How the daemon of a test answers reads.
#[derive(Clone, Copy, Debug)]
enum Answering {
    /// All reads fail, as if the thread could not be started.
    Failure,
    /// The daemon stops answering after this many answers.
    Silence(u64),
    /// All reads are answered, with counters of this age.
    Age(Duration),
    /// All reads are answered after this time.
    Slow(Duration),
}

/// Reads of a ring whose token moves. Each read takes one millisecond, unless `answering` is
/// `Slow`.
#[derive(Debug)]
struct Reads {
    clock: Clock,
    answering: Answering,
    /// The timeouts are `TOKEN` and `CONSENSUS` multiplied by this.
    slowness: u32,
    count: Arc<AtomicUsize>,
    cancels: Arc<AtomicUsize>,
}

impl RingWatch for Reads {
    fn read(&self, schedule: Schedule, steady: Option<RingReading>) -> Answers<Vec<RingUpdate>> {
        let together = steady.map_or(1, |steady| steady.reads_together() as usize);
        let Self { clock, answering, slowness, .. } = *self;
        let count = Arc::clone(&self.count);
        if let Answering::Failure = answering {
            count.fetch_add(1, Ordering::Relaxed);
            return Box::pin(stream::iter([Err(Error::no_answer())]));
        }
        // This runs in its own task, so that only a result wakes the receiver.
        let (results, mut receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut delay = Some(schedule.delay);
            let mut updates = Vec::new();
            while let Some(wait) = delay {
                sleep(wait).await;
                let asked_at = clock.now();
                sleep(match answering {
                    Answering::Slow(time) => time,
                    _ => Duration::from_millis(1),
                })
                .await;
                let tokens = count.fetch_add(1, Ordering::Relaxed) as u64;
                let age = match answering {
                    Answering::Age(age) => age,
                    Answering::Silence(answers) if tokens >= answers => pending().await,
                    _ => Duration::ZERO,
                };
                let mut reading = reading(0, asked_at.before(age), clock.now(), tokens);
                (reading.token, reading.consensus) = (TOKEN * slowness, CONSENSUS * slowness);
                reading.age = age;
                updates.push(RingUpdate::Read(reading));
                if updates.len() == together && results.send(Ok(mem::take(&mut updates))).is_err() {
                    return;
                }
                delay = schedule.interval;
            }
        });
        Box::pin(stream::poll_fn(move |cx| receiver.poll_recv(cx)))
    }

    fn cancel_connect(&self) -> bool {
        false
    }

    fn cancel(&self) -> bool {
        self.cancels.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    }
}

/// Answers immediately, and records when it was asked.
#[derive(Debug)]
struct Prompt {
    clock: Clock,
    asked_at: Mutex<Vec<Moment>>,
}

impl Probe for Prompt {
    fn ask(&self, _: Vec<NodeId>) -> PendingProbe {
        let asked_at = self.clock.now();
        self.asked_at.lock().push(asked_at);
        let answer = Answer { asked_at, quorate: true, votes: None, local: None };
        Box::pin(std::future::ready(Ok(answer)))
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    }
}

/// The events of a connection on which one notification is waiting.
struct Rig {
    events: LinkEvents,
    reads: Arc<AtomicUsize>,
    cancels: Arc<AtomicUsize>,
    probe: Arc<Prompt>,
    _peer: UnixStream,
}

impl Rig {
    fn new(answering: Answering, probe_interval: Duration) -> Self {
        Self::with_slowness(1, answering, probe_interval)
    }

    fn with_slowness(slowness: u32, answering: Answering, probe_interval: Duration) -> Self {
        Self::with_connection(true, slowness, answering, probe_interval)
    }

    /// `hangs_up` is whether the descriptor reports the daemon's death.
    fn with_connection(
        hangs_up: bool,
        slowness: u32,
        answering: Answering,
        probe_interval: Duration,
    ) -> Self {
        let clock = Clock::Tokio(Instant::now());
        let (reads, cancels) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let ring = Arc::new(Reads {
            clock,
            answering,
            slowness,
            count: Arc::clone(&reads),
            cancels: Arc::clone(&cancels),
        });
        let probe = Arc::new(Prompt { clock, asked_at: Mutex::default() });
        let (peer, socket) = UnixStream::pair().unwrap();
        let waiting = Some(Notification::quorum(true, RingId::default(), Vec::new()));
        let connection = Box::new(Silent { socket, waiting, hangs_up });
        let worker = BlockingWorker::default();
        let asked = Arc::clone(&probe) as Arc<dyn Probe>;
        let events = LinkEvents::new(connection, worker, asked, Some(ring), probe_interval, clock);
        Self { events: events.unwrap(), reads, cancels, probe, _peer: peer }
    }

    /// Takes all events for this long. Returns the longest time without an event.
    async fn run_for(&mut self, time: Duration) -> Duration {
        let (start, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
        while start.elapsed() < time {
            let left = time.saturating_sub(start.elapsed());
            let event = timeout(left, next(&mut self.events)).await;
            assert!(!matches!(event, Ok(None | Some(Err(_)))), "the stream ended: {event:?}");
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        longest
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }
}

#[test]
fn failed_reads_are_repeated_after_a_delay_and_delay_no_tick() {
    run(async {
        let mut rig = Rig::new(Answering::Failure, Duration::from_secs(900));
        let longest = rig.run_for(Duration::from_secs(60)).await;
        assert!(longest <= LONGEST_TICK, "no event for {longest:?}");
        assert!((200..=310).contains(&rig.reads()), "{} reads", rig.reads());
    });
}

#[test]
fn a_read_that_hangs_in_a_steady_ring_is_noticed_soon() {
    // With long timeouts, three reads are passed on together.
    for (slowness, soon) in [(1, 250), (3, 1450)] {
        for lease in [4, 5, 8, 3600].map(Duration::from_secs) {
            run(async {
                let mut rig = Rig::with_slowness(slowness, Answering::Silence(100), lease / 4);
                while rig.reads() < 100 {
                    next(&mut rig.events).await;
                }
                let answered_at = rig.probe.clock.now();
                rig.run_for(Duration::from_millis(soon)).await;
                let asked_at = *rig.probe.asked_at.lock().last().unwrap();
                let after = asked_at.since(answered_at);
                assert!(after > Duration::ZERO, "lease {lease:?}: no probe after the last read");
            });
        }
    }
}

/// Corosync 2 reports counters that are up to 1.5 s old.
#[test]
fn there_is_a_pause_between_reads_of_old_counters() {
    run(async {
        let age = Duration::from_millis(1500);
        let mut rig = Rig::new(Answering::Age(age), Duration::from_secs(1));
        rig.run_for(Duration::from_secs(1)).await;
        assert!((5..=25).contains(&rig.reads()), "{} reads", rig.reads());
    });
}

#[test]
fn probes_keep_their_interval_while_the_ring_is_read() {
    for interval in [25, 250, 1000, 1250, 2000, 10_000].map(Duration::from_millis) {
        run(async {
            let mut rig = Rig::new(Answering::Age(Duration::ZERO), interval);
            rig.run_for(interval * 20 + Duration::from_secs(10)).await;
            let asked_at = rig.probe.asked_at.lock();
            for two in asked_at[2..].windows(2) {
                let gap = two[1].since(two[0]);
                assert!(gap <= interval * 5 / 4 && gap >= interval / 2, "{interval:?}: {gap:?}");
            }
        });
    }
}

/// A wake-up costs more than the work that follows it.
#[test]
fn a_steady_ring_with_long_timeouts_wakes_the_actor_once_for_three_reads_and_a_probe() {
    run(async {
        let answering = Answering::Age(Duration::ZERO);
        let mut rig = Rig::with_slowness(3, answering, Duration::from_millis(1250));
        // After this time, the probes are sent when the reads are taken.
        rig.run_for(Duration::from_secs(30)).await;
        let (reads, probes) = (rig.reads(), rig.probe.asked_at.lock().len());
        let (mut wakes, mut longest) = (0, Duration::ZERO);
        let mut last = Instant::now();
        let start = last;
        while start.elapsed() < Duration::from_secs(60) {
            let event = next(&mut rig.events).await;
            assert!(
                !matches!(event, Some(Ok(LinkEvent::Tick))),
                "a tick woke the actor: {event:?}"
            );
            wakes += u32::from(last.elapsed() > Duration::from_millis(10));
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        let (reads, probes) = (rig.reads() - reads, rig.probe.asked_at.lock().len() - probes);
        assert!((140..=145).contains(&reads), "{reads} reads");
        assert!((46..=49).contains(&wakes), "{wakes} wake-ups");
        assert!((46..=49).contains(&probes), "{probes} probes");
        // The actor sets a timer for a deadline that is nearer than this.
        assert!(longest < 2 * LONGEST_TICK, "no event for {longest:?}");
    });
}

/// Three reads that are passed on together take three times as long as one, and must not be taken
/// for a read that hangs.
#[test]
fn slow_reads_are_not_cancelled() {
    for slowness in [1, 3] {
        run(async {
            let answering = Answering::Slow(Duration::from_millis(20));
            let mut rig = Rig::with_slowness(slowness, answering, Duration::from_millis(1250));
            rig.run_for(Duration::from_secs(60)).await;
            assert_eq!(rig.cancels.load(Ordering::Relaxed), 0, "slowness {slowness}");
        });
    }
}

/// Readings of old counters prove less, so the actor needs each one sooner.
#[test]
fn readings_of_old_counters_are_passed_on_one_at_a_time() {
    let now = Moment::default().after(Duration::from_secs(60));
    let mut reading = reading(0, now, now, 1);
    (reading.token, reading.consensus) = (TOKEN * 3, CONSENSUS * 3);
    assert_eq!(reading.reads_together(), 3);
    reading.age = Duration::from_millis(1500);
    assert_eq!(reading.reads_together(), 1);
}

/// A reading with fewer tokens shows that the counters were cleared, and is passed on immediately.
#[test]
fn a_reading_with_fewer_tokens_does_not_repeat_an_earlier_one() {
    let now = Moment::default();
    let earlier = reading(0, now, now, 7);
    let later = |tokens| reading(0, now.after(TOKEN), now.after(TOKEN), tokens);
    assert_eq!([6, 7, 8].map(|tokens| later(tokens).repeats(&earlier)), [false, true, true]);
}

/// If the descriptor does not report the death of the daemon, each tick must dispatch.
#[test]
fn a_steady_ring_postpones_no_tick_if_only_a_dispatch_reports_the_death_of_the_daemon() {
    run(async {
        let (answering, interval) = (Answering::Age(Duration::ZERO), Duration::from_millis(1250));
        let mut rig = Rig::with_connection(false, 3, answering, interval);
        let longest = rig.run_for(Duration::from_secs(30)).await;
        assert!(longest <= TICK, "no event for {longest:?}");
    });
}

#[test]
fn three_readings_of_a_steady_ring_with_long_timeouts_are_passed_on_together() {
    let reading = |ms, tokens, slowness| {
        let at = Moment::default().after(Duration::from_millis(ms));
        let mut reading = reading(0, at, at, tokens);
        (reading.token, reading.consensus) = (TOKEN * slowness, CONSENSUS * slowness);
        reading
    };
    let tokens = |updates: Option<Vec<RingUpdate>>| {
        let tokens = |update: &RingUpdate| match update {
            RingUpdate::Read(reading) => reading.tokens,
            RingUpdate::Unwatched => panic!("a reading was added"),
        };
        updates.map(|updates| updates.iter().map(tokens).collect::<Vec<_>>())
    };
    let (short, steady) = (reading(0, 0, 1), reading(0, 0, 3));
    let mut held = HeldReadings::default();
    assert_eq!(tokens(held.add(reading(100, 1, 3), None)), Some(vec![1]), "not yet steady");
    assert_eq!(tokens(held.add(reading(200, 2, 1), Some(&short))), Some(vec![2]));
    for first in [3, 6] {
        assert_eq!(tokens(held.add(reading(first * 420, first, 3), Some(&steady))), None);
        assert_eq!(tokens(held.add(reading(first * 420 + 420, first + 1, 3), Some(&steady))), None);
        let last = held.add(reading(first * 420 + 840, first + 2, 3), Some(&steady));
        assert_eq!(tokens(last), Some(vec![first, first + 1, first + 2]));
    }
    // A change is passed on immediately, together with the readings before it.
    assert_eq!(tokens(held.add(reading(4_000, 9, 3), Some(&steady))), None);
    let mut gather = reading(4_420, 10, 3);
    gather.counters.gather_entered += 1;
    assert_eq!(tokens(held.add(gather, Some(&steady))), Some(vec![9, 10]));
    // A reading with fewer tokens is passed on immediately, and so is the first reading that is
    // added without a steady one.
    assert_eq!(tokens(held.add(reading(5_000, 11, 3), Some(&steady))), None);
    assert_eq!(tokens(held.add(reading(5_420, 1, 3), Some(&steady))), Some(vec![11, 1]));
    assert_eq!(tokens(held.add(reading(6_000, 2, 3), Some(&steady))), None);
    assert_eq!(tokens(held.add(reading(6_050, 3, 3), None)), Some(vec![2, 3]));
}
