//! Commands of users who may not use the state or the configuration: a refusal is never told as absence.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use crate::support::{Finished, SECRET, Site, platform, program_of, write};

const NOBODY: u32 = 65_534;
/// A user that has no account.
const OTHER: u32 = 54_321;

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// The program, where every user may run it.
fn program(site: &Site) -> String {
    let program = site.path("itwin-syncd");
    if !program.exists() {
        std::fs::copy(env!("CARGO_BIN_EXE_itwin-syncd"), &program).unwrap();
        mode(&program, 0o755);
    }
    program.to_str().unwrap().to_owned()
}

async fn as_user(site: &Site, user: u32, arguments: &[&str]) -> Finished {
    let config = site.config();
    mode(&config, 0o644);
    let mut command = program_of(&program(site));
    command
        .args(arguments)
        .arg("--config")
        .arg(config)
        .env("ITWIN_SYNCD_CLIENT_SECRET", SECRET)
        .uid(user)
        .gid(user);
    Finished::from(command.output().await.unwrap())
}

#[tokio::test]
#[ignore = "needs root: run tests/all"]
async fn another_user_is_told_to_use_sudo_and_never_that_nothing_is_there() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("house.ifc"), "house");
    site.run(&["run", "--once"]).await;
    let state = site.path("state");
    mode(site.path("").as_path(), 0o755);
    let entries = std::fs::read_dir(&state).unwrap();
    for path in entries
        .map(|entry| entry.unwrap().path())
        .chain([state.clone()])
    {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    mode(&state, 0o700);
    let house = folder.join("house.ifc");
    let house = house.to_str().unwrap();
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["status", "house.ifc"],
        &["status", "--watch"],
        &["retry", "--failed"],
        &["forget", "house.ifc", "--yes"],
        &["restore", "house.ifc"],
        &["pause"],
        &["resume"],
        &["rescan"],
        &["sync"],
        &["explain", house],
        &["healthcheck"],
        &["orphans"],
        &[
            "detach",
            "north",
            "--imodel",
            "c0ffee00-1234-4abc-8def-0123456789ab",
        ],
        &["run", "--dry-run"],
        &["check"],
    ] {
        let done = as_user(&site, OTHER, arguments).await;
        let said = format!("{}{}", done.out, done.err);
        assert!(
            said.contains("run the command with sudo, or as the user nobody"),
            "{arguments:?}: {done:?}"
        );
        for absent in ["no ledger", "not running", "no daemon", "nothing"] {
            assert!(!said.contains(absent), "{arguments:?}: {done:?}");
        }
        if arguments[0] != "explain" {
            assert_eq!(done.code, Some(1), "{arguments:?}: {done:?}");
        }
    }
    // What the advice says ends it.
    let done = as_user(&site, NOBODY, &["explain", house]).await;
    assert!(done.out.contains("state: "), "{done:?}");
    assert!(!done.out.contains("sudo"), "{done:?}");
}

#[tokio::test]
#[ignore = "needs root: run tests/all"]
async fn a_configuration_that_may_not_be_read_names_its_group() {
    let (site, _folder) = Site::with_folder(platform()).await;
    mode(site.path("").as_path(), 0o755);
    let config = site.config();
    chown(&config, Some(0), Some(NOBODY)).unwrap();
    mode(&config, 0o640);
    for arguments in [&["check", "--offline"][..], &["status"], &["pause"]] {
        let mut command = program_of(&program(&site));
        command.args(arguments).arg("--config").arg(&config);
        command.uid(OTHER).gid(OTHER);
        let done = Finished::from(command.output().await.unwrap());
        let said = format!("{}{}", done.out, done.err);
        assert_eq!(done.code, Some(78), "{done:?}");
        assert!(said.contains("Permission denied"), "{done:?}");
        assert!(
            said.contains("run the command with sudo, or as a member of the group nogroup"),
            "{done:?}"
        );
    }
}

#[tokio::test]
async fn a_check_creates_nothing() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("house.ifc"), "house");
    let config = site.config();
    let before = listing(&site);
    let check = site.run(&["check"]).await;
    assert_eq!(check.code, Some(0), "{check:?}");
    assert!(
        check.out.contains("will be made by the first start"),
        "{check:?}"
    );
    assert_eq!(site.config(), config);
    assert_eq!(listing(&site), before);
}

/// The names in the folder of the site.
fn listing(site: &Site) -> Vec<std::ffi::OsString> {
    let entries = std::fs::read_dir(site.path("")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}
