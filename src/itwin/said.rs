//! What others say, before it is used anywhere: the one way in for every string of an answer.
//!
//! [`data`] is for ids and names, which must stay what they are; [`words`] is for text that people read. Neither lets a secret of ours, a
//! line break or a control character through, and words have no character that hides or reorders text, and an end.

use serde::{Deserialize, Deserializer};

use crate::secret::{Part, REDACTED, redact};

/// Characters of a text that are shown.
const SHOWN_MAX: usize = 300;

/// Bytes of a text that are looked at: more than an answer that refuses something may have.
const READ_MAX: usize = 64 * 1024;

/// An id or a name: without secrets and control characters, and otherwise as it is. Names may hold joiners and marks of direction.
pub(super) fn data(text: &str) -> String {
    let mut text = redact(text, Part::Long).into_owned();
    text.retain(|character| !character.is_control());
    text
}

/// A text for people: one short line of visible characters, nothing in it that is, or looks like, a secret.
pub(crate) fn words(text: &str) -> String {
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

/// Whether a word carries somebody's secret that we do not know: a signature, a token, a password in an address.
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

/// Whether the next word is somebody's secret.
fn introduces_a_secret(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    let name = lower.trim_matches(|letter: char| !letter.is_ascii_alphanumeric());
    name == "bearer"
        || ["secret", "token", "password"]
            .iter()
            .any(|kind| name.ends_with(kind))
            && lower.ends_with([':', '='])
}

/// Ends a line, or moves the cursor, somewhere.
fn is_break(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}' | '\u{2029}')
}

/// Takes no place but changes how other characters are shown: marks of direction, joiners, tags, selectors.
fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// An id or a name; nothing where there is none.
pub(super) fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(data(
        &Option::<String>::deserialize(deserializer)?.unwrap_or_default(),
    ))
}

/// An id, which must be there.
pub(super) fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let told = String::deserialize(deserializer)?;
    as_id(&told).ok_or_else(|| serde::de::Error::custom("an id that is none"))
}

/// An id as it is. One in which a secret or a control character stands is none: it must not be remembered and asked for again.
pub(super) fn as_id(told: &str) -> Option<String> {
    Some(data(told)).filter(|id| id == told)
}

/// An id or a name, if there is one.
pub(super) fn maybe_name<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(|text| data(&text)))
}

/// Words; nothing where there are none.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(maybe_text(deserializer)?.unwrap_or_default())
}

/// Words, if there are some.
pub(super) fn maybe_text<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text
        .map(|text| words(&text))
        .filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn words_of_others_are_one_short_line_without_secrets_and_tricks() {
        let _secret = Secret::new("Wq7tiger+mV2x");
        for (said, shown) in [
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
            assert_eq!(words(said), shown, "{said:?}");
        }
        assert_eq!(words(&"é".repeat(400)).chars().count(), SHOWN_MAX + 1);
        assert!(words(&"é".repeat(READ_MAX)).len() < 4 * SHOWN_MAX);
    }

    #[test]
    fn an_id_with_a_secret_or_a_control_character_is_none() {
        let _secret = Secret::new("Rv8puma+Xs3Q-nBd");
        assert_eq!(as_id("-aB_c/d").as_deref(), Some("-aB_c/d"));
        for told in ["x Rv8puma+Xs3Q-nBd", "a\nb", "a\u{0}"] {
            assert_eq!(as_id(told), None, "{told:?}");
        }
    }

    #[test]
    fn names_stay_what_they_are() {
        let _secret = Secret::new("Kp4lion+Zt9Y-mRq");
        for (said, kept) in [
            ("نمایش\u{200c}ها.ifc", "نمایش\u{200c}ها.ifc"),
            ("-aB_c/ d.dgn", "-aB_c/ d.dgn"),
            ("a\nb\u{1b}c", "abc"),
            ("x Kp4lion+Zt9Y-mRq y", "x [redacted] y"),
        ] {
            assert_eq!(data(said), kept, "{said:?}");
        }
    }
}
