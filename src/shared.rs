use std::{sync::Arc, time::SystemTime};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    Quorum, QuorumChanged, Snapshot,
    lease::{Clock, Lease, Moment},
    log_lines::{self, LogLines, Remarks},
    registry::{History, Registry},
    state::{Event, Now, Rules, Tracker},
};

/// What the actor publishes and everybody else reads. It outlives the actor.
#[derive(Debug)]
pub(crate) struct Shared {
    tracker: Mutex<Tracker>,
    log_lines: Mutex<LogLines>,
    pub(crate) lease: Lease,
    latest: watch::Sender<Arc<Snapshot>>,
    pub(crate) history: Arc<History>,
    pub(crate) registry: Registry,
    #[cfg(feature = "metrics")]
    pub(crate) metrics: crate::metrics::Metrics,
    #[cfg(any(feature = "metrics", feature = "web"))]
    pub(crate) names: Arc<crate::names::Names>,
    #[cfg(feature = "web")]
    pub(crate) event_clients: crate::web::EventClients,
}

impl Shared {
    pub(crate) fn new(rules: Rules, clock: Clock) -> Self {
        let tracker = Tracker::new(rules, SystemTime::now());
        let history = Arc::new(History::new(Arc::clone(tracker.current())));
        Self {
            lease: Lease::new(clock),
            latest: watch::Sender::new(Arc::clone(tracker.current())),
            registry: Registry::new(Arc::clone(&history)),
            history,
            tracker: Mutex::new(tracker),
            log_lines: Mutex::default(),
            #[cfg(feature = "metrics")]
            metrics: crate::metrics::Metrics::default(),
            #[cfg(any(feature = "metrics", feature = "web"))]
            names: Arc::default(),
            #[cfg(feature = "web")]
            event_clients: crate::web::EventClients::default(),
        }
    }

    /// Applies what happened and tells everybody, if it changed anything. Returns when time alone
    /// will change something.
    pub(crate) fn publish(&self, event: Event) -> Option<Moment> {
        let (changes, deadline) = {
            // Held until the change is in the history, so that changes are there in order.
            let mut tracker = self.tracker.lock();
            let before = self.lease.granted();
            let change = self.apply(&mut tracker, event);
            // This thread may not have run just when the lease ran out.
            let lapsed = self.lease.has_lapsed(before);
            let second = lapsed.then(|| self.apply(&mut tracker, Event::Lapsed)).flatten();
            ([change, second], tracker.deadline())
        };
        if changes.iter().any(Option::is_some) {
            self.registry.deliver();
        }
        // Last: a recorder or a logger may block, or panic.
        for (change, remarks) in changes.iter().flatten() {
            #[cfg(feature = "metrics")]
            crate::metrics::Metrics::changed(change);
            log_lines::log(change, *remarks);
        }
        #[cfg(feature = "metrics")]
        if changes.iter().any(Option::is_some) {
            self.record();
        }
        deadline
    }

    fn apply(&self, tracker: &mut Tracker, event: Event) -> Option<(QuorumChanged, Remarks)> {
        let now = Now { wall: SystemTime::now(), moment: self.lease.clock().now() };
        let change = tracker.apply(event, now);
        let current = tracker.current();
        // Before anything else: who asks from now on is not told what was true before.
        match tracker.deadline().filter(|_| current.quorum.is_quorate()) {
            Some(until) => self.lease.grant(until, tracker.exclusive_until(), current.epoch),
            None => self.lease.revoke(current.epoch),
        }
        let change = change?;
        let until = tracker.deadline().filter(|_| current.quorum.is_quorate());
        let remarks = self.log_lines.lock().remarks(&change, now.moment, until);
        self.history.push(change.clone());
        // Last: it wakes those who then look into the history.
        self.latest.send_replace(Arc::clone(&change.current));
        Some((change, remarks))
    }

    /// Records what is true now, until it is what was last published.
    #[cfg(feature = "metrics")]
    pub(crate) fn record(&self) {
        loop {
            let now = self.lease.clock().now();
            let seen = self.tracker.lock().token_seen();
            let state = crate::metrics::State {
                snapshot: self.current(),
                exclusive: self.is_exclusive(),
                token_seen: seen.map(|(seen_at, lease)| (now.since(seen_at), lease)),
                names: self.names.once_read(),
            };
            self.metrics.record(&state);
            if self.snapshot().sequence == state.snapshot.sequence {
                return;
            }
        }
    }

    pub(crate) fn is_quorate(&self) -> bool {
        self.lease.runs()
    }

    pub(crate) fn is_exclusive(&self) -> bool {
        self.lease.is_exclusive()
    }

    /// What was last published.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.latest.borrow())
    }

    /// What was last published, as the deadlines allow now.
    pub(crate) fn current(&self) -> Arc<Snapshot> {
        self.as_of_now(self.snapshot())
    }

    /// A published snapshot, whose quorum is unknown if a deadline has passed since.
    pub(crate) fn as_of_now(&self, published: Arc<Snapshot>) -> Arc<Snapshot> {
        if published.quorum.is_quorate() && !self.is_quorate() {
            return Arc::new(Snapshot { quorum: Quorum::Unknown, ..(*published).clone() });
        }
        published
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.latest.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::atomic::{AtomicBool, Ordering},
        task::{Context, Wake},
        time::Duration,
    };

    use super::*;
    use crate::{
        Code, Error,
        libquorum::{NodeId, Notification, RingId},
    };

    fn notified(notification: Notification) -> Event {
        Event::Notified { notification, drained_at: Clock::System.now() }
    }

    fn quorate(rules: Rules) -> Shared {
        let shared = Shared::new(rules, Clock::System);
        shared.publish(Event::Connected {
            has_provider: true,
            asked_at: Clock::System.now(),
            watched: false,
        });
        shared.publish(notified(Notification::Quorum {
            quorate: true,
            ring_id: RingId { node_id: NodeId(1), seq: 9 },
            members: vec![NodeId(1)],
        }));
        shared
    }

    /// On the publisher's thread, in the middle of it.
    #[test]
    fn who_is_woken_by_a_loss_reads_it() {
        struct Waiter(Arc<Shared>, AtomicBool);
        impl Wake for Waiter {
            fn wake(self: Arc<Self>) {
                assert!(!self.0.is_quorate() && self.0.lease.running_epoch().is_none());
                assert!(self.0.history.after(Some(&self.0.snapshot())).is_none());
                self.1.store(true, Ordering::Release);
            }
        }
        let hour = Duration::from_secs(3600);
        let rules = Rules {
            lease: hour,
            settle_grace: hour,
            stable_after: Duration::ZERO,
            trust_two_node: true,
        };
        let shared = Arc::new(quorate(rules));
        let waiter = Arc::new(Waiter(Arc::clone(&shared), AtomicBool::new(false)));
        let waker = Arc::clone(&waiter).into();
        let mut latest = shared.watch();
        let changed = pin!(latest.changed());
        assert!(changed.poll(&mut Context::from_waker(&waker)).is_pending());
        assert!(shared.is_quorate());
        shared.publish(Event::Lost(Error::Dispatch(Code::LIBRARY)));
        assert!(waiter.1.load(Ordering::Acquire));
    }

    /// As if this thread had been held while it extended the lease: readers have seen it run out.
    #[test]
    fn a_lease_that_is_extended_too_late_is_of_another_epoch() {
        let hour = Duration::from_secs(3600);
        let rules = Rules {
            lease: hour,
            settle_grace: hour,
            stable_after: Duration::ZERO,
            trust_two_node: true,
        };
        let shared = quorate(rules);
        let epoch = shared.lease.running_epoch().unwrap();
        shared.publish(Event::Tick);
        assert_eq!(shared.lease.running_epoch(), Some(epoch));
        shared.lease.grant(Clock::System.now(), None, epoch);
        assert!(!shared.is_quorate());
        shared.publish(Event::Tick);
        assert_eq!(shared.lease.running_epoch(), Some(epoch + 1));
        assert_eq!(shared.snapshot().epoch, epoch + 1);
    }

    #[test]
    fn who_reads_goes_by_the_grace_as_by_the_lease() {
        let (grace, lease) = (Duration::from_secs(600), Duration::from_secs(3600));
        let rules = Rules {
            lease,
            settle_grace: grace,
            stable_after: Duration::ZERO,
            trust_two_node: true,
        };
        let shared = quorate(rules);
        assert!(shared.is_quorate() && shared.lease.left() > grace);
        shared.publish(notified(Notification::Nodelist {
            ring_id: RingId { node_id: NodeId(1), seq: 13 },
            members: vec![NodeId(1)],
            joined: Vec::new(),
            left: Vec::new(),
        }));
        assert!(shared.is_quorate() && shared.lease.left() <= grace);
    }
}
