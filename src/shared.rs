use std::{sync::Arc, time::SystemTime};

use log::Level;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    Cause, QuorumChanged, Snapshot,
    lease::{Clock, Lease, Moment},
    registry::{History, Registry},
    state::{Event, Now, Rules, Tracker},
};

/// What the actor publishes and everybody else reads. It outlives the actor.
#[derive(Debug)]
pub(crate) struct Shared {
    tracker: Mutex<Tracker>,
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
        let (change, deadline) = {
            // Held until the change is in the history, so that changes are there in order.
            let mut tracker = self.tracker.lock();
            let now = Now { wall: SystemTime::now(), moment: self.lease.clock().now() };
            let change = tracker.apply(event, now);
            let current = tracker.current();
            // Before anything else: who asks from now on is not told what was true before.
            if current.quorum.is_quorate() {
                self.lease.grant(tracker.lease(), current.epoch);
            } else {
                self.lease.revoke(current.epoch);
            }
            if let Some(change) = &change {
                self.history.push(change.clone());
                // Last: it wakes those who then look into the history.
                self.latest.send_replace(Arc::clone(&change.current));
            }
            (change, tracker.deadline())
        };
        if let Some(change) = change {
            #[cfg(feature = "metrics")]
            self.metrics.changed(&change, &self.names.known());
            self.registry.deliver();
            // Last: a logger may block, or panic.
            log::log!(level(&change), "{change}");
        }
        deadline
    }

    pub(crate) fn is_quorate(&self) -> bool {
        self.lease.runs()
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.latest.borrow())
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.latest.subscribe()
    }
}

/// What somebody may have to act upon is a warning.
fn level(change: &QuorumChanged) -> Level {
    match change.cause {
        Cause::Connecting | Cause::Lost | Cause::Stalled => Level::Warn,
        Cause::Votes => Level::Debug,
        _ if change.is_loss() => Level::Warn,
        _ => Level::Info,
    }
}
