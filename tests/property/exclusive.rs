//! Histories in which rings take time, packets are lost in one direction, daemons are paused
//! together, and votes are uneven or belong to a quorum device. They check which nodes may be
//! exclusive, and the fencing tokens.
//!
//! The tests know which partitions are truly quorate. They count the votes themselves: no actor is
//! asked for the votes, the majority or the deadlines of the ring. What an actor may conclude from
//! its own events is checked by the oracle in `src/state/oracle/`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use actix::Arbiter;
use actix_quorum::{
    FencingToken, NodeId, QuorumActor, QuorumGuard, QuorumHandle, RingId, RingState, Snapshot,
    sim::Cluster,
};
use proptest::{collection::vec, prelude::*};
use tokio::time::{Instant, sleep};

use super::{backoff, listeners::Checked, play_all};

const TOKEN: Duration = Duration::from_millis(1_000);
const CONSENSUS: Duration = Duration::from_millis(1_200);
const GRACE: Duration = Duration::from_millis(500);

/// The interval between two checks of every node.
const LOOK: Duration = Duration::from_millis(45);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Extra {
    None,
    /// A quorum device with this many votes.
    Device(u32),
    TieBreaker,
    LastManStanding,
}

#[derive(Clone, Debug)]
struct History {
    /// The votes of each node.
    votes: Vec<u32>,
    extra: Extra,
    /// By how much all times are multiplied. With long timeouts, an actor receives several reads of
    /// the ring together.
    slowness: u32,
    steps: Vec<(Verb, Duration)>,
}

/// Node numbers start at 0 here, and are taken modulo the number of nodes.
#[derive(Clone, Debug)]
enum Verb {
    Partition(Vec<bool>),
    LoseSends(u32),
    LoseReceives(u32),
    LoseSendsTo(u32, u32),
    LoseLink(u32, u32),
    Heal,
    Pause(Vec<bool>),
    Resume,
    Crash(u32),
    Stop(u32),
    Start,
    HoldRings,
    ReleaseRings,
    CutDevice(Vec<bool>),
    StopDevice,
    StartDevice,
}

fn histories() -> impl Strategy<Value = History> {
    let extra = prop_oneof![
        4 => Just(Extra::None),
        2 => Just(Extra::Device(1)),
        2 => Just(Extra::Device(u32::MAX)),
        1 => Just(Extra::TieBreaker),
        1 => Just(Extra::LastManStanding),
    ];
    let votes = prop_oneof![
        3 => (2..=5_usize).prop_map(|size| vec![1; size]),
        2 => vec(1..=3_u32, 2..=5),
    ];
    let pause = prop_oneof![Just(0..400_u64), Just(400..2_600), Just(2_600..9_000)]
        .prop_flat_map(|range| range)
        .prop_map(Duration::from_millis);
    let slowness = prop_oneof![2 => Just(1), 1 => Just(3)];
    let steps = vec((verbs(), pause), 1..14);
    (votes, extra, slowness, steps).prop_map(|(mut votes, extra, slowness, steps)| {
        let extra = match extra {
            // One vote less than the number of nodes, as with the algorithm `lms`.
            Extra::Device(u32::MAX) => Extra::Device(votes.iter().sum::<u32>() - 1),
            // Corosync treats these options with other votes as a misconfiguration.
            Extra::TieBreaker | Extra::LastManStanding => {
                votes.iter_mut().for_each(|votes| *votes = 1);
                extra
            }
            extra => extra,
        };
        History { votes, extra, slowness, steps }
    })
}

fn verbs() -> impl Strategy<Value = Verb> {
    let (id, sides) = (|| 0..5_u32, || vec(any::<bool>(), 5));
    prop_oneof![
        4 => sides().prop_map(Verb::Partition),
        3 => id().prop_map(Verb::LoseSends),
        2 => id().prop_map(Verb::LoseReceives),
        3 => (id(), id()).prop_map(|(from, to)| Verb::LoseSendsTo(from, to)),
        1 => (id(), id()).prop_map(|(one, other)| Verb::LoseLink(one, other)),
        6 => Just(Verb::Heal),
        5 => sides().prop_map(Verb::Pause),
        5 => Just(Verb::Resume),
        3 => id().prop_map(Verb::Crash),
        2 => id().prop_map(Verb::Stop),
        5 => Just(Verb::Start),
        1 => Just(Verb::HoldRings),
        3 => Just(Verb::ReleaseRings),
        2 => sides().prop_map(Verb::CutDevice),
        1 => Just(Verb::StopDevice),
        2 => Just(Verb::StartDevice),
    ]
}

#[test]
fn no_node_is_exclusive_while_another_partition_is_quorate() {
    let (cases, tally) = play_all(&histories(), play);
    let Tally { exclusive, tokens, left_behind, guards } = tally;
    let enough =
        [exclusive, tokens, left_behind, guards].iter().all(|n| *n > u64::from(cases) / 200);
    assert!(cases < 1_000 || enough, "hardly anything happened");
}

/// Counts of what happened in all histories: they prove that the test is not vacuous.
#[derive(Debug, Default)]
struct Tally {
    exclusive: u64,
    tokens: u64,
    /// How often others became quorate on a later ring without a node that was still quorate.
    left_behind: u64,
    /// The number of guards that had to be invalid.
    guards: u64,
}

async fn play(history: &History, tally: &mut Tally) -> Checked {
    let mut run = Run::new(history);
    let result = run.run(history, tally).await;
    for quorum in &run.quorums {
        quorum.stop().await;
    }
    result
}

struct Run {
    cluster: Cluster,
    quorums: Vec<QuorumHandle>,
    down: Vec<bool>,
    paused: Vec<bool>,
    /// When each daemon last started.
    started: Vec<Option<Instant>>,
    votes: Vec<u32>,
    extra: Extra,
    slowness: u32,
    /// The rings that had a fencing token, and the tokens.
    rings: BTreeMap<RingId, FencingToken>,
    /// For each node, the latest observed quorate ring without it.
    without: Vec<Option<RingId>>,
    /// Since when a node has been exclusive while another node has joined a later ring: see
    /// [`check_exclusive`](Self::check_exclusive).
    beside: Vec<Option<Instant>>,
    /// Since when a node has been quorate while a later ring is quorate.
    overlaps: Vec<Option<Instant>>,
    guards: Vec<Option<Taken>>,
}

struct Taken {
    guard: QuorumGuard,
    /// Whether it was valid at its last check.
    valid: bool,
    /// A later ring without the node that has been quorate since the guard was taken.
    left_behind: Option<RingId>,
}

impl Run {
    fn new(history: &History) -> Self {
        let size = u32::try_from(history.votes.len()).unwrap();
        let slowness = history.slowness;
        let mut cluster = Cluster::new(size).timeouts(TOKEN * slowness, CONSENSUS * slowness);
        cluster = match history.extra {
            Extra::None => cluster,
            Extra::Device(votes) => cluster.quorum_device(votes),
            Extra::TieBreaker => cluster.auto_tie_breaker(true),
            Extra::LastManStanding => cluster.last_man_standing(Duration::from_secs(2)),
        };
        for (id, votes) in (1..).zip(&history.votes) {
            if *votes != 1 {
                cluster.votes(id, *votes).unwrap();
            }
        }
        let start = |id| {
            QuorumActor::builder()
                .source(cluster.node(id))
                .backoff(backoff())
                .settle_grace(GRACE * slowness)
                .start_in_arbiter(&Arbiter::current())
        };
        let quorums: Vec<_> = (1..=size).map(start).collect();
        let nodes = quorums.len();
        Self {
            cluster,
            quorums,
            down: vec![false; nodes],
            paused: vec![false; nodes],
            started: vec![None; nodes],
            votes: history.votes.clone(),
            extra: history.extra,
            slowness,
            rings: BTreeMap::new(),
            without: vec![None; nodes],
            beside: vec![None; nodes],
            overlaps: vec![None; nodes],
            guards: (0..nodes).map(|_| None).collect(),
        }
    }

    async fn run(&mut self, history: &History, tally: &mut Tally) -> Checked {
        self.look(Duration::from_secs(4), tally).await?;
        for (verb, pause) in &history.steps {
            self.act(verb);
            self.look(*pause, tally)
                .await
                .map_err(|error| TestCaseError::fail(format!("after {verb:?}: {error}")))?;
        }
        // Without any fault, all nodes are exclusive again.
        for verb in [Verb::Resume, Verb::Start, Verb::StartDevice, Verb::ReleaseRings, Verb::Heal] {
            self.act(&verb);
        }
        // Waits for the effects of the last verbs, and then until all nodes are exclusive.
        self.look(Duration::from_secs(4), tally).await?;
        let until = Instant::now() + Duration::from_secs(16) * self.slowness;
        while Instant::now() < until && !self.quorums.iter().all(QuorumHandle::is_exclusive) {
            self.look(LOOK, tally).await?;
        }
        self.look(TOKEN + CONSENSUS + GRACE, tally).await?;
        for (id, quorum) in (1..).zip(&self.quorums) {
            let now = quorum.snapshot();
            prop_assert!(quorum.is_exclusive(), "node {id} is not exclusive in the end: {now:?}");
        }
        Ok(())
    }

    fn node(&self, number: u32) -> u32 {
        number % u32::try_from(self.quorums.len()).unwrap() + 1
    }

    /// Returns the nodes on one side.
    fn chosen(&self, sides: &[bool]) -> Vec<u32> {
        let nodes = (1..).zip(sides).take(self.quorums.len());
        nodes.filter(|(_, side)| **side).map(|(id, _)| id).collect()
    }

    fn act(&mut self, verb: &Verb) {
        let cluster = self.cluster.clone();
        let ids = 1..=u32::try_from(self.quorums.len()).unwrap();
        match verb {
            Verb::Partition(sides) => {
                let one = self.chosen(sides);
                let other: Vec<u32> = ids.filter(|id| !one.contains(id)).collect();
                cluster.partition(&[&one, &other]).unwrap();
            }
            Verb::LoseSends(id) => cluster.lose_sends(self.node(*id)).unwrap(),
            Verb::LoseReceives(id) => cluster.lose_receives(self.node(*id)).unwrap(),
            Verb::LoseSendsTo(id, peer) => {
                cluster.lose_sends_to(self.node(*id), self.node(*peer)).unwrap();
            }
            Verb::LoseLink(id, peer) => {
                cluster.lose_link(self.node(*id), self.node(*peer)).unwrap();
            }
            Verb::Heal => cluster.heal(),
            Verb::Pause(sides) => {
                let running = |id: &u32| {
                    let at = *id as usize - 1;
                    !self.down[at] && !self.paused[at]
                };
                let chosen: Vec<u32> = self.chosen(sides).into_iter().filter(running).collect();
                cluster.pause_all(&chosen).unwrap();
                chosen.iter().for_each(|id| self.paused[*id as usize - 1] = true);
            }
            Verb::Resume => {
                let paused: Vec<u32> = ids.filter(|id| self.paused[*id as usize - 1]).collect();
                cluster.resume_all(&paused).unwrap();
                self.paused.fill(false);
            }
            Verb::Crash(id) | Verb::Stop(id) => {
                let id = self.node(*id);
                let at = id as usize - 1;
                if !std::mem::replace(&mut self.down[at], true) {
                    self.paused[at] = false;
                    match verb {
                        Verb::Crash(_) => cluster.crash(id).unwrap(),
                        _ => cluster.stop(id).unwrap(),
                    }
                }
            }
            Verb::Start => {
                let down: Vec<u32> = ids.filter(|id| self.down[*id as usize - 1]).collect();
                for id in down {
                    cluster.start(id).unwrap();
                    self.started[id as usize - 1] = Some(Instant::now());
                }
                self.down.fill(false);
            }
            Verb::HoldRings => cluster.hold_rings(),
            Verb::ReleaseRings => cluster.release_rings(),
            Verb::CutDevice(sides) => cluster.cut_quorum_device(&self.chosen(sides)).unwrap(),
            Verb::StopDevice => cluster.stop_quorum_device(),
            Verb::StartDevice => cluster.start_quorum_device(),
        }
    }

    /// Checks all nodes repeatedly for this time, multiplied by `slowness`.
    async fn look(&mut self, time: Duration, tally: &mut Tally) -> Checked {
        let until = Instant::now() + time * self.slowness;
        loop {
            self.check(tally)?;
            if Instant::now() >= until {
                return Ok(());
            }
            sleep(LOOK * self.slowness).await;
        }
    }

    /// Checks all nodes at one moment.
    fn check(&mut self, tally: &mut Tally) -> Checked {
        let now: Vec<_> = self.quorums.iter().map(QuorumHandle::snapshot).collect();
        let exclusive: Vec<bool> = self.quorums.iter().map(QuorumHandle::is_exclusive).collect();
        for (at, snapshot) in now.iter().enumerate() {
            if exclusive[at] {
                tally.exclusive += 1;
                self.check_exclusive(at, &now)?;
            }
            self.check_token(snapshot, tally)?;
            self.check_left_behind(at, &now, tally)?;
        }
        for (at, snapshot) in now.iter().enumerate() {
            self.check_guard(at, snapshot, tally)?;
        }
        Ok(())
    }

    /// An exclusive node holds a majority, and no later ring without it is quorate. One exception
    /// lasts for up to a token timeout: the later ring has a new member, or a member that has
    /// restarted. The others leave their ring for such a member without missing a token, and a
    /// starting daemon has no token to miss.
    fn check_exclusive(&mut self, at: usize, now: &[Arc<Snapshot>]) -> Checked {
        let ours = &now[at];
        prop_assert!(self.hold_majority(&ours.members), "exclusive without a majority: {ours}");
        let Some(later) = self.later_without(at, now).next().cloned() else {
            self.beside[at] = None;
            return Ok(());
        };
        let has_started = |node: &NodeId| {
            self.started[node.0 as usize - 1]
                .is_some_and(|at| at.elapsed() <= TOKEN * self.slowness)
        };
        let joined =
            later.members.iter().any(|node| !ours.members.contains(node) || has_started(node));
        let since = self.beside[at].get_or_insert_with(Instant::now).elapsed();
        prop_assert!(
            joined && since <= TOKEN * self.slowness,
            "exclusive: {ours}\nfor {since:?} beside: {later}"
        );
        Ok(())
    }

    /// Returns the snapshots of the nodes that are quorate on a later ring without this node and
    /// whose daemons are running.
    fn later_without<'a>(
        &'a self,
        at: usize,
        now: &'a [Arc<Snapshot>],
    ) -> impl Iterator<Item = &'a Snapshot> {
        let seq = |snapshot: &Snapshot| snapshot.ring_id.map(|ring| ring.seq);
        let us = NodeId(u32::try_from(at).unwrap() + 1);
        now.iter().zip(self.paused.iter().zip(&self.down)).filter_map(
            move |(other, (paused, down))| {
                let is_current =
                    !paused && !down && other.settled && other.ring == RingState::Operational;
                let later = other.quorum.is_quorate() && seq(other) > seq(&now[at]);
                (is_current && later && !other.members.contains(&us)).then_some(&**other)
            },
        )
    }

    fn hold_majority(&self, members: &[NodeId]) -> bool {
        let of = |node: &NodeId| self.votes[node.0 as usize - 1];
        let ours: u32 = members.iter().map(of).sum();
        let device = if let Extra::Device(votes) = self.extra { votes } else { 0 };
        let nodes: u32 = self.votes.iter().sum();
        let all = self.extra != Extra::LastManStanding || ours == nodes;
        all && 2 * ours > nodes + device
    }

    /// All tokens of one ring are equal, and larger than the tokens of all earlier rings.
    fn check_token(&mut self, snapshot: &Snapshot, tally: &mut Tally) -> Checked {
        let Some(token) = snapshot.fencing_token() else { return Ok(()) };
        let ring = snapshot.ring_id.expect("a state with a fencing token has a ring id");
        prop_assert!(self.hold_majority(&snapshot.members), "a token without a majority");
        match self.rings.get(&ring) {
            Some(known) => prop_assert_eq!(*known, token),
            None => {
                let highest = self.rings.values().max();
                prop_assert!(highest < Some(&token), "{token} after {highest:?}: {snapshot}");
                self.rings.insert(ring, token);
                tally.tokens += 1;
            }
        }
        Ok(())
    }

    /// Checks how long a node stays quorate while others are quorate on a later ring.
    fn check_left_behind(
        &mut self,
        at: usize,
        now: &[Arc<Snapshot>],
        tally: &mut Tally,
    ) -> Checked {
        let ours = &now[at];
        let later = self.later_without(at, now).filter_map(|other| other.ring_id);
        let later = later.max_by_key(|ring| ring.seq);
        let is_quorate = ours.quorum.is_quorate();
        if let Some(ring) = later {
            self.without[at] = Some(ring);
            if let Some(taken) = &mut self.guards[at] {
                taken.left_behind = Some(ring);
            }
        }
        // With these options votequorum may give quorum to two partitions: see
        // `last_man_standing_can_make_two_partitions_quorate_but_neither_is_exclusive`. A node that
        // restarts alone takes itself for the tie-breaker, because it has not seen the real one.
        let is_bounded = !matches!(self.extra, Extra::LastManStanding | Extra::TieBreaker);
        if later.is_some() && is_quorate && is_bounded {
            let since = *self.overlaps[at].get_or_insert_with(|| {
                tally.left_behind += 1;
                Instant::now()
            });
            // With several faults, others may leave a ring before their own token is late. Even
            // then, a ring is believed only for this long after it was found to be alive.
            let most = (TOKEN + CONSENSUS + GRACE + LOOK) * self.slowness;
            prop_assert!(
                since.elapsed() <= most,
                "quorate for {:?} while a later ring was quorate: {ours}",
                since.elapsed()
            );
        } else {
            self.overlaps[at] = None;
        }
        Ok(())
    }

    /// A guard is invalid once its node has joined a ring after others were quorate without it. An
    /// invalid guard is kept until the node gives another one: it must stay invalid no matter how
    /// much time passes.
    fn check_guard(&mut self, at: usize, snapshot: &Snapshot, tally: &mut Tally) -> Checked {
        let seq = snapshot.ring_id.map(|ring| ring.seq);
        if let Some(taken) = &mut self.guards[at] {
            let valid = taken.guard.is_valid();
            prop_assert!(!valid || taken.valid, "a guard became valid again: {snapshot}");
            taken.valid = valid;
            if let Some(ring) = taken.left_behind.filter(|ring| seq > Some(ring.seq)) {
                tally.guards += 1;
                prop_assert!(!valid, "{ring} was quorate without this node: {snapshot}");
                taken.left_behind = None;
            }
            if valid {
                return Ok(());
            }
        }
        if let Some(guard) = self.quorums[at].guard() {
            self.guards[at] = Some(Taken { guard, valid: true, left_behind: None });
        }
        Ok(())
    }
}
