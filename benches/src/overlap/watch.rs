//! The clients on every node, each a process of its own.

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

pub(crate) struct Watch {
    nodes: Vec<Arc<Mutex<Timeline>>>,
    clients: Vec<Child>,
}

impl Watch {
    pub(crate) fn start(cluster: &Cluster) -> Self {
        let compiled = compile();
        let mut watch = Self { nodes: Vec::new(), clients: Vec::new() };
        for node in cluster.nodes() {
            let timeline = Arc::default();
            let this = env::current_exe().expect("it runs");
            // Those in C get a processor before others, as Corosync asks for itself.
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

    /// What was reported on the node so far.
    pub(crate) fn node(&self, id: u32) -> Timeline {
        self.lock(id as usize - 1).clone()
    }

    /// Whether every node is in one ring with all, decided, and believed by each reading of a handle.
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
                        !timeline.exists(reading) || timeline.believed(reading, u64::MAX)
                    })
            })
    }

    /// Forgets all but the last that was reported.
    pub(crate) fn forget_old(&self) {
        (0..self.nodes.len()).for_each(|index| self.lock(index).forget_old());
    }

    /// Everything that was reported, in order, in seconds after `began`.
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
            writeln!(log, "{line}").expect("a string takes it");
            log
        })
    }

    fn lock(&self, index: usize) -> MutexGuard<'_, Timeline> {
        self.nodes[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Their standard input ends, and so do they.
        for client in &mut self.clients {
            drop(client.stdin.take());
            let _ = client.wait();
        }
    }
}

/// Starts a client on the node, and has what it prints taken into the timeline.
fn start(node: &Node, mut command: Command, timeline: &Arc<Mutex<Timeline>>) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = node.run(|| command.spawn()).expect("the client can be run");
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let timeline = Arc::clone(timeline);
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            timeline.lock().unwrap_or_else(PoisonError::into_inner).take(&line);
        }
    });
    child
}

/// Compiles the clients in C.
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
