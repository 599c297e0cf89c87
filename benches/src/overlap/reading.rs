//! The process on each node that reads a `QuorumHandle` every 2 ms.

use std::{
    io::{Read, Write, stdin, stdout},
    process, thread,
    time::Duration,
};

use actix::System;
use actix_quorum::{QuorumActor, QuorumHandle};

use crate::clock;

const PERIOD: Duration = Duration::from_millis(2);
/// A sample that follows the previous one after more than this time, in nanoseconds, is reported as
/// late, because the readings in between are not known.
const LATE: u64 = 50_000_000;

/// Prints a line for each change of a reading, `BEFORE AFTER quorate|exclusive true|false`: the
/// last time at which the reading had the old value, and the first time at which it has the new
/// one. Ends when its standard input ends.
pub(crate) fn run() {
    thread::spawn(|| {
        let _ = stdin().read_to_end(&mut Vec::new());
        process::exit(0);
    });
    let runner = System::new();
    let handle = runner.block_on(async { QuorumActor::builder().start() });
    thread::spawn(move || {
        set_realtime();
        sample(&handle);
    });
    runner.run().expect("the system runs");
}

/// Takes a sample of both readings again and again.
fn sample(handle: &QuorumHandle) {
    let mut quorate = Reading::new("quorate");
    let mut exclusive = Reading::new("exclusive");
    let mut last = clock::now();
    loop {
        quorate.take(|| handle.is_quorate());
        exclusive.take(|| handle.is_exclusive());
        thread::sleep(PERIOD);
        let now = clock::now();
        if now - last > LATE {
            print(&format!("{last} {now} late"));
        }
        last = now;
    }
}

/// Gives this thread a real-time priority, as Corosync has. So a busy machine delays the actor but
/// not the readings. Without the permission nothing changes.
fn set_realtime() {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: `parameters` is a local; 0 is the calling thread.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &parameters) };
}

/// One of the readings.
struct Reading {
    name: &'static str,
    /// The last value, and a time at which it held.
    last: Option<(u64, bool)>,
}

impl Reading {
    fn new(name: &'static str) -> Self {
        Self { name, last: None }
    }

    /// Takes a sample, and prints a change.
    fn take(&mut self, read: impl FnOnce() -> bool) {
        let before = clock::now();
        let value = read();
        let after = clock::now();
        match self.last {
            Some((_, old)) if old == value => {}
            old => {
                let since = old.map_or(after, |(since, _)| since);
                print(&format!("{since} {after} {} {value}", self.name));
            }
        }
        // The value held at some time after `before`.
        self.last = Some((before, value));
    }
}

fn print(line: &str) {
    let mut output = stdout().lock();
    if writeln!(output, "{line}").and_then(|()| output.flush()).is_err() {
        process::exit(1);
    }
}
