//! The delivery of messages to one subscriber.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Wake, Waker},
};

use actix::prelude::RecipientRequest;
use parking_lot::Mutex;
use tokio::task::coop::{Unconstrained, unconstrained};

use super::{History, Subscriber, SubscriptionId, coalescing_runner::CoalescingRunner};
use crate::{
    foreign,
    state::{AckOnDrop, Acknowledge, Connection, QuorumChanged, Snapshot},
};

/// One subscriber and its position in the history.
///
/// It outlives the registry while the subscriber holds a message: the message holds the
/// subscription, which delivers the next message when this message is dropped, up to the end of the
/// history.
pub(super) struct Subscription {
    pub(super) id: SubscriptionId,
    history: Arc<History>,
    /// Lets only one thread deliver at a time.
    runner: CoalescingRunner,
    /// The number of the last message that the subscriber has dropped.
    pub(super) last_acked: AtomicU64,
    /// What the next delivery does first: one of the constants below.
    command: AtomicU8,
    /// Only the thread that delivers locks it, so no thread waits for the lock.
    ///
    /// A thread that waited could block for ever. The thread that pushes a message into a mailbox
    /// runs the waker of the mailbox's task. An actor may run on any executor
    /// (`actix::Context::into_future`), so the waker may be the user's code. That code may call
    /// this crate, or wait for another thread that does.
    pub(super) delivery: Mutex<Delivery>,
}

/// The commands to a delivery. A later one in this list replaces an earlier one.
const NOTHING: u8 = 0;
const START_OVER: u8 = 1;
const END: u8 = 2;

pub(super) struct Delivery {
    /// `None` once the subscription has ended.
    subscriber: Option<Subscriber>,
    pub(super) progress: Progress,
    /// Resolves when the message in the mailbox has been handled or never will be. Dropping it
    /// earlier takes the message back (actix `address/envelope.rs`). After the message was handled,
    /// the future stays until the next publication: the publisher allocated it, so the publisher
    /// frees or reuses it at the least cost.
    pub(super) in_mailbox: Option<InMailbox>,
}

/// How many messages have been sent to a subscriber, and the snapshot of the last one.
#[derive(Default)]
pub(super) struct Progress {
    /// The snapshot of the last message that was sent.
    pub(super) last_sent: Option<Arc<Snapshot>>,
    /// The number of messages that were sent. It is also the number of the last one.
    sent: u64,
}

/// The future of `Recipient::send`, which holds a message in the mailbox. It is exempt from the
/// budget of tokio's tasks: with an exhausted budget, each poll would wake the delivery again at
/// once, for ever.
type InMailbox = Pin<Box<Unconstrained<RecipientRequest<QuorumChanged>>>>;

impl Subscription {
    pub(super) fn new(id: SubscriptionId, history: Arc<History>, subscriber: Subscriber) -> Self {
        let delivery = Delivery {
            subscriber: Some(subscriber),
            progress: Progress::default(),
            in_mailbox: None,
        };
        Self {
            id,
            history,
            runner: CoalescingRunner::new(),
            last_acked: AtomicU64::new(0),
            command: AtomicU8::new(NOTHING),
            delivery: Mutex::new(delivery),
        }
    }

    /// Executes a stored command, and then sends the next message if the subscriber has handled the
    /// last one. Returns `false` if the subscription has ended.
    ///
    /// Any thread may call this, even from code that runs during a delivery. If a delivery is
    /// already running, that delivery is repeated, and this call returns `true`.
    pub(super) fn deliver(self: &Arc<Self>, initiator: Initiator<'_>) -> bool {
        let deliver = || {
            let mut delivery = self.delivery.lock();
            // The panic of a waker ends the subscription, because it is not known whether the
            // message was sent.
            let is_alive = match self.take_command() {
                END => false,
                command => foreign::contained(|| {
                    if command == START_OVER {
                        delivery.start_over();
                    }
                    delivery.deliver(self, initiator)
                })
                .unwrap_or_default(),
            };
            // `ended` is dropped without the lock, because the drop may run the user's code. Both
            // values must be dropped, because each may be part of a cycle: a message that the
            // subscriber keeps holds this subscription and so the subscriber's address, and the
            // mailbox may hold a waker that holds this subscription.
            let ended =
                (!is_alive).then(|| (delivery.subscriber.take(), delivery.in_mailbox.take()));
            drop(delivery);
            // Dropping the last address wakes the actor.
            foreign::contain(|| drop(ended));
            is_alive
        };
        self.runner.run(deliver).unwrap_or(true)
    }

    /// Sends the current state again, as if the subscriber had been sent nothing. Returns `false`
    /// if the subscription has ended.
    pub(super) fn start_over(self: &Arc<Self>) -> bool {
        self.submit(START_OVER)
    }

    pub(super) fn end(self: &Arc<Self>) {
        self.submit(END);
    }

    /// Stores a command and starts a delivery, which executes the command first. If a delivery is
    /// already running, it executes the command before it ends. This thread does not wait for that
    /// delivery, because the delivery may be waiting for this thread, or may have called this
    /// function. Returns `false` if the subscription has ended.
    fn submit(self: &Arc<Self>, command: u8) -> bool {
        self.command.fetch_max(command, Ordering::AcqRel);
        self.deliver(Initiator::Publisher(None))
    }

    fn take_command(&self) -> u8 {
        // A load is cheaper than a swap. A command stored after the load is taken by the next run.
        if self.command.load(Ordering::Acquire) == NOTHING {
            return NOTHING;
        }
        self.command.swap(NOTHING, Ordering::AcqRel)
    }
}

/// The caller of a delivery.
#[derive(Clone, Copy)]
pub(super) enum Initiator<'a> {
    /// A thread that publishes a change, submits a command or looks for ended subscriptions. If it
    /// knows the latest change and this change is next, the history is not read.
    Publisher(Option<&'a QuorumChanged>),
    /// The subscriber's thread, which has handled or dropped a message.
    Subscriber,
}

impl Delivery {
    /// Starts with the current state again, and takes back the message that is waiting in the
    /// mailbox.
    fn start_over(&mut self) {
        self.progress.last_sent = None;
        self.in_mailbox = None;
    }

    /// Sends the next message if the subscriber has handled or dropped the previous one. Returns
    /// `false` if the subscription has ended.
    ///
    /// The first row that applies decides:
    ///
    /// | case | what happens | returns |
    /// |---|---|---|
    /// | the last message is not handled | handling it wakes the subscription | `is_alive` |
    /// | the subscriber's thread calls, and everything was sent | `in_mailbox` is kept | `true` |
    /// | `Stopped` was sent, so nothing follows | the subscriber's address is dropped | `false` |
    /// | the subscriber's actor has ended | nothing is sent | `false` |
    /// | everything was sent | `in_mailbox` is freed | `true` |
    /// | a message is next | it is sent | `true` |
    ///
    /// After the last row the table applies again, if the message was handled immediately or
    /// another one already follows it.
    fn deliver(&mut self, subscription: &Arc<Subscription>, initiator: Initiator<'_>) -> bool {
        loop {
            if self.in_mailbox.is_some() {
                // An async handler may continue after it has dropped the message. A subscriber that
                // keeps the message wakes the subscription at the end of the handler: see `wake`.
                if subscription.last_acked.load(Ordering::Acquire) < self.progress.sent
                    && !self.is_handled(&Waker::from(Arc::clone(subscription)))
                {
                    // The future of a handler outlives its actor, and may hold the message for
                    // ever.
                    return self.is_alive();
                }
                if matches!(initiator, Initiator::Subscriber)
                    && self.progress.is_up_to_date(&subscription.history)
                {
                    return true;
                }
            }
            if self.progress.has_ended() {
                // The last message was sent: the subscriber's actor is no longer kept alive.
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
            // An upgrade succeeds for a stopped actor while an address of it exists.
            if !recipient.connected() {
                return false;
            }
            let latest = if let Initiator::Publisher(latest) = initiator { latest } else { None };
            let Some(change) = self.progress.next_message(subscription, latest) else {
                self.in_mailbox = None;
                return true;
            };
            // After the last message the loop runs once more, to release the subscriber's actor.
            let something_follows = change.current.connection == Connection::Stopped
                || subscription.history.is_ahead_of(&change.current);
            let request = unconstrained(recipient.send(change));
            match &mut self.in_mailbox {
                Some(before) => before.set(request),
                none => *none = Some(Box::pin(request)),
            }
            // A full mailbox takes the message only when the request is polled. The publisher of
            // the next change checks later whether this message was handled. If another message
            // already follows, the subscriber's thread sends it, and the loop registers a waker.
            if !self.is_handled(Waker::noop()) && !something_follows {
                return true;
            }
        }
    }

    /// Whether the subscription has not ended and its actor is alive.
    fn is_alive(&self) -> bool {
        match &self.subscriber {
            Some(Subscriber::Strong(recipient)) => recipient.connected(),
            Some(Subscriber::Weak(recipient)) => {
                recipient.upgrade().is_some_and(|recipient| recipient.connected())
            }
            None => false,
        }
    }

    /// Whether the message in the mailbox has been handled. If not, `waker` is woken later.
    fn is_handled(&mut self, waker: &Waker) -> bool {
        let context = &mut Context::from_waker(waker);
        if self.in_mailbox.as_mut().is_some_and(|request| request.as_mut().poll(context).is_ready())
        {
            self.in_mailbox = None;
        }
        self.in_mailbox.is_none()
    }
}

impl Progress {
    /// Returns the next message, or `None` if the subscriber has been sent all messages. If
    /// `latest` is the next change, the history is not read.
    fn next_message(
        &mut self,
        subscription: &Arc<Subscription>,
        latest: Option<&QuorumChanged>,
    ) -> Option<QuorumChanged> {
        let is_next = |last_sent: &mut _| {
            latest.is_some_and(|latest| Arc::ptr_eq(last_sent, &latest.previous))
        };
        let next = match (latest, self.last_sent.take_if(is_next)) {
            // This is cheaper than a clone, because it reuses the reference to the previous
            // snapshot.
            (Some(latest), Some(last_sent)) => Some(latest.clone_from_previous(last_sent)),
            _ => subscription.history.next_after(self.last_sent.as_ref()),
        };
        let mut change = next?;
        #[cfg(feature = "metrics")]
        if change.missed > 0 {
            subscription.history.conflated.fetch_add(1, Ordering::AcqRel);
        }
        self.sent += 1;
        self.last_sent = Some(Arc::clone(&change.current));
        let acknowledge = Arc::clone(subscription) as Arc<dyn Acknowledge>;
        change.receipt = AckOnDrop::new(acknowledge, self.sent);
        Some(change)
    }

    /// Whether the subscriber has been sent every change so far, and more changes may follow.
    fn is_up_to_date(&self, history: &History) -> bool {
        self.last_sent.as_ref().is_some_and(|last_sent| {
            last_sent.connection != Connection::Stopped && !history.is_ahead_of(last_sent)
        })
    }

    /// Whether the last message, which reports the end of the actor, has been sent.
    fn has_ended(&self) -> bool {
        self.last_sent.as_ref().is_some_and(|last_sent| last_sent.connection == Connection::Stopped)
    }
}

/// The subscriber's thread calls `wake` when it has handled or dropped the message.
impl Wake for Subscription {
    fn wake(self: Arc<Self>) {
        self.deliver(Initiator::Subscriber);
    }
}

/// The subscriber's thread calls `acknowledge` when it drops the message.
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
