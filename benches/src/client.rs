//! Clients of a daemon, each a process of its own, that note when they were told what.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use actix::{
    Actor, Arbiter, AsyncContext, Context, Handler, Message, Recipient, StreamHandler, System,
    SystemRunner,
};
use actix_quorum::{
    QuorumActor, QuorumChanged,
    libquorum::{Handle, Notification, Track},
};
use futures_util::stream;
use parking_lot::Mutex;
use rust_corosync::{DispatchFlags, TrackFlags, quorum};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{clock, stats::Sample, support::command};

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

/// Any processor.
pub(crate) const ANY: &str = "0-1023";

/// A client that runs.
pub(crate) struct Client(Child, BufReader<ChildStdout>);

impl Client {
    /// Starts one of that kind, `same` or `other` of ours, and returns when it was told the state;
    /// `on` are the processors that it may run on, as `taskset` wants them. Those in C may be told for how long to compute beside, in nanoseconds: `epoll 5000`.
    pub(crate) fn start(compiled: &Path, kind: &str, on: &str) -> Self {
        let mut command = Command::new("taskset");
        command.args(["-c", on]);
        match kind.split(' ').next() {
            Some("blocking" | "epoll" | "handover" | "ticks") => {
                command.arg(compiled).args(kind.split(' '));
            }
            _ => {
                command.arg(env::current_exe().expect("it runs")).args(["client", kind]);
            }
        }
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

    /// How often all its threads have gone to sleep.
    pub(crate) fn wakes(&self) -> u64 {
        let switches = |thread: fs::DirEntry| -> Option<u64> {
            let status = fs::read_to_string(thread.path().join("status")).ok()?;
            let count =
                status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            count.trim().parse().ok()
        };
        let threads = fs::read_dir(format!("/proc/{}/task", self.0.id())).expect("it runs");
        threads.flatten().filter_map(switches).sum()
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
        let mut words = bytes.as_chunks::<8>().0.iter().copied().map(u64::from_le_bytes);
        let times = words.by_ref().take_while(|word| *word != END);
        let times = times.map(|word| (word / 2, word % 2 == 1)).collect();
        let mut next = || words.next().expect("an account");
        let (changes, missed, wrong) = (next(), next(), next());
        let spent = words.filter(|nanos| *nanos > 0).map(|nanos| nanos as f64 / 1e3).collect();
        Times { times, spent, account: Account { changes, missed, wrong } }
    }
}

fn run_time(thread: &Path) -> u64 {
    let text = fs::read_to_string(thread.join("schedstat")).expect("the kernel counts");
    text.split_whitespace().next().and_then(|time| time.parse().ok()).expect("a number")
}

/// When a client was told what.
pub(crate) struct Times {
    times: Vec<(u64, bool)>,
    /// The microseconds that its thread ran between being woken and its handler, where it knows.
    pub(crate) spent: Sample,
    pub(crate) account: Account,
}

impl Times {
    #[track_caller]
    pub(crate) fn last(&self, count: usize) -> &[(u64, bool)] {
        let first = self.times.len().checked_sub(count).expect("it was told of each flip");
        &self.times[first..]
    }

    /// How often it was told of quorum.
    pub(crate) fn len(&self) -> usize {
        self.times.len()
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
    spent: Vec<u64>,
    last: Option<u64>,
    changes: u64,
    missed: u64,
    wrong: u64,
}

static TAKEN: Mutex<Taken> = Mutex::new(Taken {
    times: Vec::new(),
    spent: Vec::new(),
    last: None,
    changes: 0,
    missed: 0,
    wrong: 0,
});

/// How long the arbiter's thread had run when it was woken.
static WOKEN: AtomicU64 = AtomicU64::new(0);

/// Notes that a client was told just now.
fn take(quorate: bool) {
    let now = clock::now();
    let mut taken = TAKEN.lock();
    taken.times.push(now * 2 + u64::from(quorate));
    if let woken @ 1.. = WOKEN.load(Ordering::Relaxed) {
        taken.spent.push(clock::thread_time() - woken);
    }
    if taken.times.len() == 1 {
        println!("ready");
    }
}

/// The work of a client's process.
pub(crate) fn run(kind: &str) {
    TAKEN.lock().times.reserve(1_000_000);
    TAKEN.lock().spent.reserve(1_000_000);
    thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let taken = TAKEN.lock();
        let account = [END, taken.changes, taken.missed, taken.wrong];
        let words = taken.times.iter().chain(&account).chain(&taken.spent);
        let bytes: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
        let written = std::io::stdout().lock().write_all(&bytes);
        std::process::exit(i32::from(written.is_err()));
    });
    match kind {
        "rust-corosync" => rust_corosync(),
        "hand" | "hand-other" => by_hand(kind == "hand"),
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

/// A runtime that tells when it is woken.
fn system(same_arbiter: bool) -> SystemRunner {
    System::with_tokio_rt(|| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        if same_arbiter {
            runtime.on_thread_unpark(|| WOKEN.store(clock::thread_time(), Ordering::Relaxed));
        }
        runtime.enable_all().build().expect("a runtime")
    })
}

fn subscriber(same_arbiter: bool) {
    let runner = system(same_arbiter);
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

/// What one would write without this crate: no lease, no probe, no snapshot, one subscriber.
fn by_hand(same_arbiter: bool) {
    let runner = system(same_arbiter);
    let _actor = runner.block_on(async move {
        let subscriber = Subscriber.start().recipient();
        if same_arbiter {
            ByHand(subscriber).start()
        } else {
            Actor::start_in_arbiter(&Arbiter::new().handle(), |_| ByHand(subscriber))
        }
    });
    runner.run().expect("it runs");
}

struct ByHand(Recipient<Told>);

impl Actor for ByHand {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let mut handle = Handle::initialize().expect("corosync runs");
        handle.track_start(Track::CHANGES).expect("corosync runs");
        let fd = handle.fd().expect("it has one");
        // SAFETY: the descriptor is open as long as the handle, which is longer: for ever.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        let fd = fd.expect("a reactor");
        ctx.add_stream(stream::unfold((fd, handle), |(fd, mut handle)| async {
            loop {
                let mut ready = fd.readable().await.expect("the reactor runs");
                match handle.try_dispatch().expect("corosync runs") {
                    Some(notification) => {
                        ready.retain_ready();
                        break Some((notification, (fd, handle)));
                    }
                    None => ready.clear_ready(),
                }
            }
        }));
    }
}

impl StreamHandler<Notification> for ByHand {
    fn handle(&mut self, notification: Notification, _: &mut Self::Context) {
        if let Notification::Quorum { quorate, .. } = notification {
            self.0.do_send(Told(quorate));
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Told(bool);

impl Handler<Told> for Subscriber {
    type Result = ();

    fn handle(&mut self, Told(quorate): Told, _: &mut Self::Context) {
        take(quorate);
    }
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
