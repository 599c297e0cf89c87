use std::{
    io,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use actix::{Arbiter, ArbiterHandle, Supervisor, System, dev::Mailbox};
use tokio::runtime::Builder;

use crate::{
    actor::{QuorumActor, QuorumHandle, quorum_actor::OwnedRuntime, shared::Shared},
    error::{Error, NO_ANSWER},
    libquorum::Model,
    link::{Backoff, Corosync, Source, backoff::Delays, connection::sealed, trust::TrustPolicy},
    registry::Subscriber,
    state::{BeliefPolicy, Event},
};

/// Sets up and starts a [`QuorumActor`]. Each setting has a default that suits a cluster node.
///
/// ```no_run
/// use std::time::Duration;
/// use actix_quorum::QuorumActor;
///
/// # #[actix::main]
/// # async fn main() {
/// let quorum = QuorumActor::builder()
///     .lease(Duration::from_secs(2))
///     .stable_after(Duration::from_secs(10))
///     .trust_two_node(false)
///     .start();
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing happens before the actor is started"]
pub struct QuorumBuilder {
    source: Arc<dyn sealed::Source>,
    backoff: Backoff,
    trust: TrustPolicy,
    policy: BeliefPolicy,
    probe_interval: Option<Duration>,
    subscribers: Vec<Subscriber>,
    #[cfg(feature = "metrics")]
    ha_cluster_metrics: bool,
}

impl QuorumActor {
    /// Returns a builder with the default settings.
    pub fn builder() -> QuorumBuilder {
        QuorumBuilder {
            source: Arc::new(Corosync::new()),
            backoff: Backoff::default(),
            trust: TrustPolicy { require_provider: true, server_uid: Some(0), model: None },
            policy: BeliefPolicy::default(),
            probe_interval: None,
            subscribers: Vec::new(),
            #[cfg(feature = "metrics")]
            ha_cluster_metrics: false,
        }
    }
}

impl QuorumBuilder {
    /// The Corosync daemon or the simulated node to connect to. Default [`Corosync::new`].
    pub fn source(self, source: impl Source) -> Self {
        Self { source: Arc::new(source), ..self }
    }

    /// How long the actor trusts Corosync, counted from the last request that Corosync has
    /// answered. Default 5 s.
    ///
    /// Whatever happens to Corosync, this process or the system, no reader sees quorum once this
    /// time has passed since that request was sent. If the ring is watched
    /// ([`Snapshot::ring`](crate::Snapshot::ring)), a second limit applies to a daemon that is hung
    /// or has lost its ring: the sum of its token timeout, its consensus timeout and
    /// [`settle_grace`](Self::settle_grace). The other nodes can continue without the daemon once
    /// the two timeouts have passed. The limit that is reached first takes effect.
    ///
    /// Once a limit is reached, only a later report from Corosync can restore quorum. A daemon that
    /// continues after a hang still has its old state, which the actor does not trust.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.policy.lease = lease;
        self
    }

    /// How often the actor asks Corosync whether it is alive. The default is a quarter of the
    /// lease, and the minimum is 1 ms. Set it well below the lease, which expires if no answer
    /// arrives in time.
    pub fn probe_interval(self, probe_interval: Duration) -> Self {
        Self { probe_interval: Some(probe_interval), ..self }
    }

    /// How long the actor trusts the old quorum decision after a membership change, while Corosync
    /// is synchronising and has not yet made a new decision. Default 1 s. Corosync usually decides
    /// within milliseconds; with a quorum device, the decision can take half a minute. If the actor
    /// connects after the change but before the new decision, it does not trust an old decision
    /// that this node has quorum. The limit for a daemon that is hung or has lost its ring includes
    /// this time as well: see [`lease`](Self::lease).
    ///
    /// Corosync before 3.1 does not report the membership separately from the decision (model V0).
    /// With model V0 this setting has no effect after a membership change: the actor trusts the old
    /// decision until the new one arrives.
    pub fn settle_grace(mut self, settle_grace: Duration) -> Self {
        self.policy.settle_grace = settle_grace;
        self
    }

    /// How long quorum must last without a break before a gain is published. Default zero. Until
    /// the gain is published, the state before it stays published: `Inquorate` or `Unknown`. A loss
    /// is always published immediately.
    pub fn stable_after(mut self, stable_after: Duration) -> Self {
        self.policy.stable_after = stable_after;
        self
    }

    /// Whether to accept that one node of a two-node cluster has quorum on its own, which
    /// `two_node: 1` in the `quorum` section of `corosync.conf` allows. Default true. When the two
    /// nodes are separated from each other, both are quorate (`votequorum(5)`). With `false` on
    /// both nodes, both actors then report `Inquorate`. In any cluster, `false` also means that a
    /// node is not `Quorate` while its votes are not known, for example without libvotequorum.
    pub fn trust_two_node(mut self, trust_two_node: bool) -> Self {
        self.policy.trust_two_node = trust_two_node;
        self
    }

    /// How long to wait before reconnecting. Default [`Backoff::default`].
    pub fn backoff(self, backoff: Backoff) -> Self {
        Self { backoff, ..self }
    }

    /// Whether to refuse a Corosync without a quorum provider, which reports every node as quorate.
    /// Default true.
    pub fn require_provider(mut self, require_provider: bool) -> Self {
        self.trust.require_provider = require_provider;
        self
    }

    /// The id of the user that Corosync must run as, or `None` for any user. Default `Some(0)`.
    ///
    /// While Corosync is down, any user of the machine can listen on its socket and report quorum.
    ///
    /// Do not set `Some(65534)` in a container with its own user namespace. There, 65534 is the uid
    /// of every user that the namespace does not map (`user_namespaces(7)`), so the actor would
    /// trust each of these users. The host's root is one of them, so the host's Corosync is refused
    /// by default.
    pub fn server_uid(mut self, server_uid: Option<u32>) -> Self {
        self.trust.server_uid = server_uid;
        self
    }

    /// The model of libquorum (the version of its interface) to connect with. By default the actor
    /// reads the daemon's version through libcmap. It uses V1 if the daemon and the library are
    /// both from Corosync 3.1 or later, and V0 otherwise.
    ///
    /// If libcmap is not installed, the version cannot be read. With a libquorum of 3.1 or later,
    /// the actor then logs a warning and requests V1, which **kills** a daemon of Corosync 2. Set
    /// [`Model::V0`] for such a daemon.
    ///
    /// [`Model::V1`] requests V1 without reading the version, and falls back to V0 if the library
    /// or the daemon does not know V1. With V0, a node that restarts before the other nodes notice
    /// is not listed in `joined` and `left`, and each new ring begins a new epoch.
    ///
    /// This setting has no effect on a simulated cluster, which has no models.
    pub fn model(mut self, model: Model) -> Self {
        self.trust.model = Some(model);
        self
    }

    /// Whether to record the metrics also under the names that `ha_cluster_exporter` uses, for
    /// dashboards that were made for it. Default false.
    #[cfg(feature = "metrics")]
    pub fn ha_cluster_metrics(self, ha_cluster_metrics: bool) -> Self {
        Self { ha_cluster_metrics, ..self }
    }

    /// Subscribes an actor before the quorum actor starts, so that the subscriber receives every
    /// change from the first one on. See [`QuorumHandle::subscribe`].
    pub fn subscribe(mut self, subscriber: impl Into<Subscriber>) -> Self {
        self.subscribers.push(subscriber.into());
        self
    }

    /// Starts the supervised actor on its own arbiter.
    ///
    /// Does not wait for Corosync: a missing Corosync is a state, not an error. If the arbiter
    /// cannot be created for lack of threads or descriptors, the handle first publishes
    /// [`Connection::Connecting`](crate::Connection::Connecting) with the error and then
    /// [`Connection::Stopped`](crate::Connection::Stopped), since no further attempt follows.
    ///
    /// ```
    /// use actix_quorum::{QuorumActor, Stopped, sim::Cluster};
    ///
    /// #[actix::main]
    /// async fn main() -> Result<(), Stopped> {
    ///     // Without `source` the actor connects to the Corosync of this machine.
    ///     let quorum = QuorumActor::builder().source(Cluster::new(3).node(1)).start();
    ///     quorum.wait_quorate().await?;
    ///     println!("{}", quorum.snapshot());
    ///     quorum.stop().await;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Contradictory settings
    ///
    /// The actor starts even with contradictory settings, so that a wrong setting does not stop the
    /// service. The actor stays fail-safe. A warning in the log reports the values:
    ///
    /// | settings | what happens |
    /// |---|---|
    /// | [`probe_interval`](Self::probe_interval) at or above the [`lease`](Self::lease), for example a lease of zero | the lease expires before Corosync is asked again: quorum is repeatedly unknown, or always with a lease of zero |
    /// | `probe_interval` below 1 ms | 1 ms is used |
    /// | [`settle_grace`](Self::settle_grace) of zero | with Corosync 3.1 or later, quorum is lost briefly at every membership change |
    /// | [`stable_after`](Self::stable_after) of more than an hour | a gain is published only after that time |
    ///
    /// # Panics
    ///
    /// Panics outside of an actix [`System`](actix::System), because it creates an arbiter.
    pub fn start(self) -> QuorumHandle {
        match Arbiter::try_new() {
            Ok(arbiter) => {
                self.start_on(&arbiter.handle(), Some(OwnedRuntime::Arbiter(arbiter.handle())))
            }
            Err(error) => self.start_nowhere(error),
        }
    }

    /// Starts the supervised actor in its own [`System`] on its own thread.
    ///
    /// Use it in a program without a `System`: one on tokio, or one without an async runtime. The
    /// returned handle is like the one that [`start`](Self::start) returns, and works on every
    /// thread. [`QuorumHandle::stop`], [`QuorumGuard::lost`](crate::QuorumGuard::lost) and
    /// [`QuorumGuard::run`](crate::QuorumGuard::run) need a timer: call them on a tokio runtime
    /// with time enabled. Everything else works on any executor.
    ///
    /// Like [`start`](Self::start), it does not wait for Corosync, and it publishes errors instead
    /// of returning them. The thread ends when the actor stops. The thread does not keep the
    /// process from ending.
    ///
    /// ```
    /// use actix_quorum::{QuorumActor, Stopped, sim::Cluster};
    ///
    /// #[tokio::main(flavor = "current_thread")]
    /// async fn main() -> Result<(), Stopped> {
    ///     // Without `source` the actor connects to the Corosync of this machine.
    ///     let quorum = QuorumActor::builder().source(Cluster::new(3).node(1)).start_detached();
    ///     quorum.wait_quorate().await?;
    ///     assert!(quorum.is_quorate());
    ///     quorum.stop().await;
    ///     Ok(())
    /// }
    /// ```
    pub fn start_detached(self) -> QuorumHandle {
        match own_system() {
            Ok((arbiter, system)) => self.start_on(&arbiter, Some(OwnedRuntime::System(system))),
            Err(error) => self.start_nowhere(error),
        }
    }

    /// Starts the supervised actor on the caller's arbiter. The actor ends with the arbiter.
    ///
    /// A handler that blocks the arbiter delays the actor's publications. The arbiter's thread
    /// needs a stack of well over 1 MiB, as threads have by default, and its runtime needs tokio's
    /// io and time drivers, as actix's runtimes have. If the arbiter has already ended, the actor
    /// publishes `Stopped` immediately.
    pub fn start_in_arbiter(self, arbiter: &ArbiterHandle) -> QuorumHandle {
        self.start_on(arbiter, None)
    }

    fn start_on(self, arbiter: &ArbiterHandle, own: Option<OwnedRuntime>) -> QuorumHandle {
        let (shared, actor) = self.make(own);
        // The actor is created here, so that it is dropped and publishes `Stopped` if the arbiter
        // has already ended.
        let addr = Supervisor::start_in_arbiter(arbiter, move |_| actor);
        QuorumHandle { shared, addr }
    }

    /// Returns the handle of an actor that has no arbiter and has ended.
    fn start_nowhere(self, error: io::Error) -> QuorumHandle {
        let error = match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => Error::NoDescriptors,
            _ => Error::thread(error),
        };
        let (shared, actor) = self.make(None);
        shared.apply(Event::Failed { attempt: 1, error });
        drop(actor);
        QuorumHandle { shared, addr: Mailbox::default().address() }
    }

    fn make(self, own: Option<OwnedRuntime>) -> (Arc<Shared>, QuorumActor) {
        let shared = Arc::new(Shared::new(self.policy, self.source.clock()));
        #[cfg(feature = "metrics")]
        {
            shared.metrics.begin(self.policy.lease, self.ha_cluster_metrics);
            crate::foreign::contain(crate::metrics::Metrics::describe);
            shared.record();
        }
        for contradiction in contradictions(&self.policy, self.probe_interval) {
            crate::foreign::log!(log::Level::Warn, "{contradiction}");
        }
        for subscriber in self.subscribers {
            shared.registry.subscribe(subscriber);
        }
        let actor = QuorumActor::new(
            Arc::clone(&shared),
            self.source,
            self.trust,
            effective_interval(&self.policy, self.probe_interval),
            Delays::new(self.backoff),
            own,
        );
        (shared, actor)
    }
}

/// Returns the interval between two probes, from the setting `probe_interval`.
fn effective_interval(policy: &BeliefPolicy, probe_interval: Option<Duration>) -> Duration {
    probe_interval.unwrap_or(policy.lease / 4).max(SHORTEST_INTERVAL)
}

/// Returns a warning for each setting that is probably a mistake, with its value.
fn contradictions(policy: &BeliefPolicy, probe_interval: Option<Duration>) -> Vec<String> {
    let BeliefPolicy { lease, settle_grace, stable_after, .. } = *policy;
    let interval = effective_interval(policy, probe_interval);
    let mut found = Vec::new();
    if interval >= lease {
        let often = if lease.is_zero() { "always" } else { "repeatedly" };
        let shorter =
            if interval > SHORTEST_INTERVAL { " or a shorter probe_interval" } else { "" };
        found.push(format!(
            "quorum will {often} be unknown: corosync is probed only every {interval:?} \
             (probe_interval), but each answer is valid only for {lease:?} (lease); set a longer \
             lease{shorter}"
        ));
    }
    if let Some(short) = probe_interval.filter(|interval| *interval < SHORTEST_INTERVAL) {
        found.push(format!(
            "a probe_interval of {short:?} is below the minimum: corosync is probed every \
             {SHORTEST_INTERVAL:?}"
        ));
    }
    if settle_grace.is_zero() {
        found.push(format!(
            "settle_grace is {settle_grace:?}: with corosync 3.1 or later, quorum will be lost \
             briefly at every membership change, because corosync decides whether there is quorum \
             a few milliseconds after it reports the new membership; set a longer settle_grace"
        ));
    }
    if stable_after > TOO_LONG {
        found.push(format!(
            "stable_after is very long: a gain of quorum is published only after quorum has lasted \
             for {stable_after:?}; set a shorter stable_after unless this is intended"
        ));
    }
    found
}

/// The shortest interval between two probes. A timer with an interval of zero would panic.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// A longer `stable_after` is probably a mistake.
const TOO_LONG: Duration = Duration::from_secs(3600);

/// Starts a `System` on a new thread, where it runs until it is stopped, and returns it with its
/// arbiter.
fn own_system() -> io::Result<(ArbiterHandle, System)> {
    // The runtime is created here because an actix `System` panics if it cannot create one.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (send, started) = mpsc::sync_channel(1);
    let run = move || {
        let runner = System::with_tokio_rt(|| runtime);
        let system = System::current();
        // This cannot fail, because the receiver is still waiting below.
        let _ = send.send((system.arbiter().clone(), system));
        if let Err(error) = runner.run() {
            crate::foreign::log!(
                log::Level::Warn,
                "the actix System of the quorum actor has failed: {error}. The actor has ended and \
                 no longer watches quorum"
            );
        }
    };
    thread::Builder::new().name("quorum".into()).spawn(run)?;
    let ended = |_| io::Error::new(NO_ANSWER, "the actix System of the actor did not start");
    started.recv().map_err(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicting_settings_are_reported_with_their_values() {
        let (policy, ms) = (BeliefPolicy::default(), Duration::from_millis);
        assert!(contradictions(&policy, None).is_empty());
        let lease = |lease| BeliefPolicy { lease, ..policy };
        for (policy, interval, numbers) in [
            (policy, Some(ms(5000)), ["for 5s", "or a shorter probe_interval"]),
            (lease(ms(700)), Some(ms(800)), ["every 800ms", "for 700ms"]),
            // A quarter of these leases is below the shortest interval.
            (lease(ms(1)), None, ["every 1ms", "for 1ms"]),
            (lease(ms(0)), None, ["always", "for 0ns"]),
            (policy, Some(ms(0)), ["of 0ns", "every 1ms"]),
            (BeliefPolicy { settle_grace: ms(0), ..policy }, None, ["settle_grace", "0ns"]),
            (
                BeliefPolicy { stable_after: ms(3_600_001), ..policy },
                None,
                ["3600.001s", "stable_after"],
            ),
        ] {
            let found = contradictions(&policy, interval);
            assert_eq!(found.len(), 1, "not exactly one text: {found:?}");
            assert!(
                numbers.iter().all(|number| found[0].contains(number)),
                "a number is missing: {found:?}"
            );
        }
    }
}
