//! A handle whose state a test sets, for tests of services that use a [`QuorumHandle`].
//!
//! It needs no actor, no Corosync and no feature: a test of a web service or of an actor sets the
//! state and checks the reaction of its own code. For tests of what happens in a cluster, and of
//! how the actor notices it, use [`sim`](crate::sim).
//!
//! ```
//! use actix_quorum::{Connection, Quorum, Snapshot, testing::ScriptedQuorum};
//!
//! let quorate = Snapshot::new(Quorum::Quorate, "1.9".parse()?, [1, 2, 3]);
//! let script = ScriptedQuorum::new(quorate);
//! let quorum = script.handle(); // for your service
//! assert!(quorum.is_quorate());
//! let guard = quorum.guard().ok_or("no quorum")?;
//!
//! script.publish(Snapshot::new(Quorum::Inquorate, "3.d".parse()?, [3]));
//! assert!(!quorum.is_quorate() && !guard.is_valid());
//!
//! script.publish(Snapshot::without_quorum(Connection::Stalled));
//! assert_eq!(quorum.quorum(), Quorum::Unknown);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! With the feature `web`, a test of a handler behind a gate looks like this:
//!
//! ```
//! # #[cfg(feature = "web")]
//! # mod with_web {
//! use actix_quorum::{Quorum, Snapshot, testing::ScriptedQuorum, web::QuorumGate};
//! use actix_web::{App, test, web};
//!
//! # pub
//! async fn writing_needs_quorum() {
//!     let inquorate = Snapshot::new(Quorum::Inquorate, "3.d".parse().unwrap(), [3]);
//!     let script = ScriptedQuorum::new(inquorate);
//!     let gate = QuorumGate::new(script.handle());
//!     let write = web::resource("/write").wrap(gate).post(async || "written");
//!     let service = test::init_service(App::new().service(write)).await;
//!     let request = test::TestRequest::post().uri("/write").to_request();
//!     assert_eq!(test::call_service(&service, request).await.status(), 503);
//! }
//! # }
//! # #[cfg(feature = "web")]
//! # actix_web::rt::System::new().block_on(with_web::writing_needs_quorum());
//! ```

use std::sync::Arc;

use actix::dev::Mailbox;

use crate::{
    actor::{QuorumHandle, shared::Shared},
    link::clock::Clock,
    state::{BeliefPolicy, Cause, Connection, Event, Snapshot},
};

/// A script, with which a test sets the state that handles report. A clone sets the state of the
/// same handles.
///
/// A handle works like the handle of an actor: subscribers, [`changes`](QuorumHandle::changes),
/// guards and the routes of `web` see each published state. But the address that
/// [`addr`](QuorumHandle::addr) returns has no actor, and the state has no deadlines.
///
/// [`is_exclusive`](QuorumHandle::is_exclusive) is `true` in a quorate and settled state whose ring
/// is operational and whose votes are a [majority](Snapshot::has_majority).
#[derive(Clone, Debug)]
#[must_use = "a script has no effect without its handle"]
pub struct ScriptedQuorum {
    quorum: QuorumHandle,
}

impl ScriptedQuorum {
    /// Creates a script with `first` as its state.
    pub fn new(first: Snapshot) -> Self {
        let policy = BeliefPolicy::default();
        let shared = Arc::new(Shared::new(policy, Clock::System));
        #[cfg(feature = "web")]
        shared.heartbeat.beat_for_ever();
        let script = Self { quorum: QuorumHandle { shared, addr: Mailbox::default().address() } };
        script.publish(first);
        script
    }

    /// Returns a handle with the state of this script.
    pub fn handle(&self) -> QuorumHandle {
        self.quorum.clone()
    }

    /// Publishes a state. Does nothing if the state is equal to the last one, or after
    /// [`Connection::Stopped`].
    ///
    /// `sequence` and `changed_at` are set as an actor sets them. `epoch` grows by one after a loss
    /// of quorum and never decreases; set a larger one for an interruption between two quorate
    /// states.
    pub fn publish(&self, snapshot: Snapshot) {
        let cause = self.cause_of(&snapshot);
        self.quorum.shared.apply(Event::Scripted(Box::new(snapshot), cause));
    }

    /// Returns the cause that an actor would publish.
    fn cause_of(&self, after: &Snapshot) -> Cause {
        let before = self.quorum.shared.published();
        match &after.connection {
            Connection::Connecting { .. } => Cause::ConnectFailed,
            Connection::Disconnected { .. } => Cause::Disconnected,
            Connection::Stalled => Cause::Stalled,
            Connection::Stopped => Cause::Stopped,
            Connection::Connected if before.members != after.members => Cause::Membership,
            Connection::Connected if before.quorum != after.quorum => Cause::Quorum,
            Connection::Connected if before.ring != after.ring => Cause::Ring,
            Connection::Connected => Cause::Votes,
        }
    }
}
