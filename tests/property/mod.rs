//! Whatever happens to a cluster, no reader sees quorum that does not exist, and every subscriber
//! receives what happened, in order. In random histories of the simulated cluster, two models check
//! two subjects. `model.rs` knows which nodes are truly quorate. The oracle in `src/state/oracle/`
//! runs with every actor of these tests, and knows what the actor may believe from its events.
//!
//! `cargo test` runs 1,000 histories and `make test-long` 10,000. To run more, or to repeat a run:
//!
//! ```sh
//! PROPTEST_CASES=1000000 PROPTEST_RNG_SEED=1 cargo test --release --lib property::
//! ```
//!
//! A failing history is shrunk, and printed with the seed. The tests use tokio's clock, paused.

mod exclusive;
mod history;
mod listeners;
mod model;
mod time;

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fmt, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, SystemTime},
};

use actix::{Arbiter, System};
use actix_quorum::{
    Backoff, Cause, Connection, Error, NodeId, Quorum, QuorumActor, QuorumHandle,
    sim::{self, Cluster},
};
use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, RngSeed, TestError, TestRunner},
};

use self::{
    history::{Flood, History, Pace, Step, Verb, histories},
    listeners::{Checked, First, Listeners},
    model::{Daemon, Model, Refused},
};

/// Longer than the effects of any verb take: a tick of 250 ms, a delay of at most 80 ms, and two
/// reads of the ring.
const SETTLE: Duration = Duration::from_millis(700);

/// Longer than a history takes.
const HOURS: Duration = Duration::from_secs(100 * 3600);

/// Longer than an actor waits for a silent daemon before it publishes `Error::Unresponsive`.
const WAIT: Duration = Duration::from_secs(3);

#[test]
fn no_reader_sees_quorum_that_the_cluster_does_not_have() {
    let (config, seed) = config();
    let cases = config.cases;
    let system = System::new();
    system.block_on(async { tokio::time::pause() });
    let seen = RefCell::new(Seen::default());
    let result = TestRunner::new(config).run(&histories(), |history| {
        let tally = system.block_on(play(&history))?;
        seen.borrow_mut().add(&tally);
        Ok(())
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, history)) => {
            let shortest = shortest(history, |shorter| {
                let play = AssertUnwindSafe(|| system.block_on(play(shorter)));
                !matches!(catch_unwind(play), Ok(Ok(_)))
            });
            panic!("PROPTEST_RNG_SEED={seed} PROPTEST_CASES={cases}: {why}\n{shortest:#?}");
        }
        Err(aborted) => panic!("{aborted}"),
    }
    let seen = seen.into_inner();
    println!("seed {seed}: {cases} histories, {seen:?}");
    assert!(cases < 10_000 || seen.everything(), "hardly anything happened: {seen:?}");
}

/// Returns the number of histories and the seed, from the environment or new.
fn config() -> (ProptestConfig, u64) {
    let mut config = ProptestConfig {
        failure_persistence: None,
        // This generator is fast without optimisation.
        rng_algorithm: RngAlgorithm::XorShift,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 1_000;
    }
    let seed = match config.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
            now.as_secs() ^ u64::from(now.subsec_nanos())
        }
    };
    config.rng_seed = RngSeed::Fixed(seed);
    (config, seed)
}

/// Plays a tenth of the configured number of histories with `play`, because a history in which
/// time passes takes ten times as long. Returns the number of histories and the counts of what
/// happened. Panics if a history fails.
fn play_all<S: Strategy, T: Default + fmt::Debug>(
    histories: &S,
    play: impl AsyncFn(&S::Value, &mut T) -> Checked,
) -> (u32, T) {
    let (mut config, seed) = config();
    let all = config.cases;
    config.cases /= 10;
    let cases = config.cases;
    let system = System::new();
    system.block_on(async { tokio::time::pause() });
    let tally = RefCell::new(T::default());
    let result = TestRunner::new(config)
        .run(histories, |history| system.block_on(play(&history, &mut tally.borrow_mut())));
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, history)) => {
            panic!("PROPTEST_RNG_SEED={seed} PROPTEST_CASES={all}: {why}\n{history:#?}")
        }
        Err(aborted) => panic!("{aborted}"),
    }
    let tally = tally.into_inner();
    println!("seed {seed}: {cases} histories, {tally:?}");
    (cases, tally)
}

/// Returns short delays for every kind of failure.
fn backoff() -> Backoff {
    let delays = || Duration::from_millis(10)..=Duration::from_millis(40);
    Backoff::default()
        .not_running(delays())
        .disconnected(delays())
        .transient(delays())
        .needs_operator(delays())
}

/// Removes steps without which the history still fails, up to two at a time. The effect of a verb
/// depends on earlier ones, so ordinary shrinking cannot remove a crash and keep the start after
/// it.
fn shortest(mut history: History, fails: impl Fn(&History) -> bool) -> History {
    'again: loop {
        let steps = history.steps.len();
        for (first, second) in (0..steps).flat_map(|a| (a..steps).map(move |b| (a, b))) {
            let mut shorter = history.clone();
            shorter.steps.remove(second);
            if first != second {
                shorter.steps.remove(first);
            }
            if fails(&shorter) {
                history = shorter;
                continue 'again;
            }
        }
        return history;
    }
}

/// Counts of what happened in all histories: they prove that the test is not vacuous.
#[derive(Debug, Default)]
struct Seen {
    verbs: u64,
    refused: u64,
    changes: u64,
    losses: u64,
    lost_connections: u64,
    rejoined: u64,
    missed: u64,
}

impl Seen {
    fn add(&mut self, other: &Self) {
        self.verbs += other.verbs;
        self.refused += other.refused;
        self.changes += other.changes;
        self.losses += other.losses;
        self.lost_connections += other.lost_connections;
        self.rejoined += other.rejoined;
        self.missed += other.missed;
    }

    fn everything(&self) -> bool {
        let Self { verbs, refused, changes, losses, lost_connections, rejoined, missed } = *self;
        [verbs, refused, changes, losses, lost_connections, rejoined, missed]
            .iter()
            .all(|n| *n > 99)
    }
}

async fn play(history: &History) -> Result<Seen, TestCaseError> {
    let mut run = Run::new(history);
    let result = run.run(history).await;
    // The remaining actors must not disturb the next history.
    for watched in &run.watched {
        watched.quorum.stop().await;
    }
    result.map(|()| run.seen)
}

/// A running history.
struct Run {
    cluster: Cluster,
    model: Model,
    watched: Vec<Watched>,
    seen: Seen,
}

/// An actor, and the properties that it must have.
struct Watched {
    node: u32,
    quorum: QuorumHandle,
    listeners: Listeners,
    /// Whether it must be connected: it was accepted, and has had enough time to connect.
    connected: bool,
    /// Whether its connection has received a decision about the membership.
    was_settled: bool,
    stopped: bool,
    /// The states that its node has reported since the last settling.
    reports: BTreeSet<Report>,
    /// Whether a new epoch must begin.
    broke: bool,
    /// The sequence of the last change before its connection ended.
    last_before_hang_up: Option<u64>,
    /// Whether its node has reported anything since the last settling.
    reported: bool,
    /// The nodes that must be reported as rejoined, if that is known.
    rejoined: Option<Vec<u32>>,
    /// Its epoch at the last settling.
    epoch: u64,
    changes: usize,
    /// Whether the history has waited for a silent daemon.
    waited: bool,
}

#[derive(Clone, Eq, Ord, PartialEq, PartialOrd)]
struct Report {
    members: Vec<u32>,
    quorate: bool,
    decided: bool,
}

impl Run {
    fn new(history: &History) -> Self {
        let cluster = history.cluster();
        let watched = history.actors.iter().map(|node| Watched::new(&cluster, *node)).collect();
        Self { cluster, model: Model::new(history), watched, seen: Seen::default() }
    }

    async fn run(&mut self, history: &History) -> Checked {
        self.note();
        self.settle().await?;
        let mut settled = true;
        for Step { verb, pace } in &history.steps {
            let at = |error: TestCaseError| match error {
                TestCaseError::Fail(why) => TestCaseError::fail(format!("at {verb:?}: {why}")),
                reject => reject,
            };
            if settled && *pace == Pace::Settle && !matches!(verb, Verb::Flood(_)) {
                self.expect_rejoined(verb);
            }
            self.act(verb).await.map_err(at)?;
            // If a node waits for all nodes, the result depends on the order in which starting
            // nodes meet it, which the model does not know.
            let waits_for_all = history.two_node || history.wait_for_all;
            let in_order = waits_for_all && self.model.is_any_alone();
            match if in_order { &Pace::Settle } else { pace } {
                // Waiting is checked before anything else happens.
                _ if matches!(verb, Verb::Wait | Verb::StopActor { .. }) => {
                    self.settle().await.map_err(at)?;
                    settled = true;
                }
                Pace::Turns(turns) if self.is_in_step() => {
                    for _ in 0..*turns {
                        tokio::task::yield_now().await;
                    }
                    settled = false;
                }
                Pace::Go => settled = false,
                _ => {
                    self.settle().await.map_err(at)?;
                    settled = true;
                }
            }
            self.watched.iter().try_for_each(Watched::check_now).map_err(at)?;
        }
        self.settle().await?;
        self.end().await
    }

    /// Applies the verb to the cluster and to the model.
    async fn act(&mut self, verb: &Verb) -> Checked {
        self.seen.verbs += 1;
        match verb {
            Verb::Flood(flood) => return self.flood(*flood),
            Verb::Subscribe { actor, weak } => {
                let watched = &mut self.watched[*actor];
                watched.listeners.subscribe(&watched.quorum, *weak);
            }
            Verb::Unsubscribe { actor } => {
                let watched = &mut self.watched[*actor];
                watched.listeners.unsubscribe(&watched.quorum)?;
            }
            Verb::EndSubscriber { actor } => self.watched[*actor].listeners.end_subscriber(),
            Verb::LetRead { actor, messages } => {
                self.watched[*actor].listeners.let_read(*messages);
            }
            Verb::StopActor { actor } => self.stop(*actor).await?,
            Verb::Wait => {
                tokio::time::sleep(WAIT).await;
                let waits = |watched: &mut Watched| watched.waited = true;
                self.watched.iter_mut().for_each(waits);
            }
            _ => return self.change(verb),
        }
        Ok(())
    }

    fn change(&mut self, verb: &Verb) -> Checked {
        let expected = self.model.apply(verb);
        let before = expected.is_err().then(|| format!("{:?}", self.cluster));
        let result = change(&self.cluster, verb);
        match (&expected, &result) {
            (Ok(()), Ok(())) => {}
            (Err(refused), Err(error)) => {
                prop_assert!(is_for(error, refused), "{refused:?} was refused with: {error}");
                prop_assert_eq!(
                    before,
                    Some(format!("{:?}", self.cluster)),
                    "the refused verb has changed the cluster"
                );
                self.seen.refused += 1;
            }
            _ => prop_assert!(false, "expected {expected:?}, got {result:?}"),
        }
        self.note();
        Ok(())
    }

    /// Records what the nodes report now, and what was lost.
    fn note(&mut self) {
        for watched in &mut self.watched {
            let node = self.model.node(watched.node);
            watched.reports.insert(Report {
                members: node.members.clone(),
                quorate: node.quorate,
                decided: node.decided,
            });
            watched.reported |= node.reported;
            let broke = watched.was_settled && node.broke;
            watched.broke |= watched.connected && (broke || node.hung_up);
            if watched.connected && node.hung_up {
                watched.last_before_hang_up = Some(watched.quorum.snapshot().sequence);
                watched.connected = false;
            }
        }
        self.model.reset_reports();
    }

    fn flood(&mut self, flood: Flood) -> Checked {
        let all: Vec<u32> = self.model.nodes.iter().map(|node| node.id).collect();
        let (rounds, verbs) = match flood {
            Flood::Partitions(one) => {
                let others = all.into_iter().filter(|id| *id != one).collect();
                (300, vec![Verb::Partition(vec![vec![one], others]), Verb::Heal])
            }
            Flood::Restarts(one) => (600, vec![Verb::Restart(one)]),
        };
        for _ in 0..rounds {
            for verb in &verbs {
                let expected = self.model.apply(verb).is_ok();
                prop_assert_eq!(change(&self.cluster, verb).is_ok(), expected);
                self.note();
            }
        }
        Ok(())
    }

    /// Records which nodes each actor must report as rejoined after this verb: a restarted node,
    /// and the nodes that a paused node meets again.
    fn expect_rejoined(&mut self, verb: &Verb) {
        let model = &self.model;
        for watched in self.watched.iter_mut().filter(|watched| watched.connected) {
            let node = model.node(watched.node);
            let others = node.members.iter().copied().filter(|other| *other != node.id);
            let rejoined = match (verb, node.daemon) {
                (Verb::Restart(id), Daemon::Running) => {
                    // Nodes that synchronise notice that a restarted node with actors has left,
                    // because it stays alone for a while.
                    let noticed = |other: &u32| {
                        let other = model.node(*other);
                        !other.decided && other.actors > 0
                    };
                    others.filter(|other| other == id && !noticed(other)).collect()
                }
                (Verb::Resume(id), Daemon::Paused) if *id == node.id => others.collect(),
                _ => Vec::new(),
            };
            watched.rejoined = Some(rejoined);
        }
    }

    /// Whether the model knows all connections. An actor that is about to connect, or to see its
    /// node alone and then find the others, does so at its own time, which affects what follows.
    fn is_in_step(&self) -> bool {
        let is_in_step = |watched: &Watched| {
            watched.stopped || watched.connected || !watched.is_accepted(&self.model)
        };
        !self.model.is_any_alone() && self.watched.iter().all(is_in_step)
    }

    /// Lets all effects of the verbs happen, and checks them.
    async fn settle(&mut self) -> Checked {
        tokio::time::sleep(SETTLE).await;
        let found = self.model.settle();
        self.note();
        for watched in &mut self.watched {
            watched.check_settled(&self.model, found <= 1)?;
        }
        Ok(())
    }

    async fn stop(&mut self, actor: usize) -> Checked {
        let watched = &mut self.watched[actor];
        let stop = watched.quorum.stop();
        prop_assert!(!watched.quorum.is_quorate(), "quorate after the actor has stopped");
        stop.await;
        if !mem::replace(&mut watched.stopped, true) {
            watched.broke |= watched.connected;
            watched.connected = false;
            let node = &mut self.model.nodes[watched.node as usize - 1];
            node.actors -= 1;
            // A node that has waited for this actor finds the other nodes now.
            tokio::time::sleep(SETTLE).await;
        }
        Ok(())
    }

    /// Stops all actors, and lets the slow subscribers read.
    async fn end(&mut self) -> Checked {
        for actor in 0..self.watched.len() {
            self.watched[actor].listeners.let_read(10_000);
            self.settle().await?;
            let watched = &mut self.watched[actor];
            watched.listeners.check_ended(&watched.quorum.snapshot())?;
            self.stop(actor).await?;
            self.watched[actor].listeners.let_read(10_000);
            self.settle().await?;
        }
        // No subscriber receives the effects of these verbs, because every actor has stopped.
        let verbs = (1..).zip(&self.model.nodes).map(|(id, node)| match node.daemon {
            Daemon::Down => Verb::Start(id),
            Daemon::Running | Daemon::Paused => Verb::Crash(id),
        });
        for verb in verbs.collect::<Vec<_>>() {
            self.change(&verb)?;
        }
        self.settle().await?;
        for watched in &mut self.watched {
            watched.listeners.check_ended(&watched.quorum.snapshot())?;
            watched.listeners.check_streams_ended()?;
            prop_assert_eq!(watched.quorum.subscriber_count(), 0);
            self.seen.missed += watched.listeners.missed();
            for change in watched.listeners.all.since(0) {
                self.seen.changes += 1;
                self.seen.losses += u64::from(change.is_loss());
                self.seen.rejoined += u64::from(change.rejoined().next().is_some());
                let lost = matches!(change.current.connection, Connection::Disconnected { .. });
                self.seen.lost_connections += u64::from(lost);
            }
        }
        Ok(())
    }
}

impl Watched {
    fn new(cluster: &Cluster, node: u32) -> Self {
        let first = First::new();
        // The model has no notion of time: other tests cover the deadlines.
        let mut builder = QuorumActor::builder()
            .source(cluster.node(node))
            .backoff(backoff().reset_after(Duration::from_secs(1)))
            .lease(HOURS)
            .probe_interval(Duration::from_secs(1))
            .settle_grace(HOURS);
        for recipient in first.recipients.clone() {
            builder = builder.subscribe(recipient);
        }
        let quorum = builder.start_in_arbiter(&Arbiter::current());
        let listeners = first.started(&quorum);
        Self {
            node,
            quorum,
            listeners,
            connected: false,
            was_settled: false,
            stopped: false,
            reports: BTreeSet::new(),
            broke: false,
            last_before_hang_up: None,
            reported: false,
            rejoined: None,
            epoch: 0,
            changes: 0,
            waited: false,
        }
    }

    fn is_accepted(&self, model: &Model) -> bool {
        let running = model.node(self.node).daemon == Daemon::Running;
        running && !self.stopped && model.refusal(self.node).is_none()
    }

    /// Checks what must hold at any time.
    fn check_now(&self) -> Checked {
        let quorate = self.quorum.is_quorate();
        prop_assert_eq!(quorate, self.quorum.snapshot().quorum.is_quorate());
        prop_assert!(
            !quorate || self.reports.iter().any(|report| report.quorate),
            "quorate, but its node has not reported quorum: {}",
            self
        );
        Ok(())
    }

    /// Checks what must hold once all effects have happened. With `in_order`, the model knows
    /// everything that was reported in between.
    fn check_settled(&mut self, model: &Model, in_order: bool) -> Checked {
        let (node, refusal) = (model.node(self.node), model.refusal(self.node));
        let now = self.quorum.snapshot();
        self.listeners.check_settled(&now)?;
        let accepted = self.is_accepted(model);
        let connects = !self.connected && accepted;
        self.connected |= accepted;
        self.was_settled &= self.connected && !connects;
        self.was_settled |= self.connected && node.decided;
        self.check_now()?;

        if self.stopped {
            prop_assert_eq!(&now.connection, &Connection::Stopped);
        } else if !self.connected {
            prop_assert_eq!(now.quorum, Quorum::Unknown, "{}", self);
            self.check_refusal(&now.connection, node.daemon, refusal)?;
        } else {
            prop_assert_eq!(&now.connection, &Connection::Connected, "{}", self);
            let members: Vec<NodeId> = node.members.iter().copied().map(NodeId).collect();
            prop_assert_eq!(&now.members, &members, "{}", self);
            // If the daemon is silent, or had not decided, quorum may be unknown.
            let reports = node.daemon == Daemon::Running && self.was_settled;
            if reports || now.quorum != Quorum::Unknown {
                let quorum = if node.quorate { Quorum::Quorate } else { Quorum::Inquorate };
                prop_assert_eq!(now.quorum, quorum, "{}", self);
                prop_assert_eq!(now.settled, node.decided, "{}", self);
            }
        }
        if !self.stopped {
            prop_assert_eq!(self.quorum.subscriber_count(), self.listeners.subscribed());
        }
        if in_order {
            self.check_reports()?;
        }
        self.check_rings()?;
        self.check_end_of_connection()?;
        self.check_rejoined(model)?;

        let began = now.epoch > self.epoch;
        prop_assert!(began || !self.broke, "quorum was lost, but the epoch is the same: {self}");
        if self.connected && !connects && !self.reported && !self.broke {
            // The model does not know the votes.
            let mut changes = self.listeners.all.since(self.changes).into_iter();
            let silent = changes.all(|change| change.cause == Cause::Votes);
            prop_assert!(silent, "a change was published, but nothing was reported: {self}");
        }

        self.reports.clear();
        self.reports.insert(Report {
            members: node.members.clone(),
            quorate: node.quorate,
            decided: node.decided,
        });
        (self.broke, self.reported, self.waited) = (false, false, false);
        self.epoch = now.epoch;
        self.changes = self.listeners.all.len();
        Ok(())
    }

    /// Checks that the reason for a missing connection is published.
    fn check_refusal(
        &self,
        connection: &Connection,
        daemon: Daemon,
        refusal: Option<Error>,
    ) -> Checked {
        let Connection::Connecting { error, .. } = connection else {
            // The connection was lost, and the new attempt is not answered.
            prop_assert!(daemon == Daemon::Paused && !self.waited, "{}", self);
            return Ok(());
        };
        match daemon {
            Daemon::Down | Daemon::Running => prop_assert_eq!(error, &refusal, "{}", self),
            Daemon::Paused if self.waited => {
                prop_assert_eq!(error, &Some(Error::Unresponsive), "{}", self);
            }
            Daemon::Paused => {}
        }
        Ok(())
    }

    /// Checks that the published quorum was reported by the daemon at some time since the last
    /// settling.
    fn check_reports(&self) -> Checked {
        for change in self.listeners.all.since(self.changes) {
            let current = &change.current;
            let quorate = match current.quorum {
                Quorum::Unknown => continue,
                Quorum::Quorate => true,
                Quorum::Inquorate => false,
            };
            let members: Vec<u32> = current.members.iter().map(|id| id.0).collect();
            let matches = |report: &Report| {
                let same = report.members == members && report.decided;
                report.quorate == quorate && (same || !current.settled)
            };
            prop_assert!(self.reports.iter().any(matches), "no daemon reported {change}: {self}");
        }
        Ok(())
    }

    /// Checks that ring ids never decrease in a connection.
    fn check_rings(&self) -> Checked {
        for change in self.listeners.all.since(self.changes) {
            if let (Some(before), Some(after)) = (change.previous.ring_id, change.current.ring_id) {
                prop_assert!(after == before || after.seq > before.seq, "{change}");
            }
        }
        Ok(())
    }

    /// Checks that notifications that wait in a connection when it ends are not published.
    fn check_end_of_connection(&mut self) -> Checked {
        let Some(last) = self.last_before_hang_up.take() else { return Ok(()) };
        let changes = self.listeners.all.since(self.changes);
        let next = changes.iter().find(|change| change.current.sequence > last);
        let cause = next.map(|next| next.cause);
        prop_assert!(
            matches!(cause, Some(Cause::Disconnected | Cause::Stopped)),
            "published after the end of the connection: {self}"
        );
        Ok(())
    }

    fn check_rejoined(&mut self, model: &Model) -> Checked {
        let Some(mut expected) = self.rejoined.take() else { return Ok(()) };
        expected.retain(|id| model.node(self.node).members.contains(id));
        let mut rejoined = BTreeSet::new();
        for change in self.listeners.all.since(self.changes) {
            rejoined.extend(change.rejoined().map(|node| node.0));
        }
        prop_assert!(
            rejoined.iter().eq(&expected),
            "must be reported as rejoined: {:?}: {}",
            expected,
            self
        );
        Ok(())
    }
}

/// Formats the changes since the last settling.
impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "actor on node {}, received since it settled:", self.node)?;
        for change in self.listeners.all.since(self.changes) {
            write!(f, "\n  {}. {change}; epoch {}", change.current.sequence, change.current.epoch)?;
        }
        Ok(())
    }
}

fn change(cluster: &Cluster, verb: &Verb) -> Result<(), sim::Error> {
    match verb {
        Verb::Partition(groups) => {
            cluster.partition(&groups.iter().map(Vec::as_slice).collect::<Vec<_>>())
        }
        Verb::Heal => {
            cluster.heal();
            Ok(())
        }
        Verb::Crash(id) => cluster.crash(*id),
        Verb::Stop(id) => cluster.stop(*id),
        Verb::Start(id) => cluster.start(*id),
        Verb::Restart(id) => cluster.restart(*id),
        Verb::Pause(id) => cluster.pause(*id),
        Verb::Resume(id) => cluster.resume(*id),
        Verb::ExpectedVotes(votes) => cluster.expected_votes(*votes),
        Verb::HoldSync => {
            cluster.hold_sync();
            Ok(())
        }
        Verb::ReleaseSync => {
            cluster.release_sync();
            Ok(())
        }
        Verb::Fault(id, fault) => cluster.fault(*id, *fault),
        Verb::Mend(id) => cluster.mend(*id),
        _ => unreachable!("{verb:?} applies to an actor"),
    }
}

/// Whether this error is the expected refusal.
fn is_for(error: &sim::Error, refused: &Refused) -> bool {
    match (error, refused) {
        (sim::Error::NoNode { node, .. }, Refused::NoNode(id))
        | (sim::Error::Overlap(node), Refused::Overlap(id))
        | (sim::Error::LeftOut(node), Refused::LeftOut(id)) => node.0 == *id,
        (sim::Error::State { node, state, help, .. }, Refused::State(id, daemon)) => {
            let is = format!("{daemon:?}").to_lowercase();
            node.0 == *id && *state == is && !help.is_empty()
        }
        (sim::Error::ExpectedVotes(0), Refused::NoVotes) => true,
        _ => false,
    }
}
