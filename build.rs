//! Tells the compiler the commit and its date, for `itwin-syncd --version`, and the migrations of the ledger.
//!
//! The commit is that of a git checkout, an archive made by `git archive` (`.commit`, filled by `.gitattributes`), or a crate
//! (`.cargo_vcs_info.json`, without a date). The date is that of the commit, so that builds are reproducible. A debug build
//! does not look: each commit would compile everything again. Where nothing is known, the version is the number alone.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The SQL of each engine, named as in the code.
const MIGRATIONS: [(&str, &str); 2] = [
    ("SQLITE", "src/ledger/migrations"),
    ("POSTGRES", "src/ledger/migrations/postgres"),
];

fn main() -> Result<(), Box<dyn Error>> {
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
    let lists = MIGRATIONS.map(|(name, folder)| list_of_migrations(name, folder));
    let lists = lists.into_iter().collect::<Result<String, _>>()?;
    let file = Path::new(&std::env::var("OUT_DIR")?).join("migrations.rs");
    Ok(fs::write(file, lists)?)
}

/// The files `VERSION_DESCRIPTION.sql` of a folder as a constant: version, description and SQL of each.
fn list_of_migrations(name: &str, folder: &str) -> Result<String, Box<dyn Error>> {
    println!("cargo:rerun-if-changed={folder}");
    let mut migrations = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path().canonicalize()?;
        if path.is_dir() {
            continue;
        }
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let (version, description) = file
            .strip_suffix(".sql")
            .and_then(|stem| stem.split_once('_'))
            .and_then(|(version, rest)| Some((version.parse::<i64>().ok()?, rest)))
            .ok_or_else(|| format!("{folder}/{file} is not named VERSION_DESCRIPTION.sql"))?;
        let description = description.replace('_', " ");
        migrations.push((version, description, path));
    }
    // The same order on every machine: builds are reproducible.
    migrations.sort();
    let mut list = format!("const {name}: &[(i64, &str, &str)] = &[\n");
    for (version, description, path) in migrations {
        list += &format!("    ({version}, {description:?}, include_str!({path:?})),\n");
    }
    Ok(list + "];\n")
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
