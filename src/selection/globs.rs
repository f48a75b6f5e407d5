//! An ordered list of globs.
//!
//! Input: a list of the config file. Output: the first glob that matches a file or folder. `selection.rs` describes the
//! syntax.

use std::path::Path;
use std::sync::Arc;

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};

use super::{BadRule, List};

/// Compiled globs of one list.
#[derive(Clone, Default)]
pub(super) struct Globs(Arc<Compiled>);

/// A glob that fits.
pub(super) struct Fit<'a> {
    /// Its place in the list.
    pub(super) index: usize,
    /// The glob as written.
    pub(super) text: &'a str,
}

#[derive(Default)]
struct Compiled {
    set: GlobSet,
    /// One entry per glob of `set`.
    globs: Vec<Glob>,
}

#[derive(Debug, PartialEq, Eq)]
struct Glob {
    text: String,
    folders_only: bool,
    /// For each part that begins with a dot, the glob up to there: a dot folder that is meant by its name.
    dot_folders: Vec<globset::Glob>,
}

/// What a path is, and so which globs may fit it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Folder,
}

/// The same for equal lists, in any process.
impl std::fmt::Debug for Globs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let texts = self.0.globs.iter().map(|glob| &glob.text);
        f.debug_list().entries(texts).finish()
    }
}

/// Equal lists compile to the same.
impl PartialEq for Globs {
    fn eq(&self, other: &Self) -> bool {
        self.0.globs == other.0.globs
    }
}

impl Eq for Globs {}

impl Globs {
    /// Compiles `list`; globs that cannot be used go to `bad` and fit nothing.
    pub(super) fn new(
        list: List,
        globs: impl IntoIterator<Item = impl AsRef<str>>,
        bad: &mut Vec<BadRule>,
    ) -> Self {
        let mut compiled = Compiled::default();
        let mut builder = GlobSetBuilder::new();
        for text in globs {
            let text = text.as_ref();
            match compile(text) {
                Ok((glob, folders_only)) => {
                    builder.add(glob);
                    compiled.globs.push(Glob {
                        text: text.to_owned(),
                        folders_only,
                        dot_folders: dot_folders(text),
                    });
                }
                Err((why, hint)) => bad.push(BadRule {
                    list,
                    rule: text.to_owned(),
                    why,
                    hint,
                }),
            }
        }
        match builder.build() {
            Ok(set) => compiled.set = set,
            // Each glob compiled alone, so only their sum can be too much.
            Err(error) => bad.push(BadRule {
                list,
                rule: "all globs together".to_owned(),
                why: format!("cannot be compiled: {}", error.kind()),
                hint: "write fewer or shorter globs".to_owned(),
            }),
        }
        Self(Arc::new(compiled))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.globs.is_empty()
    }

    /// The first glob of the list that fits the file or a folder above it.
    pub(super) fn first_for_file(&self, rel: &Path) -> Option<Fit<'_>> {
        self.first(rel, Kind::File)
    }

    /// The first glob of the list that fits the folder or a folder above it.
    pub(super) fn first_for_folder(&self, rel_dir: &Path) -> Option<Fit<'_>> {
        self.first(rel_dir, Kind::Folder)
    }

    /// Whether a glob has a part that begins with a dot and stands for this folder: `.archive/**`, `Plans/.old`,
    /// `**/.x/*.dgn`. A glob such as `*.dgn` names no dot folder, although it fits files in one.
    pub(super) fn names_dot_folder(&self, rel_dir: &Path) -> bool {
        let mut globs = self.0.globs.iter().flat_map(|glob| &glob.dot_folders);
        globs.any(|glob| glob.compile_matcher().is_match(rel_dir))
    }

    fn first(&self, rel: &Path, kind: Kind) -> Option<Fit<'_>> {
        if self.is_empty() {
            return None;
        }
        let itself = self.fitting(rel, kind);
        let above = rel
            .ancestors()
            .skip(1)
            .flat_map(|folder| self.fitting(folder, Kind::Folder));
        let index = itself.into_iter().chain(above).min()?;
        self.0.globs.get(index).map(|glob| Fit {
            index,
            text: &glob.text,
        })
    }

    fn fitting(&self, path: &Path, kind: Kind) -> Vec<usize> {
        if path.as_os_str().is_empty() {
            // The root itself: `**` would fit it, and nothing else may.
            return Vec::new();
        }
        let mut fitting = self.0.set.matches_candidate(&Candidate::new(path));
        fitting.retain(|&index| {
            kind == Kind::Folder
                || self
                    .0
                    .globs
                    .get(index)
                    .is_some_and(|glob| !glob.folders_only)
        });
        fitting
    }
}

/// The beginnings of a glob that end with a part that begins with a dot.
fn dot_folders(text: &str) -> Vec<globset::Glob> {
    let from_root = text.trim_end_matches('/').contains('/');
    let body = text.strip_prefix('/').unwrap_or(text);
    let parts: Vec<&str> = body.split('/').collect();
    let ends = (1..=parts.len()).filter(|end| {
        let part = parts.get(end - 1);
        part.is_some_and(|part| part.len() > 1 && part.starts_with('.'))
    });
    ends.filter_map(|end| {
        let start = parts.get(..end)?.join("/");
        let glob = if from_root {
            start
        } else {
            format!("**/{start}")
        };
        GlobBuilder::new(&glob)
            .literal_separator(true)
            .case_insensitive(true)
            .build()
            .ok()
    })
    .collect()
}

/// The glob, and whether it fits folders only; or what is wrong with it and what to write instead.
fn compile(text: &str) -> Result<(globset::Glob, bool), (String, String)> {
    let wrong = |why: &str, hint: &str| Err((why.to_owned(), hint.to_owned()));
    if text.starts_with('!') {
        return wrong(
            "starts with \"!\", which has no meaning here",
            "name what is wanted in include, or write \"[!]\" for the character",
        );
    }
    if text.contains('\\') {
        return wrong(
            "has a backslash",
            "write \"/\" between folders, brackets around a special character, as in \"[*]\", and \"?\" for a backslash in a name",
        );
    }
    // "folder/**" is every file in the folder, which is what the folder itself stands for, so that it need not be
    // entered.
    let (body, folders_only) = match text.strip_suffix("/**").or_else(|| text.strip_suffix('/')) {
        Some(body) => (body, true),
        None => (text, false),
    };
    let from_root = text.trim_end_matches('/').contains('/');
    let body = body.strip_prefix('/').unwrap_or(body);
    if body.is_empty() {
        return wrong(
            "is empty",
            "write a name such as \"*.dgn\", or a path from the root such as \"Archive/**\"",
        );
    }
    if body.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return wrong(
            "has an empty part, \".\" or \"..\" in it and fits nothing",
            "write the path as it is below the watched folder, such as \"Archive/**\"",
        );
    }
    let body = if from_root {
        body.to_owned()
    } else {
        format!("**/{body}")
    };
    GlobBuilder::new(&body)
        .literal_separator(true)
        .case_insensitive(true)
        .build()
        .map(|glob| (glob, folders_only))
        .map_err(|error| {
            let hint = "close every \"[\" and \"{\", or write \"[[]\" and \"[{]\" for the characters themselves";
            (format!("is no glob: {}", error.kind()), hint.to_owned())
        })
}
