//! The same histories with the effects of time: the lease, the grace for a late decision, the time
//! that quorum must have lasted. When a node may be called quorate is written here from the
//! guarantees.

use std::time::Duration;

use actix::{Arbiter, System};
use actix_quorum::{Backoff, QuorumActor, QuorumGuard, QuorumHandle, sim::Cluster};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{TestError, TestRunner},
};
use tokio::time::{Instant, sleep};

use super::{
    SETTLE, change, config,
    history::{History, Verb, histories},
    listeners::Checked,
    model::{Daemon, Model},
};

/// How long an actor may take to notice a report of its daemon or its end: a tick, and up to one
/// more second until a daemon that was away for over a minute is found again and joins the others.
const NOTICED: Duration = Duration::from_millis(1300);

/// How often every actor is checked.
const LOOK: Duration = Duration::from_millis(100);

/// Longer than it takes to connect and to receive the state without a fault.
const CONNECTED: Duration = Duration::from_millis(2500);

#[derive(Clone, Debug)]
struct Settings {
    lease: Duration,
    settle_grace: Duration,
    stable_after: Duration,
}

fn ms(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

fn settings() -> impl Strategy<Value = Settings> {
    let stable_after = prop_oneof![Just(Duration::ZERO), ms(0..4_000)];
    let settle_grace = prop_oneof![1 => Just(Duration::ZERO), 4 => ms(1..3_000)];
    (ms(800..8_000), settle_grace, stable_after).prop_map(|(lease, settle_grace, stable_after)| {
        Settings { lease, settle_grace, stable_after }
    })
}

#[test]
fn no_reader_sees_quorum_after_its_deadlines() {
    let (mut config, seed) = config();
    let all = config.cases;
    // Each history takes ten times as long as one without time.
    config.cases /= 10;
    let cases = config.cases;
    let system = System::new();
    system.block_on(async { tokio::time::pause() });
    let tally = std::cell::RefCell::new(Tally::default());
    let pauses = vec(ms(0..12_000), 40);
    let histories = (histories(), pauses, settings());
    let result = TestRunner::new(config).run(&histories, |(history, pauses, settings)| {
        let mut tally = tally.borrow_mut();
        system.block_on(play(&history, &pauses, &settings, &mut tally))
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, history)) => {
            panic!("PROPTEST_RNG_SEED={seed} PROPTEST_CASES={all}: {why}\n{history:#?}")
        }
        Err(aborted) => panic!("{aborted}"),
    }
    let tally = tally.into_inner();
    println!("seed {seed}: {cases} histories, {tally:?}");
    let Tally { quorate, unheard, overdue, guards, expected } = tally;
    let seen = [quorate, unheard, overdue, guards, expected];
    let enough = seen.iter().all(|n| *n > u64::from(cases) / 10);
    assert!(cases < 100 || enough, "hardly anything happened");
}

/// Counts of what happened in all histories, to prove that it did.
#[derive(Debug, Default)]
struct Tally {
    quorate: u64,
    /// How often a daemon was silent for longer than the lease.
    unheard: u64,
    /// How often a decision was later than the grace.
    overdue: u64,
    /// The number of guards that had to be invalid.
    guards: u64,
    /// How often quorum had to be published.
    expected: u64,
}

async fn play(
    history: &History,
    pauses: &[Duration],
    settings: &Settings,
    tally: &mut Tally,
) -> Checked {
    let cluster = history.cluster();
    let mut model = Model::new(history);
    let mut watched: Vec<_> =
        history.actors.iter().map(|node| Watched::new(&cluster, *node, settings)).collect();
    let mut checked = Ok(());
    for (step, pause) in history.steps.iter().zip(pauses) {
        checked = act(&cluster, &mut model, &mut watched, &step.verb, *pause, tally)
            .await
            .map_err(|error| TestCaseError::fail(format!("at {:?}: {error}", step.verb)));
        if checked.is_err() {
            break;
        }
    }
    // The remaining actors must not disturb the next history.
    for watched in watched {
        watched.quorum.stop().await;
    }
    checked
}

async fn act(
    cluster: &Cluster,
    model: &mut Model,
    watched: &mut [Watched],
    verb: &Verb,
    pause: Duration,
    tally: &mut Tally,
) -> Checked {
    let now = Instant::now();
    for watched in &mut *watched {
        (watched.quorate_before, watched.gained_early) = (watched.quorate, false);
    }
    if !verb.is_of_actor() {
        prop_assert_eq!(model.apply(verb).is_ok(), change(cluster, verb).is_ok());
    }
    note(model, watched, now);
    look(watched, now + SETTLE, false, tally).await?;
    // Its effects may have happened at any time since.
    model.settle();
    note(model, watched, now);
    look(watched, Instant::now() + pause, true, tally).await
}

fn note(model: &mut Model, watched: &mut [Watched], now: Instant) {
    for watched in watched {
        watched.note(model, now);
    }
    model.take_back();
}

/// Checks every actor until then. `settled` is whether the model knows what they received.
async fn look(
    watched: &mut [Watched],
    until: Instant,
    settled: bool,
    tally: &mut Tally,
) -> Checked {
    loop {
        for watched in &mut *watched {
            watched.check(settled, tally)?;
        }
        if Instant::now() >= until {
            return Ok(());
        }
        sleep(LOOK).await;
    }
}

/// An actor, and since when each fact about its node has held.
struct Watched {
    node: u32,
    quorum: QuorumHandle,
    settings: Settings,
    /// Since when the daemon has been gone or has reported no quorum.
    denied: Option<Instant>,
    silent: Option<Instant>,
    undecided: Option<Instant>,
    /// Since when the daemon has reported quorum without a break.
    quorate: Option<Instant>,
    /// The same before the current step, and whether there was a gain before that was known: it may
    /// have come before anything happened.
    quorate_before: Option<Instant>,
    gained_early: bool,
    /// Since when all conditions for quorum have been met.
    sound: Option<Instant>,
    was_quorate: bool,
    guards: Vec<Guard>,
}

struct Guard {
    guard: QuorumGuard,
    taken: Instant,
    /// When the period that the guard proves was over.
    over: Option<Instant>,
    was_invalid: bool,
}

impl Watched {
    fn new(cluster: &Cluster, node: u32, settings: &Settings) -> Self {
        let delays = || Duration::from_millis(10)..=Duration::from_millis(40);
        let backoff = Backoff::default()
            .not_running(delays())
            .disconnected(delays())
            .transient(delays())
            .needs_operator(delays());
        let quorum = QuorumActor::builder()
            .source(cluster.node(node))
            .backoff(backoff)
            .lease(settings.lease)
            .settle_grace(settings.settle_grace)
            .stable_after(settings.stable_after)
            .start_in_arbiter(&Arbiter::current());
        Self {
            node,
            quorum,
            settings: settings.clone(),
            denied: None,
            silent: None,
            undecided: None,
            quorate: None,
            quorate_before: None,
            gained_early: false,
            sound: None,
            was_quorate: false,
            guards: Vec::new(),
        }
    }

    /// Records what the model reports about its node since then.
    fn note(&mut self, model: &Model, now: Instant) {
        let node = model.node(self.node);
        let since = |before: Option<Instant>, holds: bool| before.or(Some(now)).filter(|_| holds);
        let down = node.daemon == Daemon::Down;
        self.silent = since(self.silent, node.daemon == Daemon::Paused);
        self.denied = since(self.denied, down || !node.quorate);
        self.undecided = since(self.undecided, !down && !node.decided);
        if node.broke || node.hung_up {
            self.over(now);
        }
        // Any notification may be an interruption: with hardly any grace each membership is, and it
        // is not known whether a restart was noticed.
        if node.told {
            self.sound = None;
        }
        self.quorate = since(self.quorate, self.denied.is_none());
        let accepted = node.daemon == Daemon::Running && model.refusal(self.node).is_none();
        self.sound = since(self.sound, accepted && node.decided && self.denied.is_none());
    }

    /// Records that the quorum before this moment can no longer be proved.
    fn over(&mut self, when: Instant) {
        (self.quorate, self.sound) = (None, None);
        // A guard taken since may have been taken after it.
        self.guards.retain(|guard| guard.taken <= when);
        for guard in &mut self.guards {
            guard.over.get_or_insert(when);
        }
    }

    fn check(&mut self, settled: bool, tally: &mut Tally) -> Checked {
        let Settings { lease, settle_grace, stable_after } = self.settings;
        let longer =
            |since: Option<Instant>, than| since.is_some_and(|since| since.elapsed() >= than);
        if let Some(silent) = self.silent.filter(|_| longer(self.silent, lease)) {
            tally.unheard += 1;
            prop_assert!(
                !self.quorum.is_quorate(),
                "believed for {:?}: {}",
                silent.elapsed(),
                self.told()
            );
            self.over(silent + lease);
            self.quorate = Some(silent + lease);
        }
        let quorate = self.quorum.is_quorate();
        if settled && longer(self.denied, NOTICED) {
            prop_assert!(!quorate, "corosync says no: {}", self.told());
        }
        if settled && longer(self.undecided, settle_grace + NOTICED) {
            tally.overdue += 1;
            prop_assert!(!quorate, "undecided: {}", self.told());
        }
        self.gained_early |= quorate && !settled && !self.was_quorate;
        if quorate && !self.was_quorate && settled {
            let before = self.quorate_before.filter(|_| self.gained_early);
            let lasted = [self.quorate, before].into_iter().flatten().min();
            let lasted = lasted.map(|since| since.elapsed());
            prop_assert!(lasted >= Some(stable_after), "after {lasted:?}: {}", self.told());
        }
        if settled && longer(self.sound, stable_after + lease / 4 + CONNECTED) {
            tally.expected += 1;
            prop_assert!(quorate, "corosync says yes: {}", self.told());
        }
        tally.quorate += u64::from(quorate);
        // A gain that came before the model knew of it is checked when it does.
        self.was_quorate = quorate && (settled || self.was_quorate);
        for guard in &mut self.guards {
            let valid = guard.guard.is_valid();
            prop_assert!(!valid || quorate);
            prop_assert!(!(valid && guard.was_invalid), "it came back");
            if settled && longer(guard.over, NOTICED) {
                tally.guards += 1;
                prop_assert!(!valid, "quorum was not held without a break since");
            }
            guard.was_invalid = !valid;
        }
        if self.guards.len() < 8 && self.guards.iter().all(|guard| guard.was_invalid) {
            let guard = self.quorum.guard();
            prop_assert_eq!(guard.is_some(), quorate);
            let taken = Instant::now();
            let guard = guard.map(|guard| Guard { guard, taken, over: None, was_invalid: false });
            self.guards.extend(guard);
        }
        Ok(())
    }

    fn told(&self) -> String {
        format!("node {} with {:?} is told {}", self.node, self.settings, self.quorum.snapshot())
    }
}
