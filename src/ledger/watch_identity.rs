//! Which watch of the ledger a configured one is. Pure.
//!
//! A watch may be renamed, its share mounted elsewhere, or its storage folder changed: what is known of its files stays
//! as long as one of the three is the same. When several fit, none of them is taken: a wrong choice would move or
//! upload files for nothing.

use std::path::Path;

use crate::ids::ImodelId;

/// By what a watch is recognized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchIdentity<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its folder; None if it is not known.
    pub path: Option<&'a Path>,
    /// Its iModel.
    pub imodel_id: &'a ImodelId,
    /// Its folder in storage, as segments joined by `/`.
    pub storage_folder: &'a str,
    /// In the configuration: a name that it had before.
    pub formerly: Option<&'a str>,
    /// In the ledger: whether any file is known of it. Otherwise it is recognized by its name only.
    pub has_files: bool,
}

/// Which known watch a configured one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recognized {
    /// The known watch at this position.
    As(usize),
    /// None of them.
    New,
    /// One of these, but it is not clear which.
    Ambiguous(Vec<usize>),
}

type Rule = fn(&WatchIdentity<'_>, &WatchIdentity<'_>) -> bool;

/// What has to be the same of a known and a configured watch, the strongest evidence first. Names that were swapped or
/// passed on from watch to watch are therefore found by the folders, and mount points that were swapped by the names.
const RULES: [Rule; 7] = [
    |known, watch| known.has_files && watch.formerly == Some(known.name),
    |known, watch| known.name == watch.name && has_same_place(known, watch),
    |known, watch| known.has_files && has_same_place(known, watch),
    |known, watch| known.name == watch.name && has_same_path(known, watch),
    |known, watch| known.name == watch.name,
    |known, watch| known.has_files && has_same_path(known, watch),
    |known, watch| known.has_files && has_same_storage(known, watch),
];

/// Finds for each configured watch the known one that it is. No known watch is found twice.
#[must_use]
pub fn recognize(known: &[WatchIdentity<'_>], configured: &[WatchIdentity<'_>]) -> Vec<Recognized> {
    let mut found = vec![Recognized::New; configured.len()];
    let mut taken = vec![false; known.len()];
    for (number, rule) in RULES.iter().enumerate() {
        let is_last = number + 1 == RULES.len();
        let mut fits: Vec<(usize, Vec<usize>)> = Vec::new();
        for (at, watch) in configured.iter().enumerate() {
            if found.get(at) != Some(&Recognized::New) {
                continue;
            }
            let candidates = known.iter().zip(&taken).enumerate();
            let candidates: Vec<usize> = candidates
                .filter(|(_, (one, taken))| !**taken && rule(one, watch))
                .map(|(candidate, _)| candidate)
                .collect();
            if !candidates.is_empty() {
                fits.push((at, candidates));
            }
        }
        let wanted: Vec<usize> = fits.iter().flat_map(|(_, those)| those.clone()).collect();
        for (at, candidates) in fits {
            let is_wanted_once =
                |one: &usize| wanted.iter().filter(|other| *other == one).count() == 1;
            let result = match candidates.as_slice() {
                [one] if is_wanted_once(one) => {
                    if let Some(taken) = taken.get_mut(*one) {
                        *taken = true;
                    }
                    Recognized::As(*one)
                }
                _ if is_last => Recognized::Ambiguous(candidates),
                _ => continue,
            };
            if let Some(found) = found.get_mut(at) {
                *found = result;
            }
        }
    }
    found
}

fn has_same_path(known: &WatchIdentity<'_>, watch: &WatchIdentity<'_>) -> bool {
    known.path.is_some() && known.path == watch.path
}

fn has_same_place(known: &WatchIdentity<'_>, watch: &WatchIdentity<'_>) -> bool {
    has_same_path(known, watch) && has_same_storage(known, watch)
}

fn has_same_storage(known: &WatchIdentity<'_>, watch: &WatchIdentity<'_>) -> bool {
    known.imodel_id == watch.imodel_id && known.storage_folder == watch.storage_folder
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A watch from "name /path imodel folder", in the configuration with "formerly" at the end, in the ledger with
    /// "empty" if no file is known of it.
    fn parse(text: &'static str) -> (Vec<&'static str>, ImodelId) {
        let words: Vec<&str> = text.split(' ').collect();
        let imodel = words[2].into();
        (words, imodel)
    }

    fn identity<'a>((words, imodel_id): &'a (Vec<&'static str>, ImodelId)) -> WatchIdentity<'a> {
        WatchIdentity {
            name: words[0],
            path: (words[1] != "-").then(|| Path::new(words[1])),
            imodel_id,
            storage_folder: words[3],
            formerly: words.get(4).copied(),
            has_files: words.get(4) != Some(&"empty"),
        }
    }

    fn check(known: &[&'static str], configured: &[&'static str], expected: &[&str]) {
        let known: Vec<_> = known.iter().copied().map(parse).collect();
        let configured: Vec<_> = configured.iter().copied().map(parse).collect();
        let known: Vec<_> = known.iter().map(identity).collect();
        let configured: Vec<_> = configured.iter().map(identity).collect();
        let found: Vec<String> = recognize(&known, &configured)
            .into_iter()
            .map(|found| match found {
                Recognized::As(at) => known[at].name.to_owned(),
                Recognized::New => "new".to_owned(),
                Recognized::Ambiguous(of) => {
                    let names: Vec<&str> = of.iter().map(|at| known[*at].name).collect();
                    format!("{}?", names.join("|"))
                }
            })
            .collect();
        assert_eq!(found, expected, "{known:#?} {configured:#?}");
    }

    #[test]
    fn a_watch_stays_the_same_under_another_name_path_or_storage_folder() {
        let north = &["north /srv/north A North"];
        for (configured, expected) in [
            ("north /srv/north A North", "north"),
            ("north-site /srv/north A North", "north"),
            ("north /mnt/north A North", "north"),
            ("north /srv/north A Site", "north"),
            ("north /mnt/north B Site", "north"),
            ("north-site /srv/north B Site", "north"),
            ("north-site /mnt/north A North", "north"),
            ("north-site /mnt/north A Site", "new"),
            ("north-site /mnt/north B North", "new"),
            ("north-site /mnt/north B Site north", "north"),
        ] {
            check(north, &[configured], &[expected]);
        }
    }

    #[test]
    fn names_that_were_swapped_or_passed_on_are_found_by_the_folder() {
        let known = &["a /1 A x", "b /2 A y"];
        check(known, &["b /1 A x", "a /2 A y"], &["a", "b"]);
        check(known, &["b /1 A x", "c /2 A y"], &["a", "b"]);
        // One watch was removed, and the other one got its name.
        check(known, &["b /1 A x"], &["a"]);
        // The mount points were swapped.
        check(known, &["a /2 A x", "b /1 A y"], &["a", "b"]);
        check(known, &["a /2 A x", "b /3 A y"], &["a", "b"]);
    }

    #[test]
    fn watches_of_one_folder_are_distinguished_by_their_imodels() {
        let known = &["a /1 A x", "a@B /1 B x"];
        check(known, &["a /1 A x", "a@B /1 B x"], &["a", "a@B"]);
        check(known, &["a /1 B x", "a@A /1 A x"], &["a@B", "a"]);
        check(known, &["a /1 B x"], &["a@B"]);
        check(known, &["a /1 A x"], &["a"]);
        check(known, &["b /1 A x", "b@B /1 B x"], &["a", "a@B"]);
        check(known, &["a /2 A x", "a@B /2 B x"], &["a", "a@B"]);
        check(&known[..1], &["a /1 B x", "a@A /1 A x"], &["new", "a"]);
    }

    #[test]
    fn a_watch_that_may_be_one_of_several_is_none_of_them_unless_the_configuration_says_which() {
        let known = &["old /1 A x", "older - A x"];
        check(known, &["new /9 A x"], &["old|older?"]);
        check(known, &["new /9 A x older"], &["older"]);
        check(known, &["new /1 A x"], &["old"]);
        check(
            &["old /1 A x", "older /1 A x"],
            &["new /1 A x"],
            &["old|older?"],
        );
        check(&["old /1 A x", "older /1 B y"], &["new /1 C z"], &["new"]);
    }

    #[test]
    fn a_watch_without_files_is_recognized_by_its_name_only() {
        check(&["old /1 A x empty"], &["new /1 A x"], &["new"]);
        check(&["old /1 A x empty"], &["old /2 A x"], &["old"]);
        check(
            &["new /2 A x empty", "old /1 A x"],
            &["new /2 A x old"],
            &["old"],
        );
        // Also later, when the new watch has files already.
        check(&["new /2 A x", "old /1 A x"], &["new /2 A x old"], &["old"]);
        check(&["new /2 A x"], &["new /2 A x old"], &["new"]);
    }
}
