//! The messages that systemd receives from a service. Each service is a separate process, because
//! its environment contains the address of the socket. It runs on the simulated cluster, in real
//! time.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    process::{ChildStdin, Command, Stdio, exit},
    sync::mpsc,
    thread,
    time::Duration,
};

use actix::{Arbiter, System};
use actix_quorum::{QuorumActor, policy::Systemd, sim::Cluster};
use tokio::sync::mpsc::unbounded_channel;

use crate::support::{
    Case, DEADLINE, Process, TempDir, case_command, eventually, hold, run_case, unique_name,
};

/// How long the service may take to feed its watchdog.
const WATCHDOG: Duration = Duration::from_millis(400);

/// Executes the orders in each line of standard input, and then prints that the line is done.
/// Between the orders of one line, nothing else runs on this arbiter.
fn serve(policy: Systemd, cluster: Cluster) {
    System::new().block_on(async {
        let arbiter = Arbiter::new();
        let builder = QuorumActor::builder().source(cluster.node(1)).lease(Duration::from_secs(1));
        let quorum = builder.start_in_arbiter(&arbiter.handle());
        policy.start(&quorum);
        let (send, mut orders) = unbounded_channel();
        thread::spawn(move || io::stdin().lines().try_for_each(|line| send.send(line.unwrap())));
        while let Some(line) = orders.recv().await {
            for order in line.split(", ") {
                match order {
                    "lose" => cluster.partition(&[&[1], &[2, 3]]).unwrap(),
                    "regain" => cluster.heal(),
                    "lose a member" => {
                        cluster.crash(3).unwrap();
                        wait_blocking(|| quorum.snapshot().members.len() == 2);
                    }
                    "await the loss" => wait_blocking(|| !quorum.is_quorate()),
                    "await quorum" => wait_blocking(|| quorum.is_quorate()),
                    "stop" => quorum.stop().await,
                    "end the actor" => drop(arbiter.stop()),
                    "block the actor" => std::mem::forget(hold(&arbiter)),
                    "block" => {
                        println!("\ndone: block");
                        loop {
                            thread::park();
                        }
                    }
                    _ => unreachable!("{order}"),
                }
            }
            println!("\ndone: {line}");
        }
        exit(0);
    });
}

/// Waits without letting anything else run on this arbiter.
fn wait_blocking(mut condition: impl FnMut() -> bool) {
    eventually("the condition is true", || condition().then_some(()));
}

fn plain() {
    serve(Systemd::new(), Cluster::new(3));
}

fn while_quorate() {
    serve(Systemd::new().while_quorate(true), Cluster::new(3));
}

fn without_quorum() {
    let cluster = Cluster::new(3);
    cluster.partition(&[&[1], &[2, 3]]).unwrap();
    serve(Systemd::new().while_quorate(true), cluster);
}

const CASES: &[Case] =
    &[("plain", plain), ("while_quorate", while_quorate), ("without_quorum", without_quorum)];

/// A service, and systemd's end of its socket.
struct Service {
    socket: UnixDatagram,
    orders: ChildStdin,
    prints: mpsc::Receiver<String>,
    _process: Process,
}

impl Service {
    /// Starts a case of a test that reports to this socket.
    fn start(test: &str, case: &str, socket: UnixDatagram, watchdog: Option<Duration>) -> Self {
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let address = socket.local_addr().unwrap();
        let notify_socket = match (address.as_pathname(), address.as_abstract_name()) {
            (Some(path), _) => path.to_str().unwrap().to_owned(),
            (_, name) => format!("@{}", std::str::from_utf8(name.unwrap()).unwrap()),
        };
        let mut command = case_command(&format!("systemd::{test}"), case);
        command.env("NOTIFY_SOCKET", notify_socket).stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(watchdog) = watchdog {
            command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        }
        let mut child = command.spawn().unwrap();
        let orders = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (send, prints) = mpsc::channel();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { socket, orders, prints, _process: Process(child) }
    }

    /// Starts a case with a watchdog and an abstract address.
    fn watched(test: &str, case: &str) -> Self {
        Self::start(test, case, abstract_socket(), Some(WATCHDOG))
    }

    /// Returns when the service has executed the order.
    fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
        let done = format!("done: {order}");
        while self.prints.recv_timeout(DEADLINE).expect("the service executes the order") != done {}
    }

    /// Returns the next message.
    fn next(&self) -> String {
        let mut buffer = [0; 4096];
        let len = self.socket.recv(&mut buffer).expect("the service sends a message");
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    }

    /// Returns all messages up to and including the first one that contains this text.
    fn until(&self, text: &str) -> Vec<String> {
        let mut messages = Vec::new();
        loop {
            messages.push(self.next());
            if messages.last().unwrap().contains(text) {
                return messages;
            }
        }
    }

    /// Asserts that the watchdog is fed repeatedly.
    fn is_fed(&self) {
        for _ in 0..4 {
            self.until("WATCHDOG=1\n");
        }
    }

    /// Asserts that from now on the watchdog is not fed, for several times the allowed time.
    fn is_not_fed(&self) {
        self.socket.set_read_timeout(Some(WATCHDOG * 3)).unwrap();
        let mut buffer = [0; 4096];
        while let Ok(len) = self.socket.recv(&mut buffer) {
            let message = String::from_utf8_lossy(&buffer[..len]);
            assert!(!message.contains("WATCHDOG"), "the watchdog was fed: {message}");
        }
        self.socket.set_read_timeout(Some(DEADLINE)).unwrap();
    }

    /// Discards the messages that have arrived.
    fn discard(&self) {
        self.socket.set_nonblocking(true).unwrap();
        while self.socket.recv(&mut []).is_ok() {}
        self.socket.set_nonblocking(false).unwrap();
    }
}

fn abstract_socket() -> UnixDatagram {
    let address = SocketAddr::from_abstract_name(unique_name()).unwrap();
    UnixDatagram::bind_addr(&address).unwrap()
}

#[test]
fn ready_status_and_stopping_are_sent_in_this_order() {
    run_case(CASES);
    let directory = TempDir::new();
    let path = UnixDatagram::bind(directory.path().join("notify")).unwrap();
    for socket in [path, abstract_socket()] {
        let test = "ready_status_and_stopping_are_sent_in_this_order";
        let mut service = Service::start(test, "plain", socket, None);
        let mut messages = service.until("READY=1\n");
        assert!(
            messages[0].starts_with("STATUS=unknown: "),
            "the first status is unknown: {messages:?}"
        );
        let ready = messages.last().unwrap();
        assert!(ready.starts_with("STATUS=quorate: ring "), "the status gives the reason: {ready}");
        service.order("lose");
        let lost = service.until("STATUS=inquorate: ring ");
        assert!(
            lost.concat().contains("; left 2 3"),
            "the status lists the nodes that left: {lost:?}"
        );
        messages.extend(lost);
        service.order("regain");
        messages.extend(service.until("STATUS=quorate: ring "));
        assert!(
            !messages.concat().contains("STOPPING"),
            "the service is not stopping yet: {messages:?}"
        );
        service.order("stop");
        messages.extend(service.until("STOPPING=1\n"));
        let lines = messages.concat();
        assert_eq!(lines.matches("READY=1\n").count(), 1, "READY is sent once: {lines}");
        assert!(!lines.contains("WATCHDOG"), "no watchdog is configured: {lines}");
    }
}

#[test]
fn a_service_that_never_had_quorum_is_ready_and_feeds_its_watchdog() {
    run_case(CASES);
    let service = Service::watched(
        "a_service_that_never_had_quorum_is_ready_and_feeds_its_watchdog",
        "without_quorum",
    );
    let messages = service.until("READY=1\n");
    assert!(
        messages.last().unwrap().starts_with("STATUS=inquorate"),
        "the service is ready without quorum: {messages:?}"
    );
    service.is_fed();
}

#[test]
fn the_watchdog_is_fed_by_the_arbiter_that_started_the_policy() {
    run_case(CASES);
    let test = "the_watchdog_is_fed_by_the_arbiter_that_started_the_policy";
    let mut service = Service::watched(test, "plain");
    service.until("READY=1\n");
    service.is_fed();
    service.order("lose");
    service.until("STATUS=inquorate");
    service.is_fed();
    service.order("end the actor");
    let messages = service.until("STATUS=unknown: stopped");
    assert!(!messages.concat().contains("STOPPING"), "the service continues: {messages:?}");
    service.is_fed();
    service.order("block");
    service.discard();
    service.is_not_fed();
}

#[test]
fn the_watchdog_is_fed_only_with_quorum_if_configured() {
    run_case(CASES);
    let test = "the_watchdog_is_fed_only_with_quorum_if_configured";
    let mut service = Service::watched(test, "while_quorate");
    service.until("READY=1\n");
    service.is_fed();
    service.order("lose");
    service.until("STATUS=inquorate");
    service.is_not_fed();
    service.order("regain");
    service.until("STATUS=quorate");
    service.is_fed();
    service.order("stop");
    service.until("STOPPING=1\n");
    service.is_fed();
}

/// The status reports the loss, although no change is published.
#[test]
fn a_stuck_actor_is_treated_as_a_loss_of_quorum() {
    run_case(CASES);
    let mut service =
        Service::watched("a_stuck_actor_is_treated_as_a_loss_of_quorum", "while_quorate");
    service.until("READY=1\n");
    service.is_fed();
    service.order("block the actor");
    service.until("STATUS=unknown");
    service.is_not_fed();
}

/// The service is busy until the loss, and by then `WATCHDOG=1` is due too. The policy handles the
/// watchdog first, and must still report the loss.
#[test]
fn a_loss_while_the_service_is_busy_is_reported() {
    run_case(CASES);
    let test = "a_loss_while_the_service_is_busy_is_reported";
    let mut service = Service::watched(test, "while_quorate");
    service.until("READY=1\n");
    service.order("block the actor, await the loss");
    service.until("STATUS=unknown");
}

/// The service is busy until the lease of a stuck actor has expired, so it reports the earlier
/// changes late. The last of these reports is quorum, so the loss must be reported after it.
#[test]
fn a_loss_is_reported_even_after_late_reports_of_earlier_changes() {
    run_case(CASES);
    let test = "a_loss_is_reported_even_after_late_reports_of_earlier_changes";
    let mut service = Service::start(test, "plain", abstract_socket(), None);
    service.until("READY=1\n");
    service.order("lose a member, block the actor, await the loss");
    service.until("; left 3");
    service.until("STATUS=unknown");
    let mut service = Service::start(test, "plain", abstract_socket(), None);
    service.until("READY=1\n");
    service.order("lose, await the loss, regain, await quorum, block the actor, await the loss");
    service.until("STATUS=inquorate");
    service.until("STATUS=quorate");
    service.until("STATUS=unknown");
}

/// The queue of systemd's socket is full, so nothing can be sent. The service continues, and its
/// messages arrive later.
#[test]
fn a_slow_systemd_does_not_block_the_service() {
    run_case(CASES);
    let (test, socket) = ("a_slow_systemd_does_not_block_the_service", abstract_socket());
    let other = UnixDatagram::unbound().unwrap();
    other.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    while other.send_to_addr(b"of another service", &address).is_ok() {}
    let mut service = Service::start(test, "plain", socket, None);
    service.order("lose");
    service.order("regain");
    service.until("READY=1\n");
    service.order("lose");
    service.until("STATUS=inquorate");
}

#[test]
#[ignore = "needs systemd-analyze: make test"]
fn the_unit_file_in_the_guide_is_valid() {
    let guide = include_str!("../../GUIDE.md");
    let (_, unit) = guide.split_once("```ini\n").expect("the guide has a unit file");
    let (unit, _) = unit.split_once("```\n").expect("the guide contains the end of the unit file");
    let directory = TempDir::new();
    let path = directory.path().join("replicator.service");
    // systemd-analyze also checks that the program exists.
    fs::write(&path, unit.replace("/usr/local/bin/replicator", "/bin/true")).unwrap();
    let output = Command::new("systemd-analyze").arg("verify").arg(&path).output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && complaints.is_empty(),
        "systemd-analyze complains: {complaints}"
    );
}
