//! The histories of `history.rs`, except that time passes in them, and that `lease`, `settle_grace`
//! and `stable_after` are random.
//!
//! The oracle checks the rules of these settings. Here readers are compared with the cluster: how
//! long a node stays quorate after its daemon fell silent or lost quorum without an event, and how
//! soon a node becomes quorate.

use std::time::Duration;

use actix::Arbiter;
use actix_quorum::{QuorumActor, QuorumGuard, QuorumHandle, sim::Cluster};
use proptest::{collection::vec, prelude::*};
use tokio::time::{Instant, sleep};

use super::{
    SETTLE, backoff, change,
    history::{History, Verb, histories},
    listeners::Checked,
    model::{Daemon, Model},
    play_all,
};

/// How long an actor may take to notice what its daemon reports, or that its daemon ended: a tick,
/// and up to one more second until a daemon that was away for over a minute is found again and
/// joins the others.
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
fn no_reader_sees_quorum_after_a_deadline() {
    let histories = (histories(), vec(ms(0..12_000), 40), settings());
    let (cases, tally) = play_all(&histories, play);
    let Tally { quorate, silent, denied, guards, expected } = tally;
    let seen = [quorate, silent, denied, guards, expected];
    let enough = seen.iter().all(|n| *n > u64::from(cases) / 10);
    assert!(cases < 100 || enough, "hardly anything happened");
}

/// Counts of what happened in all histories: they prove that the test is not vacuous.
#[derive(Debug, Default)]
struct Tally {
    quorate: u64,
    /// How often a daemon was silent for longer than the lease.
    silent: u64,
    /// How often a daemon had been gone or had reported no quorum for longer than [`NOTICED`].
    denied: u64,
    /// The number of guards that became invalid.
    guards: u64,
    /// How often quorum had to be published.
    expected: u64,
}

async fn play(
    (history, pauses, settings): &(History, Vec<Duration>, Settings),
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
    if !verb.is_of_actor() {
        prop_assert_eq!(model.apply(verb).is_ok(), change(cluster, verb).is_ok());
    }
    note(model, watched, now);
    look(watched, now + SETTLE, false, tally).await?;
    // The effects of the verb may have happened at any time since.
    model.settle();
    note(model, watched, now);
    look(watched, Instant::now() + pause, true, tally).await
}

fn note(model: &mut Model, watched: &mut [Watched], now: Instant) {
    for watched in watched {
        watched.note(model, now);
    }
    model.reset_reports();
}

/// Checks every actor until the moment `until`. `settled` is whether the model knows what the
/// actors have received.
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
    /// Since when all conditions for quorum have been met.
    sound: Option<Instant>,
    /// The guards, and whether each was found to be invalid.
    guards: Vec<(QuorumGuard, bool)>,
}

impl Watched {
    fn new(cluster: &Cluster, node: u32, settings: &Settings) -> Self {
        let quorum = QuorumActor::builder()
            .source(cluster.node(node))
            .backoff(backoff())
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
            sound: None,
            guards: Vec::new(),
        }
    }

    /// Records which facts hold for its node from `now` on, according to the model.
    fn note(&mut self, model: &Model, now: Instant) {
        let node = model.node(self.node);
        let since = |before: Option<Instant>, holds: bool| before.or(Some(now)).filter(|_| holds);
        let down = node.daemon == Daemon::Down;
        self.silent = since(self.silent, node.daemon == Daemon::Paused);
        self.denied = since(self.denied, down || !node.quorate);
        // Any notification may be an interruption: with a very short `settle_grace` each new
        // membership is one, and the model does not know whether a restart was noticed.
        if node.reported || node.hung_up {
            self.sound = None;
        }
        let accepted = node.daemon == Daemon::Running && model.refusal(self.node).is_none();
        self.sound = since(self.sound, accepted && node.decided && self.denied.is_none());
    }

    fn check(&mut self, settled: bool, tally: &mut Tally) -> Checked {
        let Settings { lease, stable_after, .. } = self.settings;
        let longer =
            |since: Option<Instant>, than| since.is_some_and(|since| since.elapsed() >= than);
        let quorate = self.quorum.is_quorate();
        if longer(self.silent, lease) {
            tally.silent += 1;
            prop_assert!(!quorate, "the daemon is silent: {}", self.description());
        }
        if settled && longer(self.denied, NOTICED) {
            tally.denied += 1;
            prop_assert!(!quorate, "corosync reports no quorum: {}", self.description());
        }
        if settled && longer(self.sound, stable_after + lease / 4 + CONNECTED) {
            tally.expected += 1;
            prop_assert!(quorate, "corosync reports quorum: {}", self.description());
        }
        tally.quorate += u64::from(quorate);
        for (guard, was_invalid) in &mut self.guards {
            let valid = guard.is_valid();
            prop_assert!(!valid || quorate);
            prop_assert!(!(valid && *was_invalid), "an invalid guard is valid again");
            tally.guards += u64::from(!valid && !*was_invalid);
            *was_invalid = !valid;
        }
        if self.guards.len() < 8 && self.guards.iter().all(|(_, was_invalid)| *was_invalid) {
            let guard = self.quorum.guard();
            prop_assert_eq!(guard.is_some(), quorate);
            self.guards.extend(guard.map(|guard| (guard, false)));
        }
        Ok(())
    }

    fn description(&self) -> String {
        format!("node {} with {:?} reads {}", self.node, self.settings, self.quorum.snapshot())
    }
}
