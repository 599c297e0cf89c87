//! Logs each change on one line. The level of the line tells an operator whether to act.

use std::time::Duration;

use log::Level;

use crate::{
    libquorum::VoteFlags,
    link::clock::Moment,
    state::{Cause, QuorumChanged, RingState, Tracker},
};

/// The facts that have already been logged, so that they are not logged again with each change.
#[derive(Debug, Default)]
pub(crate) struct LoggedFacts {
    /// When the actor noticed that the ring is re-forming. `None` while the ring is not re-forming.
    reforming_since: Option<Moment>,
    has_warned_of_two_node: bool,
}

/// The facts that the log line of one change reports in addition to the change.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Remarks {
    ring: Option<RingRemark>,
    two_node: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum RingRemark {
    /// The ring is re-forming. Quorum ends within this time unless Corosync decides about a new
    /// ring. `None` if this node has no quorum, or if the ring has no deadline.
    Reforming(Option<Duration>),
    /// The ring has re-formed after this time.
    Reformed(Duration),
}

impl LoggedFacts {
    /// Returns the remarks on a change that the tracker made at `now`.
    pub(crate) fn remarks(
        &mut self,
        tracker: &Tracker,
        change: &QuorumChanged,
        now: Moment,
    ) -> Remarks {
        let current = &change.current;
        let is_reforming = current.ring == RingState::Gather;
        let ring = match self.reforming_since {
            None if is_reforming => {
                self.reforming_since = Some(now);
                let until = tracker.ring_deadline().filter(|_| current.quorum.is_quorate());
                Some(RingRemark::Reforming(until.map(|until| until.since(now))))
            }
            Some(since) if !is_reforming => {
                self.reforming_since = None;
                // The end of a connection proves nothing about the ring.
                current.connection.is_established().then(|| RingRemark::Reformed(now.since(since)))
            }
            _ => None,
        };
        let has_two_node =
            current.votes.as_ref().is_some_and(|votes| votes.flags.contains(VoteFlags::TWO_NODE));
        let two_node = has_two_node && tracker.trusts_two_node() && !self.has_warned_of_two_node;
        self.has_warned_of_two_node |= two_node;
        Remarks { ring, two_node }
    }
}

/// Logs a change.
pub(crate) fn log(change: &QuorumChanged, remarks: Remarks) {
    match remarks.ring {
        None => crate::foreign::log!(level(change), "{change}"),
        Some(RingRemark::Reforming(Some(remaining))) => crate::foreign::log!(
            log::Level::Warn,
            "{change}; quorum ends within {remaining:.1?} unless corosync decides about a new ring \
             first"
        ),
        // Without a ring id, the line of the change does not show the state of the ring.
        Some(RingRemark::Reforming(None)) if change.current.ring_id.is_none() => {
            crate::foreign::log!(log::Level::Warn, "corosync's ring is re-forming: {change}");
        }
        Some(RingRemark::Reforming(None)) => crate::foreign::log!(log::Level::Warn, "{change}"),
        Some(RingRemark::Reformed(took)) => {
            crate::foreign::log!(
                log::Level::Warn,
                "corosync's ring has re-formed after {took:.1?}: {change}"
            );
        }
    }
    if remarks.two_node {
        crate::foreign::log!(
            log::Level::Warn,
            "corosync.conf has `two_node: 1`: if the two nodes lose contact with each other, both \
             are quorate; without fencing, call QuorumBuilder::trust_two_node(false) or use \
             is_exclusive()"
        );
    }
}

/// Returns the level at which a change is logged: a warning if an operator may have to act.
fn level(change: &QuorumChanged) -> Level {
    match change.cause {
        Cause::ConnectFailed | Cause::Disconnected | Cause::Stalled => Level::Warn,
        _ if change.is_loss() || change.is_silent_interruption() => Level::Warn,
        // This change reports the reason for a loss, which becomes known only after the loss.
        Cause::Votes if change.current.shortage().is_some() => Level::Info,
        Cause::Votes | Cause::Ring if !change.is_gain() => Level::Debug,
        _ => Level::Info,
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{
        error::Error,
        libquorum::{NodeId, Notification, RingId, Votes},
        link::{
            probe::Answer,
            ring_reading::{RingCounters, RingReading, RingUpdate},
        },
        state::{BeliefPolicy, Event, Now, Tracker},
    };

    /// A daemon of one node, its tracker, and the remarks so far.
    struct Logged {
        tracker: Tracker,
        facts: LoggedFacts,
        remarks: Vec<Remarks>,
        counters: RingCounters,
        millis: u64,
    }

    const TOKEN: Duration = Duration::from_millis(1_000);
    const CONSENSUS: Duration = Duration::from_millis(1_200);
    const GRACE: Duration = Duration::from_millis(1_000);
    /// Without an answer, the lease expires before the deadline of a ring that re-forms.
    const LEASE: Duration = Duration::from_millis(2_100);

    impl Logged {
        fn connected() -> Self {
            Self::with(true)
        }

        fn with(trust_two_node: bool) -> Self {
            let policy = BeliefPolicy {
                lease: LEASE,
                settle_grace: GRACE,
                stable_after: Duration::ZERO,
                trust_two_node,
            };
            let tracker = Tracker::new(policy, SystemTime::UNIX_EPOCH);
            let (facts, counters) = (LoggedFacts::default(), RingCounters::default());
            let mut logged = Self { tracker, facts, remarks: Vec::new(), counters, millis: 0 };
            let asked_at = logged.now();
            logged.apply(Event::Connected { has_provider: true, asked_at, watched: true });
            logged.decide(9);
            (0..4).for_each(|_| logged.read());
            // Without trust in two_node, quorum needs votes.
            assert_eq!(logged.tracker.current().quorum.is_quorate(), trust_two_node);
            logged
        }

        fn now(&self) -> Moment {
            Moment::default().after(Duration::from_millis(self.millis))
        }

        fn apply(&mut self, event: Event) {
            let now = Now { wall: SystemTime::UNIX_EPOCH, moment: self.now() };
            if let Some(change) = self.tracker.apply(event, now) {
                let remarks = self.facts.remarks(&self.tracker, &change, now.moment);
                self.remarks.extend((remarks != Remarks::default()).then_some(remarks));
            }
        }

        fn decide(&mut self, seq: u64) {
            let (ring_id, members) = (RingId { node_id: NodeId(1), seq }, vec![NodeId(1)]);
            let (joined, left, drained_at) = (Vec::new(), Vec::new(), self.now());
            let notification =
                Notification::Nodelist { ring_id, members: members.clone(), joined, left };
            self.apply(Event::Notified { notification, drained_at });
            let notification = Notification::Quorum { quorate: true, ring_id, members };
            self.apply(Event::Notified { notification, drained_at });
        }

        fn answer(&mut self, flags: VoteFlags, total: u32) {
            let (asked_at, local) = (self.now(), None);
            let votes = Some(Votes { total, expected: 2, quorum: 1, flags, ..Votes::default() });
            self.apply(Event::Answered(Answer { asked_at, quorate: true, votes, local }));
        }

        fn read(&mut self) {
            self.millis += 100;
            let now = self.now();
            self.apply(Event::Ring(RingUpdate::Read(RingReading {
                connection: 0,
                asked_at: now,
                answered_at: now,
                counters: self.counters,
                tokens: self.millis,
                token: TOKEN,
                consensus: CONSENSUS,
                configured_votes: None,
                age: Duration::ZERO,
            })));
        }
    }

    fn ring(remark: RingRemark) -> Remarks {
        Remarks { ring: Some(remark), two_node: false }
    }

    #[test]
    fn a_re_forming_ring_is_reported_once_at_the_beginning_and_once_at_the_end() {
        let mut logged = Logged::connected();
        assert_eq!(logged.remarks, []);
        logged.counters.gather_entered += 1;
        (0..3).for_each(|_| logged.read());
        let begins = ring(RingRemark::Reforming(Some(CONSENSUS + GRACE)));
        assert_eq!(logged.remarks, [begins]);
        logged.counters.operational_entered += 1;
        logged.millis += 1_000;
        logged.decide(13);
        (0..3).for_each(|_| logged.read());
        let took = Duration::from_millis(1_200);
        assert_eq!(logged.remarks, [begins, ring(RingRemark::Reformed(took))]);
    }

    #[test]
    fn the_end_of_a_connection_is_not_reported_as_a_re_formed_ring() {
        let mut logged = Logged::connected();
        logged.counters.gather_entered += 1;
        logged.read();
        logged.apply(Event::Disconnected(Error::Dispatch(crate::error::Code::LIBRARY)));
        assert_eq!(logged.remarks.len(), 1);
        assert_eq!(logged.facts.reforming_since, None);
    }

    #[test]
    fn two_node_is_reported_once_and_only_if_it_is_trusted() {
        for trusted in [true, false] {
            let mut logged = Logged::with(trusted);
            for total in [2, 1] {
                logged.answer(VoteFlags::TWO_NODE, total);
            }
            let remarks = trusted.then_some(Remarks { ring: None, two_node: true });
            assert_eq!(logged.remarks, Vec::from_iter(remarks));
        }
    }
}
