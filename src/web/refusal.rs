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

/// The error for a refused request: this node does not have the required quorum, or cannot prove
/// that it has it.
///
/// The answer is 503 with `Retry-After` and `application/problem+json` (RFC 9457), whose `type` is
/// the address of this page. The answer also contains `quorum`, a `reason` and the `ring_id`. If
/// the reason is `inquorate` and the votes are known, its `detail` also contains the number of
/// votes and the number that is required, or that this node waits for all nodes. The answer reveals
/// nothing else about the service. The reasons are:
///
/// | `reason` | |
/// |---|---|
/// | `connecting`, `disconnected` | there is no connection to Corosync yet, or it was lost |
/// | `stalled` | Corosync, or the actor, has not answered for the length of the lease |
/// | `inquorate` | this partition of the cluster has no quorum, or a setting of the actor makes the state [`Inquorate`](crate::Quorum::Inquorate) |
/// | `unsettled` | the membership has changed, and Corosync has not decided about it yet |
/// | `ring` | the ring is re-forming, or was not found to be alive in time |
/// | `not_exclusive` | there is quorum, but another partition may have it too ([`QuorumGate::exclusive`](super::QuorumGate::exclusive)) |
/// | `unstable` | there is quorum, but it has not lasted for [`stable_after`](crate::QuorumBuilder::stable_after) yet; or the votes are not known, and [`trust_two_node`](crate::QuorumBuilder::trust_two_node) is `false` |
/// | `regained` | quorum returned while the request was refused |
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

/// The address of the page that documents the problem's members.
const PROBLEM_TYPE: &str =
    "https://docs.rs/actix-quorum/latest/actix_quorum/web/struct.NotQuorate.html";

/// The default of `Retry-After`: about as long as a ring takes to form.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(2);

impl NotQuorate {
    /// Returns the refusal for a request that needs quorum, or `exclusive` quorum.
    pub(super) fn new(quorum: &QuorumHandle, exclusive: bool, retry_after: Duration) -> Self {
        let snapshot = quorum.shared.published();
        let quorum = quorum.quorum_of(&snapshot);
        let (reason, detail) = match (&snapshot.connection, quorum) {
            (Connection::Stopped, _) => ("stopped", "this service no longer watches quorum"),
            (Connection::Connecting { .. }, _) => ("connecting", "not connected to the cluster"),
            (Connection::Disconnected { .. }, _) => {
                ("disconnected", "the connection to the cluster was lost")
            }
            (_, Quorum::Inquorate) => ("inquorate", "this node has no quorum"),
            (Connection::Connected, Quorum::Unknown)
                if matches!(snapshot.ring, RingState::Gather)
                    || snapshot.settled && snapshot.ring == RingState::Unknown =>
            {
                ("ring", "the cluster's ring is not known to be alive")
            }
            (Connection::Connected, Quorum::Unknown) if !snapshot.settled => {
                ("unsettled", "the cluster has not decided about quorum yet")
            }
            // If the lease has expired while the state is still published as quorate, the reason is
            // `stalled`.
            (Connection::Connected, Quorum::Unknown) if snapshot.quorum == Quorum::Unknown => {
                ("unstable", "quorum has not lasted long enough yet, or the votes are not known")
            }
            (_, Quorum::Quorate) if exclusive => {
                ("not_exclusive", "another partition of the cluster may have quorum too")
            }
            // Quorum may have returned since the request was refused.
            (_, Quorum::Quorate) => ("regained", "quorum has just been regained"),
            _ => ("stalled", "there is no recent answer from the cluster"),
        };
        let detail = match snapshot.shortage().filter(|_| reason == "inquorate") {
            Some(shortage) => Cow::Owned(format!("{detail}: {shortage}")),
            None => Cow::Borrowed(detail),
        };
        Self { quorum, reason, detail, ring_id: snapshot.ring_id, retry_after }
    }

    /// Returns the value of `Retry-After`: whole seconds, extended at random by up to a quarter, so
    /// that not all clients return at once.
    fn retry_after(&self) -> u64 {
        let nanos = u64::from(self.retry_after.subsec_nanos() > 0);
        let seconds = self.retry_after.as_secs().saturating_add(nanos).max(1);
        seconds.saturating_add(fastrand::u64(0..=seconds.div_ceil(4)))
    }
}

#[derive(Serialize)]
struct Problem<'a> {
    /// A problem with additional members has its own type (RFC 9457).
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
