//! The state and its changes in the words that [`routes`](super::routes) documents.

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web::Query};
use serde::{Deserialize, Serialize};

use super::told;
use crate::{
    QuorumHandle,
    json::{History, Past, State},
    registry::KEPT,
};

/// `GET /quorum`
pub(super) fn now(quorum: &QuorumHandle, _: &HttpRequest) -> HttpResponse {
    let names = quorum.node_names();
    let latest = quorum.snapshot();
    json(&State::of(&latest, (quorum.quorum_of(&latest), quorum.is_exclusive()), &names))
}

/// `GET /quorum/history`
pub(super) fn history(quorum: &QuorumHandle, request: &HttpRequest) -> HttpResponse {
    #[derive(Deserialize)]
    struct Wanted {
        last: Option<usize>,
    }

    let wanted = Query::<Wanted>::from_query(request.query_string());
    let last = wanted.ok().map(|wanted| wanted.last.unwrap_or(100));
    let Some(last) = last.filter(|last| (1..=KEPT).contains(last)) else {
        return told(StatusCode::BAD_REQUEST)
            .body(format!("last is how many changes are wanted, 1 to {KEPT}\n"));
    };
    let changes = quorum.shared.history.last(last);
    let until = changes.iter().skip(1).map(|next| Some(next.current.changed_at)).chain([None]);
    json(&History {
        changes: changes.iter().zip(until).map(|(change, until)| Past::of(change, until)).collect(),
    })
}

fn json(value: &impl Serialize) -> HttpResponse {
    let body = serde_json::to_string(value).expect("all keys are strings or numbers");
    told(StatusCode::OK).content_type("application/json").body(body)
}
