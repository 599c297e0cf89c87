use std::sync::Arc;

use actix::{Message, Recipient, WeakRecipient};

use crate::{
    registry::{Subscriber, SubscriptionId},
    state::{QuorumChanged, Snapshot},
};

/// Subscribes an actor to [`QuorumChanged`], as
/// [`QuorumHandle::subscribe`](crate::QuorumHandle::subscribe) does.
///
/// Use it in code that has only the actor's address:
///
/// ```
/// use actix::prelude::*;
/// use actix_quorum::{GetSnapshot, QuorumActor, QuorumChanged, Subscribe, Unsubscribe};
///
/// async fn watch(
///     quorum: Addr<QuorumActor>,
///     recipient: Recipient<QuorumChanged>,
/// ) -> Result<(), MailboxError> {
///     let subscription = quorum.send(Subscribe::new(recipient)).await?;
///     println!("{}", quorum.send(GetSnapshot).await?);
///     quorum.send(Unsubscribe(subscription)).await?;
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Subscribe(
    /// The actor that receives the changes.
    pub Subscriber,
);

impl Subscribe {
    /// Creates the message that subscribes `subscriber`.
    pub fn new(subscriber: impl Into<Subscriber>) -> Self {
        Self(subscriber.into())
    }
}

impl From<Recipient<QuorumChanged>> for Subscribe {
    fn from(recipient: Recipient<QuorumChanged>) -> Self {
        Self::new(recipient)
    }
}

impl From<WeakRecipient<QuorumChanged>> for Subscribe {
    fn from(recipient: WeakRecipient<QuorumChanged>) -> Self {
        Self::new(recipient)
    }
}

impl Message for Subscribe {
    type Result = SubscriptionId;
}

/// Ends a subscription, as [`QuorumHandle::unsubscribe`](crate::QuorumHandle::unsubscribe) does.
/// The answer is `false` if the subscription does not exist.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Unsubscribe(
    /// The subscription to end.
    pub SubscriptionId,
);

impl Message for Unsubscribe {
    type Result = bool;
}

/// Asks for the latest state. [`QuorumHandle::snapshot`](crate::QuorumHandle::snapshot) returns it
/// without waiting for the actor.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct GetSnapshot;

impl Message for GetSnapshot {
    type Result = Arc<Snapshot>;
}
