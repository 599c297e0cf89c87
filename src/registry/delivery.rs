//! The delivery of messages to one subscriber.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Wake, Waker},
};

use actix::prelude::RecipientRequest;
use parking_lot::Mutex;
use tokio::task::coop::{Unconstrained, unconstrained};

use super::{History, Subscriber, SubscriptionId, coalescing_runner::CoalescingRunner};
use crate::state::{AckOnDrop, Acknowledge, Connection, QuorumChanged, Snapshot};

/// One subscriber, and where it is in the history.
///
/// It outlives the registry while a message is on its way: the message holds it, and has it deliver
/// the next one, up to the end of the history.
pub(super) struct Subscription {
    pub(super) id: SubscriptionId,
    history: Arc<History>,
    /// Whose turn it is to deliver.
    runner: CoalescingRunner,
    /// The number of the last message that the subscriber let go of.
    pub(super) last_acked: AtomicU64,
    /// Locked by whose turn it is, and to end it.
    pub(super) delivery: Mutex<Delivery>,
}

pub(super) struct Delivery {
    /// `None` once the subscription has ended.
    subscriber: Option<Subscriber>,
    /// What it was last sent.
    pub(super) last_sent: Option<Arc<Snapshot>>,
    /// How many messages it was sent.
    sent: u64,
    /// Resolves when the message in its mailbox has been handled, or will never be. To drop it
    /// earlier is to take the message back (actix `address/envelope.rs`). One that was handled stays
    /// until the publisher comes by, which allocated it: it is cheapest for that one to free, or to
    /// use again.
    pub(super) in_mailbox: Option<InMailbox>,
}

/// Never out of the task's budget: it would ask to be polled again at once, and for ever.
type InMailbox = Pin<Box<Unconstrained<RecipientRequest<QuorumChanged>>>>;

impl Subscription {
    pub(super) fn new(id: SubscriptionId, history: Arc<History>, subscriber: Subscriber) -> Self {
        let delivery =
            Delivery { subscriber: Some(subscriber), last_sent: None, sent: 0, in_mailbox: None };
        Self {
            id,
            history,
            runner: CoalescingRunner::new(),
            last_acked: AtomicU64::new(0),
            delivery: Mutex::new(delivery),
        }
    }

    /// Sends what is new, if its mailbox holds none of our messages; false if it has ended.
    ///
    /// Called from anywhere, also from within itself, by what it calls: then, and when another
    /// thread is at it, that one is told to look again.
    pub(super) fn deliver(self: &Arc<Self>, initiator: Initiator<'_>) -> bool {
        let deliver = || {
            let mut delivery = self.delivery.lock();
            let lives = delivery.deliver(self, initiator);
            // Dropped without the lock. The mailbox may have a waker of ours in it, which would keep
            // us, and who holds our last message must not keep its actor's address.
            let ended = (!lives).then(|| (delivery.subscriber.take(), delivery.in_mailbox.take()));
            drop(delivery);
            drop(ended);
            lives
        };
        self.runner.run(deliver).unwrap_or(true)
    }

    /// Forgets what the subscriber was sent.
    pub(super) fn start_over(&self) {
        // Dropped without the lock: that takes the message back, which delivers.
        let _waiting = {
            let mut delivery = self.delivery.lock();
            delivery.last_sent = None;
            delivery.in_mailbox.take()
        };
    }

    pub(super) fn end(&self) {
        let mut delivery = self.delivery.lock();
        let ended = (delivery.subscriber.take(), delivery.in_mailbox.take());
        drop(delivery);
        drop(ended);
    }
}

/// Who delivers.
#[derive(Clone, Copy)]
pub(super) enum Initiator<'a> {
    /// Who publishes or sweeps. With the latest change at hand it saves looking into the history.
    Publisher(Option<&'a QuorumChanged>),
    /// The subscriber's thread, which has handled a message or dropped it.
    Subscriber,
}

impl Delivery {
    fn deliver(&mut self, subscription: &Arc<Subscription>, initiator: Initiator<'_>) -> bool {
        loop {
            if self.in_mailbox.is_some() {
                // An async handler takes longer than the message that it has let go of; and who
                // keeps the message wakes us when it has handled it: see `wake`.
                if subscription.last_acked.load(Ordering::Acquire) < self.sent
                    && !self.is_handled(&Waker::from(Arc::clone(subscription)))
                {
                    // A handler's future outlives its actor, and may hold the message for ever.
                    return self.lives();
                }
                if matches!(initiator, Initiator::Subscriber) && self.is_up_to_date(subscription) {
                    return true;
                }
            }
            if self
                .last_sent
                .as_ref()
                .is_some_and(|last_sent| last_sent.connection == Connection::Stopped)
            {
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
            let latest = if let Initiator::Publisher(latest) = initiator { latest } else { None };
            let is_next = |last_sent: &mut _| {
                latest.is_some_and(|latest| Arc::ptr_eq(last_sent, &latest.previous))
            };
            let next = match (latest, self.last_sent.take_if(is_next)) {
                // As a clone, but for a count of references that this one has no need of.
                (Some(latest), Some(last_sent)) => Some(latest.clone_from_previous(last_sent)),
                _ => subscription.history.next_after(self.last_sent.as_ref()),
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
            self.last_sent = Some(Arc::clone(&change.current));
            change.receipt =
                AckOnDrop::new(Arc::clone(subscription) as Arc<dyn Acknowledge>, self.sent);
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
        self.last_sent.as_ref().is_some_and(|last_sent| {
            last_sent.connection != Connection::Stopped
                && !subscription.history.is_ahead_of(last_sent)
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
        self.deliver(Initiator::Subscriber);
    }
}

/// Called by the subscriber's thread when the message is dropped.
impl Acknowledge for Subscription {
    fn acknowledge(self: Arc<Self>, message: u64) {
        self.last_acked.fetch_max(message, Ordering::AcqRel);
        self.deliver(Initiator::Subscriber);
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("id", &self.id).finish_non_exhaustive()
    }
}
