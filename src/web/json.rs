//! The state and its changes as JSON, with the fields that [`routes`](super::routes) documents.

use std::time::{Duration, SystemTime};

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web::Query};
use serde::{Deserialize, Serialize};

use super::no_store_response;
use crate::{
    actor::QuorumHandle,
    json::{Change, History, HistoryEntry, State},
    libquorum::cmap::NodeNames,
    registry::HISTORY_LEN,
    state::{Quorum, QuorumChanged, Snapshot},
};

/// Answers `GET /quorum`.
pub(super) fn now(quorum: &QuorumHandle, _: &HttpRequest) -> HttpResponse {
    let names = quorum.node_names();
    let latest = quorum.snapshot();
    let exclusive = quorum.shared.is_exclusive_as(&latest);
    json(&State::of(&latest, (quorum.quorum_of(&latest), exclusive), &names))
}

/// Answers `GET /quorum/history`.
pub(super) fn history(quorum: &QuorumHandle, request: &HttpRequest) -> HttpResponse {
    #[derive(Deserialize)]
    struct Parameters {
        last: Option<usize>,
    }

    let parameters = Query::<Parameters>::from_query(request.query_string());
    let last = parameters.ok().map(|parameters| parameters.last.unwrap_or(100));
    let Some(last) = last.filter(|last| (1..=HISTORY_LEN).contains(last)) else {
        return no_store_response(StatusCode::BAD_REQUEST)
            .body(format!("last is the number of changes, 1 to {HISTORY_LEN}\n"));
    };
    let changes = quorum.shared.history.last(last);
    let until = changes.iter().skip(1).map(|next| Some(next.current.changed_at)).chain([None]);
    json(&History {
        changes: changes
            .iter()
            .zip(until)
            .map(|(change, until)| HistoryEntry::of(change, until))
            .collect(),
    })
}

fn json(value: &impl Serialize) -> HttpResponse {
    let body = serde_json::to_string(value).expect("all keys are strings or numbers");
    no_store_response(StatusCode::OK).content_type("application/json").body(body)
}

impl State {
    /// Returns the state with the quorum that readers see now, and whether it is exclusive.
    pub(super) fn of(
        snapshot: &Snapshot,
        (quorum, exclusive): (Quorum, bool),
        names: &NodeNames,
    ) -> Self {
        Self {
            quorum,
            connection: snapshot.connection.clone(),
            ring_id: snapshot.ring_id,
            members: snapshot.members.clone(),
            names: names.clone(),
            settled: snapshot.settled,
            ring: snapshot.ring,
            exclusive,
            fencing_token: snapshot.fencing_token().filter(|_| quorum.is_quorate()),
            epoch: snapshot.epoch,
            votes: snapshot.votes.clone(),
            shortage: snapshot
                .shortage()
                .filter(|_| quorum == Quorum::Inquorate)
                .map(|shortage| shortage.to_string()),
            local: snapshot.local,
            sequence: snapshot.sequence,
            changed_at: snapshot.changed_at,
        }
    }
}

impl Change {
    pub(super) fn of(change: &QuorumChanged, current: State) -> Self {
        Self {
            cause: change.cause,
            text: change.to_string(),
            joined: change.joined.to_vec(),
            left: change.left.to_vec(),
            missed: change.missed,
            is_loss: change.is_loss(),
            current,
        }
    }
}

impl HistoryEntry {
    pub(super) fn of(change: &QuorumChanged, until: Option<SystemTime>) -> Self {
        let current = &change.current;
        // `until` is earlier if the wall clock was set back.
        let lasted =
            |until: SystemTime| until.duration_since(current.changed_at).unwrap_or_default();
        Self {
            sequence: current.sequence,
            changed_at: current.changed_at,
            seconds: until.map(lasted).as_ref().map(Duration::as_secs_f64),
            quorum: current.quorum,
            ring_id: current.ring_id,
            members: current.members.clone(),
            joined: change.joined.to_vec(),
            left: change.left.to_vec(),
            epoch: current.epoch,
            cause: change.cause,
            text: change.to_string(),
        }
    }
}
