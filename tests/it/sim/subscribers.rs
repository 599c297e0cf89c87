//! The messages that subscribers receive when the actor ends or is stuck, or when the subscribers
//! restart. The tests run in real time.

use std::time::Duration;

use actix::{
    Actor, ActorContext, Arbiter, AsyncContext, Context, Handler, Message, Supervisor, System,
    clock::timeout,
};
use actix_quorum::{
    Cause, Connection, QuorumActor, QuorumChanged, QuorumHandle, SubscriptionId, sim::Cluster,
};
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;

use crate::support::{DEADLINE, hold};

struct Subscriber(mpsc::UnboundedSender<QuorumChanged>);

impl Actor for Subscriber {
    type Context = Context<Self>;
}

impl Handler<QuorumChanged> for Subscriber {
    type Result = ();

    fn handle(&mut self, change: QuorumChanged, _: &mut Context<Self>) {
        let _ = self.0.send(change);
    }
}

/// Starts this many actors on the arbiter and subscribes them.
fn subscribe(
    quorum: &QuorumHandle,
    arbiter: &Arbiter,
    subscribers: usize,
) -> Vec<mpsc::UnboundedReceiver<QuorumChanged>> {
    (0..subscribers)
        .map(|_| {
            let (sender, received) = mpsc::unbounded_channel();
            let subscriber =
                Subscriber::start_in_arbiter(&arbiter.handle(), |_| Subscriber(sender));
            quorum.subscribe(subscriber.recipient());
            received
        })
        .collect()
}

/// Waits for the last change.
async fn ends(what: &str, mut changes: impl Stream<Item = QuorumChanged> + Unpin) {
    loop {
        let change = timeout(DEADLINE, changes.next()).await.expect(what).expect(what);
        if change.current.connection == Connection::Stopped {
            return;
        }
    }
}

fn received(
    mut receiver: mpsc::UnboundedReceiver<QuorumChanged>,
) -> impl Stream<Item = QuorumChanged> + Unpin {
    futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx))
}

#[test]
fn every_subscriber_receives_stopped_when_an_actor_without_a_handle_ends() {
    System::new().block_on(async {
        let cluster = Cluster::new(1);
        let (arbiter, others) = (Arbiter::new(), Arbiter::new());
        let quorum =
            QuorumActor::builder().source(cluster.node(1)).start_in_arbiter(&arbiter.handle());
        let subscribers = subscribe(&quorum, &others, 10);
        let stream = quorum.changes();
        timeout(DEADLINE, quorum.wait_quorate()).await.expect("the node is quorate").unwrap();
        drop(quorum);
        arbiter.stop();
        for (n, subscriber) in subscribers.into_iter().enumerate() {
            ends(&format!("subscriber {n} receives the last change"), received(subscriber)).await;
        }
        ends("the stream contains the last change", stream).await;
    });
}

/// An actor that loses its state when it restarts.
struct Supervised {
    quorum: QuorumHandle,
    subscription: Option<SubscriptionId>,
    received: mpsc::UnboundedSender<QuorumChanged>,
}

struct Restart;

impl Message for Restart {
    type Result = ();
}

impl Actor for Supervised {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        match self.subscription {
            None => {
                self.subscription = Some(self.quorum.subscribe(ctx.address().recipient()));
            }
            Some(subscription) => assert!(self.quorum.resend(subscription)),
        }
    }
}

impl actix::Supervised for Supervised {}

impl Handler<Restart> for Supervised {
    type Result = ();

    fn handle(&mut self, _: Restart, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

impl Handler<QuorumChanged> for Supervised {
    type Result = ();

    fn handle(&mut self, change: QuorumChanged, _: &mut Context<Self>) {
        let _ = self.received.send(change);
    }
}

#[test]
fn a_supervised_subscriber_that_restarts_receives_the_current_state_again() {
    System::new().block_on(async {
        let cluster = Cluster::new(1);
        let quorum = QuorumActor::builder().source(cluster.node(1)).start();
        timeout(DEADLINE, quorum.wait_quorate()).await.expect("the node is quorate").unwrap();
        let (received, mut changes) = mpsc::unbounded_channel();
        let subscriber = Supervised { quorum: quorum.clone(), subscription: None, received };
        let subscriber = Supervisor::start(|_| subscriber);
        for _ in 0..3 {
            let mut change = timeout(DEADLINE, changes.recv()).await.unwrap().unwrap();
            while change.cause != Cause::Subscribed {
                // The votes may have been published in the meantime.
                change = timeout(DEADLINE, changes.recv()).await.unwrap().unwrap();
            }
            assert!(change.is_gain(), "not a gain: {change}");
            subscriber.do_send(Restart);
        }
        assert_eq!(quorum.subscriber_count(), 1);
        quorum.stop().await;
    });
}

#[test]
fn a_subscriber_that_was_busy_during_a_loss_and_a_stop_receives_stopped() {
    System::new().block_on(async {
        let cluster = Cluster::new(3);
        let others = Arbiter::new();
        let quorum = QuorumActor::builder().source(cluster.node(1)).start();
        let mut subscribers = subscribe(&quorum, &others, 1);
        timeout(DEADLINE, quorum.wait_quorate()).await.expect("the node is quorate").unwrap();
        let held = hold(&others);
        cluster.crash(1).unwrap();
        let lost = quorum.wait_for(|now| !now.quorum.is_quorate());
        timeout(DEADLINE, lost).await.expect("quorum is lost").unwrap();
        quorum.stop().await;
        drop(quorum);
        drop(held);
        ends("the subscriber receives the last change", received(subscribers.remove(0))).await;
    });
}

/// The actor is stuck, so it cannot publish that its lease has expired.
#[test]
fn a_subscriber_that_requests_the_state_after_the_lease_has_expired_receives_no_quorum() {
    System::new().block_on(async {
        for begin in ["changes", "subscribe", "resend"] {
            let (cluster, arbiter) = (Cluster::new(1), Arbiter::new());
            let quorum = QuorumActor::builder()
                .source(cluster.node(1))
                .lease(Duration::from_secs(1))
                .start_in_arbiter(&arbiter.handle());
            let (sender, mut first) = mpsc::unbounded_channel();
            let subscriber = Subscriber(sender).start();
            let id = (begin == "resend").then(|| quorum.subscribe(subscriber.clone().recipient()));
            timeout(DEADLINE, quorum.wait_quorate()).await.expect("the node is quorate").unwrap();
            let (unblock, blocked) = std::sync::mpsc::channel::<()>();
            arbiter.spawn_fn(move || {
                let _ = blocked.recv();
            });
            timeout(DEADLINE, quorum.guard().unwrap().lost()).await.expect("the lease expires");
            while first.try_recv().is_ok() {}
            let change = match begin {
                "changes" => quorum.changes().next().await,
                _ => {
                    match id {
                        Some(id) => assert!(quorum.resend(id)),
                        None => drop(quorum.subscribe(subscriber.recipient())),
                    }
                    timeout(DEADLINE, first.recv()).await.expect("the current state arrives")
                }
            };
            let change = change.expect("the actor is alive");
            assert!(!change.current.quorum.is_quorate(), "{begin}: {change}");
            drop(unblock);
            quorum.stop().await;
            arbiter.stop();
        }
    });
}
