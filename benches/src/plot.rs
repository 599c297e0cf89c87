//! The plots in `docs/`, from the figures in `target/bench/`.

use std::{fmt::Write, fs, path::Path};

use serde_json::Value;

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 330.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 50.0;

/// Colours that readers can tell apart without seeing red and green.
const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#000000"];

/// The name of a line, and its points.
type Line = (String, Vec<(f64, f64)>);

/// Draws the plots of all groups whose figures exist.
pub(crate) fn run() {
    let read = |group: &str| -> Option<Value> {
        let text = fs::read_to_string(crate::report::directory().join(format!("{group}.json")));
        serde_json::from_str(&text.ok()?).ok()
    };
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    fs::create_dir_all(&docs).expect("the repository can be written");
    if let Some(figures) = read("fanout") {
        scaling(&docs, &figures["data"]["scaling"]);
    }
    for (group, file, title, across) in [
        (
            "rates",
            "rates.svg",
            "The CPU time of a process for a flip",
            ("flips a second", [0.0, 5.0]),
        ),
        (
            "members",
            "members.svg",
            "The CPU time of a thread for a change",
            ("members", [0.0, 3.0]),
        ),
    ] {
        if let Some(figures) = read(group) {
            let lines = lines(&figures["data"][group], "x", "y");
            let text = chart(title, across, ("µs", [0.0, 4.0]), &lines);
            fs::write(docs.join(file), text).expect("the repository can be written");
        }
    }
    if let Some(figures) = read("flips") {
        for (key, distributions) in figures["data"].as_object().into_iter().flatten() {
            // The file shows the longer pause between flips, which is the usual case.
            if key.ends_with("apart, every 2ms") {
                latency(&docs, distributions);
            }
        }
    }
}

/// Draws the time of a publication by the number of subscribers.
fn scaling(docs: &Path, points: &Value) {
    let points = points.as_array().expect("a list");
    for (same, file, arbiter) in
        [(true, "fan-out-same.svg", "the publisher's"), (false, "fan-out-other.svg", "another")]
    {
        let points = points.iter().filter(|point| point["same"] == same);
        let lines = lines(&points.cloned().collect(), "count", "time");
        let title = format!("One change to N subscribers on {arbiter} arbiter");
        let up = "µs until the last handler has run";
        let text = chart(&title, ("subscribers", [0.0, 5.0]), (up, [0.0, 6.0]), &lines);
        fs::write(docs.join(file), text).expect("the repository can be written");
    }
}

/// Returns one line for each series of the points.
fn lines(points: &Value, across: &str, up: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for point in points.as_array().into_iter().flatten() {
        let name = point["series"].as_str().expect("a name");
        let point = (point[across].as_f64(), point[up].as_f64());
        let (Some(across), Some(up)) = point else { continue };
        match lines.iter_mut().find(|(other, _)| other == name) {
            Some((_, line)) => line.push((across, up)),
            None => lines.push((name.to_owned(), vec![(across, up)])),
        }
    }
    lines
}

/// Draws the distribution of the delay of a flip, relative to its arrival at the C client.
fn latency(docs: &Path, distributions: &Value) {
    let mut text = head(
        "Delay of a flip relative to a blocked C client, Corosync and the clients on a core each",
    );
    let (low, high) = (-50.0, 100.0);
    let x = |us: f64| LEFT + (us.clamp(low, high) - low) / (high - low) * (WIDTH - LEFT - RIGHT);
    let y = |part: f64| HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM);
    for tick in [-50.0, -25.0, 0.0, 25.0, 50.0, 75.0, 100.0] {
        grid(&mut text, (x(tick), y(0.0)), (x(tick), y(1.0)));
        label(&mut text, (x(tick), y(0.0) + 18.0), "middle", &format!("{tick}"));
    }
    for part in [0.0, 0.25, 0.5, 0.75, 1.0] {
        grid(&mut text, (x(low), y(part)), (x(high), y(part)));
        label(&mut text, (LEFT - 8.0, y(part) + 4.0), "end", &format!("{} %", part * 100.0));
    }
    label(&mut text, (x(25.0), HEIGHT - 12.0), "middle", "µs");
    let with_work = |line: &&Value| line["name"].as_str().is_some_and(|name| name.contains("work"));
    let lines = distributions.as_array().expect("a list").iter().skip(1);
    let lines = lines.filter(|line| !with_work(line));
    for (index, line) in lines.enumerate() {
        let values: Vec<f64> =
            line["values"].as_array().expect("a list").iter().filter_map(Value::as_f64).collect();
        // A hundred points show the same line as thousands.
        let points: Vec<(f64, f64)> = (0..=100_usize)
            .map(|part| (x(values[(values.len() - 1) * part / 100]), y(part as f64 / 100.0)))
            .collect();
        draw(&mut text, index, line["name"].as_str().expect("a name"), &points);
    }
    fs::write(docs.join("latency.svg"), text + "</svg>\n").expect("the repository can be written");
}

/// Returns a chart with two logarithmic axes. Each has a label and a range of powers of ten.
fn chart(title: &str, across: (&str, [f64; 2]), up: (&str, [f64; 2]), lines: &[Line]) -> String {
    let mut text = head(title);
    let place = |value: f64, [low, high]: [f64; 2]| {
        (value.max(1e-3).log10().clamp(low, high) - low) / (high - low)
    };
    let x = |value: f64| LEFT + place(value, across.1) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - place(value, up.1) * (HEIGHT - TOP - BOTTOM);
    for power in 0..=6 {
        let value = 10_f64.powi(power);
        if f64::from(power) <= across.1[1] {
            grid(&mut text, (x(value), y(1.0)), (x(value), y(1e9)));
            label(&mut text, (x(value), HEIGHT - BOTTOM + 18.0), "middle", &format!("{value}"));
        }
        if f64::from(power) <= up.1[1] {
            grid(&mut text, (x(1.0), y(value)), (x(1e9), y(value)));
            label(&mut text, (LEFT - 8.0, y(value) + 4.0), "end", &format!("{value}"));
        }
    }
    label(&mut text, ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 12.0), "middle", across.0);
    label(&mut text, (LEFT, TOP - 10.0), "start", up.0);
    for (index, (name, line)) in lines.iter().enumerate() {
        let points: Vec<_> = line.iter().map(|(across, up)| (x(*across), y(*up))).collect();
        draw(&mut text, index, name, &points);
    }
    text + "</svg>\n"
}

/// Returns the beginning of an SVG file.
fn head(title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\" role=\"img\" aria-label=\"{title}\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\" font-weight=\"bold\">{title}</text>\n"
    )
}

/// Adds a line of the grid.
fn grid(text: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    let at = format!("x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"");
    writeln!(text, "<line {at} stroke=\"#ddd\"/>").expect("a string can be written");
}

/// Adds a text.
fn label(text: &mut String, (x, y): (f64, f64), anchor: &str, words: &str) {
    let at = format!("x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\"");
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    writeln!(text, "<text {at}>{words}</text>").expect("a string can be written");
}

/// Adds a line and its entry in the legend.
fn draw(text: &mut String, index: usize, name: &str, points: &[(f64, f64)]) {
    let colour = COLOURS[index % COLOURS.len()];
    let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let line = format!("<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"");
    writeln!(text, "{line} points=\"{}\"/>", points.join(" ")).expect("a string can be written");
    let (x, y) = (WIDTH - RIGHT + 14.0, TOP + 12.0 + 18.0 * index as f64);
    let at = format!("x=\"{x:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\"", y - 9.0);
    writeln!(text, "<rect {at} fill=\"{colour}\"/>").expect("a string can be written");
    label(text, (x + 15.0, y), "start", name);
}
