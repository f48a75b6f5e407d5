//! What the reasons of many failures have in common. Pure.
//!
//! A reason names its file, and often ids and numbers. Reasons that differ in nothing else have one pattern, so files
//! that failed for one cause make one group. What all files of a group have in common stays readable: an equal number
//! is kept, a different one becomes "…".

use std::path::Path;

use super::FailureKind;

/// In place of what differs.
const VARIES: &str = "…";

/// Words longer than this are ids, whatever they consist of.
const WORD_MAX: usize = 40;

/// Hexadecimal digits of a key: enough for thousands of groups.
const KEY_DIGITS: usize = 12;

/// A part of a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part<'a> {
    kind: Kind,
    text: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The same in every reason of a group.
    Fixed,
    /// A quoted text.
    Quoted,
    /// A number, an id, an address or a path.
    Value,
}

impl<'a> Part<'a> {
    /// The same without what varies.
    fn pattern(self) -> &'a str {
        match self.kind {
            Kind::Fixed => self.text,
            Kind::Quoted => "\"…\"",
            Kind::Value => VARIES,
        }
    }
}

/// The key of the group of a failure. The same for every version of this program.
pub(super) fn key(kind: FailureKind, reason: &str, path: &Path) -> String {
    let reason = without_name(reason, path);
    let mut hasher = blake3::Hasher::new();
    hasher.update(kind.as_str().as_bytes());
    for part in parts(&reason) {
        hasher.update(b"\0").update(part.pattern().as_bytes());
    }
    let mut key = hasher.finalize().to_hex().to_string();
    key.truncate(KEY_DIGITS);
    key
}

/// The text with "…" in place of the name of its file, where that stands without quotes.
pub(super) fn without_name(text: &str, path: &Path) -> String {
    let mut text = text.to_owned();
    for name in [
        path.to_str(),
        path.file_name().and_then(|name| name.to_str()),
    ] {
        // A name without an extension may be a word.
        if let Some(name) = name.filter(|name| name.contains('.')) {
            text = text.replace(name, VARIES);
        }
    }
    text
}

/// What two texts have in common, with "…" for what differs; None if more than names, ids and numbers differ.
pub(super) fn common(one: &str, other: &str) -> Option<String> {
    let (one, other) = (parts(one), parts(other));
    if one.len() != other.len() {
        return None;
    }
    let mut text = String::new();
    for (one, other) in one.iter().zip(&other) {
        if one.pattern() != other.pattern() {
            return None;
        }
        text += if one == other {
            one.text
        } else {
            one.pattern()
        };
    }
    Some(text)
}

/// Splits a text; the parts together are the text.
fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts: Vec<Part<'_>> = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (kind, length) = if first == '"' {
            (Kind::Quoted, quoted(rest))
        } else if is_in_word(first) {
            let length = rest
                .find(|letter| !is_in_word(letter))
                .unwrap_or(rest.len());
            // The period or hyphen at the end of a word is none of it.
            let (word, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
            let length = word.trim_end_matches(['.', '-']).len().max(1);
            let is_after_parenthesis = parts.last().is_some_and(|part| part.text.ends_with('('));
            if varies(word) && !is_status(word, is_after_parenthesis, after) {
                (Kind::Value, length)
            } else {
                (Kind::Fixed, length)
            }
        } else {
            (Kind::Fixed, first.len_utf8())
        };
        let (text, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
        parts.push(Part { kind, text });
        rest = after;
    }
    parts
}

/// The length of a quoted text, with both quotes; of one that does not end, only that of its quote.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    1
}

fn is_in_word(letter: char) -> bool {
    letter.is_alphanumeric() || "…/\\._-+=%@~#".contains(letter)
}

/// Whether a word may be another one for another file.
fn varies(word: &str) -> bool {
    let is_path = word.len() > 1 && word.contains(['/', '\\']);
    is_path
        || word.len() > WORD_MAX
        || word.contains(VARIES)
        || word.contains(|letter: char| letter.is_ascii_digit())
}

/// Whether a number is the status of a response, such as in "(403, no access)" and "502 Bad Gateway".
fn is_status(word: &str, is_after_parenthesis: bool, after: &str) -> bool {
    let named = || {
        let next = after.strip_prefix(' ').and_then(|name| name.chars().next());
        next.is_some_and(char::is_uppercase)
    };
    matches!(word.parse::<u16>(), Ok(400..=599))
        && word.len() == 3
        && (is_after_parenthesis || named())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(reason: &str, path: &str) -> String {
        key(FailureKind::Blocked, reason, Path::new(path))
    }

    #[test]
    fn reasons_that_differ_in_names_ids_and_numbers_only_have_one_key() {
        for (one, other, common_text) in [
            (
                "cannot synchronize \"a/Deck 1.dgn\": the iModel has as many source files as it accepts, 250",
                "cannot synchronize \"b.dgn\": the iModel has as many source files as it accepts, 250",
                "cannot synchronize \"…\": the iModel has as many source files as it accepts, 250",
            ),
            (
                "cannot upload \"say \\\"hi\\\".dgn\": storage reports 1 bytes, but 5 bytes were sent",
                "cannot upload \"b.dgn\": storage reports 17 bytes, but 5 bytes were sent",
                "cannot upload \"…\": storage reports … bytes, but 5 bytes were sent",
            ),
            (
                "run c0ffee00-1234-4abc-8def-0123456789ab ended with Error: cannot open Deck.dgn",
                "run 11111111-2222-4abc-8def-0123456789ab ended with Error: cannot open b.dgn",
                "run … ended with Error: cannot open …",
            ),
            (
                "/srv/north/Deck.dgn: permission denied.",
                "/srv/north/plans/b.dgn: permission denied.",
                "…: permission denied.",
            ),
        ] {
            let (one_path, other_path) = (Path::new("Deck.dgn"), Path::new("b.dgn"));
            assert_eq!(of(one, "Deck.dgn"), of(other, "b.dgn"), "{one}");
            let text = common(
                &without_name(one, one_path),
                &without_name(other, other_path),
            );
            assert_eq!(text.as_deref(), Some(common_text));
            // A third one is compared with what two have in common.
            let again = common(common_text, &without_name(one, one_path));
            assert_eq!(again.as_deref(), Some(common_text));
        }
    }

    #[test]
    fn other_reasons_kinds_and_statuses_have_other_keys() {
        for (one, other) in [
            (
                "create file: no access (403)",
                "create file: no access (404)",
            ),
            (
                "response of a proxy: 403 Forbidden, \"x\"",
                "response of a proxy: 502 Bad Gateway, \"x\"",
            ),
            ("it was deleted", "it is empty"),
            ("cannot read \"a.dgn\"", "cannot read it"),
        ] {
            assert_ne!(of(one, "a.dgn"), of(other, "a.dgn"), "{one}");
            assert_eq!(common(one, other), None);
        }
        let kind = |kind| key(kind, "no", Path::new("a.dgn"));
        assert_ne!(kind(FailureKind::Blocked), kind(FailureKind::Refused));
    }

    #[test]
    fn a_key_is_the_same_in_every_version() {
        assert_eq!(of("it is empty", "a.dgn"), "e2a14f787f6f");
    }

    #[test]
    fn any_text_is_the_sum_of_its_parts() {
        for text in [
            "",
            "\"",
            "a \"b",
            "\\",
            "ä…ö \"\\",
            "1",
            "-",
            "a-. -b.",
            "(((403",
        ] {
            let sum: String = parts(text).iter().map(|part| part.text).collect();
            assert_eq!(sum, text);
        }
    }
}
