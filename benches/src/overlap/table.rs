//! The table of the outcomes.

use std::fmt::Write;

use crate::{
    outcome::{Outcome, ReadingResult},
    timeline::READINGS,
};

/// Returns a table in Markdown. For a fault that was measured more than once, it shows the smallest
/// and the largest value.
pub(crate) fn markdown(outcomes: &[Outcome]) -> String {
    let mut table = String::from(
        "Times after the fault and durations, in seconds. A cell with three values shows the C client / \
         `is_quorate()` / `is_exclusive()`.\n\n\
         | fault on node 1 | others quorate without node 1 | node 1 quorate until | two partitions \
         quorate for | others interrupted for | Corosync's gap | budgets |\n\
         |---|---|---|---|---|---|---|\n",
    );
    let mut names: Vec<&str> = Vec::new();
    for outcome in outcomes {
        if !names.contains(&outcome.name.as_str()) {
            names.push(&outcome.name);
        }
    }
    for name in names {
        let rows: Vec<&Outcome> = outcomes.iter().filter(|row| row.name == name).collect();
        writeln!(table, "{}", row(name, &rows)).expect("a string can be written");
    }
    table
}

/// Returns the row of one outcome.
pub(crate) fn line(outcome: &Outcome) -> String {
    row(&outcome.name, &[outcome])
}

/// Returns the row of all outcomes of one fault.
fn row(name: &str, rows: &[&Outcome]) -> String {
    let victims: Vec<u32> = rows.iter().map(|row| row.victim).collect();
    let note = if victims.contains(&2) { " (node 2 is left out)" } else { "" };
    let others = range(rows.iter().map(|row| row.others), "never");
    let cell = |value: &dyn Fn(&ReadingResult) -> u64| {
        let cells = (0..READINGS).map(|reading| {
            let read: Option<Vec<&ReadingResult>> =
                rows.iter().map(|row| row.readings[reading].as_ref()).collect();
            read.map_or_else(
                || "–".to_owned(),
                |read| range(read.into_iter().map(|read| Some(value(read))), ""),
            )
        });
        cells.collect::<Vec<_>>().join(" / ")
    };
    let stopped = (0..READINGS).map(|reading| {
        let read: Option<Vec<&ReadingResult>> =
            rows.iter().map(|row| row.readings[reading].as_ref()).collect();
        read.map_or_else(
            || "–".to_owned(),
            |read| {
                let again = read.iter().any(|read| read.again);
                let stopped = range(read.iter().map(|read| read.stopped), "the end");
                format!("{stopped}{}", if again { ", again" } else { "" })
            },
        )
    });
    let stopped = stopped.collect::<Vec<_>>().join(" / ");
    let missed = rows.iter().filter(|row| !row.missed.is_empty()).count();
    let verdict = match (missed, rows.len()) {
        (0, _) => "pass".to_owned(),
        (_, 1) => "FAIL".to_owned(),
        (missed, of) => format!("FAIL {missed} of {of}"),
    };
    let busy = rows.iter().any(|row| row.is_disturbed);
    let busy = if busy { ", the machine was busy" } else { "" };
    format!(
        "| {name}{note} | {others} | {stopped} | {} | {} | {} | {verdict}{busy} |",
        cell(&|read| read.overlap),
        cell(&|read| read.interrupted),
        range(rows.iter().map(|row| Some(row.gap)), ""),
    )
}

/// Returns the smallest and the largest value, in seconds. `none` is shown for an event that did
/// not occur.
fn range(values: impl Iterator<Item = Option<u64>>, none: &str) -> String {
    let shown = |value: Option<u64>| {
        value.map_or_else(
            || none.to_owned(),
            |nanos| match nanos {
                0 => "0".to_owned(),
                1..500_000 => "<0.001".to_owned(),
                nanos => format!("{:.3}", nanos as f64 / 1e9),
            },
        )
    };
    let mut values: Vec<Option<u64>> = values.collect();
    // An event that did not occur sorts after all others.
    values.sort_by_key(|value| value.unwrap_or(u64::MAX));
    match values.as_slice() {
        [] => String::new(),
        [only] => shown(*only),
        [first, .., last] if shown(*first) == shown(*last) => shown(*first),
        [first, .., last] => format!("{} to {}", shown(*first), shown(*last)),
    }
}
