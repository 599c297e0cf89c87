//! The most recent changes, from which every subscriber receives its next message.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use crate::state::{self, Connection, DepartureLog, QuorumChanged, Snapshot};

/// How many changes are kept for slow subscribers.
pub(crate) const HISTORY_LEN: usize = 1024;

/// The most recent changes and the current state.
#[derive(Debug)]
pub(crate) struct History {
    /// The sequence number of the current state. It shows without the lock whether a reader is up
    /// to date.
    sequence: AtomicU64,
    pub(super) record: Mutex<Record>,
    /// The number of merged messages that were delivered and are not yet recorded in the metrics.
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

    /// Returns the last published snapshot.
    pub(crate) fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.record.lock().current)
    }

    /// Returns the first message for a new subscriber: the current state.
    pub(crate) fn first(&self) -> QuorumChanged {
        state::first(&self.record.lock().current)
    }

    /// Returns the next message for a subscriber whose last message was `last_sent`: the current
    /// state if nothing has been sent to it, otherwise the next change, or one merged change if the
    /// history no longer holds the next one. Returns `None` if the subscriber is up to date.
    pub(crate) fn next_after(&self, last_sent: Option<&Arc<Snapshot>>) -> Option<QuorumChanged> {
        if last_sent.is_some_and(|last_sent| !self.is_ahead_of(last_sent)) {
            return None;
        }
        let record = self.record.lock();
        let Some(last_sent) = last_sent else { return Some(state::first(&record.current)) };
        let behind = record.current.sequence - last_sent.sequence;
        let latest = record.changes.back()?;
        let next = usize::try_from(behind).ok().and_then(|n| record.changes.len().checked_sub(n));
        match next {
            Some(index) => record.changes.get(index).cloned(),
            None => Some(record.departures.conflate(last_sent, latest)),
        }
    }

    pub(super) fn is_ahead_of(&self, last_sent: &Snapshot) -> bool {
        self.sequence.load(Ordering::Acquire) != last_sent.sequence
    }

    /// Whether `Stopped`, after which no change follows, has been published.
    pub(super) fn is_over(&self) -> bool {
        self.record.lock().current.connection == Connection::Stopped
    }

    /// Returns the last change, which is the next message for a subscriber that was up to date
    /// before this change. Returns `None` before the first change.
    pub(super) fn latest(&self) -> Option<QuorumChanged> {
        self.record.lock().changes.back().cloned()
    }
}

#[cfg(feature = "web")]
impl History {
    /// Returns the last changes, at most `limit`, oldest first.
    pub(crate) fn last(&self, limit: usize) -> Vec<QuorumChanged> {
        let record = self.record.lock();
        record.changes.iter().skip(record.changes.len().saturating_sub(limit)).cloned().collect()
    }

    /// Returns the snapshot with this sequence number. Returns `None` if it is the current
    /// snapshot, or if the history does not hold it.
    pub(crate) fn snapshot_at(&self, sequence: u64) -> Option<Arc<Snapshot>> {
        let record = self.record.lock();
        let behind = record.current.sequence.checked_sub(sequence).filter(|behind| *behind > 0)?;
        let index = record.changes.len().checked_sub(usize::try_from(behind).ok()? + 1)?;
        Some(Arc::clone(&record.changes[index].current))
    }
}
