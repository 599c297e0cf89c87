//! Who is told, and how: in order, without holding anybody up, in bounded memory.
//!
//! Each subscriber has a place in the [`History`] of changes and at most one message in its
//! mailbox. When it has handled that one, the next is sent, by whoever notices: the publisher or
//! the subscriber's own thread. So a subscriber that does not keep up holds nobody up and takes no
//! memory; it finds what it missed in the history or, if that has moved on, the latest state.

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

/// The subscribers.
#[derive(Debug)]
pub(crate) struct Registry {
    history: Arc<History>,
    /// Ascending by id. Copied if it changes while somebody delivers, which takes no lock.
    subscriptions: Mutex<Arc<Vec<Arc<Subscription>>>>,
    /// Whose turn it is to record how many there are.
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
            // The id was taken before the lock, so that of another thread may be in already.
            let mut subscriptions = self.subscriptions.lock();
            let place = subscriptions.partition_point(|other| other.id < id);
            Arc::make_mut(&mut subscriptions).insert(place, Arc::clone(&subscription));
        }
        subscription.deliver(Initiator::Publisher(None));
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
            subscription.deliver(Initiator::Publisher(None))
        })
    }

    /// Sends everybody what is new to them, and drops who has ended.
    pub(crate) fn deliver(&self) {
        let latest = self.history.latest();
        let all = Arc::clone(&self.subscriptions.lock());
        let is_dead =
            |one: &&Arc<Subscription>| !one.deliver(Initiator::Publisher(latest.as_ref()));
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
            self.counting.run(|| {
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
