//! A server in Corosync's place that follows a test's script.

use std::{
    collections::HashMap,
    fmt,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{ChildStdin, Command, Stdio},
    sync::{Arc, Condvar, Mutex, OnceLock},
    thread,
};

use rustix::process::Signal;

use super::{
    DEADLINE, Ipc, Netns, TempDir, command, compile,
    daemon::Daemon,
    leftovers::{note_pid, remove_shm_of},
    report::print_command,
};

/// A server on the sockets of Corosync's services in a network namespace.
///
/// By default it behaves like a Corosync 3 without ring counters, on the quorate node 1 of the
/// nodes 1 and 2. A test can wait for the facts that it reports: `accept SERVICE`, `request SERVICE
/// NUMBER`, `closed SERVICE`. Drop kills it and removes its leftovers.
#[derive(Debug)]
pub struct Hostile {
    server: Arc<Daemon>,
    orders: Mutex<ChildStdin>,
    facts: Arc<Facts>,
    directory: TempDir,
}

#[derive(Debug, Default)]
struct Facts {
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Seen {
    times: HashMap<String, usize>,
    /// The keys that were requested of cmap, in order.
    keys: Vec<String>,
    ended: bool,
}

impl Hostile {
    /// Starts a server of root with shared memory, for quorum and votequorum.
    #[track_caller]
    pub fn start(netns: &Arc<Netns>) -> Self {
        Self::start_as(netns, 0, Ipc::Shm, &["quorum", "votequorum"])
    }

    /// Starts a server that poses as Corosync 2: it has the cmap key that only Corosync 2 has, uses
    /// model V0 and, like a daemon of 2.4, dies when it receives a request that is new in Corosync
    /// 3.
    #[track_caller]
    pub fn start_as_corosync_2(netns: &Arc<Netns>) -> Self {
        let hostile = Self::start(netns);
        hostile.on("quorum", MODEL_GETTYPE, &[Step::Die]);
        hostile.on("cmap", SET_CURRENT_MAP, &[Step::Die]);
        let number = Message::reply(2).u64(4).u32(CMAP_VALUETYPE_UINT32);
        hostile.on("cmap", "runtime.connections.active", &[Step::Reply(number)]);
        hostile.on("quorum", TRACKSTART, &tracked_v0(true));
        hostile
    }

    /// Starts a server for these services. A server for quorum also serves cmap, where clients read
    /// the version first.
    #[track_caller]
    pub fn start_as(netns: &Arc<Netns>, uid: u32, ipc: Ipc, services: &[&str]) -> Self {
        let cmap: &[&str] = if services.contains(&"quorum") { &["cmap"] } else { &[] };
        Self::start_exactly(netns, uid, ipc, &[services, cmap].concat())
    }

    /// Starts a server for these services and no others. Waits until it listens.
    #[track_caller]
    pub fn start_exactly(netns: &Arc<Netns>, uid: u32, ipc: Ipc, services: &[&str]) -> Self {
        let transport = if ipc == Ipc::Shm { "shm" } else { "socket" };
        let directory = TempDir::new();
        let mut program = Command::new(program());
        program
            .args([&uid.to_string(), transport])
            .args(services)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let (server, (orders, sight)) = Daemon::start(Arc::clone(netns), program);
        note_pid(directory.path(), server.pid);
        let facts = Arc::new(Facts::default());
        let seeing = Arc::clone(&facts);
        let lines = BufReader::new(sight.expect("the stream is a pipe")).lines();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut seen = seeing.seen.lock().unwrap();
                seen.keys.extend(line.strip_prefix("key ").map(str::to_owned));
                *seen.times.entry(line).or_default() += 1;
                drop(seen);
                seeing.changed.notify_all();
            }
            seeing.seen.lock().unwrap().ended = true;
            seeing.changed.notify_all();
        });
        let orders = Mutex::new(orders.expect("the stream is a pipe"));
        let hostile = Self { server, orders, facts, directory };
        hostile.wait("done", 1);
        for service in services {
            hostile.behave(service);
            hostile.order(&format!("listen {service}"));
        }
        hostile
    }

    /// Makes the service behave like Corosync's.
    #[track_caller]
    pub fn behave(&self, service: &str) {
        self.on(service, "accept", &[]);
        self.on(service, "closed", &[]);
        match service {
            "votequorum" => return self.on(service, GETINFO, &[Step::Reply(info(1, QUORATE))]),
            "cmap" => return self.behave_as_empty_map(),
            _ => {}
        }
        for (request, reply) in [
            (GETQUORATE, Message::reply(0).u32(1)),
            (TRACKSTOP, Message::reply(2)),
            (GETTYPE, Message::reply(4).u32(1)),
            (MODEL_GETTYPE, Message::reply(5).u32(1)),
        ] {
            self.on(service, request, &[Step::Reply(reply)]);
        }
        self.on(service, TRACKSTART, &tracked(true));
    }

    /// Makes cmap report that no key exists and the nodelist is empty.
    fn behave_as_empty_map(&self) {
        let (not_exist, no_sections) = (12, 27);
        for (request, reply) in [
            ("2", Message::reply(2).error(not_exist)),
            (ITER_INIT, Message::reply(4).u64(1)),
            ("5", Message::reply(5).error(no_sections)),
            ("6", Message::reply(6)),
            (TRACK_ADD, Message::reply(7).u64(1)),
            (SET_CURRENT_MAP, Message::reply(10)),
        ] {
            self.on("cmap", request, &[Step::Reply(reply)]);
        }
    }

    /// Gives cmap this key, with a number of 64 bits.
    #[track_caller]
    pub fn has_u64(&self, key: &str, value: u64) {
        let number = Message::reply(2).u64(8).u32(CMAP_VALUETYPE_UINT64).u64(value);
        self.on("cmap", key, &[Step::Reply(number)]);
    }

    /// Gives cmap this key, with a number of 32 bits.
    #[track_caller]
    pub fn has_u32(&self, key: &str, value: u32) {
        let number = Message::reply(2).u64(4).u32(CMAP_VALUETYPE_UINT32).u32(value);
        self.on("cmap", key, &[Step::Reply(number)]);
    }

    /// Sets what to do when a client connects (`accept`), has disconnected (`closed`) or sends a
    /// request.
    #[track_caller]
    pub fn on(&self, service: &str, when: &str, steps: &[Step]) {
        self.order(&format!("on {service} {when}{}", written(steps)));
    }

    /// Runs these steps now, on the connections that track quorum.
    #[track_caller]
    pub fn now(&self, steps: &[Step]) {
        self.order(&format!("now quorum{}", written(steps)));
    }

    /// Reports a change of a tracked key (`res_lib_cmap_notify_callback`, with everything zero).
    #[track_caller]
    pub fn change_configuration(&self) {
        let changed = Step::Event(Message::event(9).list(&[0; 90]));
        self.order(&format!("now cmap {changed}"));
    }

    /// Allows messages larger than libquorum's buffer, on connections from now on.
    #[track_caller]
    pub fn enlarge(&self) {
        self.order("large quorum");
    }

    /// Returns once the order is executed, or the server has ended.
    #[track_caller]
    fn order(&self, line: &str) {
        let done = self.times("done");
        // The server may have died.
        let _ = writeln!(self.orders.lock().unwrap(), "{line}");
        self.wait_or_end("done", done + 1);
    }

    /// Returns how often this fact was reported, including all facts up to the last order.
    pub fn times(&self, fact: &str) -> usize {
        self.facts.seen.lock().unwrap().times.get(fact).copied().unwrap_or_default()
    }

    /// Returns the keys that clients have requested of cmap, in order.
    pub fn keys(&self) -> Vec<String> {
        self.facts.seen.lock().unwrap().keys.clone()
    }

    /// Waits until this fact was reported this many times.
    #[track_caller]
    pub fn wait(&self, fact: &str, times: usize) {
        self.wait_or_end(fact, times);
        assert!(
            self.times(fact) >= times,
            "the server ended before it reported {fact:?} {times} times"
        );
    }

    /// Waits until this fact is reported this many more times.
    #[track_caller]
    pub fn wait_more(&self, fact: &str, times: usize) {
        self.wait(fact, self.times(fact) + times);
    }

    #[track_caller]
    fn wait_or_end(&self, fact: &str, times: usize) {
        let waits =
            |seen: &mut Seen| !seen.ended && seen.times.get(fact).is_none_or(|seen| *seen < times);
        let seen = self.facts.seen.lock().unwrap();
        let (seen, waited) = self.facts.changed.wait_timeout_while(seen, DEADLINE, waits).unwrap();
        let missing = waited.timed_out().then(|| format!("{seen:?}"));
        drop(seen);
        assert_eq!(missing, None, "{fact:?} was not reported {times} times");
    }

    /// Suspends the server (SIGSTOP).
    pub fn pause(&self) {
        self.server.pause();
    }

    pub fn resume(&self) {
        self.server.signal(Signal::CONT);
    }

    /// Kills the server and returns when it is reaped.
    pub fn kill(&self) {
        self.server.signal(Signal::KILL);
        self.server.wait();
    }

    /// Returns when the server has ended by itself and is reaped.
    #[track_caller]
    pub fn wait_dead(&self) {
        self.server.wait();
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.kill();
        remove_shm_of(self.server.pid);
        if thread::panicking() {
            print_command();
        }
    }
}

/// An action of the server.
#[derive(Clone, Debug)]
pub enum Step {
    Reply(Message),
    Event(Message),
    /// Sends this many events, alternating the two. Reports `flooded` when all are sent.
    Flood(u32, Message, Message),
    /// Refuses a connection with this errno.
    Refuse(i32),
    Disconnect,
    /// Sends SIGSTOP to itself.
    Stop,
    /// Sends SIGKILL to itself.
    Die,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reply(message) => write!(f, "reply {message}"),
            Self::Event(message) => write!(f, "event {message}"),
            Self::Flood(count, one, other) => write!(f, "flood {count} {one} {other}"),
            Self::Refuse(errno) => write!(f, "refuse {errno}"),
            Self::Disconnect => f.write_str("disconnect"),
            Self::Stop => f.write_str("stop"),
            Self::Die => f.write_str("die"),
        }
    }
}

fn written(steps: &[Step]) -> String {
    steps.iter().map(|step| format!(" {step}")).collect()
}

/// The bytes of a message: a header with its number, its size and an error (`CS_OK` or another),
/// each in eight bytes (libqb `qb/qbipc_common.h`), and the rest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message(Vec<u8>);

impl Message {
    fn new(number: i32, error: u32) -> Self {
        let mut header = vec![0; 24];
        header[..4].copy_from_slice(&number.to_ne_bytes());
        header[16..20].copy_from_slice(&error.to_ne_bytes());
        Self(header).sized()
    }

    /// Returns the answer `CS_OK`.
    pub fn reply(number: i32) -> Self {
        Self::new(number, 1)
    }

    /// Returns an empty notification with this number.
    pub fn event(number: i32) -> Self {
        Self::new(number, 1)
    }

    /// Replaces the error.
    pub fn error(mut self, error: u32) -> Self {
        self.0[16..20].copy_from_slice(&error.to_ne_bytes());
        self
    }

    /// Replaces the number.
    pub fn numbered(mut self, number: i32) -> Self {
        self.0[..4].copy_from_slice(&number.to_ne_bytes());
        self
    }

    /// Replaces the size in the header.
    pub fn claiming(mut self, size: i32) -> Self {
        self.0[8..12].copy_from_slice(&size.to_ne_bytes());
        self
    }

    /// Truncates the message, or fills it up with ones.
    pub fn cut(mut self, size: usize) -> Self {
        self.0.resize(size, 0xff);
        self
    }

    /// Adds a field that is aligned to eight bytes, as most fields are.
    pub fn u32(mut self, value: u32) -> Self {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        self.0.extend(value.to_ne_bytes());
        self.sized()
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        self.0.extend(value.to_ne_bytes());
        self.sized()
    }

    fn list(mut self, values: &[u32]) -> Self {
        self.0.extend(values.iter().flat_map(|value| value.to_ne_bytes()));
        self.sized()
    }

    fn ring(self, (node_id, seq): (u32, u64)) -> Self {
        self.u32(node_id).u64(seq)
    }

    fn sized(self) -> Self {
        let size = i32::try_from(self.0.len()).expect("the message is small");
        self.claiming(size)
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Returns a quorum notification of model V1 that claims a list of `entries` entries
/// (`res_lib_quorum_v1_quorum_notification` in corosync's `include/corosync/ipc_quorum.h`).
pub fn quorum_event(quorate: u32, ring: (u32, u64), entries: u32, members: &[u32]) -> Message {
    Message::event(6).u32(quorate).ring(ring).u32(entries).list(members)
}

/// Returns a nodelist notification that claims three lists of `entries` entries
/// (`res_lib_quorum_v1_nodelist_notification`, as above).
pub fn nodelist_event(ring: (u32, u64), entries: [u32; 3], nodes: &[u32]) -> Message {
    let [members, joined, left] = entries;
    Message::event(7).ring(ring).u32(members).u32(joined).u32(left).list(nodes)
}

/// Returns what Corosync sends to a client that starts tracking: the state, and then the answer.
pub fn tracked(quorate: bool) -> [Step; 3] {
    [
        Step::Event(nodelist_event(RING, [2, 0, 0], &[1, 2])),
        Step::Event(quorum_event(quorate.into(), RING, 2, &[1, 2])),
        Step::Reply(Message::reply(1)),
    ]
}

/// Does the same in model V0 (`res_lib_quorum_notification`).
pub fn tracked_v0(quorate: bool) -> [Step; 2] {
    let (_, seq) = RING;
    let event = Message::event(3).u32(quorate.into()).u64(seq).u32(2).list(&[1, 2]);
    [Step::Event(event), Step::Reply(Message::reply(1))]
}

/// Returns an answer of votequorum, for a node with one vote of two (`res_lib_votequorum_getinfo`
/// in `include/corosync/ipc_votequorum.h`).
pub fn info(node: u32, flags: u32) -> Message {
    let (state, votes, expected, total, quorum, qdevice) = (1, 1, 2, 2, 2, 0);
    Message::reply(1)
        .list(&[node, state, votes, expected, expected, total, quorum, flags, qdevice])
        .list(&[0; 65])
}

/// The ring in everything that the server sends.
pub const RING: (u32, u64) = (1, 9);

/// `VOTEQUORUM_INFO_QUORATE`.
pub const QUORATE: u32 = 2;

/// The numbers of the requests (`include/corosync/ipc_quorum.h`, `ipc_votequorum.h`, `ipc_cmap.h`).
pub const GETQUORATE: &str = "0";
pub const TRACKSTART: &str = "1";
pub const TRACKSTOP: &str = "2";
pub const GETTYPE: &str = "3";
pub const MODEL_GETTYPE: &str = "4";
pub const GETINFO: &str = "0";
pub const ITER_INIT: &str = "4";
pub const TRACK_ADD: &str = "7";
pub const SET_CURRENT_MAP: &str = "9";

/// `CMAP_VALUETYPE_UINT32` and `CMAP_VALUETYPE_UINT64`.
const CMAP_VALUETYPE_UINT32: u32 = 6;
const CMAP_VALUETYPE_UINT64: u32 = 8;

/// Returns the path of the server, which is compiled once for each test process.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<std::path::PathBuf> = OnceLock::new();

    PROGRAM.get_or_init(|| {
        let flags = command("pkg-config", &["--cflags", "--libs", "libqb"]);
        let flags: Vec<&str> = flags.split_whitespace().collect();
        compile("hostile", include_str!("hostile.c"), &flags)
    })
}
