//! Decides from a path alone what a file is to a watch, and by which rule.
//!
//! Input: a path relative to its root, as bytes that need not be UTF-8. Output: a [`Verdict`]: ignored, without a
//! connector, stored only, a reference, or a source file with its connector type. The scan, `check` and `explain` call
//! the same function, so they cannot disagree. It reads no disk and keeps no state: the same path and the same
//! [`Rules`] give the same verdict after any restart.
//!
//! The first rule that matches decides:
//! 1. the built-in ignore list (`selection/ignored.rs`); no user rule overrides it,
//! 2. a folder whose name begins with a dot, unless a glob of `include` names that folder,
//! 3. `exclude`,
//! 4. `include`: if set, everything else is ignored,
//! 5. `masters`: a file that matches is a source file, if it has a connector,
//! 6. `upload_only`,
//! 7. the connector: by glob in the order of the config file, then by extension, two-part extensions (`i.dgn`) first.
//!    The user's entries replace entries of the built-in table (`selection/connectors.rs`). A file with a connector is
//!    a source file, or a reference if `masters` is set,
//! 8. otherwise the file has no connector and is ignored.
//!
//! A file that step 4 or 8 leaves out, or that step 7 takes by the built-in table, is a companion if it belongs to a
//! file that is taken (`selection/companions.rs`): stored, but no source file.
//!
//! **Globs** work as in a `.gitignore`, but without `!`: `*` and `?` match within one folder, `**` across folders. A
//! glob without `/` matches that name in any folder; one with `/` starts at the root, and a leading `/` does the same.
//! A trailing `/` matches folders only. A glob that matches a folder matches everything in it. Case does not matter,
//! within ASCII: for bytes no other rule always applies.
//!
//! Longer than most files because verdicts, their reasons and the texts of both belong together.

mod companions;
mod connectors;
mod globs;
mod ignored;
mod scope;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::connector_type::ConnectorType;
use companions::Companions;
pub use companions::{Companion, Lacking, lacking, lacking_projection};
pub use connectors::{Guess, built_in as built_in_connectors};
use globs::Globs;
pub use ignored::LIST_VERSION as IGNORE_LIST_VERSION;
pub use scope::{Depth, Listing, Scope};

/// The user's part of the decision, as written in a watch.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Globs; when there are any, only files that match one of them are selected.
    pub include: Vec<String>,
    /// Globs of files and folders to ignore, on top of the built-in list.
    pub exclude: Vec<String>,
    /// Globs; when there are any, only files that match one of them are source files.
    pub masters: Vec<String>,
    /// Globs of files that are uploaded and never become source files: references, external data.
    pub upload_only: Vec<String>,
    /// Extension without a leading dot, and connector type. A later entry for the same extension wins.
    pub connectors_by_extension: Vec<(String, String)>,
    /// Glob and connector type; the first glob that fits wins.
    pub connectors_by_glob: Vec<(String, String)>,
    /// Extension of a main file and those of its companions, added to the built-in sets.
    pub companions: Vec<(String, Vec<String>)>,
}

/// Compiled [`Rules`]. Cloning is cheap: compiled globs are shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    include: Globs,
    exclude: Globs,
    masters: Globs,
    upload_only: Globs,
    connector_globs: Globs,
    /// One entry per glob of `connector_globs`.
    connector_glob_types: Vec<ConnectorType>,
    /// Extension, lower-cased, to what reads it and who says so.
    connectors: Arc<BTreeMap<String, (ConnectorType, Why)>>,
    companions: Companions,
}

/// What to do with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Never read.
    Ignored(Reason),
    /// No connector is known for its extension: it is ignored.
    NoConnector,
    /// Uploaded to storage, but no source file of the connection.
    UploadOnly {
        /// The glob of `upload_only` that fits.
        glob: String,
    },
    /// Uploaded to storage, but no source file of the connection: `masters` is set and none of its globs matches.
    Reference,
    /// Uploaded to storage, because it belongs to another file of its folder that is uploaded.
    Companion(Companion),
    /// Uploaded, and a source file of the connection.
    Source {
        /// The glob of `masters` that matches; None if `masters` is not set.
        master: Option<String>,
        /// The connector that reads it.
        connector: ConnectorType,
        /// What chose the connector.
        why: Why,
    },
}

impl Verdict {
    /// The guess by which its connector was chosen, if it was one.
    #[must_use]
    pub fn guess(&self) -> Option<Guess> {
        match self {
            Self::Source {
                why: Why::Guess(guess),
                ..
            } => Some(*guess),
            _ => None,
        }
    }

    /// The connector of a file that is uploaded, and within that None if it is stored only.
    #[must_use]
    pub fn connector(self) -> Option<Option<ConnectorType>> {
        match self {
            Self::Source { connector, .. } => Some(Some(connector)),
            Self::UploadOnly { .. } | Self::Reference | Self::Companion(_) => Some(None),
            Self::NoConnector | Self::Ignored(_) => None,
        }
    }
}

/// Why a file is ignored or a folder not entered. `Display` gives it as the end of a sentence ("ignored: …").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// A name of the built-in ignore list.
    BuiltIn {
        /// The name as the list writes it, such as `*.dwl`.
        name: &'static str,
        /// Who leaves such names behind, such as "lock file of Rhino".
        what: &'static str,
    },
    /// A folder whose name begins with a dot.
    DotFolder,
    /// A glob of `exclude`.
    Exclude {
        /// The glob as written.
        glob: String,
    },
    /// `include` is set and none of its globs fits.
    NotIncluded,
    /// It is in a subfolder, and the watch has `recursive = false`.
    NotRecursive,
    /// Only listed files are taken, and it is none of them.
    NotListed,
}

/// What chose a connector. `Display` gives it as the end of a sentence ("DWG, …").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// A glob of the watch's `connectors`, as written.
    Glob(String),
    /// An extension of the watch's `connectors`, lower-cased.
    Override(String),
    /// An extension of the built-in table, lower-cased.
    Table(String),
    /// An extension of the built-in table that other files have too.
    Guess(Guess),
}

/// A rule that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule:?} {why}")]
pub struct BadRule {
    /// The list that holds it.
    pub list: List,
    /// The glob or extension as written.
    pub rule: String,
    /// What is wrong with it, as the rest of a sentence that starts with the rule.
    pub why: String,
    /// What to write instead.
    pub hint: String,
}

/// The lists of [`Rules`], by their names in the config file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// `include`
    Include,
    /// `exclude`
    Exclude,
    /// `masters`
    Masters,
    /// `upload_only`
    UploadOnly,
    /// `connectors`, by extension or by glob
    Connectors,
    /// `companions`
    Companions,
}

impl Selection {
    /// Compiles `rules`.
    ///
    /// # Errors
    /// Every rule that cannot be used.
    pub fn new(rules: &Rules) -> Result<Self, Vec<BadRule>> {
        let mut bad = Vec::new();
        let include = Globs::new(List::Include, &rules.include, &mut bad);
        let exclude = Globs::new(List::Exclude, &rules.exclude, &mut bad);
        let masters = Globs::new(List::Masters, &rules.masters, &mut bad);
        let upload_only = Globs::new(List::UploadOnly, &rules.upload_only, &mut bad);
        bad.extend(contradictions(&rules.masters, &rules.upload_only));
        let connector_globs = Globs::new(
            List::Connectors,
            rules.connectors_by_glob.iter().map(|(glob, _)| glob),
            &mut bad,
        );

        let mut connectors = connectors::table();
        for (extension, connector) in &rules.connectors_by_extension {
            bad.extend(extension_mistake(extension));
            if let Some(connector) = connector_type(extension, connector, &mut bad) {
                let extension = extension.to_lowercase();
                connectors.insert(extension.clone(), (connector, Why::Override(extension)));
            }
        }
        let connector_glob_types = rules
            .connectors_by_glob
            .iter()
            .filter_map(|(glob, connector)| connector_type(glob, connector, &mut bad))
            .collect();

        let companions = Companions::new(&rules.companions, &mut bad);
        if !bad.is_empty() {
            return Err(bad);
        }
        Ok(Self {
            include,
            exclude,
            masters,
            upload_only,
            connector_globs,
            connector_glob_types,
            connectors: Arc::new(connectors),
            companions,
        })
    }

    /// What the file at `rel` is to us, and why. `rel` is relative to the root, without `.` and `..`.
    #[must_use]
    pub fn decide(&self, rel: &Path) -> Verdict {
        match rel.parent().and_then(|dir| self.ignored_folder(dir)) {
            Some(reason) => Verdict::Ignored(reason),
            None => self.decide_entered(rel),
        }
    }

    /// The same for a file whose folders were all entered, as [`Selection::prunes`] has nothing against them.
    #[must_use]
    pub fn decide_entered(&self, rel: &Path) -> Verdict {
        let alone = self.decide_alone(rel);
        let may_be_companion = match &alone {
            Verdict::NoConnector | Verdict::Reference | Verdict::Ignored(Reason::NotIncluded) => {
                true
            }
            Verdict::Source {
                master: None, why, ..
            } => matches!(why, Why::Table(_) | Why::Guess(_)),
            Verdict::Source { .. }
            | Verdict::Ignored(_)
            | Verdict::UploadOnly { .. }
            | Verdict::Companion(_) => false,
        };
        let companion = may_be_companion.then(|| self.companion(rel)).flatten();
        companion.map_or(alone, Verdict::Companion)
    }

    /// The file as a companion, if the watch takes a main file that it may belong to.
    fn companion(&self, rel: &Path) -> Option<Companion> {
        let mut main_files = self.companions.main_files_of(rel.file_name()?);
        main_files.retain(|main_file| {
            let verdict = self.decide_alone(&rel.with_file_name(main_file));
            verdict.connector().is_some()
        });
        (!main_files.is_empty()).then_some(Companion { main_files })
    }

    /// The stem that the files of a set share, lower-cased, for a source file that can have companions and for its
    /// companions. `verdict` is what was decided for the file. None for a file that is in no set, and for companions of
    /// a file that is only stored: any source file may refer to that one.
    #[must_use]
    pub fn set_stem(&self, rel: &Path, verdict: &Verdict) -> Option<Vec<u8>> {
        let name = rel.file_name()?;
        match verdict {
            Verdict::Source { .. } => self.companions.stem_of_main_file(name),
            Verdict::Companion(companion) => {
                let is_source = |main_file: &OsString| {
                    let verdict = self.decide_alone(&rel.with_file_name(main_file));
                    matches!(verdict, Verdict::Source { .. })
                };
                let of_source = companion.main_files.iter().any(is_source);
                of_source.then(|| self.companions.stem_of_companion(name))?
            }
            Verdict::Ignored(_)
            | Verdict::NoConnector
            | Verdict::Reference
            | Verdict::UploadOnly { .. } => None,
        }
    }

    /// What the file is to us, without regard to the files that it may belong to.
    fn decide_alone(&self, rel: &Path) -> Verdict {
        let Some(name) = rel.file_name() else {
            return Verdict::NoConnector;
        };
        if let Some(entry) = ignored::file(name.as_encoded_bytes()) {
            return Verdict::Ignored(entry.into());
        }
        if let Some(glob) = self.exclude.first_for_file(rel) {
            return Verdict::Ignored(Reason::Exclude {
                glob: glob.text.to_owned(),
            });
        }
        if !self.include.is_empty() && self.include.first_for_file(rel).is_none() {
            return Verdict::Ignored(Reason::NotIncluded);
        }
        let connector = self.connector(rel, name);
        let master = self.masters.first_for_file(rel);
        if let (Some(_), Some((connector, why))) = (&master, &connector) {
            return Verdict::Source {
                master: master.map(|glob| glob.text.to_owned()),
                connector: connector.clone(),
                why: why.clone(),
            };
        }
        if let Some(glob) = self.upload_only.first_for_file(rel) {
            return Verdict::UploadOnly {
                glob: glob.text.to_owned(),
            };
        }
        match connector {
            None => Verdict::NoConnector,
            Some(_) if !self.masters.is_empty() => Verdict::Reference,
            Some((connector, why)) => Verdict::Source {
                master: None,
                connector,
                why,
            },
        }
    }

    /// Whether `masters` is set.
    #[must_use]
    pub fn has_masters(&self) -> bool {
        !self.masters.is_empty()
    }

    /// The connector that reads the file, and what chose it.
    fn connector(&self, rel: &Path, name: &OsStr) -> Option<(ConnectorType, Why)> {
        if let Some(glob) = self.connector_globs.first_for_file(rel)
            && let Some(connector) = self.connector_glob_types.get(glob.index)
        {
            return Some((connector.clone(), Why::Glob(glob.text.to_owned())));
        }
        connectors::extensions(name)
            .find_map(|extension| self.connectors.get(&extension))
            .cloned()
    }

    /// Why a folder, or any of the folders above it, is ignored whatever `exclude` says.
    fn ignored_folder(&self, rel_dir: &Path) -> Option<Reason> {
        if let Some(entry) = rel_dir
            .iter()
            .find_map(|name| ignored::folder(name.as_encoded_bytes()))
        {
            return Some(entry.into());
        }
        if !rel_dir
            .iter()
            .any(|name| ignored::dot_folder(name.as_encoded_bytes()))
        {
            return None;
        }
        let left_out = |folder: &Path| {
            let name = folder.file_name().unwrap_or_default();
            ignored::dot_folder(name.as_encoded_bytes()) && !self.include.names_dot_folder(folder)
        };
        rel_dir
            .ancestors()
            .any(left_out)
            .then_some(Reason::DotFolder)
    }

    /// Why the folder at `rel_dir` need not be entered: everything in it is ignored. `None` for the root itself (an
    /// empty path).
    ///
    /// Whenever this gives a reason, [`Selection::decide`] ignores every file below that folder.
    #[must_use]
    pub fn prunes(&self, rel_dir: &Path) -> Option<Reason> {
        self.ignored_folder(rel_dir).or_else(|| {
            self.exclude
                .first_for_folder(rel_dir)
                .map(|glob| Reason::Exclude {
                    glob: glob.text.to_owned(),
                })
        })
    }
}

/// One glob, read as the lists of a watch are.
#[derive(Debug, Clone)]
pub struct Pattern(Globs);

impl Pattern {
    /// Compiles `text`.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn new(text: &str) -> Result<Self, BadRule> {
        let mut bad = Vec::new();
        let globs = Globs::new(List::Include, [text], &mut bad);
        bad.pop().map_or(Ok(Self(globs)), Err)
    }

    /// Whether it fits the file at `rel`, relative to its root, or a folder above it.
    #[must_use]
    pub fn fits(&self, rel: &Path) -> bool {
        self.0.first_for_file(rel).is_some()
    }
}

impl Default for Selection {
    /// No rule of the user: the built-in ignore list and the built-in table.
    fn default() -> Self {
        Self {
            include: Globs::default(),
            exclude: Globs::default(),
            masters: Globs::default(),
            upload_only: Globs::default(),
            connector_globs: Globs::default(),
            connector_glob_types: Vec::new(),
            connectors: Arc::new(connectors::table()),
            companions: Companions::default(),
        }
    }
}

impl From<&'static ignored::Entry> for Reason {
    fn from(entry: &'static ignored::Entry) -> Self {
        Self::BuiltIn {
            name: entry.name,
            what: entry.what,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn { name, what } => {
                write!(f, "{name:?} of the built-in ignore list ({what})")
            }
            Self::DotFolder => f.write_str("it is in a folder whose name begins with a dot"),
            Self::Exclude { glob } => write!(f, "exclude has {glob:?}"),
            Self::NotIncluded => f.write_str("no glob of include fits"),
            Self::NotRecursive => {
                f.write_str("it is in a subfolder, and the watch has recursive = false")
            }
            Self::NotListed => f.write_str("it is not among the files that were named"),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Glob(glob) => write!(f, "connectors has {glob:?}"),
            Self::Override(extension) => write!(f, "connectors has {extension:?}"),
            Self::Table(extension) => write!(f, "usual for {extension:?}"),
            Self::Guess(guess) => guess.fmt(f),
        }
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Include => "include",
            Self::Exclude => "exclude",
            Self::Masters => "masters",
            Self::UploadOnly => "upload_only",
            Self::Connectors => "connectors",
            Self::Companions => "companions",
        })
    }
}

/// Globs that are in both lists.
fn contradictions<'r>(
    masters: &'r [String],
    upload_only: &'r [String],
) -> impl Iterator<Item = BadRule> + use<'r> {
    let both = upload_only.iter().filter(|glob| masters.contains(glob));
    both.map(|glob| BadRule {
        list: List::UploadOnly,
        rule: glob.clone(),
        why: "is in masters too".to_owned(),
        hint: "remove it from upload_only to synchronize these files, or from masters to only store them"
            .to_owned(),
    })
}

fn extension_mistake(extension: &str) -> Option<BadRule> {
    let bare = extension.trim_matches('.');
    let (why, hint) = if bare.is_empty() {
        (
            "names no extension",
            "write an extension such as \"dgn\"".to_owned(),
        )
    } else if bare != extension {
        ("has a dot too many", format!("write {bare:?}"))
    } else if extension.matches('.').count() > 1 {
        (
            "has more than two parts; at most two are supported",
            format!("write the glob {:?}", format!("*.{extension}")),
        )
    } else {
        return None;
    };
    Some(BadRule {
        list: List::Connectors,
        rule: extension.to_owned(),
        why: why.to_owned(),
        hint,
    })
}

/// The connector type of an entry of `connectors`.
fn connector_type(rule: &str, text: &str, bad: &mut Vec<BadRule>) -> Option<ConnectorType> {
    let invalid = match ConnectorType::parse(text) {
        Ok(connector) => return Some(connector),
        Err(invalid) => invalid,
    };
    bad.push(BadRule {
        list: List::Connectors,
        rule: rule.to_owned(),
        why: invalid.to_string(),
        hint: invalid.hint(),
    });
    None
}

#[cfg(test)]
mod tests;
