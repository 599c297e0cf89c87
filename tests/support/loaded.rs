//! A fake libquorum that this crate loads, and an actor on it.

use std::{ops::Deref, path::Path};

use actix_quorum::{
    Code, Connection, Corosync, Error, NodeId, QuorumBuilder, QuorumChanged,
    libquorum::{Handle, Library, Model},
};

use super::{FakeLibquorum, List, Variant, Watcher, eventually, quick};

/// A fake libquorum that is loaded as the actor loads it.
#[derive(Debug)]
pub struct Fake {
    fake: FakeLibquorum,
    pub library: Library,
}

impl Fake {
    pub fn new(name: &str) -> Self {
        Self::variant(name, Variant::Model)
    }

    pub fn variant(name: &str, variant: Variant) -> Self {
        let fake = FakeLibquorum::variant(&format!("fake_{name}"), variant);
        // SAFETY: it has the functions of libquorum.
        let library = unsafe { Library::load_from(fake.path()) }.unwrap();
        Self { fake, library }
    }

    pub fn connect(&self) -> Handle {
        connect(self.library).unwrap()
    }

    /// Makes the next call of `function` return `code`.
    pub fn refuse(&self, function: &str, code: Code) {
        self.fail(function, code.0.try_into().unwrap(), 1);
    }

    pub fn watch(&self) -> Watcher {
        self.watch_with(|builder| builder)
    }

    pub fn watch_with(
        &self,
        settings: impl FnOnce(QuorumBuilder) -> QuorumBuilder + Send,
    ) -> Watcher {
        Watcher::here(|builder| {
            let builder = builder.server_uid(None).backoff(quick());
            settings(fake_source(builder, self.path()))
        })
    }

    /// Pushes a quorum notification of ring 1.`seq` with the members 1, 2 and 3.
    pub fn push(&self, quorate: bool, seq: u64) {
        self.push_quorum(quorate.into(), (1, seq), THREE);
    }

    /// Pushes what Corosync sends about ring 1.`seq` when tracking starts.
    pub fn push_both(&self, quorate: bool, seq: u64) {
        self.push_nodelist((1, seq), THREE, Some(&[]), Some(&[]));
        self.push(quorate, seq);
    }

    pub fn wait_calls(&self, function: &str, calls: usize) {
        eventually(&format!("{function} is called {calls} times"), || {
            (self.calls(function) >= calls).then_some(())
        });
    }

    pub fn wait_open(&self, handles: usize) {
        eventually(&format!("{handles} handles are open"), || {
            (self.open_handles() == handles).then_some(())
        });
    }
}

impl Deref for Fake {
    type Target = FakeLibquorum;

    fn deref(&self) -> &FakeLibquorum {
        &self.fake
    }
}

impl Drop for Fake {
    /// Lets a call that still hangs return.
    fn drop(&mut self) {
        for function in FUNCTIONS {
            self.fake.unblock(function);
        }
    }
}

/// Connects with model V1 if the library knows it.
pub fn connect(library: Library) -> Result<Handle, Error> {
    match Handle::model_initialize(library, Model::V1) {
        Err(Error::Load(_)) => Handle::initialize_with(library),
        connected => connected,
    }
}

/// Makes the actor use a fake libquorum. No daemon exists whose version could be read.
pub fn fake_source(builder: QuorumBuilder, path: &Path) -> QuorumBuilder {
    // SAFETY: it has the functions of libquorum.
    builder.source(unsafe { Corosync::load_from(path) }).model(Model::V1)
}

/// The members 1, 2 and 3.
pub const THREE: List<'_> = Some(&[1, 2, 3]);

pub fn ids(nodes: &[u32]) -> Vec<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

/// Returns the changes up to the first connected one.
#[track_caller]
pub fn until_connected(watcher: &Watcher) -> Vec<QuorumChanged> {
    watcher.until("connected", |change| change.current.connection == Connection::Connected)
}

/// All functions of libquorum.
pub const FUNCTIONS: [&str; 10] = [
    "quorum_initialize",
    "quorum_model_initialize",
    "quorum_finalize",
    "quorum_fd_get",
    "quorum_dispatch",
    "quorum_getquorate",
    "quorum_trackstart",
    "quorum_trackstop",
    "quorum_context_set",
    "quorum_context_get",
];
