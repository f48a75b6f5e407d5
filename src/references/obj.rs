//! References in a Wavefront object (obj): its material libraries.
//!
//! Source: the format's specification, appendix B1: `mtllib filename1 filename2 …`. Many programs write one name with
//! blanks instead of several names.

use std::io::{self, Read};

use super::lines::{Lines, Next};
use super::{End, Found, Limits};

const WHAT: &str = "material library";

pub(super) fn read(
    lines: &mut Lines<impl Read>,
    found: &mut Found,
    limits: Limits,
) -> io::Result<End> {
    loop {
        let line = match lines.next()? {
            Next::Line(line) => line.trim_ascii(),
            Next::End => return Ok(End::Complete),
            Next::Limit => return Ok(End::Limit),
        };
        if line.contains(&0) {
            return Ok(End::Unknown("it is not text"));
        }
        let names = line.strip_prefix(b"mtllib");
        let Some(names) = names.filter(|names| names.first().is_some_and(u8::is_ascii_whitespace))
        else {
            continue;
        };
        let names = names.trim_ascii();
        let words = || {
            let words = names.split(u8::is_ascii_whitespace);
            words.filter(|word| !word.is_empty())
        };
        let is_library = |word: &&[u8]| word.to_ascii_lowercase().ends_with(b".mtl");
        if words().all(|word| is_library(&word)) {
            words().for_each(|word| found.add(WHAT, word));
        } else {
            found.add(WHAT, names);
        }
        if found.references.len() >= limits.references {
            found.references.truncate(limits.references);
            return Ok(End::Limit);
        }
    }
}
