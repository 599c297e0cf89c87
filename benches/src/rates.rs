//! Measures the CPU time of a client process for a flip at different rates, and its memory, on a
//! real Corosync.

use std::{sync::Arc, thread, time::Duration};

use serde_json::json;

use crate::{
    client::{ANY, Client, compile},
    clock,
    report::Report,
    support::{Config, Corosync, Flipper, Netns},
};

/// Flips per second. The last rate is the highest that Corosync accepts.
const RATES: [u32; 5] = [10, 100, 1_000, 5_000, u32::MAX];

/// The kinds of clients, and their names in the report.
const KINDS: [(&str, &str); 4] = [
    ("blocking", "a blocked C client"),
    ("rust-corosync", "rust-corosync on a thread"),
    ("same", "a subscriber on the actor's arbiter"),
    ("other", "a subscriber on another arbiter"),
];

pub(crate) fn run(report: &mut Report) {
    let compiled = compile();
    let netns = Arc::new(Netns::new());
    let corosync = Corosync::new("n1", &netns, Config::default());
    corosync.start();
    corosync.wait_ready();
    netns.run(|| {
        let flipper = Flipper::new();
        for (kind, name) in KINDS {
            let client = Client::start(&compiled, kind, ANY);
            thread::sleep(Duration::from_secs(1));
            report.value(format!("memory of a process with {name}"), "KiB", client.memory(), None);
            client.end();
        }
        let mut plotted = Vec::new();
        for rate in RATES {
            let flips = rate.clamp(20, 5_000) * 2;
            for (kind, name) in KINDS {
                let client = Client::start(&compiled, kind, ANY);
                thread::sleep(Duration::from_millis(200));
                let (start, before) = (clock::now(), client.time());
                for flip in 0..flips {
                    let due = start + u64::from(flip) * (1_000_000_000 / u64::from(rate));
                    thread::sleep(Duration::from_nanos(due.saturating_sub(clock::now())));
                    flipper.flip(flip % 2 == 1);
                }
                let seconds = (clock::now() - start) as f64 / 1e9;
                thread::sleep(Duration::from_millis(100));
                let each = (client.time() - before) as f64 / 1e3 / f64::from(flips);
                client.end();
                let rate = f64::from(flips) / seconds;
                let row = format!("CPU for a flip, {name}, {rate:.0} flips a second");
                report.value(row, "us", each, None);
                plotted.push(json!({ "series": name, "x": rate, "y": each }));
            }
        }
        report.data("rates", plotted.into());
    });
}
