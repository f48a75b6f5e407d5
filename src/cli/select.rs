//! Which files and watches the words of a command mean.
//!
//! A word is a path on disk (absolute, or from the current folder) of a file or folder in a watch, or a glob as the
//! configuration has them, on paths relative to their watch: `Deck.dgn` and `*.dwg` fit anywhere.

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
        let fits = meaning(word, watches)?;
        let mut found = false;
        // A path that is there by just this name is meant before any glob is.
        for exact in [true, false] {
            for (file, chosen) in all.iter().zip(&mut chosen) {
                if fits.fits(file, exact) {
                    *chosen = true;
                    found = true;
                }
            }
            if found {
                break;
            }
        }
        if !found {
            return Err(Error::NoFile(word.clone()));
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

/// What one word means.
struct Meaning<'w> {
    /// In this watch only, when it is a path on disk.
    watch: Option<&'w str>,
    path: PathBuf,
    /// None when it cannot be a glob, as it is not text.
    pattern: Option<Pattern>,
}

impl Meaning<'_> {
    fn fits(&self, file: &FileReport, exact: bool) -> bool {
        if self.watch.is_some_and(|watch| watch != file.watch) {
            return false;
        }
        if exact {
            return file.path.starts_with(&self.path);
        }
        self.pattern
            .as_ref()
            .is_some_and(|pattern| pattern.fits(&file.path))
    }
}

fn meaning<'w>(word: &Path, watches: &'w [Watch]) -> Result<Meaning<'w>, Error> {
    let (watch, path) = match place(word, watches) {
        Some((watch, path)) => (Some(watch.name.as_str()), path),
        None => (None, word.to_owned()),
    };
    let pattern = match path.to_str() {
        None | Some("") => None,
        // From the folder that it was written in.
        Some(text) if watch.is_some() => Some(Pattern::new(&format!("/{text}"))?),
        Some(text) => Some(Pattern::new(text)?),
    };
    Ok(Meaning {
        watch,
        path,
        pattern,
    })
}
