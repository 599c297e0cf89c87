//! The benchmarks: what is promised of speed and size, measured beside what else could be used.
//!
//! `cargo bench -p actix-quorum-benches --bench quorum [-- GROUP...]`, as root, for real Corosync
//! daemons run in network namespaces. Prints tables and writes `target/bench/GROUP.json`.

#![allow(missing_docs)]

#[allow(unexpected_cfgs, reason = "its features are those of the library")]
#[path = "../../tests/support/mod.rs"]
mod support;

mod client;
mod clock;
mod daemon;
mod fanout;
mod flips;
mod gate;
mod members;
mod memory;
mod plot;
mod rates;
mod readers;
mod reconnects;
mod report;
mod stats;
mod streams;

use report::Report;

type Group = (&'static str, fn(&mut Report));

/// The groups, in the order in which they run.
const GROUPS: [Group; 10] = [
    ("readers", readers::run),
    ("memory", memory::run),
    ("fanout", fanout::run),
    ("flips", flips::run),
    ("rates", rates::run),
    ("members", members::run),
    ("gate", gate::run),
    ("streams", streams::run),
    ("daemon", daemon::run),
    ("reconnects", reconnects::run),
];

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    // A client of a daemon, started by this program.
    if let [marker, kind] = arguments.as_slice()
        && marker == "client"
    {
        return client::run(kind);
    }
    let wanted = |name| arguments.is_empty() || arguments.iter().any(|argument| argument == name);
    for (name, run) in GROUPS {
        if wanted(name) {
            let mut report = Report::new(name);
            run(&mut report);
            report.finish();
        }
    }
    report::summary();
    plot::run();
}
