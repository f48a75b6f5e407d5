//! The sources as text: long files say why, comments have one width, and replaced words stay away.

use std::fs;
use std::path::{Path, PathBuf};

use super::{files, project};

/// Longer files say in their head comment why ("Longer than most files because …").
const LINES_MAX: usize = 500;

/// Width of comments, in characters. Tables, addresses and commands may be wider.
const WIDTH: usize = 120;

/// Words that read badly, with what to write instead.
const REPLACED: [(&str, &str); 22] = [
    ("goes on", "continues"),
    ("go on", "continue"),
    ("so many", "this many, or the number"),
    ("is to be", "must be, or the plain verb"),
    ("are to be", "must be, or the plain verb"),
    ("all well", "OK"),
    ("under way", "in progress"),
    ("tells of", "reports"),
    ("is output", "is reported"),
    ("are output", "are reported"),
    ("a person", "a user, an operator"),
    ("people", "users, operators"),
    ("somebody", "another client, another user"),
    ("looked at", "read, checked, probed"),
    ("looks at", "reads, checks, probes"),
    ("held up", "delayed, blocked"),
    ("in come", "Input:"),
    ("in comes", "Input:"),
    ("out go", "Output:"),
    ("out goes", "Output:"),
    ("out come", "Output:"),
    ("left alone", "ignored, not changed"),
];

fn sources() -> Vec<PathBuf> {
    let folders = ["src", "tests", "benches"];
    let all = folders.map(|folder| files(&project().join(folder), &["rs"]));
    all.into_iter().flatten().collect()
}

fn name(path: &Path) -> String {
    let path = path.strip_prefix(project()).unwrap();
    path.display().to_string()
}

#[test]
fn a_long_source_file_says_why() {
    let mut silent = Vec::new();
    for path in files(&project().join("src"), &["rs"]) {
        let text = fs::read_to_string(&path).unwrap();
        let head = text.lines().take_while(|line| line.starts_with("//!"));
        let says_why = head
            .into_iter()
            .any(|line| line.contains("Longer than most files"));
        if text.lines().count() > LINES_MAX && !says_why {
            silent.push(name(&path));
        }
    }
    assert!(
        silent.is_empty(),
        "split it or say why it is long: {silent:#?}"
    );
}

#[test]
fn comments_have_one_width() {
    let mut wide = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            let comment = line.trim_start().strip_prefix("//");
            let may_be_wide = |text: &str| {
                text.contains("| `")
                    || text.contains("npm install")
                    || text.contains('/') && text.split(' ').count() < 8
            };
            if comment.is_some_and(|comment| !may_be_wide(comment)) && line.chars().count() > WIDTH
            {
                wide.push(format!("{}:{}", name(&path), number + 1));
            }
        }
    }
    assert!(wide.is_empty(), "more than {WIDTH} characters: {wide:#?}");
}

/// Whether `text` contains the words, not as part of others.
fn contains(text: &str, words: &str) -> bool {
    let is_letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(words).any(|(at, found)| {
        let (before, after) = (text.get(..at), text.get(at + found.len()..));
        !is_letter(before.and_then(|text| text.chars().next_back()))
            && !is_letter(after.and_then(|text| text.chars().next()))
    })
}

#[test]
fn replaced_words_stay_away() {
    let mut pages = files(&project().join("docs"), &["md"]);
    pages.extend(
        [
            "README.md",
            "ARCHITECTURE.md",
            "CONTRIBUTING.md",
            "SECURITY.md",
            "config.example.toml",
        ]
        .map(|page| project().join(page)),
    );
    pages.extend(
        sources()
            .into_iter()
            .filter(|path| !path.ends_with("documentation/source.rs")),
    );
    let mut found = Vec::new();
    for path in pages {
        let text = fs::read_to_string(&path).unwrap().to_lowercase();
        for (number, line) in text.lines().enumerate() {
            // Names of tests are text as well.
            let line = if line.trim_start().starts_with("fn ")
                || line.trim_start().starts_with("async fn ")
            {
                line.replace('_', " ")
            } else {
                line.to_owned()
            };
            for (words, instead) in REPLACED {
                if contains(&line, words) {
                    found.push(format!(
                        "{}:{}: {words:?}: write {instead}",
                        name(&path),
                        number + 1
                    ));
                }
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}
