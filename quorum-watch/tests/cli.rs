//! The program as a script uses it, on a simulated cluster. `tests/it/daemon` tests it on real
//! daemons.

use std::{
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStdout, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorum-watch"));
    command.arg("--simulate").args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

/// The running program and its output. The program is killed at the end of the test.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut child = command(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Returns the lines up to the first one that contains `text`.
    fn until(&mut self, text: &str) -> Vec<String> {
        let mut seen = Vec::new();
        while !seen.last().is_some_and(|line: &String| line.contains(text)) {
            let line = self.lines.next();
            let line =
                line.unwrap_or_else(|| panic!("quorum-watch ended before it printed {text:?}"));
            seen.push(line.unwrap());
        }
        seen
    }

    /// Sends a signal. Returns the exit code and the remaining output.
    fn end(&mut self, signal: Signal) -> (Option<i32>, Vec<String>) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
        let rest = self.lines.by_ref().map(Result::unwrap).collect();
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn status_is_printed_as_a_table_or_as_json() {
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    for line in [
        "provider  corosync_votequorum",
        "nodes     3",
        "quorum    quorate",
        "exclusive yes",
        "member    2 (n2), 1 vote, can be spared",
    ] {
        assert!(text.lines().any(|shown| shown == line), "the line {line:?} is missing: {text}");
    }
    assert!(!text.contains('\x1b'), "no colours without a terminal");
    let json = stdout(&run(&["status", "--json"]));
    let now: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&now["quorum"], &now["exclusive"]), (&"quorate".into(), &true.into()));
    assert_eq!(now["can_be_spared"], Value::from([1, 2, 3]));
    assert!(now["fencing_token"].is_u64(), "{json}");
    assert_eq!(json.lines().count(), 1);
}

#[test]
fn watch_prints_one_line_for_each_change_until_a_signal_arrives() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut watch = Running::start(&["watch"]);
        let lines = watch.until(" quorate: ring ");
        for line in &lines {
            let (when, text) = line.split_once(' ').unwrap();
            assert!(when.starts_with("20") && when.ends_with('Z'), "{line}");
            assert!(text.starts_with("unknown: ") || text.starts_with("quorate: "), "{line}");
        }
        assert_eq!(watch.end(signal).0, Some(0));
    }
    let mut watch = Running::start(&["watch", "--json"]);
    let lines = watch.until("\"quorum\":\"quorate\"");
    let objects: Vec<Value> =
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (first, last) = (&objects[0], objects.last().unwrap());
    assert_eq!(first["cause"], "subscribed");
    assert!(last["text"].as_str().unwrap().starts_with("quorate: ring "), "{last}");
    assert_eq!((&last["missed"], &last["left"]), (&0.into(), &Value::Array(Vec::new())));
    assert!(objects.is_sorted_by_key(|object| object["sequence"].as_u64()));
    assert_eq!(watch.end(Signal::TERM).0, Some(0));
}

#[test]
fn exec_forwards_signals_and_returns_the_exit_code_of_the_command() {
    let shell = "for s in INT TERM HUP; do trap \"echo got $s; exit 3\" $s; done
        echo runs; while :; do sleep 0.02; done";
    for (signal, got) in
        [(Signal::INT, "got INT"), (Signal::TERM, "got TERM"), (Signal::HUP, "got HUP")]
    {
        let mut exec = Running::start(&["exec", "--", "sh", "-c", shell]);
        exec.until("runs");
        assert_eq!(exec.end(signal), (Some(3), vec![got.to_owned()]));
    }
    // The first command does not handle the signal. The second ignores it, and is killed.
    for (shell, code) in [
        ("echo runs; exec sleep 3600", 143),
        ("trap '' TERM; echo runs; while :; do sleep 0.02; done", 137),
    ] {
        let mut exec = Running::start(&["exec", "--grace", "1", "--", "sh", "-c", shell]);
        exec.until("runs");
        kill_process(Pid::from_child(&exec.child), Signal::TERM).unwrap();
        assert_eq!(exec.child.wait().unwrap().code(), Some(code), "the exit code of {shell}");
    }
}

#[test]
fn wait_returns_once_there_is_quorum() {
    assert_eq!(run(&["wait", "--exclusive"]).status.code(), Some(0));
    assert_eq!(run(&["wait", "--timeout", "0"]).status.code(), Some(1), "there is no quorum yet");
}

#[test]
fn exec_exits_with_the_exit_code_of_its_command() {
    for (command, code) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["/dev/null"], 126),
        (&["no-such-program"], 127),
    ] {
        let output = run(&[&["exec", "--exclusive", "--"], command].concat());
        assert_eq!(output.status.code(), Some(code), "{command:?}: {output:?}");
    }
    let output = run(&["exec", "--timeout", "0", "--", "echo", "ran"]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(124), String::new()));
}

#[test]
fn invalid_arguments_have_their_own_exit_code() {
    for arguments in [&["foo"][..], &["--foo"], &["wait", "--timeout", "x"], &["exec"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains("--help"), "{errors}");
    }
    assert_eq!(run(&["--help"]).status.code(), Some(0));
}

#[test]
fn the_manual_and_the_completions_contain_every_command() {
    let manual = stdout(&run(&["man"]));
    let completions = stdout(&run(&["completions", "bash"]));
    for text in ["status", "watch", "wait", "exec"] {
        assert!(manual.contains(text) && completions.contains(text), "{text} is missing");
    }
    assert!(
        manual.contains("124") && manual.starts_with(".ie"),
        "the output is a manual page with the exit codes"
    );
    for option in ["exclusive", "timeout", "grace", "json"] {
        assert!(
            manual.contains(&format!("\\-\\-{option}")),
            "the option {option} is missing: {manual}"
        );
    }
    assert!(!manual.contains("watch\\-exec(1)"), "all commands are on one page");
}
