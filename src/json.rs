//! The JSON types of the [`web`](crate::web) routes, for a client in Rust. Feature `serde`.
//!
//! A client needs neither actix-web nor Corosync, only this crate with the feature `serde`, a JSON
//! parser and an HTTP client.
//!
//! ```
//! use actix_quorum::json::State;
//!
//! # fn get(_: &str) -> &str {
//! # r#"{"quorum":"quorate","connection":{"state":"connected"},"ring_id":"1.2a","members":[1,2],
//! # "names":{"1":"a"},"settled":true,"ring":"operational","exclusive":true,"fencing_token":42,
//! # "epoch":0,"votes":null,"shortage":null,"local":1,"sequence":5,
//! # "changed_at":"2026-01-31T12:00:00.000Z"}"#
//! # }
//! let state: State = serde_json::from_str(&get("http://node1:8080/quorum"))?;
//! if state.quorum.is_quorate() {
//!     println!("quorate since {:?}, members {:?}", state.changed_at, state.members);
//! }
//! # Ok::<(), serde_json::Error>(())
//! ```
//!
//! A later version of the service may send additional fields, which are ignored. A cause or a state
//! that this version does not know leads to a parse error. Errors in the JSON become
//! [`Error::Remote`](crate::Error::Remote).

use std::{collections::BTreeMap, time::SystemTime};

use serde::{Deserialize, Serialize};

use crate::{
    libquorum::{NodeId, RingId, Votes},
    state::{Cause, Connection, FencingToken, Quorum, RingState, rfc3339},
};

/// The current state: the response to `/quorum`, also contained in each [`Change`].
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[non_exhaustive]
pub struct State {
    /// [`QuorumHandle::quorum`](crate::QuorumHandle::quorum) at the time of sending.
    pub quorum: Quorum,
    /// [`Snapshot::connection`](crate::Snapshot::connection).
    pub connection: Connection,
    /// [`Snapshot::ring_id`](crate::Snapshot::ring_id).
    pub ring_id: Option<RingId>,
    /// [`Snapshot::members`](crate::Snapshot::members).
    pub members: Vec<NodeId>,
    /// The names of the nodes. A node without a name is not included.
    pub names: BTreeMap<NodeId, String>,
    /// [`Snapshot::settled`](crate::Snapshot::settled).
    pub settled: bool,
    /// [`Snapshot::ring`](crate::Snapshot::ring).
    pub ring: RingState,
    /// [`QuorumHandle::is_exclusive`](crate::QuorumHandle::is_exclusive) at the time of sending.
    pub exclusive: bool,
    /// [`Snapshot::fencing_token`](crate::Snapshot::fencing_token).
    pub fencing_token: Option<FencingToken>,
    /// [`Snapshot::epoch`](crate::Snapshot::epoch).
    pub epoch: u64,
    /// [`Snapshot::votes`](crate::Snapshot::votes).
    pub votes: Option<Votes>,
    /// Why this node has no quorum, if the votes show the reason: `2 of 4 votes, 3 required`.
    pub shortage: Option<String>,
    /// [`Snapshot::local`](crate::Snapshot::local).
    pub local: Option<NodeId>,
    /// [`Snapshot::sequence`](crate::Snapshot::sequence).
    pub sequence: u64,
    /// [`Snapshot::changed_at`](crate::Snapshot::changed_at), to the millisecond.
    #[serde(with = "rfc3339")]
    pub changed_at: SystemTime,
}

/// A change: the data of a `changed` event of `/quorum/events`.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Change {
    /// [`QuorumChanged::cause`](crate::QuorumChanged::cause).
    pub cause: Cause,
    /// The change on one line, for an operator.
    pub text: String,
    /// [`QuorumChanged::joined`](crate::QuorumChanged::joined).
    pub joined: Vec<NodeId>,
    /// [`QuorumChanged::left`](crate::QuorumChanged::left).
    pub left: Vec<NodeId>,
    /// [`QuorumChanged::missed`](crate::QuorumChanged::missed).
    pub missed: u64,
    /// [`QuorumChanged::is_loss`](crate::QuorumChanged::is_loss).
    pub is_loss: bool,
    /// The current state.
    pub current: State,
}

/// The current state between two changes: the data of an `alive` event of `/quorum/events`.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Alive {
    /// The sequence number of the last change.
    pub sequence: u64,
    /// [`QuorumHandle::quorum`](crate::QuorumHandle::quorum) at the time of sending.
    pub quorum: Quorum,
    /// [`QuorumHandle::is_exclusive`](crate::QuorumHandle::is_exclusive) at the time of sending.
    pub exclusive: bool,
    /// The names of the nodes. A node without a name is not included.
    pub names: BTreeMap<NodeId, String>,
}

/// The most recent changes: the response to `/quorum/history`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct History {
    /// The changes, oldest first.
    pub changes: Vec<HistoryEntry>,
}

/// A change in the history.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HistoryEntry {
    /// The sequence number of the state after the change.
    pub sequence: u64,
    /// The time of the change, to the millisecond.
    #[serde(with = "rfc3339")]
    pub changed_at: SystemTime,
    /// How many seconds the state lasted; `None` for the latest state.
    pub seconds: Option<f64>,
    /// Whether this node had quorum after the change.
    pub quorum: Quorum,
    /// The ring id after the change.
    pub ring_id: Option<RingId>,
    /// The members after the change.
    pub members: Vec<NodeId>,
    /// [`QuorumChanged::joined`](crate::QuorumChanged::joined).
    pub joined: Vec<NodeId>,
    /// [`QuorumChanged::left`](crate::QuorumChanged::left).
    pub left: Vec<NodeId>,
    /// The epoch after the change.
    pub epoch: u64,
    /// [`QuorumChanged::cause`](crate::QuorumChanged::cause).
    pub cause: Cause,
    /// The change on one line, for an operator.
    pub text: String,
}
