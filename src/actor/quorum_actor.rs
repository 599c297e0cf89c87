use std::{sync::Arc, time::Duration};

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
        notifications::{LONGEST_TICK, LinkEvent, Notifications},
        probe::Probe,
        ring_watch::RingWatch,
        trust::TrustPolicy,
    },
    registry::SubscriptionId,
    state::Event,
};

/// Watches the quorum of this node and publishes each change to its subscribers.
///
/// [`builder`](Self::builder) starts it. The actor runs until it is stopped or its
/// [`System`](actix::System) ends. It keeps running when all addresses and all
/// [`QuorumHandle`](crate::QuorumHandle)s are dropped.
#[derive(Debug)]
pub struct QuorumActor {
    shared: Arc<Shared>,
    /// `None` once the actor is stopped. A stopped actor stays in memory while an address of it
    /// exists.
    source: Option<Arc<dyn Source>>,
    trust: TrustPolicy,
    probe: Option<Arc<dyn Probe>>,
    ring: Option<Arc<dyn RingWatch>>,
    probe_interval: Duration,
    blocking_worker: BlockingWorker,
    delays: Delays,
    /// The number of attempts since the last connection.
    attempt: u64,
    connected_at: Option<Instant>,
    /// The deadline of the timer that fires next.
    timer: Option<Moment>,
    /// The future that opens the connection, then the stream that reads from it.
    connection: Option<SpawnHandle>,
    /// The interval that sweeps the registry without a connection. With a connection, its ticks do.
    sweeping: Option<SpawnHandle>,
    swept_at: Instant,
    /// Keeps this actor alive when every other address is dropped.
    own_addr: Option<Addr<Self>>,
    /// The arbiter or system that was started for this actor and ends with it.
    own: Option<OwnedRuntime>,
    stopped: bool,
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
            source: Some(source),
            trust,
            probe: None,
            ring: None,
            probe_interval,
            timer: None,
            blocking_worker: BlockingWorker::default(),
            delays,
            attempt: 0,
            connected_at: None,
            sweeping: None,
            swept_at: Instant::now(),
            connection: None,
            own_addr: None,
            own,
            stopped: false,
        }
    }

    fn connect(&mut self, ctx: &mut Context<Self>) {
        let Some(source) = self.source.clone() else { return };
        self.attempt += 1;
        let connecting = source.connect(self.trust, &self.blocking_worker);
        let timeout = ctx.run_later(CONNECT_TIMEOUT, |actor, ctx| {
            let (attempt, error) = (actor.attempt, Error::Unresponsive);
            actor.publish(Event::Failed { attempt, error }, ctx);
        });
        let connecting = ctx.spawn(connecting.into_actor(self).map(move |result, actor, ctx| {
            ctx.cancel_future(timeout);
            match result.and_then(|connection| actor.watch(connection, ctx)) {
                Ok(()) => {}
                Err(error) => actor.disconnected(error, ctx),
            }
        }));
        self.connection = Some(connecting);
    }

    fn watch(
        &mut self,
        connection: Box<dyn QuorumConnection>,
        ctx: &mut Context<Self>,
    ) -> Result<(), Error> {
        let Some(source) = self.source.clone() else {
            connection.close(&self.blocking_worker);
            return Ok(());
        };
        let (has_provider, asked_at) = (connection.has_provider(), connection.asked_at());
        // All connections share one probe: its thread may still wait for the answer of an ended
        // connection.
        let probe =
            match self.probe.clone().map_or_else(|| Arc::clone(&source).probe(self.trust), Ok) {
                Ok(probe) => probe,
                Err(error) => {
                    connection.close(&self.blocking_worker);
                    return Err(error);
                }
            };
        self.probe = Some(Arc::clone(&probe));
        if self.ring.is_none() {
            self.ring = source.ring_watch(self.trust);
        }
        let (ring, watched) = (self.ring.clone(), self.ring.is_some());
        let (blocking_worker, clock) = (self.blocking_worker.clone(), self.shared.lease.clock());
        let notifications = Notifications::new(
            connection,
            blocking_worker,
            probe,
            ring,
            self.probe_interval,
            clock,
        )?;
        self.connected_at = Some(Instant::now());
        self.publish(Event::Connected { has_provider, asked_at, watched }, ctx);
        self.connection = Some(ctx.add_stream(notifications));
        if let Some(sweeping) = self.sweeping.take() {
            ctx.cancel_future(sweeping);
        }
        #[cfg(any(feature = "metrics", feature = "web"))]
        self.read_names();
        Ok(())
    }

    /// Starts a read of the node names: a change of membership may come with a change of
    /// configuration.
    #[cfg(any(feature = "metrics", feature = "web"))]
    fn read_names(&self) {
        if let Some(source) = &self.source {
            self.shared.names.read(|| source.node_names(self.trust));
        }
    }

    /// Publishes an event and sets a timer for the next deadline.
    fn publish(&mut self, event: Event, ctx: &mut Context<Self>) {
        let Some(deadline) = self.shared.publish(event) else { return };
        // The timer rounds up, so it never fires before the deadline.
        let now = self.shared.lease.clock().now();
        let delay = deadline.since(now);
        // A timer that is late, for example after a suspend, does not count: it kept the old time.
        let fires_before = |timer: Moment| timer <= deadline && timer > now;
        // The ticks of the connection cover later deadlines.
        if delay > 2 * LONGEST_TICK || self.timer.is_some_and(fires_before) {
            return;
        }
        self.timer = Some(deadline);
        ctx.run_later(delay, move |actor, ctx| {
            if actor.timer == Some(deadline) {
                actor.timer = None;
            }
            actor.publish(Event::Tick, ctx);
        });
    }

    /// Ends a connection or a connection attempt. This is the only function that does.
    ///
    /// It publishes the error and stops the actor after a delay, so that the supervisor restarts
    /// it. The delay is necessary: the supervisor restarts without one.
    fn disconnected(&mut self, error: Error, ctx: &mut Context<Self>) {
        #[cfg(feature = "metrics")]
        let ended = error.clone();
        let connected_at = self.connected_at.take();
        if let Some(since) = connected_at {
            self.delays.connection_lasted(since.elapsed());
        }
        let delay = self.delays.after(&error);
        match connected_at {
            Some(_) => {
                self.attempt = 0;
                self.publish(Event::Disconnected(error), ctx);
            }
            None => self.publish(Event::Failed { attempt: self.attempt, error }, ctx),
        }
        // After the publication: a recorder may block.
        #[cfg(feature = "metrics")]
        foreign::contain(|| match connected_at {
            Some(_) => crate::metrics::Metrics::disconnected(&ended),
            None => crate::metrics::Metrics::connect_failed(&ended),
        });
        if self.sweeping.is_none() {
            self.sweeping = Some(ctx.run_interval(SWEEP, |actor, _| actor.sweep()));
        }
        ctx.run_later(delay, |actor, ctx| {
            // A restart would drop what a stop has still to do.
            if !actor.stopped {
                ctx.stop();
            }
        });
    }

    /// Removes subscribers whose actors have ended, and records that this actor runs.
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
        if self.stopped {
            return;
        }
        self.own_addr = Some(ctx.address());
        self.sweeping = Some(ctx.run_interval(SWEEP, |actor, _| actor.sweep()));
        self.connect(ctx);
    }
}

impl Supervised for QuorumActor {
    fn restarting(&mut self, _: &mut Context<Self>) {
        self.connection = None;
        self.sweeping = None;
        self.timer = None;
    }
}

impl StreamHandler<Result<LinkEvent, Error>> for QuorumActor {
    fn handle(&mut self, item: Result<LinkEvent, Error>, ctx: &mut Context<Self>) {
        match item {
            Ok(LinkEvent::Notified { notification, drained_at }) => {
                #[cfg(any(feature = "metrics", feature = "web"))]
                let ring_id = self.shared.snapshot().ring_id;
                self.publish(Event::Notified { notification, drained_at }, ctx);
                #[cfg(any(feature = "metrics", feature = "web"))]
                if self.shared.snapshot().ring_id != ring_id {
                    self.read_names();
                }
            }
            Ok(LinkEvent::Answered(answer)) => {
                #[cfg(feature = "metrics")]
                let took = self.shared.lease.clock().now().since(answer.asked_at);
                self.publish(Event::Answered(answer), ctx);
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
            Ok(LinkEvent::Ring(update)) => self.publish(Event::Ring(update), ctx),
            Ok(LinkEvent::Tick) => {
                self.publish(Event::Tick, ctx);
                // Once a second, although ticks may be more frequent.
                if self.swept_at.elapsed() >= SWEEP / 2 {
                    self.sweep();
                }
                #[cfg(any(feature = "metrics", feature = "web"))]
                if self.shared.names.are_old() {
                    self.read_names();
                }
            }
            Err(error) => self.disconnected(error, ctx),
        }
    }

    /// Does nothing: the restart is already scheduled, and the default would restart without a
    /// delay.
    fn finished(&mut self, _: &mut Context<Self>) {}
}

impl Drop for QuorumActor {
    /// Publishes `Stopped`, however the actor ends: its arbiter stopped, its `System` ended, or it
    /// panicked. After that no reader believes the last published state.
    ///
    /// The waiting calls to Corosync are cancelled: those of the probe, the ring watch and the
    /// connection by the drop of each.
    fn drop(&mut self) {
        self.shared.publish(Event::Stopped);
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
        let id: SubscriptionId = unsubscribe.0;
        self.shared.registry.unsubscribe(id)
    }
}

impl Handler<GetSnapshot> for QuorumActor {
    type Result = MessageResult<GetSnapshot>;

    fn handle(&mut self, _: GetSnapshot, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.shared.current())
    }
}

/// Ends the actor for good, and answers when its connection is closed.
pub(crate) struct Stop(pub(crate) oneshot::Sender<()>);

impl Message for Stop {
    type Result = ();
}

impl Handler<Stop> for QuorumActor {
    type Result = ();

    fn handle(&mut self, Stop(closed): Stop, ctx: &mut Context<Self>) {
        self.stopped = true;
        self.source = None;
        #[cfg(any(feature = "metrics", feature = "web"))]
        self.shared.names.close();
        self.own_addr = None;
        if let Some(connection) = self.connection.take() {
            ctx.cancel_future(connection);
        }
        // The cancelled future is dropped before the first poll of `closing`, and so the connection
        // is already handed to the worker.
        let blocking_worker = self.blocking_worker.clone();
        let (probe, ring) = (self.probe.take(), self.ring.take());
        // Waiting calls to Corosync are cancelled now, even if `closing` times out.
        let (probe, ring) = (probe.map(|probe| probe.close()), ring.map(|ring| ring.close()));
        let closing = async move {
            blocking_worker.idle().await;
            for closed in [probe, ring].into_iter().flatten() {
                closed.await;
            }
        };
        let idle = tokio::time::timeout(CLOSE_TIMEOUT, closing);
        ctx.spawn(idle.into_actor(self).map(|idle, actor, ctx| {
            if idle.is_err() {
                crate::foreign::log!(
                    log::Level::Debug,
                    "corosync does not answer: the waiting calls end within two seconds"
                );
            }
            // Sending runs the waker of the caller of `stop`. It fails if the caller no longer
            // waits.
            foreign::contain(|| {
                let _ = closed.send(());
            });
            actor.stop_own();
            // On the caller's arbiter this ends the spawned futures, and the actor with its last
            // address.
            ctx.stop();
        }));
    }
}

/// How long Corosync may take to accept the connection before a failure is published. An attempt
/// usually takes milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait for the connection to be closed before the actor ends.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// How often subscribers whose actors have ended are removed, at the next tick.
const SWEEP: Duration = Duration::from_secs(1);
