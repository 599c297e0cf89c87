use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::sync::{AtomicU8, Ordering};

/// Whose turn it is to do something that anybody may ask for at any time, also while it is done and
/// by what it does: one does it, and once more for those who asked meanwhile.
#[derive(Debug)]
pub(crate) struct CoalescingRunner(AtomicU8);

/// It is nobody's.
const IDLE: u8 = 0;
/// Somebody does it.
const TAKEN: u8 = 1;
/// Somebody does it, and has to do it again: it was asked for meanwhile.
const AGAIN: u8 = 2;

impl CoalescingRunner {
    pub(crate) fn new() -> Self {
        Self(AtomicU8::new(IDLE))
    }

    /// Has it done, after all that the caller has done before: here, and then this returns what came
    /// of it; or by who is at it.
    ///
    /// A panic of it ends the turn, once it was done for all who asked meanwhile.
    pub(crate) fn run<T>(&self, mut act: impl FnMut() -> T) -> Option<T> {
        if !self.changes(IDLE, TAKEN) {
            // Not a store: whose turn it is must see what was done before.
            if self.0.swap(AGAIN, Ordering::AcqRel) != IDLE {
                return None;
            }
            self.0.swap(TAKEN, Ordering::AcqRel);
        }
        loop {
            let done = catch_unwind(AssertUnwindSafe(&mut act));
            if self.changes(TAKEN, IDLE) {
                return Some(done.unwrap_or_else(|panic| resume_unwind(panic)));
            }
            self.0.swap(TAKEN, Ordering::AcqRel);
        }
    }

    fn changes(&self, from: u8, to: u8) -> bool {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

#[cfg(all(test, not(loom_check)))]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_the_turn() {
        let runner = CoalescingRunner::new();
        let panics = catch_unwind(AssertUnwindSafe(|| runner.run(|| panic!("on purpose"))));
        assert!(panics.is_err());
        assert_eq!(runner.run(|| 7), Some(7));
    }

    #[test]
    fn what_was_asked_for_during_a_panic_is_done() {
        let runner = CoalescingRunner::new();
        let mut times = 0;
        let done = runner.run(|| {
            times += 1;
            if times == 1 {
                assert_eq!(runner.run(|| ()), None, "this one does it again");
                panic!("on purpose");
            }
        });
        assert_eq!((done, times), (Some(()), 2));
    }
}

#[cfg(all(test, loom_check))]
mod in_every_order {
    use std::sync::Arc;

    use loom::{cell::UnsafeCell, thread};

    use super::*;
    use crate::sync::AtomicU64;

    struct Work {
        runner: CoalescingRunner,
        wanted: AtomicU64,
        done: AtomicU64,
        /// Loom sees who is in it.
        one_at_a_time: UnsafeCell<()>,
    }

    impl Work {
        /// As a receipt does, which counts and asks for the next message.
        fn want(&self) {
            self.wanted.fetch_add(1, Ordering::AcqRel);
            self.runner.run(|| {
                self.one_at_a_time.with_mut(|_| {
                    let wanted = self.wanted.load(Ordering::Acquire);
                    self.done.store(wanted, Ordering::Release);
                });
            });
        }
    }

    /// So many threads want it at once, in all orders in which threads are preempted so often.
    fn all_want(threads: u64, preemptions: Option<usize>) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = preemptions;
        model.check(move || {
            let work = Arc::new(Work {
                runner: CoalescingRunner::new(),
                wanted: AtomicU64::new(0),
                done: AtomicU64::new(0),
                one_at_a_time: UnsafeCell::new(()),
            });
            let others: Vec<_> = (1..threads)
                .map(|_| {
                    let work = Arc::clone(&work);
                    thread::spawn(move || work.want())
                })
                .collect();
            work.want();
            others.into_iter().for_each(|other| other.join().unwrap());
            assert_eq!(work.done.load(Ordering::Acquire), threads);
        });
    }

    #[test]
    fn nothing_is_left_undone_and_nobody_is_at_it_beside_another() {
        all_want(2, None);
        all_want(3, Some(3));
    }
}
