use std::time::Duration;

use super::*;
use crate::{
    error::{Code, Error},
    libquorum::{Notification, RingId, Votes},
    link::{
        probe::Answer,
        ring_reading::{RingCounters, RingReading, RingUpdate},
    },
    state::DepartureLog,
};

const POLICY: BeliefPolicy = BeliefPolicy {
    lease: Duration::from_secs(5),
    settle_grace: Duration::from_secs(1),
    stable_after: Duration::ZERO,
    trust_two_node: true,
};

/// Returns the time `ms` milliseconds after the beginning of the test.
fn at(ms: u64) -> Now {
    let moment = Moment::default().after(Duration::from_millis(ms));
    Now { wall: SystemTime::UNIX_EPOCH, moment }
}

fn connected(has_provider: bool) -> Event {
    Event::Connected { has_provider, asked_at: at(0).moment, watched: false }
}

fn answered(asked_at: u64, quorate: bool) -> Event {
    let asked_at = at(asked_at).moment;
    Event::Answered(Answer { asked_at, quorate, votes: None, local: None })
}

fn notified(notification: Notification) -> Event {
    Event::Notified { notification, drained_at: at(0).moment }
}

fn ids(nodes: &[u32]) -> Vec<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

fn ring(seq: u64) -> RingId {
    RingId { node_id: NodeId(1), seq }
}

fn nodelist(seq: u64, members: &[u32], joined: &[u32], left: &[u32]) -> Event {
    notified(Notification::Nodelist {
        ring_id: ring(seq),
        members: ids(members),
        joined: ids(joined),
        left: ids(left),
    })
}

fn quorum(seq: u64, quorate: bool, members: &[u32]) -> Event {
    notified(Notification::Quorum { quorate, ring_id: ring(seq), members: ids(members) })
}

const LOST: Error = Error::Dispatch(Code::LIBRARY);

/// A tracker to which a test applies events.
struct Fold(Tracker);

impl Fold {
    fn new() -> Self {
        Self::with(POLICY)
    }

    fn with(policy: BeliefPolicy) -> Self {
        Self(Tracker::new(policy, SystemTime::UNIX_EPOCH))
    }

    /// Returns the tracker of one of three quorate nodes on ring 1.9.
    fn quorate() -> Self {
        let mut fold = Self::new();
        fold.change(connected(true));
        fold.change(nodelist(9, &[1, 2, 3], &[], &[]));
        fold.change(quorum(9, true, &[1, 2, 3]));
        fold
    }

    /// Returns the tracker of one of three quorate nodes with one vote each.
    fn with_votes() -> Self {
        let mut fold = Self::quorate();
        fold.report_votes(&[1, 2, 3]);
        fold
    }

    /// Applies an answer from votequorum with one vote for each of these members, and no other
    /// votes.
    fn report_votes(&mut self, members: &[u32]) {
        let all = u32::try_from(members.len()).unwrap();
        let votes = Votes {
            members: ids(members).into_iter().map(|node| (node, 1)).collect(),
            total: all,
            expected: all,
            highest_expected: all,
            quorum: all / 2 + 1,
            ..Votes::default()
        };
        let asked_at = at(2).moment;
        let answer = Answer { asked_at, quorate: true, votes: Some(votes), local: None };
        self.change(Event::Answered(answer));
    }

    fn change(&mut self, event: Event) -> QuorumChanged {
        self.change_at(1, event)
    }

    fn change_at(&mut self, ms: u64, event: Event) -> QuorumChanged {
        self.0.apply(event, at(ms)).expect("the event causes a change")
    }

    #[track_caller]
    fn no_change_at(&mut self, ms: u64, event: Event) {
        let change = self.0.apply(event, at(ms));
        assert!(change.is_none(), "unexpected change: {}", change.unwrap());
    }

    fn now(&self) -> &Snapshot {
        self.0.current()
    }
}

#[test]
fn quorum_is_unknown_until_corosync_has_decided() {
    let mut fold = Fold::new();
    assert_eq!(fold.now().quorum, Quorum::Unknown);
    fold.change(connected(true));
    assert_eq!(fold.now().quorum, Quorum::Unknown);
    fold.change(nodelist(9, &[3, 1, 2], &[], &[]));
    assert_eq!((fold.now().quorum, fold.now().settled), (Quorum::Unknown, false));
    assert_eq!(fold.now().members, ids(&[1, 2, 3]));
    let change = fold.change(quorum(9, true, &[1, 2, 3]));
    assert_eq!((fold.now().quorum, fold.now().settled), (Quorum::Quorate, true));
    assert!(change.is_gain());
}

#[test]
fn a_partition_changes_the_members_and_then_quorum() {
    let mut fold = Fold::quorate();
    let change = fold.change(nodelist(13, &[3], &[], &[1, 2]));
    assert_eq!((&*change.joined, &*change.left), (&*ids(&[]), &*ids(&[1, 2])));
    assert!(!fold.now().settled, "the decision was about another ring");
    let change = fold.change(quorum(13, false, &[3]));
    assert!(change.is_loss() && fold.now().settled);
    assert_eq!(change.current.epoch, change.previous.epoch + 1);
    assert!(change.joined.is_empty() && change.left.is_empty());
}

#[test]
fn a_lost_connection_makes_quorum_unknown_and_breaks_continuity() {
    let mut fold = Fold::quorate();
    let change = fold.change(Event::Disconnected(LOST));
    assert!(change.is_loss());
    assert_eq!(fold.now().quorum, Quorum::Unknown);
    assert_eq!(fold.now().connection, Connection::Disconnected { error: LOST });
    assert_eq!(fold.now().members, ids(&[1, 2, 3]), "the last known members are kept");
    assert_eq!(change.current.epoch, change.previous.epoch + 1);
}

#[test]
fn a_decision_from_an_ended_connection_is_ignored_after_reconnecting() {
    let mut fold = Fold::quorate();
    fold.change(Event::Disconnected(LOST));
    fold.change(connected(true));
    assert_eq!(fold.now().quorum, Quorum::Unknown);
    fold.change(nodelist(13, &[1, 2, 3], &[], &[]));
    assert_eq!(fold.now().quorum, Quorum::Unknown);
}

#[test]
fn notifications_without_a_connection_change_nothing() {
    let mut fold = Fold::quorate();
    fold.change(Event::Disconnected(LOST));
    assert!(fold.0.apply(quorum(9, true, &[1, 2, 3]), at(1)).is_none());
    assert_eq!(fold.now().quorum, Quorum::Unknown);
}

#[test]
fn a_failed_attempt_to_connect_discards_quorum_and_votes() {
    let mut fold = Fold::quorate();
    let (asked_at, votes) = (at(1).moment, Some(Votes::default()));
    fold.change(Event::Answered(Answer { asked_at, quorate: true, votes, local: None }));
    assert!(fold.now().votes.is_some());
    let change = fold.change(Event::Failed { attempt: 1, error: LOST });
    assert!(change.is_loss() && !fold.now().settled);
    fold.change(connected(true));
    assert_eq!((fold.now().quorum, &fold.now().votes), (Quorum::Unknown, &None));
}

#[test]
fn a_node_that_left_while_the_connection_was_lost_is_listed_as_left() {
    let mut fold = Fold::quorate();
    fold.change(Event::Disconnected(LOST));
    fold.change(connected(true));
    let change = fold.change(nodelist(17, &[2, 3, 4], &[], &[]));
    assert_eq!((&*change.joined, &*change.left), (&*ids(&[4]), &*ids(&[1])));
}

#[test]
fn a_node_that_restarted_quickly_is_listed_as_joined_and_as_left() {
    let mut fold = Fold::with_votes();
    let change = fold.change(nodelist(0x2c, &[1, 2, 3], &[3], &[3]));
    assert_eq!((&*change.joined, &*change.left), (&*ids(&[3]), &*ids(&[3])));
    assert_eq!(change.rejoined().collect::<Vec<_>>(), ids(&[3]));
    assert_eq!(change.current.epoch, change.previous.epoch, "a majority stayed together");
}

/// One nodelist reports that all other nodes left and rejoined: this node was paused, and the
/// others may have had quorum in the meantime.
#[test]
fn a_return_from_a_pause_breaks_continuity() {
    let mut fold = Fold::quorate();
    let change = fold.change(nodelist(0x30, &[1, 2, 3], &[1, 2], &[1, 2]));
    assert_eq!(change.current.epoch, change.previous.epoch + 1);
}

/// This node was paused, and node 4 joined the other nodes in the meantime.
#[test]
fn a_return_from_a_pause_to_a_larger_cluster_breaks_continuity() {
    let mut fold = Fold::quorate();
    let change = fold.change(nodelist(0x30, &[1, 2, 3, 4], &[1, 2, 4], &[1, 2]));
    assert_eq!(change.current.epoch, change.previous.epoch + 1);
}

#[test]
fn nodes_that_were_away_break_continuity_if_they_have_a_majority() {
    let mut fold = Fold::new();
    fold.change(connected(true));
    fold.change(nodelist(9, &[1, 2, 3, 4, 5], &[], &[]));
    fold.change(quorum(9, true, &[1, 2, 3, 4, 5]));
    fold.report_votes(&[1, 2, 3, 4, 5]);
    let change = fold.change(nodelist(17, &[1, 2, 3, 4, 5], &[1, 2, 3], &[1, 2, 3]));
    assert_eq!(change.current.epoch, 1, "nodes 1, 2 and 3 may have had quorum without this node");
    fold.change(quorum(17, true, &[1, 2, 3, 4, 5]));
    let change = fold.change(nodelist(21, &[1, 2, 3, 4, 5], &[1, 2], &[1, 2]));
    assert_eq!(change.current.epoch, 1, "nodes 1 and 2 have no majority");
}

/// Returns the tracker of one of five quorate nodes. Node 5 has left and is in the next ring again.
/// If node 5 now has three votes instead of one, it may have been quorate alone.
fn returning() -> Fold {
    let mut fold = Fold::new();
    fold.change(connected(true));
    fold.change(nodelist(9, &[1, 2, 3, 4, 5], &[], &[]));
    fold.change(quorum(9, true, &[1, 2, 3, 4, 5]));
    fold.report_votes(&[1, 2, 3, 4, 5]);
    fold.change_at(10, nodelist(13, &[1, 2, 3, 4], &[], &[5]));
    fold.change_at(11, quorum(13, true, &[1, 2, 3, 4]));
    fold.change_at(20, nodelist(17, &[1, 2, 3, 4, 5], &[5], &[]));
    fold
}

/// Returns an answer from votequorum with three votes for node 5 and one for each other node.
fn answered_with_more_votes(asked_at: u64) -> Event {
    let votes = Votes {
        members: ids(&[1, 2, 3, 4, 5]).into_iter().zip([1, 1, 1, 1, 3]).collect(),
        total: 7,
        expected: 7,
        highest_expected: 7,
        quorum: 4,
        ..Votes::default()
    };
    let asked_at = at(asked_at).moment;
    Event::Answered(Answer { asked_at, quorate: true, votes: Some(votes), local: None })
}

/// Between the nodelist and the decision, votequorum may still report the previous votes.
#[test]
fn votes_from_before_the_decision_do_not_prove_continuity() {
    let mut fold = returning();
    let (votes, asked_at) = (fold.now().votes.clone(), at(30).moment);
    fold.change_at(31, Event::Answered(Answer { asked_at, quorate: true, votes, local: None }));
    fold.change_at(40, quorum(17, true, &[1, 2, 3, 4, 5]));
    let change = fold.change_at(51, answered_with_more_votes(50));
    assert_eq!(change.current.epoch, change.previous.epoch + 1);
}

/// Node 5 returned in ring 17. Its votes are reported only after ring 21 has formed without a
/// change of the members.
#[test]
fn continuity_is_checked_for_each_ring_since_the_last_votes() {
    let mut fold = returning();
    fold.change_at(21, quorum(17, true, &[1, 2, 3, 4, 5]));
    fold.change_at(30, nodelist(21, &[1, 2, 3, 4, 5], &[], &[]));
    fold.change_at(31, quorum(21, true, &[1, 2, 3, 4, 5]));
    let change = fold.change_at(51, answered_with_more_votes(50));
    assert_eq!(change.current.epoch, change.previous.epoch + 1);
}

/// Ring 13 ends before Corosync has decided about it.
#[test]
fn a_membership_without_a_decision_breaks_continuity() {
    let mut fold = Fold::with_votes();
    let change = fold.change(nodelist(13, &[3], &[], &[1, 2]));
    assert_eq!(change.current.epoch, 1, "nodes 1 and 2 may be quorate");
    let change = fold.change(nodelist(17, &[1, 2, 3], &[1, 2], &[]));
    assert_eq!(change.current.epoch, change.previous.epoch + 1);
    fold.change(quorum(17, true, &[1, 2, 3]));
    assert_eq!(fold.now().epoch, 2);
}

#[test]
fn a_late_decision_about_the_previous_ring_does_not_restore_continuity() {
    let mut fold = Fold::with_votes();
    fold.change(nodelist(13, &[1, 2, 3], &[2, 3], &[2, 3]));
    fold.no_change_at(1, quorum(9, true, &[1, 2, 3]));
    let change = fold.change(nodelist(17, &[1, 2, 3], &[], &[]));
    assert_eq!(change.current.epoch, change.previous.epoch + 1);
}

#[test]
fn the_death_of_the_only_other_node_breaks_continuity() {
    let mut fold = Fold::new();
    fold.change(connected(true));
    fold.change(nodelist(9, &[1, 2], &[], &[]));
    fold.change(quorum(9, true, &[1, 2]));
    fold.change(nodelist(13, &[1], &[], &[2]));
    fold.change(quorum(13, true, &[1]));
    assert_eq!(fold.now().epoch, 1, "node 2 may be quorate alone");
}

/// Node 2 has left and returned. In the meantime it may have been quorate alone.
#[test]
fn the_return_of_the_only_other_node_breaks_continuity() {
    let mut fold = Fold::new();
    fold.change(connected(true));
    fold.change(nodelist(9, &[1, 2], &[], &[]));
    fold.change(quorum(9, true, &[1, 2]));
    let change = fold.change(nodelist(13, &[1, 2], &[2], &[2]));
    assert_eq!(change.current.epoch, change.previous.epoch + 1);
}

#[test]
fn contradictory_lists_still_give_a_consistent_change() {
    let mut fold = Fold::quorate();
    let change = fold.change(nodelist(13, &[2, 2, 1], &[7, 2], &[9, 1, 3, 3]));
    assert_eq!(change.current.members, ids(&[1, 2]));
    assert_eq!((&*change.joined, &*change.left), (&*ids(&[1]), &*ids(&[1, 3])));
}

#[test]
fn a_repeated_decision_about_the_same_ring_is_not_published() {
    let mut fold = Fold::quorate();
    assert!(fold.change(quorum(9, false, &[1, 2, 3])).is_loss());
    assert!(fold.change(quorum(9, true, &[1, 2, 3])).is_gain());
    assert!(
        fold.0.apply(quorum(9, true, &[1, 2, 3]), at(1)).is_none(),
        "the repeated decision changes nothing"
    );
    assert_eq!(fold.now().epoch, 1);
}

#[test]
fn in_model_v0_the_decision_reports_the_members_and_a_new_ring_breaks_continuity() {
    let mut fold = Fold::new();
    fold.change(connected(true));
    fold.change(quorum(9, true, &[1, 2, 3]));
    assert!(fold.now().settled);
    let change = fold.change(quorum(13, true, &[1, 2]));
    assert_eq!((&*change.left, change.current.epoch), (&*ids(&[3]), 1));
    let change = fold.change(quorum(17, true, &[1, 2]));
    assert_eq!(change.current.epoch, 2, "another ring of the same members: a node was away");
    let change = fold.change(quorum(17, false, &[1, 2]));
    assert_eq!(change.current.epoch, 3);
    fold.change(quorum(17, true, &[1, 2]));
    assert_eq!(fold.now().epoch, 3, "the decision is about the same ring");
}

#[test]
fn without_a_provider_a_decision_is_about_the_ring_of_the_nodelist() {
    let mut fold = Fold::new();
    fold.change(connected(false));
    fold.change(nodelist(9, &[1], &[], &[]));
    fold.change(quorum(0, true, &[]));
    assert!(fold.now().settled);
    assert_eq!((fold.now().ring_id, &fold.now().members), (Some(ring(9)), &ids(&[1])));
}

#[test]
fn without_a_provider_a_change_of_the_membership_breaks_continuity() {
    let mut fold = Fold::new();
    fold.change(connected(false));
    fold.change(nodelist(9, &[1, 2], &[], &[]));
    fold.change(quorum(0, true, &[]));
    let change = fold.change(nodelist(13, &[1], &[], &[2]));
    assert_eq!(change.current.epoch, change.previous.epoch + 1);
}

#[test]
fn failed_attempts_are_published_less_and_less_often() {
    let mut fold = Fold::new();
    let published: Vec<u64> = (1..=20)
        .filter(|attempt| {
            let error = Error::Connect(Code::LIBRARY);
            fold.0.apply(Event::Failed { attempt: *attempt, error }, at(1)).is_some()
        })
        .collect();
    assert_eq!(published, [1, 2, 4, 8, 16]);
    let error = Error::Connect(Code::ACCESS);
    assert_eq!(fold.change(Event::Failed { attempt: 21, error }).cause, Cause::ConnectFailed);
}

#[test]
fn nothing_is_published_after_the_stop() {
    let mut fold = Fold::quorate();
    let change = fold.change(Event::Stopped);
    assert!(change.is_loss());
    assert_eq!(fold.now().connection, Connection::Stopped);
    assert!(fold.0.apply(connected(true), at(1)).is_none());
    assert!(fold.0.apply(Event::Stopped, at(1)).is_none());
}

#[test]
fn the_sequence_has_no_gaps() {
    let mut fold = Fold::quorate();
    assert_eq!(fold.now().sequence, 3);
    assert_eq!(fold.change(quorum(9, false, &[1, 2, 3])).current.sequence, 4);
    assert!(fold.0.apply(quorum(9, false, &[1, 2, 3]), at(1)).is_none());
    assert_eq!(fold.change(quorum(9, true, &[1, 2, 3])).current.sequence, 5);
}

#[test]
fn the_lease_runs_from_the_moment_of_the_request() {
    let mut fold = Fold::quorate();
    fold.no_change_at(3_000, answered(2_000, true));
    fold.no_change_at(6_999, Event::Tick);
    let change = fold.change_at(7_000, Event::Tick);
    assert_eq!(
        (change.cause, fold.now().connection.clone()),
        (Cause::Stalled, Connection::Stalled)
    );
    assert!(change.is_loss() && fold.now().quorum == Quorum::Unknown);
    assert_eq!(change.current.epoch, change.previous.epoch + 1);
    // An answer that took too long proves nothing.
    fold.no_change_at(8_000, answered(2_500, true));
    let change = fold.change_at(9_000, answered(8_500, true));
    assert!(change.is_gain() && fold.now().connection == Connection::Connected);
    assert_eq!(change.cause, Cause::Connected, "Corosync answers again");
}

#[test]
fn a_lease_that_expired_unnoticed_breaks_continuity() {
    let mut fold = Fold::quorate();
    // This process was stuck, and handles the answer before it checks the clock.
    let change = fold.change_at(6_000, answered(5_900, true));
    assert!(change.current.quorum.is_quorate() && change.interrupted());
    assert_eq!(change.current.epoch, change.previous.epoch + 1);
    fold.no_change_at(7_000, answered(6_900, true));
}

/// Readers have seen that the lease ended. The daemon may have been suspended after the request.
#[test]
fn a_lease_that_has_ended_is_renewed_only_by_an_answer_to_a_later_request() {
    let mut fold = Fold::quorate();
    fold.change_at(5_000, Event::Tick);
    fold.no_change_at(5_100, answered(4_999, true));
    assert!(fold.change_at(5_200, answered(5_000, true)).is_gain());
}

#[test]
fn a_notification_does_not_extend_the_lease() {
    let mut fold = Fold::quorate();
    fold.change_at(4_000, quorum(9, false, &[1, 2, 3]));
    let change = fold.change_at(6_000, quorum(9, true, &[1, 2, 3]));
    assert_eq!(change.current.connection, Connection::Stalled);
    assert_eq!(change.current.quorum, Quorum::Unknown, "the decision may be old");
    assert!(fold.change_at(7_000, answered(6_500, true)).is_gain());
}

#[test]
fn votequorum_has_a_veto_until_the_next_decision() {
    let mut fold = Fold::quorate();
    // These answers were requested before the decision or at the same time.
    fold.no_change_at(10, answered(0, false));
    fold.no_change_at(10, answered(1, false));
    let change = fold.change_at(20, answered(10, false));
    assert!(change.is_loss() && fold.now().quorum == Quorum::Inquorate);
    assert_eq!(change.cause, Cause::Quorum);
    assert!(fold.change_at(40, answered(30, true)).is_gain());
    assert!(fold.change_at(60, answered(50, false)).is_loss());
    assert!(fold.change_at(70, quorum(9, true, &[1, 2, 3])).is_gain());
    fold.no_change_at(80, answered(65, false));
}

#[test]
fn an_answer_from_votequorum_alone_does_not_make_the_node_quorate() {
    let mut fold = Fold::quorate();
    fold.change_at(10, quorum(9, false, &[1, 2, 3]));
    fold.no_change_at(30, answered(20, true));
    assert_eq!(fold.now().quorum, Quorum::Inquorate);
}

#[test]
fn a_decision_about_another_membership_counts_only_for_settle_grace() {
    let mut fold = Fold::quorate();
    let change = fold.change_at(100, nodelist(13, &[1, 2], &[], &[3]));
    assert!(change.current.quorum.is_quorate() && !change.current.settled);
    fold.no_change_at(1_099, Event::Tick);
    let change = fold.change_at(1_100, Event::Tick);
    assert!(change.is_loss() && change.current.quorum == Quorum::Unknown);
    fold.no_change_at(4_000, answered(3_900, true));
    fold.no_change_at(8_000, answered(7_900, true));
    assert!(fold.change_at(8_100, quorum(13, true, &[1, 2])).is_gain());
}

/// The first nodelist of this connection is about ring 13, so a decision about ring 9 is too old.
#[test]
fn a_decision_about_another_ring_does_not_count_on_a_new_connection() {
    let mut fold = Fold::new();
    fold.change(connected(true));
    fold.change(nodelist(13, &[1, 2], &[], &[]));
    fold.no_change_at(1, quorum(9, true, &[1, 2, 3]));
    assert_eq!(fold.now().quorum, Quorum::Unknown);
    assert!(fold.change(quorum(13, true, &[1, 2])).is_gain());
}

#[test]
fn an_answer_from_before_the_veto_does_not_withdraw_it() {
    let mut fold = Fold::quorate();
    assert!(fold.change_at(40, answered(30, false)).is_loss());
    fold.no_change_at(50, answered(20, true));
    assert!(fold.change_at(70, answered(60, true)).is_gain());
}

#[test]
fn a_settle_grace_that_expired_unnoticed_breaks_continuity() {
    let mut fold = Fold::quorate();
    fold.change_at(100, nodelist(13, &[1, 2], &[], &[3]));
    // This process was stuck, and handles the decision before it checks the clock.
    let change = fold.change_at(1_100, quorum(13, true, &[1, 2]));
    assert!(change.current.quorum.is_quorate() && change.interrupted());
    fold.change_at(1_200, nodelist(17, &[1, 2, 3], &[3], &[]));
    assert!(!fold.change_at(2_199, quorum(17, true, &[1, 2, 3])).interrupted());
}

#[test]
fn quorum_that_expired_unnoticed_is_gained_again_after_stable_after() {
    let stable_after = Duration::from_millis(500);
    let mut fold = Fold::with(BeliefPolicy { stable_after, ..POLICY });
    fold.change(connected(true));
    fold.change(nodelist(9, &[1, 2, 3], &[], &[]));
    fold.change(quorum(9, true, &[1, 2, 3]));
    assert!(fold.change_at(501, Event::Tick).is_gain());
    assert!(fold.change_at(6_000, answered(5_900, true)).is_loss());
    assert_eq!(fold.now().quorum, Quorum::Unknown);
    fold.no_change_at(6_499, Event::Tick);
    assert!(fold.change_at(6_500, Event::Tick).is_gain());
}

#[test]
fn a_gain_is_published_once_quorum_has_lasted_for_stable_after() {
    let mut fold = Fold::with(BeliefPolicy { stable_after: Duration::from_millis(500), ..POLICY });
    fold.change(connected(true));
    fold.change(nodelist(9, &[1, 2, 3], &[], &[]));
    let change = fold.change_at(100, quorum(9, true, &[1, 2, 3]));
    assert!(change.current.settled && change.current.quorum == Quorum::Unknown);
    fold.change_at(400, quorum(9, false, &[1, 2, 3]));
    fold.no_change_at(450, quorum(9, true, &[1, 2, 3]));
    fold.no_change_at(949, Event::Tick);
    assert!(fold.change_at(950, Event::Tick).is_gain());
    assert!(
        fold.change_at(960, quorum(9, false, &[1, 2, 3])).is_loss(),
        "a loss is published immediately"
    );
}

/// The lease expired before it was renewed, and readers may have seen that.
#[test]
fn a_lapse_of_the_lease_begins_a_new_epoch() {
    let mut fold = Fold::quorate();
    let change = fold.change(Event::Lapsed);
    assert!(change.interrupted() && change.current.quorum.is_quorate());
    assert_eq!(change.current.epoch, change.previous.epoch + 1);
    fold.change(Event::Disconnected(LOST));
    fold.no_change_at(2, Event::Lapsed);
}

#[test]
fn stable_after_starts_over_when_continuity_breaks() {
    let mut fold = Fold::with(BeliefPolicy { stable_after: Duration::from_millis(500), ..POLICY });
    fold.change(connected(true));
    fold.change(nodelist(9, &[1, 2, 3], &[], &[]));
    fold.change_at(100, quorum(9, true, &[1, 2, 3]));
    fold.change_at(400, nodelist(13, &[1, 2, 3], &[2, 3], &[2, 3]));
    fold.change_at(400, quorum(13, true, &[1, 2, 3]));
    fold.no_change_at(899, Event::Tick);
    assert!(fold.change_at(900, Event::Tick).is_gain());
}

#[test]
fn stable_after_starts_over_after_an_overdue_decision() {
    let stable_after = Duration::from_secs(2);
    let mut fold = Fold::with(BeliefPolicy { stable_after, ..POLICY });
    fold.change(connected(true));
    fold.change(nodelist(9, &[1, 2, 3], &[], &[]));
    fold.change(quorum(9, true, &[1, 2, 3]));
    fold.change_at(100, nodelist(13, &[1, 2], &[], &[3]));
    // This process was stuck, and handles the decision after its deadline.
    fold.change_at(1_200, quorum(13, true, &[1, 2]));
    fold.no_change_at(3_199, Event::Tick);
    assert!(fold.change_at(3_200, Event::Tick).is_gain());
}

#[test]
fn a_connection_that_ends_begins_a_new_epoch_even_without_quorum() {
    for event in [Event::Failed { attempt: 1, error: LOST }, Event::Stopped] {
        let mut fold = Fold::new();
        fold.change(connected(true));
        assert_eq!(fold.change(event).current.epoch, 1);
    }
}

#[test]
fn the_deadline_is_the_next_moment_at_which_the_state_changes_without_an_event() {
    let mut fold = Fold::new();
    assert_eq!(fold.0.deadline(), None);
    fold.change(connected(true));
    assert_eq!(fold.0.deadline(), Some(at(5_000).moment));
    fold.change(nodelist(9, &[1, 2, 3], &[], &[]));
    fold.change(quorum(9, true, &[1, 2, 3]));
    fold.change_at(100, nodelist(13, &[1, 2], &[], &[3]));
    assert_eq!(fold.0.deadline(), Some(at(1_100).moment));
    fold.change_at(1_100, Event::Tick);
    assert_eq!(fold.0.deadline(), Some(at(5_000).moment));
    fold.change_at(5_000, Event::Tick);
    assert_eq!(fold.0.deadline(), None);
}

/// `stable_after` delays the gain at 200 ms. The decision is about ring 9, so it counts only until
/// `settle_grace` after ring 13 was reported.
#[test]
fn stable_after_does_not_extend_settle_grace() {
    let stable_after = Duration::from_secs(2);
    let mut fold = Fold::with(BeliefPolicy { stable_after, ..POLICY });
    fold.change(connected(true));
    fold.change(nodelist(9, &[1, 2, 3], &[], &[]));
    fold.change(quorum(9, false, &[1, 2, 3]));
    fold.change_at(100, nodelist(13, &[1, 2], &[], &[3]));
    fold.no_change_at(200, quorum(9, true, &[1, 2, 3]));
    assert_eq!(fold.0.deadline(), Some(at(1_100).moment));
    assert_eq!(fold.change_at(1_100, Event::Tick).current.quorum, Quorum::Unknown);
    assert_eq!(fold.0.deadline(), Some(at(5_000).moment));
}

#[test]
fn votes_belong_to_this_membership_if_they_were_requested_after_the_decision() {
    let mut fold = Fold::new();
    fold.change(connected(true));
    fold.change(nodelist(9, &[1, 2, 3], &[], &[]));
    fold.report_votes(&[1, 2, 3]);
    assert!(!fold.now().has_majority(), "nothing has been decided");
    fold.change_at(2, quorum(9, true, &[1, 2, 3]));
    let votes = fold.now().votes.clone();
    let answered = |asked_at| {
        let (asked_at, votes) = (at(asked_at).moment, votes.clone());
        Event::Answered(Answer { asked_at, quorate: true, votes, local: None })
    };
    fold.no_change_at(4, answered(2));
    assert!(!fold.now().has_majority(), "the answer may be older than the decision");
    fold.change_at(5, answered(3));
    assert!(fold.now().has_majority());
}

#[test]
fn votes_show_which_nodes_can_be_removed() {
    let mut fold = Fold::quorate();
    assert_eq!(fold.now().quorate_without(&[]), None);
    let members = vec![(NodeId(1), 3), (NodeId(2), 1), (NodeId(3), 1)];
    let votes = Votes { total: 5, quorum: 3, members, ..Votes::default() };
    let (asked_at, local) = (at(10).moment, Some(NodeId(2)));
    let answer = Answer { asked_at, quorate: true, votes: Some(votes), local };
    let change = fold.change_at(20, Event::Answered(answer));
    assert_eq!((change.cause, fold.now().local), (Cause::Votes, Some(NodeId(2))));
    assert_eq!(fold.now().quorate_without(&[NodeId(2), NodeId(3)]), Some(true));
    assert_eq!(fold.now().quorate_without(&[NodeId(1)]), Some(false));
    assert_eq!(fold.now().quorate_without(&[NodeId(9)]), Some(true));

    // These are far more votes than votequorum can count.
    let members = vec![(NodeId(1), u32::MAX), (NodeId(2), 2), (NodeId(3), 1)];
    let votes = Votes { total: 5, quorum: 3, members, ..Votes::default() };
    let answer = Answer { asked_at, quorate: true, votes: Some(votes), local };
    fold.change_at(30, Event::Answered(answer));
    assert_eq!(fold.now().quorate_without(&[NodeId(1), NodeId(2)]), Some(false));
}

#[test]
fn votes_at_the_numeric_limit_do_not_overflow() {
    let mut fold = Fold::quorate();
    let members = [1, 2, 3].map(|node| (NodeId(node), u32::MAX)).to_vec();
    let votes = Votes { total: u32::MAX, quorum: u32::MAX, members, ..Votes::default() };
    let asked_at = at(10).moment;
    let answer = Answer { asked_at, quorate: true, votes: Some(votes), local: None };
    fold.change_at(20, Event::Answered(answer));
    assert_eq!(fold.now().quorate_without(&ids(&[1, 2])), Some(false));
    assert_eq!(fold.now().quorate_without(&[]), Some(true));
}

#[test]
fn one_of_two_nodes_is_inquorate_alone_if_two_node_is_not_trusted() {
    let mut fold = Fold::with(BeliefPolicy { trust_two_node: false, ..POLICY });
    fold.change(connected(true));
    fold.change(nodelist(9, &[1, 2], &[], &[]));
    fold.change(quorum(9, true, &[1, 2]));
    assert_eq!(fold.now().quorum, Quorum::Unknown, "the votes are not known");
    let votes = Votes {
        quorum: 1,
        total: 2,
        expected: 2,
        highest_expected: 2,
        members: vec![(NodeId(1), 1), (NodeId(2), 1)],
        flags: crate::libquorum::VoteFlags::TWO_NODE,
        ..Votes::default()
    };
    let asked_at = at(2).moment;
    let answer = Answer { asked_at, quorate: true, votes: Some(votes), local: None };
    assert!(fold.change(Event::Answered(answer)).is_gain());
    assert!(fold.now().has_majority());
    assert!(fold.change(nodelist(13, &[1], &[], &[2])).is_loss());
    fold.change(quorum(13, true, &[1]));
    assert_eq!((fold.now().quorum, fold.now().has_majority()), (Quorum::Inquorate, false));
}

#[test]
fn the_quorum_of_one_of_two_nodes_is_unknown_once_the_decision_is_overdue() {
    let mut fold = Fold::with(BeliefPolicy { trust_two_node: false, ..POLICY });
    fold.change(connected(true));
    fold.change(nodelist(9, &[1], &[], &[]));
    fold.change(quorum(9, true, &[1]));
    let votes = Votes {
        quorum: 1,
        total: 1,
        expected: 2,
        members: vec![(NodeId(1), 1)],
        flags: crate::libquorum::VoteFlags::TWO_NODE,
        ..Votes::default()
    };
    let asked_at = at(2).moment;
    let answer = Answer { asked_at, quorate: true, votes: Some(votes), local: None };
    assert_eq!(fold.change(Event::Answered(answer)).current.quorum, Quorum::Inquorate);
    fold.change_at(100, nodelist(13, &[1, 2], &[2], &[]));
    assert_eq!(fold.0.deadline(), Some(at(1_100).moment));
    assert_eq!(fold.change_at(1_100, Event::Tick).current.quorum, Quorum::Unknown);
    // A decision that there is no quorum counts until the next decision.
    fold.change_at(1_200, quorum(13, false, &[1, 2]));
    fold.change_at(1_300, nodelist(17, &[1], &[], &[2]));
    assert_eq!(fold.0.deadline(), Some(at(5_002).moment), "only the deadline of the lease");
}

/// Returns a reading of the counters after `tokens` tokens.
fn read(ms: u64, rings: u64, tokens: u64) -> Event {
    Event::Ring(RingUpdate::Read(RingReading {
        connection: 0,
        asked_at: at(ms).moment,
        answered_at: at(ms).moment,
        counters: RingCounters {
            gather_entered: rings,
            operational_entered: rings,
            token_lost: 0,
            recovery_entered: rings,
            recovery_token_lost: 0,
        },
        tokens,
        token: Duration::from_millis(1_000),
        consensus: Duration::from_millis(1_200),
        configured_votes: Some(3),
        age: Duration::ZERO,
    }))
}

/// Returns the tracker of one of three quorate nodes. After these first notifications, the daemon
/// has formed a ring that no notification announced, and has stayed in that ring for ten seconds.
fn unannounced(has_provider: bool, first: &[Event]) -> Fold {
    let mut fold = Fold::with(BeliefPolicy { lease: Duration::from_secs(60), ..POLICY });
    fold.change(Event::Connected { has_provider, asked_at: at(0).moment, watched: true });
    for event in first {
        fold.change(event.clone());
    }
    for n in 1..=120 {
        fold.0.apply(read(n * 100, if n < 20 { 1 } else { 2 }, n), at(n * 100));
    }
    assert_eq!((fold.now().ring, fold.now().quorum), (RingState::Gather, Quorum::Unknown));
    fold
}

/// The first notifications of a connection, if the nodelist and the decision are about these rings.
fn first_of(listed: u64, decided: u64) -> [Event; 2] {
    [nodelist(listed, &[1, 2, 3], &[], &[]), quorum(decided, true, &[1, 2, 3])]
}

/// A new connection shows the current ring only with model V1, and only a provider decides about
/// that ring. If the decision and the nodelist are about different rings, another decision will
/// follow.
#[test]
fn only_a_settled_v1_connection_with_a_provider_can_lack_an_announcement() {
    assert!(unannounced(true, &first_of(9, 9)).0.lacks_announcement());
    assert!(!unannounced(false, &first_of(9, 9)).0.lacks_announcement());
    assert!(!unannounced(true, &[quorum(9, true, &[1, 2, 3])]).0.lacks_announcement());
    let mut fold = unannounced(true, &first_of(9, 9));
    fold.change_at(12_050, nodelist(13, &[1, 2, 3], &[], &[]));
    assert!(!fold.0.lacks_announcement());
    // A daemon that does not answer is not asked for a new connection.
    let mut fold = unannounced(true, &first_of(9, 9));
    fold.change_at(60_000, Event::Tick);
    assert_eq!(fold.now().connection, Connection::Stalled);
    assert!(!fold.0.lacks_announcement());
}

#[test]
fn after_a_missing_announcement_only_a_decision_about_the_current_ring_is_believed() {
    // The rings of the first notifications of the next connection, and how many rings have formed
    // by its first read.
    for (listed, decided, rings, expected) in [
        (13, 13, 2, Quorum::Quorate),
        // The daemon is still synchronising.
        (13, 9, 2, Quorum::Unknown),
        // A ring has formed after the last read of the old connection.
        (13, 13, 3, Quorum::Unknown),
    ] {
        let mut fold = unannounced(true, &first_of(9, 9));
        fold.change_at(12_010, Event::Disconnected(Error::NotAnnounced));
        let asked_at = at(12_050).moment;
        fold.change_at(12_060, Event::Connected { has_provider: true, asked_at, watched: true });
        for event in first_of(listed, decided) {
            fold.0.apply(event, at(12_070));
        }
        for n in 121..=130 {
            fold.0.apply(read(n * 100, rings, n), at(n * 100));
        }
        assert_eq!(
            fold.now().quorum,
            expected,
            "nodelist {listed}, decision {decided}, {rings} rings"
        );
    }
}

/// Another daemon may have started, whose counters begin at zero.
#[test]
fn reads_from_a_lost_connection_are_ignored_on_the_next_one() {
    for lost in [&[LOST][..], &[Error::NotAnnounced, Error::NoSocket]] {
        let mut fold = unannounced(true, &first_of(9, 9));
        fold.change_at(12_010, Event::Disconnected(lost[0].clone()));
        if let Some(error) = lost.get(1) {
            fold.change_at(12_020, Event::Failed { attempt: 1, error: error.clone() });
        }
        let asked_at = at(12_050).moment;
        fold.change_at(12_060, Event::Connected { has_provider: true, asked_at, watched: true });
        for event in first_of(9, 9) {
            fold.0.apply(event, at(12_070));
        }
        for n in 1..=10 {
            fold.0.apply(read(12_100 + n * 100, 1, n), at(12_100 + n * 100));
        }
        assert_eq!(fold.now().quorum, Quorum::Quorate, "after {lost:?}");
    }
}

/// Without a provider Corosync does not decide, so the nodelist takes the place of the decision.
#[test]
fn a_nodelist_decides_about_the_ring_only_without_a_provider() {
    for (has_provider, ring) in [(false, RingState::Operational), (true, RingState::Unknown)] {
        let mut fold = Fold::new();
        fold.change(Event::Connected { has_provider, asked_at: at(0).moment, watched: true });
        fold.change(nodelist(9, &[1, 2, 3], &[], &[]));
        for n in 1..=3 {
            fold.0.apply(read(n * 100, 1, n), at(n * 100));
        }
        assert_eq!(fold.now().ring, ring);
    }
}

#[test]
fn without_a_provider_the_age_of_a_nodelist_is_measured_from_the_last_empty_queue() {
    let mut fold = Fold::new();
    fold.change(Event::Connected { has_provider: false, asked_at: at(0).moment, watched: true });
    fold.change(nodelist(9, &[1, 2, 3], &[], &[]));
    for n in 1..=3 {
        fold.0.apply(read(n * 100, 1, n), at(n * 100));
    }
    let until = Some(at(200 + 1_000 + 1_200 + 1_000).moment);
    assert_eq!(fold.0.deadline(), until);
    // The queue of notifications was last empty at 0 ms.
    fold.change_at(310, nodelist(13, &[1, 2], &[], &[3]));
    assert_eq!(fold.0.deadline(), until);
}

#[test]
fn a_decision_about_the_previous_ring_does_not_make_the_new_ring_operational() {
    let mut fold = Fold::new();
    fold.change(Event::Connected { has_provider: true, asked_at: at(0).moment, watched: true });
    fold.change(nodelist(13, &[1, 2], &[], &[]));
    fold.no_change_at(1, quorum(9, true, &[1, 2, 3]));
    for n in 1..=3 {
        fold.0.apply(read(n * 100, 1, n), at(n * 100));
    }
    assert_eq!(fold.now().ring, RingState::Unknown);
}

#[test]
fn in_model_v0_the_decision_announces_its_ring() {
    let mut fold = Fold::new();
    fold.change(Event::Connected { has_provider: true, asked_at: at(0).moment, watched: true });
    fold.change(quorum(9, true, &[1, 2, 3]));
    for n in 1..=3 {
        fold.0.apply(read(n * 100, 1, n), at(n * 100));
    }
    assert_eq!(fold.now().ring, RingState::Operational);
}

/// Returns the tracker of one of three quorate nodes, which is exclusive and has a fencing token.
fn exclusive() -> Fold {
    let mut fold = Fold::new();
    fold.change(Event::Connected { has_provider: true, asked_at: at(0).moment, watched: true });
    fold.change(nodelist(9, &[1, 2, 3], &[], &[]));
    fold.change(quorum(9, true, &[1, 2, 3]));
    fold.report_votes(&[1, 2, 3]);
    for n in 1..=20 {
        let ms = n * 100;
        fold.0.apply(read(ms, 1, n), at(ms));
    }
    assert!(fold.0.exclusive_until().is_some() && fold.now().fencing_token().is_some());
    fold
}

#[cfg(feature = "metrics")]
#[test]
fn the_token_was_last_seen_at_the_first_of_the_last_two_reads() {
    assert_eq!(Fold::quorate().0.token_seen(), None);
    // This is the sum of the token timeout, the consensus timeout and `settle_grace`.
    let believed_for = Duration::from_millis(1_000 + 1_200 + 1_000);
    assert_eq!(exclusive().0.token_seen(), Some((at(1_900).moment, believed_for)));
}

/// A daemon that answered before the deadline of the ring may have been suspended since then.
#[test]
fn an_answer_from_before_the_deadline_of_the_ring_does_not_extend_the_lease_after_that_deadline() {
    let mut fold = exclusive();
    fold.no_change_at(3_000, answered_with_votes(&fold, 2_990));
    assert_eq!(fold.0.deadline(), Some(at(5_100).moment), "the deadline of the ring");
    let change = fold.change_at(6_000, answered_with_votes(&fold, 5_050));
    assert!(change.is_loss());
    assert_eq!(fold.0.deadline(), Some(at(2_990 + 5_000).moment));
    fold.no_change_at(6_100, answered_with_votes(&fold, 5_100));
    assert_eq!(fold.0.deadline(), Some(at(5_100 + 5_000).moment));
}

#[test]
fn the_ring_is_unknown_once_the_lease_has_expired() {
    let mut fold = exclusive();
    let lease = 2 + 5_000;
    assert_eq!(fold.0.deadline(), Some(at(lease).moment));
    assert_eq!(fold.change_at(lease, Event::Tick).current.ring, RingState::Unknown);
    assert_eq!(fold.0.deadline(), None);
}

#[test]
fn a_stalled_connection_has_only_the_deadline_of_the_ring() {
    let mut fold = exclusive();
    for n in 21..=60 {
        let ms = n * 100;
        fold.0.apply(read(ms, 1, n), at(ms));
    }
    let now = fold.now();
    assert_eq!((&now.connection, now.ring), (&Connection::Stalled, RingState::Operational));
    let until = 5_900 + 1_000 + 1_200 + 1_000;
    assert_eq!(fold.0.deadline(), Some(at(until).moment));
    fold.no_change_at(until - 1, Event::Tick);
    assert_eq!(fold.change_at(until, Event::Tick).current.ring, RingState::Unknown);
    assert_eq!(fold.0.deadline(), None);
}

/// Returns an answer with the votes that the snapshot already has.
fn answered_with_votes(fold: &Fold, asked_at: u64) -> Event {
    let (asked_at, votes) = (at(asked_at).moment, fold.now().votes.clone());
    Event::Answered(Answer { asked_at, quorate: true, votes, local: None })
}

#[test]
fn a_membership_without_a_decision_is_not_exclusive_and_has_no_fencing_token() {
    let mut fold = exclusive();
    fold.change_at(2_010, nodelist(13, &[1, 2], &[], &[3]));
    assert!(fold.now().quorum.is_quorate() && !fold.now().settled);
    assert_eq!((fold.0.exclusive_until(), fold.now().fencing_token()), (None, None));
    // The same holds once votequorum has reported the votes of the new membership but has not yet
    // decided.
    let votes = Votes {
        members: ids(&[1, 2]).into_iter().map(|node| (node, 1)).collect(),
        total: 2,
        expected: 3,
        highest_expected: 3,
        quorum: 2,
        ..Votes::default()
    };
    let asked_at = at(2_020).moment;
    let answer = Answer { asked_at, quorate: true, votes: Some(votes), local: None };
    fold.change_at(2_030, Event::Answered(answer));
    assert!(fold.now().has_majority());
    assert_eq!((fold.0.exclusive_until(), fold.now().fencing_token()), (None, None));
}

#[test]
fn a_decision_that_may_be_older_than_the_ring_does_not_make_the_node_exclusive() {
    let mut fold = exclusive();
    fold.change_at(2_010, nodelist(13, &[1, 2], &[], &[3]));
    // The queue of notifications was last empty at 0 ms, so the decision may be that old.
    fold.change_at(2_020, quorum(13, true, &[1, 2]));
    fold.change_at(2_040, answered_with_votes(&fold, 2_030));
    assert!(fold.now().settled && fold.now().has_majority());
    assert_eq!(fold.0.exclusive_until(), None);
}

#[test]
fn votes_requested_before_the_nodelist_do_not_belong_to_its_members() {
    let mut fold = Fold::with_votes();
    fold.change_at(10, nodelist(13, &[1, 2], &[], &[3]));
    fold.no_change_at(12, answered_with_votes(&fold, 9));
    assert!(!fold.now().has_majority());
}

#[test]
fn the_configured_votes_still_apply_after_the_expected_votes_are_lowered() {
    let mut fold = exclusive();
    let configured = |fold: &Fold| fold.now().votes.as_ref().and_then(|votes| votes.configured);
    assert_eq!(configured(&fold), Some(3), "a read of the ring reported the configured votes");
    fold.change_at(2_010, nodelist(13, &[1], &[], &[2, 3]));
    fold.change_at(2_020, quorum(13, true, &[1]));
    let votes = Votes {
        members: vec![(NodeId(1), 1)],
        total: 1,
        expected: 1,
        highest_expected: 1,
        quorum: 1,
        ..Votes::default()
    };
    let asked_at = at(2_030).moment;
    let answer = Answer { asked_at, quorate: true, votes: Some(votes), local: None };
    fold.change_at(2_040, Event::Answered(answer));
    assert_eq!(configured(&fold), Some(3));
    assert!(fold.now().quorum.is_quorate() && !fold.now().has_majority());
    assert_eq!((fold.0.exclusive_until(), fold.now().fencing_token()), (None, None));
}

#[test]
fn a_merged_change_lists_the_nodes_that_restarted_in_between() {
    let mut fold = Fold::quorate();
    let seen = Arc::clone(fold.0.current());
    let mut departures = DepartureLog::default();
    let mut latest = None;
    for event in [
        nodelist(13, &[1, 2], &[], &[3]),
        nodelist(17, &[1, 2, 3], &[3], &[]),
        nodelist(21, &[1, 2, 3, 4], &[4], &[]),
        nodelist(25, &[1, 3, 4], &[], &[2]),
    ] {
        let change = fold.change(event);
        departures.note(&change);
        latest = Some(change);
    }
    let change = departures.conflate(&seen, &latest.unwrap());
    assert_eq!((&*change.joined, &*change.left), (&*ids(&[3, 4]), &*ids(&[2, 3])));
    assert_eq!(change.missed, 3);
}

#[test]
fn a_scripted_state_has_no_deadline() {
    let mut fold = Fold::new();
    let script = |snapshot: Snapshot| Event::Scripted(Box::new(snapshot), Cause::Quorum);
    let mut state = Snapshot::new(Quorum::Quorate, ring(9), [1, 2]);
    (state.epoch, state.sequence) = (7, 3);
    let change = fold.change(script(state.clone()));
    assert_eq!(
        (change.cause, change.current.sequence, change.current.epoch),
        (Cause::Quorum, 1, 7)
    );
    assert_eq!((fold.0.deadline(), fold.0.exclusive_until()), (Some(Moment::NEVER), None));

    let members = vec![(NodeId(1), 1), (NodeId(2), 1)];
    state.votes = Some(Votes { expected: 3, total: 2, quorum: 2, members, ..Votes::default() });
    state.epoch = 0;
    let change = fold.change(script(state.clone()));
    assert_eq!(change.current.epoch, 7, "the epoch never decreases");
    assert_eq!(fold.0.exclusive_until(), Some(Moment::NEVER));
    state.ring = RingState::Unwatched;
    fold.change(script(state));
    assert_eq!((fold.0.deadline(), fold.0.exclusive_until()), (Some(Moment::NEVER), None));
    fold.change(script(Snapshot::without_quorum(Connection::Stalled)));
    assert_eq!(fold.0.deadline(), None);
}
