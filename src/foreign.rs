//! Calls of code that is not ours: recorders of metrics, loggers, wakers of other runtimes.
//!
//! It may call back, so no lock is held while it runs. It may panic, also while another panic unwinds,
//! so its panic ends here.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::{Context, Wake, Waker},
};

/// Runs foreign code. Its panic is reported by the panic hook, and by nothing else.
pub(crate) fn contain(call: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(call));
}

/// Logs as `log::log!` does, contained.
macro_rules! log_contained {
    ($level:expr, $($message:tt)+) => {
        $crate::foreign::contain(|| ::log::log!($level, $($message)+))
    };
}
pub(crate) use log_contained as log;

/// Awaits a future that wakes its task by a waker whose panic is contained: one that panics must not
/// keep others from being woken.
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
