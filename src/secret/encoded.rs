//! The encodings in which a secret can come back, and the decodings of a text.
//!
//! Only letters and digits are compared, in lower case: separators, line breaks and escapes of everything else don't
//! matter. Escapes of letters and digits are decoded; each keeps its position in the text.

use std::borrow::Cow;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::REDACTED;

/// One letter or digit (or one byte of it), and its position in the text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unit {
    pub(super) byte: u8,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// The letters and digits of a secret in plain text, and in base64 at each of the three possible offsets.
pub(super) fn patterns(text: &str) -> Vec<Vec<u8>> {
    let mut all = vec![plain(text)];
    for before in 0..3 {
        let mut bytes = vec![0; before];
        bytes.extend(text.as_bytes());
        let encoded = BASE64_STANDARD.encode(&bytes);
        // Skips the digits that depend on the bytes before and after.
        let first = (before * 8).div_ceil(6);
        let last = bytes.len() * 8 / 6;
        all.push(plain(encoded.get(first..last).unwrap_or_default()));
    }
    all.sort();
    all.dedup();
    all
}

fn plain(text: &str) -> Vec<u8> {
    letters(&raw(text)).iter().map(|unit| unit.byte).collect()
}

/// The letters and digits of a text: as it is and, if it seems to be encoded, decoded once and twice.
pub(super) fn views(text: &str) -> Vec<Vec<Unit>> {
    let raw = raw(text);
    let mut views = vec![letters(&raw)];
    if text.contains(['%', '\\', '&']) {
        let once = decoded(&raw);
        let twice = decoded(&once);
        views.push(letters(&once));
        if twice.len() < once.len() {
            views.push(letters(&twice));
        }
    }
    views
}

fn raw(text: &str) -> Vec<Unit> {
    let mut units = Vec::with_capacity(text.len());
    for (start, character) in text.char_indices() {
        let end = start + character.len_utf8();
        if character.is_ascii() || character.is_alphanumeric() {
            let bytes = text.as_bytes().get(start..end).unwrap_or_default();
            units.extend(bytes.iter().map(|byte| Unit {
                byte: *byte,
                start,
                end,
            }));
        }
    }
    units
}

fn letters(units: &[Unit]) -> Vec<Unit> {
    let kept = units
        .iter()
        .filter(|unit| unit.byte.is_ascii_alphanumeric() || !unit.byte.is_ascii());
    kept.map(|unit| Unit {
        byte: unit.byte.to_ascii_lowercase(),
        ..*unit
    })
    .collect()
}

/// Undoes percent-encoding, the escapes of JSON and the entities of HTML.
fn decoded(units: &[Unit]) -> Vec<Unit> {
    let mut out = Vec::with_capacity(units.len());
    let mut at = 0;
    while let Some(unit) = units.get(at) {
        let (text, len) = match unit.byte {
            b'%' => (hex(units, at + 1, 2), 3),
            b'\\' => match units.get(at + 1).map(|next| next.byte) {
                Some(b'u') => (hex(units, at + 2, 4), 6),
                Some(b'x') => (hex(units, at + 2, 2), 4),
                // A line break or a tab: not a letter.
                Some(b'n' | b'r' | b't' | b'b' | b'f') => (Some(u32::from(b' ')), 2),
                Some(next) if next.is_ascii_punctuation() => (Some(u32::from(next)), 2),
                _ => (None, 1),
            },
            b'&' => entity(units, at),
            _ => (None, 1),
        };
        let Some(code) = text else {
            out.push(*unit);
            at += 1;
            continue;
        };
        let (start, end) = (
            unit.start,
            units.get(at + len - 1).map_or(unit.end, |last| last.end),
        );
        let mut push = |byte| out.push(Unit { byte, start, end });
        match (unit.byte, char::from_u32(code)) {
            // One byte of a character.
            (b'%', _) => push(u8::try_from(code).unwrap_or(b' ')),
            (_, Some(character)) => {
                let mut buffer = [0; 4];
                character.encode_utf8(&mut buffer).bytes().for_each(push);
            }
            _ => push(b' '),
        }
        at += len;
    }
    out
}

fn hex(units: &[Unit], from: usize, len: usize) -> Option<u32> {
    let digits = units.get(from..from + len)?;
    digits.iter().try_fold(0, |value, unit| {
        Some(value * 16 + char::from(unit.byte).to_digit(16)?)
    })
}

/// The character of an entity that starts at `at`, and its length. Named ones are not letters.
fn entity(units: &[Unit], at: usize) -> (Option<u32>, usize) {
    let rest: String = units
        .iter()
        .skip(at + 1)
        .take(8)
        .map(|unit| char::from(unit.byte))
        .take_while(|character| *character != '&')
        .collect();
    let Some((name, _)) = rest.split_once(';') else {
        return (None, 1);
    };
    let number = name.strip_prefix('#').map(|digits| {
        digits
            .strip_prefix(['x', 'X'])
            .map_or_else(|| digits.parse(), |hex| u32::from_str_radix(hex, 16))
    });
    let code = match number {
        Some(number) => number.ok(),
        None if name.chars().all(|letter| letter.is_ascii_alphabetic()) && !name.is_empty() => {
            Some(u32::from(b' '))
        }
        None => None,
    };
    (code, name.len() + 2)
}

/// The text with each of these ranges, which can overlap, replaced.
pub(super) fn without(text: &str, mut ranges: Vec<(usize, usize)>) -> Cow<'_, str> {
    if ranges.is_empty() {
        return Cow::Borrowed(text);
    }
    ranges.sort_unstable();
    let mut shown = String::with_capacity(text.len());
    let mut kept = 0;
    let mut covered = 0;
    for (start, end) in ranges {
        if start >= covered || covered == 0 {
            shown.push_str(text.get(kept..start).unwrap_or_default());
            shown.push_str(REDACTED);
        }
        covered = covered.max(end);
        kept = covered;
    }
    shown.push_str(text.get(kept..).unwrap_or_default());
    Cow::Owned(shown)
}
