//! How many instructions the hot paths take, as callgrind counts them, compared with a stored count.
//!
//! `cargo bench -p actix-quorum-benches --bench instructions` fails if a path takes more than the
//! stored count and a few per cent; `-- --store` stores what it takes now. Unlike time, instructions
//! are the same on a busy machine. Each path runs so often, and again more often: the difference is
//! without what begins and ends a process.

#![allow(missing_docs)]

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
    Cause, QuorumActor, QuorumChanged, QuorumHandle, sim::Cluster, web::QuorumGate,
};
use actix_web::{App, HttpResponse, dev::Service, test, web};
use tokio::sync::mpsc;

/// By how much more a path may take, in per cent.
const TOLERANCE: f64 = 4.0;

/// How often a path runs, at first and then. The shorter the path, the more often: the actor works beside
/// it, more or less on a busy machine.
fn runs(path: &str) -> [u32; 2] {
    match path {
        "is_quorate" => [20_000, 60_000],
        "gate" | "no gate" => [1_000, 5_000],
        _ => [200, 600],
    }
}

const SUBSCRIBERS: u32 = 100;

/// A path, and another that is part of it.
type Counted = (&'static str, &'static str);

/// What is counted, and what it is counted without.
const PATHS: [Counted; 4] =
    [("is_quorate", "nothing"), ("flip", "nothing"), ("subscriber", "flip"), ("gate", "no gate")];

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

fn stored() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.txt")
}

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
        let fails = change.is_nan() || change > TOLERANCE;
        worse |= fails;
        let verdict = if fails { "FAIL" } else { "pass" };
        println!(
            "{verdict} {path:12} {count:8.0} instructions, stored {before:.0} ({change:+.1} %)"
        );
    }
    if worse {
        eprintln!("more instructions than stored; if that is meant: -- --store");
    }
    ExitCode::from(u8::from(worse))
}

fn count_all() -> BTreeMap<&'static str, f64> {
    PATHS
        .iter()
        .map(|(path, without)| {
            let mut count = each(path);
            if *without != "nothing" {
                count -= each(without);
            }
            (*path, if *path == "subscriber" { count / f64::from(SUBSCRIBERS) } else { count })
        })
        .collect()
}

/// The instructions of one run of a path.
fn each(path: &str) -> f64 {
    let [(few, first), (many, then)] = runs(path).map(|runs| callgrind(path, runs));
    (many - few) / (then - first)
}

/// The instructions of so many runs, and how many there were: of votes, time tells some more.
fn callgrind(path: &str, runs: u32) -> (f64, f64) {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe().expect("it runs"))
        .args(["run", path, &runs.to_string()])
        .output()
        .expect("valgrind is installed");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{path}: {text}");
    let (_, count) = text.split_once("Collected : ").expect("callgrind tells what it counted");
    let digits = count.split_whitespace().next().expect("a number follows");
    let runs = String::from_utf8_lossy(&output.stdout).trim().parse();
    (digits.parse().expect("a number"), runs.expect("a number"))
}

/// One path, so often, on one thread.
fn run(path: &str, runs: u32) {
    System::new().block_on(async {
        let cluster = Cluster::new(3);
        let quorum = QuorumActor::builder()
            .lease(Duration::from_secs(3600))
            .source(cluster.node(1))
            .start_in_arbiter(System::current().arbiter());
        quorum.wait_quorate().await.unwrap();
        let before = quorum.snapshot().sequence;
        match path {
            "is_quorate" => {
                for _ in 0..runs {
                    black_box(quorum.is_quorate());
                }
            }
            "flip" => flips(&cluster, &quorum, 1, runs).await,
            "subscriber" => flips(&cluster, &quorum, 1 + SUBSCRIBERS, runs).await,
            "gate" => requests(Some(quorum.clone()), runs).await,
            "no gate" => requests(None, runs).await,
            _ => panic!("no such path: {path}"),
        }
        let changes = quorum.snapshot().sequence - before;
        println!("{}", if changes > u64::from(runs) { changes } else { runs.into() });
    });
}

/// From the dispatch until each has handled it.
async fn flips(cluster: &Cluster, quorum: &QuorumHandle, subscribers: u32, runs: u32) {
    let (tell, mut told) = mpsc::unbounded_channel();
    for _ in 1..subscribers {
        quorum.subscribe(Listener(None).start().recipient());
    }
    // The last is told last.
    quorum.subscribe(Listener(Some(tell)).start().recipient());
    for run in 0..runs {
        cluster.expected_votes(if run % 2 == 0 { 9 } else { 3 }).expect("a number of votes");
        told.recv().await.expect("it is told");
    }
}

struct Listener(Option<mpsc::UnboundedSender<()>>);

impl Actor for Listener {
    type Context = Context<Self>;
}

impl Handler<QuorumChanged> for Listener {
    type Result = ();

    fn handle(&mut self, change: QuorumChanged, _: &mut Context<Self>) {
        if let Some(tell) = self.0.as_ref().filter(|_| change.cause == Cause::Quorum) {
            let _ = tell.send(());
        }
    }
}

async fn requests(gate: Option<QuorumHandle>, runs: u32) {
    let answer = web::get().to(HttpResponse::Ok);
    let request = || test::TestRequest::get().uri("/").to_request();
    match gate {
        Some(quorum) => {
            let app = App::new().wrap(QuorumGate::new(quorum)).route("/", answer);
            let app = test::init_service(app).await;
            for _ in 0..runs {
                black_box(app.call(request()).await.expect("it answers"));
            }
        }
        None => {
            let app = test::init_service(App::new().route("/", answer)).await;
            for _ in 0..runs {
                black_box(app.call(request()).await.expect("it answers"));
            }
        }
    }
}
