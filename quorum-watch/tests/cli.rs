//! The program as a script uses it, on a simulated cluster. `tests/it/daemon` has it on real daemons.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorum-watch"));
    command.arg("--simulate").args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn status_is_a_table_or_json() {
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(0));
    let text = said(&output);
    for line in ["quorum    quorate", "exclusive yes", "member    2 (n2), 1 vote, can be spared"] {
        assert!(text.lines().any(|said| said == line), "{line} in {text}");
    }
    assert!(!text.contains('\x1b'), "no colours where there is no terminal");
    let json = said(&run(&["status", "--json"]));
    let now: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&now["quorum"], &now["exclusive"]), (&"quorate".into(), &true.into()));
    assert_eq!(json.lines().count(), 1);
}

#[test]
fn wait_returns_once_there_is_quorum() {
    assert_eq!(run(&["wait", "--exclusive"]).status.code(), Some(0));
    assert_eq!(run(&["wait", "--timeout", "0"]).status.code(), Some(1), "there is none at once");
}

#[test]
fn exec_exits_as_its_command_does() {
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
    assert_eq!((output.status.code(), said(&output)), (Some(124), String::new()));
}

#[test]
fn bad_usage_is_no_state_of_quorum() {
    for arguments in [&["foo"][..], &["--foo"], &["wait", "--timeout", "x"], &["exec"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("--help"), "{told}");
    }
    assert_eq!(run(&["--help"]).status.code(), Some(0));
}

#[test]
fn the_manual_and_the_completions_know_every_command() {
    let manual = said(&run(&["man"]));
    let completions = said(&run(&["completions", "bash"]));
    for text in ["status", "watch", "wait", "exec"] {
        assert!(manual.contains(text) && completions.contains(text), "{text}");
    }
    assert!(manual.contains("124") && manual.starts_with(".ie"), "it is a page with exit codes");
}
