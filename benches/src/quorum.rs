//! The benchmarks: speed and size of the crate, compared with the alternatives and with the
//! budgets.
//!
//! `cargo bench -p actix-quorum-benches --bench quorum [-- GROUP...]`, as root, because it runs
//! real Corosync daemons in network namespaces. Prints the rows and writes
//! `target/bench/GROUP.json`.

#![allow(missing_docs)]

#[allow(unexpected_cfgs, reason = "the features are those of the library")]
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

/// The name of a group, and the function that measures it.
type Group = (&'static str, fn(&mut Report));

/// All groups, in the order in which they run.
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
    // This program starts itself as a client of a daemon.
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
