//! What is wrong with parts of a root: by kind, with a count and an example, so that it stays small whatever a share
//! holds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::names::QuotedPath;

/// Kinds that are counted separately; further ones are counted together.
const KINDS_MAX: usize = 8;

/// Folders that are remembered by name as not read.
const UNREAD_MAX: usize = 1000;

/// A longer path is shortened in the middle.
const SHOWN_MAX: usize = 160;

/// What a walk could not read, watch or accept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Problems {
    kinds: BTreeMap<String, Kind>,
    /// Nothing is known of these folders and all below them.
    unread: Vec<PathBuf>,
    /// Of these it is not known what they hold themselves.
    partly_read: Vec<PathBuf>,
    unread_more: bool,
    /// Some of it may be readable at the next look.
    passing: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Kind {
    count: u64,
    /// The first one that was found.
    example: PathBuf,
}

impl Problems {
    /// Counts a problem of this kind, and returns how many of it there are.
    pub(super) fn add(&mut self, kind: &str, path: &Path) -> u64 {
        self.add_many(kind, 1, path)
    }

    fn add_many(&mut self, kind: &str, count: u64, path: &Path) -> u64 {
        let kind = if self.kinds.contains_key(kind) || self.kinds.len() < KINDS_MAX {
            kind
        } else {
            "other problems"
        };
        if let Some(known) = self.kinds.get_mut(kind) {
            known.count += count;
            known.count
        } else {
            let example = path.to_owned();
            self.kinds.insert(kind.to_owned(), Kind { count, example });
            count
        }
    }

    /// Counts a problem that leaves it unknown what `folder` and all below it hold.
    pub(super) fn add_unread(&mut self, kind: &str, folder: &Path) {
        self.refuse(kind, folder);
        self.passing = true;
    }

    /// Counts a problem that leaves it unknown what `path` is, which is in `folder`.
    pub(super) fn add_partly_read(&mut self, kind: &str, path: &Path, folder: &Path) {
        self.refuse_in(kind, path, folder);
        self.passing = true;
    }

    /// Counts a folder that is not read because of what it is, so that looking again is of no use.
    pub(super) fn refuse(&mut self, kind: &str, folder: &Path) {
        self.add(kind, folder);
        self.leave_unread(folder);
    }

    /// Counts a file in `folder` that is not taken because of what it is, so that looking again is of no use.
    pub(super) fn refuse_in(&mut self, kind: &str, path: &Path, folder: &Path) {
        self.add(kind, path);
        self.leave_partly_read(folder);
    }

    fn leave_unread(&mut self, folder: &Path) {
        if self.unread.iter().any(|top| folder.starts_with(top)) {
            return;
        }
        self.remember(folder, |problems| &mut problems.unread);
    }

    fn leave_partly_read(&mut self, folder: &Path) {
        if !self.hides(folder) {
            self.remember(folder, |problems| &mut problems.partly_read);
        }
    }

    fn remember(&mut self, folder: &Path, list: fn(&mut Self) -> &mut Vec<PathBuf>) {
        if self.unread.len() + self.partly_read.len() < UNREAD_MAX {
            list(self).push(folder.to_owned());
        } else {
            self.unread_more = true;
        }
    }

    /// Whether some of it may be readable at the next look.
    pub(super) fn may_pass(&self) -> bool {
        self.passing
    }

    /// Takes over the problems of another walk.
    pub(super) fn extend(&mut self, other: &Self) {
        for (kind, Kind { count, example }) in &other.kinds {
            self.add_many(kind, *count, example);
        }
        for folder in &other.unread {
            self.leave_unread(folder);
        }
        for folder in &other.partly_read {
            self.leave_partly_read(folder);
        }
        self.unread_more |= other.unread_more;
        self.passing |= other.passing;
    }

    /// Whether every folder was read without an error, so that what was not found is not there.
    pub(super) fn none_unread(&self) -> bool {
        self.unread.is_empty() && self.partly_read.is_empty() && !self.unread_more
    }

    /// Whether files of this folder may be there although they were not found. That is true of every folder when there
    /// are more unread ones than are remembered by name.
    pub(super) fn hides(&self, folder: &Path) -> bool {
        self.unread_more
            || self.unread.iter().any(|top| folder.starts_with(top))
            || self.partly_read.iter().any(|known| known == folder)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// The kinds without counts and examples, to see whether there is a new one.
    pub(super) fn kinds(&self) -> Vec<String> {
        self.kinds.keys().cloned().collect()
    }

    /// One line for each kind.
    pub(super) fn lines(&self, root: &Path) -> Vec<String> {
        self.kinds
            .iter()
            .map(|(kind, Kind { count, example })| {
                let example = shown(&root.join(example));
                match count {
                    1 => format!("{example}: {kind}"),
                    _ => format!("{count} times {kind}, first at {example}"),
                }
            })
            .collect()
    }
}

/// The path in quotes, shortened in the middle.
pub(super) fn shown(path: &Path) -> String {
    let text: Vec<char> = QuotedPath(path).to_string().chars().collect();
    if text.len() <= SHOWN_MAX {
        return text.into_iter().collect();
    }
    let (head, tail) = (SHOWN_MAX / 2, text.len() - SHOWN_MAX / 2);
    let part = |part: Option<&[char]>| part.unwrap_or_default().iter().collect::<String>();
    format!("{}…{}", part(text.get(..head)), part(text.get(tail..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_problems_is_one_line_for_each_kind() {
        let mut problems = Problems::default();
        for number in 0..10_000 {
            let path = PathBuf::from(format!("{number}/{}", "x".repeat(1000)));
            problems.add_unread("Permission denied", &path);
            problems.add("nothing", Path::new("a"));
        }
        let lines = problems.lines(Path::new("/srv"));
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("10000 times Permission denied, first at \"/srv/0/xxx"));
        assert!(lines[0].chars().count() < 300, "{}", lines[0]);
        for number in 0..100 {
            problems.add(&number.to_string(), Path::new("a"));
        }
        assert_eq!(problems.lines(Path::new("/srv")).len(), KINDS_MAX + 1);
        assert_eq!(problems.unread.len(), UNREAD_MAX);
    }

    #[test]
    fn what_was_not_read_may_hide_what_is_in_it() {
        let mut problems = Problems::default();
        problems.add("no watch", Path::new("a"));
        assert!(problems.none_unread() && !problems.may_pass());
        problems.refuse("too deep", Path::new("deep"));
        assert!(!problems.none_unread() && !problems.may_pass());
        problems.add_unread("EACCES", Path::new("closed"));
        problems.add_partly_read("EIO", Path::new("part/x.dgn"), Path::new("part"));
        assert!(problems.may_pass());
        for (folder, hides) in [
            ("deep/er", true),
            ("closed", true),
            ("closed/below", true),
            ("closed.old", false),
            ("part", true),
            ("part/below", false),
            ("", false),
        ] {
            assert_eq!(problems.hides(Path::new(folder)), hides, "{folder}");
        }
        let mut all = Problems::default();
        all.extend(&problems);
        assert_eq!(all, problems);
        for number in 0..=UNREAD_MAX {
            all.add_unread("EIO", Path::new(&number.to_string()));
        }
        assert!(all.hides(Path::new("anything")));
    }
}
