use std::time::Duration;

use crate::link::clock::{Clock, Moment};
use crate::sync::{AtomicU64, Ordering};

/// The deadlines until which this node has quorum and until which no other partition can be
/// quorate. Readers compare them with the clock, so both expire on time, even if the actor that
/// extends them is stuck or dead.
#[derive(Debug)]
pub(crate) struct Lease {
    clock: Clock,
    /// The moment until which this node has quorum, as far as is known now. Zero without quorum.
    until: AtomicU64,
    /// The moment until which no other partition can be quorate. Never later than `until`. Zero
    /// while another partition may be quorate.
    exclusive_until: AtomicU64,
    epoch: AtomicU64,
}

impl Lease {
    pub(crate) fn new(clock: Clock) -> Self {
        let zero = || AtomicU64::new(0);
        Self { clock, until: zero(), exclusive_until: zero(), epoch: zero() }
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    /// Whether this node has quorum and the lease has not expired.
    pub(crate) fn is_active(&self) -> bool {
        self.is_ahead(&self.until)
    }

    /// Whether no other partition can be quorate.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.is_ahead(&self.exclusive_until)
    }

    fn is_ahead(&self, deadline: &AtomicU64) -> bool {
        is_ahead(deadline, || self.clock.now())
    }

    /// Whether this node has quorum and has held it since this epoch began.
    pub(crate) fn is_active_in(&self, epoch: u64) -> bool {
        // The lease is read before the epoch: if the lease was granted in a later epoch, this read
        // of the epoch sees that epoch.
        self.is_active() && self.epoch.load(Ordering::Acquire) == epoch
    }

    /// Whether no other partition can be quorate, and this partition has held quorum since this
    /// epoch began.
    pub(crate) fn is_exclusive_in(&self, epoch: u64) -> bool {
        // The lease is read first, as in `is_active_in`.
        self.is_exclusive() && self.epoch.load(Ordering::Acquire) == epoch
    }

    /// Returns the epoch in which the lease is active, or `None` if the lease is not active.
    pub(crate) fn running_epoch(&self) -> Option<u64> {
        // The epoch is read first, so that a new epoch does not get the lease of the previous one.
        let epoch = self.epoch.load(Ordering::Acquire);
        self.is_active_in(epoch).then_some(epoch)
    }

    /// Returns the time until the lease expires.
    pub(crate) fn remaining(&self) -> Duration {
        Moment(self.until.load(Ordering::Acquire)).since(self.clock.now())
    }

    /// Returns for how long no other partition can be quorate.
    #[cfg(feature = "web")]
    pub(crate) fn exclusive_remaining(&self) -> Duration {
        Moment(self.exclusive_until.load(Ordering::Acquire)).since(self.clock.now())
    }

    /// Whether a reader may have seen the lease expire before it was extended in the same epoch.
    /// That happens if the thread that extends the lease is slow. `before` is the expiry and the
    /// epoch before the extension.
    pub(crate) fn has_lapsed(&self, before: (Moment, u64)) -> bool {
        let (until, epoch) = before;
        until.0 != 0 && self.running_epoch() == Some(epoch) && self.clock.now() >= until
    }

    /// Returns the expiry and the epoch. Only a thread that may grant the lease, because it holds
    /// the tracker's lock, may call this.
    pub(crate) fn granted(&self) -> (Moment, u64) {
        (Moment(self.until.load(Ordering::Acquire)), self.epoch.load(Ordering::Acquire))
    }

    /// Grants the lease until `until`, in this epoch. No other partition can be quorate until
    /// `exclusive_until`, or until `until` if that is earlier. `None` means that another partition
    /// may be quorate.
    pub(crate) fn grant(&self, until: Moment, exclusive_until: Option<Moment>, epoch: u64) {
        let exclusive = exclusive_until.map_or(0, |exclusive| exclusive.min(until).0);
        self.epoch.store(epoch, Ordering::Release);
        self.exclusive_until.store(exclusive, Ordering::Release);
        self.until.store(until.0, Ordering::Release);
    }

    /// Revokes the lease and sets the epoch.
    pub(crate) fn revoke(&self, epoch: u64) {
        self.exclusive_until.store(0, Ordering::Release);
        self.until.store(0, Ordering::Release);
        self.epoch.store(epoch, Ordering::Release);
    }
}

/// Whether a deadline is in the future.
#[inline]
fn is_ahead(deadline: &AtomicU64, now: impl Fn() -> Moment) -> bool {
    let until = deadline.load(Ordering::Acquire);
    now().0 < until || until != 0 && is_ahead_again(deadline, now, until)
}

/// Rechecks a deadline that seems to have passed. If this thread was paused after it read the
/// deadline, the deadline may have been extended in time, and then it has not passed.
#[cold]
fn is_ahead_again(deadline: &AtomicU64, now: impl Fn() -> Moment, mut before: u64) -> bool {
    loop {
        let until = deadline.load(Ordering::Acquire);
        if until == before {
            return false;
        }
        if now().0 < until {
            return true;
        }
        before = until;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_expires_by_itself() {
        let clock = Clock::System;
        let lease = Lease::new(clock);
        assert!(!lease.is_active());
        lease.grant(clock.now().after(Duration::from_secs(3600)), None, 7);
        assert!(lease.is_active() && lease.is_active_in(7) && !lease.is_active_in(6));
        lease.grant(clock.now(), None, 7);
        assert!(!lease.is_active(), "the lease expires at its deadline");
        lease.grant(Moment(1), None, 7);
        assert!(!lease.is_active() && lease.remaining().is_zero());
    }

    #[test]
    fn exclusivity_belongs_to_its_epoch_and_ends_at_its_own_deadline() {
        let clock = Clock::System;
        let lease = Lease::new(clock);
        let after = |seconds| Some(clock.now().after(Duration::from_secs(seconds)));
        let hour = after(3_600).unwrap();
        lease.grant(hour, after(60), 7);
        assert!(lease.is_exclusive() && lease.is_exclusive_in(7) && !lease.is_exclusive_in(6));
        for ended in [None, Some(Moment(1))] {
            lease.grant(hour, ended, 7);
            assert!(lease.is_active() && !lease.is_exclusive() && !lease.is_exclusive_in(7));
        }
        lease.grant(Moment(1), Some(hour), 7);
        assert!(!lease.is_exclusive(), "exclusivity does not outlast the lease");
    }

    #[cfg(feature = "web")]
    #[test]
    fn the_lease_reports_the_time_until_each_deadline() {
        let clock = Clock::System;
        let lease = Lease::new(clock);
        let after = |seconds| clock.now().after(Duration::from_secs(seconds));
        lease.grant(after(7_200), Some(after(3_600)), 7);
        let hours = |remaining: Duration| remaining.as_secs_f64() / 3_600.0;
        let (quorate, exclusive) = (hours(lease.remaining()), hours(lease.exclusive_remaining()));
        assert!(quorate > 1.5 && quorate <= 2.0, "{quorate} hours");
        assert!(exclusive > 0.5 && exclusive <= 1.0, "{exclusive} hours");
    }

    #[test]
    fn a_lease_that_is_extended_too_late_has_lapsed() {
        let clock = Clock::System;
        let lease = Lease::new(clock);
        assert!(!lease.has_lapsed(lease.granted()));
        let hour = clock.now().after(Duration::from_secs(3600));
        lease.grant(hour, None, 7);
        assert!(!lease.has_lapsed(lease.granted()), "the lease is active");
        lease.grant(clock.now(), None, 7);
        let ran_out = lease.granted();
        lease.grant(hour, None, 7);
        assert!(lease.has_lapsed(ran_out));
        lease.grant(hour, None, 8);
        assert!(!lease.has_lapsed(ran_out), "this is another epoch");
    }

    /// A reader reads the deadline and then the clock. In between, the reader may be paused, and
    /// the deadline may be extended one or more times.
    #[cfg(not(loom_check))]
    #[test]
    fn a_deadline_that_was_extended_in_time_has_not_passed() {
        for extensions in [1_u64, 2, 5] {
            let deadline = AtomicU64::new(10);
            let now = std::cell::Cell::new(5);
            let found = is_ahead(&deadline, || {
                if now.get() < extensions * 10 {
                    deadline.store(deadline.load(Ordering::Acquire) + 10, Ordering::Release);
                    now.set(now.get() + 10);
                }
                Moment(now.get())
            });
            assert!(found, "{extensions} extensions");
        }
        let deadline = AtomicU64::new(10);
        assert!(!is_ahead(&deadline, || Moment(10)), "the deadline was not extended");
        let extended = || {
            deadline.store(20, Ordering::Release);
            Moment(20)
        };
        assert!(!is_ahead(&deadline, extended), "a deadline that has been reached has passed");
    }

    #[test]
    fn revoking_ends_the_lease_immediately() {
        let clock = Clock::System;
        let lease = Lease::new(clock);
        lease.grant(clock.now().after(Duration::from_secs(3600)), None, 1);
        lease.revoke(2);
        assert!(!lease.is_active() && !lease.is_active_in(1) && !lease.is_active_in(2));
    }
}

#[cfg(all(test, loom_check))]
mod in_every_order {
    use std::sync::Arc;

    use loom::thread;

    use super::*;
    use crate::sync::AtomicU8;

    const FOR_EVER: Moment = Moment(u64::MAX);
    const LONG_AGO: Moment = Moment(1);

    /// Runs `writes` and `reads` at the same time, in every order. The lease is active in epoch 1
    /// until `until`.
    fn beside(
        until: Moment,
        writes: impl Fn(&Lease, &AtomicU8) + Copy + Send + Sync + 'static,
        reads: impl Fn(&Lease, &AtomicU8) + Send + Sync + 'static,
    ) {
        loom::model(move || {
            let shared = Arc::new((Lease::new(Clock::System), AtomicU8::new(0)));
            shared.0.grant(until, None, 1);
            let writer = Arc::clone(&shared);
            let writer = thread::spawn(move || writes(&writer.0, &writer.1));
            reads(&shared.0, &shared.1);
            writer.join().unwrap();
        });
    }

    fn guards(lease: &Lease, _: &AtomicU8) {
        if let Some(epoch) = lease.running_epoch() {
            let valid = lease.is_active_in(epoch);
            assert!(valid || !lease.is_active_in(epoch), "a guard became valid again");
        }
    }

    #[test]
    fn a_guard_does_not_become_valid_again_after_a_loss() {
        beside(
            FOR_EVER,
            |lease, _| {
                lease.revoke(2);
                lease.grant(FOR_EVER, None, 2);
            },
            guards,
        );
    }

    #[test]
    fn a_guard_does_not_become_valid_again_after_a_break_of_continuity() {
        beside(
            FOR_EVER,
            |lease, _| {
                lease.grant(FOR_EVER, None, 2);
                lease.revoke(3);
            },
            guards,
        );
    }

    #[test]
    fn an_expired_lease_does_not_become_active_again_in_its_epoch() {
        beside(
            LONG_AGO,
            |lease, _| lease.grant(FOR_EVER, None, 2),
            |lease, _| {
                assert_ne!(lease.running_epoch(), Some(1));
                assert!(!lease.is_active_in(1));
            },
        );
    }

    #[test]
    fn no_reader_sees_quorum_after_a_revocation() {
        beside(
            FOR_EVER,
            |lease, revoked| {
                lease.revoke(2);
                revoked.store(1, Ordering::Release);
            },
            |lease, revoked| {
                let ended = revoked.load(Ordering::Acquire) == 1;
                let epoch = lease.running_epoch();
                assert!(!(ended && (lease.is_active() || epoch.is_some())));
                assert_ne!(epoch, Some(2), "epoch 2 was not granted");
            },
        );
    }
}
