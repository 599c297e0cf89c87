use std::{fmt, pin::Pin, time::Duration};

use futures_core::Stream;
use futures_util::StreamExt;

use crate::{actor::QuorumHandle, state::QuorumChanged};

/// Says in a test what was told.
///
/// Each expectation waits for a change that meets it, and passes over those that do not. It panics
/// at its deadline, or when the actor has stopped, with what it has seen since the last one; so a
/// test neither hangs nor sleeps. By tokio's clock, which a test may pause.
pub struct Recorder {
    changes: Pin<Box<dyn Stream<Item = QuorumChanged> + Send>>,
    deadline: Duration,
}

impl Recorder {
    /// Listens to what `quorum` tells: the current state first, then every change.
    pub fn new(quorum: &QuorumHandle) -> Self {
        Self { changes: Box::pin(quorum.changes()), deadline: Duration::from_secs(10) }
    }

    /// How long an expectation waits. Default 10 s.
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// The next change.
    ///
    /// # Panics
    ///
    /// If there is none before the deadline.
    pub async fn next_change(&mut self) -> QuorumChanged {
        self.expect("a change", |_| true).await
    }

    /// The next loss of quorum.
    ///
    /// # Panics
    ///
    /// If there is none before the deadline.
    pub async fn expect_loss(&mut self) -> QuorumChanged {
        self.expect("a loss of quorum", QuorumChanged::is_loss).await
    }

    /// The next gain of quorum. The first change is one if there is quorum already.
    ///
    /// # Panics
    ///
    /// If there is none before the deadline.
    pub async fn expect_gain(&mut self) -> QuorumChanged {
        self.expect("a gain of quorum", QuorumChanged::is_gain).await
    }

    /// The next change that `wanted` holds for; `what` names it in the panic.
    ///
    /// # Panics
    ///
    /// If there is none before the deadline.
    pub async fn expect(
        &mut self,
        what: &str,
        wanted: impl Fn(&QuorumChanged) -> bool,
    ) -> QuorumChanged {
        self.up_to(what, wanted).await.pop().expect("it ends with the one that was wanted")
    }

    /// All changes up to the first that `wanted` holds for, with it; `what` names it in the panic.
    ///
    /// # Panics
    ///
    /// If there is none before the deadline.
    pub async fn up_to(
        &mut self,
        what: &str,
        wanted: impl Fn(&QuorumChanged) -> bool,
    ) -> Vec<QuorumChanged> {
        let mut seen = Vec::new();
        let (changes, deadline) = (&mut self.changes, self.deadline);
        let waited = tokio::time::timeout(deadline, async {
            while let Some(change) = changes.next().await {
                let found = wanted(&change);
                seen.push(change);
                if found {
                    return true;
                }
            }
            false
        })
        .await;
        match waited {
            Ok(true) => seen,
            Ok(false) => panic!("the actor stopped before {what} came; seen:{}", Lines(&seen)),
            Err(_) => panic!("waited {deadline:?} for {what}; seen:{}", Lines(&seen)),
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

struct Lines<'a>(&'a [QuorumChanged]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(" nothing");
        }
        self.0.iter().try_for_each(|change| write!(f, "\n  {change}"))
    }
}
