//! A room (a top-level module of `src`) uses only the rooms before it in `ROOMS`: see
//! CONTRIBUTING.md.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The rooms, from the lowest to the highest. A room uses itself and the rooms before it.
const ROOMS: [&[&str]; 9] = [
    // The modules that every room may use.
    &["error", "foreign", "sync"],
    &["libquorum"],
    &["link"],
    &["state"],
    &["metrics", "json"],
    &["registry"],
    &["actor"],
    &["sim", "testing"],
    &["web"],
];

fn rank(room: &str) -> Option<usize> {
    ROOMS.iter().position(|rooms| rooms.contains(&room))
}

/// Adds the Rust files of a directory and of the directories in it.
pub(crate) fn source_files(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            source_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Returns the names that follow `crate::` in this code, including names in braces, but not in
/// comments.
fn names_of_the_root(code: &str) -> Vec<String> {
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    let code: String = code.lines().filter(is_code).flat_map(|line| [line, "\n"]).collect();
    let name = |text: &str| -> String {
        text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
    };
    let mut names = Vec::new();
    for (_, after) in
        code.match_indices("crate::").map(|(at, found)| (at, &code[at + found.len()..]))
    {
        let Some(group) = after.strip_prefix('{') else {
            names.push(name(after));
            continue;
        };
        let mut depth = 0;
        let mut item = String::new();
        for letter in group.chars() {
            match letter {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    names.push(name(item.trim()));
                    item.clear();
                    continue;
                }
                _ => {}
            }
            item.push(letter);
        }
        names.push(name(item.trim()));
    }
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn a_room_uses_only_the_rooms_before_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    source_files(&source, &mut files);
    let mut found = Vec::new();
    let mut checked = 0;
    for file in &files {
        let path = file.strip_prefix(&source).unwrap();
        let first = path.iter().next().unwrap().to_str().unwrap();
        let room = first.trim_end_matches(".rs");
        if room == "lib" {
            continue;
        }
        let own = rank(room).unwrap_or_else(|| panic!("{room} is not in ROOMS: add it"));
        for name in names_of_the_root(&fs::read_to_string(file).unwrap()) {
            checked += 1;
            match rank(&name) {
                Some(rank) if rank < own || name == room => {}
                Some(_) => found.push(format!("{} uses crate::{name}", path.display())),
                None => found.push(format!(
                    "{} uses crate::{name}, which is not a room: use the path through its room",
                    path.display()
                )),
            }
        }
    }
    assert!(
        found.is_empty(),
        "a room uses only the rooms before it in ROOMS:\n{}",
        found.join("\n")
    );
    assert!(checked > 100, "only {checked} names were found");
}

#[test]
fn no_source_file_has_more_than_500_lines_excluding_its_tests() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    source_files(&source, &mut files);
    files.retain(|file| !file.ends_with("tests.rs"));
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        let lines = code.lines().count();
        assert!(lines <= 500, "{} has {lines} lines: split it", file.display());
    }
}

#[test]
fn names_in_braces_are_found_and_names_in_comments_are_not() {
    let code =
        "use crate::{error::{Code, Error}, state};\n// crate::web\nlet _ = crate::link::a();";
    assert_eq!(names_of_the_root(code), ["error", "state", "link"]);
}
