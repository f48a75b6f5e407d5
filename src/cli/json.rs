//! JSON output of commands: an object with a list of files that is written file by file, so that they are never all in
//! memory.

use std::io::{self, Write};

use serde::Serialize;

use crate::status_view::FileView;

/// Of every object. Incremented when a field changes its meaning or is removed.
pub(super) const VERSION: u32 = 1;

/// An object whose list `files` is being written.
pub(super) struct Files<W> {
    out: W,
    separator: &'static str,
}

impl<W: Write> Files<W> {
    /// Begins the object with the fields of `head`, and the list after them.
    pub(super) fn begin(mut out: W, head: &impl Serialize) -> io::Result<Self> {
        let head = text(head);
        // Its last brace comes at the end.
        let head = head.strip_suffix("\n}").unwrap_or(&head);
        write!(out, "{head},\n  \"files\": [")?;
        Ok(Self { out, separator: "" })
    }

    /// Adds a file.
    pub(super) fn add(&mut self, file: &FileView) -> io::Result<()> {
        let file = indented(&text(file), "\n    ");
        write!(self.out, "{}\n    {file}", self.separator)?;
        self.separator = ",";
        Ok(())
    }

    /// Ends the list. The object is still open.
    pub(super) fn end(mut self) -> io::Result<W> {
        let end = if self.separator.is_empty() {
            ""
        } else {
            "\n  "
        };
        write!(self.out, "{end}]")?;
        Ok(self.out)
    }
}

/// Indents a nested value. JSON strings contain no line breaks.
pub(super) fn indented(json: &str, line_break: &str) -> String {
    json.replace('\n', line_break)
}

/// JSON of a value. Names of files may have characters that a terminal would interpret: they are escaped.
pub(super) fn text(value: &impl Serialize) -> String {
    escaped(&serde_json::to_string_pretty(value).unwrap_or_default())
}

/// Outside strings, JSON has none of these characters.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for letter in json.chars() {
        if is_invisible(letter) {
            let mut units = [0; 2];
            for unit in letter.encode_utf16(&mut units) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            text.push(letter);
        }
    }
    text
}

/// Whether a terminal would interpret the character, or show nothing for it: controls above ASCII, marks of the
/// direction of text, separators of lines, and characters without width.
fn is_invisible(letter: char) -> bool {
    matches!(letter,
        '\u{7f}'..='\u{9f}'
        | '\u{ad}'
        | '\u{61c}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_a_terminal_interprets_are_escaped_and_read_back() {
        for (name, expected) in [
            ("Brücke 名前.ifc", "\"Brücke 名前.ifc\""),
            ("a\nb\u{1b}[2J", r#""a\nb\u001b[2J""#),
            ("\u{7f}\u{9b}31m", r#""\u007f\u009b31m""#),
            ("\u{202e}fci.esuoh", r#""\u202efci.esuoh""#),
            ("a\u{2066}b\u{200b}c\u{feff}", r#""a\u2066b\u200bc\ufeff""#),
            ("\u{e0001}", r#""\udb40\udc01""#),
        ] {
            assert_eq!(text(&name), expected);
            let read: String = serde_json::from_str(expected).unwrap();
            assert_eq!(read, name);
        }
    }
}
