//! JSON output of commands: an object with a list of files that is written file by file, so that they are never all in
//! memory.

use std::io::{self, Write};

use serde::Serialize;

use crate::status_view::FileView;

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

pub(super) fn text(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
