//! Tells the compiler the commit and its date, for `itwin-syncd --version`.
//!
//! Of a git checkout, an archive made by `git archive` (`.commit`, filled by `.gitattributes`), or a crate
//! (`.cargo_vcs_info.json`, without a date). The date is that of the commit, so that builds are reproducible. A debug build
//! does not look: each commit would compile everything again. Where nothing is known, the version is the number alone.

use std::fs;
use std::path::Path;
use std::process::Command;

fn main() {
    // Cargo would run this again at every build for a file that does not exist.
    for file in ["build.rs", ".commit", ".cargo_vcs_info.json"] {
        if Path::new(file).exists() {
            println!("cargo:rerun-if-changed={file}");
        }
    }
    let origin = if std::env::var("PROFILE").as_deref() == Ok("release") {
        of_archive()
            .or_else(of_checkout)
            .or_else(of_crate)
            .unwrap_or_default()
    } else {
        "debug build".to_owned()
    };
    println!("cargo:rustc-env=ITWIN_SYNCD_ORIGIN={origin}");
}

/// `.commit` of an archive: the full commit and the date.
fn of_archive() -> Option<String> {
    let text = fs::read_to_string(".commit").ok()?;
    let (commit, date) = text.trim().split_once(' ')?;
    Some(format!("{} {date}", short(commit)?))
}

/// The checkout in this folder; one around it is that of another project.
fn of_checkout() -> Option<String> {
    if !Path::new(".git").exists() {
        return None;
    }
    // Changes with every commit and checkout.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo:rerun-if-changed={log}");
    }
    let text = git(&["show", "--no-patch", "--format=%H %cs", "HEAD"])?;
    let (commit, date) = text.split_once(' ')?;
    Some(format!("{} {date}", short(commit)?))
}

/// What `cargo package` adds: `{"git": {"sha1": "…"}}`.
fn of_crate() -> Option<String> {
    let text = fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let commit = text.split("\"sha1\"").nth(1)?.split('"').nth(1)?;
    short(commit).map(str::to_owned)
}

/// The first seven digits of a commit; nothing for other text, such as the placeholder in `.commit`.
fn short(commit: &str) -> Option<&str> {
    let is_commit = commit.len() >= 7 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    commit.get(..7).filter(|_| is_commit)
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
