//! The output of a failing test that helps to find the reason.

use std::{collections::BTreeSet, env, sync::Mutex, thread};

use super::own_process::own_test;

/// Prints the command that runs the failing test alone, once for each test.
pub(super) fn print_command() {
    static PRINTED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

    let Some(test) = test_name() else { return };
    if PRINTED.lock().is_ok_and(|mut printed| printed.insert(test.clone())) {
        eprintln!("---- to run this test alone ----\n{}\n----", command(&test));
    }
}

fn command(test: &str) -> String {
    let program = env::current_exe().ok();
    let stem = program.as_ref().and_then(|program| program.file_stem()?.to_str());
    // Cargo appends a hash to the name of the program.
    let name = stem.and_then(|stem| stem.rsplit_once('-')).map_or("it", |(name, _)| name);
    let features = features();
    format!("cargo test --features '{features}' --test {name} -- --include-ignored --exact {test}")
}

/// Returns the features that the tests are built with, as Cargo accepts them.
pub(super) fn features() -> String {
    let features = [
        ("linked", cfg!(feature = "linked")),
        ("metrics", cfg!(feature = "metrics")),
        ("serde", cfg!(feature = "serde")),
        ("sim", cfg!(feature = "sim")),
        ("web", cfg!(feature = "web")),
    ];
    let features: Vec<_> = features.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    features.join(" ")
}

/// Returns the name of the test that the calling thread runs, or was started by.
fn test_name() -> Option<String> {
    let current = thread::current();
    own_test().or_else(|| current.name().filter(|name| name.contains("::")).map(str::to_owned))
}
