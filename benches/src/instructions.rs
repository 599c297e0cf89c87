//! Counts the instructions of the hot paths with callgrind and compares them with stored counts.
//!
//! `cargo bench -p actix-quorum-benches --bench instructions` fails if a path exceeds its stored
//! count by more than a few per cent; `-- --store` stores the current counts. Unlike times, counts
//! are the same on a busy machine. Each path runs a number of times and then a larger number of
//! times. The difference does not include the start and the end of the process.
//!
//! The actor connects through a libquorum that follows a script. So a flip is the path of one
//! notification from `quorum_dispatch` to the subscriber's handler, without a daemon and without a
//! simulated cluster. The library needs a C compiler, and no Corosync may be running in the network
//! namespace.

#![allow(missing_docs)]

#[allow(unexpected_cfgs, reason = "the features are those of the library")]
#[path = "../../tests/support/mod.rs"]
mod support;

use std::{
    collections::BTreeMap,
    env, fs,
    hint::black_box,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use actix::{Actor, Context, Handler, System};
use actix_quorum::{
    Cause, NodeId, Quorum, QuorumActor, QuorumChanged, QuorumHandle, RingId, Snapshot,
    testing::ScriptedQuorum, web::QuorumGate,
};
use actix_web::{App, HttpResponse, dev::Service, test, web};
use support::{Fake, fake_source};
use tokio::sync::mpsc;

/// Returns the accepted increase, in per cent. A flip varies more on a busy machine, because ticks
/// and probes between the flips depend on time.
fn tolerance(path: &str) -> f64 {
    if path == "flip" { 10.0 } else { 4.0 }
}

/// Returns the number of runs of a path in the two measurements whose difference is taken.
fn runs(path: &str) -> [u32; 2] {
    match path {
        "is_quorate" => [20_000, 60_000],
        "gate" | "no gate" => [1_000, 5_000],
        "subscriber" => [200, 600],
        _ => [1_000, 3_000],
    }
}

const SUBSCRIBERS: u32 = 100;

/// The paths. The count of the second path, which is a part of the first one, is subtracted.
const PATHS: [(&str, Option<&str>); 4] = [
    ("is_quorate", None),
    ("flip", Some("script")),
    ("subscriber", Some("flip")),
    ("gate", Some("no gate")),
];

fn main() -> ExitCode {
    let arguments: Vec<String> =
        env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["run", path, runs] => {
            run(path, runs.parse().expect("a number"));
            ExitCode::SUCCESS
        }
        ["--store"] => {
            let counts = count_all();
            let lines: String =
                counts.iter().map(|(path, count)| format!("{path}: {count:.0}\n")).collect();
            fs::write(stored(), lines).expect("the repository can be written");
            ExitCode::SUCCESS
        }
        _ => compare(&count_all()),
    }
}

/// Returns the path of the stored counts.
fn stored() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.txt")
}

/// Prints the counts beside the stored ones. Fails if one is larger than the tolerance allows.
fn compare(counts: &BTreeMap<&str, f64>) -> ExitCode {
    let text = fs::read_to_string(stored()).expect("the counts are in the repository");
    let before: BTreeMap<&str, f64> = text
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(path, count)| (path, count.parse().expect("a count")))
        .collect();
    let mut worse = false;
    for (path, count) in counts {
        let before = before.get(path).copied().unwrap_or(f64::NAN);
        let change = (count / before - 1.0) * 100.0;
        let fails = change.is_nan() || change > tolerance(path);
        worse |= fails;
        let verdict = if fails { "FAIL" } else { "pass" };
        println!(
            "{verdict} {path:12} {count:8.0} instructions, stored {before:.0} ({change:+.1} %)"
        );
    }
    if worse {
        eprintln!("more instructions than stored; after an intended change: -- --store");
    }
    ExitCode::from(u8::from(worse))
}

fn count_all() -> BTreeMap<&'static str, f64> {
    // Compiled here, so that no counted process runs the compiler.
    drop(Fake::new("instructions"));
    PATHS
        .iter()
        .map(|(path, part)| {
            let count = each(path) - part.map_or(0.0, each);
            (*path, if *path == "subscriber" { count / f64::from(SUBSCRIBERS) } else { count })
        })
        .collect()
}

/// Returns the instructions of one run of a path.
fn each(path: &str) -> f64 {
    let [(few, first), (many, then)] = runs(path).map(|runs| callgrind(path, runs));
    (many - few) / (then - first)
}

/// Runs a path a number of times in its own process. Returns the instructions of its main thread,
/// where the actor and the subscribers run, and the number of runs or, if it is larger, of changes.
/// What the other threads do depends on time.
fn callgrind(path: &str, runs: u32) -> (f64, f64) {
    let profile = Path::new(env!("CARGO_TARGET_TMPDIR")).join("instructions.callgrind");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--separate-threads=yes"])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(env::current_exe().expect("the program exists"))
        .args(["run", path, &runs.to_string()])
        .output()
        .expect("valgrind is installed");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{path}: {text}");
    let main_thread = fs::read_to_string(format!("{}-01", profile.display()))
        .expect("callgrind writes a profile for each thread");
    let mut lines = main_thread.lines();
    let count = lines.find_map(|line| line.strip_prefix("totals: ")?.parse().ok());
    let runs = String::from_utf8_lossy(&output.stdout).trim().parse();
    (count.expect("the profile has a total"), runs.expect("a number"))
}

/// Runs a path a number of times on one thread, and prints the number of runs or changes.
fn run(path: &str, runs: u32) {
    let counted = System::new().block_on(async {
        match path {
            "is_quorate" => {
                let quorum = scripted_quorum();
                for _ in 0..runs {
                    black_box(quorum.is_quorate());
                }
                runs.into()
            }
            "gate" => requests(Some(scripted_quorum()), runs).await,
            "no gate" => requests(None, runs).await,
            "script" => {
                let fake = Fake::new("instructions");
                (0..runs).for_each(|run| flip(&fake, run));
                runs.into()
            }
            "flip" => flips(1, runs).await,
            "subscriber" => flips(1 + SUBSCRIBERS, runs).await,
            _ => panic!("no such path: {path}"),
        }
    });
    println!("{counted}");
}

/// Returns a handle without an actor, whose work would depend on time.
fn scripted_quorum() -> QuorumHandle {
    let ring_id = RingId { node_id: NodeId(1), seq: RING };
    ScriptedQuorum::new(Snapshot::new(Quorum::Quorate, ring_id, [1, 2, 3])).handle()
}

/// The sequence of the only ring.
const RING: u64 = 9;

/// Queues the notification of a loss or of a gain.
fn flip(fake: &Fake, run: u32) {
    fake.push(run % 2 == 1, RING);
}

/// Flips quorum, each time until all subscribers have handled the change. Returns the number of
/// flips or, if it is larger, of changes.
async fn flips(subscribers: u32, runs: u32) -> u64 {
    let fake = Fake::new("instructions");
    fake.push_both(true, RING);
    let builder = QuorumActor::builder().lease(Duration::from_secs(3600)).server_uid(None);
    let quorum = fake_source(builder, fake.path()).start_in_arbiter(System::current().arbiter());
    quorum.wait_quorate().await.expect("the actor runs");
    // The next probe is not answered, so no further probe follows. The number of probes would
    // depend on time.
    fake.block("quorum_getquorate");
    let before = quorum.snapshot().sequence;
    let (sender, mut handled) = mpsc::unbounded_channel();
    for _ in 1..subscribers {
        quorum.subscribe(Listener(None).start().recipient());
    }
    // The last subscriber receives each change after the others.
    quorum.subscribe(Listener(Some(sender)).start().recipient());
    for run in 0..runs {
        flip(&fake, run);
        handled.recv().await.expect("the subscriber runs");
    }
    (quorum.snapshot().sequence - before).max(runs.into())
}

struct Listener(Option<mpsc::UnboundedSender<()>>);

impl Actor for Listener {
    type Context = Context<Self>;
}

impl Handler<QuorumChanged> for Listener {
    type Result = ();

    fn handle(&mut self, change: QuorumChanged, _: &mut Context<Self>) {
        if let Some(handled) = self.0.as_ref().filter(|_| change.cause == Cause::Quorum) {
            let _ = handled.send(());
        }
    }
}

/// Sends requests to a service, with or without a gate.
async fn requests(gate: Option<QuorumHandle>, runs: u32) -> u64 {
    let answer = web::get().to(HttpResponse::Ok);
    let request = || test::TestRequest::get().uri("/").to_request();
    match gate {
        Some(quorum) => {
            let app = App::new().wrap(QuorumGate::new(quorum)).route("/", answer);
            let app = test::init_service(app).await;
            for _ in 0..runs {
                black_box(app.call(request()).await.expect("the service answers"));
            }
        }
        None => {
            let app = test::init_service(App::new().route("/", answer)).await;
            for _ in 0..runs {
                black_box(app.call(request()).await.expect("the service answers"));
            }
        }
    }
    runs.into()
}
