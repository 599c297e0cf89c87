//! Room 4: the subscribers, and the delivery of changes to them: in order, in bounded memory and
//! without blocking the publisher.
//!
//! Each subscriber has a position in the [`History`] of changes and at most one message in its
//! mailbox. When it has handled that message, the next one is sent, either by the publisher or by
//! the subscriber's own thread. So a slow subscriber neither delays others nor uses extra memory.
//! It receives the missed changes from the history or, if the history no longer holds them, the
//! latest state.
//!
//! This room does not choose the changes: `Shared::apply` appends each one to the history. Start
//! reading at `Subscription::deliver` in `delivery.rs`.

mod coalescing_runner;
mod delivery;
mod history;
mod subscriber;
#[cfg(test)]
mod tests;

use std::sync::Arc;
#[cfg(feature = "metrics")]
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

#[cfg(feature = "metrics")]
use self::coalescing_runner::CoalescingRunner;
use self::delivery::{Initiator, Subscription};
#[cfg(any(test, feature = "web"))]
pub(crate) use self::history::HISTORY_LEN;
pub(crate) use self::history::History;
pub use self::subscriber::{Subscriber, SubscriptionId};
#[cfg(feature = "metrics")]
use crate::{foreign, metrics::Metrics};

/// The subscribers of one actor.
#[derive(Debug)]
pub(crate) struct Registry {
    history: Arc<History>,
    /// Sorted by id, ascending. A delivery reads the list without holding the lock, so a change of
    /// the list during a delivery copies the list.
    subscriptions: Mutex<Arc<Vec<Arc<Subscription>>>>,
    /// Lets only one thread record the number of subscribers at a time.
    #[cfg(feature = "metrics")]
    counting: CoalescingRunner,
}

impl Registry {
    pub(crate) fn new(history: Arc<History>) -> Self {
        Self {
            history,
            subscriptions: Mutex::default(),
            #[cfg(feature = "metrics")]
            counting: CoalescingRunner::new(),
        }
    }

    /// Adds a subscriber and sends it the current state.
    pub(crate) fn subscribe(&self, subscriber: Subscriber) -> SubscriptionId {
        let id = SubscriptionId::next();
        let history = Arc::clone(&self.history);
        let subscription = Arc::new(Subscription::new(id, history, subscriber));
        {
            // The id was taken before the lock, so another thread may have inserted a later one.
            let mut subscriptions = self.subscriptions.lock();
            let place = subscriptions.partition_point(|other| other.id < id);
            Arc::make_mut(&mut subscriptions).insert(place, Arc::clone(&subscription));
        }
        subscription.deliver(Initiator::Publisher(None));
        self.record();
        if self.history.is_over() {
            // After the last change no publisher or tick removes ended subscribers.
            self.deliver();
        }
        id
    }

    /// Removes a subscriber. It receives no more messages, and a message that is waiting in its
    /// mailbox is taken back. If another thread is delivering to the subscriber, that thread takes
    /// the message back at the end of its delivery. Returns `false` if the subscription does not
    /// exist.
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

    /// Sends a subscriber the current state again, in place of a change that is waiting in its
    /// mailbox. Returns `false` if the subscription does not exist or its actor has died.
    pub(crate) fn resend(&self, id: SubscriptionId) -> bool {
        let subscription = {
            let subscriptions = self.subscriptions.lock();
            let place = subscriptions.binary_search_by_key(&id, |other| other.id).ok();
            place.map(|place| Arc::clone(&subscriptions[place]))
        };
        subscription.is_some_and(|subscription| subscription.start_over())
    }

    /// Sends each subscriber its next message, and removes the subscribers that have ended.
    pub(crate) fn deliver(&self) {
        let latest = self.history.latest();
        let all = Arc::clone(&self.subscriptions.lock());
        let is_dead = |subscription: &&Arc<Subscription>| {
            !subscription.deliver(Initiator::Publisher(latest.as_ref()))
        };
        let dead: Vec<SubscriptionId> = all.iter().filter(is_dead).map(|dead| dead.id).collect();
        // This reference is dropped here, so that the removal below does not copy the list.
        drop(all);
        if !dead.is_empty() {
            let mut subscriptions = self.subscriptions.lock();
            Arc::make_mut(&mut subscriptions)
                .retain(|subscription| dead.binary_search(&subscription.id).is_err());
        }
        self.record();
    }

    /// Records the number of subscribers and of merged messages in the metrics.
    fn record(&self) {
        #[cfg(feature = "metrics")]
        {
            let mut recorded = None;
            self.counting.run(|| {
                let count = self.subscriptions.lock().len();
                // Repeats only if the number has changed: the recorder may have subscribed an
                // actor.
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

    /// Returns the number of live subscribers.
    pub(crate) fn len(&self) -> usize {
        self.deliver();
        self.subscriptions.lock().len()
    }
}

/// Ends all subscriptions if the history has not ended. Without this, a subscription that is up to
/// date might never be freed: it may hold the future of its last message, and the future may hold
/// the subscription as its waker.
impl Drop for Registry {
    fn drop(&mut self) {
        if !self.history.is_over() {
            self.subscriptions.get_mut().iter().for_each(|subscription| subscription.end());
        }
    }
}
