use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::sync::{AtomicU8, Ordering};

/// Runs a closure on one thread at a time. A call made meanwhile, from another thread or from the
/// closure itself, makes the running one repeat.
#[derive(Debug)]
pub(crate) struct CoalescingRunner(AtomicU8);

/// No thread is running the closure.
const IDLE: u8 = 0;
/// A thread is running the closure.
const RUNNING: u8 = 1;
/// A thread is running the closure and has to repeat it, because another call was made meanwhile.
const REPEAT: u8 = 2;

impl CoalescingRunner {
    pub(crate) fn new() -> Self {
        Self(AtomicU8::new(IDLE))
    }

    /// Runs `act`, which sees everything that the caller did before this call.
    ///
    /// Returns the result of the last run of `act`. Returns `None`, without running `act`, if
    /// another call is running: that call then repeats its own closure.
    ///
    /// If `act` panics, it is still repeated for the calls made meanwhile, and then the runner is
    /// idle again.
    pub(crate) fn run<T>(&self, mut act: impl FnMut() -> T) -> Option<T> {
        if !self.transition(IDLE, RUNNING) {
            // A swap and not a store: the running thread must see everything that this thread did
            // before.
            if self.0.swap(REPEAT, Ordering::AcqRel) != IDLE {
                return None;
            }
            self.0.swap(RUNNING, Ordering::AcqRel);
        }
        loop {
            let result = catch_unwind(AssertUnwindSafe(&mut act));
            if self.transition(RUNNING, IDLE) {
                return Some(result.unwrap_or_else(|panic| resume_unwind(panic)));
            }
            self.0.swap(RUNNING, Ordering::AcqRel);
        }
    }

    /// Replaces the state `from` with `to`. Returns `false`, and does nothing, in any other state.
    fn transition(&self, from: u8, to: u8) -> bool {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

#[cfg(all(test, not(loom_check)))]
mod tests {
    use super::*;

    #[test]
    fn a_panic_leaves_the_runner_idle() {
        let runner = CoalescingRunner::new();
        let panics = catch_unwind(AssertUnwindSafe(|| runner.run(|| panic!("on purpose"))));
        assert!(panics.is_err());
        assert_eq!(runner.run(|| 7), Some(7));
    }

    #[test]
    fn a_call_made_during_a_run_that_panics_still_takes_effect() {
        let runner = CoalescingRunner::new();
        let mut times = 0;
        let done = runner.run(|| {
            times += 1;
            if times == 1 {
                assert_eq!(runner.run(|| ()), None, "the running call repeats");
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
        /// Loom reports an error if two threads use this value at the same time.
        one_at_a_time: UnsafeCell<()>,
    }

    impl Work {
        /// Acts like an acknowledgement: counts and asks for the next message.
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

    /// Lets this many threads call at the same time, in all orders with at most this many
    /// preemptions.
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
    fn every_call_takes_effect_and_no_two_run_at_the_same_time() {
        all_want(2, None);
        all_want(3, Some(3));
    }
}
