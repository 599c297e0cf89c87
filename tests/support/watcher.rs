//! A quorum actor in a namespace, and the changes that its subscriber receives.

use std::{
    cell::RefCell,
    collections::VecDeque,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use actix::{Actor, Arbiter, Context, Handler, System, clock::timeout};
use actix_quorum::{
    Backoff, Cause, Connection, Quorum, QuorumActor, QuorumBuilder, QuorumChanged, QuorumHandle,
    RingState, Snapshot,
};

use super::{DEADLINE, Netns, block_on, eventually, report::print_command};

/// How many changes of each kind a failing test prints.
const PRINTED: usize = 100;

/// How long a stop may take: a second, and one more for a busy machine.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A quorum actor in its own `System`, on a thread in a network namespace, with a subscriber on
/// another arbiter. All of it ends on drop.
pub struct Watcher {
    pub quorum: QuorumHandle,
    changes: mpsc::Receiver<QuorumChanged>,
    /// The last changes that the test has read, for its failure message.
    taken: RefCell<VecDeque<QuorumChanged>>,
    system: System,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    pub fn start(netns: &Netns) -> Self {
        Self::start_with(netns, |builder| builder)
    }

    pub fn start_with(
        netns: &Netns,
        settings: impl FnOnce(QuorumBuilder) -> QuorumBuilder + Send,
    ) -> Self {
        netns.run(|| Self::here(settings))
    }

    /// Starts the actor in the namespaces, and as the user, of the calling thread.
    pub fn here(settings: impl FnOnce(QuorumBuilder) -> QuorumBuilder + Send) -> Self {
        let (sender, receiver) = mpsc::channel();
        let (forward, changes) = mpsc::channel();
        // A scoped thread would have to end here, so everything that is not 'static is called on
        // this thread.
        let builder = settings(QuorumActor::builder());
        let run = move || {
            let runner = System::new();
            let quorum = runner.block_on(async {
                let subscriber = Forward(forward);
                let subscriber = Actor::start_in_arbiter(&Arbiter::new().handle(), |_| subscriber);
                builder.subscribe(subscriber.recipient()).start()
            });
            sender.send((quorum, System::current())).expect("the other end waits");
            runner.run().expect("the system runs");
        };
        let thread = thread::Builder::new().name("system".into()).spawn(run).unwrap();
        let (quorum, system) = receiver.recv().expect("the actor starts");
        Self { quorum, changes, taken: RefCell::default(), system, thread: Some(thread) }
    }

    /// Returns the next change, if one arrives before the deadline.
    pub fn try_next(&self) -> Option<QuorumChanged> {
        self.take().ok()
    }

    /// Returns the next change.
    #[track_caller]
    pub fn next(&self) -> QuorumChanged {
        match self.take() {
            Ok(change) => change,
            Err(error) => {
                panic!("no change arrives: {error}; the last state is {}", self.quorum.snapshot())
            }
        }
    }

    /// Returns the changes up to and including the first one for which `wanted` is true.
    #[track_caller]
    pub fn until(&self, what: &str, wanted: impl Fn(&QuorumChanged) -> bool) -> Vec<QuorumChanged> {
        let mut seen = Vec::new();
        loop {
            match self.take() {
                Ok(change) => {
                    seen.push(change);
                    if wanted(&seen[seen.len() - 1]) {
                        return seen;
                    }
                }
                Err(error) => panic!("{error} before {what}; received: {}", lines(&seen)),
            }
        }
    }

    /// Returns the changes up to the settled state with this quorum and these members in which it
    /// is known whether the ring is watched.
    #[track_caller]
    pub fn until_settled(&self, quorum: Quorum, members: &[u32]) -> Vec<QuorumChanged> {
        self.until(&format!("{quorum} with members {members:?}"), |change| {
            let now = &change.current;
            now.settled
                && now.ring != RingState::Unknown
                && now.quorum == quorum
                && now.members.iter().map(|node| node.0).eq(members.iter().copied())
        })
    }

    #[track_caller]
    pub fn until_quorum(&self, quorum: Quorum) -> Vec<QuorumChanged> {
        self.until(&format!("{quorum}"), |change| change.current.quorum == quorum)
    }

    /// Returns the changes up to the loss of the connection.
    #[track_caller]
    pub fn until_lost(&self) -> Vec<QuorumChanged> {
        self.until("the connection is lost", |change| {
            matches!(change.current.connection, Connection::Disconnected { .. })
        })
    }

    #[track_caller]
    pub fn until_cause(&self, cause: Cause) -> Vec<QuorumChanged> {
        self.until(&format!("{cause:?}"), |change| change.cause == cause)
    }

    /// Returns the error of the connection, once it has one.
    #[track_caller]
    pub fn error(&self) -> actix_quorum::Error {
        let seen = self.until("an error", |change| change_error(change).is_some());
        change_error(&seen[seen.len() - 1]).unwrap()
    }

    /// Returns the reason why an attempt to connect fails. A long attempt is not a reason: the
    /// machine may be busy, or this process may be connecting to a daemon that another test has
    /// paused.
    #[track_caller]
    pub fn attempt_error(&self) -> actix_quorum::Error {
        use actix_quorum::Error::{ConnectInProgress, Unresponsive};
        loop {
            match self.error() {
                Unresponsive | ConnectInProgress => {}
                error => return error,
            }
        }
    }

    /// Returns the changes that have arrived and were not read.
    pub fn rest(&self) -> Vec<QuorumChanged> {
        self.changes.try_iter().inspect(|change| self.note(change)).collect()
    }

    fn take(&self) -> Result<QuorumChanged, mpsc::RecvTimeoutError> {
        self.changes.recv_timeout(DEADLINE).inspect(|change| self.note(change))
    }

    fn note(&self, change: &QuorumChanged) {
        let mut taken = self.taken.borrow_mut();
        taken.push_back(change.clone());
        if taken.len() > PRINTED {
            taken.pop_front();
        }
    }

    /// Stops the actor within the guaranteed time, even if a call hangs.
    #[track_caller]
    pub fn stops_at_once(&self) {
        let start = Instant::now();
        self.stop();
        let took = start.elapsed();
        assert!(took < AT_ONCE, "stopping took {took:?}");
        assert!(!self.quorum.is_quorate());
    }

    /// Stops the actor, and returns when it has stopped.
    pub fn stop(&self) {
        block_on(self.quorum.stop());
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if thread::panicking() {
            let taken: Vec<_> = self.taken.take().into();
            let rest: Vec<_> = self.changes.try_iter().take(PRINTED).collect();
            eprintln!("---- the last changes ----{}", lines(&taken));
            eprintln!("-- and those that the test has not taken:{}\n----", lines(&rest));
            print_command();
        }
        self.system.stop();
        let ended = self.thread.take().expect("the thread is joined only here").join();
        if !thread::panicking() {
            ended.expect("the system ends");
        }
    }
}

/// A subscriber that passes each change on to the test.
pub struct Forward(pub mpsc::Sender<QuorumChanged>);

impl Actor for Forward {
    type Context = Context<Self>;
}

impl Handler<QuorumChanged> for Forward {
    type Result = ();

    fn handle(&mut self, change: QuorumChanged, _: &mut Context<Self>) {
        // The test may have ended.
        let _ = self.0.send(change);
    }
}

fn change_error(change: &QuorumChanged) -> Option<actix_quorum::Error> {
    match &change.current.connection {
        Connection::Connecting { error, .. } => error.clone(),
        Connection::Disconnected { error, .. } => Some(error.clone()),
        _ => None,
    }
}

/// Waits until the actor is connected.
pub async fn connected(quorum: &QuorumHandle) {
    let connected = |snapshot: &Snapshot| snapshot.connection == Connection::Connected;
    timeout(DEADLINE, quorum.wait_for(connected)).await.expect("the actor is connected").unwrap();
}

/// Waits until the actor is quorate.
pub async fn quorate(quorum: &QuorumHandle) {
    timeout(DEADLINE, quorum.wait_quorate()).await.expect("the node is quorate").unwrap();
}

/// Returns how long after `since` the handle last reported quorum. The time is read before the
/// handle is, so a late thread does not add to it.
#[track_caller]
pub fn last_quorate(quorum: &QuorumHandle, since: Instant) -> Duration {
    let mut last = Duration::ZERO;
    eventually("the node is not quorate", || {
        let asked = since.elapsed();
        if quorum.is_quorate() {
            last = asked;
            return None;
        }
        Some(last)
    })
}

/// Returns delays that are short enough for a test, for every error.
pub fn quick() -> Backoff {
    let delays = Duration::from_millis(10)..=Duration::from_millis(50);
    Backoff::default()
        .not_running(delays.clone())
        .disconnected(delays.clone())
        .transient(delays.clone())
        .needs_operator(delays)
}

/// Formats one change per line.
pub fn lines(changes: &[QuorumChanged]) -> String {
    changes.iter().map(|change| format!("\n  {change}")).collect()
}

#[track_caller]
pub fn assert_never_quorate(changes: &[QuorumChanged]) {
    let quorate = changes.iter().any(|change| change.current.quorum.is_quorate());
    assert!(!quorate, "{}", lines(changes));
}
