//! What the routes of [`web`](crate::web) send, for a client in Rust. Feature `serde`.
//!
//! A client needs neither actix-web nor Corosync: only this crate with the feature `serde`, a JSON
//! parser and a HTTP client.
//!
//! ```
//! use actix_quorum::json::State;
//!
//! # fn get(_: &str) -> &str {
//! # r#"{"quorum":"quorate","connection":{"state":"connected"},"ring_id":"1.2a","members":[1,2],"names":{"1":"a"},
//! # "settled":true,"ring":"operational","exclusive":true,"fencing_token":42,"epoch":0,"votes":null,"shortage":null,
//! # "local":1,"sequence":5,"changed_at":"2026-01-31T12:00:00.000Z"}"#
//! # }
//! let state: State = serde_json::from_str(&get("http://node1:8080/quorum"))?;
//! if state.quorum.is_quorate() {
//!     println!("quorate since {:?}, ring {}", state.changed_at, state.ring_id.unwrap());
//! }
//! # Ok::<(), serde_json::Error>(())
//! ```
//!
//! A service of a later version may send fields that are not here, which are ignored; a cause or
//! a state that this version does not know is an error of the parser. The errors in it are
//! [`Error::Remote`](crate::Error::Remote).

use std::{collections::BTreeMap, time::SystemTime};

use serde::{Deserialize, Serialize};

use crate::{
    libquorum::{NodeId, RingId, Votes},
    state::{Cause, Connection, FencingToken, Quorum, RingState, rfc3339},
};

/// What is true now: the answer of `/quorum`, and in each [`Change`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct State {
    /// [`QuorumHandle::quorum`](crate::QuorumHandle::quorum), when this was sent.
    pub quorum: Quorum,
    /// [`Snapshot::connection`](crate::Snapshot::connection).
    pub connection: Connection,
    /// [`Snapshot::ring_id`](crate::Snapshot::ring_id).
    pub ring_id: Option<RingId>,
    /// [`Snapshot::members`](crate::Snapshot::members).
    pub members: Vec<NodeId>,
    /// The names of the nodes that have one.
    pub names: BTreeMap<NodeId, String>,
    /// [`Snapshot::settled`](crate::Snapshot::settled).
    pub settled: bool,
    /// [`Snapshot::ring`](crate::Snapshot::ring).
    pub ring: RingState,
    /// [`QuorumHandle::is_exclusive`](crate::QuorumHandle::is_exclusive), when this was sent.
    pub exclusive: bool,
    /// [`Snapshot::fencing_token`](crate::Snapshot::fencing_token).
    pub fencing_token: Option<FencingToken>,
    /// [`Snapshot::epoch`](crate::Snapshot::epoch).
    pub epoch: u64,
    /// [`Snapshot::votes`](crate::Snapshot::votes).
    pub votes: Option<Votes>,
    /// Why there is no quorum, where the votes tell: `2 of 4 votes, 3 required`.
    pub shortage: Option<String>,
    /// [`Snapshot::local`](crate::Snapshot::local).
    pub local: Option<NodeId>,
    /// [`Snapshot::sequence`](crate::Snapshot::sequence).
    pub sequence: u64,
    /// [`Snapshot::changed_at`](crate::Snapshot::changed_at), in milliseconds.
    #[serde(with = "rfc3339")]
    pub changed_at: SystemTime,
}

/// A change as it happens: the data of a `changed` event of `/quorum/events`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Change {
    /// [`QuorumChanged::cause`](crate::QuorumChanged::cause).
    pub cause: Cause,
    /// One line for an operator.
    pub text: String,
    /// [`QuorumChanged::joined`](crate::QuorumChanged::joined).
    pub joined: Vec<NodeId>,
    /// [`QuorumChanged::left`](crate::QuorumChanged::left).
    pub left: Vec<NodeId>,
    /// [`QuorumChanged::missed`](crate::QuorumChanged::missed).
    pub missed: u64,
    /// [`QuorumChanged::is_loss`](crate::QuorumChanged::is_loss).
    pub is_loss: bool,
    /// What is true now.
    pub current: State,
}

/// What is true between two changes: the data of an `alive` event of `/quorum/events`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Alive {
    /// That of the last change.
    pub sequence: u64,
    /// Whether there is quorum now.
    pub quorum: Quorum,
    /// Whether it is exclusive now.
    pub exclusive: bool,
    /// The names of the nodes that have one.
    pub names: BTreeMap<NodeId, String>,
}

/// The last changes: the answer of `/quorum/history`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct History {
    /// The latest last.
    pub changes: Vec<HistoryEntry>,
}

/// A change as it is told afterwards.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct HistoryEntry {
    /// That of the state after it.
    pub sequence: u64,
    /// When it was, in milliseconds.
    #[serde(with = "rfc3339")]
    pub changed_at: SystemTime,
    /// How many seconds it was so; `None` for the latest.
    pub seconds: Option<f64>,
    /// The quorum after it.
    pub quorum: Quorum,
    /// The ring after it.
    pub ring_id: Option<RingId>,
    /// The members after it.
    pub members: Vec<NodeId>,
    /// [`QuorumChanged::joined`](crate::QuorumChanged::joined).
    pub joined: Vec<NodeId>,
    /// [`QuorumChanged::left`](crate::QuorumChanged::left).
    pub left: Vec<NodeId>,
    /// The epoch after it.
    pub epoch: u64,
    /// [`QuorumChanged::cause`](crate::QuorumChanged::cause).
    pub cause: Cause,
    /// One line for an operator.
    pub text: String,
}
