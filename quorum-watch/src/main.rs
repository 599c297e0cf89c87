//! Shows, waits for and acts on the quorum of this Corosync node, in a terminal or a script.
//!
//! `quorum-watch --help` describes each command. The help, the man page and the shell completions
//! are generated from `options.rs`.

mod exec;
mod man;
mod options;
mod status;
mod watch;

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use actix_quorum::{Quorum, QuorumHandle};
use clap::{CommandFactory, Parser, error::ErrorKind};
use tokio::time::{sleep, timeout};

use self::options::{Command, Options, Wait};

/// The exit code for wrong arguments, as in `sysexits.h`. The usual 2 means `inquorate` here.
const USAGE: u8 = 64;

/// How often to check a state whose changes are not published, such as exclusive quorum.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            let shown = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            let _ = error.print();
            return if shown { ExitCode::SUCCESS } else { ExitCode::from(USAGE) };
        }
    };
    match run(options).await {
        Ok(code) => code,
        // The program that reads the output has exited, as `| head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(1),
        Err(error) => {
            eprintln!("quorum-watch: {error}");
            ExitCode::from(1)
        }
    }
}

async fn run(options: Options) -> io::Result<ExitCode> {
    let command = match &options.command {
        Some(Command::Completions { shell }) => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Options::command(), "quorum-watch", &mut text);
            return print(&text);
        }
        Some(Command::Man) => {
            let mut text = Vec::new();
            man::write(&mut text)?;
            return print(&text);
        }
        command => command.clone().unwrap_or(Command::Status),
    };
    let quorum = options.builder().start_detached();
    let code = match command {
        Command::Exec(exec) => exec::run(&quorum, &exec).await,
        Command::Watch => {
            watch::run(&quorum, &options).await?;
            code_of(quorum.quorum())
        }
        Command::Wait(wait) => {
            let reached = reached(&quorum, &wait).await;
            let now = status::show(&quorum, &options)?;
            if reached { ExitCode::SUCCESS } else { code_of_failure(now) }
        }
        _ => {
            status::known(&quorum, !options.json).await;
            code_of(status::show(&quorum, &options)?)
        }
    };
    quorum.stop().await;
    Ok(code)
}

fn print(text: &[u8]) -> io::Result<ExitCode> {
    io::stdout().write_all(text)?;
    Ok(ExitCode::SUCCESS)
}

fn code_of(quorum: Quorum) -> ExitCode {
    match quorum {
        Quorum::Quorate => ExitCode::SUCCESS,
        quorum => code_of_failure(quorum),
    }
}

/// Returns the exit code of a wait that has timed out. If the node is quorate, the wait was for
/// exclusive quorum.
fn code_of_failure(quorum: Quorum) -> ExitCode {
    match quorum {
        Quorum::Quorate | Quorum::Unknown => ExitCode::from(1),
        Quorum::Inquorate => ExitCode::from(2),
    }
}

/// Waits for quorum, or for exclusive quorum if `wait` requires it. Returns `false` at the timeout,
/// or if the actor has stopped.
async fn reached(quorum: &QuorumHandle, wait: &Wait) -> bool {
    let reached = async {
        loop {
            if quorum.wait_quorate().await.is_err() {
                return false;
            }
            if !wait.exclusive || quorum.is_exclusive() {
                return true;
            }
            sleep(POLL_INTERVAL).await;
        }
    };
    match wait.timeout {
        Some(limit) => timeout(limit, reached).await.unwrap_or(false),
        None => reached.await,
    }
}
