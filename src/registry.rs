//! Who is told, and how: in order, without holding anybody up, in bounded memory.
//!
//! Each subscriber has a place in the [`History`] of changes and at most one message in its
//! mailbox. When it has handled that one, the next is sent, by whoever notices: the publisher or
//! the subscriber's own thread. So a subscriber that does not keep up holds nobody up and takes no
//! memory; it finds what it missed in the history or, if that has moved on, the latest state.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Wake, Waker},
};

use actix::{Recipient, WeakRecipient, prelude::RecipientRequest};
use parking_lot::Mutex;
use tokio::task::coop::{Unconstrained, unconstrained};

use crate::{
    Connection, QuorumChanged, Snapshot,
    state::{self, Departures},
    turn::Turn,
};
#[cfg(feature = "metrics")]
use crate::{foreign, metrics::Metrics};

/// Who can be subscribed.
///
/// The type says who keeps whom alive. A subscribed [`Recipient`] keeps its actor alive until it is
/// unsubscribed; a [`WeakRecipient`] does not: the actor ends when nobody else holds an address.
/// Either is dropped from the registry when its actor has ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Subscriber {
    /// Keeps its actor alive.
    Strong(Recipient<QuorumChanged>),
    /// Lets its actor end.
    Weak(WeakRecipient<QuorumChanged>),
}

impl From<Recipient<QuorumChanged>> for Subscriber {
    fn from(recipient: Recipient<QuorumChanged>) -> Self {
        Self::Strong(recipient)
    }
}

impl From<WeakRecipient<QuorumChanged>> for Subscriber {
    fn from(recipient: WeakRecipient<QuorumChanged>) -> Self {
        Self::Weak(recipient)
    }
}

/// Names one subscription, to end it. Never used twice in a process.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SubscriptionId(u64);

impl SubscriptionId {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// How many changes are kept for those who read more slowly than they come.
pub(crate) const KEPT: usize = 1024;

/// The last changes, and what is true now.
#[derive(Debug)]
pub(crate) struct History {
    /// That of what is true now: most who look are up to date, and take no lock to find that out.
    sequence: AtomicU64,
    record: Mutex<Record>,
    /// How many deliveries stood for several changes, and are not recorded yet.
    #[cfg(feature = "metrics")]
    conflated: AtomicU64,
}

#[derive(Debug)]
struct Record {
    current: Arc<Snapshot>,
    changes: VecDeque<QuorumChanged>,
    departures: Departures,
}

impl History {
    pub(crate) fn new(current: Arc<Snapshot>) -> Self {
        Self {
            sequence: AtomicU64::new(current.sequence),
            record: Mutex::new(Record {
                current,
                changes: VecDeque::new(),
                departures: Departures::default(),
            }),
            #[cfg(feature = "metrics")]
            conflated: AtomicU64::new(0),
        }
    }

    pub(crate) fn push(&self, change: QuorumChanged) {
        let mut record = self.record.lock();
        record.departures.note(&change);
        record.current = Arc::clone(&change.current);
        self.sequence.store(change.current.sequence, Ordering::Release);
        if record.changes.len() == KEPT {
            record.changes.pop_front();
        }
        record.changes.push_back(change);
    }

    /// What was published last.
    pub(crate) fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.record.lock().current)
    }

    /// What comes first: the current state.
    pub(crate) fn first(&self) -> QuorumChanged {
        state::first(&self.record.lock().current)
    }

    /// What comes next for somebody who was last told `seen`: the current state for who was told
    /// nothing, then each change, or one in place of all that are not kept any more.
    pub(crate) fn after(&self, seen: Option<&Arc<Snapshot>>) -> Option<QuorumChanged> {
        if seen.is_some_and(|seen| !self.is_ahead_of(seen)) {
            return None;
        }
        let record = self.record.lock();
        let Some(seen) = seen else { return Some(state::first(&record.current)) };
        let behind = record.current.sequence - seen.sequence;
        let latest = record.changes.back().filter(|_| behind > 0)?;
        let next = usize::try_from(behind).ok().and_then(|n| record.changes.len().checked_sub(n));
        match next {
            Some(index) => Some(record.changes[index].clone()),
            None => Some(record.departures.conflate(seen, latest)),
        }
    }

    fn is_ahead_of(&self, seen: &Snapshot) -> bool {
        self.sequence.load(Ordering::Acquire) != seen.sequence
    }

    /// Whether nothing follows.
    fn is_over(&self) -> bool {
        self.record.lock().current.connection == Connection::Stopped
    }

    /// The last change, which is what comes next for who has kept up until it.
    fn latest(&self) -> Option<QuorumChanged> {
        self.record.lock().changes.back().cloned()
    }
}

#[cfg(feature = "web")]
impl History {
    /// The last changes, at most so many, the latest last.
    pub(crate) fn last(&self, most: usize) -> Vec<QuorumChanged> {
        let record = self.record.lock();
        record.changes.iter().skip(record.changes.len().saturating_sub(most)).cloned().collect()
    }

    /// What was told by the change with this sequence, if it is kept and is not the last.
    pub(crate) fn told_before_now(&self, sequence: u64) -> Option<Arc<Snapshot>> {
        let record = self.record.lock();
        let behind = record.current.sequence.checked_sub(sequence).filter(|behind| *behind > 0)?;
        let index = record.changes.len().checked_sub(usize::try_from(behind).ok()? + 1)?;
        Some(Arc::clone(&record.changes[index].current))
    }
}

/// The subscribers.
#[derive(Debug)]
pub(crate) struct Registry {
    history: Arc<History>,
    /// Ascending by id. Copied if it changes while somebody delivers, which takes no lock.
    subscriptions: Mutex<Arc<Vec<Arc<Subscription>>>>,
    /// Whose turn it is to record how many there are.
    #[cfg(feature = "metrics")]
    counting: Turn,
}

impl Registry {
    pub(crate) fn new(history: Arc<History>) -> Self {
        Self {
            history,
            subscriptions: Mutex::default(),
            #[cfg(feature = "metrics")]
            counting: Turn::new(),
        }
    }

    /// Adds a subscriber and sends it the current state.
    pub(crate) fn subscribe(&self, subscriber: Subscriber) -> SubscriptionId {
        let id = SubscriptionId::next();
        let subscription = Arc::new(Subscription {
            id,
            history: Arc::clone(&self.history),
            turn: Turn::new(),
            let_go: AtomicU64::new(0),
            delivery: Mutex::new(Delivery {
                subscriber: Some(subscriber),
                seen: None,
                sent: 0,
                in_mailbox: None,
            }),
        });
        {
            // The id was taken before the lock, so that of another thread may be in already.
            let mut subscriptions = self.subscriptions.lock();
            let place = subscriptions.partition_point(|other| other.id < id);
            Arc::make_mut(&mut subscriptions).insert(place, Arc::clone(&subscription));
        }
        subscription.deliver(By::Publisher(None));
        self.record();
        if self.history.is_over() {
            // Nobody sweeps any more.
            self.deliver();
        }
        id
    }

    /// Removes a subscriber: it is sent no more, and what waits in its mailbox is not handled.
    pub(crate) fn unsubscribe(&self, id: SubscriptionId) -> bool {
        let removed = {
            let mut subscriptions = self.subscriptions.lock();
            let place = subscriptions.binary_search_by_key(&id, |other| other.id).ok();
            place.map(|place| Arc::make_mut(&mut subscriptions).remove(place))
        };
        let Some(subscription) = removed else { return false };
        subscription.end();
        self.record();
        true
    }

    /// Sends a subscriber the current state again, in place of a change that waits in its mailbox.
    /// Returns `false` if the subscription does not exist or its actor has died.
    pub(crate) fn resend(&self, id: SubscriptionId) -> bool {
        let subscription = {
            let subscriptions = self.subscriptions.lock();
            let place = subscriptions.binary_search_by_key(&id, |other| other.id).ok();
            place.map(|place| Arc::clone(&subscriptions[place]))
        };
        subscription.is_some_and(|subscription| {
            subscription.start_over();
            subscription.deliver(By::Publisher(None))
        })
    }

    /// Sends everybody what is new to them, and drops who has ended.
    pub(crate) fn deliver(&self) {
        let latest = self.history.latest();
        let all = Arc::clone(&self.subscriptions.lock());
        let is_dead = |one: &&Arc<Subscription>| !one.deliver(By::Publisher(latest.as_ref()));
        let dead: Vec<SubscriptionId> = all.iter().filter(is_dead).map(|one| one.id).collect();
        // Or it would be copied.
        drop(all);
        if !dead.is_empty() {
            let mut subscriptions = self.subscriptions.lock();
            Arc::make_mut(&mut subscriptions).retain(|one| dead.binary_search(&one.id).is_err());
        }
        self.record();
    }

    /// Records how many there are, and which deliveries stood for several.
    fn record(&self) {
        #[cfg(feature = "metrics")]
        {
            let mut recorded = None;
            self.counting.take(|| {
                let count = self.subscriptions.lock().len();
                // Once more only if it has changed: the recorder may have subscribed somebody.
                if recorded.replace(count) == Some(count) {
                    return;
                }
                foreign::contain(|| Metrics::subscribers(count));
                let conflated = self.history.conflated.swap(0, Ordering::AcqRel);
                if conflated > 0 {
                    foreign::contain(|| Metrics::conflated(conflated));
                }
            });
        }
    }

    /// How many there are that have not ended.
    pub(crate) fn len(&self) -> usize {
        self.deliver();
        self.subscriptions.lock().len()
    }
}

/// Without an end of the history no message frees the subscriptions: one that is up to date holds its
/// last request, and that holds the subscription as its waker.
impl Drop for Registry {
    fn drop(&mut self) {
        if !self.history.is_over() {
            self.subscriptions.get_mut().iter().for_each(|subscription| subscription.end());
        }
    }
}

/// One subscriber, and where it is in the history.
///
/// It outlives the registry while a message is on its way: the message holds it, and has it deliver
/// the next one, up to the end of the history.
struct Subscription {
    id: SubscriptionId,
    history: Arc<History>,
    /// Whose turn it is to deliver.
    turn: Turn,
    /// The number of the last message that the subscriber let go of.
    let_go: AtomicU64,
    /// Locked by whose turn it is, and to end it.
    delivery: Mutex<Delivery>,
}

struct Delivery {
    /// `None` once the subscription has ended.
    subscriber: Option<Subscriber>,
    /// What it was last sent.
    seen: Option<Arc<Snapshot>>,
    /// How many messages it was sent.
    sent: u64,
    /// Resolves when the message in its mailbox has been handled, or will never be. To drop it
    /// earlier is to take the message back (actix `address/envelope.rs`). One that was handled stays
    /// until the publisher comes by, which allocated it: it is cheapest for that one to free, or to
    /// use again.
    in_mailbox: Option<InMailbox>,
}

/// Never out of the task's budget: it would ask to be polled again at once, and for ever.
type InMailbox = Pin<Box<Unconstrained<RecipientRequest<QuorumChanged>>>>;

impl Subscription {
    /// Sends what is new, if its mailbox holds none of our messages; false if it has ended.
    ///
    /// Called from anywhere, also from within itself, by what it calls: then, and when another
    /// thread is at it, that one is told to look again.
    fn deliver(self: &Arc<Self>, by: By<'_>) -> bool {
        let deliver = || {
            let mut delivery = self.delivery.lock();
            let lives = delivery.deliver(self, by);
            // Dropped without the lock. The mailbox may have a waker of ours in it, which would keep
            // us, and who holds our last message must not keep its actor's address.
            let ended = (!lives).then(|| (delivery.subscriber.take(), delivery.in_mailbox.take()));
            drop(delivery);
            drop(ended);
            lives
        };
        self.turn.take(deliver).unwrap_or(true)
    }

    /// Forgets what the subscriber was sent.
    fn start_over(&self) {
        // Dropped without the lock: that takes the message back, which delivers.
        let _waiting = {
            let mut delivery = self.delivery.lock();
            delivery.seen = None;
            delivery.in_mailbox.take()
        };
    }

    fn end(&self) {
        let mut delivery = self.delivery.lock();
        let ended = (delivery.subscriber.take(), delivery.in_mailbox.take());
        drop(delivery);
        drop(ended);
    }
}

/// Who delivers.
#[derive(Clone, Copy)]
enum By<'a> {
    /// Who publishes or sweeps. With the latest change at hand it saves looking into the history.
    Publisher(Option<&'a QuorumChanged>),
    /// The subscriber's thread, which has handled a message or dropped it.
    Subscriber,
}

impl Delivery {
    fn deliver(&mut self, subscription: &Arc<Subscription>, by: By<'_>) -> bool {
        loop {
            if self.in_mailbox.is_some() {
                // An async handler takes longer than the message that it has let go of; and who
                // keeps the message wakes us when it has handled it: see `wake`.
                if subscription.let_go.load(Ordering::Acquire) < self.sent
                    && !self.is_handled(&Waker::from(Arc::clone(subscription)))
                {
                    // A handler's future outlives its actor, and may hold the message for ever.
                    return self.lives();
                }
                if matches!(by, By::Subscriber) && self.is_up_to_date(subscription) {
                    return true;
                }
            }
            if self.seen.as_ref().is_some_and(|seen| seen.connection == Connection::Stopped) {
                // Nothing follows: let go of its actor.
                self.subscriber = None;
            }
            let upgraded;
            let recipient = match &self.subscriber {
                Some(Subscriber::Strong(recipient)) => recipient,
                Some(Subscriber::Weak(recipient)) => {
                    let Some(recipient) = recipient.upgrade() else { return false };
                    upgraded = recipient;
                    &upgraded
                }
                None => return false,
            };
            // An upgrade succeeds for a stopped actor whose address somebody holds.
            if !recipient.connected() {
                return false;
            }
            let latest = if let By::Publisher(latest) = by { latest } else { None };
            let is_next =
                |seen: &mut _| latest.is_some_and(|latest| Arc::ptr_eq(seen, &latest.previous));
            let next = match (latest, self.seen.take_if(is_next)) {
                // As a clone, but for a count of references that this one has no need of.
                (Some(latest), Some(seen)) => Some(latest.clone_from_previous(seen)),
                _ => subscription.history.after(self.seen.as_ref()),
            };
            let Some(mut change) = next else {
                self.in_mailbox = None;
                return true;
            };
            #[cfg(feature = "metrics")]
            if change.missed > 0 {
                subscription.history.conflated.fetch_add(1, Ordering::AcqRel);
            }
            self.sent += 1;
            self.seen = Some(Arc::clone(&change.current));
            change.receipt = Receipt(Some((Arc::clone(subscription), self.sent)));
            // After the last there is its actor to let go of.
            let something_follows = change.current.connection == Connection::Stopped
                || subscription.history.is_ahead_of(&change.current);
            let request = unconstrained(recipient.send(change));
            match &mut self.in_mailbox {
                Some(before) => before.set(request),
                none => *none = Some(Box::pin(request)),
            }
            // What a mailbox is too full for is only put there when it is polled. Who publishes what
            // follows looks whether this has been handled; only what follows already is for the
            // subscriber's thread to send, which is then woken for.
            if !self.is_handled(Waker::noop()) && !something_follows {
                return true;
            }
        }
    }

    /// Whether the subscription and its actor live.
    fn lives(&self) -> bool {
        match &self.subscriber {
            Some(Subscriber::Strong(recipient)) => recipient.connected(),
            Some(Subscriber::Weak(recipient)) => {
                recipient.upgrade().is_some_and(|recipient| recipient.connected())
            }
            None => false,
        }
    }

    /// Whether it has been sent all there is, and more may come.
    fn is_up_to_date(&self, subscription: &Subscription) -> bool {
        self.seen.as_ref().is_some_and(|seen| {
            seen.connection != Connection::Stopped && !subscription.history.is_ahead_of(seen)
        })
    }

    /// Whether the message in the mailbox has been handled; if not, wakes when it has.
    fn is_handled(&mut self, waker: &Waker) -> bool {
        let context = &mut Context::from_waker(waker);
        if self.in_mailbox.as_mut().is_some_and(|request| request.as_mut().poll(context).is_ready())
        {
            self.in_mailbox = None;
        }
        self.in_mailbox.is_none()
    }
}

/// Called by the subscriber's thread when it has handled the message, or dropped it.
impl Wake for Subscription {
    fn wake(self: Arc<Self>) {
        self.deliver(By::Subscriber);
    }
}

/// Part of a message that was sent: tells when it is let go of. A clone is another message.
#[derive(Default)]
pub(crate) struct Receipt(Option<(Arc<Subscription>, u64)>);

/// It is no part of what the message says.
impl PartialEq for Receipt {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Receipt {}

impl std::hash::Hash for Receipt {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

impl Clone for Receipt {
    fn clone(&self) -> Self {
        Self(None)
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some((subscription, message)) = self.0.take() {
            subscription.let_go.fetch_max(message, Ordering::AcqRel);
            subscription.deliver(By::Subscriber);
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receipt")
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::AtomicBool,
        thread,
        time::{Duration, Instant},
    };

    use actix::{
        Actor, ActorContext as _, Addr, Arbiter, Context as ActorContext, Handler, ResponseFuture,
        System,
    };
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        Cause,
        lease::{Clock, Moment},
        libquorum::{NodeId, Notification, RingId},
        shared::Shared,
        state::{Event, Rules},
    };

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Publishes `n` changes, each a flip of quorum.
    fn flip(shared: &Shared, n: u64) {
        for _ in 0..n {
            let quorate = !shared.is_quorate();
            let ring_id = RingId { node_id: NodeId(1), seq: 9 };
            shared.publish(Event::Notified {
                notification: Notification::Quorum { quorate, ring_id, members: vec![NodeId(1)] },
                drained_at: Moment::default(),
            });
        }
    }

    fn connected() -> Arc<Shared> {
        let hour = Duration::from_secs(3600);
        let rules = Rules {
            lease: hour,
            settle_grace: hour,
            stable_after: Duration::ZERO,
            trust_two_node: true,
        };
        let shared = Arc::new(Shared::new(rules, Clock::System));
        shared.publish(Event::Connected {
            has_provider: true,
            asked_at: Clock::System.now(),
            watched: false,
        });
        shared
    }

    /// Passes on what it is told; waits in the handler while it is `stuck`.
    struct Probe {
        told: mpsc::UnboundedSender<QuorumChanged>,
        stuck: Arc<AtomicBool>,
    }

    impl Probe {
        fn wait(&self) {
            while self.stuck.load(Ordering::Acquire) {
                thread::yield_now();
            }
        }
    }

    impl Actor for Probe {
        type Context = ActorContext<Self>;
    }

    impl Handler<QuorumChanged> for Probe {
        type Result = ();

        fn handle(&mut self, change: QuorumChanged, _: &mut Self::Context) {
            self.told.send(change.clone()).ok();
            self.wait();
        }
    }

    struct Told {
        addr: Option<Addr<Probe>>,
        told: mpsc::UnboundedReceiver<QuorumChanged>,
        stuck: Arc<AtomicBool>,
        arbiter: Arbiter,
    }

    /// A probe on an arbiter of its own.
    fn probe() -> Told {
        let (sender, told) = mpsc::unbounded_channel();
        let stuck = Arc::new(AtomicBool::new(false));
        let arbiter = Arbiter::new();
        let probe = Probe { told: sender, stuck: Arc::clone(&stuck) };
        let addr = Actor::start_in_arbiter(&arbiter.handle(), |_| probe);
        Told { addr: Some(addr), told, stuck, arbiter }
    }

    impl Told {
        fn recipient(&self) -> Recipient<QuorumChanged> {
            self.addr.clone().unwrap().recipient()
        }

        async fn next(&mut self) -> QuorumChanged {
            tokio::time::timeout(PATIENCE, self.told.recv()).await.expect("told in time").unwrap()
        }

        /// Ends once it was told the change with this number; checks that there is no gap and no
        /// duplicate on the way. Returns how many changes it was told and how many it missed.
        async fn up_to(&mut self, sequence: u64) -> (u64, u64) {
            let first = self.next().await;
            assert_eq!(first.cause, Cause::Subscribed);
            let (mut at, mut told, mut missed) = (first.current.sequence, 0, 0);
            while at < sequence {
                let change = self.next().await;
                assert_eq!(change.previous.sequence, at, "from what it was told before");
                assert_eq!(
                    change.current.sequence,
                    at + 1 + change.missed,
                    "no gap but the missed"
                );
                at = change.current.sequence;
                told += 1;
                missed += change.missed;
            }
            assert_eq!(at, sequence);
            (told, missed)
        }
    }

    impl Drop for Told {
        fn drop(&mut self) {
            self.stuck.store(false, Ordering::Release);
            self.arbiter.stop();
        }
    }

    async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < deadline, "not in time: {what}");
            tokio::task::yield_now().await;
        }
    }

    fn run(test: impl Future<Output = ()>) {
        System::new().block_on(test);
    }

    #[test]
    fn the_current_state_comes_first_and_then_every_change() {
        run(async {
            let shared = connected();
            flip(&shared, 1);
            let mut probe = probe();
            shared.registry.subscribe(probe.recipient().into());
            let first = probe.next().await;
            assert_eq!((first.cause, first.current.sequence), (Cause::Subscribed, 2));
            assert!(first.is_gain() && first.missed == 0);
            assert_eq!(&*first.joined, [NodeId(1)]);
            for sequence in 3..=10 {
                flip(&shared, 1);
                let change = probe.next().await;
                assert_eq!((change.current.sequence, change.missed), (sequence, 0));
                assert_eq!(change.is_loss(), sequence % 2 == 1);
            }
        });
    }

    #[test]
    fn a_subscriber_that_keeps_up_with_a_burst_misses_nothing() {
        run(async {
            let shared = connected();
            let mut probe = probe();
            shared.registry.subscribe(probe.recipient().into());
            flip(&shared, KEPT as u64);
            assert_eq!(probe.up_to(KEPT as u64 + 1).await.1, 0);
        });
    }

    #[test]
    fn there_is_no_gap_and_no_duplicate_whenever_and_wherever_one_subscribes() {
        run(async {
            let shared = connected();
            let mut probes: Vec<Told> = (0..4).map(|_| probe()).collect();
            let last = 20_001;
            thread::scope(|scope| {
                let publisher = Arc::clone(&shared);
                scope.spawn(move || flip(&publisher, last - 1));
                for probe in &probes {
                    let shared = &shared;
                    let recipient = probe.recipient();
                    scope.spawn(move || shared.registry.subscribe(recipient.into()));
                }
            });
            for probe in &mut probes {
                probe.up_to(last).await;
            }
        });
    }

    #[test]
    fn a_stuck_subscriber_takes_no_memory_and_then_gets_the_latest_state() {
        run(async {
            let shared = connected();
            let (mut stuck, mut other) = (probe(), probe());
            stuck.stuck.store(true, Ordering::Release);
            shared.registry.subscribe(stuck.recipient().into());
            shared.registry.subscribe(other.recipient().into());
            assert_eq!(stuck.next().await.current.sequence, 1);
            flip(&shared, 100_000);
            let (told, missed) = other.up_to(100_001).await;
            assert_eq!(told + missed, 100_000);
            {
                // What one subscriber can hold up is one message and one snapshot.
                let subscriptions = shared.registry.subscriptions.lock();
                let delivery = subscriptions[0].delivery.lock();
                assert!(delivery.in_mailbox.is_some());
                assert_eq!(delivery.seen.as_ref().unwrap().sequence, 1);
            }
            stuck.stuck.store(false, Ordering::Release);
            let change = stuck.next().await;
            assert_eq!((change.current.sequence, change.missed), (100_001, 99_999));
            assert_eq!(change.previous.sequence, 1);
        });
    }

    #[test]
    fn one_that_ends_leaves_nothing_behind() {
        run(async {
            let shared = connected();
            let mut probe = probe();
            probe.stuck.store(true, Ordering::Release);
            shared.registry.subscribe(probe.recipient().into());
            let left = Arc::downgrade(&shared.registry.subscriptions.lock()[0]);
            probe.next().await;
            // Who looks while a message is being handled is told when it has been.
            shared.registry.deliver();
            probe.stuck.store(false, Ordering::Release);
            let let_go = |left: Arc<Subscription>| left.let_go.load(Ordering::Acquire) > 0;
            eventually("it is handled", || left.upgrade().is_some_and(let_go)).await;
            probe.arbiter.stop();
            eventually("it is dropped", || shared.registry.len() == 0).await;
            eventually("it is freed", || left.upgrade().is_none()).await;
        });
    }

    /// Neither a handle nor the actor is left when the subscribers run again.
    #[test]
    fn every_live_subscriber_is_told_the_end_when_nobody_holds_the_registry() {
        run(async {
            let shared = connected();
            flip(&shared, 1);
            let mut probes: Vec<Told> = (0..10).map(|_| probe()).collect();
            for probe in &probes {
                probe.stuck.store(true, Ordering::Release);
                shared.registry.subscribe(probe.recipient().into());
            }
            for (n, probe) in probes.iter_mut().enumerate() {
                assert!(probe.next().await.is_gain());
                // Every other one is idle, and its arbiter is busy with something else.
                if n % 2 == 0 {
                    probe.stuck.store(false, Ordering::Release);
                    let addr = probe.addr.clone().unwrap();
                    addr.send(Barrier).await.unwrap();
                    probe.stuck.store(true, Ordering::Release);
                    addr.do_send(Barrier);
                }
            }
            flip(&shared, 1);
            shared.publish(Event::Stopped);
            let left: Vec<_> =
                shared.registry.subscriptions.lock().iter().map(Arc::downgrade).collect();
            drop(shared);
            for (n, probe) in probes.iter_mut().enumerate() {
                probe.stuck.store(false, Ordering::Release);
                assert!(probe.next().await.is_loss(), "subscriber {n}");
                let last = probe.next().await;
                assert_eq!(last.current.connection, Connection::Stopped, "subscriber {n}");
            }
            eventually("nothing is left", || left.iter().all(|left| left.upgrade().is_none()))
                .await;
        });
    }

    /// The subscription is freed without anybody to sweep it.
    #[test]
    fn a_subscriber_that_dies_after_the_registry_leaves_nothing_behind() {
        run(async {
            let shared = connected();
            let mut probe = probe();
            probe.stuck.store(true, Ordering::Release);
            shared.registry.subscribe(probe.recipient().into());
            probe.next().await;
            let left = Arc::downgrade(&shared.registry.subscriptions.lock()[0]);
            shared.publish(Event::Stopped);
            drop(shared);
            probe.arbiter.stop();
            probe.stuck.store(false, Ordering::Release);
            eventually("it is freed", || left.upgrade().is_none()).await;
        });
    }

    /// The handler's future runs beside the actor (actix `handler.rs`), and outlives it.
    #[test]
    fn a_dead_subscriber_is_dropped_while_its_handler_holds_the_message() {
        struct Holder(mpsc::UnboundedSender<u64>);
        impl Actor for Holder {
            type Context = ActorContext<Self>;
        }
        impl Handler<QuorumChanged> for Holder {
            type Result = ResponseFuture<()>;
            fn handle(&mut self, change: QuorumChanged, ctx: &mut Self::Context) -> Self::Result {
                self.0.send(change.current.sequence).ok();
                ctx.stop();
                Box::pin(async move {
                    std::future::pending::<()>().await;
                    drop(change);
                })
            }
        }
        run(async {
            let shared = connected();
            let (tell, mut told) = mpsc::unbounded_channel();
            let holder = Holder(tell).start();
            let recipient = holder.clone().recipient();
            shared.registry.subscribe(recipient.into());
            assert_eq!(told.recv().await, Some(1));
            eventually("it has died", || !holder.connected()).await;
            eventually("it is dropped", || shared.registry.len() == 0).await;
        });
    }

    #[test]
    fn nodes_that_left_for_good_are_forgotten() {
        let shared = connected();
        for node in 2..5_000_u32 {
            shared.publish(Event::Notified {
                notification: Notification::Nodelist {
                    ring_id: RingId { node_id: NodeId(1), seq: u64::from(node) },
                    members: vec![NodeId(1), NodeId(node)],
                    joined: Vec::new(),
                    left: Vec::new(),
                },
                drained_at: Moment::default(),
            });
        }
        let kept = shared.history.record.lock().departures.len();
        assert!(kept <= 2, "{kept} are kept");
    }

    /// As a supervised actor that restarts asks for, which has lost what it knew.
    #[test]
    fn the_current_state_is_sent_again_in_place_of_what_waits() {
        run(async {
            let shared = connected();
            let mut probe = probe();
            let id = shared.registry.subscribe(probe.recipient().into());
            probe.next().await;
            // Held up, so that the next change waits in its mailbox.
            probe.stuck.store(true, Ordering::Release);
            probe.addr.clone().unwrap().do_send(Barrier);
            flip(&shared, 3);
            assert!(shared.registry.resend(id));
            probe.stuck.store(false, Ordering::Release);
            let again = probe.next().await;
            assert_eq!((again.cause, again.current.sequence), (Cause::Subscribed, 4));
            assert!(again.is_gain() && again.missed == 0);
            flip(&shared, 1);
            let change = probe.next().await;
            assert_eq!((change.previous.sequence, change.current.sequence), (4, 5));
            // Also when nothing waits.
            assert!(shared.registry.resend(id));
            assert_eq!(probe.next().await.cause, Cause::Subscribed);
            shared.registry.unsubscribe(id);
            assert!(!shared.registry.resend(id));
        });
    }

    #[test]
    fn who_subscribes_when_all_is_over_is_told_so_and_leaves_nothing_behind() {
        run(async {
            let shared = connected();
            shared.publish(Event::Stopped);
            let mut probe = probe();
            for _ in 0..10 {
                shared.registry.subscribe(probe.recipient().into());
                assert_eq!(probe.next().await.current.connection, Connection::Stopped);
            }
            let subscribed = || shared.registry.subscriptions.lock().len();
            assert!(subscribed() <= 2, "{} are kept", subscribed());
        });
    }

    #[test]
    fn one_that_panics_harms_nobody_and_is_dropped() {
        struct Panics;
        impl Actor for Panics {
            type Context = ActorContext<Self>;
        }
        impl Handler<QuorumChanged> for Panics {
            type Result = ();
            fn handle(&mut self, _: QuorumChanged, _: &mut Self::Context) {
                panic!("on purpose");
            }
        }
        run(async {
            let shared = connected();
            let mut probe = probe();
            shared.registry.subscribe(Panics.start().recipient().into());
            shared.registry.subscribe(probe.recipient().into());
            flip(&shared, 10);
            probe.up_to(11).await;
            eventually("the one that panicked is dropped", || {
                shared.registry.deliver();
                shared.registry.len() == 1
            })
            .await;
        });
    }

    #[test]
    fn a_recipient_keeps_its_actor_alive_until_it_is_unsubscribed() {
        run(async {
            let shared = connected();
            let mut probe = probe();
            let weak = probe.addr.as_ref().unwrap().downgrade();
            let id = shared.registry.subscribe(probe.recipient().into());
            probe.addr = None;
            flip(&shared, 5);
            probe.up_to(6).await;
            assert!(weak.upgrade().is_some());
            assert!(shared.registry.unsubscribe(id));
            assert!(!shared.registry.unsubscribe(id), "there is none any more");
            eventually("its actor ends", || weak.upgrade().is_none()).await;
        });
    }

    #[test]
    fn a_weak_recipient_lets_its_actor_end_and_is_dropped() {
        run(async {
            let shared = connected();
            let mut probe = probe();
            let weak = probe.recipient().downgrade();
            shared.registry.subscribe(weak.into());
            flip(&shared, 5);
            probe.up_to(6).await;
            probe.addr = None;
            eventually("it is dropped", || {
                shared.registry.deliver();
                shared.registry.len() == 0
            })
            .await;
        });
    }

    #[test]
    fn nothing_is_handled_after_unsubscribing() {
        run(async {
            let shared = connected();
            let mut probe = probe();
            // Held up by another message, so that what it is to be told waits in its mailbox.
            probe.stuck.store(true, Ordering::Release);
            let addr = probe.addr.clone().unwrap();
            addr.do_send(Barrier);
            let id = shared.registry.subscribe(probe.recipient().into());
            flip(&shared, 10);
            assert!(shared.registry.subscriptions.lock()[0].delivery.lock().in_mailbox.is_some());
            assert!(shared.registry.unsubscribe(id));
            flip(&shared, 10);
            probe.stuck.store(false, Ordering::Release);
            // The mailbox is in order: an answer to this comes after anything that was in it.
            addr.send(Barrier).await.unwrap();
            assert!(probe.told.try_recv().is_err());
        });
    }

    #[test]
    fn a_long_async_handler_is_told_of_what_comes_after_it_let_go() {
        struct Leader(mpsc::UnboundedSender<QuorumChanged>);
        impl Actor for Leader {
            type Context = ActorContext<Self>;
        }
        impl Handler<QuorumChanged> for Leader {
            type Result = ResponseFuture<()>;
            fn handle(&mut self, change: QuorumChanged, _: &mut Self::Context) -> Self::Result {
                self.0.send(change.clone()).ok();
                Box::pin(std::future::pending())
            }
        }
        run(async {
            let shared = connected();
            let (leader, mut told) = mpsc::unbounded_channel();
            shared.registry.subscribe(Leader(leader).start().recipient().into());
            for sequence in 1..=5 {
                let change = tokio::time::timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
                assert_eq!((change.current.sequence, change.missed), (sequence, 0));
                flip(&shared, 1);
            }
        });
    }

    #[test]
    fn one_that_keeps_all_its_messages_is_sent_all() {
        struct Collector(Vec<QuorumChanged>, mpsc::UnboundedSender<usize>);
        impl Actor for Collector {
            type Context = ActorContext<Self>;
        }
        impl Handler<QuorumChanged> for Collector {
            type Result = ();
            fn handle(&mut self, change: QuorumChanged, _: &mut Self::Context) {
                self.0.push(change);
                self.1.send(self.0.len()).ok();
            }
        }
        run(async {
            let shared = connected();
            let (tell, mut told) = mpsc::unbounded_channel();
            shared.registry.subscribe(Collector(Vec::new(), tell).start().recipient().into());
            for n in 1..=100 {
                let kept = tokio::time::timeout(PATIENCE, told.recv()).await.unwrap();
                assert_eq!(kept, Some(n));
                flip(&shared, 1);
            }
            // Of many at once, too, nobody but itself is there to send the next.
            flip(&shared, 100);
            for n in 101..=201 {
                let kept = tokio::time::timeout(PATIENCE, told.recv()).await.unwrap();
                assert_eq!(kept, Some(n));
            }
        });
    }

    /// A task of a multi-threaded runtime that has used up its budget is woken at once, by what it
    /// polls, on its own thread.
    #[test]
    fn the_budget_of_a_task_holds_nobody_up() {
        let runtime =
            || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        System::with_tokio_rt(|| runtime().unwrap()).block_on(async {
            let shared = connected();
            let mut probe = probe();
            // Used up here, by messages that are ready.
            let (sender, mut ready) = mpsc::unbounded_channel();
            (0..1000).for_each(|n| sender.send(n).unwrap());
            for _ in 0..1000 {
                ready.recv().await.unwrap();
                shared.registry.subscribe(probe.recipient().into());
            }
            assert_eq!(shared.registry.len(), 1000);
            probe.next().await;
        });
        System::with_tokio_rt(|| runtime().unwrap()).block_on(async {
            // Used up by a subscriber on the same runtime, which catches up.
            let shared = connected();
            let (told, received) = mpsc::unbounded_channel();
            let stuck = Arc::new(AtomicBool::new(false));
            let probe = Probe { told, stuck: Arc::clone(&stuck) }.start();
            shared.registry.subscribe(probe.recipient().into());
            flip(&shared, 500);
            let arbiter = Arbiter::new();
            let mut told = Told { addr: None, told: received, stuck, arbiter };
            assert_eq!(told.up_to(501).await.1, 0);
        });
    }

    #[test]
    fn nobody_is_kept_after_the_end() {
        run(async {
            let shared = connected();
            let mut probe = probe();
            let addr = probe.addr.take().unwrap();
            let weak = addr.downgrade();
            shared.registry.subscribe(addr.recipient().into());
            assert!(weak.upgrade().is_some());
            shared.publish(Event::Stopped);
            probe.up_to(2).await;
            eventually("its actor ends", || weak.upgrade().is_none()).await;
            assert_eq!(shared.registry.len(), 0);
        });
    }

    /// Is handled as a change is, and tells nothing.
    struct Barrier;

    impl actix::Message for Barrier {
        type Result = ();
    }

    impl Handler<Barrier> for Probe {
        type Result = ();

        fn handle(&mut self, _: Barrier, _: &mut Self::Context) {
            self.wait();
        }
    }

    /// Subscribes to a registry from within its own handlers.
    #[test]
    fn a_handler_may_subscribe_and_unsubscribe() {
        struct Nested {
            shared: Arc<Shared>,
            inner: Recipient<QuorumChanged>,
            id: Option<SubscriptionId>,
        }
        impl Actor for Nested {
            type Context = ActorContext<Self>;
        }
        impl Handler<QuorumChanged> for Nested {
            type Result = ();
            fn handle(&mut self, _: QuorumChanged, _: &mut Self::Context) {
                if let Some(id) = self.id.take() {
                    self.shared.registry.unsubscribe(id);
                } else {
                    self.id = Some(self.shared.registry.subscribe(self.inner.clone().into()));
                }
            }
        }
        run(async {
            let shared = connected();
            let mut probe = probe();
            let nested =
                Nested { shared: Arc::clone(&shared), inner: probe.recipient(), id: None }.start();
            shared.registry.subscribe(nested.recipient().into());
            assert_eq!(probe.next().await.cause, Cause::Subscribed);
            flip(&shared, 1);
            eventually("unsubscribed again", || shared.registry.len() == 1).await;
        });
    }
}
