//! Subscribers and the ids of their subscriptions.

use std::sync::atomic::{AtomicU64, Ordering};

use actix::{Recipient, WeakRecipient};

use crate::state::QuorumChanged;

/// Who can be subscribed.
///
/// The type says who keeps whom alive. A subscribed [`Recipient`] keeps its actor alive until it is
/// unsubscribed; a [`WeakRecipient`] does not: the actor ends when nobody else holds an address.
/// Either is dropped from the registry when its actor has ended.
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

/// Names one subscription, to end it. Never used twice in a process.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SubscriptionId(u64);

impl SubscriptionId {
    pub(super) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}
