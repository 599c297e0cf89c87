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
    error::Error,
    libquorum::Model,
    link::{Backoff, Corosync, Source, backoff::Delays, connection::sealed, trust::TrustPolicy},
    registry::Subscriber,
    state::{BeliefPolicy, Event},
};

/// Settings of a [`QuorumActor`], each with a default that suits a cluster node.
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
    /// Begins the settings of an actor.
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
    /// Where to connect to. Default [`Corosync::new`].
    pub fn source(self, source: impl Source) -> Self {
        Self { source: Arc::new(source), ..self }
    }

    /// How long Corosync may be silent before what it told last is not believed any more. Default
    /// 5 s.
    ///
    /// Whatever happens to Corosync, this process or the system, nobody is told that there is
    /// quorum for longer than this after Corosync was last asked and has answered. Where the ring is
    /// watched ([`Snapshot::ring`](crate::Snapshot::ring)), a hung daemon is also not believed for
    /// longer than its token and consensus timeouts and
    /// [`settle_grace`](Self::settle_grace): that is when the others can go on without it.
    ///
    /// Once a deadline has passed only newer evidence counts: a Corosync that hung and goes on is not
    /// believed on what it knew before.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.policy.lease = lease;
        self
    }

    /// How often Corosync is asked whether it lives. Default a quarter of the lease; at least 1 ms, and
    /// to be well below the lease: it runs out if no answer comes in time.
    pub fn probe_interval(self, probe_interval: Duration) -> Self {
        Self { probe_interval: Some(probe_interval), ..self }
    }

    /// How long a quorum decision is believed that is about another membership than the current
    /// one, while Corosync synchronises. Default 1 s: usual are milliseconds, with a quorum device
    /// it can be half a minute. On a connection that began in between it is not believed at all.
    ///
    /// Corosync before 3.1 does not tell the membership by itself (model V0), so there the old decision
    /// stands until the new one.
    pub fn settle_grace(mut self, settle_grace: Duration) -> Self {
        self.policy.settle_grace = settle_grace;
        self
    }

    /// How long quorum must have lasted without a break before anybody is told. Default zero. A
    /// loss is always told at once. Until a gain is told, what was before it is: `Inquorate` or
    /// `Unknown`.
    pub fn stable_after(mut self, stable_after: Duration) -> Self {
        self.policy.stable_after = stable_after;
        self
    }

    /// Whether to believe one of two nodes that is quorate without the other, by `two_node: 1` in the
    /// section `quorum` of `corosync.conf`. Default true. When the two are cut off from each other,
    /// each is quorate: with `false` each is `Inquorate` then (`votequorum(5)`).
    pub fn trust_two_node(mut self, trust_two_node: bool) -> Self {
        self.policy.trust_two_node = trust_two_node;
        self
    }

    /// How long to wait before connecting again. Default [`Backoff::default`].
    pub fn backoff(self, backoff: Backoff) -> Self {
        Self { backoff, ..self }
    }

    /// Whether to refuse a Corosync that has no quorum provider, and would call every node
    /// quorate. Default true.
    pub fn require_provider(mut self, require_provider: bool) -> Self {
        self.trust.require_provider = require_provider;
        self
    }

    /// The user that Corosync must run as, `None` for any. Default `Some(0)`.
    ///
    /// While Corosync is down any user of the machine can listen on its socket, and say that there
    /// is quorum.
    ///
    /// Do not set `Some(65534)` in a container with a user namespace of its own: there that is the uid
    /// of every user that the namespace does not map (`user_namespaces(7)`), so each of them would be
    /// believed. The host's root is one of them, so a Corosync of the host is refused by default.
    pub fn server_uid(mut self, server_uid: Option<u32>) -> Self {
        self.trust.server_uid = server_uid;
        self
    }

    /// Which model of libquorum to connect with. By default Corosync is asked, through libcmap, which
    /// one it can take: V1 with Corosync 3.1 and later, V0 with older ones.
    ///
    /// Set [`Model::V0`] where the daemon is one of Corosync 2 and libcmap is not installed: with a
    /// libquorum of 3.1 or later such a daemon **dies** of V1, whoever asks it for that. A warning in
    /// the log says when nobody can be asked. [`Model::V1`] asks for V1 without that question, and for
    /// V0 if the library or the daemon does not know V1. With V0 a node that restarted before anybody
    /// noticed is not told as joined and left, and each new ring begins a new epoch.
    ///
    /// A simulated cluster has no models.
    pub fn model(mut self, model: Model) -> Self {
        self.trust.model = Some(model);
        self
    }

    /// Whether to measure also under the names that `ha_cluster_exporter` uses, so that dashboards
    /// made for it show this. Default false.
    #[cfg(feature = "metrics")]
    pub fn ha_cluster_metrics(self, ha_cluster_metrics: bool) -> Self {
        Self { ha_cluster_metrics, ..self }
    }

    /// Subscribes an actor before the start, so that it sees every change from the first on. See
    /// [`QuorumHandle::subscribe`].
    pub fn subscribe(mut self, subscriber: impl Into<Subscriber>) -> Self {
        self.subscribers.push(subscriber.into());
        self
    }

    /// Starts the actor, supervised, on an arbiter of its own.
    ///
    /// Returns at once, whether or not Corosync is there: that is a state, not an error. So is an
    /// arbiter that cannot be made, for want of threads or descriptors:
    /// [`Connection::Connecting`](crate::Connection::Connecting) with the error, and then
    /// [`Connection::Stopped`](crate::Connection::Stopped), since nothing is left to try again.
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
    /// # Settings that contradict each other
    ///
    /// The actor starts with them, so that a service with a wrong setting is not down, and it stays fail
    /// safe. A warning in the log has the numbers:
    ///
    /// | settings | what happens |
    /// |---|---|
    /// | [`probe_interval`](Self::probe_interval) at or above the [`lease`](Self::lease), as with a lease of zero | the lease runs out before Corosync is asked again: quorum is lost again and again |
    /// | `probe_interval` below 1 ms | it is 1 ms |
    /// | [`settle_grace`](Self::settle_grace) of zero | quorum is lost at each change of the ring |
    /// | [`stable_after`](Self::stable_after) of more than an hour | as it says: quorum is reported that late |
    ///
    /// # Panics
    ///
    /// Outside of an actix [`System`](actix::System), as all arbiters do.
    pub fn start(self) -> QuorumHandle {
        match Arbiter::try_new() {
            Ok(arbiter) => {
                self.start_on(&arbiter.handle(), Some(OwnedRuntime::Arbiter(arbiter.handle())))
            }
            Err(error) => self.start_nowhere(error),
        }
    }

    /// Starts the actor, supervised, in a [`System`] of its own, on a thread of its own.
    ///
    /// For a program without a `System`: one on tokio, or one without an async runtime. The handle is
    /// the same as that of [`start`](Self::start), and works on every thread. What needs a timer
    /// ([`QuorumHandle::stop`], [`QuorumGuard::lost`](crate::QuorumGuard::lost) and
    /// [`QuorumGuard::run`](crate::QuorumGuard::run)) must be called on a tokio runtime with time
    /// enabled; everything else works on any executor.
    ///
    /// Returns at once, and publishes errors, as [`start`](Self::start) does. The thread ends when the
    /// actor stops. It does not keep the process from ending.
    ///
    /// ```
    /// use actix_quorum::{QuorumActor, sim::Cluster};
    ///
    /// #[tokio::main(flavor = "current_thread")]
    /// async fn main() {
    ///     // Without `source` the actor connects to the Corosync of this machine.
    ///     let quorum = QuorumActor::builder().source(Cluster::new(3).node(1)).start_detached();
    ///     quorum.wait_quorate().await.unwrap();
    ///     assert!(quorum.is_quorate());
    ///     quorum.stop().await;
    /// }
    /// ```
    pub fn start_detached(self) -> QuorumHandle {
        match own_system() {
            Ok((arbiter, system)) => self.start_on(&arbiter, Some(OwnedRuntime::System(system))),
            Err(error) => self.start_nowhere(error),
        }
    }

    /// Starts the actor, supervised, on an arbiter of the caller's, which then ends it.
    ///
    /// Whatever blocks that arbiter delays what the actor tells. Its thread needs a stack of well
    /// over a mebibyte, as a thread has by default, and its runtime tokio's drivers of io and time, as
    /// actix's have. On an arbiter that has ended the actor is `Stopped` at once.
    pub fn start_in_arbiter(self, arbiter: &ArbiterHandle) -> QuorumHandle {
        self.start_on(arbiter, None)
    }

    fn start_on(self, arbiter: &ArbiterHandle, own: Option<OwnedRuntime>) -> QuorumHandle {
        let (shared, actor) = self.make(own);
        // Made here and not there: if the arbiter is dead the actor is dropped, and says so.
        let addr = Supervisor::start_in_arbiter(arbiter, move |_| actor);
        QuorumHandle { shared, addr }
    }

    /// An actor that has no arbiter, and has ended.
    fn start_nowhere(self, error: io::Error) -> QuorumHandle {
        let error = match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => Error::NoDescriptors,
            _ => Error::thread(error),
        };
        let (shared, actor) = self.make(None);
        shared.publish(Event::Failed { attempt: 1, error });
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
        let lease = self.policy.lease;
        let probe_interval = self.probe_interval.unwrap_or(lease / 4);
        for contradiction in contradictions(&self.policy, probe_interval) {
            crate::foreign::log!(log::Level::Warn, "{contradiction}");
        }
        for subscriber in self.subscribers {
            shared.registry.subscribe(subscriber);
        }
        let actor = QuorumActor::new(
            Arc::clone(&shared),
            self.source,
            self.trust,
            probe_interval.max(SHORTEST_INTERVAL),
            Delays::new(self.backoff),
            own,
        );
        (shared, actor)
    }
}

/// What cannot be meant, in numbers and with what to change.
fn contradictions(policy: &BeliefPolicy, probe_interval: Duration) -> Vec<String> {
    let BeliefPolicy { lease, settle_grace, stable_after, .. } = *policy;
    let mut found = Vec::new();
    if probe_interval >= lease {
        found.push(format!(
            "quorum is lost again and again: corosync is asked only every {probe_interval:?} \
             (probe_interval), and believed for {lease:?} (lease); set a shorter probe_interval or a \
             longer lease"
        ));
    }
    if probe_interval < SHORTEST_INTERVAL {
        found.push(format!(
            "corosync is asked every {SHORTEST_INTERVAL:?} in place of every {probe_interval:?} \
             (probe_interval)"
        ));
    }
    if settle_grace.is_zero() {
        found.push(format!(
            "quorum is lost at each change of the ring: settle_grace is {settle_grace:?}, and corosync \
             decides some milliseconds after it has told the membership"
        ));
    }
    if stable_after > TOO_LONG {
        found.push(format!(
            "quorum is reported only after {stable_after:?} without a break (stable_after)"
        ));
    }
    found
}

/// How often corosync is asked at most: an interval of zero would panic.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// For how long nobody means to hold a gain back.
const TOO_LONG: Duration = Duration::from_secs(3600);

/// A `System` that runs on a new thread until it is stopped, and the arbiter of that thread.
fn own_system() -> io::Result<(ArbiterHandle, System)> {
    // Made here: an actix `System` panics if its runtime cannot be made.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (send, started) = mpsc::sync_channel(1);
    let run = move || {
        let runner = System::with_tokio_rt(|| runtime);
        let system = System::current();
        // The receiver waits below.
        let _ = send.send((system.arbiter().clone(), system));
        if let Err(error) = runner.run() {
            crate::foreign::log!(log::Level::Warn, "the system of the quorum actor: {error}");
        }
    };
    thread::Builder::new().name("quorum".into()).spawn(run)?;
    started.recv().map_err(|_| io::Error::other("its system could not be started"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_contradict_each_other_are_told_with_their_numbers() {
        let (policy, ms) = (BeliefPolicy::default(), Duration::from_millis);
        assert!(contradictions(&policy, policy.lease / 4).is_empty());
        for (policy, interval, numbers) in [
            (policy, ms(5000), ["every 5s", "for 5s"]),
            (BeliefPolicy { lease: ms(700), ..policy }, ms(800), ["every 800ms", "for 700ms"]),
            (policy, Duration::ZERO, ["every 1ms", "every 0ns"]),
            (BeliefPolicy { settle_grace: ms(0), ..policy }, ms(1000), ["settle_grace", "0ns"]),
            (
                BeliefPolicy { stable_after: ms(3_600_001), ..policy },
                ms(1000),
                ["3600.001s", "stable_after"],
            ),
        ] {
            let found = contradictions(&policy, interval);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(numbers.iter().all(|number| found[0].contains(number)), "{found:?}");
        }
        let nothing = BeliefPolicy { lease: Duration::ZERO, ..policy };
        assert!(contradictions(&nothing, Duration::ZERO)[0].contains("lease"));
    }
}
