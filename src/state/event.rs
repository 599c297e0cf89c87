//! The events that the tracker applies, and the policy that limits how long it trusts them.

use std::time::{Duration, SystemTime};

use super::{Cause, Snapshot};
use crate::{
    error::Error,
    libquorum::Notification,
    link::{clock::Moment, probe::Answer, ring_reading::RingUpdate},
};

/// An event in the life of the actor.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A connection attempt failed, or takes longer than usual.
    Failed { attempt: u64, error: Error },
    /// Corosync accepted the connection, and was alive after `asked_at`. Without a provider, quorum
    /// decisions name no ring. `watched` is false if it is known from the beginning that the ring
    /// cannot be watched.
    Connected { has_provider: bool, asked_at: Moment, watched: bool },
    /// Corosync sent a notification after `drained_at`, the last time at which the queue was empty.
    Notified { notification: Notification, drained_at: Moment },
    /// Corosync answered a probe. All notifications that it sent before have been applied.
    Answered(Answer),
    /// A read of the ring's counters has ended. All notifications that Corosync sent before have
    /// been applied.
    Ring(RingUpdate),
    /// Time has passed.
    Tick,
    /// The lease expired before it was extended, and readers may have seen it expire.
    Lapsed,
    /// The connection has ended.
    Disconnected(Error),
    /// The actor has ended.
    Stopped,
    /// A test has set this state.
    Scripted(Box<Snapshot>, Cause),
}

/// The time of an event, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) wall: SystemTime,
    pub(crate) moment: Moment,
}

/// How long evidence of quorum is trusted, and how soon a gain is published.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BeliefPolicy {
    pub(crate) lease: Duration,
    pub(crate) settle_grace: Duration,
    pub(crate) stable_after: Duration,
    /// Whether to accept that one node of a two-node cluster has quorum on its own, which
    /// `two_node: 1` allows.
    pub(crate) trust_two_node: bool,
}

impl Default for BeliefPolicy {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(5),
            settle_grace: Duration::from_secs(1),
            stable_after: Duration::ZERO,
            trust_two_node: true,
        }
    }
}
