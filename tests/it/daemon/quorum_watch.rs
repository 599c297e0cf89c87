//! The terminal tool among the examples, as a script uses it; and the cluster to try it on.

use std::{
    env,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::support::{Netns, Node, command, eventually, example, unique_name};

fn program() -> PathBuf {
    example("quorum-watch")
}

fn run(netns: &Netns, arguments: &str) -> Output {
    netns.run(|| Command::new(program()).args(arguments.split_whitespace()).output().unwrap())
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_script_can_ask() {
    let node = Node::single();
    let output = run(&node.netns, "");
    let ring = node.wait_members(true, &[1]).ring_id;
    assert_eq!(output.status.code(), Some(0));
    let expected = format!(
        "quorum   quorate\ncorosync connected\nmembers  1 (n1)\nring     {ring}\n\
         votes    1 of 1, quorum 1, 0 to spare\n"
    );
    assert_eq!(said(&output), expected, "and no colours where there is no terminal");

    node.corosync.expected_votes(3);
    eventually("it is told", || {
        (run(&node.netns, "status").status.code() == Some(2)).then_some(())
    });
    let output = run(&node.netns, "--json");
    let now: Value = serde_json::from_str(&said(&output)).unwrap();
    assert_eq!((&now["quorum"], &now["votes"]["quorum"]), (&"inquorate".into(), &2.into()));
    assert_eq!(run(&node.netns, "wait 1").status.code(), Some(2));

    let waiting =
        node.run(|| Command::new(program()).arg("wait").stdout(Stdio::null()).spawn().unwrap());
    node.corosync.expected_votes(1);
    assert_eq!(waiting.wait_with_output().unwrap().status.code(), Some(0));

    node.corosync.kill();
    let output = run(&node.netns, "status");
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("systemctl start corosync"), "{}", said(&output));
}

/// What CONTRIBUTING.md says of it.
#[test]
#[ignore = "needs root and corosync: make test"]
fn a_cluster_can_be_had_and_broken() {
    let name = unique_name();
    let script = |arguments: &[&str]| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/cluster");
        let mut command = Command::new(script);
        command
            .args(arguments)
            .env("CLUSTER", &name)
            .env("CLUSTER_DIR", env!("CARGO_TARGET_TMPDIR"));
        command.output().unwrap()
    };
    let up = script(&["up"]);
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    let ask = || {
        let namespace = format!("{name}-n1");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &namespace]).arg(program()).output().unwrap().status.code()
    };
    assert_eq!(ask(), Some(0));
    for node in ["2", "3"] {
        command("ip", &["-n", &format!("{name}-n{node}"), "link", "set", "eth0", "down"]);
    }
    eventually("it is cut off", || (ask() == Some(2)).then_some(()));
    let down = script(&["down"]);
    assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    assert!(!command("ip", &["netns", "list"]).contains(&format!("{name}-n")));
}

#[test]
#[ignore = "needs root: make test"]
fn what_is_asked_wrongly_is_said() {
    let nowhere = Netns::new();
    for arguments in ["foo", "--foo", "wait x", "watch watch"] {
        let output = run(&nowhere, arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("usage: quorum-watch"));
    }
    let output = run(&nowhere, "wait 5 --simulate");
    assert_eq!(output.status.code(), Some(0));
}
