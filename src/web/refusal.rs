use std::{borrow::Cow, time::Duration};

use actix_web::{
    HttpResponse, ResponseError,
    http::{StatusCode, header},
};
use serde::Serialize;

use super::no_store_response;
use crate::{
    actor::QuorumHandle,
    libquorum::RingId,
    state::{Connection, Quorum, RingState},
};

/// A request was refused: this node is not known to have quorum.
///
/// Answers 503 with `Retry-After` and `application/problem+json` (RFC 9457), whose `type` is the address
/// of this page. It tells `quorum`, a `reason` and the `ring_id`, and in its `detail`, where the votes are
/// known, how many are missing for quorum, or that this node waits for all others. It tells nothing else
/// of what is inside. The reasons are
///
/// | `reason` | |
/// |---|---|
/// | `connecting`, `disconnected` | there is no connection to Corosync, or none any more |
/// | `stalled` | Corosync, or the actor, has not been heard for the lease |
/// | `inquorate` | this partition of the cluster has no quorum |
/// | `unsettled` | the membership has changed, and the decision about it is awaited |
/// | `ring` | the ring is re-forming, or was not seen to live in time |
/// | `not_exclusive` | there is quorum, but another partition may have it too ([`QuorumGate::exclusive`](super::QuorumGate::exclusive)) |
/// | `unstable` | there is quorum, but not yet for [`stable_after`](crate::QuorumBuilder::stable_after) |
/// | `regained` | there is quorum again: it came back while the request was refused |
/// | `stopped` | the actor has ended |
#[derive(Clone, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[error("{detail}")]
pub struct NotQuorate {
    quorum: Quorum,
    reason: &'static str,
    detail: Cow<'static, str>,
    ring_id: Option<RingId>,
    retry_after: Duration,
}

/// Where the reader of a problem document finds what its members mean.
const PROBLEM_TYPE: &str =
    "https://docs.rs/actix-quorum/latest/actix_quorum/web/struct.NotQuorate.html";

/// When to try again, unless set otherwise: about as long as a ring takes to form.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(2);

impl NotQuorate {
    /// The refusal of somebody who asks for quorum, or for `exclusive` quorum.
    pub(super) fn new(quorum: &QuorumHandle, exclusive: bool, retry_after: Duration) -> Self {
        let snapshot = quorum.shared.snapshot();
        let quorum = quorum.quorum_of(&snapshot);
        let (reason, detail) = match (&snapshot.connection, quorum) {
            (Connection::Stopped, _) => ("stopped", "the service is stopping"),
            (Connection::Connecting { .. }, _) => ("connecting", "not connected to the cluster"),
            (Connection::Disconnected { .. }, _) => {
                ("disconnected", "the connection to the cluster was lost")
            }
            (_, Quorum::Inquorate) => ("inquorate", "this node's partition has no quorum"),
            (Connection::Connected, Quorum::Unknown)
                if matches!(snapshot.ring, RingState::Gather)
                    || snapshot.settled && snapshot.ring == RingState::Unknown =>
            {
                ("ring", "the cluster's ring is not known to live")
            }
            (Connection::Connected, Quorum::Unknown) if !snapshot.settled => {
                ("unsettled", "the cluster has not decided about quorum yet")
            }
            // A lease that has run out unnoticed was published as quorate.
            (Connection::Connected, Quorum::Unknown) if snapshot.quorum == Quorum::Unknown => {
                ("unstable", "quorum has not lasted long enough yet")
            }
            (_, Quorum::Quorate) if exclusive => {
                ("not_exclusive", "another partition of the cluster may have quorum too")
            }
            // It may have come back since the request was refused.
            (_, Quorum::Quorate) => ("regained", "quorum has just been regained"),
            _ => ("stalled", "the cluster does not answer"),
        };
        let detail = match snapshot.shortage().filter(|_| reason == "inquorate") {
            Some(shortage) => Cow::Owned(format!("{detail}: {shortage}")),
            None => Cow::Borrowed(detail),
        };
        Self { quorum, reason, detail, ring_id: snapshot.ring_id, retry_after }
    }

    /// Whole seconds, up to a quarter more at random, so that not all clients come back at once.
    fn retry_after(&self) -> u64 {
        let nanos = u64::from(self.retry_after.subsec_nanos() > 0);
        let seconds = self.retry_after.as_secs().saturating_add(nanos).max(1);
        seconds.saturating_add(fastrand::u64(0..=seconds.div_ceil(4)))
    }
}

#[derive(Serialize)]
struct Problem<'a> {
    /// With members of its own a problem has a type of its own (RFC 9457).
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    quorum: Quorum,
    reason: &'a str,
    ring_id: Option<RingId>,
}

impl ResponseError for NotQuorate {
    fn status_code(&self) -> StatusCode {
        StatusCode::SERVICE_UNAVAILABLE
    }

    fn error_response(&self) -> HttpResponse {
        let status = self.status_code();
        let problem = Problem {
            r#type: PROBLEM_TYPE,
            title: "This node is not known to have quorum",
            status: status.as_u16(),
            detail: &self.detail,
            quorum: self.quorum,
            reason: self.reason,
            ring_id: self.ring_id,
        };
        no_store_response(status)
            .insert_header((header::RETRY_AFTER, self.retry_after()))
            .content_type("application/problem+json")
            .body(serde_json::to_string(&problem).expect("all keys are strings"))
    }
}
