//! A handle that tells what a test sets, for tests of services that read one.
//!
//! There is no actor, no Corosync and no feature to enable: a test of a web service or of an actor sets
//! the state, and reads what its own code does. [`sim`](crate::sim) is for tests of what happens in a
//! cluster, and how it is noticed.
//!
//! ```
//! use actix_quorum::{Connection, Quorum, Snapshot, testing::ScriptedQuorum};
//!
//! let quorate = Snapshot::new(Quorum::Quorate, "1.9".parse()?, [1, 2, 3]);
//! let script = ScriptedQuorum::new(quorate);
//! let quorum = script.handle(); // for your service
//! assert!(quorum.is_quorate());
//! let guard = quorum.guard().unwrap();
//!
//! script.publish(Snapshot::new(Quorum::Inquorate, "3.d".parse()?, [3]));
//! assert!(!quorum.is_quorate() && !guard.is_valid());
//!
//! script.publish(Snapshot::without_quorum(Connection::Stalled));
//! assert_eq!(quorum.quorum(), Quorum::Unknown);
//! # Ok::<(), actix_quorum::ParseRingIdError>(())
//! ```
//!
//! With the feature `web`, a test of a handler behind a gate:
//!
//! ```
//! # #[cfg(feature = "web")]
//! # mod with_web {
//! use actix_quorum::{Quorum, Snapshot, testing::ScriptedQuorum, web::QuorumGate};
//! use actix_web::{App, test, web};
//!
//! # pub
//! async fn writing_takes_quorum() {
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
//! # actix_web::rt::System::new().block_on(with_web::writing_takes_quorum());
//! ```

use std::sync::Arc;

use actix::dev::Mailbox;

use crate::{
    actor::{QuorumHandle, shared::Shared},
    link::clock::Clock,
    state::{BeliefPolicy, Cause, Connection, Event, Snapshot},
};

/// Sets what its handles tell. A clone sets the same.
///
/// A handle of it works as that of an actor does: subscribers, [`changes`](QuorumHandle::changes),
/// guards and the routes of `web` see each state that is published. Only
/// [`addr`](QuorumHandle::addr) leads nowhere, and no deadline passes by itself.
///
/// [`is_exclusive`](QuorumHandle::is_exclusive) holds for a quorate state that is settled, whose ring
/// is operational and whose votes are a [majority](Snapshot::has_majority).
#[derive(Clone, Debug)]
#[must_use = "a script does nothing without its handle"]
pub struct ScriptedQuorum {
    quorum: QuorumHandle,
}

impl ScriptedQuorum {
    /// Begins with this state.
    pub fn new(first: Snapshot) -> Self {
        let policy = BeliefPolicy::default();
        let shared = Arc::new(Shared::new(policy, Clock::System));
        #[cfg(feature = "web")]
        shared.heartbeat.beat_for_ever();
        let script = Self { quorum: QuorumHandle { shared, addr: Mailbox::default().address() } };
        script.publish(first);
        script
    }

    /// A handle that tells what is published.
    pub fn handle(&self) -> QuorumHandle {
        self.quorum.clone()
    }

    /// Publishes a state. It does nothing if that is the last one, or the actor counts as stopped.
    ///
    /// `sequence` and `changed_at` are set as an actor sets them. `epoch` grows by one after a loss of
    /// quorum and is never less than before; set a larger one for an interruption between two quorate
    /// states.
    pub fn publish(&self, snapshot: Snapshot) {
        let cause = self.cause_of(&snapshot);
        self.quorum.shared.publish(Event::Scripted(Box::new(snapshot), cause));
    }

    /// What an actor would say has happened.
    fn cause_of(&self, after: &Snapshot) -> Cause {
        let before = self.quorum.shared.snapshot();
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
