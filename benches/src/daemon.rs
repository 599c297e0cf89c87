//! Measures how soon the death, the return and a hang of Corosync are noticed, the time of a
//! connection, and the cost of an idle actor.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use actix::{Actor, Arbiter, Context, Handler, System};
use actix_quorum::{
    Backoff, Connection, Error, Quorum, QuorumActor, QuorumChanged, QuorumHandle,
    libquorum::{Handle, Library, Model},
};
use rustix::event::{PollFd, PollFlags, poll};

use crate::{
    client::{ANY, Client, compile},
    clock,
    report::Report,
    stats::Sample,
    support::{Config, Corosync, Netns, Token, eventually},
};

const DEADLINE: Duration = Duration::from_secs(30);
/// The number of repetitions of each measurement.
const CONNECTS: usize = 200;
const DEATHS: usize = 12;
const HANGS: usize = 3;
pub(crate) const DEFAULT_LEASE: Duration = Duration::from_secs(5);
const LEASE: Duration = Duration::from_secs(2);
const IDLE: Duration = Duration::from_secs(60);

pub(crate) fn run(report: &mut Report) {
    let netns = Arc::new(Netns::new());
    let corosync = Corosync::new("n1", &netns, Config { names: false, ..Config::default() });
    corosync.start();
    corosync.wait_ready();
    netns.run(|| {
        connects(report);
        let before = crate::memory::allocated();
        let running = start(DEFAULT_LEASE);
        running.changes().until(|change| change.current.quorum.is_quorate());
        let grown = crate::memory::allocated() as f64 - before as f64;
        report.value("memory allocated by a connected actor", "B", grown, None);
        running.system.stop();
        let running = start(LEASE);
        let changes = running.changes();
        changes.until(|change| change.current.quorum.is_quorate());
        hangs(report, &corosync, changes);
        deaths(report, &corosync, &netns, changes);
        running.system.stop();
    });
    idle(report);
}

/// The changes that the subscriber received, with their times.
pub(crate) struct Changes(mpsc::Receiver<(u64, QuorumChanged)>);

impl Changes {
    /// Skips to the first change for which `wanted` is true, and returns its time.
    pub(crate) fn until(&self, wanted: impl Fn(&QuorumChanged) -> bool) -> u64 {
        loop {
            let (at, change) = self.0.recv_timeout(DEADLINE).expect("the change arrives");
            if wanted(&change) {
                return at;
            }
        }
    }
}

/// A running actor with a subscriber.
pub(crate) struct Running {
    pub(crate) system: System,
    _quorum: QuorumHandle,
    changes: Changes,
}

impl Running {
    pub(crate) fn changes(&self) -> &Changes {
        &self.changes
    }
}

/// Starts an actor that reconnects quickly on its own arbiter, and a subscriber on another one.
pub(crate) fn start(lease: Duration) -> Running {
    let (sender, started) = mpsc::channel();
    let (received, changes) = mpsc::channel();
    thread::spawn(move || {
        let runner = System::new();
        let quorum = runner.block_on(async {
            let listener =
                Actor::start_in_arbiter(&Arbiter::new().handle(), |_| Listener(received));
            let quick = Duration::from_millis(10)..=Duration::from_millis(20);
            let backoff = Backoff::default()
                .not_running(quick.clone())
                .disconnected(quick.clone())
                .transient(quick);
            QuorumActor::builder()
                .lease(lease)
                .backoff(backoff)
                .subscribe(listener.recipient())
                .start()
        });
        sender.send((quorum, System::current())).expect("the caller waits");
        runner.run().expect("the system runs");
    });
    let (quorum, system) = started.recv().expect("the actor starts");
    Running { system, _quorum: quorum, changes: Changes(changes) }
}

struct Listener(mpsc::Sender<(u64, QuorumChanged)>);

impl Actor for Listener {
    type Context = Context<Self>;
}

impl Handler<QuorumChanged> for Listener {
    type Result = ();

    fn handle(&mut self, change: QuorumChanged, _: &mut Context<Self>) {
        let _ = self.0.send((clock::now(), change));
    }
}

/// Measures a connection to libquorum, with and without the request for the daemon's version.
fn connects(report: &mut Report) {
    let library = Library::load().expect("libquorum is installed");
    type Connect<'a> = &'a dyn Fn() -> Result<Handle, Error>;
    let ways: [(&str, Connect<'_>); 3] = [
        ("after the request for the version", &Handle::initialize),
        ("V1", &|| Handle::model_initialize(library, Model::V1)),
        ("V0", &|| Handle::model_initialize(library, Model::V0)),
    ];
    let mut times = ways.map(|_| Sample::default());
    for _ in 0..CONNECTS {
        for ((_, connect), times) in ways.iter().zip(&mut times) {
            let start = clock::now();
            let handle = connect().expect("Corosync runs");
            times.push((clock::now() - start) as f64 / 1e3);
            drop(handle);
        }
    }
    for ((name, _), times) in ways.iter().zip(&times) {
        report.sample(format!("connecting, {name}"), "us", times);
    }
}

/// Measures a process with an actor and a subscriber while nothing happens, a process in C that reads
/// the ring as often, and one that wakes up as often as the actor and does nothing. The token timeout
/// is Corosync's default.
fn idle(report: &mut Report) {
    let netns = Arc::new(Netns::new());
    let config = Config { names: false, token: Token::Default, ..Config::default() };
    let corosync = Corosync::new("n1", &netns, config);
    corosync.start();
    corosync.wait_ready();
    let timeout = |name| {
        let millis = corosync.cmap_number(&format!("runtime.config.totem.{name}"));
        millis.expect("corosync shows its timeouts") as f64 / 1e3
    };
    let (token, consensus) = (timeout("token"), timeout("consensus"));
    let compiled = compile();
    let seconds = IDLE.as_secs_f64();
    // The ring is read seven times while a read proves exclusivity.
    let between_reads = ((consensus - token / 5.0) / 7.0).min(0.42);
    let in_c = |kind: &str, nanos: f64| {
        at_rest(Client::start(&compiled, &format!("{kind} {nanos:.0}"), ANY))
    };
    let (cpu, wakes) = netns.run(|| at_rest(Client::start(&compiled, "other", ANY)));
    let (reads_in_c, _) = netns.run(|| in_c("counters", between_reads * 1e9));
    let (floor, _) = in_c("ticks", seconds * 1e9 / wakes as f64);
    let percent = |cpu: u64| cpu as f64 / 1e9 / seconds * 100.0;
    let floor = ("C with as many wake-ups and no work", percent(floor));
    report.floored_value("idle, connected: CPU", "%", percent(cpu), 0.05, floor);
    report.value(
        "C that only reads the ring's counters as often: CPU",
        "%",
        percent(reads_in_c),
        None,
    );
    // A probe takes four wake-ups: its thread's for the request and for each of the daemon's two
    // answers, and the actor's.
    let probe = 4.0 / (DEFAULT_LEASE.as_secs_f64() / 4.0);
    // A read of the ring takes three wake-ups: its thread's to begin and for each of two counters.
    // Three reads take one of the actor's together, for their results. Every five seconds the thread
    // also reads the two other counters.
    let reads = (3.0 + 1.0 / 3.0) / between_reads + 2.0 / 5.0;
    let allowed = probe + reads;
    report.value("idle, connected: wake-ups a second", "/s", wakes as f64 / seconds, Some(allowed));
}

/// Returns the CPU time, in nanoseconds, and the number of wake-ups in a minute.
fn at_rest(client: Client) -> (u64, u64) {
    // After this time the start of the process is over and the ring is steady.
    thread::sleep(Duration::from_secs(10));
    let (cpu, wakes) = (client.time(), client.wakes());
    thread::sleep(IDLE);
    let (cpu, wakes) = (client.time() - cpu, client.wakes() - wakes);
    client.end();
    (cpu, wakes)
}

/// Suspends Corosync (SIGSTOP) and measures the time until the state is unknown.
fn hangs(report: &mut Report, corosync: &Corosync, changes: &Changes) {
    let mut sample = Sample::default();
    for _ in 0..HANGS {
        // A busy machine may have caused changes before.
        thread::sleep(Duration::from_millis(600));
        while changes.0.try_recv().is_ok() {}
        let paused = clock::now();
        corosync.pause();
        let at = changes.until(|change| change.current.quorum == Quorum::Unknown);
        corosync.resume();
        sample.push((at - paused) as f64 / 1e6);
        changes.until(|change| change.current.quorum.is_quorate());
    }
    // The lease began with the last probe before the stop.
    let budget = LEASE.as_secs_f64() * 1e3 + 100.0;
    report.budget("from SIGSTOP to Unknown, lease of 2 s", "ms", &sample, budget);
}

/// Kills Corosync and starts it again. Measures how soon the actor notices each event.
fn deaths(report: &mut Report, corosync: &Corosync, netns: &Netns, changes: &Changes) {
    let (mut noticed, mut recovered, mut from_kill) =
        (Sample::default(), Sample::default(), Sample::default());
    let mut quorate_again = Sample::default();
    for _ in 0..DEATHS {
        let hang_up = |sender: mpsc::Sender<()>| {
            netns.run(|| {
                let handle = Handle::initialize().expect("Corosync runs");
                let fd = handle.fd().expect("the handle has a descriptor");
                sender.send(()).expect("the caller waits");
                // SAFETY: the descriptor is open as long as the handle, which lives until the end.
                let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
                poll(&mut [PollFd::new(&fd, PollFlags::IN)], None)
                    .expect("the descriptor can be polled");
                clock::now()
            })
        };
        let (killed, hung_up, lost) = thread::scope(|scope| {
            let (ready, is_ready) = mpsc::channel();
            let watching = scope.spawn(move || hang_up(ready));
            is_ready.recv().expect("the other process connects");
            let killed = clock::now();
            corosync.kill();
            let lost = changes.until(|change| {
                matches!(change.current.connection, Connection::Disconnected { .. })
            });
            (killed, watching.join().expect("the hang-up is noticed"), lost)
        });
        noticed.push((lost as f64 - hung_up as f64) / 1e6);
        from_kill.push((lost - killed) as f64 / 1e6);
        corosync.start();
        // Repeated attempts find the moment at which Corosync accepts connections.
        let accepted = eventually("Corosync accepts a connection", || {
            Handle::initialize().ok().map(|_| clock::now())
        });
        let connected = changes.until(|change| change.current.connection == Connection::Connected);
        recovered.push(((connected as f64 - accepted as f64) / 1e6).max(0.0));
        let quorate = changes.until(|change| change.current.quorum.is_quorate());
        quorate_again.push((quorate as f64 - accepted as f64) / 1e6);
    }
    report.sample("from SIGKILL until the subscriber receives Unknown", "ms", &from_kill);
    report.budget(
        "from the hang-up in another client until the subscriber receives Unknown",
        "ms",
        &noticed,
        1.0,
    );
    report.budget(
        "from the first accepted connection to Connected, delays of 10 to 20 ms",
        "ms",
        &recovered,
        100.0,
    );
    report.sample("from the first accepted connection to quorate", "ms", &quorate_again);
}
