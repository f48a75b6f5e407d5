//! What is pushed: the paths of the command line, grouped by the folder that their names in storage are relative to.
//!
//! A file is stored under its own name, and the files of a folder under their paths in it, wherever they are on this
//! machine: a push from another folder updates the same storage files. [`group`] decides without I/O; [`Targets::find`]
//! reads the disk, and refuses what cannot be pushed before anything is sent.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::config::Watch;
use crate::connector_type::ConnectorType;
use crate::ledger::Ready;
use crate::names::{self, QuotedPath, Unstorable};
use crate::selection::{Depth, Listing, Scope, Selection, Verdict};
use crate::watch;

/// The most files of one push.
const FILES_MAX: usize = 100_000;

/// Why nothing is pushed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{}: no such file or folder", QuotedPath(.0))]
    Missing(PathBuf),
    #[error("cannot open {}", QuotedPath(path))]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} is not a regular file or folder", QuotedPath(.0))]
    Special(PathBuf),
    #[error("{}: no connector for its extension", QuotedPath(.0))]
    NoConnector(PathBuf),
    #[error("{}: ignored, {reason}", QuotedPath(path))]
    Ignored { path: PathBuf, reason: String },
    #[error("{} cannot be stored: {why}", QuotedPath(path))]
    Name { path: PathBuf, why: Unstorable },
    #[error("{} is empty", QuotedPath(.0))]
    Empty(PathBuf),
    #[error("no design file in {}", QuotedPath(.0))]
    NothingIn(PathBuf),
    #[error(
        "{} and {} would have the same place in storage",
        QuotedPath(one),
        QuotedPath(other)
    )]
    SamePlace { one: PathBuf, other: PathBuf },
    #[error("more than {FILES_MAX} files")]
    TooMany,
}

impl Error {
    pub(super) fn hint(&self) -> String {
        let hint = match self {
            Self::Missing(_) | Self::Unreadable { .. } => "check the path and its permissions",
            Self::Special(_) => "name the file itself instead of a link to it",
            Self::NoConnector(path) => {
                let is_plain = |text: &&str| text.chars().all(|c| c.is_ascii_alphanumeric());
                let extension = path.extension().and_then(OsStr::to_str);
                let Some(extension) = extension.filter(is_plain) else {
                    return "set its connector type, such as --connector MSTN, or pass it with --reference to store it \
                            only; types: docs/connectors.md"
                        .to_owned();
                };
                return format!(
                    "set its connector type, such as --connector {extension}=MSTN, or pass it with --reference to \
                     store it only; types: docs/connectors.md"
                );
            }
            Self::Ignored { .. } | Self::Name { .. } => "save it under another name",
            Self::Empty(_) => "push it when it has content",
            Self::NothingIn(_) => {
                "set connector types of other extensions with --connector EXT=TYPE"
            }
            Self::SamePlace { .. } => {
                "push them one after the other, each with a --storage-folder of its own"
            }
            Self::TooMany => {
                "push the folders one after the other, or watch them with `itwin-syncd run`"
            }
        };
        hint.to_owned()
    }
}

/// What a path of the command line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    Reference,
}

/// Files whose names in storage are relative to the same folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// That folder.
    pub(super) root: PathBuf,
    /// Whether all of it is pushed.
    is_folder: bool,
    /// The files that were named, relative to the root.
    files: BTreeMap<PathBuf, Listing>,
}

/// A file that is pushed.
#[derive(Debug)]
pub(super) struct Target {
    /// Relative to the root of its group.
    pub(super) path: PathBuf,
    /// On disk.
    pub(super) full: PathBuf,
    pub(super) connector: Option<ConnectorType>,
}

/// The files of a group that were found, and the watch of its pass, which takes just these.
#[derive(Debug)]
pub(super) struct FoundGroup {
    pub(super) watch: Watch,
    pub(super) files: Vec<Target>,
    listed: BTreeMap<PathBuf, Listing>,
}

/// Everything that is pushed.
#[derive(Debug)]
pub(super) struct Targets {
    pub(super) groups: Vec<FoundGroup>,
}

impl FoundGroup {
    /// Leaves out the other files, also for the watch.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Target) -> bool) {
        self.files.retain(|target| {
            let is_kept = keep(target);
            if !is_kept {
                self.listed.remove(&target.path);
            }
            is_kept
        });
        self.watch.scope = self.watch.scope.clone().limited_to(self.listed.clone());
    }
}

/// Groups absolute paths by the folder that their names in storage are relative to: a named folder, or the one that
/// contains a named file. What is below a named folder belongs to it.
pub(super) fn group(paths: &[(PathBuf, Kind)]) -> Vec<Group> {
    let mut groups: BTreeMap<PathBuf, Group> = BTreeMap::new();
    let add = |groups: &mut BTreeMap<PathBuf, Group>, root: &Path, is_folder: bool| {
        let group = groups.entry(root.to_owned()).or_insert_with(|| Group {
            root: root.to_owned(),
            is_folder,
            files: BTreeMap::new(),
        });
        group.is_folder |= is_folder;
    };
    let folders: Vec<&PathBuf> = paths
        .iter()
        .filter(|(_, kind)| *kind == Kind::Folder)
        .map(|(path, _)| path)
        .collect();
    // The outermost folder that contains a path.
    let outer = |path: &Path| {
        let containing = folders.iter().filter(|folder| path.starts_with(folder));
        containing.min_by_key(|folder| folder.components().count())
    };
    for (path, kind) in paths {
        let root = match outer(path) {
            Some(folder) => folder.as_path(),
            None => path.parent().unwrap_or(path),
        };
        add(&mut groups, root, *kind == Kind::Folder);
        let (Some(group), Ok(below)) = (groups.get_mut(root), path.strip_prefix(root)) else {
            continue;
        };
        match kind {
            Kind::Folder => {}
            Kind::File => {
                group
                    .files
                    .entry(below.to_owned())
                    .or_insert(Listing::Selected);
            }
            Kind::Reference => {
                group.files.insert(below.to_owned(), Listing::UploadOnly);
            }
        }
    }
    groups.into_values().collect()
}

impl Targets {
    /// Finds the files of all paths. `watch` is what the watches of all passes have in common.
    pub(super) async fn find(
        paths: &[PathBuf],
        references: &[PathBuf],
        selection: &Selection,
        watch: &Watch,
    ) -> Result<Self, Error> {
        let mut found = Vec::with_capacity(paths.len() + references.len());
        for path in paths {
            found.push(look(path)?);
        }
        for path in references {
            match look(path)? {
                (path, Kind::File) => found.push((path, Kind::Reference)),
                (path, _) => return Err(Error::Special(path)),
            }
        }
        let mut groups = Vec::new();
        let mut places: HashMap<[u8; 16], PathBuf> = HashMap::new();
        for group in group(&found) {
            let group = group.resolve(selection, watch).await?;
            for target in &group.files {
                let full = target.full.clone();
                let (folders, name) =
                    names::storage_path(&target.path).map_err(|why| Error::Name {
                        path: full.clone(),
                        why,
                    })?;
                if let Some(one) = places.insert(names::path_key(&folders, &name), full.clone()) {
                    return Err(Error::SamePlace { one, other: full });
                }
            }
            if places.len() > FILES_MAX {
                return Err(Error::TooMany);
            }
            groups.push(group);
        }
        Ok(Self { groups })
    }
}

/// The absolute path of an argument, and what is there.
fn look(path: &Path) -> Result<(PathBuf, Kind), Error> {
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => Error::Missing(path.to_owned()),
        _ => Error::Unreadable {
            path: path.to_owned(),
            source,
        },
    };
    let kind = path.symlink_metadata().map_err(failed)?.file_type();
    if kind.is_file() {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::Special(path.to_owned()));
        };
        let folder = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        };
        return Ok((
            folder.canonicalize().map_err(failed)?.join(name),
            Kind::File,
        ));
    }
    // A link to a folder may be named, as a watch may have one.
    if path.is_dir() {
        return Ok((path.canonicalize().map_err(failed)?, Kind::Folder));
    }
    Err(Error::Special(path.to_owned()))
}

impl Group {
    /// The watch of the group's pass, and its files.
    async fn resolve(self, selection: &Selection, watch: &Watch) -> Result<FoundGroup, Error> {
        let whole = Scope::new(selection.clone(), Depth::All);
        let mut files = self.files.clone();
        for (path, listing) in &self.files {
            let full = self.root.join(path);
            if *listing == Listing::UploadOnly {
                continue;
            }
            match whole.decide(path) {
                Verdict::NoConnector => return Err(Error::NoConnector(full)),
                Verdict::Ignored(reason) => {
                    return Err(Error::Ignored {
                        path: full,
                        reason: reason.to_string(),
                    });
                }
                _ => files.extend(companions(&whole, &self.root, path)),
            }
        }
        let mut watch = Watch {
            path: self.root.clone(),
            ..watch.clone()
        };
        if self.is_folder {
            watch.scope = whole;
            for ready in survey(&watch).await? {
                files.entry(ready.path).or_insert(Listing::Selected);
            }
            if files.is_empty() {
                return Err(Error::NothingIn(self.root));
            }
        }
        if files.len() > FILES_MAX {
            return Err(Error::TooMany);
        }
        watch.scope = Scope::new(selection.clone(), Depth::All).limited_to(files.clone());
        let found = survey(&watch).await?;
        let targets: Vec<Target> = found
            .iter()
            .map(|ready| Target {
                path: ready.path.clone(),
                full: self.root.join(&ready.path),
                connector: ready.connector.clone(),
            })
            .collect();
        for path in self.files.keys() {
            let full = self.root.join(path);
            match found.iter().find(|ready| ready.path == *path) {
                None => return Err(Error::Missing(full)),
                Some(ready) if ready.fingerprint.size == 0 => {
                    return Err(Error::Empty(full));
                }
                Some(_) => {}
            }
        }
        Ok(FoundGroup {
            watch,
            files: targets,
            listed: files,
        })
    }
}

/// The files in the same folder that belong to this one.
fn companions(scope: &Scope, root: &Path, path: &Path) -> Vec<(PathBuf, Listing)> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let Ok(entries) = std::fs::read_dir(root.join(folder)) else {
        return Vec::new();
    };
    let belongs = |name: &OsStr| match scope.decide(&folder.join(name)) {
        Verdict::Companion(companion) => {
            let mut main_files = companion.main_files.iter();
            main_files.any(|main| {
                path.file_name()
                    .is_some_and(|own| own.eq_ignore_ascii_case(main))
            })
        }
        _ => false,
    };
    entries
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .filter(|name| belongs(name))
        .map(|name| (folder.join(name), Listing::Selected))
        .collect()
}

async fn survey(watch: &Watch) -> Result<Vec<Ready>, Error> {
    let mut found = Vec::new();
    let looked = watch::survey(watch, |ready| {
        if found.len() <= FILES_MAX {
            found.push(ready);
        }
    })
    .await;
    match looked {
        Err(source) => Err(Error::Unreadable {
            path: watch.path.clone(),
            source,
        }),
        Ok(_) if found.len() > FILES_MAX => Err(Error::TooMany),
        Ok(survey) => match survey.problems.into_iter().next() {
            Some(problem) => Err(Error::Unreadable {
                path: watch.path.clone(),
                source: std::io::Error::other(problem),
            }),
            None => Ok(found),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(paths: &[(&str, Kind)], expected: &[&str]) {
        let paths: Vec<_> = paths
            .iter()
            .map(|(path, kind)| (PathBuf::from(path), *kind))
            .collect();
        let groups: Vec<String> = group(&paths)
            .into_iter()
            .map(|group| {
                let files = group.files.iter().map(|(path, listing)| {
                    let mark = match listing {
                        Listing::Selected => "",
                        Listing::UploadOnly => "*",
                    };
                    format!(" {}{mark}", path.display())
                });
                let all = if group.is_folder { " (all)" } else { "" };
                format!(
                    "{}{all}:{}",
                    group.root.display(),
                    files.collect::<String>()
                )
            })
            .collect();
        assert_eq!(groups, expected, "{paths:?}");
    }

    #[test]
    fn names_in_storage_are_relative_to_the_named_folder_or_to_that_of_the_file() {
        use Kind::{File, Folder, Reference};
        check(&[("/a/x.dgn", File)], &["/a: x.dgn"]);
        check(
            &[("/a/x.dgn", File), ("/a/y.dgn", File)],
            &["/a: x.dgn y.dgn"],
        );
        check(
            &[("/b/y.dgn", File), ("/a/x.dgn", File)],
            &["/a: x.dgn", "/b: y.dgn"],
        );
        check(&[("/a", Folder)], &["/a (all):"]);
        check(
            &[("/a/in/x.dgn", File), ("/a", Folder)],
            &["/a (all): in/x.dgn"],
        );
        check(&[("/a/in", Folder), ("/a", Folder)], &["/a (all):"]);
        check(
            &[
                ("/a", Folder),
                ("/a/r.dgn", Reference),
                ("/r.pdf", Reference),
            ],
            &["/: r.pdf*", "/a (all): r.dgn*"],
        );
        check(
            &[("/a/x.dgn", Reference), ("/a/x.dgn", File)],
            &["/a: x.dgn*"],
        );
    }

    #[test]
    fn messages() {
        let path = || PathBuf::from("/srv/site.xyz");
        let source = || std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        insta::assert_snapshot!(
            crate::text::render_variants!(Error, |error| Some(error.hint()), {
                Error::Missing(_) => Error::Missing(path()),
                Error::Unreadable { .. } => Error::Unreadable { path: path(), source: source() },
                Error::Special(_) => Error::Special(path()),
                Error::NoConnector(_) => Error::NoConnector(path()),
                Error::Ignored { .. } => Error::Ignored { path: path(), reason: "a reason".to_owned() },
                Error::Name { .. } => Error::Name { path: path(), why: names::storage_path(Path::new("a:b.dgn")).unwrap_err() },
                Error::Empty(_) => Error::Empty(path()),
                Error::NothingIn(_) => Error::NothingIn("/srv/site".into()),
                Error::SamePlace { .. } => Error::SamePlace { one: "/a/x.dgn".into(), other: "/b/X.dgn".into() },
                Error::TooMany => Error::TooMany,
            })
        );
    }
}
