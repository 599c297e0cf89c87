//! The overlap benchmark: measures for how long two partitions of a cluster report quorum at the
//! same time.
//!
//! `make overlap`, as root: three real Corosync nodes, faults on node 1, and on each node three
//! clients: a C program that only calls `quorum_dispatch`, a program with a `QuorumHandle`, and a
//! reader of totem's counters. Prints a table, and exits with 1 if a budget is not met.
//!
//! `OVERLAP_RUNS=n` repeats every row. `OVERLAP_TOKEN=default` uses Corosync's default token
//! timeout, and `OVERLAP_TOKEN=milliseconds` sets it; without it the timeout is 1000 ms.
//! `OVERLAP_ONLY=text` selects rows.

#![allow(missing_docs)]

#[allow(unexpected_cfgs, reason = "the features are those of the library")]
#[path = "../../../tests/support/mod.rs"]
mod support;

#[allow(dead_code, reason = "a benchmark uses a part of it")]
#[path = "../clock.rs"]
mod clock;
mod fault;
mod outcome;
mod reading;
mod table;
mod timeline;
mod watch;

use std::{
    env, fs,
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use fault::Fault;
use outcome::{Outcome, Totem};
use support::{Cluster, Token, Transport};
use watch::Watch;

/// The attempts to measure a fault while the machine is too busy for Corosync.
const ATTEMPTS: usize = 3;

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

/// Returns the name of a row of the table.
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
        let measure = || measure_fault(&cluster, &watch, transport, fault, totem);
        let mut outcome = measure();
        for _ in 1..ATTEMPTS {
            if !outcome.is_disturbed {
                break;
            }
            println!("the machine was too busy, measuring again: {}", table::line(&outcome));
            outcome = measure();
        }
        println!("{}", table::line(&outcome));
        outcomes.push(outcome);
    }
    outcomes
}

/// Causes a fault, waits for its end, and returns the outcome.
fn measure_fault(
    cluster: &Cluster,
    watch: &Watch,
    transport: Transport,
    fault: Fault,
    totem: Totem,
) -> Outcome {
    let name = row_name(transport, fault);
    watch.forget_old();
    let starved = starved(cluster, fault);
    let duration = fault.duration(transport, totem);
    let began = clock::now();
    fault.begin(cluster);
    thread::sleep(duration);
    let healed = clock::now();
    fault.end(cluster);
    wait_formed(watch);
    save_log(&name, watch, began);
    let mut outcome = Outcome::new(name, fault, totem, [began, healed, clock::now()], watch);
    outcome.is_disturbed |= starved != self::starved(cluster, fault);
    outcome
}

/// Returns how often Corosync has logged that it got no CPU time for 0.8 T, on nodes that were not
/// paused.
fn starved(cluster: &Cluster, fault: Fault) -> usize {
    let nodes = cluster.nodes().filter(|node| fault != Fault::Paused || node.id != 1);
    nodes.map(|node| node.corosync.log().matches("main process was not scheduled").count()).sum()
}

/// Waits until every node is quorate in a ring of all nodes and every reading reports it, and then
/// two more seconds for late notifications.
fn wait_formed(watch: &Watch) {
    let deadline = Instant::now() + Duration::from_secs(180);
    while !watch.all_formed() {
        if Instant::now() > deadline {
            save_log("not formed", watch, clock::now());
            panic!("the cluster does not form, see target/bench/overlap/not-formed.log");
        }
        thread::sleep(Duration::from_millis(20));
    }
    thread::sleep(Duration::from_secs(2));
}

/// Writes the reports of all clients to `target/bench/overlap/`, in order, with times relative to
/// the fault.
fn save_log(name: &str, watch: &Watch, began: u64) {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let directory = target.parent().expect("the directory is in target/").join("bench/overlap");
    fs::create_dir_all(&directory).expect("target/ can be written");
    let file = directory.join(format!("{}.log", name.replace([' ', ','], "-")));
    fs::write(file, watch.log(began)).expect("target/ can be written");
}
