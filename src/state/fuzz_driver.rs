//! Turns bytes into a sequence of callbacks, answers, reads and pauses, for the fuzz target
//! `tracker` and for a property test without a fuzzer.
//!
//! The [oracle](super::oracle) checks the tracker. The driver itself checks only that `libquorum`
//! returns the notifications and errors that belong to the callbacks.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

use crate::{
    error::{Code, Error},
    libquorum::{
        NodeId, Notification, RingId, VoteFlags, Votes,
        scripted::{Call, List, Scripted},
    },
    link::{
        clock::Moment,
        probe::Answer,
        ring_reading::{RingCounters, RingReading, RingUpdate},
    },
    state::{BeliefPolicy, Event, Now, Tracker},
};

/// Applies the events that the bytes encode to a tracker, through the real callbacks.
///
/// # Panics
///
/// Panics if a guarantee does not hold.
pub fn play(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let (lease, settle_grace, gain) = (bytes.next(), bytes.next(), bytes.next());
    let policy = BeliefPolicy {
        lease: ms(40 * (1 + u64::from(lease))),
        settle_grace: ms(10 * u64::from(settle_grace)),
        // With half of all inputs, no gain is delayed.
        stable_after: ms(20 * u64::from(gain.saturating_sub(128))),
        trust_two_node: gain % 4 > 0,
    };
    let mut play = Play {
        bytes,
        now: Moment::default().after(ms(1000)),
        connection: Scripted::default(),
        delivered: VecDeque::new(),
        malformed: false,
        tracker: Tracker::new(policy, SystemTime::UNIX_EPOCH),
        counters: RingCounters::default(),
        tokens: 0,
    };
    while !play.bytes.0.is_empty() {
        play.pass_time();
        play.happen();
    }
    play.apply(Event::Stopped);
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

struct Play<'a> {
    bytes: Bytes<'a>,
    now: Moment,
    connection: Scripted,
    /// The notifications that the connection has delivered but no dispatch has returned yet.
    delivered: VecDeque<Notification>,
    /// Whether the connection has delivered a malformed notification.
    malformed: bool,
    tracker: Tracker,
    counters: RingCounters,
    tokens: u64,
}

impl Play<'_> {
    fn pass_time(&mut self) {
        let pause = match self.bytes.next() {
            short @ 0..64 => Duration::from_nanos(short.into()),
            long @ 64..192 => ms(10 * u64::from(long - 63)),
            // Until the next deadline or just before it, because the tracker's state changes at
            // that moment.
            early => match self.tracker.deadline() {
                Some(due) => {
                    due.since(self.now).saturating_sub(Duration::from_nanos((early % 2).into()))
                }
                None => Duration::ZERO,
            },
        };
        self.now = self.now.after(pause);
    }

    fn happen(&mut self) {
        let kind = self.bytes.next();
        let event = match kind % 16 {
            _ if kind >= 252 => return self.stay_unannounced(),
            _ if kind >= 248 => return self.run_well(),
            0..=8 => return self.dispatch(),
            9 | 10 => Event::Answered(self.answer()),
            11 => Event::Ring(self.ring()),
            12 if self.bytes.of(2) > 0 => Event::Ring(self.ring()),
            12 => Event::Tick,
            13 => {
                self.forget();
                let (has_provider, watched) = (self.bytes.of(8) > 0, self.bytes.of(2) > 0);
                Event::Connected { has_provider, asked_at: self.earlier(), watched }
            }
            14 => Event::Disconnected(self.error()),
            _ => match self.bytes.of(8) {
                0 => Event::Stopped,
                attempt => Event::Failed { attempt: attempt.into(), error: self.error() },
            },
        };
        self.apply(event);
    }

    /// Makes a daemon decide about a ring of three nodes that stays alive for a while. Random bytes
    /// rarely encode such a sequence.
    fn run_well(&mut self) {
        if !self.tracker.current().connection.is_established() {
            self.forget();
            let (has_provider, asked_at, watched) = (true, self.now, true);
            self.apply(Event::Connected { has_provider, asked_at, watched });
        }
        self.counters.recovery_entered += 1;
        self.counters.operational_entered += 1;
        // `call` uses lower sequence numbers.
        let seq = self.tracker.current().ring_id.map_or(0, |ring| ring.seq) + 2;
        let (ring_id, drained_at) = (RingId { node_id: NodeId(1), seq }, self.now);
        let members: Vec<_> = (1..=3).map(NodeId).collect();
        let (joined, left) = (Vec::new(), Vec::new());
        for notification in [
            Notification::Nodelist { ring_id, members: members.clone(), joined, left },
            Notification::Quorum { quorate: true, ring_id, members: members.clone() },
        ] {
            self.apply(Event::Notified { notification, drained_at });
        }
        let members = members.into_iter().map(|node| (node, 1)).collect();
        let votes = Votes { total: 3, expected: 3, quorum: 2, members, ..Votes::default() };
        for _ in 0..self.bytes.of(8) {
            self.now = self.now.after(ms(60));
            let (asked_at, local) = (self.now, Some(NodeId(1)));
            let votes = Some(votes.clone());
            self.apply(Event::Answered(Answer { asked_at, quorate: true, votes, local }));
            self.tokens += 1;
            let reading = self.reading(asked_at, ms(200), Some(3));
            self.apply(Event::Ring(RingUpdate::Read(reading)));
        }
    }

    /// Makes a daemon form a ring without an announcement, and stay in it until the actor would
    /// connect again.
    fn stay_unannounced(&mut self) {
        self.run_well();
        self.counters.gather_entered += 1;
        self.counters.recovery_entered += 1;
        self.counters.operational_entered += 1;
        for _ in 0..64 {
            self.now = self.now.after(ms(60));
            let (asked_at, quorate) = (self.now, true);
            self.apply(Event::Answered(Answer { asked_at, quorate, votes: None, local: None }));
            self.tokens += 1;
            let reading = self.reading(asked_at, ms(200), Some(3));
            self.apply(Event::Ring(RingUpdate::Read(reading)));
            if !self.tracker.current().connection.is_established() {
                let (has_provider, watched) = (true, true);
                return self.apply(Event::Connected { has_provider, asked_at, watched });
            }
        }
    }

    fn apply(&mut self, event: Event) {
        let now = Now { wall: SystemTime::UNIX_EPOCH, moment: self.now };
        self.tracker.apply(event, now);
        if self.tracker.lacks_announcement() {
            self.forget();
            self.tracker.apply(Event::Disconnected(Error::NotAnnounced), now);
        }
    }

    /// Dispatches once, checks the result, and applies it to the tracker as the actor does.
    fn dispatch(&mut self) {
        let calls: Vec<Call> = (0..[1, 1, 1, 1, 1, 1, 0, 2][usize::from(self.bytes.of(8))])
            .map(|_| self.call())
            .collect();
        let code = match self.bytes.next() {
            0..224 => Code::OK,
            224..240 => Code::TRY_AGAIN,
            other => Code((other - 240).into()),
        };
        for call in &calls {
            match notification(call) {
                Some(notification) => self.delivered.push_back(notification),
                None => self.malformed = true,
            }
        }
        let expected = match (code, self.delivered.front()) {
            _ if self.malformed => Err(Code::MESSAGE_ERROR),
            (Code::OK, Some(_)) => Ok(self.delivered.pop_front()),
            (Code::OK, None) => Err(Code::BAD_HANDLE),
            (Code::TRY_AGAIN, None) => Ok(None),
            (code, _) => Err(code),
        };
        let dispatched = self.connection.dispatch(&calls, code.0);
        assert_eq!(dispatched, expected.map_err(Error::Dispatch), "{code} after {calls:?}");
        match dispatched {
            Ok(Some(notification)) => {
                let drained_at = self.earlier();
                self.apply(Event::Notified { notification, drained_at });
            }
            Ok(None) => {}
            Err(error) => {
                self.forget();
                self.apply(Event::Disconnected(error));
            }
        }
    }

    /// Replaces the connection, which has ended, with a new one.
    fn forget(&mut self) {
        (self.connection, self.malformed) = Default::default();
        self.delivered.clear();
    }

    fn call(&mut self) -> Call {
        let kind = self.bytes.of(8);
        let ring = (self.bytes.of(2).into(), self.bytes.of(2).into());
        let mut readable = true;
        let mut list = || {
            let list = self.bytes.list(readable);
            readable &= list.ids().is_some();
            list
        };
        match kind {
            0..=3 => Call::Nodelist { ring, members: list(), joined: list(), left: list() },
            4 => Call::QuorumV0 { quorate: 1, seq: ring.1, members: list() },
            _ => {
                let members = list();
                // Corosync sends 0 or 1. A 2 is malformed.
                let quorate = match kind {
                    5 => 0,
                    6 => 1,
                    _ => 1 + u32::from(self.bytes.of(8) == 7),
                };
                Call::Quorum { quorate, ring, members }
            }
        }
    }

    fn answer(&mut self) -> Answer {
        let asked_at = self.earlier();
        let flags = self.bytes.next();
        let votes = (flags & 2 != 0).then(|| Votes {
            total: self.bytes.votes(),
            quorum: self.bytes.votes(),
            members: self
                .tracker
                .current()
                .members
                .iter()
                .skip(usize::from(flags & 4 != 0))
                .map(|member| (*member, self.bytes.votes()))
                .collect(),
            flags: VoteFlags::from_bits_retain(flags.into()),
            ..Votes::default()
        });
        let local = (flags & 8 != 0).then_some(NodeId(1));
        Answer { asked_at, quorate: flags & 1 != 0, votes, local }
    }

    /// Returns a read of the ring in which some counters may have moved.
    fn ring(&mut self) -> RingUpdate {
        if self.bytes.of(32) == 0 {
            return RingUpdate::Unwatched;
        }
        let moves = self.bytes.next();
        let asked_at = self.earlier();
        let counters = &mut self.counters;
        counters.gather_entered += u64::from(moves & 7 == 1);
        counters.operational_entered += u64::from(moves & 7 <= 1 && moves & 8 != 0);
        // A read may show RECOVERY before the ring forms.
        counters.recovery_entered += u64::from(moves & 7 == 2 || moves & 7 == 0 && moves & 8 != 0);
        counters.recovery_token_lost += u64::from(moves & 31 == 30);
        counters.token_lost += u64::from(moves & 31 == 31);
        self.tokens += u64::from(moves & 64 != 0 || moves & 128 != 0);
        if moves == 254 {
            // An operator clears the counters.
            (self.counters, self.tokens) = (RingCounters::default(), 0);
        }
        let token = ms(50 * u64::from(1 + self.bytes.of(16)));
        RingUpdate::Read(self.reading(asked_at, token, (moves & 16 != 0).then_some(3)))
    }

    fn reading(
        &self,
        asked_at: Moment,
        token: Duration,
        configured_votes: Option<u32>,
    ) -> RingReading {
        RingReading {
            connection: 0,
            asked_at,
            answered_at: self.now,
            counters: self.counters,
            tokens: self.tokens,
            token,
            consensus: token * 6 / 5,
            configured_votes,
            age: Duration::ZERO,
        }
    }

    /// Returns a moment that is now or in the past.
    fn earlier(&mut self) -> Moment {
        let ago = ms(20 * u64::from(self.bytes.next().saturating_sub(64)));
        Moment::default().after(self.now.since(Moment::default()).saturating_sub(ago))
    }

    fn error(&mut self) -> Error {
        Error::Dispatch(Code(self.bytes.of(32).into()))
    }
}

/// Returns the notification of a call, or `None` if the call is malformed.
fn notification(call: &Call) -> Option<Notification> {
    let nodes = |list: &List| Some(list.ids()?.into_iter().map(NodeId).collect::<Vec<_>>());
    let ring_id = |(node, seq)| RingId { node_id: NodeId(node), seq };
    let is_quorate = |quorate: u32| (quorate < 2).then_some(quorate == 1);
    Some(match call {
        Call::QuorumV0 { quorate, seq, members } => Notification::Quorum {
            quorate: is_quorate(*quorate)?,
            ring_id: ring_id((0, *seq)),
            members: nodes(members)?,
        },
        Call::Quorum { quorate, ring, members } => Notification::Quorum {
            quorate: is_quorate(*quorate)?,
            ring_id: ring_id(*ring),
            members: nodes(members)?,
        },
        Call::Nodelist { ring, members, joined, left } => Notification::Nodelist {
            ring_id: ring_id(*ring),
            members: nodes(members)?,
            joined: nodes(joined)?,
            left: nodes(left)?,
        },
    })
}

/// The unread bytes. Reads past the end return zero.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    /// Returns a number below `n`.
    fn of(&mut self, n: u8) -> u8 {
        self.next() % n
    }

    /// Returns a number of votes, small or close to the largest `u32`.
    fn votes(&mut self) -> u32 {
        let votes = u32::from(self.next());
        if votes < 128 { votes } else { votes << 24 }
    }

    /// Returns a list. If `readable` is false, the list must not be read, because an earlier list
    /// of the same call was too long.
    fn list(&mut self, readable: bool) -> List {
        let kind = self.next();
        let length = |choice: u8| [0, 1, 385, 500, 1000, 1 << 30, u32::MAX][usize::from(choice)];
        match kind {
            _ if !readable => List::Dangling(length(kind % 7)),
            0..192 => {
                List::Ids((0..kind % 8).map(|_| self.of(8).into()).collect(), (kind / 64).into())
            }
            192..208 => List::Null(length(kind % 7)),
            208..224 => List::Dangling(length([0, 2, 3, 4, 5, 6][usize::from(kind % 6)])),
            // About as long as the longest valid list (384).
            long => {
                let ids = 376 + u32::from(long - 224) / 2;
                let (first, step) = (u32::from(self.next()), u32::from(self.next()));
                List::Ids((0..ids).map(|n| first.wrapping_sub(n * step)).collect(), 0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_guarantee_holds_for_random_events(bytes in vec(any::<u8>(), 0..600)) {
            super::play(&bytes);
        }
    }
}
