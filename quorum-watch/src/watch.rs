//! The command `quorum-watch watch`.

use std::io::{self, Write};

use actix_quorum::{QuorumChanged, QuorumHandle};
use futures_util::StreamExt;
use serde_json::{Value, to_value};
use tokio::signal::unix::{SignalKind, signal};

use crate::options::Options;

/// Prints changes until a signal arrives.
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
            writeln!(out, "{}", json(&change)?)?;
        } else {
            let when = humantime::format_rfc3339_seconds(change.current.changed_at);
            writeln!(out, "{when} {}", options.paint(change.current.quorum, &change))?;
        }
    }
}

/// Returns the current state as JSON, with the fields of the change that led to it.
fn json(change: &QuorumChanged) -> serde_json::Result<Value> {
    let mut json = to_value(&*change.current)?;
    json["cause"] = to_value(change.cause)?;
    json["joined"] = to_value(&*change.joined)?;
    json["left"] = to_value(&*change.left)?;
    json["missed"] = change.missed.into();
    json["text"] = change.to_string().into();
    Ok(json)
}
