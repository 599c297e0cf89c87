//! The process on each node that has a `QuorumHandle` and reads it every 2 ms.

use std::{
    io::{Read, Write, stdin, stdout},
    process, thread,
    time::Duration,
};

use actix::System;
use actix_quorum::{QuorumActor, QuorumHandle};

use crate::clock;

const PERIOD: Duration = Duration::from_millis(2);
/// A sample later than this is reported: the readings between are not known.
const LATE: u64 = 50_000_000;

/// The reading by which at most one partition is believed.
fn exclusive(handle: &QuorumHandle) -> Option<bool> {
    Some(handle.is_exclusive())
}

/// Prints a line for each change of a reading, `BEFORE AFTER quorate|exclusive true|false`: the last
/// time at which the reading had the old value, and the first at which it has the new one. Ends when
/// its standard input does.
pub(crate) fn run() {
    thread::spawn(|| {
        let _ = stdin().read_to_end(&mut Vec::new());
        process::exit(0);
    });
    let runner = System::new();
    let handle = runner.block_on(async { QuorumActor::builder().start() });
    thread::spawn(move || {
        hurry();
        sample(&handle);
    });
    runner.run().expect("it runs");
}

fn sample(handle: &QuorumHandle) {
    let mut quorate = Reading::new("quorate");
    let mut only = Reading::new("exclusive");
    let mut last = clock::now();
    loop {
        quorate.take(|| Some(handle.is_quorate()));
        only.take(|| exclusive(handle));
        thread::sleep(PERIOD);
        let now = clock::now();
        if now - last > LATE {
            print(&format!("{last} {now} late"));
        }
        last = now;
    }
}

/// Gives this thread a processor before others, as Corosync asks for itself: a busy machine delays
/// what is read, the actor, but not the reading. Goes on without, if that is refused.
fn hurry() {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: `parameters` is a local; 0 is the calling thread.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &parameters) };
}

struct Reading {
    name: &'static str,
    last: Option<(u64, bool)>,
}

impl Reading {
    fn new(name: &'static str) -> Self {
        Self { name, last: None }
    }

    fn take(&mut self, read: impl FnOnce() -> Option<bool>) {
        let before = clock::now();
        let Some(value) = read() else { return };
        let after = clock::now();
        match self.last {
            Some((_, old)) if old == value => {}
            old => {
                let since = old.map_or(after, |(since, _)| since);
                print(&format!("{since} {after} {} {value}", self.name));
            }
        }
        // What was read held at some time from `before` on.
        self.last = Some((before, value));
    }
}

fn print(line: &str) {
    let mut output = stdout().lock();
    if writeln!(output, "{line}").and_then(|()| output.flush()).is_err() {
        process::exit(1);
    }
}
