//! The one-line texts for operators.

use std::fmt;

use crate::{
    libquorum::{NodeId, Votes},
    state::{Cause, Connection, Nodes, Quorum, QuorumChanged, RingState, Snapshot},
};

/// Formats the change on one line for an operator: `inquorate: ring 3.d, members 3; left 1 2 (was
/// quorate, ring 1.9)`. Once the votes are known, the line of the next change gives the reason:
/// `inquorate: ring 3.d, members 3; 1 of 3 votes, 2 required`.
impl fmt::Display for QuorumChanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (previous, current) = (&*self.previous, &*self.current);
        write!(f, "{current}")?;
        for (what, nodes) in [("joined", &self.joined), ("left", &self.left)] {
            if !nodes.is_empty() && self.cause != Cause::Subscribed {
                write!(f, "; {what}{}", Listed(nodes))?;
            }
        }
        if self.is_silent_interruption() {
            f.write_str("; interrupted")?;
        }
        if let (Cause::Votes, Some(votes), None) = (self.cause, &current.votes, current.shortage())
        {
            let Votes { total, expected, quorum, .. } = votes;
            write!(f, "; votes {total} of {expected}, quorum {quorum}")?;
        }
        if self.missed > 0 {
            let changes = if self.missed == 1 { "change" } else { "changes" };
            write!(f, "; missed {} {changes}", self.missed)?;
        }
        let quorum = (previous.quorum != current.quorum).then(|| previous.quorum.to_string());
        let ring = match previous.ring_id {
            Some(ring) if previous.ring_id != current.ring_id => Some(format!("ring {ring}")),
            _ => None,
        };
        let was: Vec<String> = quorum.into_iter().chain(ring).collect();
        if was.is_empty() || self.cause == Cause::Subscribed {
            return Ok(());
        }
        write!(f, " (was {})", was.join(", "))
    }
}

/// Formats the state on one line for an operator: `quorate: ring 1.9, members 1 2 3`, or, if the
/// votes show why quorum is missing, `inquorate: ring 1.9, members 1 2; 2 of 4 votes, 3 required`.
impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.quorum)?;
        let Some(ring) = self.ring_id.filter(|_| self.connection.is_established()) else {
            return write!(f, "{}", self.connection);
        };
        if self.connection == Connection::Stalled {
            write!(f, "{}, ", self.connection)?;
        }
        write!(f, "ring {ring}, members{}", Listed(&self.members))?;
        if let Some(shortage) = self.shortage() {
            write!(f, "; {shortage}")?;
        }
        match self.ring {
            RingState::Gather => f.write_str(", ring is re-forming"),
            _ if !self.settled => f.write_str(", not settled"),
            RingState::Unknown => f.write_str(", ring state unknown"),
            RingState::Operational | RingState::Unwatched => Ok(()),
        }
    }
}

impl fmt::Display for Quorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Quorate => "quorate",
            Self::Inquorate => "inquorate",
            Self::Unknown => "unknown",
        })
    }
}

/// Formats the cause as in JSON and in metrics: `connect_failed`.
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Formats the state as in JSON: `operational`.
impl fmt::Display for RingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unknown => "unknown",
            Self::Operational => "operational",
            Self::Gather => "gather",
            Self::Unwatched => "unwatched",
        })
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting { attempt, error: None } => write!(f, "connecting, attempt {attempt}"),
            Self::Connecting { attempt, error: Some(error) } => {
                write!(f, "connecting, attempt {attempt}: {error}")
            }
            Self::Connected => f.write_str("connected"),
            Self::Stalled => f.write_str("corosync does not answer"),
            Self::Disconnected { error } => write!(f, "{error}"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

/// Formats the nodes with a space between them: `2 3`.
impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.split_first() {
            Some((first, rest)) => write!(f, "{first}{}", Listed(rest)),
            None => Ok(()),
        }
    }
}

/// A list of nodes, each with a space before it.
struct Listed<'a>(&'a [NodeId]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|node| write!(f, " {node}"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::{
        error::{Code, Error},
        libquorum::{Notification, RingId},
        link::clock::Moment,
        state::{BeliefPolicy, Event, Now, Tracker, first},
    };

    const NOW: Now = Now { wall: SystemTime::UNIX_EPOCH, moment: Moment::BEGINNING };

    fn tracker() -> Tracker {
        let second = Duration::from_secs(1);
        let policy =
            BeliefPolicy { lease: second, settle_grace: second, ..BeliefPolicy::default() };
        Tracker::new(policy, NOW.wall)
    }

    fn apply_all(events: impl IntoIterator<Item = Event>) -> (Tracker, Vec<String>) {
        let mut tracker = tracker();
        let changes = events
            .into_iter()
            .filter_map(|event| tracker.apply(event, NOW))
            .map(|change| change.to_string())
            .collect();
        (tracker, changes)
    }

    fn ring(node: u32, seq: u64) -> RingId {
        RingId { node_id: NodeId(node), seq }
    }

    fn ids(nodes: &[u32]) -> Vec<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    fn partition() -> [Event; 6] {
        let nodelist = |ring_id, members: &[u32], left: &[u32]| Event::Notified {
            notification: Notification::Nodelist {
                ring_id,
                members: ids(members),
                joined: Vec::new(),
                left: ids(left),
            },
            drained_at: Moment::default(),
        };
        let quorum = |quorate, ring_id| Event::Notified {
            notification: Notification::Quorum { quorate, ring_id, members: Vec::new() },
            drained_at: Moment::default(),
        };
        [
            Event::Connected { has_provider: true, asked_at: NOW.moment, watched: false },
            nodelist(ring(1, 9), &[1, 2, 3], &[]),
            quorum(true, ring(1, 9)),
            nodelist(ring(3, 13), &[3], &[1, 2]),
            quorum(false, ring(3, 13)),
            Event::Disconnected(Error::Dispatch(Code::LIBRARY)),
        ]
    }

    #[test]
    fn each_change_is_displayed_as_one_line() {
        let (_, changes) = apply_all(partition());
        assert_eq!(
            changes,
            [
                "unknown: connected",
                "unknown: ring 1.9, members 1 2 3, not settled; joined 1 2 3",
                "quorate: ring 1.9, members 1 2 3 (was unknown)",
                "quorate: ring 3.d, members 3, not settled; left 1 2; interrupted (was ring 1.9)",
                "inquorate: ring 3.d, members 3 (was quorate)",
                "unknown: connection to corosync lost: CS_ERR_LIBRARY (2); corosync has stopped, \
                 died or closed the connection (was inquorate)",
            ]
        );
    }

    #[test]
    fn a_message_about_missed_changes_is_one_line() {
        let mut tracker = tracker();
        let mut departures = crate::state::DepartureLog::default();
        let changes: Vec<_> = partition()
            .into_iter()
            .filter_map(|event| tracker.apply(event, NOW))
            .inspect(|change| departures.note(change))
            .collect();
        let conflated = departures.conflate(&changes[2].current, &changes[4]);
        assert_eq!(
            conflated.to_string(),
            "inquorate: ring 3.d, members 3; left 1 2; missed 1 change (was quorate, ring 1.9)"
        );
    }

    #[test]
    fn the_line_for_a_state_shows_whether_it_is_settled_and_whether_the_ring_is_certain() {
        let line = |change: fn(&mut Snapshot)| {
            let mut now = Snapshot::new(Quorum::Quorate, ring(1, 9), [1, 2]);
            change(&mut now);
            now.to_string()
        };
        let quorate = "quorate: ring 1.9, members 1 2";
        assert_eq!(line(|_| ()), quorate);
        assert_eq!(line(|now| now.ring = RingState::Unwatched), quorate);
        assert_eq!(
            line(|now| (now.ring, now.settled) = (RingState::Gather, false)),
            format!("{quorate}, ring is re-forming")
        );
        assert_eq!(
            line(|now| (now.ring, now.settled) = (RingState::Unknown, false)),
            format!("{quorate}, not settled")
        );
        assert_eq!(
            line(|now| now.ring = RingState::Unknown),
            format!("{quorate}, ring state unknown")
        );
        assert_eq!(
            line(|now| (now.connection, now.quorum) = (Connection::Stalled, Quorum::Unknown)),
            "unknown: corosync does not answer, ring 1.9, members 1 2"
        );
    }

    #[test]
    fn a_line_about_changed_votes_shows_the_votes_once() {
        let line = |quorum| {
            let mut now = Snapshot::new(quorum, ring(1, 9), [1, 2]);
            now.votes = Some(Votes { total: 2, expected: 4, quorum: 3, ..Votes::default() });
            QuorumChanged::new(now.clone(), now, Cause::Votes).to_string()
        };
        let quorate = "quorate: ring 1.9, members 1 2; votes 2 of 4, quorum 3";
        assert_eq!(line(Quorum::Quorate), quorate);
        let inquorate = "inquorate: ring 1.9, members 1 2; 2 of 4 votes, 3 required";
        assert_eq!(line(Quorum::Inquorate), inquorate);
    }

    #[test]
    fn the_names_of_causes_and_ring_states_can_be_padded() {
        assert_eq!(format!("{:>16}", Cause::ConnectFailed), "  connect_failed");
        assert_eq!(format!("{:>12}", RingState::Operational), " operational");
    }

    #[test]
    fn nodes_are_separated_by_spaces() {
        assert_eq!(Nodes::default().to_string(), "");
        assert_eq!(Nodes::ascending(&ids(&[2, 3])).to_string(), "2 3");
    }

    #[test]
    fn the_first_message_of_a_quorate_state_is_a_gain() {
        let (tracker, _) = apply_all(partition().into_iter().take(3));
        let change = first(tracker.current());
        assert_eq!(change.to_string(), "quorate: ring 1.9, members 1 2 3");
        assert!(change.is_gain() && !change.interrupted());
    }
}
