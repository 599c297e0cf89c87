//! Isolates this crate from the foreign code that it calls: metrics recorders, loggers and wakers
//! of other runtimes.
//!
//! Such code may call this crate, so no lock is held while it runs. It may panic, even while
//! another panic is unwinding the stack, so its panics are caught here.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::{Context, Wake, Waker},
};

/// Runs foreign code and catches its panic. Only the panic hook reports the panic.
pub(crate) fn contain(call: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(call));
}

/// Runs foreign code that returns a value, and catches its panic. Returns `None` if it panics.
pub(crate) fn contained<T>(call: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(call)).ok()
}

/// Logs like `log::log!`, and catches a panic of the logger.
macro_rules! log_contained {
    ($level:expr, $($message:tt)+) => {
        $crate::foreign::contain(|| ::log::log!($level, $($message)+))
    };
}
pub(crate) use log_contained as log;

/// Awaits a future with a waker that catches panics, so that a panic in one task's waker does not
/// keep other tasks from being woken.
pub(crate) async fn contain_wakers<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let waker = Arc::new(ContainedWaker(cx.waker().clone())).into();
        future.as_mut().poll(&mut Context::from_waker(&waker))
    })
    .await
}

struct ContainedWaker(Waker);

impl Wake for ContainedWaker {
    fn wake(self: Arc<Self>) {
        contain(|| self.0.wake_by_ref());
    }
}
