//! Metrics, through the [`metrics`](https://docs.rs/metrics) facade. Feature `metrics`.
//!
//! Metrics are process-wide: two actors in one process overwrite each other's values. Values
//! recorded before a recorder is installed are discarded.
//!
//! | name | type, unit | meaning |
//! |---|---|---|
//! | `quorum_quorate` | gauge, 0 or 1 | this node has quorum |
//! | `quorum_exclusive` | gauge, 0 or 1 | this node has quorum and no other partition can have it: [`QuorumHandle::is_exclusive`](crate::QuorumHandle::is_exclusive) |
//! | `quorum_connected` | gauge, 0 or 1 | Corosync has accepted the connection, and answers |
//! | `quorum_settled` | gauge, 0 or 1 | the decision is about the current membership |
//! | `quorum_ring_watched` | gauge, 0 or 1 | 0 if the counters of Corosync's ring cannot be read, otherwise 1 |
//! | `quorum_ring_reforming` | gauge, 0 or 1 | Corosync has left its ring, or has formed a new one and not decided about it yet |
//! | `quorum_members` | gauge, nodes | the members of this node's partition; without a connection, the last known ones |
//! | `quorum_votes_expected` | gauge, votes | the votes that this node expects in the whole cluster; this metric and the next four are 0 while the votes are not known |
//! | `quorum_votes_highest_expected` | gauge, votes | the most votes that any member expects |
//! | `quorum_votes_present` | gauge, votes | the votes of all members and of the quorum device ("total votes" of `corosync-quorumtool`) |
//! | `quorum_votes_required` | gauge, votes | the number of votes that make a quorum |
//! | `quorum_votes_qdevice` | gauge, votes | the votes of the quorum device |
//! | `quorum_last_contact_timestamp_seconds` | gauge, seconds since 1970 | when Corosync was last known to be alive |
//! | `quorum_lease_seconds` | gauge, seconds | how long Corosync is believed after the last contact |
//! | `quorum_token_last_seen_timestamp_seconds` | gauge, seconds since 1970 | the last moment after which the ring's token is known to have moved; 0 if the token was not seen on this connection |
//! | `quorum_token_lease_seconds` | gauge, seconds | how long the ring is believed to be alive after the token was last seen: the sum of the token timeout, the consensus timeout and [`settle_grace`](crate::QuorumBuilder::settle_grace) |
//! | `quorum_changes_total` | counter | changes, labelled by their `cause`, as in [`Cause`] |
//! | `quorum_losses_total` | counter | changes that lost quorum |
//! | `quorum_disconnects_total` | counter | connections to Corosync that ended, labelled by their `reason`: a code such as `CS_ERR_LIBRARY`, or what failed |
//! | `quorum_connect_failures_total` | counter | attempts to connect that failed, labelled in the same way |
//! | `quorum_probe_round_trip_seconds` | histogram, seconds | the time from sending a probe to Corosync until the actor receives the answer |
//! | `quorum_subscribers` | gauge, actors | the actors that are subscribed |
//! | `quorum_conflated_deliveries_total` | counter | messages to slow subscribers that replace several changes |
//!
//! All gauges are recorded with each answer from Corosync, so at least every
//! [`probe_interval`](crate::QuorumBuilder::probe_interval) while Corosync answers. All except the
//! time of the last contact are also recorded with each change. So a recorder may be installed
//! later, and may drop values that were not updated for some time. Counters start at 0.
//!
//! A gauge keeps its last recorded value. If this process hangs, `quorum_quorate` does not change.
//! So an alert or a dashboard must treat a node as quorate only while `time() -
//! quorum_last_contact_timestamp_seconds` is less than the sum of `quorum_lease_seconds` and the
//! scrape interval. The file `alerts/quorum.rules.yml` in the repository contains Prometheus rules
//! that do so, for a scrape interval of 30 s.
//!
//! # Dashboards made for `ha_cluster_exporter`
//!
//! [`QuorumBuilder::ha_cluster_metrics`](crate::QuorumBuilder::ha_cluster_metrics) adds
//! `ha_cluster_corosync_quorate` (gauge, 0 or 1), `ha_cluster_corosync_quorum_votes` (gauge,
//! labelled `type`: `expected_votes`, `highest_expected`, `total_votes`, `quorum`) and
//! `ha_cluster_corosync_member_votes` (gauge, labelled `node_id`, `node` and `local`; 0 once a node
//! has left), with the names and labels of that exporter. The quorum device is node 0 with the name
//! `Qdevice`. The votes of the members are recorded from the first read of the node names on.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ::metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use parking_lot::Mutex;

use crate::{
    error::Error,
    libquorum::{NodeId, VoteFlags, Votes, cmap::NodeNames},
    state::{Cause, Connection, QuorumChanged, RingState, Snapshot},
};

/// What must be remembered between two recordings of one actor's metrics.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    lease: OnceLock<Duration>,
    /// The last labels of each node, if `ha_cluster_metrics` is set.
    ha_cluster: Mutex<Option<BTreeMap<NodeId, Labels>>>,
}

/// The values of the gauges.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) exclusive: bool,
    /// How long ago the token was last seen, and for how long after that moment the ring is
    /// believed to be alive. `None` if the token was not seen on this connection.
    pub(crate) token_seen: Option<(Duration, Duration)>,
    /// The names of the nodes, or `None` before the first read has ended.
    pub(crate) names: Option<Arc<NodeNames>>,
}

/// The labels `node` and `local`.
type Labels = (String, &'static str);

impl Metrics {
    /// Sets the values that do not change. No gauge is recorded before this call.
    pub(crate) fn begin(&self, lease: Duration, ha_cluster: bool) {
        *self.ha_cluster.lock() = ha_cluster.then(BTreeMap::new);
        let _ = self.lease.set(lease);
    }

    /// Counts a change.
    pub(crate) fn changed(change: &QuorumChanged) {
        counter!("quorum_changes_total", "cause" => change.cause.name()).increment(1);
        if change.is_loss() {
            counter!("quorum_losses_total").increment(1);
        }
    }

    /// Describes all metrics and starts every counter at 0.
    pub(crate) fn describe() {
        describe();
        begin_counters();
    }

    /// Sets all gauges.
    pub(crate) fn record(&self, state: &State) {
        let Some(lease) = self.lease.get() else { return };
        gauge!("quorum_lease_seconds").set(*lease);
        record_state(state);
        // The lock must not be held while the recorder runs: it may call this crate.
        let mut labelled = self.ha_cluster.lock();
        let Some(before) = labelled.as_mut() else { return };
        let members = state.names.as_ref().map(|names| member_votes(before, state, names));
        drop(labelled);
        record_ha_cluster(state, members.unwrap_or_default());
    }

    /// Records an answer from Corosync to a request that was sent `round_trip` ago.
    pub(crate) fn answered(round_trip: Duration) {
        histogram!("quorum_probe_round_trip_seconds").record(round_trip);
        gauge!("quorum_last_contact_timestamp_seconds").set(timestamp(round_trip));
    }

    /// Counts a connection that ended.
    pub(crate) fn disconnected(error: &Error) {
        counter!("quorum_disconnects_total", "reason" => reason(error)).increment(1);
    }

    /// Counts a failed attempt to connect.
    pub(crate) fn connect_failed(error: &Error) {
        counter!("quorum_connect_failures_total", "reason" => reason(error)).increment(1);
    }

    pub(crate) fn subscribers(count: usize) {
        gauge!("quorum_subscribers").set(u32::try_from(count).unwrap_or(u32::MAX));
    }

    pub(crate) fn conflated(deliveries: u64) {
        counter!("quorum_conflated_deliveries_total").increment(deliveries);
    }
}

fn record_state(state: &State) {
    let snapshot = &state.snapshot;
    for (name, holds) in [
        ("quorum_quorate", snapshot.quorum.is_quorate()),
        ("quorum_exclusive", state.exclusive),
        ("quorum_connected", snapshot.connection == Connection::Connected),
        ("quorum_settled", snapshot.settled),
        ("quorum_ring_watched", snapshot.ring != RingState::Unwatched),
        ("quorum_ring_reforming", snapshot.ring == RingState::Gather),
    ] {
        gauge!(name).set(number(holds));
    }
    gauge!("quorum_members").set(u32::try_from(snapshot.members.len()).unwrap_or(u32::MAX));
    let (seen_at, lease) = match state.token_seen {
        Some((ago, lease)) => (timestamp(ago), lease),
        None => (0.0, Duration::ZERO),
    };
    gauge!("quorum_token_last_seen_timestamp_seconds").set(seen_at);
    gauge!("quorum_token_lease_seconds").set(lease);
    let none = Votes::default();
    let votes = snapshot.votes.as_ref().unwrap_or(&none);
    for (name, votes) in [
        ("quorum_votes_expected", votes.expected),
        ("quorum_votes_highest_expected", votes.highest_expected),
        ("quorum_votes_present", votes.total),
        ("quorum_votes_required", votes.quorum),
        ("quorum_votes_qdevice", votes.qdevice),
    ] {
        gauge!(name).set(votes);
    }
}

/// The members, their labels and their votes.
type MemberVotes = Vec<(NodeId, Labels, u32)>;

fn record_ha_cluster(state: &State, members: MemberVotes) {
    describe_ha_cluster();
    let snapshot = &state.snapshot;
    gauge!("ha_cluster_corosync_quorate").set(number(snapshot.quorum.is_quorate()));
    let none = Votes::default();
    let votes = snapshot.votes.as_ref().unwrap_or(&none);
    for (kind, votes) in [
        ("expected_votes", votes.expected),
        ("highest_expected", votes.highest_expected),
        ("total_votes", votes.total),
        ("quorum", votes.quorum),
    ] {
        gauge!("ha_cluster_corosync_quorum_votes", "type" => kind).set(votes);
    }
    for (id, (node, local), votes) in members {
        let id = id.to_string();
        gauge!(
            "ha_cluster_corosync_member_votes", "node_id" => id, "node" => node, "local" => local
        )
        .set(votes);
    }
}

/// Returns the votes of each member, and of each node in `before`. A series cannot be removed, so a
/// node that has left or has changed its name has 0 votes under its old labels.
fn member_votes(
    before: &mut BTreeMap<NodeId, Labels>,
    state: &State,
    names: &NodeNames,
) -> MemberVotes {
    let votes = state.snapshot.votes.as_ref();
    let members = votes.map(|votes| votes.members.as_slice()).unwrap_or_default();
    let mut now: BTreeMap<NodeId, (Labels, u32)> = members
        .iter()
        .map(|(id, votes)| {
            let node = names.get(id).cloned().unwrap_or_else(|| id.to_string());
            let local = if Some(*id) == state.snapshot.local { "true" } else { "false" };
            (*id, ((node, local), *votes))
        })
        .collect();
    // `corosync-quorumtool` lists the quorum device in this way too.
    if let Some(votes) = votes.filter(|votes| votes.flags.contains(VoteFlags::QDEVICE_REGISTERED)) {
        now.insert(NodeId(0), (("Qdevice".to_owned(), "false"), votes.qdevice));
    }
    let gone =
        |(id, labels): &(&NodeId, &Labels)| now.get(id).is_none_or(|(now, _)| now != *labels);
    let mut all: MemberVotes =
        before.iter().filter(gone).map(|(id, labels)| (*id, labels.clone(), 0)).collect();
    for (id, (labels, votes)) in now {
        before.insert(id, labels.clone());
        all.push((id, labels, votes));
    }
    all
}

fn number(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

/// Returns the time that was `ago` before now, in seconds since 1970, or 0 if that time was before
/// 1970.
fn timestamp(ago: Duration) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(ago).as_secs_f64()
}

/// The causes that are counted. `Subscribed` is not a change.
const CAUSES: [Cause; 9] = [
    Cause::ConnectFailed,
    Cause::Connected,
    Cause::Membership,
    Cause::Quorum,
    Cause::Votes,
    Cause::Ring,
    Cause::Stalled,
    Cause::Disconnected,
    Cause::Stopped,
];

fn reason(error: &Error) -> String {
    match error {
        Error::Load(_) => "load".to_owned(),
        Error::NoDescriptors => "no_descriptors".to_owned(),
        Error::ConnectInProgress => "connect_in_progress".to_owned(),
        Error::NoSocket => "no_socket".to_owned(),
        Error::Unresponsive => "unresponsive".to_owned(),
        Error::Thread(_) => "thread".to_owned(),
        Error::UntrustedServer { .. } => "untrusted_server".to_owned(),
        Error::NoProvider => "no_provider".to_owned(),
        Error::NotAnnounced => "not_announced".to_owned(),
        Error::StackTooSmall { .. } => "stack_too_small".to_owned(),
        Error::Reactor(_) => "reactor".to_owned(),
        Error::Remote(_) => "remote".to_owned(),
        Error::Connect(code)
        | Error::TrackStart(code)
        | Error::Request(code)
        | Error::Dispatch(code) => match code.name() {
            Some(name) => name.to_owned(),
            None => format!("code_{}", code.0),
        },
    }
}

/// The expected reasons. Their counters start at 0, so that the first increase is visible.
const REASONS: [&str; 11] = [
    "CS_ERR_LIBRARY",
    "CS_ERR_TRY_AGAIN",
    "CS_ERR_ACCESS",
    "CS_ERR_NOT_EXIST",
    "CS_ERR_NO_SPACE",
    "CS_ERR_BAD_HANDLE",
    "load",
    "untrusted_server",
    "no_provider",
    "not_announced",
    "unresponsive",
];

fn begin_counters() {
    for cause in CAUSES.map(Cause::name) {
        counter!("quorum_changes_total", "cause" => cause).increment(0);
    }
    for reason in REASONS {
        counter!("quorum_disconnects_total", "reason" => reason).increment(0);
        counter!("quorum_connect_failures_total", "reason" => reason).increment(0);
    }
    counter!("quorum_losses_total").increment(0);
    counter!("quorum_conflated_deliveries_total").increment(0);
}

fn describe() {
    for (name, description) in [
        ("quorum_quorate", "Whether this node has quorum."),
        ("quorum_exclusive", "Whether no other partition can have quorum."),
        ("quorum_connected", "Whether corosync has accepted the connection and answers."),
        ("quorum_settled", "Whether the decision is about the current membership."),
        ("quorum_ring_watched", "Whether the counters of corosync's ring can be read."),
        ("quorum_ring_reforming", "Whether corosync's ring is re-forming."),
    ] {
        describe_gauge!(name, description);
    }
    for (name, description) in [
        ("quorum_members", "The members of this node's partition."),
        ("quorum_votes_expected", "The votes that this node expects in the cluster."),
        ("quorum_votes_highest_expected", "The most votes that any member expects."),
        ("quorum_votes_present", "The votes of all members and of the quorum device."),
        ("quorum_votes_required", "The number of votes that make a quorum."),
        ("quorum_votes_qdevice", "The votes of the quorum device."),
        ("quorum_subscribers", "The actors that are subscribed."),
    ] {
        describe_gauge!(name, Unit::Count, description);
    }
    for (name, description) in [
        ("quorum_last_contact_timestamp_seconds", "When corosync was last known to be alive."),
        ("quorum_lease_seconds", "How long corosync is believed after the last contact."),
        ("quorum_token_last_seen_timestamp_seconds", "When the ring's token was last seen."),
        (
            "quorum_token_lease_seconds",
            "How long the ring is believed to be alive after its token was last seen.",
        ),
    ] {
        describe_gauge!(name, Unit::Seconds, description);
    }
    for (name, description) in [
        ("quorum_changes_total", "Changes, by their cause."),
        ("quorum_losses_total", "Changes that lost quorum."),
        ("quorum_disconnects_total", "Connections to corosync that ended, by the reason."),
        ("quorum_connect_failures_total", "Attempts to connect that failed, by the reason."),
        (
            "quorum_conflated_deliveries_total",
            "Messages to slow subscribers that replace several changes.",
        ),
    ] {
        describe_counter!(name, Unit::Count, description);
    }
    describe_histogram!(
        "quorum_probe_round_trip_seconds",
        Unit::Seconds,
        "The time from sending a probe to corosync until the actor receives the answer."
    );
}

fn describe_ha_cluster() {
    describe_gauge!("ha_cluster_corosync_quorate", "Whether the cluster is quorate.");
    describe_gauge!("ha_cluster_corosync_quorum_votes", Unit::Count, "The votes, by their type.");
    describe_gauge!("ha_cluster_corosync_member_votes", Unit::Count, "The votes of each member.");
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    fn state(flags: u32, names: Option<&[(u32, &str)]>) -> State {
        let mut snapshot = Snapshot::before_anything(UNIX_EPOCH);
        snapshot.local = Some(NodeId(1));
        snapshot.votes = Some(Votes {
            qdevice: 1,
            members: vec![(NodeId(1), 1), (NodeId(2), 3)],
            flags: VoteFlags::from_bits_retain(flags),
            ..Votes::default()
        });
        let names = names.map(|names| {
            let names = names.iter().map(|(id, name)| (NodeId(*id), (*name).to_owned()));
            Arc::new(names.collect())
        });
        State { snapshot: Arc::new(snapshot), exclusive: false, token_seen: None, names }
    }

    /// Returns the rows of `ha_cluster_corosync_member_votes` after these states were recorded.
    fn member_rows(states: &[State]) -> Vec<String> {
        let recorder = PrometheusBuilder::new().build_recorder();
        let metrics = Metrics::default();
        metrics.begin(Duration::from_secs(5), true);
        ::metrics::with_local_recorder(&recorder, || {
            states.iter().for_each(|state| metrics.record(state));
        });
        let rendered = recorder.handle().render();
        let rows = rendered.lines().filter_map(|line| {
            line.strip_prefix("ha_cluster_corosync_member_votes").map(str::to_owned)
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort();
        rows
    }

    #[test]
    fn members_have_no_row_until_the_names_have_been_read() {
        assert_eq!(member_rows(&[state(0, None)]), [""; 0]);
        // Node 2 has no name.
        assert_eq!(
            member_rows(&[state(0, None), state(0, Some(&[(1, "a")]))]),
            [
                "{node_id=\"1\",node=\"a\",local=\"true\"} 1",
                "{node_id=\"2\",node=\"2\",local=\"false\"} 3",
            ]
        );
    }

    #[test]
    fn the_row_of_the_quorum_device_shows_its_votes_only_while_it_is_registered() {
        let names: Option<&[(u32, &str)]> = Some(&[(1, "a"), (2, "b")]);
        let registered = VoteFlags::QDEVICE_REGISTERED;
        let device = |votes| format!("{{node_id=\"0\",node=\"Qdevice\",local=\"false\"}} {votes}");
        let rows = member_rows(&[state(registered.bits(), names)]);
        assert_eq!((rows.len(), &rows[0]), (3, &device(1)));
        let rows = member_rows(&[state(registered.bits(), names), state(0, names)]);
        assert_eq!((rows.len(), &rows[0]), (3, &device(0)), "the device is no longer registered");
    }

    #[test]
    fn a_renamed_node_has_no_votes_under_its_old_name() {
        let rows = member_rows(&[state(0, Some(&[(1, "a")])), state(0, Some(&[(1, "b")]))]);
        assert_eq!(
            rows[..2],
            [
                "{node_id=\"1\",node=\"a\",local=\"true\"} 0",
                "{node_id=\"1\",node=\"b\",local=\"true\"} 1",
            ]
        );
    }
}
