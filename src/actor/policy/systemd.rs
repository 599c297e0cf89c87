use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    pin::pin,
    process,
    time::Duration,
};

use futures_core::Stream;
use futures_util::{
    StreamExt,
    future::{Either, pending, select},
};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use crate::{
    actor::{QuorumGuard, QuorumHandle},
    foreign,
    state::{Connection, Quorum, QuorumChanged},
};

/// Reports to systemd with the protocol of `sd_notify(3)`, for a unit with `Type=notify`. Linux
/// only.
///
/// | systemd receives | when |
/// |---|---|
/// | `READY=1` | once, when the state is `Quorate` or `Inquorate` for the first time |
/// | `STATUS=` | at each change: the line for an operator that `systemctl status` shows |
/// | `WATCHDOG=1` | twice per `WatchdogSec=`, if the unit sets it |
/// | `STOPPING=1` | when [`QuorumHandle::stop`] is called |
///
/// The messages are sent from the arbiter on which [`start`](Self::start) is called, so the
/// watchdog proves that this arbiter is running. Call `start` on the arbiter that does the work of
/// the service, not on the quorum actor's own arbiter, which keeps running even when the service's
/// arbiter is stuck.
///
/// Does nothing if systemd does not expect messages (`NOTIFY_SOCKET` is not set).
///
/// The guide contains [a unit file](crate::guide#under-systemd).
///
/// ```no_run
/// use actix_quorum::{QuorumActor, policy::Systemd};
/// use tokio::signal::unix::{SignalKind, signal};
///
/// #[actix::main]
/// async fn main() -> std::io::Result<()> {
///     let quorum = QuorumActor::builder().start();
///     Systemd::new().start(&quorum);
///     // ... the service ...
///     signal(SignalKind::terminate())?.recv().await;
///     quorum.stop().await; // STOPPING=1
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "nothing is reported before `start`"]
pub struct Systemd {
    while_quorate: bool,
}

impl Systemd {
    /// Creates a reporter whose watchdog messages prove that the arbiter is running, with or
    /// without quorum.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether to send `WATCHDOG=1` only while this node has quorum. systemd then ends the service
    /// at most `WatchdogSec=` plus `TimeoutAbortSec=` after a loss, even if every thread of the
    /// service is stuck or stopped. Default false.
    ///
    /// A loss that ends before the watchdog is due has no effect. Before the service has had quorum
    /// for the first time, and after [`QuorumHandle::stop`], the messages are sent as usual.
    pub fn while_quorate(self, while_quorate: bool) -> Self {
        Self { while_quorate }
    }

    /// Reports this actor's quorum, from the arbiter or tokio runtime on which this is called, for
    /// as long as that arbiter or runtime is running.
    ///
    /// # Panics
    ///
    /// Panics outside of a tokio runtime with timers. An actix [`System`](actix::System) has one.
    pub fn start(self, quorum: &QuorumHandle) {
        let manager = match Manager::of_environment() {
            Some(Ok(manager)) => manager,
            Some(Err(error)) => {
                return warn("cannot send READY, STATUS or WATCHDOG messages to systemd", &error);
            }
            None => return,
        };
        let reporter = Reporter {
            manager,
            while_quorate: self.while_quorate,
            quorum: quorum.clone(),
            is_decided: false,
            was_quorate: false,
            guard: None,
        };
        // The stream is created here, so that the reporter receives every change from now on.
        tokio::spawn(reporter.run(quorum.changes(), watchdog()));
    }
}

struct Reporter {
    manager: Manager,
    while_quorate: bool,
    quorum: QuorumHandle,
    /// Whether the state has been `Quorate` or `Inquorate` at least once.
    is_decided: bool,
    /// Whether this node has had quorum at least once.
    was_quorate: bool,
    /// The guard of the epoch in the last report, if the node was quorate in that report. It is
    /// kept until the loss is reported, so that a loss while the reporter is busy is reported too.
    guard: Option<QuorumGuard>,
}

/// The events that the reporter handles.
enum Event {
    WatchdogDue,
    Changed(QuorumChanged),
    Lost,
}

impl Reporter {
    async fn run(
        mut self,
        mut changes: impl Stream<Item = QuorumChanged> + Unpin,
        mut watchdog: Option<Interval>,
    ) {
        loop {
            match next(self.guard.as_ref(), &mut changes, &mut watchdog).await {
                Event::WatchdogDue => self.feed().await,
                Event::Changed(change) => {
                    self.report(&change).await;
                    if change.current.connection == Connection::Stopped && watchdog.is_none() {
                        return;
                    }
                }
                // A change reports the loss as well, unless the actor is stuck.
                Event::Lost => {
                    self.guard = None;
                    let status = self.quorum.snapshot().to_string();
                    self.manager.send(&assignment("STATUS", &status)).await;
                }
            }
        }
    }

    async fn report(&mut self, change: &QuorumChanged) {
        let mut message = assignment("STATUS", &change.to_string());
        let (quorum, epoch) = (change.current.quorum, change.current.epoch);
        let guard = || QuorumGuard::of_epoch(&self.quorum.shared, epoch);
        self.guard = quorum.is_quorate().then(guard);
        self.was_quorate |= quorum.is_quorate();
        if quorum != Quorum::Unknown && !self.is_decided {
            self.is_decided = true;
            message.push_str("READY=1\n");
        }
        if change.current.connection == Connection::Stopped
            && self.quorum.shared.is_stopped_by_user()
        {
            message.push_str("STOPPING=1\n");
        }
        self.manager.send(&message).await;
    }

    async fn feed(&mut self) {
        let is_quorate = self.quorum.is_quorate();
        self.was_quorate |= is_quorate;
        let has_lost = self.was_quorate && !is_quorate;
        if !self.while_quorate || !has_lost || self.quorum.shared.is_stopped_by_user() {
            self.manager.send("WATCHDOG=1\n").await;
        }
    }
}

async fn next(
    guard: Option<&QuorumGuard>,
    changes: &mut (impl Stream<Item = QuorumChanged> + Unpin),
    watchdog: &mut Option<Interval>,
) -> Event {
    let due = async {
        match watchdog {
            Some(watchdog) => drop(watchdog.tick().await),
            None => pending().await,
        }
        Event::WatchdogDue
    };
    let changed = async {
        match changes.next().await {
            Some(change) => Event::Changed(change),
            // The watchdog continues after the last change.
            None => pending().await,
        }
    };
    let lost = async {
        match guard {
            Some(guard) => guard.lost().await,
            None => pending().await,
        }
        Event::Lost
    };
    let (due, changed, lost) = (pin!(due), pin!(changed), pin!(lost));
    // The watchdog comes first: frequent changes do not delay it.
    match select(due, select(changed, lost)).await {
        Either::Left((event, _)) => event,
        Either::Right((event, _)) => event.factor_first().0,
    }
}

/// Formats an assignment as one line, even if the value has several lines.
fn assignment(name: &str, value: &str) -> String {
    format!("{name}={}\n", value.replace('\n', " "))
}

/// Returns an interval that ticks when `WATCHDOG=1` is due, if systemd expects it.
fn watchdog() -> Option<Interval> {
    let variable = |name| env::var(name).ok();
    let period = period(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), process::id())?;
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Some(interval)
}

/// Returns half of the longest time that systemd allows between two messages, if systemd expects
/// them from this process (`sd_watchdog_enabled(3)`).
fn period(micros: Option<String>, pid: Option<String>, own_pid: u32) -> Option<Duration> {
    let is_own = pid.is_none_or(|pid| pid.parse() == Ok(own_pid));
    let micros: u64 = micros.filter(|_| is_own)?.parse().ok()?;
    let half = Duration::from_micros(micros) / 2;
    (!half.is_zero()).then_some(half)
}

/// The service manager that started this process.
struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Manager {
    fn of_environment() -> Option<io::Result<Self>> {
        let address = env::var_os("NOTIFY_SOCKET")?;
        let connected = || {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            Ok(Self { socket, address: parse(&address)? })
        };
        Some(connected())
    }

    /// Sends a message. Waits while the manager's queue is full.
    async fn send(&self, message: &str) {
        while let Err(error) = self.socket.send_to_addr(message.as_bytes(), &self.address) {
            if error.kind() != io::ErrorKind::WouldBlock {
                return warn("cannot send a message to systemd", &error);
            }
            sleep(RETRY).await;
        }
    }
}

/// Parses the path of a socket, or an abstract name after an `@`.
fn parse(address: &OsStr) -> io::Result<SocketAddr> {
    match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(address),
        _ => Err(io::Error::other("NOTIFY_SOCKET is neither a path nor an abstract name")),
    }
}

fn warn(failure: &str, error: &io::Error) {
    foreign::log!(log::Level::Warn, "{failure}: {error}");
}

/// The delay before a message is sent again because the manager's queue was full.
const RETRY: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_period_is_half_of_its_timeout_if_it_watches_this_process() {
        let due = |micros: &str, pid: Option<&str>| {
            period(Some(micros.to_owned()), pid.map(str::to_owned), 7)
        };
        assert_eq!(due("10000000", None), Some(Duration::from_secs(5)));
        assert_eq!(due("10000000", Some("7")), Some(Duration::from_secs(5)));
        for (micros, pid) in [("10000000", Some("8")), ("10", Some("")), ("0", None), ("-1", None)]
        {
            assert_eq!(due(micros, pid), None, "{micros} {pid:?}");
        }
        assert_eq!(period(None, Some("7".to_owned()), 7), None);
    }

    #[test]
    fn a_notify_address_is_a_path_or_an_abstract_name() {
        let parsed = |address: &str| parse(OsStr::new(address));
        let path = parsed("/run/systemd/notify").unwrap();
        assert_eq!(path.as_pathname().unwrap().to_str(), Some("/run/systemd/notify"));
        assert_eq!(parsed("@notify").unwrap().as_abstract_name(), Some(&b"notify"[..]));
        for address in ["", "vsock:2:1234", "notify"] {
            assert!(parsed(address).is_err(), "{address}");
        }
    }

    #[test]
    fn a_status_is_sent_on_one_line() {
        assert_eq!(
            assignment("STATUS", "cannot load\nlibquorum"),
            "STATUS=cannot load libquorum\n"
        );
    }
}
