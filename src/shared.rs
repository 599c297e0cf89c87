use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    Snapshot,
    registry::{History, Registry},
    state::{Event, Tracker},
};

/// What the actor publishes and everybody else reads. It outlives the actor.
#[derive(Debug)]
pub(crate) struct Shared {
    tracker: Mutex<Tracker>,
    quorate: AtomicBool,
    latest: watch::Sender<Arc<Snapshot>>,
    pub(crate) history: Arc<History>,
    pub(crate) registry: Registry,
}

impl Shared {
    pub(crate) fn new() -> Self {
        let tracker = Tracker::new(SystemTime::now());
        let history = Arc::new(History::new(Arc::clone(tracker.current())));
        Self {
            quorate: AtomicBool::new(false),
            latest: watch::Sender::new(Arc::clone(tracker.current())),
            registry: Registry::new(Arc::clone(&history)),
            history,
            tracker: Mutex::new(tracker),
        }
    }

    /// Applies what happened and tells everybody, if it changed anything.
    pub(crate) fn publish(&self, event: Event) {
        let change = {
            // Held until the change is in the history, so that changes are there in order.
            let mut tracker = self.tracker.lock();
            let Some(change) = tracker.apply(event, SystemTime::now()) else { return };
            // Before anything else: who asks from now on is not told what was true before.
            self.quorate.store(change.current.quorum.is_quorate(), Ordering::Release);
            self.history.push(change.clone());
            // Last: it wakes those who then look into the history.
            self.latest.send_replace(Arc::clone(&change.current));
            change
        };
        self.registry.deliver();
        // A logger may block, or panic.
        log::info!("{change}");
    }

    pub(crate) fn is_quorate(&self) -> bool {
        self.quorate.load(Ordering::Acquire)
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.latest.borrow())
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.latest.subscribe()
    }
}
