//! The report of a group of benchmarks: rows on standard output, and a JSON file.

use std::{fs, path::PathBuf};

use serde_json::{Map, Value, json};

use crate::stats::Sample;

/// The rows of one group.
#[derive(Debug)]
pub(crate) struct Report {
    group: &'static str,
    rows: Vec<Value>,
    data: Map<String, Value>,
}

impl Report {
    pub(crate) fn new(group: &'static str) -> Self {
        eprintln!("\n{group}");
        Self { group, rows: Vec::new(), data: Map::new() }
    }

    /// Adds a row with the median of a sample and the range of its middle 80 %.
    pub(crate) fn sample(&mut self, name: impl Into<String>, unit: &'static str, sample: &Sample) {
        self.row(name, unit, (sample.median(), Some(sample)), None, None);
    }

    /// Adds a row for a sample whose median must not exceed a budget.
    pub(crate) fn budget(
        &mut self,
        name: impl Into<String>,
        unit: &'static str,
        sample: &Sample,
        budget: f64,
    ) {
        self.row(name, unit, (sample.median(), Some(sample)), Some(budget), None);
    }

    /// Adds a row like [`budget`](Self::budget), with the figure of a simpler program in the same
    /// run. If that floor exceeds the budget too, the result is "over" and not "FAIL".
    pub(crate) fn floored(
        &mut self,
        name: impl Into<String>,
        unit: &'static str,
        sample: &Sample,
        budget: f64,
        floor: (&str, f64),
    ) {
        self.row(name, unit, (sample.median(), Some(sample)), Some(budget), Some(floor));
    }

    /// Adds a row like [`floored`](Self::floored) for a single value.
    pub(crate) fn floored_value(
        &mut self,
        name: impl Into<String>,
        unit: &'static str,
        value: f64,
        budget: f64,
        floor: (&str, f64),
    ) {
        self.row(name, unit, (value, None), Some(budget), Some(floor));
    }

    /// Adds a row for a single value, which may have a budget.
    pub(crate) fn value(
        &mut self,
        name: impl Into<String>,
        unit: &'static str,
        value: f64,
        budget: Option<f64>,
    ) {
        self.row(name, unit, (value, None), budget, None);
    }

    fn row(
        &mut self,
        name: impl Into<String>,
        unit: &str,
        (value, sample): (f64, Option<&Sample>),
        budget: Option<f64>,
        floor: Option<(&str, f64)>,
    ) {
        let name = name.into();
        let pass = budget.map(|budget| value <= budget);
        let spread = sample.map(|sample| (sample.quantile(0.1), sample.quantile(0.9)));
        let row = json!({
            "group": self.group, "name": name, "unit": unit, "value": value, "budget": budget,
            "pass": pass, "p10": spread.map(|spread| spread.0), "p90": spread.map(|spread| spread.1),
            "samples": sample.map(Sample::len),
            "floor": floor.map(|(name, value)| json!({ "name": name, "value": value })),
        });
        println!("{}", line(&row));
        self.rows.push(row);
    }

    /// Adds data to the JSON file, for the plots.
    pub(crate) fn data(&mut self, key: impl Into<String>, value: Value) {
        self.data.insert(key.into(), value);
    }

    /// Writes the JSON file.
    pub(crate) fn finish(self) {
        let file = directory().join(format!("{}.json", self.group));
        let text = json!({ "rows": self.rows, "data": self.data });
        fs::write(&file, format!("{text:#}\n")).expect("target/ can be written");
    }
}

/// Returns the row as it is printed.
fn line(row: &Value) -> String {
    let figure = |key: &str| row[key].as_f64();
    let unit = row["unit"].as_str().unwrap_or_default();
    let mut line = format!(
        "{:5}{:62}{:>12} {unit:4}",
        match (row["pass"].as_bool(), figure("budget"), row["floor"]["value"].as_f64()) {
            (Some(false), Some(budget), Some(floor)) if floor > budget => "over",
            (Some(true), ..) => "pass",
            (Some(false), ..) => "FAIL",
            (None, ..) => "",
        },
        row["name"].as_str().unwrap_or_default(),
        number(figure("value").unwrap_or(f64::NAN)),
    );
    if let Some(budget) = figure("budget") {
        line += &format!("  budget {}", number(budget));
    }
    if let (Some(low), Some(high)) = (figure("p10"), figure("p90")) {
        line += &format!("  [{} .. {}]", number(low), number(high));
    }
    if let (Some(value), Some(name)) =
        (row["floor"]["value"].as_f64(), row["floor"]["name"].as_str())
    {
        line += &format!("  floor {}: {name}", number(value));
    }
    line
}

/// Formats a number with about three significant digits.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        _ if value == value.round() && value.abs() < 1e7 => format!("{value}"),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Prints every row with a budget, of all groups whose JSON files exist, and writes these rows to
/// `summary.json`.
pub(crate) fn summary() {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory()).expect("target/ can be written") {
        let path = entry.expect("target/ can be written").path();
        if path.extension().is_none_or(|extension| extension != "json")
            || path.file_stem().is_some_and(|name| name == "summary")
        {
            continue;
        }
        let text = fs::read_to_string(path).expect("target/ can be written");
        let mut group: Value = serde_json::from_str(&text).expect("the file is from this program");
        if let Value::Array(rows) = group["rows"].take() {
            all.extend(rows.into_iter().filter(|row| !row["budget"].is_null()));
        }
    }
    println!("\nThe budgets:");
    all.iter().for_each(|row| println!("{}", line(row)));
    let text = format!("{:#}\n", Value::Array(all));
    fs::write(directory().join("summary.json"), text).expect("target/ can be written");
}

/// Returns the directory of the JSON files.
pub(crate) fn directory() -> PathBuf {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let directory = target.parent().expect("the directory is in target/").join("bench");
    fs::create_dir_all(&directory).expect("target/ can be written");
    directory
}
