//! Prometheus's own tool.

use std::{
    io::Write,
    process::{Command, Stdio},
};

/// Runs promtool, which must succeed without a warning.
#[track_caller]
pub fn promtool(arguments: &[&str], input: &str) {
    let mut promtool = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool can be run: scripts/install-test-deps");
    promtool.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let [printed, errors] = [output.stdout, output.stderr].map(|o| String::from_utf8(o).unwrap());
    assert!(output.status.success() && errors.is_empty(), "{printed}{errors}\n{input}");
}
