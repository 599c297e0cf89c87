//! A Corosync daemon.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use rustix::process::Signal;

use super::{
    Netns, TempDir, command,
    daemon::Daemon,
    eventually,
    leftovers::{note_pid, read_pids, remove_shm_of},
    qdevice::Device,
    report::print_command,
};

/// A Corosync daemon in a network namespace, with its own `/run`, state and configuration.
///
/// Drop kills it and removes what it left behind; while panicking it prints the end of its log.
#[derive(Debug)]
pub struct Corosync {
    name: String,
    netns: Arc<Netns>,
    config: Mutex<Config>,
    directory: TempDir,
    daemon: Mutex<Option<Arc<Daemon>>>,
    /// The position in the log at which the last started daemon began.
    log_start: AtomicUsize,
}

impl Corosync {
    /// Writes the configuration; [`start`](Self::start) starts the daemon. `name` is for messages.
    pub fn new(name: &str, netns: &Arc<Netns>, config: Config) -> Self {
        let corosync = Self {
            name: name.to_owned(),
            netns: Arc::clone(netns),
            config: Mutex::new(config),
            directory: TempDir::new(),
            daemon: Mutex::new(None),
            log_start: AtomicUsize::new(0),
        };
        for part in ["etc/uidgid.d", "state"] {
            fs::create_dir_all(corosync.directory.path().join(part))
                .expect("the directory is writable");
        }
        corosync.configure(|_| {});
        corosync
    }

    /// Changes the configuration file. A running daemon applies it on [`reload`](Self::reload).
    pub fn configure(&self, change: impl FnOnce(&mut Config)) {
        let mut config = self.config.lock().unwrap();
        change(&mut config);
        let state = self.directory.path().join("state");
        let file =
            config.render(&state.display().to_string(), needs_crypto().then_some(key_file()));
        fs::write(self.config_file(), file).expect("the directory is writable");
    }

    /// Starts the daemon, which must not be running, without waiting for it.
    pub fn start(&self) {
        let mut daemon = self.daemon.lock().unwrap();
        let running = daemon.as_ref().is_some_and(|daemon| daemon.exit_status().is_none());
        assert!(!running, "{} is already running", self.name);

        self.log_start.store(self.log().len(), Ordering::Relaxed);
        let log = File::options().create(true).append(true).open(self.log_file());
        let log = log.expect("the directory is writable");
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c"])
            .arg(match self.ipc() {
                Ipc::Files => format!("{} && exec corosync -f -c \"$0\"", self.files()),
                _ => "mount -t tmpfs tmpfs /run && exec corosync -f -c \"$0\"".to_owned(),
            })
            .arg(self.config_file())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be duplicated"))
            .stderr(log);
        let (started, _) = Daemon::start(Arc::clone(&self.netns), command);
        note_pid(self.directory.path(), started.pid);
        *daemon = Some(started);
    }

    fn ipc(&self) -> Ipc {
        self.config.lock().unwrap().ipc
    }

    /// Returns a shell command that puts libqb's sockets into the file system, for the daemon and
    /// its clients, with their own /etc and /run.
    pub fn files(&self) -> String {
        let directory = self.directory.path();
        let (etc, run) = (directory.join("host-etc"), directory.join("host-run"));
        if !etc.exists() {
            command("cp", &["-a", "/etc", etc.to_str().expect("the path is UTF-8")]);
            fs::create_dir_all(etc.join("libqb")).expect("the directory is writable");
            File::create(etc.join("libqb/force-filesystem-sockets"))
                .expect("the directory is writable");
            fs::create_dir_all(&run).expect("the directory is writable");
        }
        format!("mount --bind {} /etc && mount --bind {} /run", etc.display(), run.display())
    }

    /// Waits until clients can connect. The daemon accepts clients after it has formed its first
    /// ring.
    #[track_caller]
    pub fn wait_ready(&self) {
        eventually(&format!("{} accepts clients", self.name), || {
            let exit = self.exit_status();
            assert!(exit.is_none(), "{} has ended: {exit:?}\n{}", self.name, self.log());
            let accepts = || self.tool("corosync-cmapctl", &["-g", "totem.version"]);
            (self.is_synchronized() && accepts().status.success()).then_some(())
        });
    }

    /// Whether the daemon has logged that it accepts clients. A tool that connects a moment too
    /// early sleeps for a second before it tries again.
    fn is_synchronized(&self) -> bool {
        let started = self.log_start.load(Ordering::Relaxed);
        self.log()[started..].contains("ready to provide service.")
    }

    /// Kills the daemon with SIGKILL and returns when it is reaped.
    pub fn kill(&self) {
        self.daemon().signal(Signal::KILL);
        self.daemon().wait();
    }

    /// Stops the daemon as `systemctl stop corosync` does, and returns when it is reaped.
    ///
    /// SIGTERM can hang a daemon with a libqb before 2.0.4: its signal handler writes to the log, and
    /// waits endlessly for a lock that the interrupted code holds.
    #[track_caller]
    pub fn stop(&self) {
        eventually(&format!("{} accepts the request to stop", self.name), || {
            let request = self.tool("corosync-cfgtool", &["-H", "--force"]);
            // The tool exits with 0 even if the daemon refuses.
            let refused = String::from_utf8_lossy(&request.stderr).contains("Could not shutdown");
            let accepted = request.status.success() && !refused;
            (accepted || self.exit_status().is_some()).then_some(())
        });
        self.daemon().wait();
    }

    /// Kills the daemon and immediately starts it.
    pub fn restart(&self) {
        self.kill();
        self.start();
    }

    /// Suspends the daemon (SIGSTOP), as if it hung.
    pub fn pause(&self) {
        self.daemon().pause();
    }

    /// Resumes a paused daemon.
    pub fn resume(&self) {
        self.daemon().signal(Signal::CONT);
    }

    /// Whether the daemon runs, and is not paused.
    pub fn answers(&self) -> bool {
        if self.exit_status().is_some() {
            return false;
        }
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        let state = stat.rsplit(") ").next().unwrap_or_default();
        !state.starts_with('T')
    }

    /// Whether knet has a link to this node. `None` with another transport, and for a node that the
    /// daemon does not know.
    pub fn knet_is_connected(&self, peer: u32) -> Option<bool> {
        let key = format!("stats.knet.node{peer}.link0.connected");
        let output = self.tool("corosync-cmapctl", &["-m", "stats", "-g", &key]);
        let line = String::from_utf8_lossy(&output.stdout).into_owned();
        line.rsplit(" = ").next()?.trim().parse::<u8>().ok().map(|connected| connected == 1)
    }

    /// Makes the daemon, and with it the whole cluster, read its configuration again.
    #[track_caller]
    pub fn reload(&self) {
        self.tool_ok("corosync-cfgtool", &["-R"]);
    }

    /// The number of reloads that the daemon has logged.
    pub fn reloads(&self) -> usize {
        self.log().matches("Config reload requested").count()
    }

    /// Allows a user other than root to connect.
    #[track_caller]
    pub fn let_in(&self, user: &str) {
        let file = self.config_dir().join("uidgid.d/test");
        fs::write(file, format!("uidgid {{\n  uid: {user}\n}}\n"))
            .expect("the directory is writable");
        self.reload();
    }

    /// Sets a cmap key: `cmap_set("uidgid.uid.65534", "u8", "1")`.
    #[track_caller]
    pub fn cmap_set(&self, key: &str, kind: &str, value: &str) {
        self.tool_ok("corosync-cmapctl", &["-s", key, kind, value]);
    }

    /// Sets the expected votes. Quorum may change, without a change of membership.
    #[track_caller]
    pub fn expected_votes(&self, votes: u32) {
        self.cmap_set("quorum.expected_votes", "u32", &votes.to_string());
    }

    /// Returns the output of `corosync-quorumtool`, or `None` if it has none, for example while the
    /// daemon starts.
    pub fn quorumtool(&self) -> Option<Quorumtool> {
        if !self.is_synchronized() {
            return None;
        }
        // The tool exits with 2 if the node is not quorate, and with 1 on an error.
        let output = self.tool("corosync-quorumtool", &["-s", "-p"]);
        Quorumtool::parse(&String::from_utf8_lossy(&output.stdout))
    }

    /// Returns the number in `corosync-cmapctl` for this key of the default map, or `None` without
    /// the key.
    pub fn cmap_number(&self, key: &str) -> Option<u64> {
        let output = self.tool("corosync-cmapctl", &["-g", key]);
        let line = String::from_utf8_lossy(&output.stdout).into_owned();
        line.rsplit(" = ").next()?.trim().parse().ok()
    }

    /// Returns the votes that the node counts in its partition, including those of a quorum device.
    pub fn total_votes(&self) -> Option<u32> {
        if !self.is_synchronized() {
            return None;
        }
        let output = self.tool("corosync-quorumtool", &["-s", "-p"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let votes = text.lines().find_map(|line| line.strip_prefix("Total votes:"))?;
        votes.trim().parse().ok()
    }

    /// Returns the nodes in the daemon's ring, ascending, or none while it starts.
    pub fn members(&self) -> Vec<u32> {
        if !self.is_synchronized() {
            return Vec::new();
        }
        let output = self.tool("corosync-cmapctl", &["-b", "runtime.members."]);
        let member = |line: &str| {
            line.strip_prefix("runtime.members.")?
                .strip_suffix(".status (str) = joined")?
                .parse()
                .ok()
        };
        let mut members: Vec<u32> =
            String::from_utf8_lossy(&output.stdout).lines().filter_map(member).collect();
        members.sort_unstable();
        members
    }

    /// Runs one of Corosync's tools against the daemon, for at most ten seconds: the tools wait
    /// endlessly for a paused daemon.
    pub fn tool(&self, program: &str, arguments: &[&str]) -> Output {
        let pid = self.pid().to_string();
        Command::new("nsenter")
            .args(["--target", &pid, "--net", "--mount", "timeout", "10", program])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("nsenter can be run")
    }

    /// Runs a tool like [`tool`](Self::tool), and returns its output. Panics unless it succeeds.
    #[track_caller]
    pub fn tool_ok(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.tool(program, arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        let name = &self.name;
        assert!(output.status.success(), "{name}: {program} {arguments:?} failed\n{errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Returns the process id of the daemon, even after it has ended.
    pub fn pid(&self) -> u32 {
        self.daemon().pid
    }

    /// Returns how the daemon ended, if it has.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.daemon().exit_status()
    }

    /// Returns the log of all daemons started so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// The directory of `corosync.conf` and `uidgid.d`.
    pub fn config_dir(&self) -> PathBuf {
        self.directory.path().join("etc")
    }

    fn config_file(&self) -> PathBuf {
        self.config_dir().join("corosync.conf")
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn daemon(&self) -> Arc<Daemon> {
        let daemon = self.daemon.lock().unwrap();
        Arc::clone(daemon.as_ref().unwrap_or_else(|| panic!("{} was never started", self.name)))
    }
}

impl Drop for Corosync {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.lock().unwrap().take() {
            daemon.signal(Signal::KILL);
            daemon.wait();
        }
        for pid in read_pids(self.directory.path()) {
            remove_shm_of(pid);
        }
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(60)..].join("\n");
            eprintln!("---- end of the log of {} ----\n{end}\n----", self.name);
            print_command();
        }
    }
}

/// The settings in `corosync.conf`. The default is one node on the loopback interface.
#[derive(Clone, Debug)]
pub struct Config {
    /// Node ids and addresses. A daemon recognises itself by the address.
    pub nodes: Vec<(u32, String)>,
    /// Whether the nodes have names: `n1` and so on.
    pub names: bool,
    /// The votes of the nodes that do not have one vote.
    pub votes: BTreeMap<u32, u32>,
    pub ipc: Ipc,
    pub provider: Option<&'static str>,
    pub two_node: bool,
    /// `None` means Corosync's default: off, or on with `two_node`.
    pub wait_for_all: Option<bool>,
    /// Further lines of the `quorum` section, `key: value`.
    pub quorum: Vec<String>,
    pub transport: Transport,
    pub token: Token,
    /// A quorum device; [`Cluster::start_with_device`](super::Cluster::start_with_device) sets it.
    pub device: Option<Device>,
}

/// The transport between the daemons.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transport {
    Knet,
    Udpu,
}

impl Transport {
    /// Its name in `corosync.conf`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Knet => "knet",
            Self::Udpu => "udpu",
        }
    }
}

/// The time without a token after which a daemon starts to form a new ring.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Token {
    /// A number of milliseconds, for any number of nodes.
    Millis(u32),
    /// Corosync's own default, which grows with the number of nodes.
    Default,
}

/// The transport between clients and the daemon.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ipc {
    Shm,
    Socket,
    /// Like `Shm`, with sockets in the file system.
    Files,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            nodes: vec![(1, "127.0.0.1".to_owned())],
            names: true,
            votes: BTreeMap::new(),
            ipc: Ipc::Shm,
            provider: Some("corosync_votequorum"),
            two_node: false,
            wait_for_all: None,
            quorum: Vec::new(),
            transport: Transport::Knet,
            // A daemon starts to form a new ring after a second without the token.
            token: Token::Millis(1000),
            device: None,
        }
    }
}

/// Whether the daemon refuses to start without encryption, as a version after 3.1.10 may.
fn needs_crypto() -> bool {
    static NEEDS: OnceLock<bool> = OnceLock::new();

    *NEEDS.get_or_init(|| {
        let directory = TempDir::new();
        let file = directory.path().join("corosync.conf");
        let plain = Config::default().render(&directory.path().display().to_string(), None);
        fs::write(&file, plain).expect("the directory is writable");
        let mut check = Command::new("corosync");
        let output = check.arg("-t").arg("-c").arg(&file).stdin(Stdio::null()).output();
        let output = output.expect("corosync can be run");
        let printed = [output.stdout, output.stderr].concat();
        !output.status.success() && String::from_utf8_lossy(&printed).contains("encryption")
    })
}

/// Returns the key file of all clusters of this process. It is removed with the other leftovers.
fn key_file() -> &'static Path {
    // The directory stays as long as the process; a later process removes it.
    static KEY: OnceLock<(TempDir, PathBuf)> = OnceLock::new();

    let (_, path) = KEY.get_or_init(|| {
        let directory = TempDir::new();
        let path = directory.path().join("authkey");
        let mut key = vec![0; 256];
        let mut random = File::open("/dev/urandom").expect("/dev/urandom exists");
        random.read_exact(&mut key).expect("/dev/urandom has no end");
        fs::write(&path, key).expect("the directory is writable");
        (directory, path)
    });
    path
}

impl Config {
    /// Renders the configuration. With a key file the transport is encrypted, which only knet
    /// supports.
    fn render(&self, state: &str, key: Option<&Path>) -> String {
        let mut file = String::new();
        let mut section = |name: &str, lines: &[String]| {
            writeln!(file, "{name} {{").unwrap();
            for line in lines {
                writeln!(file, "  {line}").unwrap();
            }
            writeln!(file, "}}").unwrap();
        };
        let line = |key: &str, value: &str| format!("{key}: {value}");

        let mut totem = vec![
            line("version", "2"),
            line("cluster_name", "test"),
            line("transport", self.transport.name()),
        ];
        match key.filter(|_| self.transport == Transport::Knet) {
            Some(key) => totem.extend([
                line("crypto_cipher", "aes256"),
                line("crypto_hash", "sha256"),
                line("keyfile", &key.display().to_string()),
            ]),
            None => totem.extend([line("crypto_cipher", "none"), line("crypto_hash", "none")]),
        }
        if let Token::Millis(token) = self.token {
            totem.extend([line("token", &token.to_string()), line("token_coefficient", "0")]);
        }
        section("totem", &totem);

        let nodes: Vec<String> = self
            .nodes
            .iter()
            .map(|(id, address)| {
                let votes = self.votes.get(id).unwrap_or(&1);
                let name = if self.names { format!("name: n{id}\n    ") } else { String::new() };
                format!(
                    "node {{\n    nodeid: {id}\n    {name}ring0_addr: {address}\n    \
                     quorum_votes: {votes}\n  }}"
                )
            })
            .collect();
        section("nodelist", &nodes);

        let mut quorum = Vec::new();
        if let Some(provider) = self.provider {
            quorum.push(line("provider", provider));
        }
        if self.two_node {
            quorum.push(line("two_node", "1"));
        }
        if let Some(wait) = self.wait_for_all {
            quorum.push(line("wait_for_all", if wait { "1" } else { "0" }));
        }
        quorum.extend(self.quorum.iter().cloned());
        if let Some(device) = &self.device {
            quorum.push(device.render());
        }
        section("quorum", &quorum);

        let mut system = vec![
            line("allow_knet_handle_fallback", "yes"),
            line("state_dir", state),
            // Daemons with real-time priority, each with a time slice of 100 ms, would keep one
            // another from the token.
            line("sched_rr", "no"),
            line("priority", "max"),
        ];
        if self.ipc == Ipc::Socket {
            system.push(line("qb_ipc_type", "socket"));
        }
        section("system", &system);

        let logging =
            [line("to_stderr", "yes"), line("to_syslog", "no"), line("timestamp", "hires")];
        section("logging", &logging);
        file
    }
}

/// The output of `corosync-quorumtool -s`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Quorumtool {
    pub quorate: bool,
    /// The ring id in Corosync's form: `1.2a`.
    pub ring_id: String,
    /// Node ids, ascending.
    pub members: Vec<u32>,
}

impl Quorumtool {
    fn parse(text: &str) -> Option<Self> {
        let field = |name| {
            text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
        };
        let (_, table) = text.split_once("Membership information")?;
        let member = |line: &str| line.split_whitespace().next()?.parse().ok();
        // A quorum device has a row too, with node id 0.
        let is_node = |id: &u32| *id != 0;
        let mut members: Vec<u32> = table.lines().filter_map(member).filter(is_node).collect();
        members.sort_unstable();
        Some(Self {
            quorate: field("Quorate")? == "Yes",
            ring_id: field("Ring ID")?.to_owned(),
            members,
        })
    }
}
