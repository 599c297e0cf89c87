//! The examples, run as in the documentation.

use std::{
    env,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Once, mpsc},
    thread,
};

use super::{DEADLINE, Netns, command, report::features};

/// A program, killed on drop.
#[derive(Debug)]
pub struct Running {
    /// The child process. Each wrapper replaces itself with the next program, so this is the
    /// program's own process once it has printed something.
    pub child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    /// Runs an example with these arguments, in a network namespace if there is one.
    #[track_caller]
    pub fn example(netns: Option<&Netns>, name: &str, arguments: &str) -> Self {
        let program = example(name);
        let mut command = match netns {
            Some(netns) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", netns.name()]).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.args(arguments.split_whitespace());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let prints = BufReader::new(child.stdout.take().unwrap()).lines();
        let (send, lines) = mpsc::channel();
        thread::spawn(move || {
            // The test may have ended.
            prints.map_while(Result::ok).try_for_each(|line| send.send(line))
        });
        Self { child, lines }
    }

    /// Reads lines up to one that contains `text`.
    #[track_caller]
    pub fn until(&mut self, text: &str) -> String {
        self.until_line(text, |line| line.contains(text))
    }

    /// Reads lines up to one that starts with `text`.
    #[track_caller]
    pub fn until_start(&mut self, text: &str) -> String {
        self.until_line(text, |line| line.starts_with(text))
    }

    #[track_caller]
    fn until_line(&mut self, text: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(DEADLINE) {
                Ok(line) if wanted(&line) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("{error} before {text:?}: {seen:#?}"),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the path of an example, after building it.
#[track_caller]
pub fn example(name: &str) -> PathBuf {
    built().join("examples").join(name)
}

/// Returns the path of a program of the workspace, after building it.
#[track_caller]
pub fn binary(name: &str) -> PathBuf {
    built().join(name)
}

/// Returns the build directory of this test, which also contains the programs.
///
/// After `make test` has built the programs with the same features, Cargo builds nothing here.
#[track_caller]
fn built() -> PathBuf {
    static BUILT: Once = Once::new();

    BUILT.call_once(|| {
        let features = features();
        let all = ["build", "--quiet", "--workspace", "--exclude", "actix-quorum-benches"];
        let kinds = ["--bins", "--examples", "--features", &features];
        command(env!("CARGO"), &[&all[..], &kinds[..]].concat());
    });
    let test = env::current_exe().expect("the test is running");
    test.ancestors().nth(2).expect("the test is in target/debug/deps").to_owned()
}
