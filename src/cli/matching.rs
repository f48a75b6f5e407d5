//! Which files and watches the arguments of a command refer to.
//!
//! An argument is a path on disk (absolute, or from the current folder) of a file or folder in a watch, a file name, or
//! a glob as in the configuration, on paths relative to their watch: `Deck.dgn` and `*.dwg` match anywhere. An exact
//! path or name takes precedence over a glob, so names with special characters can be written as they are.

use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;

use crate::config::Watch;
use crate::ledger::{self, FileReport, Ledger};
use crate::selection::{BadRule, Pattern};
use crate::shell;

/// Files in memory at once.
const PAGE: u32 = 1000;

/// The ways to interpret an argument, in order of precedence.
const READINGS: [Reading; 4] = [
    Reading::Path,
    Reading::Name,
    Reading::GlobHere,
    Reading::Glob,
];

/// An argument that matches nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("no known file matches {0:?}")]
    NoFile(PathBuf),
    #[error("no watch matches {0:?}")]
    NoWatch(String),
    #[error(transparent)]
    Glob(#[from] BadRule),
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
}

impl Error {
    pub(super) fn hint(&self, watches: &[Watch]) -> Option<String> {
        let hint = match self {
            Self::Ledger(error) => return error.hint(),
            Self::NoFile(_) => {
                format!(
                    "run `{}` to see whether it is synchronized",
                    shell::command(["explain", "PATH"])
                )
            }
            Self::NoWatch(_) => {
                let names: Vec<_> = watches.iter().map(|watch| watch.name.as_str()).collect();
                format!("configured watches: {}", names.join(", "))
            }
            Self::Glob(bad) => bad.hint.clone(),
        };
        Some(hint)
    }
}

/// The watch that contains a path on disk, and the path relative to its folder.
pub(super) fn place<'w>(path: &Path, watches: &'w [Watch]) -> Option<(&'w Watch, PathBuf)> {
    let path = without_parents(&std::path::absolute(path).ok()?);
    // A folder of the configuration may be reached by another path, too.
    let real = path
        .parent()
        .and_then(|parent| parent.canonicalize().ok())
        .zip(path.file_name())
        .map(|(parent, name)| parent.join(name));
    watches
        .iter()
        .filter_map(|watch| {
            let root = watch.path.canonicalize().ok();
            let by_name = path.strip_prefix(&watch.path).ok();
            let below = by_name.or_else(|| real.as_ref()?.strip_prefix(root?).ok())?;
            Some((watch, below.to_owned()))
        })
        .min_by_key(|(_, below)| below.components().count())
}

/// The watches that follow another one: those of the further iModels of its table.
pub(super) fn followers<'w>(leader: &str, watches: &'w [Watch]) -> impl Iterator<Item = &'w Watch> {
    watches
        .iter()
        .filter(move |watch| is_or_follows(watch, leader) && watch.name != leader)
}

/// Whether a watch has this name, or follows the watch that has it.
fn is_or_follows(watch: &Watch, name: &str) -> bool {
    let leader = watch.follows.as_ref().map(|leader| leader.watch.as_str());
    watch.name == name || leader == Some(name)
}

/// The path without `..`, resolved lexically: the file need not exist.
fn without_parents(path: &Path) -> PathBuf {
    let mut short = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                short.pop();
            }
            part => short.push(part),
        }
    }
    short
}

/// Interprets arguments, by the configuration and the folders alone.
pub(super) fn meanings<'a>(
    words: &'a [PathBuf],
    watches: &'a [Watch],
) -> Vec<(&'a Path, Meaning<'a>)> {
    words
        .iter()
        .map(|word| (word.as_path(), meaning(word, watches)))
        .collect()
}

/// What the ledger knows of the arguments.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// The files that match any argument, by watch and path.
    pub(super) files: Vec<FileReport>,
    /// The arguments, by their position, that match nothing, and why.
    pub(super) unmatched: Vec<(usize, Error)>,
}

/// The files that match any argument, by watch and path; without arguments all. Fails if an argument matches nothing.
pub(super) async fn files(
    words: &[(&Path, Meaning<'_>)],
    ledger: &Ledger,
) -> Result<Vec<FileReport>, Error> {
    let selection = select(words, ledger).await?;
    match selection.unmatched.into_iter().next() {
        Some((_, error)) => Err(error),
        None => Ok(selection.files),
    }
}

/// Finds the files of each argument.
///
/// Looks up exact paths; for the rest it reads the ledger page by page, and keeps only what matches.
pub(super) async fn select(
    words: &[(&Path, Meaning<'_>)],
    ledger: &Ledger,
) -> Result<Selection, ledger::Error> {
    let mut chosen = Vec::new();
    let mut unmatched = Vec::new();
    let mut rest = Vec::new();
    for (position, (word, meaning)) in words.iter().enumerate() {
        let mut is_known = false;
        if let Some((watch, path)) = &meaning.place {
            for watch in std::iter::once(watch).chain(&meaning.followers) {
                let known = ledger.file_at(watch, path).await?;
                is_known |= known.is_some();
                chosen.extend(known);
            }
        }
        if !is_known {
            rest.push((position, *word, meaning, READINGS.map(|_| Vec::new())));
        }
    }
    if !rest.is_empty() || words.is_empty() {
        let mut pages = Pages::new(ledger, crate::clock::now()).await?;
        while let Some(page) = pages.next().await? {
            for file in page {
                for (_, _, meaning, found) in &mut rest {
                    let first = READINGS
                        .iter()
                        .zip(found)
                        .find(|(reading, _)| meaning.fits(&file, **reading));
                    if let Some((_, found)) = first {
                        found.push(file.clone());
                    }
                }
                if words.is_empty() {
                    chosen.push(file);
                }
            }
        }
    }
    for (position, word, meaning, found) in rest {
        // An exact path takes precedence over a glob.
        match found.into_iter().find(|found| !found.is_empty()) {
            Some(found) => chosen.extend(found),
            None => unmatched.push((
                position,
                match &meaning.no_glob {
                    Some(bad) => Error::Glob(bad.clone()),
                    None => Error::NoFile(word.to_owned()),
                },
            )),
        }
    }
    chosen.sort_by(|one, other| (&one.watch, &one.path).cmp(&(&other.watch, &other.path)));
    chosen.dedup_by(|one, other| one.id == other.id);
    Ok(Selection {
        files: chosen,
        unmatched,
    })
}

/// Reads all files of the ledger, page by page.
pub(super) struct Pages<'l> {
    ledger: &'l Ledger,
    /// Names of the remaining watches, the next one last.
    watches: Vec<String>,
    after: Option<PathBuf>,
}

impl<'l> Pages<'l> {
    /// Starts with the first file of the first watch by name.
    pub(super) async fn new(ledger: &'l Ledger, now: Timestamp) -> Result<Self, ledger::Error> {
        let watches = ledger.watch_reports(now).await?.into_iter();
        Ok(Self {
            ledger,
            watches: watches.rev().map(|watch| watch.name).collect(),
            after: None,
        })
    }

    /// The next page; None after the last one.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<FileReport>>, ledger::Error> {
        while let Some(watch) = self.watches.last() {
            let page = self
                .ledger
                .files_page(watch, self.after.as_deref(), PAGE)
                .await?;
            if let Some(last) = page.last() {
                self.after = Some(last.path.clone());
                return Ok(Some(page));
            }
            self.watches.pop();
            self.after = None;
        }
        Ok(None)
    }
}

/// The names of the watches that match any argument; without arguments all.
pub(super) fn watches(words: &[String], watches: &[Watch]) -> Result<Vec<String>, Error> {
    // Whoever names a table with several iModels means all of them.
    let fits = |pattern: &Pattern, watch: &Watch| {
        let leader = watch.follows.as_ref().map(|leader| &leader.watch);
        std::iter::once(&watch.name)
            .chain(leader)
            .any(|name| pattern.fits(Path::new(name)))
    };
    let names = watches.iter();
    if words.is_empty() {
        return Ok(names.map(|watch| watch.name.clone()).collect());
    }
    let patterns = words
        .iter()
        .map(|word| Ok((word, Pattern::new(word)?)))
        .collect::<Result<Vec<_>, BadRule>>()?;
    for (word, pattern) in &patterns {
        if !watches.iter().any(|watch| fits(pattern, watch)) {
            return Err(Error::NoWatch((*word).clone()));
        }
    }
    Ok(names
        .filter(|watch| patterns.iter().any(|(_, pattern)| fits(pattern, watch)))
        .map(|watch| watch.name.clone())
        .collect())
}

/// The names of the watches that a word names exactly; none if it names no watch.
pub(super) fn named(word: &str, watches: &[Watch]) -> Vec<String> {
    let named = watches.iter().filter(|watch| is_or_follows(watch, word));
    named.map(|watch| watch.name.clone()).collect()
}

/// A way to interpret an argument.
#[derive(Clone, Copy)]
enum Reading {
    /// The path of a file or folder.
    Path,
    /// The name of a file or folder, in any folder.
    Name,
    /// A glob, relative to the current folder.
    GlobHere,
    /// A glob on paths below any watch.
    Glob,
}

/// The meaning of one argument.
pub(super) struct Meaning<'w> {
    /// As a path: the watch that contains it, and the path there.
    place: Option<(&'w str, PathBuf)>,
    /// The watches of the same folder that follow that one.
    followers: Vec<&'w str>,
    here: Option<Pattern>,
    /// As written, unless it is absolute.
    bare: Option<(PathBuf, Option<Pattern>)>,
    /// Why it is not a valid glob.
    no_glob: Option<BadRule>,
}

impl Meaning<'_> {
    /// As a path: the watch that contains it, and the path there.
    pub(super) fn place(&self) -> Option<(&str, &Path)> {
        let (watch, path) = self.place.as_ref()?;
        Some((watch, path))
    }

    fn fits(&self, file: &FileReport, reading: Reading) -> bool {
        let here = self.place.as_ref().filter(|(watch, _)| {
            *watch == file.watch || self.followers.contains(&file.watch.as_str())
        });
        let pattern = match reading {
            Reading::Path => {
                let bare = self.bare.as_ref().filter(|_| self.place.is_none());
                return here.is_some_and(|(_, path)| file.path.starts_with(path))
                    || bare.is_some_and(|(path, _)| file.path.starts_with(path));
            }
            Reading::Name => {
                let name = self.bare.as_ref().map(|(path, _)| path.as_os_str());
                return name.is_some_and(|name| file.path.iter().any(|part| part == name));
            }
            Reading::GlobHere => self.here.as_ref().filter(|_| here.is_some()),
            Reading::Glob => self.bare.as_ref().and_then(|(_, pattern)| pattern.as_ref()),
        };
        pattern.is_some_and(|pattern| pattern.fits(&file.path))
    }
}

fn meaning<'w>(word: &Path, watches: &'w [Watch]) -> Meaning<'w> {
    let mut no_glob = None;
    // Non-UTF-8 text is not a glob.
    let mut pattern = |text: Option<String>| {
        let text = text.filter(|text| !text.is_empty() && text != "/")?;
        Pattern::new(&text).map_err(|bad| no_glob = Some(bad)).ok()
    };
    let place = place(word, watches).map(|(watch, path)| (watch.name.as_str(), path));
    let here = place
        .as_ref()
        .and_then(|(_, path)| path.to_str().map(|text| format!("/{text}")));
    let here = pattern(here);
    let bare = (!word.is_absolute()).then(|| {
        let text = word.to_str().map(ToOwned::to_owned);
        (word.to_owned(), pattern(text))
    });
    Meaning {
        // `..` is invalid in a glob, but not in a path.
        no_glob: no_glob.filter(|_| place.is_none()),
        followers: match &place {
            Some((watch, _)) => followers(watch, watches)
                .map(|one| one.name.as_str())
                .collect(),
            None => Vec::new(),
        },
        place,
        here,
        bare,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        insta::assert_snapshot!(
            crate::text::render_variants!(Error, |error| error.hint(&[]), {
                Error::NoFile(_) => Error::NoFile("Deck.dgn".into()),
                Error::NoWatch(_) => Error::NoWatch("south".to_owned()),
                Error::Glob(_) => Error::Glob(Pattern::new("[a").unwrap_err()),
                Error::Ledger(_) => Error::Ledger(ledger::Error::Missing { path: "/var/lib/itwin-syncd".into() }),
            })
        );
    }
}
