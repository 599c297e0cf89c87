//! The table for people.

use std::fmt::Write;

use crate::{
    outcome::{Outcome, Read},
    timeline::READINGS,
};

/// A table in Markdown. A fault that was measured more than once has the least and the most.
pub(crate) fn markdown(outcomes: &[Outcome]) -> String {
    let mut table = String::from(
        "Seconds after the fault, or seconds; each cell of three: C client / `is_quorate()` / \
         `is_exclusive()`.\n\n\
         | fault on node 1 | others quorate without it | it is believed until | two partitions \
         believed | others interrupted | corosync's gap | budgets |\n\
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
        writeln!(table, "{}", row(name, &rows)).expect("a string takes it");
    }
    table
}

/// A row by itself.
pub(crate) fn line(outcome: &Outcome) -> String {
    row(&outcome.name, &[outcome])
}

fn row(name: &str, rows: &[&Outcome]) -> String {
    let victims: Vec<u32> = rows.iter().map(|row| row.victim).collect();
    let note = if victims.contains(&2) { " (node 2 is left out)" } else { "" };
    let others = range(rows.iter().map(|row| row.others), "never");
    let cell = |value: &dyn Fn(&Read) -> Option<u64>, otherwise: &str| {
        let cells = (0..READINGS).map(|reading| {
            let read: Option<Vec<&Read>> =
                rows.iter().map(|row| row.readings[reading].as_ref()).collect();
            read.map_or("–".to_owned(), |read| {
                range(read.into_iter().map(value), otherwise)
            })
        });
        cells.collect::<Vec<_>>().join(" / ")
    };
    let again = rows.iter().any(|row| row.readings.iter().flatten().any(|read| read.again));
    let again = if again { ", and again" } else { "" };
    let missed = rows.iter().filter(|row| !row.missed.is_empty()).count();
    let verdict = match (missed, rows.len()) {
        (0, _) => "pass".to_owned(),
        (_, 1) => "FAIL".to_owned(),
        (missed, of) => format!("FAIL {missed} of {of}"),
    };
    format!(
        "| {name}{note} | {others} | {}{again} | {} | {} | {} | {verdict} |",
        cell(&|read| read.stopped, "the end"),
        cell(&|read| Some(read.overlap), ""),
        cell(&|read| Some(read.interrupted), ""),
        range(rows.iter().map(|row| Some(row.gap)), ""),
    )
}

/// The least and the most, in seconds.
fn range(values: impl Iterator<Item = Option<u64>>, none: &str) -> String {
    let shown = |value: Option<u64>| {
        value.map_or(none.to_owned(), |nanos| match nanos {
            0 => "0".to_owned(),
            nanos => format!("{:.3}", nanos as f64 / 1e9),
        })
    };
    let mut values: Vec<Option<u64>> = values.collect();
    // Something that never happened is later than all that did.
    values.sort_by_key(|value| value.unwrap_or(u64::MAX));
    match values.as_slice() {
        [] => String::new(),
        [only] => shown(*only),
        [first, .., last] if shown(*first) == shown(*last) => shown(*first),
        [first, .., last] => format!("{} to {}", shown(*first), shown(*last)),
    }
}
