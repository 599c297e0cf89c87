//! `quorum-watch` on real daemons, as a script uses it; and the cluster to try it on.

use std::{
    env,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::support::{Netns, Node, binary, command, eventually, unique_name};

fn program() -> PathBuf {
    binary("quorum-watch")
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
    let text = said(&output);
    for line in [
        "quorum    quorate",
        "exclusive yes",
        "corosync  connected",
        "node      1 (n1)",
        &format!("ring      {ring}"),
        "alive     yes",
        "settled   yes",
        "votes     1 of 1 expected (highest 1), quorum 1, 0 to spare",
        "flags     quorate",
        "member    1 (n1), 1 vote, this node, quorum needs it",
    ] {
        assert!(text.lines().any(|said| said == line), "{line} in {text}");
    }

    node.corosync.expected_votes(3);
    eventually("it is told", || {
        (run(&node.netns, "status").status.code() == Some(2)).then_some(())
    });
    let output = run(&node.netns, "--json");
    let now: Value = serde_json::from_str(&said(&output)).unwrap();
    assert_eq!((&now["quorum"], &now["votes"]["quorum"]), (&"inquorate".into(), &2.into()));
    assert_eq!(run(&node.netns, "wait --timeout 1").status.code(), Some(2));

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

/// The command has quorum while it runs, and its exit code is the program's.
#[test]
#[ignore = "needs root and corosync: make test"]
fn a_command_runs_while_there_is_quorum() {
    let node = Node::single();
    let exec = |options: &str, shell: &str| {
        let mut command = Command::new(program());
        command.arg("exec").args(options.split_whitespace()).args(["--", "sh", "-c", shell]);
        node.run(|| command.stdout(Stdio::piped()).spawn().unwrap())
    };
    let code =
        |options: &str, shell: &str| exec(options, shell).wait_with_output().unwrap().status.code();
    assert_eq!(code("--exclusive", "exit 7"), Some(7));
    assert_eq!(code("", "kill -9 $$"), Some(137));

    // One ends at TERM in its own way, the other has to be killed.
    for (shell, said) in [
        ("trap 'echo ends; exit' TERM; echo runs; while :; do sleep 0.02; done", "ends\n"),
        ("trap '' TERM; echo runs; while :; do sleep 0.02; done", ""),
    ] {
        let mut running = exec("--grace 1", shell);
        let mut lines = BufReader::new(running.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert_eq!(line, "runs\n");
        node.corosync.expected_votes(3);
        assert_eq!(running.wait().unwrap().code(), Some(124));
        let mut rest = String::new();
        lines.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, said);
        assert_eq!(code("--timeout 1", "exit 7"), Some(124), "it does not run");
        node.corosync.expected_votes(1);
    }
}
