//! Who may use a path that this process may not: for messages, so that a refusal is never told as absence.
//!
//! Reads owners and modes only. What it says is about the first folder of the path that refuses, or about its end.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User};
use rustix::fs::{Access, AtFlags};

/// Who owns what refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owners {
    user: String,
    /// Only if its members have access.
    group: Option<String>,
}

/// What to do about a refusal of the operating system to let this process use `path`, such as "run the command with
/// sudo, or as the user itwin-syncd".
pub(crate) fn advice(path: &Path) -> String {
    text(refusing(path).as_ref())
}

/// The same for a command that needs `other` as well, if that is there: a group only helps if it may use both.
pub(crate) fn advice_for_both(path: &Path, other: &Path) -> String {
    text(of_both(refusing(path), refusing(other)).as_ref())
}

fn of_both(one: Option<Owners>, other: Option<Owners>) -> Option<Owners> {
    let mut one = one?;
    if other.is_some_and(|other| other.group != one.group) {
        one.group = None;
    }
    Some(one)
}

fn text(owners: Option<&Owners>) -> String {
    let mut others = Vec::new();
    if let Some(Owners { user, group }) = owners {
        if user != "root" {
            others.push(format!("as the user {user}"));
        }
        if let Some(group) = group.as_ref().filter(|group| *group != "root") {
            others.push(format!("as a member of the group {group}"));
        }
    }
    match others.join(" or ") {
        none if none.is_empty() => "run the command with sudo".to_owned(),
        others => format!("run the command with sudo, or {others}"),
    }
}

/// The name of the user, or the number when there is none.
pub(crate) fn user_name(id: u32) -> String {
    match User::from_uid(Uid::from_raw(id)) {
        Ok(Some(user)) => user.name,
        Ok(None) | Err(_) => format!("#{id}"),
    }
}

fn group_name(id: u32) -> String {
    match Group::from_gid(Gid::from_raw(id)) {
        Ok(Some(group)) => group.name,
        Ok(None) | Err(_) => format!("#{id}"),
    }
}

/// The owners of the first folder of the path that this process may not enter, or of its end.
fn refusing(path: &Path) -> Option<Owners> {
    let path = std::path::absolute(path).ok()?;
    let mut folders: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_owned).collect();
    folders.reverse();
    for folder in folders {
        let entered =
            rustix::fs::accessat(rustix::fs::CWD, &folder, Access::EXEC_OK, AtFlags::EACCESS);
        if entered.is_err() {
            return Some(owners(&folder.metadata().ok()?, 0o010));
        }
    }
    Some(owners(&path.metadata().ok()?, 0o040))
}

fn owners(found: &Metadata, group_may: u32) -> Owners {
    Owners {
        user: user_name(found.uid()),
        group: (found.mode() & group_may != 0).then(|| group_name(found.gid())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_names_who_has_access_beside_root() {
        let owners = |user: &str, group: Option<&str>| Owners {
            user: user.to_owned(),
            group: group.map(ToOwned::to_owned),
        };
        let mut table = String::new();
        for found in [
            None,
            Some(owners("root", None)),
            Some(owners("root", Some("root"))),
            Some(owners("itwin-syncd", None)),
            Some(owners("root", Some("itwin-syncd"))),
            Some(owners("itwin-syncd", Some("cad"))),
        ] {
            table += &text(found.as_ref());
            table += "\n";
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn a_group_that_may_use_only_one_of_two_files_is_no_advice() {
        let owners = |group: Option<&str>| {
            let group = group.map(ToOwned::to_owned);
            let user = "root".to_owned();
            Some(Owners { user, group })
        };
        let file = || owners(Some("itwin-syncd"));
        for (other, has_group) in [
            (None, true),
            (owners(Some("itwin-syncd")), true),
            (owners(None), false),
            (owners(Some("cad")), false),
        ] {
            let both = of_both(file(), other.clone()).unwrap();
            assert_eq!(both.group.is_some(), has_group, "{other:?}");
        }
        assert_eq!(of_both(None, file()), None);
    }

    #[test]
    fn a_folder_whose_group_may_enter_it_names_the_group() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        for (mode, has_group) in [(0o700, false), (0o710, true), (0o750, true)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
            let found = owners(&path.metadata().unwrap(), 0o010);
            assert_eq!(found.group.is_some(), has_group, "{mode:o}");
        }
    }
}
