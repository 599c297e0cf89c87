//! Clients of a daemon, each a process of its own, that note when they were told what.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
};

use actix::{Actor, Context, Handler, System};
use actix_quorum::{QuorumActor, QuorumChanged};
use parking_lot::Mutex;
use rust_corosync::{DispatchFlags, TrackFlags, quorum};

use crate::{clock, support::command};

/// Compiles the client in C.
pub(crate) fn compile() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (directory.join("client.c"), directory.join("client"));
    std::fs::write(&source, include_str!("client.c")).expect("cargo has made the directory");
    let path = |path: &Path| path.to_str().expect("a plain path").to_owned();
    let (source, out) = (path(&source), path(&program));
    command("cc", &["-O2", "-Wall", "-Wextra", "-o", &out, &source, "-lquorum", "-pthread"]);
    program
}

/// A client that runs.
pub(crate) struct Client(Child, BufReader<ChildStdout>);

impl Client {
    /// Starts one of that kind, `same` or `other` of ours, and returns when it was told the state.
    pub(crate) fn start(compiled: &Path, kind: &str) -> Self {
        let mut command = match kind {
            "blocking" | "epoll" | "handover" => {
                let mut command = Command::new(compiled);
                command.arg(kind);
                command
            }
            _ => {
                let mut command = Command::new(env::current_exe().expect("it runs"));
                command.args(["client", kind]);
                command
            }
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the client can be run");
        let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("it says that it is ready");
        assert_eq!(line, "ready\n", "the client {kind}");
        Self(child, output)
    }

    /// The nanoseconds that its main thread has run.
    pub(crate) fn main_thread_time(&self) -> u64 {
        let pid = self.0.id();
        run_time(Path::new(&format!("/proc/{pid}/task/{pid}")))
    }

    /// The nanoseconds that all its threads have run.
    pub(crate) fn time(&self) -> u64 {
        let threads = fs::read_dir(format!("/proc/{}/task", self.0.id())).expect("it runs");
        threads.flatten().map(|thread| run_time(&thread.path())).sum()
    }

    /// What it takes of memory by itself, and its part of what it shares, in KiB.
    pub(crate) fn memory(&self) -> f64 {
        let path = format!("/proc/{}/smaps_rollup", self.0.id());
        let text = fs::read_to_string(path).expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("it is there");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    pub(crate) fn end(mut self) -> Times {
        drop(self.0.stdin.take());
        let mut bytes = Vec::new();
        self.1.read_to_end(&mut bytes).expect("it tells");
        self.0.wait().expect("it ends");
        let words = bytes.as_chunks::<8>().0.iter().copied().map(u64::from_le_bytes);
        let mut parts = words.collect::<Vec<_>>();
        let end = parts.iter().position(|word| *word == END).unwrap_or(parts.len());
        let account = parts.split_off(end);
        Times(parts.into_iter().map(|word| (word / 2, word % 2 == 1)).collect(), account)
    }
}

fn run_time(thread: &Path) -> u64 {
    let text = fs::read_to_string(thread.join("schedstat")).expect("the kernel counts");
    text.split_whitespace().next().and_then(|time| time.parse().ok()).expect("a number")
}

/// When a client was told what.
pub(crate) struct Times(Vec<(u64, bool)>, Vec<u64>);

impl Times {
    #[track_caller]
    pub(crate) fn last(mut self, count: usize) -> Vec<(u64, bool)> {
        let first = self.0.len().checked_sub(count).expect("it was told of each flip");
        self.0.split_off(first)
    }

    /// How often it was told of quorum.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn account(&self) -> Account {
        Account { changes: self.1[1], missed: self.1[2], wrong: self.1[3] }
    }
}

/// What a subscriber of ours says besides.
pub(crate) struct Account {
    /// How many it was told, and told as missed, after the first.
    pub(crate) changes: u64,
    pub(crate) missed: u64,
    pub(crate) wrong: u64,
}

/// Behind the times.
const END: u64 = u64::MAX;

#[derive(Debug)]
struct Taken {
    times: Vec<u64>,
    last: Option<u64>,
    changes: u64,
    missed: u64,
    wrong: u64,
}

static TAKEN: Mutex<Taken> =
    Mutex::new(Taken { times: Vec::new(), last: None, changes: 0, missed: 0, wrong: 0 });

/// Notes that a client was told just now.
fn take(quorate: bool) {
    let now = clock::now();
    let mut taken = TAKEN.lock();
    taken.times.push(now * 2 + u64::from(quorate));
    if taken.times.len() == 1 {
        println!("ready");
    }
}

/// The work of a client's process.
pub(crate) fn run(kind: &str) {
    TAKEN.lock().times.reserve(1_000_000);
    thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let taken = TAKEN.lock();
        let words =
            taken.times.iter().copied().chain([END, taken.changes, taken.missed, taken.wrong]);
        let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        let written = std::io::stdout().lock().write_all(&bytes);
        std::process::exit(i32::from(written.is_err()));
    });
    match kind {
        "rust-corosync" => rust_corosync(),
        _ => subscriber(kind == "same"),
    }
}

fn rust_corosync() {
    let model = quorum::ModelData::ModelV1(quorum::Model1Data {
        flags: quorum::Model1Flags::None,
        quorum_notification_fn: Some(|_, quorate, _, _| take(quorate)),
        nodelist_notification_fn: Some(|_, _, _, _, _| {}),
    });
    let connect = || -> Result<(), rust_corosync::CsError> {
        let (handle, _) = quorum::initialize(&model, 0)?;
        quorum::trackstart(&handle, TrackFlags::Changes)?;
        quorum::dispatch(&handle, DispatchFlags::Blocking)
    };
    panic!("it ended: {:?}", connect());
}

fn subscriber(same_arbiter: bool) {
    let runner = System::new();
    let _quorum = runner.block_on(async move {
        let builder = QuorumActor::builder().subscribe(Subscriber.start().recipient());
        if same_arbiter {
            builder.start_in_arbiter(System::current().arbiter())
        } else {
            builder.start()
        }
    });
    runner.run().expect("it runs");
}

struct Subscriber;

impl Actor for Subscriber {
    type Context = Context<Self>;
}

impl Handler<QuorumChanged> for Subscriber {
    type Result = ();

    fn handle(&mut self, change: QuorumChanged, _: &mut Self::Context) {
        if change.is_gain() || change.is_loss() {
            take(change.current.quorum.is_quorate());
        }
        let mut taken = TAKEN.lock();
        let (before, now) = (change.previous.sequence, change.current.sequence);
        let follows =
            taken.last.is_none_or(|last| last == before) && now == before + 1 + change.missed;
        taken.wrong += u64::from(taken.last.is_some() && !follows);
        if taken.last.is_some() {
            taken.changes += 1 + change.missed;
        }
        taken.missed += change.missed;
        taken.last = Some(now);
    }
}
