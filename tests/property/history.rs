//! The steps of one history, and the random generation of histories.

use std::fmt;

use actix_quorum::{
    Code,
    sim::{Cluster, Fault},
};
use proptest::{collection::vec, prelude::*};

/// A cluster, its actors, and the steps that are applied to it.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) size: u32,
    pub(crate) two_node: bool,
    pub(crate) wait_for_all: bool,
    pub(crate) provider: bool,
    /// The nodes on which the actors run.
    pub(crate) actors: Vec<u32>,
    pub(crate) steps: Vec<Step>,
}

#[derive(Clone)]
pub(crate) struct Step {
    pub(crate) verb: Verb,
    pub(crate) pace: Pace,
}

/// Formats the step on one line.
impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, {:?}", self.verb, self.pace)
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Verb {
    Partition(Vec<Vec<u32>>),
    Heal,
    Crash(u32),
    Stop(u32),
    Start(u32),
    Restart(u32),
    Pause(u32),
    Resume(u32),
    ExpectedVotes(u32),
    HoldSync,
    ReleaseSync,
    Fault(u32, Fault),
    Mend(u32),
    /// Causes more changes in a row than are kept for slow subscribers.
    Flood(Flood),
    /// Adds a subscriber to an actor.
    Subscribe {
        actor: usize,
        weak: bool,
    },
    /// Ends the oldest subscription that was added.
    Unsubscribe {
        actor: usize,
    },
    /// Ends the oldest subscriber that was added.
    EndSubscriber {
        actor: usize,
    },
    /// Lets the slow subscribers read this many messages.
    LetRead {
        actor: usize,
        messages: usize,
    },
    StopActor {
        actor: usize,
    },
    /// Waits until an actor that connects to a silent daemon has published `Error::Unresponsive`.
    Wait,
}

impl Verb {
    /// Whether the verb applies to an actor and its subscribers, and not to the cluster.
    pub(crate) fn is_of_actor(&self) -> bool {
        matches!(
            self,
            Self::Flood(_)
                | Self::Subscribe { .. }
                | Self::Unsubscribe { .. }
                | Self::EndSubscriber { .. }
                | Self::LetRead { .. }
                | Self::StopActor { .. }
                | Self::Wait
        )
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Flood {
    Partitions(u32),
    Restarts(u32),
}

/// What follows a verb.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// All effects of the verb happen.
    Settle,
    /// Actors get this many turns.
    Turns(u8),
    /// The next verb follows immediately.
    Go,
}

impl History {
    pub(crate) fn cluster(&self) -> Cluster {
        let mut cluster = Cluster::new(self.size);
        if self.two_node {
            cluster = cluster.two_node(true);
        }
        if self.wait_for_all {
            cluster = cluster.wait_for_all(true);
        }
        cluster.provider(self.provider);
        cluster
    }
}

pub(crate) const MAX_SIZE: u32 = 7;

pub(crate) fn histories() -> impl Strategy<Value = History> {
    (
        1..=MAX_SIZE,
        any::<bool>(),
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.97),
        vec(nodes(), 1..=3),
        vec((verbs(), paces()), 1..=40),
    )
        .prop_map(|(size, two_node, wait_for_all, provider, actors, steps)| {
            let mut daemons = vec![Daemon::Running; size as usize + 1];
            let actors: Vec<u32> = actors.into_iter().map(|node| node.among(size)).collect();
            let steps = steps
                .into_iter()
                .map(|(raw, pace)| {
                    let verb = raw.resolve(size, actors.len(), &mut daemons);
                    Step { verb, pace }
                })
                .collect();
            let two_node = two_node && size == 2;
            History { size, two_node, wait_for_all, provider, actors, steps }
        })
}

/// A node, before the number of nodes is known.
#[derive(Clone, Copy, Debug)]
struct Pick(u32);

/// One in this many picks is an unknown node.
const NOBODY: u32 = 64;

fn nodes() -> impl Strategy<Value = Pick> {
    (0..NOBODY).prop_map(Pick)
}

impl Pick {
    fn among(self, size: u32) -> u32 {
        self.0 % size + 1
    }

    fn or_nobody(self, size: u32) -> u32 {
        if self.0 == NOBODY - 1 { size + 1 } else { self.among(size) }
    }
}

/// A verb, before its nodes are known.
#[derive(Clone, Debug)]
enum Raw {
    Daemon(Pick, u8),
    Groups(Vec<usize>, Mistake),
    Fault(Pick, Fault),
    Mend(Pick),
    Flood(Pick, u8),
    OfActor(usize, u8),
    Plain(Verb),
}

/// The mistake in a partition.
#[derive(Clone, Copy, Debug)]
enum Mistake {
    None,
    LeftOut,
    Overlap,
    Unknown,
}

#[derive(Clone, Copy)]
enum Daemon {
    Down,
    Running,
    Paused,
}

impl Raw {
    /// Makes verbs on daemons mostly legal, because legal verbs show more.
    fn resolve(self, size: u32, actors: usize, daemons: &mut [Daemon]) -> Verb {
        match self {
            Self::Daemon(pick, choice) => {
                let node = pick.or_nobody(size);
                let mut unknown = Daemon::Running;
                let daemon = daemons.get_mut(node as usize).unwrap_or(&mut unknown);
                let (verb, after): (fn(u32) -> Verb, _) = match (*daemon, choice % 16) {
                    (before, 0) => (Verb::Start, next(before, Daemon::Down, Daemon::Running)),
                    (before, 1) => (Verb::Pause, next(before, Daemon::Running, Daemon::Paused)),
                    (before, 2) => (Verb::Resume, next(before, Daemon::Paused, Daemon::Running)),
                    (Daemon::Down, 3) => (Verb::Crash, Daemon::Down),
                    (Daemon::Down, 4) => (Verb::Stop, Daemon::Down),
                    (Daemon::Down, 5) => (Verb::Restart, Daemon::Down),
                    (Daemon::Down, _) => (Verb::Start, Daemon::Running),
                    (_, 3 | 4) => (Verb::Crash, Daemon::Down),
                    (_, 5) => (Verb::Stop, Daemon::Down),
                    (_, 6 | 7) => (Verb::Restart, Daemon::Running),
                    (Daemon::Running, 8..=11) => (Verb::Pause, Daemon::Paused),
                    (Daemon::Running, _) => (Verb::Crash, Daemon::Down),
                    (Daemon::Paused, _) => (Verb::Resume, Daemon::Running),
                };
                *daemon = after;
                verb(node)
            }
            Self::Groups(group_of, mistake) => {
                let mut groups = vec![Vec::new(); 3];
                for (node, group) in (1..=size).zip(group_of) {
                    groups[group].push(node);
                }
                match mistake {
                    Mistake::None => {}
                    Mistake::LeftOut => groups.iter_mut().for_each(|group| group.truncate(1)),
                    Mistake::Overlap => groups.push(vec![size]),
                    Mistake::Unknown => groups[0].push(size + 1),
                }
                groups.retain(|group| !group.is_empty());
                Verb::Partition(groups)
            }
            Self::Fault(pick, fault) => Verb::Fault(pick.or_nobody(size), fault),
            Self::Mend(pick) => Verb::Mend(pick.or_nobody(size)),
            Self::Flood(pick, kind) => Verb::Flood(match kind % 2 {
                0 => Flood::Partitions(pick.among(size)),
                _ => Flood::Restarts(pick.among(size)),
            }),
            Self::OfActor(actor, choice) => {
                let actor = actor % actors;
                match choice % 16 {
                    0..=2 => Verb::Subscribe { actor, weak: false },
                    3..=5 => Verb::Subscribe { actor, weak: true },
                    6 | 7 => Verb::Unsubscribe { actor },
                    8 | 9 => Verb::EndSubscriber { actor },
                    10 => Verb::StopActor { actor },
                    messages => Verb::LetRead { actor, messages: usize::from(messages - 10) },
                }
            }
            Self::Plain(verb) => verb,
        }
    }
}

/// Returns the state of a daemon after a verb that is legal only in the state `legal_in`.
fn next(before: Daemon, legal_in: Daemon, after: Daemon) -> Daemon {
    if before as u8 == legal_in as u8 { after } else { before }
}

fn verbs() -> impl Strategy<Value = Raw> {
    prop_oneof![
        140 => (nodes(), any::<u8>()).prop_map(|(node, choice)| Raw::Daemon(node, choice)),
        80 => (vec(0..3_usize, MAX_SIZE as usize), mistakes())
            .prop_map(|(groups, mistake)| Raw::Groups(groups, mistake)),
        50 => Just(Raw::Plain(Verb::Heal)),
        // The effect of other votes depends on the order in which nodes met, for which the model is
        // too simple. The conformance suite compares it with Corosync.
        5 => Just(Raw::Plain(Verb::ExpectedVotes(0))),
        20 => Just(Raw::Plain(Verb::HoldSync)),
        40 => Just(Raw::Plain(Verb::ReleaseSync)),
        50 => (nodes(), faults()).prop_map(|(node, fault)| Raw::Fault(node, fault)),
        50 => nodes().prop_map(Raw::Mend),
        80 => (any::<usize>(), any::<u8>()).prop_map(|(actor, choice)| Raw::OfActor(actor, choice)),
        10 => Just(Raw::Plain(Verb::Wait)),
        // A flood takes as long as many histories without one.
        1 => (nodes(), any::<u8>()).prop_map(|(node, kind)| Raw::Flood(node, kind)),
    ]
}

fn mistakes() -> impl Strategy<Value = Mistake> {
    prop_oneof![
        20 => Just(Mistake::None),
        1 => Just(Mistake::LeftOut),
        1 => Just(Mistake::Overlap),
        1 => Just(Mistake::Unknown),
    ]
}

fn faults() -> impl Strategy<Value = Fault> {
    let codes = prop::sample::select(vec![
        Code::LIBRARY,
        Code::TRY_AGAIN,
        Code::ACCESS,
        Code::BAD_HANDLE,
        Code::NO_SPACE,
    ]);
    prop_oneof![
        2 => codes.clone().prop_map(Fault::Connect),
        2 => codes.clone().prop_map(Fault::TrackStart),
        4 => codes.prop_map(Fault::Dispatch),
        2 => (0..=1_u32).prop_map(Fault::ServerUid),
        2 => Just(Fault::SilentDeath),
    ]
}

fn paces() -> impl Strategy<Value = Pace> {
    prop_oneof![
        6 => Just(Pace::Settle),
        1 => (1..=20_u8).prop_map(Pace::Turns),
        3 => Just(Pace::Go),
    ]
}
