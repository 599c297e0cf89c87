use std::{mem, sync::Arc, time::Duration};

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, ArbiterHandle, AsyncContext, Context, Handler,
    Message, MessageResult, SpawnHandle, StreamHandler, Supervised, System, WrapFuture,
};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    actor::{GetSnapshot, Subscribe, Unsubscribe, shared::Shared},
    error::Error,
    foreign,
    link::{
        backoff::Delays,
        blocking_worker::BlockingWorker,
        clock::Moment,
        connection::sealed::{QuorumConnection, Source},
        notifications::{LONGEST_TICK, LinkEvent, LinkEvents},
        probe::Probe,
        ring_watch::RingWatch,
        trust::TrustPolicy,
    },
    state::Event,
};

/// Watches the quorum of this node and publishes each change to its subscribers.
///
/// [`builder`](Self::builder) starts it. The actor runs until it is stopped, or until its arbiter
/// or its [`System`](actix::System) ends. It keeps running when all addresses and all
/// [`QuorumHandle`](crate::QuorumHandle)s are dropped.
#[derive(Debug)]
pub struct QuorumActor {
    shared: Arc<Shared>,
    activity: Activity,
    trust: TrustPolicy,
    probe_interval: Duration,
    blocking_worker: BlockingWorker,
    delays: Delays,
    swept_at: Instant,
    /// The arbiter or system that was started for this actor and ends with it.
    own: Option<OwnedRuntime>,
}

/// What the actor is doing.
///
/// `Waiting` → `Connecting` → `Watching` → `Waiting`; a failed attempt goes back to `Waiting`. The
/// supervisor restarts the actor at the end of `Waiting`. `Stopped` is final.
#[derive(Debug)]
enum Activity {
    /// The actor waits to be started or, after a failure, to be restarted.
    Waiting {
        resources: Resources,
        /// The number of failed attempts since the last connection.
        failures: u64,
    },
    /// The actor is opening a connection.
    Connecting {
        resources: Resources,
        /// The number of this attempt, counted from the last connection.
        attempt: u64,
        /// The future that opens the connection.
        task: SpawnHandle,
        /// The task that removes ended subscribers at intervals. The ticks of the connection
        /// replace it.
        sweeping: SpawnHandle,
    },
    /// The actor is receiving the events of a connection.
    Watching {
        resources: Resources,
        /// The stream that reads from the connection.
        task: SpawnHandle,
        connected_at: Instant,
        /// The deadline of the timer that fires next, or `None` if no timer is set.
        timer: Option<Moment>,
    },
    /// The actor has ended. A stopped actor stays in memory while an address of it exists.
    Stopped,
}

/// What the actor keeps until it is stopped.
#[derive(Clone, Debug)]
struct Resources {
    source: Arc<dyn Source>,
    /// `None` before the first connection. All connections share one probe: its thread may still be
    /// waiting for an answer on a connection that has ended.
    probe: Option<Arc<dyn Probe>>,
    /// `None` before the first connection, and if the source has no ring counters.
    ring: Option<Arc<dyn RingWatch>>,
    /// Keeps this actor alive when every other address is dropped. `None` before the start.
    own_addr: Option<Addr<QuorumActor>>,
}

impl Activity {
    /// Returns the resources, or `None` if the actor is stopped.
    fn resources(&self) -> Option<&Resources> {
        match self {
            Self::Waiting { resources, .. }
            | Self::Connecting { resources, .. }
            | Self::Watching { resources, .. } => Some(resources),
            Self::Stopped => None,
        }
    }
}

impl Resources {
    /// Creates the probe and the ring watch if they do not exist. Returns the probe.
    fn prepare(&mut self, trust: TrustPolicy) -> Result<Arc<dyn Probe>, Error> {
        let probe = match &self.probe {
            Some(probe) => Arc::clone(probe),
            None => Arc::clone(self.probe.insert(Arc::clone(&self.source).probe(trust)?)),
        };
        if self.ring.is_none() {
            self.ring = Arc::clone(&self.source).ring_watch(trust);
        }
        Ok(probe)
    }
}

/// An arbiter or system that runs one actor and nothing else.
#[derive(Debug)]
pub(crate) enum OwnedRuntime {
    Arbiter(ArbiterHandle),
    System(System),
}

impl QuorumActor {
    pub(crate) fn new(
        shared: Arc<Shared>,
        source: Arc<dyn Source>,
        trust: TrustPolicy,
        probe_interval: Duration,
        delays: Delays,
        own: Option<OwnedRuntime>,
    ) -> Self {
        Self {
            shared,
            activity: Activity::Waiting {
                resources: Resources { source, probe: None, ring: None, own_addr: None },
                failures: 0,
            },
            trust,
            probe_interval,
            blocking_worker: BlockingWorker::default(),
            delays,
            swept_at: Instant::now(),
            own,
        }
    }

    fn connect(&mut self, ctx: &mut Context<Self>) {
        let Activity::Waiting { resources, failures } = &self.activity else { return };
        let (mut resources, attempt) = (resources.clone(), failures + 1);
        resources.own_addr = Some(ctx.address());
        let sweeping = sweep_regularly(ctx);
        let connecting = Arc::clone(&resources.source).connect(self.trust, &self.blocking_worker);
        let timeout = ctx.run_later(UNRESPONSIVE_AFTER, move |actor, ctx| {
            actor.apply(Event::Failed { attempt, error: Error::Unresponsive }, ctx);
        });
        let task = ctx.spawn(connecting.into_actor(self).map(move |result, actor, ctx| {
            ctx.cancel_future(timeout);
            match result.and_then(|connection| actor.connected(connection, ctx)) {
                Ok(()) => {}
                Err(error) => actor.disconnected(error, ctx),
            }
        }));
        self.activity = Activity::Connecting { resources, attempt, task, sweeping };
    }

    /// Begins to watch a connection that has just been opened.
    fn connected(
        &mut self,
        connection: Box<dyn QuorumConnection>,
        ctx: &mut Context<Self>,
    ) -> Result<(), Error> {
        let Activity::Connecting { resources, sweeping, .. } = &mut self.activity else {
            connection.close(&self.blocking_worker);
            return Ok(());
        };
        let (has_provider, asked_at) = (connection.has_provider(), connection.asked_at());
        let probe = match resources.prepare(self.trust) {
            Ok(probe) => probe,
            Err(error) => {
                connection.close(&self.blocking_worker);
                return Err(error);
            }
        };
        let (ring, watched) = (resources.ring.clone(), resources.ring.is_some());
        let (blocking_worker, clock) = (self.blocking_worker.clone(), self.shared.lease.clock());
        let events =
            LinkEvents::new(connection, blocking_worker, probe, ring, self.probe_interval, clock)?;
        ctx.cancel_future(*sweeping);
        self.activity = Activity::Watching {
            resources: resources.clone(),
            task: ctx.add_stream(events),
            connected_at: Instant::now(),
            timer: None,
        };
        self.apply(Event::Connected { has_provider, asked_at, watched }, ctx);
        #[cfg(any(feature = "metrics", feature = "web"))]
        self.read_names();
        Ok(())
    }

    /// Starts a read of the node names: a change of membership may come with a change of
    /// configuration.
    #[cfg(any(feature = "metrics", feature = "web"))]
    fn read_names(&self) {
        if let Some(resources) = self.activity.resources() {
            self.shared.names.read(|| resources.source.node_names(self.trust));
        }
    }

    /// Applies an event, which publishes the change if there is one, and sets a timer for the next
    /// deadline.
    fn apply(&mut self, event: Event, ctx: &mut Context<Self>) {
        let deadline = self.shared.apply(event);
        // Without a connection there is no deadline.
        let (Some(deadline), Activity::Watching { timer, .. }) = (deadline, &mut self.activity)
        else {
            return;
        };
        // The timer rounds up, so it never fires before the deadline.
        let now = self.shared.lease.clock().now();
        let delay = deadline.since(now);
        // An overdue timer is ignored: after the system was suspended, it fires late.
        let fires_before = |timer: Moment| timer <= deadline && timer > now;
        // The ticks of the connection also apply the deadlines, so a deadline that is far away
        // needs no timer yet.
        if delay > 2 * LONGEST_TICK || timer.is_some_and(fires_before) {
            return;
        }
        *timer = Some(deadline);
        ctx.run_later(delay, move |actor, ctx| {
            if let Activity::Watching { timer, .. } = &mut actor.activity {
                timer.take_if(|due| *due == deadline);
            }
            actor.apply(Event::Tick, ctx);
        });
    }

    /// Handles the failure of a connection or of a connection attempt.
    ///
    /// It publishes the error, and stops the actor after a delay, so that the supervisor restarts
    /// the actor. The supervisor itself has no delay and would restart it in a busy loop.
    fn disconnected(&mut self, error: Error, ctx: &mut Context<Self>) {
        let (resources, failures, connected_at) = match &self.activity {
            Activity::Connecting { resources, attempt, .. } => (resources.clone(), *attempt, None),
            Activity::Watching { resources, connected_at, .. } => {
                // Until now, the ticks of the connection swept the registry.
                sweep_regularly(ctx);
                (resources.clone(), 0, Some(*connected_at))
            }
            Activity::Waiting { .. } | Activity::Stopped => return,
        };
        self.activity = Activity::Waiting { resources, failures };
        if let Some(since) = connected_at {
            self.delays.connection_lasted(since.elapsed());
        }
        let delay = self.delays.after(&error);
        let is_blocked = error == Error::ConnectInProgress;
        #[cfg(feature = "metrics")]
        let ended = error.clone();
        let event = match connected_at {
            Some(_) => Event::Disconnected(error),
            None => Event::Failed { attempt: failures, error },
        };
        self.apply(event, ctx);
        if is_blocked {
            self.interrupt();
        }
        // This follows the publication, because a recorder may block.
        #[cfg(feature = "metrics")]
        foreign::contain(|| match connected_at {
            Some(_) => crate::metrics::Metrics::disconnected(&ended),
            None => crate::metrics::Metrics::connect_failed(&ended),
        });
        ctx.run_later(delay, |actor, ctx| {
            // A stop that is in progress must not be interrupted by a restart.
            if !matches!(actor.activity, Activity::Stopped) {
                ctx.stop();
            }
        });
    }

    /// Cancels the waiting calls of this actor's other threads. A thread may be waiting for a
    /// silent server that runs in Corosync's place. Until its call is cancelled, that thread blocks
    /// all attempts to connect. While there is a connection, `LinkEvents` cancels calls that take
    /// too long.
    fn interrupt(&self) {
        let Some(Resources { probe, ring, .. }) = self.activity.resources() else { return };
        if let Some(probe) = probe {
            probe.interrupt();
        }
        if let Some(ring) = ring {
            ring.cancel();
        }
        #[cfg(any(feature = "metrics", feature = "web"))]
        self.shared.names.interrupt();
    }

    /// Does the part of each tick's work that does not depend on the connection.
    fn do_regular_work(&mut self) {
        // Sweeps at most twice a second, although ticks may be more frequent. The limit is less
        // than `SWEEP`, because a tick may come a little early.
        if self.swept_at.elapsed() >= SWEEP / 2 {
            self.sweep();
        }
        #[cfg(any(feature = "metrics", feature = "web"))]
        if self.shared.names.are_old() {
            self.read_names();
        }
    }

    /// Removes the subscribers whose actors have ended, by delivering to all subscribers, and
    /// records that this actor is running.
    fn sweep(&mut self) {
        self.swept_at = Instant::now();
        #[cfg(feature = "web")]
        self.shared.heartbeat.beat();
        self.shared.registry.deliver();
    }

    fn stop_own(&self) {
        match &self.own {
            Some(OwnedRuntime::Arbiter(arbiter)) => drop(arbiter.stop()),
            Some(OwnedRuntime::System(system)) => system.stop(),
            None => {}
        }
    }
}

impl Actor for QuorumActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.connect(ctx);
    }
}

impl Supervised for QuorumActor {}

impl StreamHandler<Result<LinkEvent, Error>> for QuorumActor {
    fn handle(&mut self, item: Result<LinkEvent, Error>, ctx: &mut Context<Self>) {
        match item {
            Ok(LinkEvent::Notified { notification, drained_at }) => {
                #[cfg(any(feature = "metrics", feature = "web"))]
                let ring_id = self.shared.published().ring_id;
                self.apply(Event::Notified { notification, drained_at }, ctx);
                #[cfg(any(feature = "metrics", feature = "web"))]
                if self.shared.published().ring_id != ring_id {
                    self.read_names();
                }
            }
            Ok(LinkEvent::Answered(answer)) => {
                #[cfg(feature = "metrics")]
                let took = self.shared.lease.clock().now().since(answer.asked_at);
                self.apply(Event::Answered(answer), ctx);
                #[cfg(feature = "metrics")]
                {
                    foreign::contain(|| {
                        // The recorder may have been installed since the last answer.
                        crate::metrics::Metrics::describe();
                        crate::metrics::Metrics::answered(took);
                    });
                    self.shared.record();
                    // Records the number of subscribers.
                    self.sweep();
                }
            }
            // A read takes the place of a tick.
            Ok(LinkEvent::Ring(update)) => {
                self.apply(Event::Ring(update), ctx);
                self.do_regular_work();
                if self.shared.lacks_announcement() {
                    self.disconnected(Error::NotAnnounced, ctx);
                }
            }
            Ok(LinkEvent::Tick) => {
                self.apply(Event::Tick, ctx);
                self.do_regular_work();
            }
            Err(error) => self.disconnected(error, ctx),
        }
    }

    /// Does nothing: the restart is already scheduled. The default implementation stops the actor,
    /// which the supervisor would then restart without a delay.
    fn finished(&mut self, _: &mut Context<Self>) {}
}

impl Drop for QuorumActor {
    /// Publishes `Stopped`, however the actor ends: its arbiter stopped, its `System` ended, or it
    /// panicked. After that, no reader sees quorum.
    ///
    /// Dropping the probe, the ring watch and the connection cancels their waiting calls to
    /// Corosync.
    fn drop(&mut self) {
        self.shared.apply(Event::Stopped);
        #[cfg(any(feature = "metrics", feature = "web"))]
        self.shared.names.close();
        self.stop_own();
    }
}

impl Handler<Subscribe> for QuorumActor {
    type Result = MessageResult<Subscribe>;

    fn handle(&mut self, subscribe: Subscribe, _: &mut Context<Self>) -> Self::Result {
        self.shared.publish_expiry();
        MessageResult(self.shared.registry.subscribe(subscribe.0))
    }
}

impl Handler<Unsubscribe> for QuorumActor {
    type Result = bool;

    fn handle(&mut self, unsubscribe: Unsubscribe, _: &mut Context<Self>) -> bool {
        self.shared.registry.unsubscribe(unsubscribe.0)
    }
}

impl Handler<GetSnapshot> for QuorumActor {
    type Result = MessageResult<GetSnapshot>;

    fn handle(&mut self, _: GetSnapshot, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.shared.snapshot())
    }
}

/// Sweeps the registry at intervals, while there is no connection.
fn sweep_regularly(ctx: &mut Context<QuorumActor>) -> SpawnHandle {
    ctx.run_interval(SWEEP, |actor, _| actor.sweep())
}

/// The message that ends the actor for good. The actor replies through the sender once the
/// connection is closed, or after [`CLOSE_TIMEOUT`].
pub(crate) struct Stop(pub(crate) oneshot::Sender<()>);

impl Message for Stop {
    type Result = ();
}

impl Handler<Stop> for QuorumActor {
    type Result = ();

    fn handle(&mut self, Stop(reply): Stop, ctx: &mut Context<Self>) {
        #[cfg(any(feature = "metrics", feature = "web"))]
        self.shared.names.close();
        let before = mem::replace(&mut self.activity, Activity::Stopped);
        if let Activity::Connecting { task, .. } | Activity::Watching { task, .. } = before {
            ctx.cancel_future(task);
        }
        // `close` cancels the waiting calls now, even if the wait below times out.
        let (probe_closes, ring_closes) = before.resources().map_or((None, None), |resources| {
            let Resources { probe, ring, .. } = resources;
            (probe.as_ref().map(|probe| probe.close()), ring.as_ref().map(|ring| ring.close()))
        });
        // The cancelled task is dropped before the first poll of `all_closed`. The drop hands the
        // connection to the worker, which is idle once the connection is closed.
        let blocking_worker = self.blocking_worker.clone();
        let all_closed = async move {
            blocking_worker.idle().await;
            for closes in [probe_closes, ring_closes].into_iter().flatten() {
                closes.await;
            }
        };
        let wait = tokio::time::timeout(CLOSE_TIMEOUT, all_closed);
        ctx.spawn(wait.into_actor(self).map(|result, actor, ctx| {
            if result.is_err() {
                crate::foreign::log!(
                    log::Level::Debug,
                    "corosync does not answer; the calls that are waiting for it have been \
                     cancelled and will end within two seconds"
                );
            }
            // Sending runs the waker of the caller of `stop`. It fails if the caller no longer
            // waits.
            foreign::contain(|| {
                let _ = reply.send(());
            });
            actor.stop_own();
            // On the caller's arbiter this ends the spawned futures. The actor is dropped with its
            // last address.
            ctx.stop();
        }));
    }
}

/// How long Corosync may take to accept the connection before a failure is published. An attempt
/// usually takes milliseconds.
const UNRESPONSIVE_AFTER: Duration = Duration::from_secs(2);

/// How long to wait for the connection to be closed before the actor ends.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// How often subscribers whose actors have ended are removed while there is no connection. With a
/// connection, ticks and reads of the ring remove them, at most twice in this time.
const SWEEP: Duration = Duration::from_secs(1);
