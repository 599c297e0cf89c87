//! Says whether this node has quorum, and what changes, in a terminal or a script.
//!
//! ```text
//! quorum-watch [status | watch | wait [SECONDS]] [--json] [--simulate]
//! ```
//!
//! `status` (the default) says what is true now, `watch` goes on with every change, and `wait` returns
//! once there is quorum. Exits with 0 if there is quorum, 2 if there is none, and 1 if nobody can say
//! or on an error, as `corosync-quorumtool -s` does.

use std::{
    env, fmt,
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use actix_quorum::{
    Connection, Quorum, QuorumActor, QuorumBuilder, QuorumHandle, Snapshot, sim::Cluster,
};
use futures_util::StreamExt;
use tokio::time::{sleep, timeout};

const USAGE: &str = "usage: quorum-watch [status | watch | wait [SECONDS]] [--json] [--simulate]";

/// For how long `status` waits for Corosync, which answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(3);

/// For how long it then waits for what comes right after, if it comes: votes, and names.
const FOR_MORE: Duration = Duration::from_secs(1);

enum Command {
    Status,
    Watch,
    /// For so long at most.
    Wait(Duration),
}

struct Options {
    command: Command,
    json: bool,
    simulate: bool,
    colours: bool,
}

impl Options {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let colours = io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none();
        let mut options = Self { command: Command::Status, json: false, simulate: false, colours };
        let mut words = Vec::new();
        for argument in arguments {
            match argument.as_str() {
                "--json" => options.json = true,
                "--simulate" => options.simulate = true,
                word if !word.starts_with('-') => words.push(argument),
                _ => return Err(format!("unknown option {argument}")),
            }
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        options.command = match *words {
            [] | ["status"] => Command::Status,
            ["watch"] => Command::Watch,
            ["wait"] => Command::Wait(Duration::MAX),
            ["wait", seconds] => match seconds.parse() {
                Ok(seconds) => Command::Wait(Duration::from_secs(seconds)),
                Err(_) => return Err(format!("{seconds:?} is no number of seconds")),
            },
            _ => return Err(format!("unknown command {:?}", words.join(" "))),
        };
        Ok(options)
    }

    fn builder(&self) -> QuorumBuilder {
        let builder = QuorumActor::builder();
        if self.simulate { builder.source(Cluster::new(3).node(1)) } else { builder }
    }

    /// With the colour of the state, in a terminal.
    fn paint(&self, quorum: Quorum, text: impl fmt::Display) -> String {
        let colour = match quorum {
            Quorum::Quorate => 32,
            Quorum::Inquorate => 31,
            Quorum::Unknown => 33,
        };
        if self.colours { format!("\x1b[{colour}m{text}\x1b[m") } else { text.to_string() }
    }

    /// Everything that is known, one thing a line.
    fn show(&self, quorum: &QuorumHandle, now: &Snapshot) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            return writeln!(out, "{}", serde_json::to_string(now)?);
        }
        let names = quorum.node_names();
        let members = now.members.iter().map(|id| match names.get(id) {
            Some(name) => format!("{id} ({name})"),
            None => id.to_string(),
        });
        writeln!(out, "quorum   {}", self.paint(now.quorum, now.quorum))?;
        writeln!(out, "corosync {}", now.connection)?;
        if !now.members.is_empty() {
            writeln!(out, "members  {}", members.collect::<Vec<_>>().join(", "))?;
        }
        if let Some(ring_id) = now.ring_id {
            let settled = if now.settled { "" } else { ", not settled" };
            writeln!(out, "ring     {ring_id}{settled}")?;
        }
        if let Some(votes) = &now.votes {
            let (total, expected, margin) = (votes.total, votes.expected, votes.margin());
            let needed = votes.quorum;
            writeln!(out, "votes    {total} of {expected}, quorum {needed}, {margin} to spare")?;
        }
        Ok(())
    }
}

/// Returns once there is something to say: a decision, with its votes and the names of the nodes where
/// there are any, or why there is none.
async fn known(quorum: &QuorumHandle, names: bool) {
    let decided = |now: &Snapshot| match now.connection {
        Connection::Connected => now.quorum != Quorum::Unknown,
        Connection::Connecting { ref error, .. } => error.is_some(),
        _ => true,
    };
    let more = async {
        let votes = |now: &Snapshot| now.connection != Connection::Connected || now.votes.is_some();
        quorum.wait_for(votes).await;
        let connected = || quorum.snapshot().connection == Connection::Connected;
        while names && connected() && quorum.node_names().is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    if timeout(PATIENCE, quorum.wait_for(decided)).await.is_ok() {
        let _ = timeout(FOR_MORE, more).await;
    }
}

async fn run(options: &Options) -> io::Result<Quorum> {
    let quorum = options.builder().start();
    match options.command {
        Command::Status => known(&quorum, !options.json).await,
        Command::Watch => watch(options, &quorum).await?,
        Command::Wait(patience) => {
            let _ = timeout(patience, quorum.wait_quorate()).await;
        }
    }
    // What was published last, as far as it is believed now.
    let mut now = Snapshot::clone(&quorum.snapshot());
    if !quorum.is_quorate() && now.quorum.is_quorate() {
        now.quorum = Quorum::Unknown;
    }
    if !matches!(options.command, Command::Watch) {
        options.show(&quorum, &now)?;
    }
    quorum.stop().await;
    Ok(now.quorum)
}

async fn watch(options: &Options, quorum: &QuorumHandle) -> io::Result<()> {
    let mut changes = quorum.changes();
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let change = tokio::select! {
            change = changes.next() => change,
            _ = &mut interrupted => None,
        };
        let Some(change) = change else { return Ok(()) };
        let mut out = io::stdout().lock();
        if options.json {
            writeln!(out, "{}", serde_json::to_string(&*change.current)?)?;
        } else {
            let when = humantime::format_rfc3339_seconds(change.current.changed_at);
            writeln!(out, "{when} {}", options.paint(change.current.quorum, &change))?;
        }
    }
}

#[actix::main]
async fn main() -> ExitCode {
    if env::args().any(|argument| argument == "--help" || argument == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let options = match Options::parse(env::args().skip(1)) {
        Ok(options) => options,
        Err(wrong) => {
            eprintln!("{wrong}\n{USAGE}");
            return ExitCode::from(1);
        }
    };
    match run(&options).await {
        Ok(Quorum::Quorate) => ExitCode::SUCCESS,
        Ok(Quorum::Inquorate) => ExitCode::from(2),
        Ok(Quorum::Unknown) => ExitCode::from(1),
        // Nobody reads any more, as with `| head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(1),
        Err(error) => {
            eprintln!("cannot write: {error}");
            ExitCode::from(1)
        }
    }
}
