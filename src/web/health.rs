//! The routes `/livez` and `/readyz`, in the format of Kubernetes and etcd.

use std::{fmt::Write, time::Duration};

use actix_web::{HttpRequest, HttpResponse, http::StatusCode};

use super::no_store_response;
use crate::{
    actor::QuorumHandle,
    state::{Connection, Quorum, Snapshot},
};

/// The actor is reported as stuck if it has not run for this long. Normally it runs every second.
const STUCK: Duration = Duration::from_secs(10);

struct Check {
    name: &'static str,
    /// Returns the reason for a failure, if the check fails.
    why: fn(&QuorumHandle, &Snapshot) -> Option<String>,
}

const LIVEZ: [Check; 2] = [
    Check { name: "ping", why: |_, _| None },
    Check {
        name: "actor",
        why: |quorum, snapshot| {
            if snapshot.connection == Connection::Stopped {
                return Some("the quorum actor has ended".to_owned());
            }
            let is_stuck = quorum.shared.heartbeat.age() >= STUCK;
            is_stuck
                .then(|| format!("the quorum actor has not run for {} s or more", STUCK.as_secs()))
        },
    },
];

const READYZ: [Check; 2] = [
    Check {
        name: "connection",
        why: |quorum, snapshot| match &snapshot.connection {
            Connection::Connected if quorum.quorum_of(snapshot) == snapshot.quorum => None,
            Connection::Connected => Some("corosync has not answered in time".to_owned()),
            connection => Some(connection.to_string()),
        },
    },
    Check {
        name: "quorum",
        why: |quorum, snapshot| match quorum.quorum_of(snapshot) {
            Quorum::Quorate => None,
            now if now == snapshot.quorum => Some(snapshot.to_string()),
            now => Some(format!("{now}: corosync has not answered in time")),
        },
    },
];

pub(super) fn livez(quorum: &QuorumHandle, request: &HttpRequest) -> HttpResponse {
    answer("livez", &LIVEZ, quorum, request)
}

pub(super) fn readyz(quorum: &QuorumHandle, request: &HttpRequest) -> HttpResponse {
    answer("readyz", &READYZ, quorum, request)
}

fn answer(
    endpoint: &str,
    checks: &[Check],
    quorum: &QuorumHandle,
    request: &HttpRequest,
) -> HttpResponse {
    let snapshot = quorum.shared.published();
    let only = request.match_info().get("check");
    if only.is_some_and(|only| checks.iter().all(|check| check.name != only)) {
        return no_store_response(StatusCode::NOT_FOUND).body("there is no such check\n");
    }
    let options = CheckOptions::of(request.query_string());
    let mut list = String::new();
    let mut failed = false;
    for check in checks.iter().filter(|check| only.is_none_or(|only| check.name == only)) {
        let Check { name, why } = check;
        let line = match why(quorum, &snapshot) {
            _ if options.excludes.contains(name) => format!("[+]{name} excluded: ok"),
            None => format!("[+]{name} ok"),
            Some(why) => {
                failed = true;
                match options.verbose {
                    true => format!("[-]{name} failed: {why}"),
                    false => format!("[-]{name} failed: reason withheld, ask with ?verbose"),
                }
            }
        };
        list.push_str(&line);
        list.push('\n');
    }
    for unknown in &options.excludes {
        if checks.iter().all(|check| check.name != *unknown) {
            // The name is not repeated, because it is the client's input.
            list.push_str("warn: a check to exclude is not known\n");
        }
    }
    let status = if failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let body = if failed {
        let _ = writeln!(list, "{endpoint} check failed");
        list
    } else if options.verbose {
        let _ = writeln!(list, "{endpoint} check passed");
        list
    } else {
        "ok\n".to_owned()
    };
    no_store_response(status).content_type("text/plain; charset=utf-8").body(body)
}

/// The options in a query: `verbose&exclude=quorum`.
struct CheckOptions<'a> {
    verbose: bool,
    excludes: Vec<&'a str>,
}

impl<'a> CheckOptions<'a> {
    fn of(query: &'a str) -> Self {
        let mut options = Self { verbose: false, excludes: Vec::new() };
        for part in query.split('&') {
            match part.split_once('=').unwrap_or((part, "")) {
                ("verbose", value) => options.verbose = !matches!(value, "false" | "0"),
                ("exclude", name) => options.excludes.push(name),
                _ => {}
            }
        }
        options
    }
}
