use std::{fmt, pin::Pin, time::Duration};

use futures_core::Stream;
use futures_util::StreamExt;

use crate::{actor::QuorumHandle, state::QuorumChanged};

/// Records published changes for a test.
///
/// Each expectation waits for a change that meets it and skips the others. It panics at its
/// deadline, or when the actor has stopped, and lists the changes since the last expectation. So a
/// test neither hangs nor sleeps. Time is measured by tokio's clock, which a test can pause.
///
/// ```
/// use actix_quorum::{QuorumActor, sim::{Cluster, Recorder}};
///
/// # #[actix::main]
/// # async fn main() -> Result<(), actix_quorum::sim::Error> {
/// let cluster = Cluster::new(3);
/// let quorum = QuorumActor::builder().source(cluster.node(1)).start();
/// let mut recorder = Recorder::new(&quorum);
/// recorder.expect_gain().await;
///
/// cluster.crash(2)?;
/// let change = recorder.expect("a departure", |change| !change.left.is_empty()).await;
/// assert_eq!(change.left.to_string(), "2");
/// # quorum.stop().await;
/// # Ok(())
/// # }
/// ```
pub struct Recorder {
    changes: Pin<Box<dyn Stream<Item = QuorumChanged> + Send>>,
    deadline: Duration,
}

impl Recorder {
    /// Records the changes that `quorum` publishes: the current state first, then every change.
    pub fn new(quorum: &QuorumHandle) -> Self {
        Self { changes: Box::pin(quorum.changes()), deadline: Duration::from_secs(10) }
    }

    /// How long an expectation waits. Default 10 s.
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// Returns the next change.
    ///
    /// # Panics
    ///
    /// Panics if no such change is published before the deadline, or before the actor stops.
    pub async fn next_change(&mut self) -> QuorumChanged {
        self.expect("a change", |_| true).await
    }

    /// Returns the next loss of quorum.
    ///
    /// # Panics
    ///
    /// Panics if no such change is published before the deadline, or before the actor stops.
    pub async fn expect_loss(&mut self) -> QuorumChanged {
        self.expect("a loss of quorum", QuorumChanged::is_loss).await
    }

    /// Returns the next gain of quorum. If the node already has quorum, the first change, which
    /// reports the current state, is a gain.
    ///
    /// # Panics
    ///
    /// Panics if no such change is published before the deadline, or before the actor stops.
    pub async fn expect_gain(&mut self) -> QuorumChanged {
        self.expect("a gain of quorum", QuorumChanged::is_gain).await
    }

    /// Returns the next change for which `wanted` is true. `what` describes the change in the panic
    /// message.
    ///
    /// # Panics
    ///
    /// Panics if no such change is published before the deadline, or before the actor stops.
    pub async fn expect(
        &mut self,
        what: &str,
        wanted: impl Fn(&QuorumChanged) -> bool,
    ) -> QuorumChanged {
        self.up_to(what, wanted).await.pop().expect("the last change is the wanted one")
    }

    /// Returns all changes up to and including the first one for which `wanted` is true. `what`
    /// describes that change in the panic message.
    ///
    /// # Panics
    ///
    /// Panics if no such change is published before the deadline, or before the actor stops.
    pub async fn up_to(
        &mut self,
        what: &str,
        wanted: impl Fn(&QuorumChanged) -> bool,
    ) -> Vec<QuorumChanged> {
        let mut received = Vec::new();
        let (changes, deadline) = (&mut self.changes, self.deadline);
        let waited = tokio::time::timeout(deadline, async {
            while let Some(change) = changes.next().await {
                let found = wanted(&change);
                received.push(change);
                if found {
                    return true;
                }
            }
            false
        })
        .await;
        match waited {
            Ok(true) => received,
            Ok(false) => panic!("the actor stopped before {what}; received:{}", Lines(&received)),
            Err(_) => panic!("waited {deadline:?} for {what}; received:{}", Lines(&received)),
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
