//! Subscribers and the ids of their subscriptions.

use std::sync::atomic::{AtomicU64, Ordering};

use actix::{Recipient, WeakRecipient};

use crate::state::QuorumChanged;

/// The actor of a subscription, which receives the changes.
///
/// The variant decides whether the subscription keeps the actor alive. A [`Recipient`] keeps its
/// actor alive until the subscription ends. A [`WeakRecipient`] does not: the actor ends with its
/// last address. In both cases the subscription ends when the actor ends, at the latest.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Subscriber {
    /// Keeps its actor alive.
    Strong(Recipient<QuorumChanged>),
    /// Lets its actor end.
    Weak(WeakRecipient<QuorumChanged>),
}

impl From<Recipient<QuorumChanged>> for Subscriber {
    fn from(recipient: Recipient<QuorumChanged>) -> Self {
        Self::Strong(recipient)
    }
}

impl From<WeakRecipient<QuorumChanged>> for Subscriber {
    fn from(recipient: WeakRecipient<QuorumChanged>) -> Self {
        Self::Weak(recipient)
    }
}

/// Identifies one subscription. An id is never reused within a process.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SubscriptionId(u64);

impl SubscriptionId {
    pub(super) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}
