//! File names, for storage and for messages.
//!
//! A name on disk is bytes; a name in storage is text of at most 255 characters, some of which are not allowed. What
//! cannot be stored is refused here, with the reason, before anything is sent: a silent rename would make it another
//! file.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

use unicode_normalization::UnicodeNormalization as _;

/// The longest name that storage takes, in UTF-16 units: the strictest reading of "255 characters".
const LENGTH_MAX: usize = 255;

/// Why a name cannot be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unstorable {
    /// Not text.
    #[error("the name {} is not valid UTF-8", QuotedPath(OsStr::from_bytes(.0).as_ref()))]
    NotText(Vec<u8>),
    /// Too long.
    #[error("the name {0:?} has more than 255 characters")]
    TooLong(String),
    /// A character that storage refuses.
    #[error("the name {0:?} contains {1:?}, which iTwin Storage does not accept")]
    Character(String, char),
    /// A space or dot at an end.
    #[error(
        "the name {0:?} begins with a space or ends with a space or dot, which iTwin Storage does not accept"
    )]
    Edge(String),
}

/// The name that a file or folder gets in storage: its own, in Unicode's composed form.
///
/// # Errors
/// [`Unstorable`] when storage would not take it.
pub(crate) fn storage_name(name: &OsStr) -> Result<String, Unstorable> {
    let text = name
        .to_str()
        .ok_or_else(|| Unstorable::NotText(name.as_bytes().to_owned()))?;
    let text: String = text.nfc().collect();
    if let Some(bad) = text
        .chars()
        .find(|c| c.is_control() || r#"/\:*?"<>|"#.contains(*c))
    {
        return Err(Unstorable::Character(text, bad));
    }
    if text.starts_with(' ') || text.ends_with([' ', '.']) {
        return Err(Unstorable::Edge(text));
    }
    if text.encode_utf16().count() > LENGTH_MAX {
        return Err(Unstorable::TooLong(text));
    }
    Ok(text)
}

/// The folders and the name of a file in storage, from its path relative to the root.
///
/// # Errors
/// [`Unstorable`] for the first part that storage would not take.
pub(crate) fn storage_path(path: &Path) -> Result<(Vec<String>, String), Unstorable> {
    let mut parts = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(storage_name(name)),
            _ => None,
        })
        .collect::<Result<Vec<_>, _>>()?;
    let name = parts.pop().unwrap_or_default();
    Ok((parts, name))
}

/// The same key for all paths that storage may treat as one: whether it distinguishes case is not documented.
pub(crate) fn path_key(folders: &[String], name: &str) -> [u8; 16] {
    let folded: Vec<String> = folders
        .iter()
        .map(String::as_str)
        .chain([name])
        .map(str::to_lowercase)
        .collect();
    let mut key = [0; 16];
    let mut hasher = blake3::Hasher::new();
    hasher.update(folded.join("/").as_bytes());
    hasher.finalize_xof().fill(&mut key);
    key
}

/// Shows a path in quotes on one line, with odd bytes and control characters escaped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QuotedPath<'a>(pub(crate) &'a Path);

impl fmt::Display for QuotedPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        insta::assert_snapshot!(crate::text::render_variants!(Unstorable, |_| None, {
            Unstorable::NotText(_) => Unstorable::NotText(b"\xff.dgn".to_vec()),
            Unstorable::TooLong(_) => Unstorable::TooLong("long.dgn".to_owned()),
            Unstorable::Character(..) => Unstorable::Character("a:b.dgn".to_owned(), ':'),
            Unstorable::Edge(_) => Unstorable::Edge("a.dgn ".to_owned()),
        }));
    }

    #[test]
    fn a_key_is_shared_by_paths_that_differ_in_case_or_composition_only() {
        let of = |path: &str| {
            let (folders, name) = storage_path(Path::new(path)).unwrap();
            path_key(&folders, &name)
        };
        for (one, other, same) in [
            ("a/b.ifc", "A/B.IFC", true),
            ("Brücke.ifc", "Bru\u{308}cke.ifc", true),
            ("BRÜCKE/x.ifc", "bru\u{308}cke/x.ifc", true),
            ("a/b.ifc", "ab.ifc", false),
            ("a/b.ifc", "b.ifc", false),
            ("e.ifc", "é.ifc", false),
        ] {
            assert_eq!(of(one) == of(other), same, "{one} {other}");
        }
    }

    #[test]
    fn ordinary_names_are_stored_as_they_are() {
        for name in [
            "Deck 12.dgn",
            "Brücke.ifc",
            "a",
            "model.i.dgn",
            "-x.dwg",
            "..a",
            "名前.rvt",
        ] {
            assert_eq!(storage_name(OsStr::new(name)).as_deref(), Ok(name));
        }
    }

    #[test]
    fn a_decomposed_name_is_stored_composed() {
        assert_eq!(
            storage_name(OsStr::new("Bru\u{308}cke.ifc")).as_deref(),
            Ok("Brücke.ifc")
        );
    }

    #[test]
    fn names_that_storage_refuses_are_refused_with_the_reason() {
        let check = |name: &[u8], expected: &str| {
            let error = storage_name(OsStr::from_bytes(name)).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        check(b"a\xFF.dgn", r#"the name "a\xFF.dgn" is not valid UTF-8"#);
        check(
            b"a:b.dgn",
            r#"the name "a:b.dgn" contains ':', which iTwin Storage does not accept"#,
        );
        check(
            b"a\nb.dgn",
            r#"the name "a\nb.dgn" contains '\n', which iTwin Storage does not accept"#,
        );
        let edge =
            "begins with a space or ends with a space or dot, which iTwin Storage does not accept";
        check(b" a.dgn", &format!("the name \" a.dgn\" {edge}"));
        check(b"a.dgn.", &format!("the name \"a.dgn.\" {edge}"));
        let long = "x".repeat(256);
        check(
            long.as_bytes(),
            &format!("the name {long:?} has more than 255 characters"),
        );
    }

    #[test]
    fn length_counts_as_utf16() {
        assert!(storage_name(OsStr::new(&"😀".repeat(127))).is_ok());
        assert!(storage_name(OsStr::new(&"😀".repeat(128))).is_err());
    }

    #[test]
    fn a_path_becomes_folders_and_a_name() {
        let (folders, name) = storage_path(Path::new("North/Deck/a.dgn")).unwrap();
        assert_eq!(
            (folders.join("/").as_str(), name.as_str()),
            ("North/Deck", "a.dgn")
        );
        assert!(storage_path(Path::new("No:th/a.dgn")).is_err());
    }
}
