//! What the README shows is what is there.

use base64::{Engine, prelude::BASE64_STANDARD};

#[test]
fn the_shortest_program_is_the_example() {
    let readme = include_str!("../../../README.md");
    let example = include_str!("../../../examples/replicator.rs");
    let (_, program) = example.split_once("\n\n").expect("a doc line, and then the program");
    assert!(readme.contains(&format!("```rust,no_run\n{program}```\n")), "README.md differs");
}

/// What a page of documentation shows has no files beside it.
#[test]
fn the_documentation_has_the_picture_in_it() {
    let encoded = BASE64_STANDARD.encode(include_bytes!("../../../docs/architecture.svg"));
    let picture = format!("[architecture]: data:image/svg+xml;base64,{encoded}\n");
    let shown = include_str!("../../../src/architecture.md");
    assert!(
        shown == picture,
        "docs/architecture.svg has changed: src/architecture.md is\n{picture}"
    );
}
