//! A libcmap that cannot be loaded. The tests set the logger, which is process-wide.

use actix_quorum::{
    Error, Quorum, QuorumBuilder, RingState,
    libquorum::{Handle, Library, Model},
};
use log::{Level, LevelFilter, Log, Metadata, Record};
use parking_lot::Mutex;

use crate::{
    descriptors::Exhausted,
    support::{Node, Watcher, quick, without_library},
};

/// Keeps the warnings of this crate about libcmap.
struct Warnings(Mutex<Vec<String>>);

static WARNINGS: Warnings = Warnings(Mutex::new(Vec::new()));

impl Log for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("actix_quorum") && metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        let message = record.args().to_string();
        if self.enabled(record.metadata()) && message.contains("libcmap") {
            self.0.lock().push(message);
        }
    }

    fn flush(&self) {}
}

/// Returns the warnings of an actor that connects three times without libcmap.
fn warnings(settings: impl FnOnce(QuorumBuilder) -> QuorumBuilder + Send) -> Vec<String> {
    log::set_logger(&WARNINGS).unwrap();
    log::set_max_level(LevelFilter::Warn);
    let node = Node::single();
    without_library("libcmap.so.4", || {
        let watcher =
            Watcher::start_with(&node.netns, |builder| settings(builder.backoff(quick())));
        for _ in 0..2 {
            watcher.until_settled(Quorum::Quorate, &[1]);
            assert_eq!(watcher.quorum.snapshot().ring, RingState::Unwatched);
            assert!(watcher.quorum.is_quorate());
            assert!(!watcher.quorum.is_exclusive());
            node.corosync.restart();
            watcher.until_lost();
        }
        watcher.until_settled(Quorum::Quorate, &[1]);
    });
    WARNINGS.0.lock().clone()
}

#[track_caller]
fn assert_contains(warning: &str, parts: &[&str]) {
    for part in parts {
        assert!(warning.contains(part), "no {part:?}: {warning}");
    }
}

/// The warning names the missing library, the consequence and the remedy.
const ALWAYS: [&str; 4] =
    ["cannot load libcmap.so.4", "install libcmap4", "ring is not watched", "is_exclusive()"];

#[test]
#[ignore = "needs root and corosync: make test"]
fn one_warning_says_what_is_missing_and_when_a_model_must_be_set() {
    own_process!();
    let warnings = warnings(|builder| builder);
    let [warning] = &warnings[..] else { panic!("not exactly one warning: {warnings:#?}") };
    assert_contains(warning, &ALWAYS);
    assert_contains(warning, &["Corosync 2", "QuorumBuilder::model(Model::V0)"]);
}

/// If the model is set, the actor assumes nothing about the daemon, so the warning mentions no
/// model.
#[test]
#[ignore = "needs root and corosync: make test"]
fn with_a_model_one_warning_says_what_is_missing() {
    own_process!();
    let warnings = warnings(|builder| builder.model(Model::V0));
    let [warning] = &warnings[..] else { panic!("not exactly one warning: {warnings:#?}") };
    assert_contains(warning, &ALWAYS);
    assert!(!warning.contains("Model::V0"), "the warning mentions a model: {warning}");
}

/// If libcmap were reported as missing, the actor would assume Corosync 3 and would not watch the
/// ring.
#[test]
#[ignore = "needs root and corosync: make test"]
fn a_lack_of_descriptors_is_not_reported_as_a_missing_libcmap() {
    own_process!();
    log::set_logger(&WARNINGS).unwrap();
    log::set_max_level(LevelFilter::Warn);
    // libquorum is loaded before the descriptors are taken, and libcmap is not.
    let library = Library::load().unwrap();
    let exhausted = Exhausted::but(0);
    let error = Handle::initialize_with(library).unwrap_err();
    drop(exhausted);
    assert_eq!(error, Error::NoDescriptors);
    assert_eq!(*WARNINGS.0.lock(), [""; 0]);
}
