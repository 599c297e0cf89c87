//! How soon it is noticed that Corosync went, came back or hangs, and what it costs to wait.

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
    support::{Config, Corosync, Netns, eventually},
};

const PATIENCE: Duration = Duration::from_secs(30);
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
        let system = start(DEFAULT_LEASE);
        system.told().until(|change| change.current.quorum.is_quorate());
        let taken = crate::memory::allocated() as f64 - before as f64;
        report.value("memory allocated by a connected actor", "B", taken, None);
        system.system.stop();
        idle(report);
        let system = start(LEASE);
        let told = system.told();
        told.until(|change| change.current.quorum.is_quorate());
        hangs(report, &corosync, told);
        deaths(report, &corosync, &netns, told);
        system.system.stop();
    });
}

/// When its subscriber was told, and what.
pub(crate) struct Told(mpsc::Receiver<(u64, QuorumChanged)>);

impl Told {
    pub(crate) fn until(&self, wanted: impl Fn(&QuorumChanged) -> bool) -> u64 {
        loop {
            let (at, change) = self.0.recv_timeout(PATIENCE).expect("it is told");
            if wanted(&change) {
                return at;
            }
        }
    }
}

pub(crate) struct Running {
    pub(crate) system: System,
    _quorum: QuorumHandle,
    told: Told,
}

impl Running {
    pub(crate) fn told(&self) -> &Told {
        &self.told
    }
}

/// An actor on an arbiter of its own that comes back quickly, and its subscriber on another.
pub(crate) fn start(lease: Duration) -> Running {
    let (give, taken) = mpsc::channel();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let runner = System::new();
        let quorum = runner.block_on(async {
            let listener = Actor::start_in_arbiter(&Arbiter::new().handle(), |_| Listener(tell));
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
        give.send((quorum, System::current())).expect("it waits");
        runner.run().expect("it runs");
    });
    let (quorum, system) = taken.recv().expect("it starts");
    Running { system, _quorum: quorum, told: Told(told) }
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

/// The time of a connection to libquorum, with and without the question for the daemon's version.
fn connects(report: &mut Report) {
    let library = Library::load().expect("libquorum is installed");
    let ways: [(&str, &dyn Fn() -> Result<Handle, Error>); 3] = [
        ("after the question for the version", &Handle::initialize),
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
        report.sample(format!("connect, {name}"), "us", times);
    }
}

/// A process with an actor and a subscriber on another arbiter, to which nothing happens; and one
/// that is only woken as often.
fn idle(report: &mut Report) {
    let compiled = compile();
    let seconds = IDLE.as_secs_f64();
    let (cpu, wakes) = rest(Client::start(&compiled, "other", ANY));
    let every = (IDLE.as_nanos() / u128::from(wakes)).to_string();
    let (floor, _) = rest(Client::start(&compiled, &format!("ticks {every}"), ANY));
    let percent = |cpu: u64| cpu as f64 / 1e9 / seconds * 100.0;
    let floor = ("C that is woken as often for nothing", percent(floor));
    report.floored_value("idle, connected: CPU", "%", percent(cpu), 0.05, floor);
    // Two ticks for each probe; that wakes its thread, which waits for the daemon, and then the actor.
    let allowed = (2.0 + 4.0) / (DEFAULT_LEASE.as_secs_f64() / 4.0);
    report.value("idle, connected: wake-ups a second", "/s", wakes as f64 / seconds, Some(allowed));
}

/// The CPU time and the wake-ups of a minute.
fn rest(client: Client) -> (u64, u64) {
    // What it has begun with is over.
    thread::sleep(Duration::from_secs(3));
    let (cpu, wakes) = (client.time(), client.wakes());
    thread::sleep(IDLE);
    let (cpu, wakes) = (client.time() - cpu, client.wakes() - wakes);
    client.end();
    (cpu, wakes)
}

fn hangs(report: &mut Report, corosync: &Corosync, told: &Told) {
    let mut sample = Sample::default();
    for _ in 0..HANGS {
        // Whatever a busy machine has had told before.
        thread::sleep(Duration::from_millis(600));
        while told.0.try_recv().is_ok() {}
        let paused = clock::now();
        corosync.pause();
        let at = told.until(|change| change.current.quorum == Quorum::Unknown);
        corosync.resume();
        sample.push((at - paused) as f64 / 1e6);
        told.until(|change| change.current.quorum.is_quorate());
    }
    // It was last asked up to a probe's interval before.
    let budget = LEASE.as_secs_f64() * 1e3 + 100.0;
    report.budget("SIGSTOP to Unknown, a lease of 2 s", "ms", &sample, budget);
}

fn deaths(report: &mut Report, corosync: &Corosync, netns: &Netns, told: &Told) {
    let (mut noticed, mut recovered, mut from_kill) =
        (Sample::default(), Sample::default(), Sample::default());
    let mut other = Sample::default();
    for _ in 0..DEATHS {
        let hang_up = |sender: mpsc::Sender<()>| {
            netns.run(|| {
                let handle = Handle::initialize().expect("it is there");
                let fd = handle.fd().expect("it has one");
                sender.send(()).expect("it waits");
                // SAFETY: the descriptor is open as long as the handle, which is longer.
                let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
                poll(&mut [PollFd::new(&fd, PollFlags::IN)], None).expect("it can be waited for");
                clock::now()
            })
        };
        let (killed, hung_up, lost) = thread::scope(|scope| {
            let (ready, is_ready) = mpsc::channel();
            let watching = scope.spawn(move || hang_up(ready));
            is_ready.recv().expect("it connects");
            let killed = clock::now();
            corosync.kill();
            let lost = told.until(|change| {
                matches!(change.current.connection, Connection::Disconnected { .. })
            });
            (killed, watching.join().expect("it sees it"), lost)
        });
        noticed.push((lost as f64 - hung_up as f64) / 1e6);
        from_kill.push((lost - killed) as f64 / 1e6);
        corosync.start();
        // Who tries all the time is the first to be accepted.
        let accepted = eventually("it accepts", || Handle::initialize().ok().map(|_| clock::now()));
        let connected = told.until(|change| change.current.connection == Connection::Connected);
        recovered.push(((connected as f64 - accepted as f64) / 1e6).max(0.0));
        let quorate = told.until(|change| change.current.quorum.is_quorate());
        other.push((quorate as f64 - accepted as f64) / 1e6);
    }
    report.sample("SIGKILL to Unknown at the subscriber", "ms", &from_kill);
    report.budget("hang-up, as another process sees it, to Unknown", "ms", &noticed, 1.0);
    report.budget("IPC accepts to Connected, delays of 10 to 20 ms", "ms", &recovered, 100.0);
    report.sample("IPC accepts to quorate", "ms", &other);
}
