//! The last changes, from which every subscriber takes its next message.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use crate::state::{self, Connection, DepartureLog, QuorumChanged, Snapshot};

/// How many changes are kept for those who read more slowly than they come.
pub(crate) const HISTORY_LEN: usize = 1024;

/// The last changes, and what is true now.
#[derive(Debug)]
pub(crate) struct History {
    /// That of what is true now: most who look are up to date, and take no lock to find that out.
    sequence: AtomicU64,
    pub(super) record: Mutex<Record>,
    /// How many deliveries stood for several changes, and are not recorded yet.
    #[cfg(feature = "metrics")]
    pub(super) conflated: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Record {
    current: Arc<Snapshot>,
    changes: VecDeque<QuorumChanged>,
    pub(super) departures: DepartureLog,
}

impl History {
    pub(crate) fn new(current: Arc<Snapshot>) -> Self {
        Self {
            sequence: AtomicU64::new(current.sequence),
            record: Mutex::new(Record {
                current,
                changes: VecDeque::new(),
                departures: DepartureLog::default(),
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
        if record.changes.len() == HISTORY_LEN {
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

    /// What comes next for somebody who was last told `last_sent`: the current state for who was told
    /// nothing, then each change, or one in place of all that are not kept any more.
    pub(crate) fn next_after(&self, last_sent: Option<&Arc<Snapshot>>) -> Option<QuorumChanged> {
        if last_sent.is_some_and(|last_sent| !self.is_ahead_of(last_sent)) {
            return None;
        }
        let record = self.record.lock();
        let Some(last_sent) = last_sent else { return Some(state::first(&record.current)) };
        let behind = record.current.sequence - last_sent.sequence;
        let latest = record.changes.back().filter(|_| behind > 0)?;
        let next = usize::try_from(behind).ok().and_then(|n| record.changes.len().checked_sub(n));
        match next {
            Some(index) => Some(record.changes[index].clone()),
            None => Some(record.departures.conflate(last_sent, latest)),
        }
    }

    pub(super) fn is_ahead_of(&self, last_sent: &Snapshot) -> bool {
        self.sequence.load(Ordering::Acquire) != last_sent.sequence
    }

    /// Whether nothing follows.
    pub(super) fn is_over(&self) -> bool {
        self.record.lock().current.connection == Connection::Stopped
    }

    /// The last change, which is what comes next for who has kept up until it.
    pub(super) fn latest(&self) -> Option<QuorumChanged> {
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
    pub(crate) fn snapshot_at(&self, sequence: u64) -> Option<Arc<Snapshot>> {
        let record = self.record.lock();
        let behind = record.current.sequence.checked_sub(sequence).filter(|behind| *behind > 0)?;
        let index = record.changes.len().checked_sub(usize::try_from(behind).ok()? + 1)?;
        Some(Arc::clone(&record.changes[index].current))
    }
}
