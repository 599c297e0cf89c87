//! What the tracker folds: events, and the policy by which they are believed.

use std::time::{Duration, SystemTime};

use super::{Cause, Snapshot};
use crate::{
    error::Error,
    libquorum::Notification,
    link::{clock::Moment, probe::Answer, ring_watch::RingUpdate},
};

/// What happens to the actor.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A connection attempt failed, or takes suspiciously long.
    Failed { attempt: u64, error: Error },
    /// Corosync accepted us, and lived after it was asked to. Without a provider, quorum decisions
    /// have no ring. Whether the ring is `watched` is known from the beginning where it cannot be.
    Connected { has_provider: bool, asked_at: Moment, watched: bool },
    /// Corosync sent a notification, at some time after `drained_at`: nothing waited then.
    Notified { notification: Notification, drained_at: Moment },
    /// Corosync answered, and everything that it had sent before has been applied.
    Answered(Answer),
    /// The ring was looked at, and everything that Corosync had sent before has been applied.
    Ring(RingUpdate),
    /// Time has passed.
    Tick,
    /// Quorum had run out for a moment when it was extended: readers may have seen that.
    Lapsed,
    /// The connection is over.
    Disconnected(Error),
    /// The actor ends.
    Stopped,
    /// A test has set this state.
    Scripted(Box<Snapshot>, Cause),
}

/// When something happened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) wall: SystemTime,
    pub(crate) moment: Moment,
}

/// How long things are believed, and how soon.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BeliefPolicy {
    pub(crate) lease: Duration,
    pub(crate) settle_grace: Duration,
    pub(crate) stable_after: Duration,
    /// Believe one of two nodes that is quorate alone by `two_node`.
    pub(crate) trust_two_node: bool,
}
