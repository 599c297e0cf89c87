//! How cost grows with the members of the cluster: what a client's thread takes for a change, ours
//! with its subscriber on the same arbiter. A server in Corosync's place tells the changes, through
//! the real libquorum.

use std::{sync::Arc, thread, time::Duration};

use serde_json::json;

use crate::{
    client::{ANY, Client, compile},
    report::Report,
    support::{
        Hostile, Message, Netns, Step,
        hostile::{RING, TRACKSTART, nodelist_told, quorum_told},
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
        let told = |quorate| quorum_told(quorate, RING, members, &ids);
        let start = [
            Step::Event(nodelist_told(RING, [members, 0, 0], &ids)),
            Step::Event(told(1)),
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
                server.now(&[Step::Event(told(0)), Step::Event(told(1))]);
            }
            thread::sleep(Duration::from_millis(300));
            let each = (client.main_thread_time() - before) as f64 / 1e3 / f64::from(CHANGES);
            assert!(client.end().len() > CHANGES as usize / 2, "it was told");
            report.value(
                format!("CPU of {name} for a change, {members} members"),
                "us",
                each,
                None,
            );
            plotted.push(json!({ "way": name, "x": members, "y": each }));
        }
    }
    report.more("members", plotted.into());
}
