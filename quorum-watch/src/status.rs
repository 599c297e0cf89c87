//! The command `quorum-watch status`.

use std::{
    fmt::Write as _,
    io::{self, Write},
    time::{Duration, SystemTime},
};

use actix_quorum::{
    Connection, NodeId, Quorum, QuorumHandle, RingState, Snapshot, VoteFlags, Votes,
};
use tokio::time::{sleep, timeout};

use crate::{POLL_INTERVAL, options::Options};

/// How long to wait for a decision. Corosync answers within milliseconds, and the ring is found to
/// be alive within about a token timeout, but both may take several seconds on a busy machine.
const DECISION_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait after the decision for the votes, and then for exclusive quorum.
const DETAILS_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait after that for the names of the nodes. A cluster may have none.
const NAMES_TIMEOUT: Duration = Duration::from_secs(1);

/// Returns once the state can be printed: with a decision and its details, or with the reason why
/// there is no decision. Waits for the names of the nodes if `names` is set.
pub(crate) async fn known(quorum: &QuorumHandle, names: bool) {
    let decided = |now: &Snapshot| match now.connection {
        Connection::Connected => now.quorum != Quorum::Unknown,
        Connection::Connecting { ref error, .. } => error.is_some(),
        _ => true,
    };
    let complete = |now: &Snapshot| {
        now.connection != Connection::Connected
            || (now.ring != RingState::Unknown && has_votes_of_decision(now))
    };
    let details = async {
        // This fails if the actor has stopped, and then nothing follows.
        let _ = quorum.wait_for(complete).await;
        let may_be_exclusive =
            |now: &Snapshot| now.has_majority() && now.ring == RingState::Operational;
        while may_be_exclusive(&quorum.snapshot()) && !quorum.is_exclusive() {
            sleep(POLL_INTERVAL).await;
        }
    };
    let named = async {
        let connected = || quorum.snapshot().connection == Connection::Connected;
        while names && connected() && quorum.node_names().is_empty() {
            sleep(POLL_INTERVAL).await;
        }
    };
    if timeout(DECISION_TIMEOUT, quorum.wait_for(decided)).await.is_ok() {
        let _ = timeout(DETAILS_TIMEOUT, details).await;
        let _ = timeout(NAMES_TIMEOUT, named).await;
    }
}

/// Whether the votes agree with the decision. The votes are requested after the decision, so the
/// snapshot may still contain the votes from before the decision.
fn has_votes_of_decision(now: &Snapshot) -> bool {
    let is_quorate = now.quorum.is_quorate();
    now.votes.as_ref().is_some_and(|votes| votes.flags.contains(VoteFlags::QUORATE) == is_quorate)
}

/// Prints the current state and returns its quorum.
pub(crate) fn show(quorum: &QuorumHandle, options: &Options) -> io::Result<Quorum> {
    let now = quorum.snapshot();
    let text = if options.json {
        let mut json = serde_json::to_value(&*now)?;
        json["exclusive"] = quorum.is_exclusive().into();
        json["fencing_token"] = serde_json::to_value(now.fencing_token())?;
        json["can_be_spared"] = serde_json::to_value(spared(&now))?;
        format!("{json}\n")
    } else {
        table(quorum, &now, options)
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(now.quorum)
}

/// Returns each member without which this node would still have quorum, if all others stayed.
fn spared(now: &Snapshot) -> Vec<NodeId> {
    let members = now.members.iter().copied();
    members.filter(|member| now.quorate_without(&[*member]) == Some(true)).collect()
}

/// Returns the state as a table with one fact on each line.
fn table(quorum: &QuorumHandle, now: &Snapshot, options: &Options) -> String {
    let date = humantime::format_rfc3339_seconds(SystemTime::now());
    let mut lines = vec![
        ("date", date.to_string()),
        ("quorum", options.paint(now.quorum, now.quorum)),
        ("exclusive", yes_or_no(quorum.is_exclusive()).into()),
        ("corosync", now.connection.to_string()),
    ];
    if let Some(local) = now.local {
        lines.push(("node", named(quorum, local)));
    }
    if let Some(ring_id) = now.ring_id {
        lines.push(("ring", ring_id.to_string()));
        lines.push(("alive", alive(now.ring).into()));
        lines.push(("settled", yes_or_no(now.settled).into()));
        lines.push(("epoch", now.epoch.to_string()));
    }
    if let Some(token) = now.fencing_token() {
        lines.push(("token", token.to_string()));
    }
    if let Some(votes) = &now.votes {
        // Only votequorum answers with votes.
        lines.push(("provider", "corosync_votequorum".into()));
        lines.extend(vote_lines(votes));
    }
    lines.push(("nodes", now.members.len().to_string()));
    for member in &now.members {
        lines.push(("member", member_line(quorum, now, *member)));
    }
    let mut text = String::new();
    for (name, value) in lines {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{name:<10}{value}");
    }
    text
}

fn vote_lines(votes: &Votes) -> Vec<(&'static str, String)> {
    let Votes { total, expected, highest_expected, quorum, qdevice, flags, .. } = votes;
    let mut lines = vec![(
        "votes",
        format!(
            "{total} of {expected} expected (highest {highest_expected}), quorum {quorum}, {} to spare",
            votes.margin()
        ),
    )];
    if flags.contains(VoteFlags::QDEVICE_REGISTERED) {
        lines.push(("qdevice", format!("{}, {}", votes_of(*qdevice), qdevice_state(*flags))));
    }
    let names: Vec<_> = flags.names().collect();
    lines.push(("flags", if names.is_empty() { "none".into() } else { names.join(" ") }));
    lines
}

fn votes_of(votes: u32) -> String {
    if votes == 1 { "1 vote".into() } else { format!("{votes} votes") }
}

fn qdevice_state(flags: VoteFlags) -> String {
    let state = match (
        flags.contains(VoteFlags::QDEVICE_ALIVE),
        flags.contains(VoteFlags::QDEVICE_CAST_VOTE),
    ) {
        (true, true) => "alive and voting",
        (true, false) => "alive but not voting",
        (false, _) => "not alive",
    };
    let wins = if flags.contains(VoteFlags::QDEVICE_MASTER_WINS) { " (master wins)" } else { "" };
    format!("{state}{wins}")
}

/// Returns the id, name, votes and quorum device of a member, and whether quorum would survive its
/// loss.
fn member_line(quorum: &QuorumHandle, now: &Snapshot, member: NodeId) -> String {
    let mut line = named(quorum, member);
    if let Some(votes) = now.votes.as_ref().and_then(|votes| votes.of(member)) {
        let _ = write!(line, ", {}", votes_of(votes));
    }
    if let Some(votes) = &now.votes
        && !votes.qdevices.is_empty()
    {
        let _ = match votes.qdevice_of(member) {
            flags if flags.is_empty() => write!(line, ", no qdevice"),
            flags => write!(line, ", qdevice {}", qdevice_state(flags)),
        };
    }
    if Some(member) == now.local {
        line.push_str(", this node");
    }
    match now.quorate_without(&[member]) {
        Some(true) => line.push_str(", can be spared"),
        Some(false) if now.quorum.is_quorate() => line.push_str(", quorum needs it"),
        _ => {}
    }
    line
}

fn named(quorum: &QuorumHandle, node: NodeId) -> String {
    match quorum.node_names().get(&node) {
        Some(name) => format!("{node} ({name})"),
        None => node.to_string(),
    }
}

fn alive(ring: RingState) -> &'static str {
    match ring {
        RingState::Operational => "yes",
        RingState::Gather => "no, re-forming",
        RingState::Unwatched => "unknown, not watched",
        _ => "unknown",
    }
}

fn yes_or_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use actix_quorum::testing::ScriptedQuorum;
    use clap::Parser;

    use super::*;

    #[test]
    fn the_state_of_the_quorum_device_is_shown_for_each_member() {
        let (registered, alive) = (VoteFlags::QDEVICE_REGISTERED, VoteFlags::QDEVICE_ALIVE);
        let mut votes = Votes::default();
        (votes.total, votes.expected, votes.highest_expected, votes.quorum) = (4, 4, 4, 3);
        votes.qdevice = 1;
        votes.members = [1, 2, 3].map(|node| (NodeId(node), 1)).to_vec();
        votes.flags = VoteFlags::QUORATE | registered | alive | VoteFlags::QDEVICE_CAST_VOTE;
        votes.qdevices =
            vec![(NodeId(1), votes.flags & !VoteFlags::QUORATE), (NodeId(2), registered)];
        let mut now = Snapshot::new(Quorum::Quorate, "1.9".parse().unwrap(), [1, 2, 3]);
        now.votes = Some(votes);
        now.local = Some(NodeId(1));
        let script = ScriptedQuorum::new(now.clone());

        let text = table(&script.handle(), &now, &Options::parse_from(["quorum-watch"]));
        for line in [
            "qdevice   1 vote, alive and voting",
            "member    1, 1 vote, qdevice alive and voting, this node",
            "member    2, 1 vote, qdevice not alive",
            "member    3, 1 vote, no qdevice",
        ] {
            assert!(text.lines().any(|shown| shown.starts_with(line)), "{line} in {text}");
        }
    }
}
