//! A node of a simulated cluster, as the source of an actor's connections.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::stream;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    cluster::Cluster,
    connection::{Client, Simulated},
    totem::Timeouts,
    world::Daemon,
};
use crate::{
    error::{Code, Error},
    libquorum::{NodeId, PeerProcess},
    link::{
        blocking_worker::BlockingWorker,
        clock::{Clock, Moment},
        connection::sealed,
        probe::{Answer, PendingProbe, Probe},
        ring_reading::{HeldReadings, RingReading, RingUpdate, ShortReading},
        ring_watch::RingWatch,
        trust::TrustPolicy,
        worker::{Answers, Schedule},
    },
};

/// A node of a simulated cluster, which is a [`Source`](crate::Source) for an actor.
pub struct Node {
    cluster: Cluster,
    id: NodeId,
    clock: Clock,
    /// Whether a task on the actor's arbiter advances the cluster's time.
    is_driven: AtomicBool,
}

impl Node {
    pub(super) fn new(cluster: Cluster, id: NodeId) -> Self {
        cluster.state.lock().clients(id).sources += 1;
        Self { cluster, id, clock: Clock::Tokio(Instant::now()), is_driven: AtomicBool::new(false) }
    }

    /// Returns the node's id.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Returns the daemon's answer to a connection attempt, or `None` while the daemon is paused.
    fn answer(&self, trust: TrustPolicy) -> Option<Result<Simulated, Error>> {
        let answer = self.accept(trust);
        if matches!(answer, Some(Err(_))) {
            // A refused client receives nothing, so the other clients need not wait for it.
            self.cluster.change(|world| world.join(self.id));
        }
        answer
    }

    fn accept(&self, trust: TrustPolicy) -> Option<Result<Simulated, Error>> {
        let mut state = self.cluster.state.lock();
        match state.world.node(self.id).map(|node| node.daemon) {
            Some(Daemon::Running) => {}
            Some(Daemon::Paused) => return None,
            Some(Daemon::Down) | None => {
                return Some(Err(Error::Connect(Code::LIBRARY)));
            }
        }
        let (snapshot, provider) = (state.world.snapshot(self.id), state.world.provider);
        let clients = state.clients(self.id);
        let connected = || {
            if let Some(code) = clients.faults.connect {
                return Err(Error::Connect(code));
            }
            let server = PeerProcess { uid: clients.faults.server_uid, pid: None };
            trust.check_server(Some(server))?;
            trust.check_provider(provider)?;
            if let Some(code) = clients.faults.track_start {
                return Err(Error::TrackStart(code));
            }
            let cluster = self.cluster.clone();
            let id = self.id;
            let drained = move || cluster.drained(id);
            let asked_at = self.clock.now();
            let (client, connection) =
                Client::connect(provider, asked_at, snapshot, Box::new(drained))?;
            clients.connected.push(client);
            Ok(connection)
        };
        Some(connected())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.cluster.state.lock().clients(self.id).sources -= 1;
        self.cluster.drained(self.id);
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("id", &self.id).finish_non_exhaustive()
    }
}

impl sealed::Source for Node {
    fn clock(&self) -> Clock {
        self.clock
    }

    fn probe(self: Arc<Self>, _: TrustPolicy) -> Result<Arc<dyn Probe>, Error> {
        Ok(Arc::new(SimulatedProbe(self)))
    }

    fn ring_watch(self: Arc<Self>, _: TrustPolicy) -> Option<Arc<dyn RingWatch>> {
        let (connection, is_new) = (AtomicU64::new(0), Arc::default());
        let tokens = Arc::default();
        Some(Arc::new(SimulatedRingWatch {
            node: self,
            connection,
            is_new,
            tokens,
            held: Arc::default(),
        }))
    }

    #[cfg(any(feature = "metrics", feature = "web"))]
    fn node_names(&self, _: TrustPolicy) -> crate::link::names::NameSource {
        let name = |id: NodeId| (id, format!("n{id}"));
        crate::link::names::NameSource::Known(self.cluster.nodes().into_iter().map(name).collect())
    }

    fn connect(self: Arc<Self>, trust: TrustPolicy, _: &BlockingWorker) -> sealed::Connecting {
        if !self.is_driven.swap(true, Ordering::Relaxed) {
            actix::spawn(self.cluster.clone().drive());
        }
        let mut changed = self.cluster.changed.subscribe();
        Box::pin(async move {
            loop {
                changed.mark_unchanged();
                if let Some(answer) = self.answer(trust) {
                    return Ok(Box::new(answer?) as Box<dyn sealed::QuorumConnection>);
                }
                // The sender is in `self.cluster`.
                let _ = changed.changed().await;
            }
        })
    }
}

/// Asks a node's daemon directly. The daemon answers immediately or, if it is paused, when it is
/// resumed.
#[derive(Debug)]
struct SimulatedProbe(Arc<Node>);

impl Probe for SimulatedProbe {
    fn ask(&self, _: Vec<NodeId>) -> PendingProbe {
        let node = Arc::clone(&self.0);
        let asked_at = node.clock.now();
        let mut changed = node.cluster.changed.subscribe();
        Box::pin(async move {
            loop {
                changed.mark_unchanged();
                if let Some(answer) = node.probed(asked_at) {
                    return answer;
                }
                // The sender is in `node.cluster`.
                let _ = changed.changed().await;
            }
        })
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    }
}

/// Reads a node's counters directly. The daemon answers immediately or, if it is paused, when it is
/// resumed. While it is synchronising, it answers only on connections that were opened after the
/// synchronisation began.
#[derive(Debug)]
struct SimulatedRingWatch {
    node: Arc<Node>,
    connection: AtomicU64,
    /// Whether the connection was opened while the daemon was synchronising.
    is_new: Arc<AtomicBool>,
    /// How many tokens had arrived at the last read.
    tokens: Arc<AtomicU64>,
    /// Readings that are passed on with a later one.
    held: Arc<Mutex<HeldReadings>>,
}

impl RingWatch for SimulatedRingWatch {
    fn cancel(&self) -> bool {
        self.connection.fetch_add(1, Ordering::Relaxed);
        self.is_new.store(true, Ordering::Relaxed);
        *self.held.lock() = HeldReadings::default();
        true
    }

    fn cancel_connect(&self) -> bool {
        false
    }

    fn read(&self, schedule: Schedule, steady: Option<RingReading>) -> Answers<Vec<RingUpdate>> {
        let connection = self.connection.load(Ordering::Relaxed);
        let (node, is_new) = (Arc::clone(&self.node), Arc::clone(&self.is_new));
        let (tokens, held) = (Arc::clone(&self.tokens), Arc::clone(&self.held));
        let reads = stream::unfold(Some(schedule.delay), move |delay| {
            let (node, is_new) = (Arc::clone(&node), Arc::clone(&is_new));
            let (steady, tokens) = (steady.clone(), Arc::clone(&tokens));
            let held = Arc::clone(&held);
            async move {
                let mut delay = delay?;
                loop {
                    if !delay.is_zero() {
                        tokio::time::sleep(delay).await;
                    }
                    match node.counters(connection, &is_new).await {
                        Ok(mut reading) => {
                            let last = tokens.swap(reading.tokens, Ordering::Relaxed);
                            let steady = steady.as_ref();
                            let goes_on =
                                steady.filter(|steady| steady.goes_on(short(&reading), last));
                            if let Some(steady) = goes_on {
                                reading.counters = steady.counters;
                            }
                            if let Some(updates) = held.lock().add(reading, steady) {
                                return Some((Ok(updates), schedule.interval));
                            }
                        }
                        Err(error) => return Some((Err(error), schedule.interval)),
                    }
                    delay = schedule.interval?;
                }
            }
        });
        Box::pin(reads)
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    }
}

/// Returns the part of a reading that a short read returns.
fn short(reading: &RingReading) -> ShortReading {
    let RingReading { connection, counters, tokens, .. } = *reading;
    ShortReading { connection, gather_entered: counters.gather_entered, tokens }
}

impl Node {
    /// Returns the daemon's counters once it answers.
    async fn counters(&self, connection: u64, is_new: &AtomicBool) -> Result<RingReading, Error> {
        let asked_at = self.clock.now();
        let mut changed = self.cluster.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if let Some(reading) = self.read_ring(asked_at, connection, is_new) {
                return reading;
            }
            // The sender is in `self.cluster`.
            let _ = changed.changed().await;
        }
    }

    /// Returns the daemon's counters now, or `None` while it does not answer.
    fn read_ring(
        &self,
        asked_at: Moment,
        connection: u64,
        is_new: &AtomicBool,
    ) -> Option<Result<RingReading, Error>> {
        let mut state = self.cluster.state.lock();
        // Advances the time, by which tokens are counted.
        state.world.advance(self.cluster.made_at.elapsed());
        state.deliver();
        let world = &state.world;
        if world.node(self.id)?.daemon == Daemon::Down {
            return Some(Err(Error::Request(Code::LIBRARY)));
        }
        let (counters, configured_votes, synchronises) = world.ring_counters(self.id)?;
        if synchronises && !is_new.load(Ordering::Relaxed) {
            return None;
        }
        is_new.fetch_and(synchronises, Ordering::Relaxed);
        let now = self.clock.now();
        let Timeouts { token, consensus } = world.totem.timeouts.unwrap_or(TIMEOUTS);
        let hold = if world.totem.timeouts.is_some() { token / 6 } else { TOKEN_HOLD };
        let tokens = world.tokens(self.id, hold);
        Some(Ok(RingReading {
            connection,
            asked_at,
            answered_at: now,
            counters,
            tokens,
            token,
            consensus,
            configured_votes: Some(configured_votes),
            age: Duration::ZERO,
        }))
    }

    /// Returns votequorum's answer now, or `None` while the daemon is paused.
    fn probed(&self, asked_at: Moment) -> Option<Result<Answer, Error>> {
        let state = self.cluster.state.lock();
        match state.world.node(self.id)?.daemon {
            Daemon::Paused => None,
            Daemon::Down => Some(Err(Error::Connect(Code::LIBRARY))),
            Daemon::Running => {
                let (quorate, votes) = state.world.votes(self.id);
                Some(Ok(Answer { asked_at, quorate, votes, local: Some(self.id) }))
            }
        }
    }
}

/// The timeouts that the daemons report if rings form immediately.
const TIMEOUTS: Timeouts =
    Timeouts { token: Duration::from_millis(1000), consensus: Duration::from_millis(1200) };

/// The time between two tokens if rings form immediately.
const TOKEN_HOLD: Duration = Duration::from_millis(10);

#[cfg(all(test, feature = "web"))]
mod tests {
    use actix::{Arbiter, System, clock};

    use super::*;
    use crate::actor::QuorumActor;

    /// A sweep removes the subscribers whose actors have ended. Usually a tick does this. A
    /// simulated read of the ring finishes immediately, so it replaces the tick that is due.
    #[test]
    fn the_registry_is_swept_even_if_reads_of_the_ring_replace_the_ticks() {
        System::new().block_on(async {
            // With this lease no probe is due: with the feature `metrics`, a probe would sweep too.
            let quorum = QuorumActor::builder()
                .source(Cluster::new(3).node(1))
                .lease(Duration::from_secs(3600))
                .start_in_arbiter(&Arbiter::current());
            quorum.wait_quorate().await.unwrap();
            let quorate_at = Instant::now();
            let swept = async {
                while quorum.shared.heartbeat.age() >= quorate_at.elapsed() {
                    clock::sleep(Duration::from_millis(20)).await;
                }
            };
            clock::timeout(Duration::from_secs(60), swept).await.expect("the registry is swept");
            quorum.stop().await;
        });
    }
}
