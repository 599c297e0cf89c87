//! Measures the CPU time of a client's thread for a change, by the number of members. The actor
//! runs on the arbiter of its subscriber. A test server replaces Corosync and sends the changes
//! through the real libquorum.

use std::{sync::Arc, thread, time::Duration};

use serde_json::json;

use crate::{
    client::{ANY, Client, compile},
    report::Report,
    support::{
        Hostile, Message, Netns, Step,
        hostile::{RING, TRACKSTART, nodelist_event, quorum_event},
    },
};

const MEMBERS: [u32; 5] = [1, 3, 16, 64, 384];
const CHANGES: u32 = 2_000;

pub(crate) fn run(report: &mut Report) {
    let compiled = compile();
    let mut plotted = Vec::new();
    for members in MEMBERS {
        let netns = Arc::new(Netns::new());
        let server = Hostile::start(&netns);
        let ids: Vec<u32> = (1..=members).collect();
        let decision = |quorate| quorum_event(quorate, RING, members, &ids);
        let start = [
            Step::Event(nodelist_event(RING, [members, 0, 0], &ids)),
            Step::Event(decision(1)),
            Step::Reply(Message::reply(1)),
        ];
        server.on("quorum", TRACKSTART, &start);
        for (kind, name) in
            [("blocking", "a blocked C client"), ("same", "the actor and a subscriber")]
        {
            let client = netns.run(|| Client::start(&compiled, kind, ANY));
            thread::sleep(Duration::from_millis(300));
            let before = client.main_thread_time();
            for _ in 0..CHANGES / 2 {
                server.now(&[Step::Event(decision(0)), Step::Event(decision(1))]);
            }
            thread::sleep(Duration::from_millis(300));
            let each = (client.main_thread_time() - before) as f64 / 1e3 / f64::from(CHANGES);
            assert!(client.end().len() > CHANGES as usize / 2, "the client receives the changes");
            report.value(format!("CPU for a change, {name}, {members} members"), "us", each, None);
            plotted.push(json!({ "series": name, "x": members, "y": each }));
        }
    }
    report.data("members", plotted.into());
}
