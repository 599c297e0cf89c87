//! What everybody receives when the actor ends and nobody holds a handle any more. In real time.

use actix::{Actor, Arbiter, Context, Handler, System, clock::timeout};
use actix_quorum::{Connection, QuorumActor, QuorumChanged, QuorumHandle, sim::Cluster};
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

/// Subscribes so many actors on that arbiter.
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
fn every_subscriber_receives_the_end_of_an_actor_without_a_handle() {
    System::new().block_on(async {
        let cluster = Cluster::new(1);
        let (arbiter, others) = (Arbiter::new(), Arbiter::new());
        let quorum =
            QuorumActor::builder().source(cluster.node(1)).start_in_arbiter(&arbiter.handle());
        let subscribers = subscribe(&quorum, &others, 10);
        let stream = quorum.changes();
        timeout(DEADLINE, quorum.wait_quorate()).await.expect("quorate");
        drop(quorum);
        arbiter.stop();
        for (n, subscriber) in subscribers.into_iter().enumerate() {
            ends(&format!("subscriber {n}"), received(subscriber)).await;
        }
        ends("the stream", stream).await;
    });
}

#[test]
fn a_busy_subscriber_receives_a_loss_and_the_end_after_a_stop() {
    System::new().block_on(async {
        let cluster = Cluster::new(3);
        let others = Arbiter::new();
        let quorum = QuorumActor::builder().source(cluster.node(1)).start();
        let mut subscribers = subscribe(&quorum, &others, 1);
        timeout(DEADLINE, quorum.wait_quorate()).await.expect("quorate");
        let held = hold(&others);
        cluster.crash(1).unwrap();
        let lost = quorum.wait_for(|now| !now.quorum.is_quorate());
        timeout(DEADLINE, lost).await.expect("a loss");
        quorum.stop().await;
        drop(quorum);
        drop(held);
        ends("the subscriber", received(subscribers.remove(0))).await;
    });
}
