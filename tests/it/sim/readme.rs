//! The README and FAILURES.md show programs, pictures and tests that exist.

use std::{fs, path::Path};

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::rooms::source_files;

#[test]
fn the_shortest_program_matches_the_example() {
    let readme = include_str!("../../../README.md");
    let example = include_str!("../../../examples/replicator.rs");
    let (_, program) =
        example.split_once("\n\n").expect("the example begins with a doc line and an empty line");
    assert!(readme.contains(&format!("```rust,no_run\n{program}```\n")), "README.md differs");
}

/// A page of the documentation cannot refer to a file next to it, so the page embeds the picture.
#[test]
fn the_documentation_contains_the_picture() {
    let encoded = BASE64_STANDARD.encode(include_bytes!("../../../docs/architecture.svg"));
    let picture = format!("[architecture]: data:image/svg+xml;base64,{encoded}\n");
    let shown = include_str!("../../../src/architecture.md");
    assert!(
        shown == picture,
        "docs/architecture.svg has changed: src/architecture.md must be\n{picture}"
    );
}

#[test]
fn the_tests_named_in_failures_md_exist() {
    let mut files = Vec::new();
    for directory in ["src", "tests"] {
        source_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(directory), &mut files);
    }
    let code: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let is_module = |name: &str| files.iter().any(|file| file.file_stem().unwrap() == name);
    let rows =
        include_str!("../../../FAILURES.md").lines().filter_map(|line| line.strip_suffix(" |"));
    let tests = rows.filter_map(|row| row.rsplit(" | ").next());
    // Every second part is between backticks. Names of tests have an underscore.
    let names = tests.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let names: Vec<&str> =
        names.filter(|name| name.contains('_') && !name.contains("::")).collect();
    assert!(names.len() > 60, "only {} names were found", names.len());
    let is_function =
        |name: &str| ["(", "<"].iter().any(|after| code.contains(&format!("fn {name}{after}")));
    let exists = |name: &str| is_module(name) || is_function(name);
    let missing: Vec<&str> = names.into_iter().filter(|name| !exists(name)).collect();
    assert!(missing.is_empty(), "FAILURES.md names tests that do not exist: {missing:?}");
}
