//! The clients of a daemon. Each is its own process and records when it received each notification.

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

/// Compiles the client in C and returns its path.
pub(crate) fn compile() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (directory.join("client.c"), directory.join("client"));
    std::fs::write(&source, include_str!("client.c")).expect("cargo has made the directory");
    let path = |path: &Path| path.to_str().expect("a plain path").to_owned();
    let (source, out) = (path(&source), path(&program));
    command(
        "cc",
        &["-O2", "-Wall", "-Wextra", "-o", &out, &source, "-lquorum", "-lcmap", "-pthread"],
    );
    program
}

/// All processors, in the syntax of `taskset`.
pub(crate) const ANY: &str = "0-1023";

/// A running client.
pub(crate) struct Client(Child, BufReader<ChildStdout>);

impl Client {
    /// Starts a client of this kind and returns once it has received the state. `processors` has
    /// the syntax of `taskset`.
    ///
    /// The kinds `same` and `other` are an actor with a subscriber on its arbiter or on another
    /// one. A kind in C may have an argument, the nanoseconds of additional work: `epoll 5000`.
    pub(crate) fn start(compiled: &Path, kind: &str, processors: &str) -> Self {
        let mut command = Command::new("taskset");
        command.args(["-c", processors]);
        match kind.split(' ').next() {
            Some("blocking" | "epoll" | "handover" | "ticks" | "counters") => {
                command.arg(compiled).args(kind.split(' '));
            }
            _ => {
                command.arg(env::current_exe().expect("the program exists")).args(["client", kind]);
            }
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the client can be run");
        let mut output = BufReader::new(child.stdout.take().expect("the output is piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("the client prints a line");
        assert_eq!(line, "ready\n", "the client {kind}");
        Self(child, output)
    }

    /// Returns the CPU time of the main thread, in nanoseconds.
    pub(crate) fn main_thread_time(&self) -> u64 {
        let pid = self.0.id();
        run_time(Path::new(&format!("/proc/{pid}/task/{pid}")))
    }

    /// Returns the CPU time of all threads, in nanoseconds.
    pub(crate) fn time(&self) -> u64 {
        let threads =
            fs::read_dir(format!("/proc/{}/task", self.0.id())).expect("the process exists");
        threads.flatten().map(|thread| run_time(&thread.path())).sum()
    }

    /// Returns how often the threads have gone to sleep.
    pub(crate) fn wakes(&self) -> u64 {
        let switches = |thread: fs::DirEntry| -> Option<u64> {
            let status = fs::read_to_string(thread.path().join("status")).ok()?;
            let count =
                status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            count.trim().parse().ok()
        };
        let threads =
            fs::read_dir(format!("/proc/{}/task", self.0.id())).expect("the process exists");
        threads.flatten().filter_map(switches).sum()
    }

    /// Returns the memory of the process, including its share of shared memory (Pss), in KiB.
    pub(crate) fn memory(&self) -> f64 {
        let path = format!("/proc/{}/smaps_rollup", self.0.id());
        let text = fs::read_to_string(path).expect("the process exists");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("Pss:"))
            .expect("the file has this line");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Ends the client and returns its records.
    pub(crate) fn end(mut self) -> Records {
        drop(self.0.stdin.take());
        let mut bytes = Vec::new();
        self.1.read_to_end(&mut bytes).expect("the client writes its records");
        self.0.wait().expect("the client ends");
        let mut words = bytes.as_chunks::<8>().0.iter().copied().map(u64::from_le_bytes);
        let times = words.by_ref().take_while(|word| *word != END);
        let times = times.map(|word| (word / 2, word % 2 == 1)).collect();
        let mut next = || words.next().expect("the client writes its counts");
        let (changes, missed, wrong) = (next(), next(), next());
        let spent = words.filter(|nanos| *nanos > 0).map(|nanos| nanos as f64 / 1e3).collect();
        Records { times, spent, counts: Counts { changes, missed, wrong } }
    }
}

/// Returns the CPU time of a thread, in nanoseconds.
fn run_time(thread: &Path) -> u64 {
    let text = fs::read_to_string(thread.join("schedstat"))
        .expect("the kernel counts the time of threads");
    text.split_whitespace().next().and_then(|time| time.parse().ok()).expect("a number")
}

/// What a client has recorded.
pub(crate) struct Records {
    /// The time of each quorum notification, and whether the notification reported quorum.
    times: Vec<(u64, bool)>,
    /// The CPU time from the wake-up of the thread to the handler, in microseconds, if it is known.
    pub(crate) spent: Sample,
    pub(crate) counts: Counts,
}

impl Records {
    /// Returns the last `count` notifications.
    #[track_caller]
    pub(crate) fn last(&self, count: usize) -> &[(u64, bool)] {
        let first = self.times.len().checked_sub(count).expect("the client received each flip");
        &self.times[first..]
    }

    /// Returns the number of quorum notifications.
    pub(crate) fn len(&self) -> usize {
        self.times.len()
    }
}

/// The counts of a subscriber.
pub(crate) struct Counts {
    /// The number of changes after the first message, whether received or missed.
    pub(crate) changes: u64,
    pub(crate) missed: u64,
    /// The number of messages that arrived out of order or after a gap.
    pub(crate) wrong: u64,
}

/// Marks the end of the times in the output of a client.
const END: u64 = u64::MAX;

/// What this process has recorded.
#[derive(Debug)]
struct Recorded {
    times: Vec<u64>,
    spent: Vec<u64>,
    last: Option<u64>,
    changes: u64,
    missed: u64,
    wrong: u64,
}

static RECORDED: Mutex<Recorded> = Mutex::new(Recorded {
    times: Vec::new(),
    spent: Vec::new(),
    last: None,
    changes: 0,
    missed: 0,
    wrong: 0,
});

/// The CPU time of the arbiter's thread when it last woke up, or 0 if that is not recorded.
static WOKEN: AtomicU64 = AtomicU64::new(0);

/// Records a quorum notification.
fn record(quorate: bool) {
    let now = clock::now();
    let mut recorded = RECORDED.lock();
    recorded.times.push(now * 2 + u64::from(quorate));
    if let woken @ 1.. = WOKEN.load(Ordering::Relaxed) {
        recorded.spent.push(clock::thread_time() - woken);
    }
    if recorded.times.len() == 1 {
        println!("ready");
    }
}

/// Runs a client in this process.
pub(crate) fn run(kind: &str) {
    RECORDED.lock().times.reserve(1_000_000);
    RECORDED.lock().spent.reserve(1_000_000);
    thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let recorded = RECORDED.lock();
        let counts = [END, recorded.changes, recorded.missed, recorded.wrong];
        let words = recorded.times.iter().chain(&counts).chain(&recorded.spent);
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
        quorum_notification_fn: Some(|_, quorate, _, _| record(quorate)),
        nodelist_notification_fn: Some(|_, _, _, _, _| {}),
    });
    let connect = || -> Result<(), rust_corosync::CsError> {
        let (handle, _) = quorum::initialize(&model, 0)?;
        quorum::trackstart(&handle, TrackFlags::Changes)?;
        quorum::dispatch(&handle, DispatchFlags::Blocking)
    };
    panic!("the connection ended: {:?}", connect());
}

/// Returns a system. If the actor and the subscriber share its arbiter, the arbiter's thread stores
/// its CPU time in [`WOKEN`] whenever it wakes up.
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
    runner.run().expect("the system runs");
}

/// Runs an actor as a user could write it without this crate: it has no lease, no probe, no
/// snapshot and one subscriber.
fn by_hand(same_arbiter: bool) {
    let runner = system(same_arbiter);
    let _actor = runner.block_on(async move {
        let subscriber = Subscriber.start().recipient();
        if same_arbiter {
            HandWritten(subscriber).start()
        } else {
            Actor::start_in_arbiter(&Arbiter::new().handle(), |_| HandWritten(subscriber))
        }
    });
    runner.run().expect("the system runs");
}

struct HandWritten(Recipient<Received>);

impl Actor for HandWritten {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let mut handle = Handle::initialize().expect("Corosync runs");
        handle.track_start(Track::CHANGES).expect("Corosync runs");
        let fd = handle.fd().expect("the handle has a descriptor");
        // SAFETY: the descriptor is open as long as the handle, which the stream keeps with it.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        let fd = fd.expect("a reactor");
        ctx.add_stream(stream::unfold((fd, handle), |(fd, mut handle)| async {
            loop {
                let mut ready = fd.readable().await.expect("the reactor runs");
                match handle.try_dispatch().expect("Corosync runs") {
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

impl StreamHandler<Notification> for HandWritten {
    fn handle(&mut self, notification: Notification, _: &mut Self::Context) {
        if let Notification::Quorum { quorate, .. } = notification {
            self.0.do_send(Received(quorate));
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Received(bool);

impl Handler<Received> for Subscriber {
    type Result = ();

    fn handle(&mut self, Received(quorate): Received, _: &mut Self::Context) {
        record(quorate);
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
            record(change.current.quorum.is_quorate());
        }
        let mut recorded = RECORDED.lock();
        let (before, now) = (change.previous.sequence, change.current.sequence);
        let follows =
            recorded.last.is_none_or(|last| last == before) && now == before + 1 + change.missed;
        recorded.wrong += u64::from(recorded.last.is_some() && !follows);
        if recorded.last.is_some() {
            recorded.changes += 1 + change.missed;
        }
        recorded.missed += change.missed;
        recorded.last = Some(now);
    }
}
