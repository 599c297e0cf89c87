//! The state and its changes in the words that [`routes`](super::routes) documents.

use std::time::{Duration, SystemTime};

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web::Query};
use serde::{Deserialize, Serialize};

use super::told;
use crate::{
    Cause, Connection, FencingToken, NodeId, Quorum, QuorumChanged, QuorumHandle, RingId,
    RingState, Snapshot, Votes, names::NodeNames, registry::KEPT,
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

    #[derive(Serialize)]
    struct History<'a> {
        changes: Vec<Past<'a>>,
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

/// A snapshot.
#[derive(Serialize)]
pub(super) struct State<'a> {
    quorum: Quorum,
    connection: &'a Connection,
    ring_id: Option<RingId>,
    members: &'a [NodeId],
    names: &'a NodeNames,
    settled: bool,
    ring: RingState,
    exclusive: bool,
    fencing_token: Option<FencingToken>,
    epoch: u64,
    votes: Option<Counted<'a>>,
    shortage: Option<String>,
    local: Option<NodeId>,
    sequence: u64,
    #[serde(serialize_with = "crate::state::rfc3339")]
    changed_at: SystemTime,
}

impl<'a> State<'a> {
    /// With what readers find of it: its quorum, and whether it is exclusive.
    pub(super) fn of(
        snapshot: &'a Snapshot,
        (quorum, exclusive): (Quorum, bool),
        names: &'a NodeNames,
    ) -> Self {
        Self {
            quorum,
            connection: &snapshot.connection,
            ring_id: snapshot.ring_id,
            members: &snapshot.members,
            names,
            settled: snapshot.settled,
            ring: snapshot.ring,
            exclusive,
            fencing_token: snapshot.fencing_token().filter(|_| quorum.is_quorate()),
            epoch: snapshot.epoch,
            votes: snapshot.votes.as_ref().map(Counted::of),
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

#[derive(Serialize)]
struct Counted<'a> {
    #[serde(flatten)]
    votes: &'a Votes,
    margin: u32,
}

impl<'a> Counted<'a> {
    fn of(votes: &'a Votes) -> Self {
        Self { votes, margin: votes.margin() }
    }
}

/// A change, as it is told when it happens.
#[derive(Serialize)]
pub(super) struct Change<'a> {
    cause: Cause,
    text: String,
    joined: &'a [NodeId],
    left: &'a [NodeId],
    missed: u64,
    is_loss: bool,
    current: State<'a>,
}

impl<'a> Change<'a> {
    pub(super) fn of(change: &'a QuorumChanged, current: State<'a>) -> Self {
        Self {
            cause: change.cause,
            text: change.to_string(),
            joined: &change.joined,
            left: &change.left,
            missed: change.missed,
            is_loss: change.is_loss(),
            current,
        }
    }
}

/// A change, as it is told afterwards.
#[derive(Serialize)]
struct Past<'a> {
    sequence: u64,
    #[serde(serialize_with = "crate::state::rfc3339")]
    changed_at: SystemTime,
    /// How many seconds it was so; none while it is.
    seconds: Option<f64>,
    quorum: Quorum,
    ring_id: Option<RingId>,
    members: &'a [NodeId],
    joined: &'a [NodeId],
    left: &'a [NodeId],
    epoch: u64,
    cause: Cause,
    text: String,
}

impl<'a> Past<'a> {
    fn of(change: &'a QuorumChanged, until: Option<SystemTime>) -> Self {
        let current = &change.current;
        // The wall clock may have been set back.
        let lasted =
            |until: SystemTime| until.duration_since(current.changed_at).unwrap_or_default();
        Self {
            sequence: current.sequence,
            changed_at: current.changed_at,
            seconds: until.map(lasted).as_ref().map(Duration::as_secs_f64),
            quorum: current.quorum,
            ring_id: current.ring_id,
            members: &current.members,
            joined: &change.joined,
            left: &change.left,
            epoch: current.epoch,
            cause: change.cause,
            text: change.to_string(),
        }
    }
}
