//! Which files and watches the words of a command mean.
//!
//! A word is a path on disk (absolute, or from the current folder) of a file or folder in a watch, the name of a file, or
//! a glob as the configuration has them, on paths relative to their watch: `Deck.dgn` and `*.dwg` fit anywhere. A file that
//! is there under just this path or name is meant before any glob is, so names that are no globs can be written as they are.

use std::path::{Component, Path, PathBuf};

use crate::config::Watch;
use crate::ledger::FileReport;
use crate::selection::{BadRule, Pattern};

/// A word that means nothing here.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("no file that is known fits {0:?}")]
    NoFile(PathBuf),
    #[error("no watch is called {0:?}")]
    NoWatch(String),
    #[error("not a glob")]
    Glob(#[from] BadRule),
}

impl Error {
    pub(super) fn hint(&self, watches: &[Watch]) -> String {
        match self {
            Self::NoFile(_) => {
                "`itwin-syncd explain` with its path says whether it would be taken".to_owned()
            }
            Self::NoWatch(_) => {
                let names: Vec<_> = watches.iter().map(|watch| watch.name.as_str()).collect();
                format!("the watches are: {}", names.join(", "))
            }
            Self::Glob(bad) => bad.hint.clone(),
        }
    }
}

/// The watch that a path on disk lies in, and the path below its folder.
pub(super) fn place<'w>(path: &Path, watches: &'w [Watch]) -> Option<(&'w Watch, PathBuf)> {
    let path = without_parents(&std::path::absolute(path).ok()?);
    // What the configuration calls by one name may be reached by another.
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

/// The path without its `..`, as it is written: what is asked about need not be there.
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

/// The files that any of the words means, in their order; no words mean all.
pub(super) fn files(
    words: &[PathBuf],
    watches: &[Watch],
    all: &[FileReport],
) -> Result<Vec<FileReport>, Error> {
    if words.is_empty() {
        return Ok(all.to_vec());
    }
    let mut chosen = vec![false; all.len()];
    for word in words {
        let fits = meaning(word, watches);
        let mut found = false;
        for reading in [
            Reading::Path,
            Reading::Name,
            Reading::GlobHere,
            Reading::Glob,
        ] {
            for (file, chosen) in all.iter().zip(&mut chosen) {
                if fits.fits(file, reading) {
                    *chosen = true;
                    found = true;
                }
            }
            if found {
                break;
            }
        }
        if !found {
            return Err(match fits.no_glob {
                Some(bad) => Error::Glob(bad),
                None => Error::NoFile(word.clone()),
            });
        }
    }
    let chosen = all.iter().zip(chosen).filter(|(_, chosen)| *chosen);
    Ok(chosen.map(|(file, _)| file.clone()).collect())
}

/// The names of the watches that any of the words means; no words mean all.
pub(super) fn watches(words: &[String], watches: &[Watch]) -> Result<Vec<String>, Error> {
    let names = watches.iter().map(|watch| watch.name.clone());
    if words.is_empty() {
        return Ok(names.collect());
    }
    let patterns = words
        .iter()
        .map(|word| Ok((word, Pattern::new(word)?)))
        .collect::<Result<Vec<_>, BadRule>>()?;
    for (word, pattern) in &patterns {
        if !watches
            .iter()
            .any(|watch| pattern.fits(Path::new(&watch.name)))
        {
            return Err(Error::NoWatch((*word).clone()));
        }
    }
    Ok(names
        .filter(|name| {
            patterns
                .iter()
                .any(|(_, pattern)| pattern.fits(Path::new(name)))
        })
        .collect())
}

/// A way to read a word.
#[derive(Clone, Copy)]
enum Reading {
    /// The path of a file or folder.
    Path,
    /// The name of a file or folder, in any folder.
    Name,
    /// A glob, from the folder that it was written in.
    GlobHere,
    /// A glob on paths below any watch.
    Glob,
}

/// What one word means.
struct Meaning<'w> {
    /// The watch that it lies in as a path, and where.
    place: Option<(&'w str, PathBuf)>,
    here: Option<Pattern>,
    /// As it was written, unless it begins at the root of the disk.
    bare: Option<(PathBuf, Option<Pattern>)>,
    /// Why it cannot be read as a glob.
    no_glob: Option<BadRule>,
}

impl Meaning<'_> {
    fn fits(&self, file: &FileReport, reading: Reading) -> bool {
        let here = self
            .place
            .as_ref()
            .filter(|(watch, _)| *watch == file.watch);
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
    // What is not text is no glob.
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
        // `..` is no glob, but a way to a place.
        no_glob: no_glob.filter(|_| place.is_none()),
        place,
        here,
        bare,
    }
}
