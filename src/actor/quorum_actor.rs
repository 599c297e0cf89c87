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

/// Watches the quorum of this node and tells its subscribers.
///
/// [`builder`](Self::builder) starts it. It lives until it is stopped or its
/// [`System`](actix::System) ends, whether or not anybody holds its address or its
/// [`QuorumHandle`](crate::QuorumHandle).
#[derive(Debug)]
pub struct QuorumActor {
    shared: Arc<Shared>,
    /// `None` once the actor is stopped, which it may be for long while somebody holds its address.
    source: Option<Arc<dyn Source>>,
    trust: TrustPolicy,
    probe: Option<Arc<dyn Probe>>,
    ring: Option<Arc<dyn RingWatch>>,
    probe_interval: Duration,
    blocking_worker: BlockingWorker,
    delays: Delays,
    /// Attempts since the last connection.
    attempt: u64,
    connected_at: Option<Instant>,
    /// When the next timer fires.
    timer: Option<Moment>,
    /// What makes the connection, and then what reads from it.
    connection: Option<SpawnHandle>,
    /// What sweeps the registry while there is no connection, whose ticks do otherwise.
    sweeping: Option<SpawnHandle>,
    swept_at: Instant,
    /// What keeps this actor alive when nobody else does.
    own_addr: Option<Addr<Self>>,
    /// What was made for this actor, and ends with it.
    own: Option<OwnedRuntime>,
    stopped: bool,
}

/// What runs one actor and nothing else.
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
        let patience = ctx.run_later(PATIENCE, |actor, ctx| {
            let (attempt, error) = (actor.attempt, Error::Unresponsive);
            actor.publish(Event::Failed { attempt, error }, ctx);
        });
        let connecting = ctx.spawn(connecting.into_actor(self).map(move |result, actor, ctx| {
            ctx.cancel_future(patience);
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
        // One for all connections: its thread may still wait for an answer to a dead one.
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

    /// Has the names of the nodes read: with the membership, the configuration may have changed.
    #[cfg(any(feature = "metrics", feature = "web"))]
    fn read_names(&self) {
        if let Some(source) = &self.source {
            self.shared.names.read(|| source.node_names(self.trust));
        }
    }

    /// Publishes, and sees to it that time is noticed when it changes something.
    fn publish(&mut self, event: Event, ctx: &mut Context<Self>) {
        let Some(deadline) = self.shared.publish(event) else { return };
        // Rounded up by the timer, so that it is not asked a moment too early.
        let now = self.shared.lease.clock().now();
        let delay = deadline.since(now);
        // Not one that is late, as after a suspend: its time went on without it.
        let comes_before = |timer: Moment| timer <= deadline && timer > now;
        // Until then there are ticks, which come here.
        if delay > 2 * LONGEST_TICK || self.timer.is_some_and(comes_before) {
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

    /// The one place where a connection, or the attempt to make one, ends: everybody is told, and
    /// the supervisor restarts the actor after a delay, since it knows none of its own.
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
        // Not before it is told: a recorder may block.
        #[cfg(feature = "metrics")]
        foreign::contain(|| match connected_at {
            Some(_) => crate::metrics::Metrics::disconnected(&ended),
            None => crate::metrics::Metrics::connect_failed(&ended),
        });
        if self.sweeping.is_none() {
            self.sweeping = Some(ctx.run_interval(SWEEP, |actor, _| actor.sweep()));
        }
        ctx.run_later(delay, |actor, ctx| {
            // What a stop has to do yet would be dropped with the restart.
            if !actor.stopped {
                ctx.stop();
            }
        });
    }

    /// Drops subscribers that have ended while nothing was told, and shows that this actor runs.
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
                        // A recorder may have been installed since.
                        crate::metrics::Metrics::describe();
                        crate::metrics::Metrics::answered(took);
                    });
                    self.shared.record();
                    // Records how many are subscribed.
                    self.sweep();
                }
            }
            Ok(LinkEvent::Ring(update)) => self.publish(Event::Ring(update), ctx),
            Ok(LinkEvent::Tick) => {
                self.publish(Event::Tick, ctx);
                // With ticks of a second, not with every other.
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

    /// The restart is scheduled already; the default would be one without a delay.
    fn finished(&mut self, _: &mut Context<Self>) {}
}

impl Drop for QuorumActor {
    /// However the actor ends (its arbiter stopped, its `System` ended, it panicked): nobody may
    /// believe what it said last.
    fn drop(&mut self) {
        self.shared.publish(Event::Stopped);
        self.stop_own();
    }
}

impl Handler<Subscribe> for QuorumActor {
    type Result = MessageResult<Subscribe>;

    fn handle(&mut self, subscribe: Subscribe, _: &mut Context<Self>) -> Self::Result {
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

/// Ends the actor for good; answers when its connection is closed.
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
        // The first poll comes after what was cancelled is dropped, and with that the connection
        // given to the connector.
        let blocking_worker = self.blocking_worker.clone();
        let (probe, ring) = (self.probe.take(), self.ring.take());
        // What waits for Corosync ends now, also if that takes longer than is waited for here.
        let (probe, ring) = (probe.map(|probe| probe.close()), ring.map(|ring| ring.close()));
        let closing = async move {
            blocking_worker.idle().await;
            for closed in [probe, ring].into_iter().flatten() {
                closed.await;
            }
        };
        let idle = tokio::time::timeout(CLOSING, closing);
        ctx.spawn(idle.into_actor(self).map(|idle, actor, ctx| {
            if idle.is_err() {
                crate::foreign::log!(
                    log::Level::Debug,
                    "corosync hangs: what waited for it ends within two seconds"
                );
            }
            // It wakes who waits. An error means that nobody does any more.
            foreign::contain(|| {
                let _ = closed.send(());
            });
            actor.stop_own();
            // On an arbiter of somebody else's: ends what is spawned, and with the last address the
            // actor.
            ctx.stop();
        }));
    }
}

/// How long Corosync may take to accept us before that is told; an attempt takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long to wait for the connection to be closed before the actor ends.
const CLOSING: Duration = Duration::from_millis(500);

/// How often the registry is asked to drop subscribers that have ended, with the tick after that.
const SWEEP: Duration = Duration::from_secs(1);
