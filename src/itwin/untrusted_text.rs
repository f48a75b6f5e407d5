//! Strings of responses, made safe before anything uses them. Every string of a response passes through here.
//!
//! [`clean_name`] is for ids and names, which must stay the same; [`sanitize`] is for text to read. Both remove our
//! secrets, line breaks and control characters; text to read also loses characters that hide or reorder others, and is
//! cut at a maximum length.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

use crate::secret::{Part, REDACTED, redact};

/// Maximum length of a text, in characters.
const SHOWN_MAX: usize = 300;

/// Maximum number of bytes to read of a text: more than the maximum size of an error response.
const READ_MAX: usize = 64 * 1024;

/// An id or a name, without secrets and control characters, otherwise unchanged. Names can contain joiners and
/// direction marks.
pub(super) fn clean_name(text: &str) -> String {
    let mut text = redact(text, Part::Long).into_owned();
    text.retain(|character| !character.is_control());
    text
}

/// A text to read: one short line of visible characters, without anything that is or looks like a secret.
pub(super) fn sanitize(text: &str) -> String {
    let mut end = text.len().min(READ_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = redact(text.get(..end).unwrap_or_default(), Part::Short);
    let visible: String = text
        .chars()
        .map(|character| if is_break(character) { ' ' } else { character })
        .filter(|character| !is_invisible(*character))
        .collect();
    let mut shown = String::new();
    let mut names_one = false;
    for word in visible.split_whitespace() {
        let secret = names_one || looks_secret(word);
        names_one = introduces_a_secret(word);
        if secret && shown.ends_with(REDACTED) {
            continue;
        }
        if !shown.is_empty() {
            shown.push(' ');
        }
        let scheme = word.trim_matches('"').eq_ignore_ascii_case("bearer");
        shown.push_str(if secret || scheme { REDACTED } else { word });
        if shown.len() > SHOWN_MAX * 4 {
            break;
        }
    }
    if shown.chars().count() > SHOWN_MAX {
        shown = shown.chars().take(SHOWN_MAX).chain(['…']).collect();
    }
    shown
}

/// Whether a word looks like a secret that is not ours: a signature, a token, a password in a URL.
fn looks_secret(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    let marks = [
        "sig=",
        "sig%3d",
        "secret=",
        "secret%3d",
        "secret\":",
        "token=",
        "token%3d",
        "token\":",
        "password=",
        "eyj",
    ];
    marks.iter().any(|mark| lower.contains(mark))
        || lower.split_once("://").is_some_and(|(_, rest)| {
            rest.split('/')
                .next()
                .is_some_and(|host| host.contains('@'))
        })
}

/// Whether the next word is likely to be a secret.
fn introduces_a_secret(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    let name = lower.trim_matches(|letter: char| !letter.is_ascii_alphanumeric());
    name == "bearer"
        || ["secret", "token", "password"]
            .iter()
            .any(|kind| name.ends_with(kind))
            && lower.ends_with([':', '='])
}

/// Whether a character ends a line or moves the cursor in some program.
fn is_break(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}' | '\u{2029}')
}

/// Whether a character is invisible but changes others: direction marks, joiners, tags, selectors.
fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// An id or a name; empty if missing.
pub(super) fn name<'de, D: Deserializer<'de>, T: From<String>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
    Ok(clean_name(&text).into())
}

/// A required id.
pub(super) fn id<'de, D: Deserializer<'de>, T: From<String>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    let id = as_id(&text).ok_or_else(|| serde::de::Error::custom("invalid id"))?;
    Ok(id.into())
}

/// An unchanged id. None if it contains a secret or a control character: such an id must not be stored and sent again.
pub(super) fn as_id(text: &str) -> Option<String> {
    Some(clean_name(text)).filter(|id| id == text)
}

/// An optional id or name.
pub(super) fn maybe_name<'de, D: Deserializer<'de>, T: From<String>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.map(|text| clean_name(&text).into()))
}

/// A text; empty if missing.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(maybe_text(deserializer)?.unwrap_or_default())
}

/// An optional text; None if empty.
pub(super) fn maybe_text<'de, D: Deserializer<'de>, T: From<String>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text
        .map(|text| sanitize(&text))
        .filter(|text| !text.is_empty())
        .map(T::from))
}

/// An optional time; None if it cannot be parsed, so that the rest stays readable.
pub(super) fn time<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Timestamp>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.and_then(|text| text.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn words_of_others_are_one_short_line_without_secrets_and_tricks() {
        let _secret = Secret::new("Wq7tiger+mV2x");
        for (input, shown) in [
            (
                "no\n<b>access</b> to https://x/y?sv=1&sig=abc%3D with Wq7tiger+mV2x and eyJhbGciOi",
                "no <b>access</b> to [redacted] with [redacted] and [redacted]",
            ),
            ("done\nREADY=1\r\nMAINPID=1", "done READY=1 MAINPID=1"),
            ("a\u{1b}[31mred\u{7}\u{0}b", "a [31mred b"),
            ("x\u{202e}gnp.exe\u{2066}\u{200b}\u{2028}y", "xgnp.exe y"),
            ("Authorization: Bearer opaque", "Authorization: [redacted]"),
            ("at https://me:tiger@host/x", "at [redacted]"),
            ("client_secret: tiger", "client_secret: [redacted]"),
            ("the token is missing", "the token is missing"),
            ("no access_token", "no access_token"),
            ("", ""),
        ] {
            assert_eq!(sanitize(input), shown, "{input:?}");
        }
        assert_eq!(sanitize(&"é".repeat(400)).chars().count(), SHOWN_MAX + 1);
        assert!(sanitize(&"é".repeat(READ_MAX)).len() < 4 * SHOWN_MAX);
    }

    #[test]
    fn an_id_with_a_secret_or_a_control_character_is_rejected() {
        let _secret = Secret::new("Rv8puma+Xs3Q-nBd");
        assert_eq!(as_id("-aB_c/d").as_deref(), Some("-aB_c/d"));
        for text in ["x Rv8puma+Xs3Q-nBd", "a\nb", "a\u{0}"] {
            assert_eq!(as_id(text), None, "{text:?}");
        }
    }

    #[test]
    fn names_stay_unchanged() {
        let _secret = Secret::new("Kp4lion+Zt9Y-mRq");
        for (input, kept) in [
            ("نمایش\u{200c}ها.ifc", "نمایش\u{200c}ها.ifc"),
            ("-aB_c/ d.dgn", "-aB_c/ d.dgn"),
            ("a\nb\u{1b}c", "abc"),
            ("x Kp4lion+Zt9Y-mRq y", "x [redacted] y"),
        ] {
            assert_eq!(clean_name(input), kept, "{input:?}");
        }
    }
}
