//! Tests that run in their own process.

use std::{
    env,
    io::{BufRead, BufReader, pipe},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use rustix::process::{Signal, set_parent_process_death_signal};

/// Runs the test in its own process. The code after the macro runs only in that process. The test
/// in this process passes if the test in that process passes.
macro_rules! own_process {
    () => {
        fn here() {}
        if $crate::support::is_run_elsewhere(std::any::type_name_of_val(&here)) {
            return;
        }
    };
}

/// Returns `false` in the test's own process. Elsewhere it starts that process, and returns `true`
/// when the test has passed in it. `within` is the path of a function in the test.
#[track_caller]
pub fn is_run_elsewhere(within: &str) -> bool {
    // Removes the name of the program and of the function.
    let (_, path) = within.split_once("::").expect("a path begins with the program");
    let (test, _) = path.rsplit_once("::").expect("a path ends with the function");
    if env::var_os(MARK).is_some_and(|mark| mark == test) {
        return false;
    }
    let (output, writer) = pipe().expect("a pipe can be made");
    let mut command = Command::new(env::current_exe().expect("the test is running"));
    command
        .args(["--exact", test, "--include-ignored", "--nocapture", "--test-threads=1"])
        .env(MARK, test)
        .stdin(Stdio::null())
        .stdout(writer.try_clone().expect("a pipe can be duplicated"))
        .stderr(writer);
    // If this process is killed, the child is too: the signal is tied to this thread. SAFETY:
    // `prctl` is a plain system call, allowed between fork and exec.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    let mut child = command.spawn().expect("this program can be run again");
    // Closes our ends of the pipe.
    drop(command);
    let mut has_run = false;
    for line in BufReader::new(output).split(b'\n') {
        let line = line.expect("a pipe can be read");
        let line = String::from_utf8_lossy(&line);
        has_run |= line.starts_with("test result: ok. 1 passed");
        println!("{line}");
    }
    let status = child.wait().expect("the process is our child");
    let passed = status.success() && has_run;
    assert!(passed, "{test} failed in a process of its own ({status}), which printed the above");
    true
}

/// Returns the test for which this process was started, if it was.
pub(super) fn own_test() -> Option<String> {
    env::var(MARK).ok()
}

const MARK: &str = "TEST_IN_ITS_OWN_PROCESS";
