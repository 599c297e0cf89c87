//! `quorum-watch` on real daemons, as a script uses it, and the script that starts a cluster for
//! it.

use std::{
    env,
    fs::{self, File},
    io::{BufRead, BufReader, Lines, Read, Write, pipe},
    os::fd::{FromRawFd, OwnedFd},
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::{Pid, Signal, kill_process},
};
use serde_json::Value;

use crate::support::{Netns, Node, binary, command, eventually, unique_name};

fn program() -> PathBuf {
    binary("quorum-watch")
}

fn run(netns: &Netns, arguments: &str) -> Output {
    netns.run(|| Command::new(program()).args(arguments.split_whitespace()).output().unwrap())
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_script_can_query_the_state() {
    let node = Node::single();
    let output = run(&node.netns, "");
    let ring = node.wait_members(true, &[1]).ring_id;
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
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
        assert!(text.lines().any(|shown| shown == line), "the line {line:?} is missing: {text}");
    }

    node.corosync.expected_votes(3);
    eventually("the status is inquorate", || {
        (run(&node.netns, "status").status.code() == Some(2)).then_some(())
    });
    let text = stdout(&run(&node.netns, "status"));
    for line in ["votes     1 of 3 expected (highest 3), quorum 2, 0 to spare", "flags     none"] {
        assert!(text.lines().any(|shown| shown == line), "the line {line:?} is missing: {text}");
    }
    let output = run(&node.netns, "--json");
    let now: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&now["quorum"], &now["votes"]["quorum"]), (&"inquorate".into(), &2.into()));
    assert_eq!(run(&node.netns, "wait --timeout 1").status.code(), Some(2));

    let waiting =
        node.run(|| Command::new(program()).arg("wait").stdout(Stdio::null()).spawn().unwrap());
    node.corosync.expected_votes(1);
    assert_eq!(waiting.wait_with_output().unwrap().status.code(), Some(0));

    node.corosync.kill();
    let output = run(&node.netns, "status");
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("systemctl start corosync"), "{}", stdout(&output));
}

/// `make cluster` and `make cluster-down` run this script. In between, `exec --exclusive` must end its
/// command when node 1 is cut off.
#[test]
#[ignore = "needs root and corosync: make test"]
fn the_cluster_script_starts_and_removes_a_cluster() {
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
    assert!(up.status.success(), "`up` failed: {}", String::from_utf8_lossy(&up.stderr));
    let ask = || {
        let namespace = format!("{name}-n1");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &namespace]).arg(program()).output().unwrap().status.code()
    };
    assert_eq!(ask(), Some(0));
    let mut working = Command::new("ip");
    working.args(["netns", "exec", &format!("{name}-n1")]).arg(program());
    working.args(["exec", "--exclusive", "--", "sh", "-c", "echo works; exec sleep 3600"]);
    let mut working = working.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(working.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "works\n");
    for node in ["2", "3"] {
        command("ip", &["-n", &format!("{name}-n{node}"), "link", "set", "eth0", "down"]);
    }
    let ended = working.wait_with_output().unwrap();
    let complaint = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(124), "standard error: {complaint}");
    assert!(
        !complaint.contains("lost: quorate"),
        "a quorate node has not lost quorum: {complaint}"
    );
    eventually("the node is cut off", || (ask() == Some(2)).then_some(()));
    let down = script(&["down"]);
    assert!(down.status.success(), "`down` failed: {}", String::from_utf8_lossy(&down.stderr));
    assert!(!command("ip", &["netns", "list"]).contains(&format!("{name}-n")));
}

/// Opens the two ends of a terminal.
fn terminal() -> (File, OwnedFd) {
    let (mut ours, mut theirs) = (-1, -1);
    let none = std::ptr::null_mut();
    // SAFETY: both numbers outlive the call, and the name, mode and size are null.
    let opened = unsafe { libc::openpty(&mut ours, &mut theirs, none, none.cast(), none.cast()) };
    assert_eq!(opened, 0, "a terminal can be opened");
    // SAFETY: the call has opened both, and no other code has them.
    unsafe { (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) }
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_terminal_shows_the_state_in_colours() {
    let node = Node::single();
    let watch = |no_color: &str| {
        let (ours, theirs) = terminal();
        let mut command = Command::new(program());
        command.arg("watch").env("NO_COLOR", no_color).stdout(theirs);
        (node.run(|| command.spawn().unwrap()), BufReader::new(ours).lines())
    };
    let until = |lines: &mut Lines<BufReader<File>>, text: &str| {
        lines.map(Result::unwrap).find(|line| line.contains(text)).unwrap()
    };
    let (mut watching, mut lines) = watch("");
    until(&mut lines, "Z \x1b[33munknown: ");
    until(&mut lines, "Z \x1b[32mquorate: ");
    node.corosync.expected_votes(3);
    until(&mut lines, "Z \x1b[31minquorate: ");
    watching.kill().unwrap();
    watching.wait().unwrap();
    let (mut watching, mut lines) = watch("1");
    until(&mut lines, "Z inquorate: ");
    watching.kill().unwrap();
    watching.wait().unwrap();
}

/// While `quorum-watch exec` waits for quorum, no command is running that could receive the signal.
#[test]
#[ignore = "needs root and corosync: make test"]
fn a_signal_ends_the_wait_for_quorum() {
    let node = Node::single();
    node.corosync.expected_votes(3);
    let mut command = Command::new(program());
    command.args(["exec", "--", "echo", "ran"]).stdout(Stdio::piped());
    let waiting = node.run(|| command.spawn().unwrap());
    // `quorum-watch` installs its handlers before its first request.
    let pid = Pid::from_child(&waiting);
    let status = format!("/proc/{}/status", waiting.id());
    eventually("the handler is installed", || {
        let status = fs::read_to_string(&status).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
        (caught >> (Signal::TERM.as_raw() - 1) & 1 == 1).then_some(())
    });
    kill_process(pid, Signal::TERM).unwrap();
    let output = waiting.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stdout(&output)), (Some(143), String::new()));
}

/// `quorum-watch` exits with the exit code of the command, unless it has ended the command.
#[test]
#[ignore = "needs root and corosync: make test"]
fn a_command_runs_only_while_there_is_quorum() {
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

    // One command ends normally on TERM, the other one must be killed.
    for (shell, expected) in [
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
        assert_eq!(rest, expected);
        assert_eq!(code("--timeout 1", "exit 7"), Some(124), "the command is not started");
        node.corosync.expected_votes(1);
    }
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_blocked_standard_error_does_not_keep_the_command_running() {
    let node = Node::single();
    // Nobody reads the pipe, and it is full.
    let (_reader, writer) = pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    while (&writer).write(&[0; 4096]).is_ok() {}
    fcntl_setfl(&writer, flags).unwrap();
    let mut command = Command::new(program());
    let shell = "trap 'echo ends; exit' TERM; echo runs; while :; do sleep 0.02; done";
    command.args(["exec", "--", "sh", "-c", shell]).stdout(Stdio::piped()).stderr(writer);
    let mut running = node.run(|| command.spawn().unwrap());
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "runs");
    node.corosync.expected_votes(3);
    assert_eq!(lines.next().unwrap().unwrap(), "ends");
    assert_eq!(running.wait().unwrap().code(), Some(124));
}
