//! The overlap benchmark: for how long two partitions of a cluster are believed quorate at once.
//!
//! `make overlap`, as root: three real Corosync nodes, faults on node 1, and on each node three
//! clients: a C program that only calls `quorum_dispatch`, a program with a `QuorumHandle`, and a
//! reader of totem's counters. Prints a table, and exits with 1 if a budget is missed.
//!
//! `OVERLAP_RUNS=n` repeats every row. `OVERLAP_TOKEN=default` uses Corosync's own token timeout,
//! `OVERLAP_TOKEN=milliseconds` another one than 1000. `OVERLAP_ONLY=text` selects rows.

#![allow(missing_docs)]

#[allow(unexpected_cfgs, reason = "its features are those of the library")]
#[path = "../../../tests/support/mod.rs"]
mod support;

#[path = "../clock.rs"]
mod clock;
mod fault;
mod outcome;
mod reading;
mod table;
mod timeline;
mod watch;

use std::{env, fs, path::PathBuf, process::ExitCode, thread, time::Duration};

use fault::Fault;
use outcome::{Outcome, Totem};
use support::{Cluster, Token, Transport, eventually};
use watch::Watch;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "reading") {
        reading::run();
        return ExitCode::SUCCESS;
    }
    let runs = env::var("OVERLAP_RUNS").map_or(1, |runs| runs.parse().expect("a number of runs"));
    let only = env::var("OVERLAP_ONLY").unwrap_or_default();
    let mut outcomes = Vec::new();
    for transport in [Transport::Knet, Transport::Udpu] {
        let wanted = |fault: &Fault| row_name(transport, *fault).contains(&only);
        let faults: Vec<Fault> = Fault::ALL.into_iter().filter(wanted).collect();
        if !faults.is_empty() {
            outcomes.extend(measure(transport, &faults, runs));
        }
    }
    assert!(!outcomes.is_empty(), "no row contains {only:?}");
    println!("\n{}", table::markdown(&outcomes));
    let missed: Vec<&String> = outcomes.iter().flat_map(|outcome| &outcome.missed).collect();
    missed.iter().for_each(|missed| println!("FAIL {missed}"));
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn row_name(transport: Transport, fault: Fault) -> String {
    format!("{} {}", transport.name(), fault.name())
}

/// Runs the faults on one cluster, `runs` times each.
fn measure(transport: Transport, faults: &[Fault], runs: usize) -> Vec<Outcome> {
    let token = match env::var("OVERLAP_TOKEN").as_deref() {
        Ok("default") => Token::Default,
        Ok(millis) => Token::Millis(millis.parse().expect("`default` or milliseconds")),
        Err(_) => Token::Millis(1000),
    };
    let cluster = Cluster::start_with(3, |config| {
        config.transport = transport;
        config.token = token;
    });
    let watch = Watch::start(&cluster);
    wait_formed(&watch);
    let totem = Totem::read(&cluster.node(1).corosync);
    let (token, consensus) = (totem.token.as_millis(), totem.consensus.as_millis());
    println!("{}: token {token} ms, consensus {consensus} ms", transport.name());
    let mut outcomes = Vec::new();
    for fault in faults.iter().flat_map(|fault| std::iter::repeat_n(*fault, runs)) {
        watch.forget_old();
        let lasts = fault.lasts(transport, totem);
        let began = clock::now();
        fault.begin(&cluster);
        thread::sleep(lasts);
        let healed = clock::now();
        fault.end(&cluster);
        wait_formed(&watch);
        let name = row_name(transport, fault);
        save_log(&name, &watch, began);
        let outcome = Outcome::new(name, fault, totem, [began, healed, clock::now()], &watch);
        println!("{}", table::line(&outcome));
        outcomes.push(outcome);
    }
    outcomes
}

/// Waits until every node has all nodes in its ring, quorate, and `is_quorate()` says so; then for
/// what may still come of it.
fn wait_formed(watch: &Watch) {
    eventually(Duration::from_secs(90), "the cluster forms and is believed", || {
        watch.all_formed().then_some(())
    });
    thread::sleep(Duration::from_secs(2));
}

/// Writes what every client reported to `target/bench/overlap/`, in order, relative to the fault.
fn save_log(name: &str, watch: &Watch, began: u64) {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let directory = target.parent().expect("it is in target/").join("bench/overlap");
    fs::create_dir_all(&directory).expect("target/ is ours");
    let file = directory.join(format!("{}.log", name.replace([' ', ','], "-")));
    fs::write(file, watch.log(began)).expect("target/ is ours");
}
