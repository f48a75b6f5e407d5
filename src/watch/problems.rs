//! What is wrong with parts of a root: by kind, with a count and an example, so that it stays small whatever a share holds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::names::Shown;

/// Kinds that are told apart; further ones are counted together.
const KINDS_MAX: usize = 8;

/// Folders that are remembered by name as not read.
const UNREAD_MAX: usize = 64;

/// A longer path is shortened in the middle.
const SHOWN_MAX: usize = 160;

/// What a walk could not read, watch or accept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Problems {
    kinds: BTreeMap<String, Kind>,
    unread: Vec<PathBuf>,
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

    /// Counts a problem that leaves it unknown what `folder` holds, or a part of it.
    pub(super) fn add_unread(&mut self, kind: &str, path: &Path, folder: &Path) {
        self.add(kind, path);
        self.leave_unread(folder);
        self.passing = true;
    }

    /// Counts a path that is not read because of what it is, so that looking again is of no use.
    pub(super) fn refuse(&mut self, kind: &str, path: &Path) {
        self.add(kind, path);
        self.leave_unread(path);
    }

    /// Whether some of it may be readable at the next look.
    pub(super) fn may_pass(&self) -> bool {
        self.passing
    }

    fn leave_unread(&mut self, folder: &Path) {
        if self.may_hide(folder) {
            return;
        }
        if self.unread.len() < UNREAD_MAX {
            self.unread.push(folder.to_owned());
        } else {
            self.unread_more = true;
        }
    }

    /// Takes over the problems of another walk.
    pub(super) fn extend(&mut self, other: &Self) {
        for (kind, Kind { count, example }) in &other.kinds {
            self.add_many(kind, *count, example);
        }
        for folder in &other.unread {
            self.leave_unread(folder);
        }
        self.unread_more |= other.unread_more;
        self.passing |= other.passing;
    }

    /// Whether every folder was read without an error, so that what was not found is not there.
    pub(super) fn none_unread(&self) -> bool {
        self.unread.is_empty() && !self.unread_more
    }

    /// Whether this path may be there although it was not found, because its folder was not read. With more unread
    /// folders than are remembered by name, that is true of every path.
    pub(super) fn may_hide(&self, path: &Path) -> bool {
        self.unread_more || self.unread.iter().any(|folder| path.starts_with(folder))
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
    let text: Vec<char> = Shown(path).to_string().chars().collect();
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
            problems.add_unread("Permission denied", &path, &path);
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
        assert!(problems.none_unread());
        problems.add_unread("EIO", Path::new("closed/x.dgn"), Path::new("closed"));
        assert!(!problems.none_unread());
        assert!(problems.may_hide(Path::new("closed/deep/y.dgn")));
        assert!(!problems.may_hide(Path::new("closed.dgn")));
        let mut all = Problems::default();
        all.extend(&problems);
        assert_eq!(all, problems);
        for number in 0..=UNREAD_MAX {
            let folder = PathBuf::from(number.to_string());
            all.add_unread("EIO", &folder, &folder);
        }
        assert!(all.may_hide(Path::new("anything.dgn")));
    }
}
