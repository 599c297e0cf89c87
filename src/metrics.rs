//! What is measured, through the [`metrics`](https://docs.rs/metrics) facade. Feature `metrics`.
//!
//! Install a recorder before the actor is started: what has no recorder is not kept. There is one set
//! of them in a process: of two actors in it, each writes over what the other has.
//!
//! | name | type, unit | |
//! |---|---|---|
//! | `quorum_quorate` | gauge, 0 or 1 | this node was last told to have quorum |
//! | `quorum_connected` | gauge, 0 or 1 | Corosync has accepted us, and answers |
//! | `quorum_settled` | gauge, 0 or 1 | the decision is about the current membership |
//! | `quorum_members` | gauge, nodes | the members of this node's partition; the last ones known while there is no connection |
//! | `quorum_votes` | gauge, votes | labelled `type`: `expected`, `highest_expected`, `total`, `quorum`, `qdevice`; all 0 while they are not known |
//! | `quorum_last_contact_timestamp_seconds` | gauge, seconds since 1970 | Corosync is known to have lived then |
//! | `quorum_lease_seconds` | gauge, seconds | for how long after that it is believed |
//! | `quorum_changes_total` | counter | changes, labelled by their `cause`, as in [`Cause`] |
//! | `quorum_losses_total` | counter | changes that lost quorum |
//! | `quorum_reconnects_total` | counter | connections, and attempts to make one, that ended; labelled by the `reason`, a code such as `CS_ERR_LIBRARY` or what failed |
//! | `quorum_probe_round_trip_seconds` | histogram, seconds | from asking Corosync whether it lives to the actor having taken the answer |
//! | `quorum_subscribers` | gauge, actors | who is subscribed |
//! | `quorum_conflated_deliveries_total` | counter | messages to subscribers in place of several that they were too slow for |
//! | `quorum_abandoned_threads_total` | counter | threads that were left behind in a call that Corosync did not answer when the actor was stopped |
//!
//! A gauge says what was last recorded. If this process hangs, `quorum_quorate` stays what it was:
//! an alert, and a dashboard, should hold a node for quorate only while
//! `time() - quorum_last_contact_timestamp_seconds` is below `quorum_lease_seconds` and the interval of
//! scraping. The file `alerts/quorum.rules.yml` in the repository has Prometheus rules that do, with
//! 30 s for the latter.
//!
//! # Dashboards made for `ha_cluster_exporter`
//!
//! With [`QuorumBuilder::ha_cluster_metrics`](crate::QuorumBuilder::ha_cluster_metrics) there are
//! also `ha_cluster_corosync_quorate` (gauge, 0 or 1), `ha_cluster_corosync_quorum_votes` (gauge,
//! labelled `type`: `expected_votes`, `highest_expected`, `total_votes`, `quorum`) and
//! `ha_cluster_corosync_member_votes` (gauge, labelled `node_id`, `node` and `local`; 0 once a node
//! has left), under the names and labels of that exporter.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ::metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use parking_lot::Mutex;

use crate::{Cause, Connection, Error, NodeId, QuorumChanged, Snapshot, Votes, names::NodeNames};

/// What is recorded of one actor.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// What each node was last labelled with, if anybody wants to know.
    ha_cluster: Mutex<Option<BTreeMap<NodeId, Labels>>>,
}

/// `node` and `local`.
type Labels = (String, &'static str);

impl Metrics {
    pub(crate) fn begin(&self, lease: Duration, ha_cluster: bool, now: &Snapshot) {
        describe();
        if ha_cluster {
            describe_ha_cluster();
        }
        let mut labelled = self.ha_cluster.lock();
        *labelled = ha_cluster.then(BTreeMap::new);
        gauge!("quorum_lease_seconds").set(lease);
        gauge!("quorum_last_contact_timestamp_seconds").set(0.0);
        gauge!("quorum_subscribers").set(0.0);
        counter!("quorum_losses_total").absolute(0);
        counter!("quorum_conflated_deliveries_total").absolute(0);
        counter!("quorum_abandoned_threads_total").absolute(0);
        Self::state(now, &NodeNames::new(), &mut labelled);
    }

    /// Counts a change, and shows what is true `now`, which may be later than that.
    pub(crate) fn changed(
        &self,
        change: &QuorumChanged,
        now: impl FnOnce() -> (Arc<Snapshot>, Arc<NodeNames>),
    ) {
        counter!("quorum_changes_total", "cause" => cause(change.cause)).increment(1);
        if change.is_loss() {
            counter!("quorum_losses_total").increment(1);
        }
        // Locked before it is asked what is true: who comes later never shows what was before.
        let mut labelled = self.ha_cluster.lock();
        let (now, names) = now();
        Self::state(&now, &names, &mut labelled);
    }

    fn state(now: &Snapshot, names: &NodeNames, labelled: &mut Option<BTreeMap<NodeId, Labels>>) {
        let quorate = now.quorum.is_quorate();
        gauge!("quorum_quorate").set(number(quorate));
        gauge!("quorum_connected").set(number(now.connection == Connection::Connected));
        gauge!("quorum_settled").set(number(now.settled));
        gauge!("quorum_members").set(u32::try_from(now.members.len()).unwrap_or(u32::MAX));
        let none = Votes::default();
        let votes = now.votes.as_ref().unwrap_or(&none);
        for (kind, votes) in [
            ("expected", votes.expected),
            ("highest_expected", votes.highest_expected),
            ("total", votes.total),
            ("quorum", votes.quorum),
            ("qdevice", votes.qdevice),
        ] {
            gauge!("quorum_votes", "type" => kind).set(votes);
        }
        if let Some(labelled) = labelled {
            gauge!("ha_cluster_corosync_quorate").set(number(quorate));
            for (kind, votes) in [
                ("expected_votes", votes.expected),
                ("highest_expected", votes.highest_expected),
                ("total_votes", votes.total),
                ("quorum", votes.quorum),
            ] {
                gauge!("ha_cluster_corosync_quorum_votes", "type" => kind).set(votes);
            }
            member_votes(labelled, now.local, votes, names);
        }
    }

    /// Corosync has answered a question that was asked so long ago.
    pub(crate) fn answered(round_trip: Duration) {
        histogram!("quorum_probe_round_trip_seconds").record(round_trip);
        // Before 1970 it is as if it had never been.
        let asked_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        gauge!("quorum_last_contact_timestamp_seconds").set(asked_at.saturating_sub(round_trip));
    }

    /// A connection, or an attempt to make one, ended.
    pub(crate) fn ended(error: &Error) {
        let reason = match error {
            Error::Load(_) => "load".to_owned(),
            Error::Descriptors => "descriptors".to_owned(),
            Error::Busy => "busy".to_owned(),
            Error::Unresponsive => "unresponsive".to_owned(),
            Error::Thread(_) => "thread".to_owned(),
            Error::Server { .. } => "server".to_owned(),
            Error::NoProvider => "no_provider".to_owned(),
            Error::Stack { .. } => "stack".to_owned(),
            Error::Register(_) => "register".to_owned(),
            Error::Connect(code)
            | Error::TrackStart(code)
            | Error::Request(code)
            | Error::Dispatch(code) => match code.name() {
                Some(name) => name.to_owned(),
                None => format!("code_{}", code.0),
            },
        };
        counter!("quorum_reconnects_total", "reason" => reason).increment(1);
    }

    pub(crate) fn subscribers(count: usize) {
        gauge!("quorum_subscribers").set(u32::try_from(count).unwrap_or(u32::MAX));
    }

    pub(crate) fn conflated() {
        counter!("quorum_conflated_deliveries_total").increment(1);
    }

    pub(crate) fn abandoned_thread() {
        counter!("quorum_abandoned_threads_total").increment(1);
    }
}

/// A series cannot be taken back, so who has left, or has got another name, has no votes.
fn member_votes(
    labelled: &mut BTreeMap<NodeId, Labels>,
    local: Option<NodeId>,
    votes: &Votes,
    names: &NodeNames,
) {
    let series = |id: NodeId, (node, local): &Labels| {
        gauge!(
            "ha_cluster_corosync_member_votes",
            "node_id" => id.to_string(), "node" => node.clone(), "local" => *local
        )
    };
    let now: BTreeMap<NodeId, (Labels, u32)> = votes
        .members
        .iter()
        .map(|(id, votes)| {
            let node = names.get(id).cloned().unwrap_or_else(|| id.to_string());
            let local = if Some(*id) == local { "true" } else { "false" };
            (*id, ((node, local), *votes))
        })
        .collect();
    for (id, labels) in labelled.iter() {
        if now.get(id).is_none_or(|(current, _)| current != labels) {
            series(*id, labels).set(0.0);
        }
    }
    for (id, (labels, votes)) in now {
        series(id, &labels).set(votes);
        labelled.insert(id, labels);
    }
}

fn number(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Subscribed => "subscribed",
        Cause::Connecting => "connecting",
        Cause::Connected => "connected",
        Cause::Nodelist => "nodelist",
        Cause::Quorum => "quorum",
        Cause::Votes => "votes",
        Cause::Ring => "ring",
        Cause::Stalled => "stalled",
        Cause::Lost => "lost",
        Cause::Stopped => "stopped",
    }
}

fn describe() {
    describe_gauge!("quorum_quorate", "Whether this node was last told to have quorum.");
    describe_gauge!("quorum_connected", "Whether corosync has accepted us and answers.");
    describe_gauge!("quorum_settled", "Whether the decision is about the current membership.");
    describe_gauge!("quorum_members", Unit::Count, "The members of this node's partition.");
    describe_gauge!("quorum_votes", Unit::Count, "The votes, by their type.");
    describe_gauge!(
        "quorum_last_contact_timestamp_seconds",
        Unit::Seconds,
        "When corosync is known to have lived."
    );
    describe_gauge!(
        "quorum_lease_seconds",
        Unit::Seconds,
        "For how long after the last contact corosync is believed."
    );
    describe_counter!("quorum_changes_total", Unit::Count, "Changes, by their cause.");
    describe_counter!("quorum_losses_total", Unit::Count, "Changes that lost quorum.");
    describe_counter!(
        "quorum_reconnects_total",
        Unit::Count,
        "Connections to corosync, and attempts to make one, that ended, by the reason."
    );
    describe_histogram!(
        "quorum_probe_round_trip_seconds",
        Unit::Seconds,
        "From asking corosync whether it lives to having taken the answer."
    );
    describe_gauge!("quorum_subscribers", Unit::Count, "Who is subscribed.");
    describe_counter!(
        "quorum_conflated_deliveries_total",
        Unit::Count,
        "Messages to subscribers in place of several that they were too slow for."
    );
    describe_counter!(
        "quorum_abandoned_threads_total",
        Unit::Count,
        "Threads left behind in a call that corosync did not answer."
    );
}

fn describe_ha_cluster() {
    describe_gauge!("ha_cluster_corosync_quorate", "Whether the cluster is quorate.");
    describe_gauge!("ha_cluster_corosync_quorum_votes", Unit::Count, "The votes, by their type.");
    describe_gauge!("ha_cluster_corosync_member_votes", Unit::Count, "The votes of each member.");
}
