//! The examples, run as the documentation says.

use std::{
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStdout, Command, Stdio},
};

use super::Netns;

/// A program, killed on drop.
#[derive(Debug)]
pub struct Running {
    /// Each program on the way replaced itself by the next, so this is the program's own process
    /// once it has printed something.
    pub child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// `cargo run` with these arguments, in a network namespace if there is one.
    #[track_caller]
    pub fn cargo_run(netns: Option<&Netns>, arguments: &str) -> Self {
        let mut command = match netns {
            Some(netns) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", netns.name(), env!("CARGO")]);
                command
            }
            None => Command::new(env!("CARGO")),
        };
        command.args(["run", "--quiet"]).args(arguments.split(' '));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
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
        for line in &mut self.lines {
            seen.push(line.unwrap());
            if wanted(seen.last().unwrap()) {
                return seen.pop().unwrap();
            }
        }
        panic!("it ended without {text:?}: {seen:#?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
