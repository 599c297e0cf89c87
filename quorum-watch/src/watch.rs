//! `quorum-watch watch`

use std::io::{self, Write};

use actix_quorum::QuorumHandle;
use futures_util::StreamExt;
use tokio::signal::unix::{SignalKind, signal};

use crate::options::Options;

/// Prints changes until a signal comes.
pub(crate) async fn run(quorum: &QuorumHandle, options: &Options) -> io::Result<()> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut changes = quorum.changes();
    loop {
        let change = tokio::select! {
            change = changes.next() => change,
            _ = interrupted.recv() => None,
            _ = terminated.recv() => None,
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
