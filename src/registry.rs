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
    task::{Context, Poll, Wake, Waker},
};

use actix::{Recipient, WeakRecipient, prelude::RecipientRequest};
use parking_lot::Mutex;

use crate::{
    QuorumChanged, Snapshot,
    state::{self, Departures},
};

/// Who can be subscribed.
///
/// The type says who keeps whom alive. A subscribed [`Recipient`] keeps its actor alive until it is
/// unsubscribed; a [`WeakRecipient`] does not: the actor ends when nobody else holds an address.
/// Either is dropped from the registry when its actor has ended.
#[derive(Clone, Debug)]
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
const KEPT: usize = 256;

/// The last changes, and what is true now.
#[derive(Debug)]
pub(crate) struct History(Mutex<Record>);

#[derive(Debug)]
struct Record {
    current: Arc<Snapshot>,
    changes: VecDeque<QuorumChanged>,
    departures: Departures,
}

impl History {
    pub(crate) fn new(current: Arc<Snapshot>) -> Self {
        Self(Mutex::new(Record {
            current,
            changes: VecDeque::new(),
            departures: Departures::default(),
        }))
    }

    pub(crate) fn push(&self, change: QuorumChanged) {
        let mut record = self.0.lock();
        record.departures.note(&change);
        record.current = Arc::clone(&change.current);
        if record.changes.len() == KEPT {
            record.changes.pop_front();
        }
        record.changes.push_back(change);
    }

    /// What comes next for somebody who was last told `seen`: the current state for who was told
    /// nothing, then each change, or one in place of all that are not kept any more.
    pub(crate) fn after(&self, seen: Option<&Arc<Snapshot>>) -> Option<QuorumChanged> {
        let record = self.0.lock();
        let Some(seen) = seen else { return Some(state::first(&record.current)) };
        let behind = record.current.sequence - seen.sequence;
        let latest = record.changes.back().filter(|_| behind > 0)?;
        let next = usize::try_from(behind).ok().and_then(|n| record.changes.len().checked_sub(n));
        match next {
            Some(index) => Some(record.changes[index].clone()),
            None => Some(record.departures.conflate(seen, latest)),
        }
    }
}

/// The subscribers.
#[derive(Debug)]
pub(crate) struct Registry {
    history: Arc<History>,
    /// Ascending by id.
    subscriptions: Mutex<Vec<Arc<Subscription>>>,
}

impl Registry {
    pub(crate) fn new(history: Arc<History>) -> Self {
        Self { history, subscriptions: Mutex::default() }
    }

    /// Adds a subscriber and sends it the current state.
    pub(crate) fn subscribe(&self, subscriber: Subscriber) -> SubscriptionId {
        let id = SubscriptionId::next();
        let delivery =
            Mutex::new(Delivery { subscriber: Some(subscriber), seen: None, in_mailbox: None });
        let subscription =
            Arc::new(Subscription { id, history: Arc::clone(&self.history), delivery });
        {
            // The id was taken before the lock, so that of another thread may be in already.
            let mut subscriptions = self.subscriptions.lock();
            let place = subscriptions.partition_point(|other| other.id < id);
            subscriptions.insert(place, Arc::clone(&subscription));
        }
        subscription.deliver();
        id
    }

    /// Removes a subscriber: it is sent no more, and what waits in its mailbox is not handled.
    pub(crate) fn unsubscribe(&self, id: SubscriptionId) -> bool {
        let removed = {
            let mut subscriptions = self.subscriptions.lock();
            let place = subscriptions.binary_search_by_key(&id, |other| other.id).ok();
            place.map(|place| subscriptions.remove(place))
        };
        removed.is_some_and(|subscription| {
            subscription.end();
            true
        })
    }

    /// Sends everybody what is new to them, and drops who has ended.
    pub(crate) fn deliver(&self) {
        self.subscriptions.lock().retain(|subscription| subscription.deliver());
    }

    pub(crate) fn len(&self) -> usize {
        self.subscriptions.lock().len()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        for subscription in self.subscriptions.get_mut().drain(..) {
            subscription.end();
        }
    }
}

/// One subscriber, and where it is in the history.
struct Subscription {
    id: SubscriptionId,
    history: Arc<History>,
    delivery: Mutex<Delivery>,
}

struct Delivery {
    /// `None` once the subscription has ended.
    subscriber: Option<Subscriber>,
    /// What it was last sent.
    seen: Option<Arc<Snapshot>>,
    /// Resolves when the message in its mailbox has been handled, or will never be. To drop it
    /// earlier is to take the message back (actix `address/envelope.rs`).
    in_mailbox: Option<Pin<Box<RecipientRequest<QuorumChanged>>>>,
}

impl Subscription {
    /// Sends what is new, if its mailbox holds none of our messages; false if its actor has ended.
    fn deliver(self: &Arc<Self>) -> bool {
        let delivery = &mut *self.delivery.lock();
        loop {
            if let Some(request) = &mut delivery.in_mailbox {
                // If it has not been handled, handling it wakes us: see `wake`.
                let waker = Waker::from(Arc::clone(self));
                match request.as_mut().poll(&mut Context::from_waker(&waker)) {
                    Poll::Pending => return true,
                    Poll::Ready(_) => delivery.in_mailbox = None,
                }
            }
            let upgraded;
            let recipient = match &delivery.subscriber {
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
            let Some(change) = self.history.after(delivery.seen.as_ref()) else { return true };
            delivery.seen = Some(Arc::clone(&change.current));
            delivery.in_mailbox = Some(Box::pin(recipient.send(change)));
        }
    }

    fn end(&self) {
        let mut delivery = self.delivery.lock();
        delivery.subscriber = None;
        delivery.in_mailbox = None;
    }
}

/// Called by the subscriber's thread when it has handled the message, or dropped it.
impl Wake for Subscription {
    fn wake(self: Arc<Self>) {
        self.deliver();
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("id", &self.id).finish_non_exhaustive()
    }
}
