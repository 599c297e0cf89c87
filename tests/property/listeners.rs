//! The subscribers, and the properties of the messages that one of them receives.

use std::{cell::RefCell, pin::Pin, rc::Rc, sync::Arc};

use actix::{WeakAddr, prelude::*};
use actix_quorum::{
    Cause, Connection, NodeId, Quorum, QuorumChanged, QuorumHandle, Snapshot, SubscriptionId,
};
use futures_util::{FutureExt, Stream, StreamExt};
use proptest::{prelude::*, test_runner::TestCaseError};
use tokio::sync::Semaphore;

pub(crate) type Checked = Result<(), TestCaseError>;

/// The messages that one subscriber has received, oldest first.
type Messages = Rc<RefCell<Vec<QuorumChanged>>>;

/// A subscriber that keeps up.
struct Keen(Messages);

impl Actor for Keen {
    type Context = Context<Self>;
}

impl Handler<QuorumChanged> for Keen {
    type Result = ();

    fn handle(&mut self, change: QuorumChanged, _: &mut Context<Self>) {
        record(&self.0, &change);
    }
}

/// Keeps a clone, so that the message itself is dropped.
fn record(messages: &Messages, change: &QuorumChanged) {
    let mut messages = messages.borrow_mut();
    assert!(messages.len() < 200_000, "the messages do not end: {change}");
    messages.push(change.clone());
}

#[derive(Message)]
#[rtype(result = "()")]
struct End;

impl Handler<End> for Keen {
    type Result = ();

    fn handle(&mut self, _: End, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

/// A subscriber that handles a message only when the test allows it.
struct Slow {
    messages: Messages,
    gate: Rc<Semaphore>,
}

impl Actor for Slow {
    type Context = Context<Self>;
}

impl Handler<QuorumChanged> for Slow {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, change: QuorumChanged, _: &mut Context<Self>) -> Self::Result {
        let (messages, gate) = (Rc::clone(&self.messages), Rc::clone(&self.gate));
        Box::pin(async move {
            if let Ok(permit) = gate.acquire().await {
                permit.forget();
                record(&messages, &change);
            }
        })
    }
}

/// The messages of one subscriber, and how many of them are checked.
#[derive(Default)]
pub(crate) struct Received {
    messages: Messages,
    checked: usize,
    last: Option<Arc<Snapshot>>,
}

impl Received {
    pub(crate) fn len(&self) -> usize {
        self.messages.borrow().len()
    }

    pub(crate) fn last_sequence(&self) -> Option<u64> {
        self.last.as_ref().map(|last| last.sequence)
    }

    /// Returns the messages from this number on.
    pub(crate) fn since(&self, number: usize) -> Vec<QuorumChanged> {
        self.messages.borrow()[number..].to_vec()
    }

    /// Checks the new messages for the properties of every sequence of messages. `log` contains all
    /// published changes.
    fn check(&mut self, log: &[QuorumChanged]) -> Checked {
        for change in &self.since(self.checked) {
            let (previous, current) = (&change.previous, &change.current);
            match &self.last {
                None => {
                    check_first(change)?;
                    let published = log.get(number_of(current));
                    prop_assert!(
                        published.is_some_and(|other| Arc::ptr_eq(&other.current, current))
                    );
                }
                Some(last) => {
                    prop_assert!(
                        Arc::ptr_eq(previous, last),
                        "does not follow the last message: {change}"
                    );
                    prop_assert!(
                        last.connection != Connection::Stopped,
                        "a message after the end: {change}"
                    );
                    prop_assert_eq!(current.sequence, previous.sequence + 1 + change.missed);
                    prop_assert!(change.cause != Cause::Subscribed);
                    check_between(change, log)?;
                }
            }
            check_members(change)?;
            check_snapshot(current)?;
            self.last = Some(Arc::clone(current));
            self.checked += 1;
        }
        Ok(())
    }
}

fn check_first(change: &QuorumChanged) -> Checked {
    prop_assert_eq!(change.cause, Cause::Subscribed);
    prop_assert_eq!(change.previous.quorum, Quorum::Unknown);
    prop_assert!(change.previous.members.is_empty() && change.left.is_empty());
    prop_assert!(change.missed == 0 && !change.interrupted());
    prop_assert_eq!(change.is_gain(), change.current.quorum.is_quorate());
    Ok(())
}

/// Checks that one change summarizes all changes between its two states.
fn check_between(change: &QuorumChanged, log: &[QuorumChanged]) -> Checked {
    let between = &log[number_of(&change.previous) + 1..=number_of(&change.current)];
    prop_assert!(Arc::ptr_eq(&change.current, &between[between.len() - 1].current));
    prop_assert_eq!(change.cause, between[between.len() - 1].cause);
    let left: Vec<NodeId> = between.iter().flat_map(|one| one.left.iter().copied()).collect();
    let stayed = |node: &NodeId| {
        change.previous.members.contains(node) && change.current.members.contains(node)
    };
    let mut rejoined: Vec<NodeId> = left.into_iter().filter(stayed).collect();
    rejoined.sort();
    rejoined.dedup();
    prop_assert_eq!(change.rejoined().collect::<Vec<_>>(), rejoined, "rejoined: {}", change);
    prop_assert_eq!(change.interrupted(), between.iter().any(QuorumChanged::interrupted));
    let lost = between.iter().any(|one| one.is_loss() || one.cause == Cause::Disconnected);
    prop_assert!(!lost || change.interrupted(), "a loss in the same epoch: {change}");
    prop_assert!(change.previous.epoch <= change.current.epoch);
    Ok(())
}

/// Returns the position of a state among the published changes.
fn number_of(snapshot: &Snapshot) -> usize {
    usize::try_from(snapshot.sequence).expect("the sequence fits into usize")
}

/// Checks that `joined` and `left` lead from the members before to the members after.
fn check_members(change: &QuorumChanged) -> Checked {
    let (before, after) = (&change.previous.members, &change.current.members);
    for nodes in [before, after, &change.joined.to_vec(), &change.left.to_vec()] {
        prop_assert!(nodes.is_sorted_by(|a, b| a < b), "not ascending: {change:?}");
    }
    prop_assert!(
        change.left.iter().all(|node| before.contains(node)),
        "a node left that was no member: {change:?}"
    );
    let stayed = before.iter().filter(|node| !change.left.contains(node));
    let mut composed: Vec<NodeId> = stayed.chain(change.joined.iter()).copied().collect();
    composed.sort();
    prop_assert_eq!(&composed, after, "{:?}", change);
    Ok(())
}

fn check_snapshot(snapshot: &Snapshot) -> Checked {
    if snapshot.connection != Connection::Connected {
        prop_assert_eq!(snapshot.quorum, Quorum::Unknown, "not connected: {}", snapshot);
        prop_assert!(!snapshot.settled, "not connected: {snapshot}");
    }
    if snapshot.quorum.is_quorate() {
        prop_assert!(snapshot.ring_id.is_some(), "quorate without a ring: {snapshot}");
    }
    Ok(())
}

/// A subscriber that subscribes during the history, and may end during the history.
struct Extra {
    received: Received,
    /// Keeps its actor alive, if its subscription does not.
    held: Option<Addr<Keen>>,
    addr: WeakAddr<Keen>,
    id: SubscriptionId,
    /// The state at its subscription.
    since: Arc<Snapshot>,
    /// The number of its messages when it ended.
    ended: Option<usize>,
}

/// All subscribers of one actor.
pub(crate) struct Listeners {
    /// Subscribed before the start: receives every change.
    pub(crate) all: Received,
    slow: Received,
    gate: Rc<Semaphore>,
    stream: (Pin<Box<dyn Stream<Item = QuorumChanged>>>, Received),
    lazy_stream: (Pin<Box<dyn Stream<Item = QuorumChanged>>>, Received),
    extras: Vec<Extra>,
}

pub(crate) struct First {
    all: Received,
    slow: Received,
    gate: Rc<Semaphore>,
    pub(crate) recipients: [Recipient<QuorumChanged>; 2],
}

impl First {
    /// Creates the subscribers that subscribe before the start.
    pub(crate) fn new() -> Self {
        let (all, slow, gate) =
            (Received::default(), Received::default(), Rc::new(Semaphore::new(0)));
        let keen = Keen(Rc::clone(&all.messages)).start();
        let slow_actor =
            Slow { messages: Rc::clone(&slow.messages), gate: Rc::clone(&gate) }.start();
        Self { all, slow, gate, recipients: [keen.recipient(), slow_actor.recipient()] }
    }

    /// Adds the subscribers that subscribe after the start.
    pub(crate) fn started(self, quorum: &QuorumHandle) -> Listeners {
        let stream = || (Box::pin(quorum.changes().fuse()) as Pin<Box<_>>, Received::default());
        let Self { all, slow, gate, .. } = self;
        let (stream, lazy_stream) = (stream(), stream());
        Listeners { all, slow, gate, stream, lazy_stream, extras: Vec::new() }
    }
}

impl Listeners {
    pub(crate) fn subscribe(&mut self, quorum: &QuorumHandle, weak: bool) {
        let received = Received::default();
        let addr = Keen(Rc::clone(&received.messages)).start();
        let recipient = addr.clone().recipient();
        let since = quorum.snapshot();
        let id = if weak {
            quorum.subscribe(recipient.downgrade())
        } else {
            quorum.subscribe(recipient)
        };
        let (held, addr) = (weak.then(|| addr.clone()), addr.downgrade());
        self.extras.push(Extra { received, held, addr, id, since, ended: None });
    }

    /// Ends the oldest remaining subscription.
    pub(crate) fn unsubscribe(&mut self, quorum: &QuorumHandle) -> Checked {
        if let Some(extra) = self.extras.iter_mut().find(|extra| extra.ended.is_none()) {
            let stopped = quorum.snapshot().connection == Connection::Stopped;
            let subscribed = quorum.unsubscribe(extra.id);
            prop_assert!(subscribed || stopped, "the subscription existed");
            prop_assert!(!quorum.unsubscribe(extra.id), "the subscription has ended");
            extra.ended = Some(extra.received.len());
        }
        Ok(())
    }

    /// Ends the oldest remaining subscriber.
    pub(crate) fn end_subscriber(&mut self) {
        if let Some(extra) = self.extras.iter_mut().find(|extra| extra.ended.is_none()) {
            if extra.held.take().is_none()
                && let Some(addr) = extra.addr.upgrade()
            {
                addr.do_send(End);
            }
            // The actor needs a turn to end, in which it receives the waiting message.
            extra.ended = Some(usize::MAX);
        }
    }

    /// Returns the number of subscriptions while the actor has not stopped.
    pub(crate) fn subscribed(&self) -> usize {
        2 + self.extras.iter().filter(|extra| extra.ended.is_none()).count()
    }

    pub(crate) fn let_read(&mut self, messages: usize) {
        self.gate.add_permits(messages);
        drain(&mut self.lazy_stream, messages);
    }

    /// Returns the number of changes that the slow subscribers have missed.
    pub(crate) fn missed(&self) -> u64 {
        let of = |received: &Received| {
            received.messages.borrow().iter().map(|change| change.missed).sum::<u64>()
        };
        of(&self.slow) + of(&self.lazy_stream.1)
    }

    /// Checks that all subscribers that keep up have received `now`.
    pub(crate) fn check_settled(&mut self, now: &Snapshot) -> Checked {
        self.check()?;
        prop_assert_eq!(
            self.all.last_sequence(),
            Some(now.sequence),
            "the last message of the first subscriber"
        );
        prop_assert_eq!(
            self.stream.1.last_sequence(),
            Some(now.sequence),
            "the last message of the stream"
        );
        for extra in &mut self.extras {
            if extra.ended.is_some() && extra.held.is_none() {
                prop_assert!(extra.addr.upgrade().is_none(), "the subscriber's actor has ended");
            }
            match &mut extra.ended {
                Some(ended) if *ended == usize::MAX => *ended = extra.received.len(),
                Some(ended) => {
                    prop_assert_eq!(
                        extra.received.len(),
                        *ended,
                        "messages after the end of the subscriber"
                    )
                }
                None => prop_assert_eq!(extra.received.last_sequence(), Some(now.sequence)),
            }
        }
        Ok(())
    }

    /// Checks that the slow subscribers have received `now`, once they were allowed to read.
    pub(crate) fn check_ended(&mut self, now: &Snapshot) -> Checked {
        drain(&mut self.lazy_stream, usize::MAX);
        self.check_settled(now)?;
        prop_assert_eq!(
            self.slow.last_sequence(),
            Some(now.sequence),
            "the last message of the slow subscriber"
        );
        prop_assert_eq!(
            self.lazy_stream.1.last_sequence(),
            Some(now.sequence),
            "the last message of the lazy stream"
        );
        Ok(())
    }

    /// Checks that the streams have ended.
    pub(crate) fn check_streams_ended(&mut self) -> Checked {
        for (stream, _) in [&mut self.stream, &mut self.lazy_stream] {
            prop_assert!(
                matches!(stream.next().now_or_never(), Some(None)),
                "the stream has ended"
            );
        }
        Ok(())
    }

    /// Checks all messages since the last check.
    fn check(&mut self) -> Checked {
        drain(&mut self.stream, usize::MAX);
        let log = Rc::clone(&self.all.messages);
        let log = log.borrow();
        let new = log.iter().zip(0..).skip(self.all.checked);
        for (change, at) in new {
            prop_assert_eq!(
                change.current.sequence,
                at,
                "an earlier change was not received: {}",
                change
            );
        }
        self.all.check(&log)?;
        let others = [&mut self.slow, &mut self.stream.1, &mut self.lazy_stream.1];
        others.into_iter().try_for_each(|received| received.check(&log))?;
        for extra in &mut self.extras {
            extra.received.check(&log)?;
            if let Some(first) = extra.received.messages.borrow().first() {
                prop_assert!(
                    Arc::ptr_eq(&first.current, &extra.since),
                    "the first message is not the state at the subscription: {first}"
                );
            }
        }
        Ok(())
    }
}

fn drain(
    (stream, received): &mut (Pin<Box<dyn Stream<Item = QuorumChanged>>>, Received),
    messages: usize,
) {
    for _ in 0..messages {
        let Some(Some(change)) = stream.next().now_or_never() else { return };
        received.messages.borrow_mut().push(change);
    }
}
