//! Flips of quorum on a real Corosync, as they arrive at different clients.
//!
//! Two clients at a time are connected to the daemon: one in C that is blocked in `quorum_dispatch`,
//! and the one that is compared with it, so that each flip has a time at which it came to the one
//! and to the other. They take turns, in blocks, on the same daemon.

use std::{path::Path, sync::Arc, thread, time::Duration};

use serde_json::json;

use crate::{
    client::{ANY, Client, Times, compile},
    clock,
    report::Report,
    stats::Sample,
    support::{Config, Corosync, Flipper, Netns, command},
};

/// Where a process's threads and memory happen to be makes more of a difference than flips do.
const BLOCKS: usize = 16;
const FLIPS: usize = 100;
/// Longer than it takes all to sleep again, and then so long that others have used the caches.
const GAPS: [Duration; 2] = [Duration::from_micros(300), Duration::from_millis(2)];
const BURST: usize = 20_000;

/// The clients, and what they are called. Two compute for as long as our way from the dispatch to the
/// subscriber takes: what they lose by that, on this machine, loses who has anything to do.
const KINDS: [(&str, &str); 10] = [
    ("blocking", "another blocked C client"),
    ("epoll", "a C client on epoll"),
    ("epoll 3000", "a C client on epoll with 3 us of work"),
    ("handover", "a C client that hands over to another thread"),
    ("handover 3000", "a C client that hands over, with 3 us of work"),
    ("rust-corosync", "rust-corosync on a thread"),
    ("hand", "an actor by hand, its subscriber on its arbiter"),
    ("hand-other", "an actor by hand, its subscriber on another arbiter"),
    ("same", "a subscriber on the actor's arbiter"),
    ("other", "a subscriber on another arbiter"),
];

/// Who runs where.
#[derive(Clone, Copy)]
struct Layout {
    name: &'static str,
    /// Processors, as `taskset` wants them.
    daemon: &'static str,
    clients: &'static str,
}

/// Corosync has two threads of real-time priority, both of which run during a flip; where there are
/// no more processors, they take them from those that were woken.
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

fn latency(report: &mut Report, compiled: &Path, gap: Duration, layout: Layout) {
    let every = format!("{}, every {gap:?}", layout.name);
    let flipper = Flipper::new();
    // By who connected first.
    let mut differences = vec![[Sample::default(), Sample::default()]; KINDS.len()];
    let mut latencies = vec![Sample::default(); KINDS.len()];
    let mut spent = vec![Sample::default(); KINDS.len()];
    let mut reference_latency = Sample::default();
    let start = |kind| Client::start(compiled, kind, layout.clients);
    for block in 0..BLOCKS {
        for (index, (kind, _)) in KINDS.iter().enumerate() {
            // Who connects first is told first.
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
                assert_eq!(state, other_state, "the same flip");
                differences[index][block % 2].push((*other as f64 - *at as f64) / 1e3);
                latencies[index].push((*other as f64 - set as f64) / 1e3);
                reference_latency.push((*at as f64 - set as f64) / 1e3);
            }
        }
    }
    report.sample(format!("{every}: cmap_set to the blocked C client"), "us", &reference_latency);
    let [second, first] = [&differences[0][0], &differences[0][1]];
    report.sample(
        format!("{every}: of two blocked C clients, the second after the first"),
        "us",
        second,
    );
    report.sample(
        format!("{every}: of two blocked C clients, the first after the second"),
        "us",
        first,
    );
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
        // Who computes for as long; an actor by hand, which may be sooner, is told of beside it.
        let busy = if *kind == "same" { "epoll 3000" } else { "handover 3000" };
        let busy = KINDS.iter().position(|(other, _)| *other == busy).expect("it is there");
        let floor = |part: f64| {
            let differences = without_order(&differences[busy], &differences[0]);
            (KINDS[busy].1, differences.quantile(part))
        };
        let row = format!("{every}: {name} after blocked C");
        match median {
            Some(budget) => report.floored(row, "us", difference, budget, floor(0.5)),
            None => report.sample(row, "us", difference),
        }
        let row = format!("{every}: {name} after blocked C, p99");
        let late = difference.quantile(0.99);
        match tail {
            Some(budget) => report.floored_value(row, "us", late, budget, floor(0.99)),
            None => report.value(row, "us", late, None),
        }
        if !spent[index].is_empty() {
            let row = format!("{every}: CPU from being woken to the handler, {name}");
            report.sample(row, "us", &spent[index]);
        }
        distributions.push(json!({ "name": name, "values": difference.sorted() }));
    }
    report.more(format!("distributions {every}"), distributions.into());
}

/// The differences without what it makes who is told first, for which two of the same kind differ
/// by.
fn without_order(differences: &[Sample; 2], same_kind: &[Sample; 2]) -> Sample {
    let orders = differences.iter().zip(same_kind);
    orders
        .flat_map(|(sample, same)| {
            let order = same.median();
            sample.sorted().into_iter().map(move |difference| difference - order)
        })
        .collect()
}

/// As fast as the daemon takes them.
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
    // The last has arrived long before.
    thread::sleep(Duration::from_secs(1));
    let (reference, client) = (reference.end(), client.end());
    let count = |times: &Times| times.len() as f64 - 1.0;
    report.value("a burst: flips", "", BURST as f64, None);
    report.value("a burst: flips a second", "/s", BURST as f64 * 1e9 / taken as f64, None);
    report.value("a burst: flips that the C client saw", "", count(&reference), None);
    report.value("a burst: flips that our subscriber was told", "", count(&client), None);
    let account = &client.account;
    report.value("a burst: changes that it was told as missed", "", account.missed as f64, None);
    // Of two flips told as one there is no flip to be seen: what counts is the changes.
    let lost = (BURST as f64 - account.changes as f64).max(0.0);
    report.value("a burst: flips lost", "", lost, Some(0.0));
    let wrong = account.wrong as f64;
    report.value("a burst: messages out of order, or after a gap", "", wrong, Some(0.0));
}
