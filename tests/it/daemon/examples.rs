//! The examples on a real daemon, with the arguments from their documentation.

use std::net::TcpStream;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Client, Netns, Node, Running, eventually};

#[test]
#[ignore = "needs root and corosync: make test"]
fn the_watch_example_prints_every_change_until_interrupted() {
    let node = Node::single();
    let mut watch = Running::example(Some(&node.netns), "watch", "--corosync");
    let ring = node.wait_members(true, &[1]).ring_id;
    watch.until_start(&format!("quorate: ring {ring}, members 1"));
    node.corosync.expected_votes(3);
    assert_eq!(
        watch.until("inquorate"),
        format!("inquorate: ring {ring}, members 1 (was quorate)")
    );
    node.corosync.kill();
    watch.until("unknown: connection to corosync lost: CS_ERR_LIBRARY (2)");
    node.corosync.start();
    watch.until_start("quorate: ring");
    let program = Pid::from_child(&watch.child);
    kill_process(program, Signal::INT).unwrap();
    assert!(watch.child.wait().unwrap().success());
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn the_watch_example_prints_how_to_start_corosync_if_it_is_not_running() {
    let nowhere = Netns::new();
    let mut watch = Running::example(Some(&nowhere), "watch", "--corosync");
    watch.until("systemctl start corosync");
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn the_watch_example_simulates_a_loss_and_a_gain_without_corosync() {
    let nowhere = Netns::new();
    let mut watch = Running::example(Some(&nowhere), "watch", "");
    watch.until_start("quorate: ring");
    watch.until("-- node 2 is cut off");
    watch.until("inquorate: ring");
    watch.until("-- node 2 is back");
    watch.until_start("quorate: ring");
    watch.until("unknown: connection to corosync lost");
    watch.until_start("quorate: ring");
    assert!(watch.child.wait().unwrap().success());
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn the_supervised_example_pauses_and_continues_across_a_restart_of_corosync() {
    let node = Node::single();
    let mut supervised = Running::example(Some(&node.netns), "supervised", "--corosync");
    supervised.until("working");
    node.corosync.kill();
    supervised.until("paused: unknown: connection to corosync lost");
    node.corosync.start();
    supervised.until("other nodes may have worked meanwhile: checking their results");
    supervised.until("working");

    let mut supervised = Running::example(Some(&node.netns), "supervised", "");
    for line in ["working", "paused: unknown", "other nodes may have worked", "working"] {
        supervised.until(line);
    }
    assert!(supervised.child.wait().unwrap().success());
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn the_shortest_program_runs_to_completion() {
    let node = Node::single();
    let mut program = Running::example(Some(&node.netns), "replicator", "");
    // The program does not wait for its subscriber, so the rest of its output may vary.
    program.until("unknown: connecting");
    assert!(program.child.wait().unwrap().success());
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn the_gate_example_accepts_writes_only_with_quorum() {
    let node = Node::single();
    let mut gate = Running::example(Some(&node.netns), "gate", "--corosync");
    gate.until("http://127.0.0.1:8080/value");
    let server = "127.0.0.1:8080".parse().unwrap();
    node.run(|| {
        let put = || {
            let mut client = Client::connect(server);
            client.send("PUT", "/value", &[]);
            client.response().0
        };
        eventually("the example is listening", || TcpStream::connect(server).ok());
        eventually("there is quorum", || (put() == 200).then_some(()));
        node.corosync.expected_votes(3);
        eventually("there is no quorum", || (put() == 503).then_some(()));
        let mut client = Client::connect(server);
        client.send("GET", "/value", &[]);
        assert_eq!(client.response().0, 200, "any client may read");
        client.send("GET", "/readyz?verbose", &[]);
        let (status, why) = client.response();
        assert!(status == 503 && why.contains("[-]quorum failed: inquorate: ring"), "{why}");

        // No request waits for a hung Corosync.
        node.corosync.expected_votes(1);
        eventually("there is quorum again", || (put() == 200).then_some(()));
        node.corosync.pause();
        eventually("the hung daemon is no longer trusted", || (put() == 503).then_some(()));
        for (path, expected) in [("/livez", 200), ("/readyz", 503), ("/quorum", 200)] {
            let mut client = Client::connect(server);
            client.send("GET", path, &[]);
            assert_eq!(client.response().0, expected, "{path}");
        }
        node.corosync.resume();
    });
    let program = Pid::from_child(&gate.child);
    kill_process(program, Signal::INT).unwrap();
    assert!(gate.child.wait().unwrap().success());
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn the_tokio_example_works_under_a_guard_and_starts_again_after_a_loss() {
    let node = Node::single();
    let mut worker = Running::example(Some(&node.netns), "tokio", "--corosync");
    worker.until("begins in epoch");
    worker.until("working");
    node.corosync.kill();
    worker.until("dropped: unknown: connection to corosync lost");
    node.corosync.start();
    worker.until("begins in epoch");
    worker.until("working");
    let program = Pid::from_child(&worker.child);
    kill_process(program, Signal::INT).unwrap();
    assert!(worker.child.wait().unwrap().success());

    let mut worker = Running::example(Some(&node.netns), "tokio", "");
    for line in ["begins in epoch", "working", "dropped: ", "begins in epoch", "working"] {
        worker.until(line);
    }
    assert!(worker.child.wait().unwrap().success());
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn the_axum_example_accepts_writes_only_while_no_other_partition_can_have_quorum() {
    let node = Node::single();
    let mut service = Running::example(Some(&node.netns), "axum", "--corosync");
    service.until("http://127.0.0.1:8081/value");
    let server = "127.0.0.1:8081".parse().unwrap();
    node.run(|| {
        let ask = |method, path| {
            let mut client = Client::connect(server);
            client.send(method, path, &[]);
            client.response()
        };
        let put = || ask("PUT", "/value").0;
        eventually("the node is exclusive", || (put() == 200).then_some(()));
        assert_eq!(ask("GET", "/readyz").0, 200);
        let mut changes = Client::connect(server);
        changes.send("GET", "/events", &[]);
        assert!(changes.event().expect("the stream continues").data.starts_with("quorate: ring"));
        node.corosync.expected_votes(3);
        eventually("there is no quorum", || (put() == 503).then_some(()));
        eventually("the stream reports the loss", || {
            changes
                .event()
                .expect("the stream continues")
                .data
                .starts_with("inquorate: ring")
                .then_some(())
        });
        assert_eq!(ask("GET", "/value").0, 200, "any client may read");
        let (status, why) = ask("GET", "/readyz");
        assert!(status == 503 && why.starts_with("inquorate: ring"), "{why}");
        assert_eq!(ask("GET", "/livez").0, 200);
    });
    let program = Pid::from_child(&service.child);
    kill_process(program, Signal::INT).unwrap();
    assert!(service.child.wait().unwrap().success());
}
