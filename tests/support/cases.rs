//! Processes that end, each of which is one case of a test.

use std::{
    env,
    process::{Child, Command, ExitStatus},
    time::Duration,
};

use super::eventually_within;

/// One case: its name and the function that the process runs.
pub type Case = (&'static str, fn());

/// A process that ends with the test.
#[derive(Debug)]
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns a command that runs one case of the test with this path in this program.
pub fn case_command(test: &str, case: &str) -> Command {
    let mut command = Command::new(env::current_exe().expect("the test is running"));
    command.args(["--exact", test, "--nocapture"]).env(CASE, case);
    command
}

/// Runs the case for which this process was started. Returns in any other process.
pub fn run_case(cases: &[Case]) {
    if let Ok(name) = env::var(CASE) {
        let (_, case) = cases.iter().find(|(case, _)| *case == name).expect("the case exists");
        case();
        unreachable!("each case ends the process");
    }
}

/// Runs each case in its own process, unless this is such a process, and expects each to end.
#[track_caller]
pub fn run_cases(
    test: &str,
    cases: &[Case],
    bound: Duration,
    expected: impl Fn(ExitStatus) -> bool,
) {
    run_case(cases);
    for (case, _) in cases {
        let mut process = Process(case_command(test, case).spawn().unwrap());
        let what = format!("the process {case} ends");
        let status = eventually_within(bound, &what, || process.0.try_wait().unwrap());
        assert!(expected(status), "{case}: {status}");
    }
}

/// Whether a process has exited with this code.
pub fn with_code(code: i32) -> impl Fn(ExitStatus) -> bool {
    move |status| status.code() == Some(code)
}

const CASE: &str = "CASE";
