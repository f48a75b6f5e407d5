//! Compares what describes the packages: the texts of the Debian package and the RPM, the units, and the version that
//! `build.rs` gives the program. `tests/systemd` compares their files.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::project;

fn read(path: &str) -> String {
    fs::read_to_string(project().join(path)).unwrap()
}

#[test]
fn both_packages_print_the_same_next_steps() {
    let text = |script: &str| {
        let script = read(script);
        let text = script.split("TEXT").nth(1).unwrap();
        text.lines()
            .skip(1)
            .map(|line| line.trim_end().to_owned())
            .collect::<Vec<_>>()
    };
    let deb = text("packaging/deb/postinst");
    assert!(deb.len() > 5);
    assert_eq!(deb, text("packaging/rpm/itwin-syncd.spec"));
}

#[test]
fn both_packages_are_described_alike() {
    // The first field of this name, with the lines that continue it.
    let field = |file: &str, name: &str| {
        let text = read(file);
        let start = text.find(name).unwrap() + name.len();
        let words = text.split_at(start).1.split("\n\n").next().unwrap();
        words.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let spec = "packaging/rpm/itwin-syncd.spec";
    let deb = field("packaging/deb/control", "\nDescription: ");
    let (summary, text) = deb.split_once(" Watches shared").unwrap();
    assert!(read(spec).contains(&format!("\nSummary:    {summary}\n")));
    assert_eq!(
        format!("Watches shared{text}"),
        field(spec, "%description\n")
    );
}

#[test]
fn the_unit_of_several_accounts_differs_from_the_unit_only_in_its_folders() {
    let directives = |unit: &str| -> Vec<String> {
        let text = read(unit);
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    };
    let expected: Vec<_> = directives("systemd/itwin-syncd.service")
        .iter()
        .map(|line| match line.as_str() {
            "ConfigurationDirectory=itwin-syncd" => line.clone() + "/%i",
            "StateDirectory=itwin-syncd" | "LogsDirectory=itwin-syncd" => line.clone() + "-%i",
            line if line.starts_with("Description=") => line.to_owned() + ", account %i",
            line => line.replace("/client-secret", "/%i/client-secret"),
        })
        .collect();
    assert_eq!(directives("systemd/itwin-syncd@.service"), expected);
}

#[test]
fn the_version_has_the_commit_of_a_checkout_an_archive_or_a_crate() {
    let scratch = tempfile::tempdir().unwrap();
    let script = scratch.path().join("build");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let compiled = Command::new(rustc)
        .args(["--edition=2024", "-o"])
        .args([&script, &project().join("build.rs")])
        .status();
    assert!(compiled.unwrap().success());
    let origin = |folder: &Path, profile: &str| {
        let mut command = Command::new(&script);
        command.current_dir(folder).env("PROFILE", profile);
        let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let mut lines = output.lines();
        let line = lines.find_map(|line| line.strip_prefix("cargo:rustc-env=ITWIN_SYNCD_ORIGIN="));
        line.unwrap().to_owned()
    };

    let folder = scratch.path().join("source");
    fs::create_dir(&folder).unwrap();
    assert_eq!(origin(&folder, "release"), "", "nothing is known");
    let crate_info = r#"{ "git": { "sha1": "1c845e6b0b2d1d7e0f2b6f7f1f2a3b4c5d6e7f80" } }"#;
    fs::write(folder.join(".cargo_vcs_info.json"), crate_info).unwrap();
    fs::write(folder.join(".commit"), read(".commit")).unwrap();
    assert_eq!(origin(&folder, "release"), "1c845e6", "a crate");
    assert_eq!(origin(&folder, "debug"), "debug build");

    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.current_dir(&folder).args(arguments);
        for role in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{role}_NAME"), "test");
            command.env(format!("GIT_{role}_EMAIL"), "test@localhost");
            command.env(format!("GIT_{role}_DATE"), "2026-01-02T12:00:00Z");
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    fs::write(folder.join(".gitattributes"), read(".gitattributes")).unwrap();
    git(&["init", "--quiet"]);
    git(&["add", "."]);
    git(&["commit", "--quiet", "--message=first"]);
    let commit = String::from_utf8(git(&["rev-parse", "HEAD"])).unwrap();
    let expected = format!("{} 2026-01-02", commit.split_at(7).0);
    assert_eq!(origin(&folder, "release"), expected, "a checkout");

    let inner = folder.join("other project");
    fs::create_dir(&inner).unwrap();
    assert_eq!(
        origin(&inner, "release"),
        "",
        "the checkout of another project"
    );

    let archive = scratch.path().join("archive.tar");
    fs::write(&archive, git(&["archive", "HEAD"])).unwrap();
    let unpacked = scratch.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    let tar = Command::new("tar")
        .arg("--extract")
        .arg("--file")
        .arg(&archive)
        .arg("--directory")
        .arg(&unpacked)
        .status();
    assert!(tar.unwrap().success());
    assert_eq!(origin(&unpacked, "release"), expected, "an archive");
}
