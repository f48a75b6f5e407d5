//! Compares the documentation with the files of the project: links, paths, messages and names of tests.
//!
//! The keys of the configuration are compared in `src/config/tests.rs`, the fields of `status --json` in
//! `tests/daemon/operator.rs`, the emulator's operations in `tests/emulator/contract.rs`.
//! The description of the packages is compared in `packages.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod packages;
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `folder` with one of these extensions.
fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let extension = path.extension().unwrap_or_default();
        if path.is_dir() {
            found.extend(files(&path, extensions));
        } else if extensions.iter().any(|wanted| extension == *wanted) {
            found.push(path);
        }
    }
    found
}

/// Every page: those at the top, and those in `docs` and `tests`.
fn pages() -> Vec<PathBuf> {
    let top = fs::read_dir(project()).unwrap();
    let mut pages: Vec<_> = top
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    pages.extend(files(&project().join("docs"), &["md"]));
    pages.push(project().join("tests/README.md"));
    pages
}

/// The page without its code blocks.
fn prose(page: &Path) -> String {
    let text = fs::read_to_string(page).unwrap();
    let parts = text.split("\n```").step_by(2);
    parts.collect::<Vec<_>>().join("\n")
}

/// The parts of `text` between the two marks.
fn between<'t>(text: &'t str, open: &'t str, close: &'t str) -> impl Iterator<Item = &'t str> {
    text.split(open)
        .skip(1)
        .filter_map(move |rest| rest.split_once(close).map(|(inner, _)| inner))
}

/// The text in backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    heading
        .trim()
        .to_lowercase()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
            _ => None,
        })
        .collect()
}

fn anchors(page: &Path) -> BTreeSet<String> {
    prose(page)
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_start_matches('#')))
        .collect()
}

#[test]
fn every_link_has_a_target() {
    let mut broken = Vec::new();
    for page in pages() {
        let text = prose(&page);
        for link in between(&text, "](", ")").filter(|link| !link.contains("://")) {
            let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() {
                page.clone()
            } else {
                page.parent().unwrap().join(path)
            };
            let found =
                target.exists() && (fragment.is_empty() || anchors(&target).contains(fragment));
            if !found {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_named_source_file_exists() {
    let mut missing = Vec::new();
    for page in pages() {
        let text = prose(&page);
        for name in
            code(&text).filter(|name| name.starts_with("src/") || name.starts_with("tests/"))
        {
            if !name.contains(['…', '*']) && !project().join(name).exists() {
                missing.push(format!("{}: {name}", page.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// The texts of the program, without the escapes of Rust.
fn source() -> String {
    let mut source = String::new();
    for file in files(&project().join("src"), &["rs", "js"]) {
        let text = fs::read_to_string(&file).unwrap();
        source.push_str(&text.replace("\\\n", "").replace("\\\"", "\""));
        source.push('\n');
    }
    source.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_page_of_connectors_has_the_built_in_table() {
    use itwin_syncd::connector_type::ConnectorType;
    use itwin_syncd::selection::{Selection, built_in_connectors};
    let page = std::fs::read_to_string(project().join("docs/connectors.md")).unwrap();
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| extension |"))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let expected: Vec<(&str, String)> = built_in_connectors()
        .map(|(extension, connector)| {
            let file = format!("file.{extension}");
            let mark = if ConnectorType::new(connector).is_retired() {
                " (retired)"
            } else if Selection::default()
                .decide(Path::new(&file))
                .guess()
                .is_some()
            {
                " (guess)"
            } else {
                ""
            };
            (extension, format!("{connector}{mark}"))
        })
        .collect();
    let documented = rows.iter().map(|cells| (cells[1], cells[2].to_owned()));
    assert_eq!(documented.collect::<Vec<_>>(), expected);

    let test = std::fs::read_to_string(project().join("tests/daemon/real_files.rs")).unwrap();
    let files = between(&test, "const FILES", "];").next().unwrap();
    let tried: BTreeSet<&str> = files
        .split('"')
        .skip(1)
        .step_by(2)
        .filter_map(|path| path.rsplit_once('.').map(|(_, extension)| extension))
        .collect();
    let documented = rows
        .iter()
        .filter(|cells| cells[5] == "yes")
        .map(|cells| cells[1]);
    assert_eq!(documented.collect::<BTreeSet<_>>(), tried);
}

#[test]
fn every_message_of_the_troubleshooting_page_is_in_the_source() {
    let source = source();
    let page = fs::read_to_string(project().join("docs/troubleshooting.md")).unwrap();
    let mut missing = Vec::new();
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    for row in rows.filter(|row| !row.contains("(from systemd)")) {
        let message = code(row).next().unwrap();
        let fixed = message
            .split('…')
            .map(|part| part.trim_matches([' ', ',', ':', '"']));
        if !fixed
            .filter(|part| !part.is_empty())
            .all(|part| source.contains(part))
        {
            missing.push(message);
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// The module of a source file: its name, or that of its folder if the file is called `tests.rs`.
fn module(file: &Path) -> &str {
    let folder = file.parent().unwrap();
    let named = if file.file_stem().unwrap() == "tests" {
        folder
    } else {
        file
    };
    named.file_stem().unwrap().to_str().unwrap()
}

#[test]
fn every_test_that_the_readme_of_the_tests_names_exists() {
    let sources = ["src", "tests"].map(|folder| files(&project().join(folder), &["rs"]));
    let sources: Vec<_> = sources
        .iter()
        .flatten()
        .map(|file| (module(file), fs::read_to_string(file).unwrap()))
        .collect();
    let page = fs::read_to_string(project().join("tests/README.md")).unwrap();
    let mut missing = Vec::new();
    for name in code(&page).filter(|name| name.contains("::") && !name.contains(' ')) {
        let mut parts = name.rsplit("::").filter(|part| *part != "tests");
        let test = parts.next().and_then(|test| test.split('…').next());
        let (Some(test), Some(home)) = (test, parts.next()) else {
            continue;
        };
        let wanted = format!("fn {}", test.trim_matches('*'));
        let found = sources
            .iter()
            .any(|(module, text)| *module == home && (test == "*" || text.contains(&wanted)));
        if !found && test.contains(['_', '*']) {
            missing.push(name.to_owned());
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_metric_of_the_rules_and_the_dashboard_exists() {
    let source = source();
    let mut missing = Vec::new();
    for page in ["docs/alert-rules.yml", "docs/grafana-dashboard.json"] {
        let text = fs::read_to_string(project().join(page)).unwrap();
        for after in text.split("itwin_syncd_").skip(1) {
            let end = after.find(|c: char| !c.is_ascii_lowercase() && c != '_');
            let (name, _) = after.split_at(end.unwrap_or(after.len()));
            let family = ["_bucket", "_count", "_sum"]
                .iter()
                .find_map(|part| name.strip_suffix(part))
                .unwrap_or(name);
            if ![name, family]
                .iter()
                .any(|name| source.contains(&format!("\"{name}\"")))
            {
                missing.push(format!("{page}: {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}
