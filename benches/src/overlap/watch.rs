//! The clients on every node. Each is its own process.

use std::{
    env,
    fmt::Write,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use crate::{
    support::{Cluster, Node, command},
    timeline::{EXCLUSIVE, QUORATE, Timeline},
};

/// The clients of all nodes, and their reports.
pub(crate) struct Watch {
    nodes: Vec<Arc<Mutex<Timeline>>>,
    clients: Vec<Child>,
}

impl Watch {
    /// Starts the clients on all nodes.
    pub(crate) fn start(cluster: &Cluster) -> Self {
        let compiled = compile();
        let mut watch = Self { nodes: Vec::new(), clients: Vec::new() };
        for node in cluster.nodes() {
            let timeline = Arc::default();
            let this = env::current_exe().expect("the program exists");
            // The clients in C have a real-time priority, as Corosync has.
            for client in ["quorum", "counters"] {
                let mut command = Command::new("chrt");
                command.args(["--rr", "1"]).arg(&compiled).arg(client);
                watch.clients.push(start(node, command, &timeline));
            }
            let mut command = Command::new(this);
            command.arg("reading");
            watch.clients.push(start(node, command, &timeline));
            watch.nodes.push(timeline);
        }
        watch
    }

    /// Returns the reports on this node so far.
    pub(crate) fn node(&self, id: u32) -> Timeline {
        self.lock(id as usize - 1).clone()
    }

    /// Whether every node is quorate in one ring of all nodes, and each reading of a handle is
    /// true.
    pub(crate) fn all_formed(&self) -> bool {
        let timelines = || (0..self.nodes.len()).map(|index| self.lock(index));
        let ring = self.lock(0).ring.last().cloned();
        let is_whole = ring.as_ref().is_some_and(|ring| ring.members.len() == self.nodes.len());
        is_whole
            && timelines().all(|timeline| {
                let members = ring.as_ref().map(|ring| (true, ring.members.clone()));
                timeline.ring.last() == ring.as_ref()
                    && timeline.decisions.last() == members.as_ref()
                    && [QUORATE, EXCLUSIVE].into_iter().all(|reading| {
                        !timeline.exists(reading) || timeline.is_true(reading, u64::MAX)
                    })
            })
    }

    /// Removes all reports but the last one of each kind.
    pub(crate) fn forget_old(&self) {
        (0..self.nodes.len()).for_each(|index| self.lock(index).forget_old());
    }

    /// Returns all reports in order, with their times in seconds after `began`.
    pub(crate) fn log(&self, began: u64) -> String {
        let mut lines = Vec::new();
        for index in 0..self.nodes.len() {
            for (at, line) in &self.lock(index).lines {
                let seconds = (*at as f64 - began as f64) / 1e9;
                lines.push((*at, format!("{seconds:9.4} n{} {line}", index + 1)));
            }
        }
        lines.sort();
        lines.iter().fold(String::new(), |mut log, (_, line)| {
            writeln!(log, "{line}").expect("a string can be written");
            log
        })
    }

    fn lock(&self, index: usize) -> MutexGuard<'_, Timeline> {
        self.nodes[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // A client exits when its standard input ends.
        for client in &mut self.clients {
            drop(client.stdin.take());
            let _ = client.wait();
        }
    }
}

/// Starts a client on the node and adds the lines that it prints to the timeline.
fn start(node: &Node, mut command: Command, timeline: &Arc<Mutex<Timeline>>) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = node.run(|| command.spawn()).expect("the client can be run");
    let lines = BufReader::new(child.stdout.take().expect("the output is piped")).lines();
    let timeline = Arc::clone(timeline);
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            timeline.lock().unwrap_or_else(PoisonError::into_inner).add(&line);
        }
    });
    child
}

/// Compiles the clients in C and returns their path.
fn compile() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (directory.join("overlap.c"), directory.join("overlap"));
    std::fs::write(&source, include_str!("client.c")).expect("cargo has made the directory");
    let path = |path: &Path| path.to_str().expect("a plain path").to_owned();
    let (source, out) = (path(&source), path(&program));
    let flags = ["-O2", "-Wall", "-Wextra", "-o", &out, &source, "-lquorum", "-lcmap", "-pthread"];
    command("cc", &flags);
    program
}
