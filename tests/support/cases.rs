//! Processes that end, of which each is one case of a test.

use std::{
    env,
    process::{Child, Command, ExitStatus},
    time::Duration,
};

use super::eventually_within;

/// What a process does: the name of the case and what it is made of.
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

/// This program again, for one case of a test, given by its path.
pub fn case_command(test: &str, case: &str) -> Command {
    let mut command = Command::new(env::current_exe().expect("it is running"));
    command.args(["--exact", test, "--nocapture"]).env(CASE, case);
    command
}

/// Runs the case that this process was made for, if it was made for one. Returns otherwise.
pub fn run_case(cases: &[Case]) {
    if let Ok(name) = env::var(CASE) {
        let (_, case) = cases.iter().find(|(case, _)| *case == name).expect("there is such a case");
        case();
        unreachable!("each case ends the process");
    }
}

/// Runs each case in a process of its own, if this is not one of them, and expects each to end.
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
