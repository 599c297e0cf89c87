//! Flips of quorum on a real Corosync, as they arrive at different clients.
//!
//! Each client is a process of its own. Two at a time are connected to the daemon: one in C that is
//! blocked in `quorum_dispatch`, and the one that is compared with it, so that each flip has a time
//! at which it came to the one and to the other. All take `CLOCK_MONOTONIC` in their handler, and
//! tell the times when all is over. They take turns, in blocks, on the same daemon.

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use actix::{Actor, Context, Handler, System};
use actix_quorum::{QuorumActor, QuorumChanged};
use parking_lot::Mutex;
use rust_corosync::{DispatchFlags, TrackFlags, quorum};
use serde_json::json;

use crate::{
    clock,
    report::Report,
    stats::Sample,
    support::{Config, Corosync, Flipper, Netns, command},
};

const BLOCKS: usize = 8;
const FLIPS: usize = 250;
/// Longer than it takes all to sleep again, and then so long that others have used the caches.
const GAPS: [Duration; 2] = [Duration::from_micros(300), Duration::from_millis(2)];
const BURST: usize = 20_000;

/// The clients, and what they are called.
const KINDS: [(&str, &str); 6] = [
    ("blocking", "another blocked C client"),
    ("epoll", "a C client on epoll"),
    ("handover", "a C client that hands over to another thread"),
    ("rust-corosync", "rust-corosync on a thread"),
    ("same", "a subscriber on the actor's arbiter"),
    ("other", "a subscriber on another arbiter"),
];

pub(crate) fn run(report: &mut Report) {
    let compiled = compile();
    let netns = Arc::new(Netns::new());
    let corosync = Corosync::new("n1", &netns, Config::default());
    corosync.start();
    corosync.wait_ready();
    netns.run(|| {
        for gap in GAPS {
            latency(report, &compiled, gap);
        }
        burst(report, &compiled);
    });
}

fn compile() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (directory.join("client.c"), directory.join("client"));
    std::fs::write(&source, include_str!("client.c")).expect("cargo has made the directory");
    let path = |path: &Path| path.to_str().expect("a plain path").to_owned();
    let (source, out) = (path(&source), path(&program));
    command("cc", &["-O2", "-Wall", "-Wextra", "-o", &out, &source, "-lquorum", "-pthread"]);
    program
}

fn latency(report: &mut Report, compiled: &Path, gap: Duration) {
    let every = format!("{gap:?} between flips");
    let flipper = Flipper::new();
    // By who connected first.
    let mut differences = vec![[Sample::default(), Sample::default()]; KINDS.len()];
    let mut latencies = vec![Sample::default(); KINDS.len()];
    let mut reference_latency = Sample::default();
    for block in 0..BLOCKS {
        for (index, (kind, _)) in KINDS.iter().enumerate() {
            // Who connects first is told first.
            let (reference, client) = if block % 2 == 0 {
                let reference = Client::start(compiled, "blocking");
                (reference, Client::start(compiled, kind))
            } else {
                let client = Client::start(compiled, kind);
                (Client::start(compiled, "blocking"), client)
            };
            thread::sleep(Duration::from_millis(100));
            let mut set_at = Vec::with_capacity(FLIPS);
            for flip in 0..FLIPS {
                thread::sleep(gap);
                set_at.push(clock::now());
                flipper.flip(flip % 2 == 1);
            }
            thread::sleep(Duration::from_millis(50));
            let (reference, client) = (reference.end().last(FLIPS), client.end().last(FLIPS));
            for ((set, (at, state)), (other, other_state)) in
                set_at.into_iter().zip(reference).zip(client)
            {
                assert_eq!(state, other_state, "the same flip");
                differences[index][block % 2].push((other as f64 - at as f64) / 1e3);
                latencies[index].push((other as f64 - set as f64) / 1e3);
                reference_latency.push((at as f64 - set as f64) / 1e3);
            }
        }
    }
    report.sample(format!("{every}: cmap_set to the blocked C client"), "us", &reference_latency);
    let [second, first] = [&differences[0][0], &differences[0][1]];
    report.sample(
        format!("{every}: of two blocked C clients, the second after the first"),
        "us",
        second,
    );
    report.sample(
        format!("{every}: of two blocked C clients, the first after the second"),
        "us",
        first,
    );
    let mut distributions = vec![json!({
        "name": "the blocked C client, from cmap_set", "values": reference_latency.sorted(),
    })];
    for (index, (kind, name)) in KINDS.iter().enumerate() {
        let latency = &latencies[index];
        let difference = &without_order(&differences[index], &differences[0]);
        report.sample(format!("{every}: cmap_set to {name}"), "us", latency);
        let (median, tail) = match *kind {
            "same" => (Some(10.0), None),
            "other" => (Some(25.0), Some(150.0)),
            _ => (None, None),
        };
        let row = format!("{every}: {name} after blocked C");
        match median {
            Some(budget) => report.budget(row, "us", difference, budget),
            None => report.sample(row, "us", difference),
        }
        let row = format!("{every}: {name} after blocked C, p99");
        report.value(row, "us", difference.quantile(0.99), tail);
        distributions.push(json!({ "name": name, "values": difference.sorted() }));
    }
    report.more(format!("distributions {every}"), distributions.into());
}

/// The differences without what it makes who is told first, for which two of the same kind differ
/// by.
fn without_order(differences: &[Sample; 2], same_kind: &[Sample; 2]) -> Sample {
    let orders = differences.iter().zip(same_kind);
    orders
        .flat_map(|(sample, same)| {
            let order = same.median();
            sample.sorted().into_iter().map(move |difference| difference - order)
        })
        .collect()
}

/// As fast as the daemon takes them.
fn burst(report: &mut Report, compiled: &Path) {
    let flipper = Flipper::new();
    let reference = Client::start(compiled, "blocking");
    let client = Client::start(compiled, "other");
    thread::sleep(Duration::from_millis(200));
    let start = clock::now();
    for flip in 0..BURST {
        flipper.flip(flip % 2 == 1);
    }
    let taken = clock::now() - start;
    // The last has arrived long before.
    thread::sleep(Duration::from_secs(1));
    let (reference, client) = (reference.end(), client.end());
    let count = |times: &Times| times.0.len() as f64 - 1.0;
    report.value("a burst: flips", "", BURST as f64, None);
    report.value("a burst: flips a second", "/s", BURST as f64 * 1e9 / taken as f64, None);
    report.value("a burst: flips that the C client saw", "", count(&reference), None);
    report.value("a burst: flips that our subscriber was told", "", count(&client), None);
    let account = client.account();
    report.value("a burst: changes that it was told as missed", "", account.missed as f64, None);
    // Of two flips told as one there is no flip to be seen: what counts is the changes.
    let lost = (BURST as f64 - account.changes as f64).max(0.0);
    report.value("a burst: flips lost", "", lost, Some(0.0));
    let wrong = account.wrong as f64;
    report.value("a burst: messages out of order, or after a gap", "", wrong, Some(0.0));
}

/// A client that runs.
struct Client(Child, BufReader<std::process::ChildStdout>);

impl Client {
    fn start(compiled: &Path, kind: &str) -> Self {
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

    fn end(mut self) -> Times {
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

/// When a client was told what.
struct Times(Vec<(u64, bool)>, Vec<u64>);

impl Times {
    #[track_caller]
    fn last(mut self, count: usize) -> Vec<(u64, bool)> {
        let first = self.0.len().checked_sub(count).expect("it was told of each flip");
        self.0.split_off(first)
    }

    fn account(&self) -> Account {
        Account { changes: self.1[1], missed: self.1[2], wrong: self.1[3] }
    }
}

/// What a subscriber of ours says besides.
struct Account {
    /// How many it was told, and told as missed, after the first.
    changes: u64,
    missed: u64,
    wrong: u64,
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
pub(crate) fn client(kind: &str) {
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
