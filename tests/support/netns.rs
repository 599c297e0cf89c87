//! A network namespace.

use std::{
    fs::File,
    io::Write,
    os::fd::AsFd,
    process::{Command, Stdio},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{
    command,
    leftovers::{remove_netns, unique_name},
    on_fresh_thread,
};

/// A network namespace with `lo` up. Drop kills every process in it and deletes it.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
}

impl Netns {
    pub fn new() -> Self {
        let name = unique_name();
        command("ip", &["netns", "add", &name]);
        let file = File::open(format!("/run/netns/{name}")).expect("ip has just made it");
        let netns = Self { name, file };
        netns.ip("link set lo up");
        netns
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Moves the calling thread, and the threads and processes that it will start, into the
    /// namespace permanently.
    pub fn enter(&self) {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("root may enter a network namespace");
    }

    /// Runs `f` on a new thread inside the namespace. A panic in it continues in the caller.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        on_fresh_thread(|| {
            self.enter();
            f()
        })
    }

    /// Runs `ip` commands, one per line, in the namespace.
    #[track_caller]
    pub fn ip(&self, lines: &str) {
        feed(Command::new("ip").args(["-n", &self.name, "-batch", "-"]), lines);
    }

    /// Runs `nft` commands, one per line, in the namespace. Either all of them take effect
    /// together, or none.
    #[track_caller]
    pub fn nft(&self, lines: &str) {
        feed(Command::new("ip").args(["netns", "exec", &self.name, "nft", "-f", "-"]), lines);
    }
}

/// Runs a program with this standard input. Panics unless it succeeds.
#[track_caller]
fn feed(command: &mut Command, lines: &str) {
    let mut child = command
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let written = child.stdin.take().expect("the input is piped").write_all(lines.as_bytes());
    let output = child.wait_with_output().expect("the process is our child");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(written.is_ok() && output.status.success(), "{command:?}: {lines}\n{errors}");
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove_netns(&self.name);
    }
}
