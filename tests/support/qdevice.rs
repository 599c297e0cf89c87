//! A quorum device: its server, `corosync-qnetd`, and its clients, `corosync-qdevice`.

use std::{
    fs::File,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use rustix::process::Signal;

use super::{Netns, TempDir, daemon::Daemon, leftovers::remove_shm_of};

/// How the device gives its votes when the nodes are separated (`corosync-qdevice(8)`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Algorithm {
    /// The device has one vote. It gives the vote to the largest partition or, in an even split, to
    /// one of the two halves.
    Ffsplit,
    /// The device has one vote less than there are nodes, so that the last node can continue alone.
    Lms,
}

/// The quorum device in `corosync.conf`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Device {
    pub algorithm: Algorithm,
    /// Whether the client sets `master_wins` (`corosync-qdevice(8)`).
    pub master_wins: bool,
    pub votes: u32,
    /// The address of `corosync-qnetd`.
    pub host: String,
    /// The time without a vote after which the device is considered dead, in milliseconds.
    pub timeout: u32,
    /// How long a new membership waits for the device's vote, in milliseconds.
    pub sync_timeout: u32,
}

impl Device {
    pub fn new(algorithm: Algorithm, nodes: u32, host: &str) -> Self {
        let votes = match algorithm {
            Algorithm::Ffsplit => 1,
            Algorithm::Lms => nodes - 1,
        };
        let (timeout, sync_timeout) = (4000, 8000);
        Self { algorithm, votes, host: host.to_owned(), timeout, sync_timeout, master_wins: false }
    }

    /// Returns the subsection of `quorum`.
    pub(super) fn render(&self) -> String {
        let Self { votes, host, timeout, sync_timeout, .. } = self;
        let algorithm = match self.algorithm {
            Algorithm::Ffsplit => "ffsplit",
            Algorithm::Lms => "lms",
        };
        format!(
            "device {{\n    model: net\n    votes: {votes}\n    timeout: {timeout}\n    \
             sync_timeout: {sync_timeout}\n    net {{\n      host: {host}\n      tls: off\n      \
             algorithm: {algorithm}\n    }}\n  }}"
        )
    }
}

/// The server of a quorum device, in its own network namespace.
///
/// Drop kills it; while panicking it prints its log.
#[derive(Debug)]
pub struct Qnetd {
    program: Program,
    netns: Arc<Netns>,
}

impl Qnetd {
    pub(super) fn new() -> Self {
        let netns = Arc::new(Netns::new());
        let command = "mkdir /run/corosync-qnetd && exec corosync-qnetd -f -s off";
        Self { program: Program::new("qnetd", &netns, command), netns }
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Starts the server, after [`kill`](Self::kill), without waiting for it.
    pub fn start(&self) {
        self.program.start();
    }

    /// Kills the server with SIGKILL and returns when it is reaped.
    pub fn kill(&self) {
        self.program.kill();
    }

    /// Suspends the server (SIGSTOP), as if it hung.
    pub fn pause(&self) {
        self.program.pause();
    }

    /// Resumes a paused server.
    pub fn resume(&self) {
        self.program.resume();
    }
}

/// The client of a quorum device that runs beside a node's daemon, and ends with the daemon.
///
/// Drop kills it; while panicking it prints its log.
#[derive(Debug)]
pub struct Qdevice(Program);

impl Qdevice {
    pub(super) fn new(id: u32, netns: &Arc<Netns>, master_wins: bool) -> Self {
        let command = if master_wins {
            "mkdir /run/corosync-qdevice && exec corosync-qdevice -f -S master_wins=on"
        } else {
            "mkdir /run/corosync-qdevice && exec corosync-qdevice -f"
        };
        Self(Program::new(&format!("qdevice of n{id}"), netns, command))
    }

    /// Starts the client, after [`kill`](Self::kill) or the daemon's end, without waiting for it.
    /// The daemon must accept clients.
    pub fn start(&self) {
        self.0.start();
    }

    /// Kills the client with SIGKILL and returns when it is reaped.
    pub fn kill(&self) {
        self.0.kill();
    }

    /// Suspends the client (SIGSTOP), as if it hung.
    pub fn pause(&self) {
        self.0.pause();
    }

    /// Resumes a paused client.
    pub fn resume(&self) {
        self.0.resume();
    }
}

/// A program in a network namespace, with its own `/run`.
#[derive(Debug)]
struct Program {
    name: String,
    netns: Arc<Netns>,
    /// The command, which a shell runs in its mount namespace.
    command: &'static str,
    directory: TempDir,
    daemon: Mutex<Option<Arc<Daemon>>>,
}

impl Program {
    fn new(name: &str, netns: &Arc<Netns>, command: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            netns: Arc::clone(netns),
            command,
            directory: TempDir::new(),
            daemon: Mutex::new(None),
        }
    }

    fn start(&self) {
        let mut daemon = self.daemon.lock().unwrap();
        let running = daemon.as_ref().is_some_and(|daemon| daemon.exit_status().is_none());
        assert!(!running, "{} is already running", self.name);

        let log = File::options().create(true).append(true).open(self.log_file());
        let log = log.expect("the directory is writable");
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c"])
            .arg(format!("mount -t tmpfs tmpfs /run && {}", self.command))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be duplicated"))
            .stderr(log);
        let (started, _) = Daemon::start(Arc::clone(&self.netns), command);
        *daemon = Some(started);
    }

    fn kill(&self) {
        self.daemon().signal(Signal::KILL);
        self.daemon().wait();
    }

    fn pause(&self) {
        self.daemon().pause();
    }

    fn resume(&self) {
        self.daemon().signal(Signal::CONT);
    }

    fn daemon(&self) -> Arc<Daemon> {
        let daemon = self.daemon.lock().unwrap();
        Arc::clone(daemon.as_ref().unwrap_or_else(|| panic!("{} was never started", self.name)))
    }

    fn log_file(&self) -> std::path::PathBuf {
        self.directory.path().join("log")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.lock().unwrap().take() {
            daemon.signal(Signal::KILL);
            daemon.wait();
            remove_shm_of(daemon.pid);
        }
        if std::thread::panicking() {
            let log = std::fs::read(self.log_file()).unwrap_or_default();
            eprintln!("---- log of {} ----\n{}----", self.name, String::from_utf8_lossy(&log));
        }
    }
}
