//! Measures when flips of quorum on a real Corosync arrive at different clients.
//!
//! Two clients at a time are connected to the daemon: one in C that is blocked in
//! `quorum_dispatch`, and the client that is compared with it. So each flip has a time of arrival
//! at both. The compared clients take turns, in blocks, on the same daemon.

use std::{path::Path, sync::Arc, thread, time::Duration};

use serde_json::json;

use crate::{
    client::{ANY, Client, Records, compile},
    clock,
    report::Report,
    stats::Sample,
    support::{Config, Corosync, Flipper, Netns, command},
};

/// The number of pairs of new processes for each client. The placement of a process's threads and
/// memory makes more of a difference than single flips do.
const BLOCKS: usize = 16;
/// The number of flips in a block.
const FLIPS: usize = 100;
/// The pauses between flips. After the short one all processes sleep again. After the long one
/// other processes have used the caches.
const GAPS: [Duration; 2] = [Duration::from_micros(300), Duration::from_millis(2)];
/// The number of flips without a pause.
const BURST: usize = 20_000;

/// The kinds of clients, and their names in the report. Two of them compute for as long as the
/// actor needs from the dispatch to the subscriber. Their delay shows the cost of any work on this
/// machine.
const KINDS: [(&str, &str); 10] = [
    ("blocking", "another blocked C client"),
    ("epoll", "a C client on epoll"),
    ("epoll 3000", "a C client on epoll with 3 us of work"),
    ("handover", "a C client with a second thread"),
    ("handover 3000", "a C client with a second thread and 3 us of work"),
    ("rust-corosync", "rust-corosync on a thread"),
    ("hand", "hand-written actor, subscriber on its arbiter"),
    ("hand-other", "hand-written actor, subscriber on another arbiter"),
    ("same", "a subscriber on the actor's arbiter"),
    ("other", "a subscriber on another arbiter"),
];

/// An assignment of processes to processors.
#[derive(Clone, Copy)]
struct Layout {
    name: &'static str,
    /// Processors, in the syntax of `taskset`.
    daemon: &'static str,
    clients: &'static str,
}

/// Corosync has two threads of real-time priority, and both run during a flip. On a machine with
/// two processors they take these from the clients that the flip has woken.
const LAYOUTS: [Layout; 2] = [
    Layout { name: "anywhere", daemon: ANY, clients: ANY },
    Layout { name: "apart", daemon: "0", clients: "1" },
];

pub(crate) fn run(report: &mut Report) {
    let compiled = compile();
    let netns = Arc::new(Netns::new());
    let corosync = Corosync::new("n1", &netns, Config::default());
    corosync.start();
    corosync.wait_ready();
    netns.run(|| {
        for layout in LAYOUTS {
            let (on, pid) = (layout.daemon, corosync.pid().to_string());
            command("taskset", &["-a", "-p", "-c", on, &pid]);
            for gap in GAPS {
                latency(report, &compiled, gap, layout);
            }
        }
        command("taskset", &["-a", "-p", "-c", ANY, &corosync.pid().to_string()]);
        burst(report, &compiled);
    });
}

/// Compares all clients at one pause between flips and in one layout.
fn latency(report: &mut Report, compiled: &Path, gap: Duration, layout: Layout) {
    let every = format!("{}, every {gap:?}", layout.name);
    let flipper = Flipper::new();
    // The first sample is of the blocks in which the reference connected first.
    let mut differences = vec![[Sample::default(), Sample::default()]; KINDS.len()];
    let mut latencies = vec![Sample::default(); KINDS.len()];
    let mut spent = vec![Sample::default(); KINDS.len()];
    let mut reference_latency = Sample::default();
    let start = |kind| Client::start(compiled, kind, layout.clients);
    for block in 0..BLOCKS {
        for (index, (kind, _)) in KINDS.iter().enumerate() {
            // Corosync notifies the client that connected first before the other one.
            let (reference, client) = if block % 2 == 0 {
                let reference = start("blocking");
                (reference, start(kind))
            } else {
                let client = start(kind);
                (start("blocking"), client)
            };
            thread::sleep(Duration::from_millis(100));
            let mut set_at = Vec::with_capacity(FLIPS);
            for flip in 0..FLIPS {
                thread::sleep(gap);
                set_at.push(clock::now());
                flipper.flip(flip % 2 == 1);
            }
            thread::sleep(Duration::from_millis(50));
            let (reference, client) = (reference.end(), client.end());
            spent[index].extend(client.spent.sorted());
            for ((set, (at, state)), (other, other_state)) in
                set_at.into_iter().zip(reference.last(FLIPS)).zip(client.last(FLIPS))
            {
                assert_eq!(state, other_state, "both clients receive the same flip");
                differences[index][block % 2].push((*other as f64 - *at as f64) / 1e3);
                latencies[index].push((*other as f64 - set as f64) / 1e3);
                reference_latency.push((*at as f64 - set as f64) / 1e3);
            }
        }
    }
    report.sample(format!("{every}: cmap_set to the blocked C client"), "us", &reference_latency);
    let [second, first] = [&differences[0][0], &differences[0][1]];
    report.sample(format!("{every}: two blocked C clients, delay of the second"), "us", second);
    report.sample(format!("{every}: two blocked C clients, delay of the first"), "us", first);
    let mut distributions = vec![json!({
        "name": "the blocked C client, from cmap_set", "values": reference_latency.sorted(),
    })];
    for (index, (kind, name)) in KINDS.iter().enumerate() {
        let latency = &latencies[index];
        let difference = &without_order(&differences[index], &differences[0]);
        report.sample(format!("{every}: cmap_set to {name}"), "us", latency);
        let (median, tail) = match *kind {
            "same" => (Some(10.0), None),
            "other" => (Some(25.0), Some(150.0)),
            _ => (None, None),
        };
        // The floor is the C client that does as much work. The actor written by hand, which may be
        // faster, has its own row.
        let busy = if *kind == "same" { "epoll 3000" } else { "handover 3000" };
        let busy =
            KINDS.iter().position(|(other, _)| *other == busy).expect("the list contains it");
        let floor = |part: f64| {
            let differences = without_order(&differences[busy], &differences[0]);
            (KINDS[busy].1, differences.quantile(part))
        };
        let row = format!("{every}: {name}, delay after a blocked C client");
        match median {
            Some(budget) => report.floored(row, "us", difference, budget, floor(0.5)),
            None => report.sample(row, "us", difference),
        }
        let row = format!("{every}: {name}, delay after a blocked C client, p99");
        let p99 = difference.quantile(0.99);
        match tail {
            Some(budget) => report.floored_value(row, "us", p99, budget, floor(0.99)),
            None => report.value(row, "us", p99, None),
        }
        if !spent[index].is_empty() {
            let row = format!("{every}: {name}, CPU from the wake-up to the handler");
            report.sample(row, "us", &spent[index]);
        }
        distributions.push(json!({ "name": name, "values": difference.sorted() }));
    }
    report.data(format!("distributions {every}"), distributions.into());
}

/// Returns the differences without the effect of the order in which the two clients connected. That
/// effect is the difference between two clients of the same kind.
fn without_order(differences: &[Sample; 2], same_kind: &[Sample; 2]) -> Sample {
    let orders = differences.iter().zip(same_kind);
    orders
        .flat_map(|(sample, same)| {
            let order = same.median();
            sample.sorted().into_iter().map(move |difference| difference - order)
        })
        .collect()
}

/// Flips quorum as fast as the daemon accepts it, and counts the changes that arrive.
fn burst(report: &mut Report, compiled: &Path) {
    let flipper = Flipper::new();
    let reference = Client::start(compiled, "blocking", ANY);
    let client = Client::start(compiled, "other", ANY);
    thread::sleep(Duration::from_millis(200));
    let start = clock::now();
    for flip in 0..BURST {
        flipper.flip(flip % 2 == 1);
    }
    let taken = clock::now() - start;
    // The last flip has arrived after this time.
    thread::sleep(Duration::from_secs(1));
    let (reference, client) = (reference.end(), client.end());
    let count = |records: &Records| records.len() as f64 - 1.0;
    report.value("a burst: flips", "", BURST as f64, None);
    report.value("a burst: flips a second", "/s", BURST as f64 * 1e9 / taken as f64, None);
    report.value("a burst: flips received by the C client", "", count(&reference), None);
    report.value("a burst: flips received by the subscriber", "", count(&client), None);
    let counts = &client.counts;
    report.value("a burst: changes reported as missed", "", counts.missed as f64, None);
    // A message that merges two flips shows none, so the changes are counted.
    let lost = (BURST as f64 - counts.changes as f64).max(0.0);
    report.value("a burst: flips lost", "", lost, Some(0.0));
    let wrong = counts.wrong as f64;
    report.value("a burst: messages out of order or after a gap", "", wrong, Some(0.0));
}
