//! The file of a configuration: its text, for commands that ask the daemon what it works with; and where the ledger of
//! a daemon is whose file has errors by now.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::DeTable;

use super::Environment;

/// The file that a configuration was read from.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Source {
    /// Its path, absolute.
    pub file: PathBuf,
    /// What it had in it.
    pub text: Arc<str>,
}

impl Source {
    pub(super) fn new(file: &Path, text: &str) -> Self {
        Self {
            file: std::path::absolute(file).unwrap_or_else(|_| file.to_owned()),
            text: text.into(),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Addresses of webhooks may be secret.
        f.debug_tuple("Source").field(&self.file).finish()
    }
}

/// The state directory of the daemon with this file, as far as the file can be read: errors elsewhere in it do not
/// matter.
#[must_use]
pub fn state_path(file: &Path) -> PathBuf {
    fs::read_to_string(file)
        .ok()
        .and_then(|text| in_text(&text))
        .unwrap_or_else(|| Environment::for_file(file).default_state_path())
}

fn in_text(text: &str) -> Option<PathBuf> {
    let (root, _) = DeTable::parse_recoverable(text);
    let table = root.get_ref().get("state")?.get_ref().as_table()?;
    let path = PathBuf::from(table.get("path")?.get_ref().as_str()?);
    path.is_absolute().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_directory_is_found_in_a_file_with_errors_elsewhere() {
        let state = "[state]\npath = \"/srv/state\"\n";
        for (text, found) in [
            (state.to_owned(), true),
            (format!("settle = 5s\n{state}"), true),
            (
                format!("{state}[[watch]]\nname = north\npath = \"C:\\share\"\n"),
                true,
            ),
            (format!("{state}[[watch\nname = \"north\"\n"), true),
            (format!("[itwin\nclient_id = \"a\"\n{state}"), true),
            (format!("[itwin]\nclient_id = \"a\n{state}"), true),
            ("[state]\npath = \"state\"\n".to_owned(), false),
            ("[state]\npath = 7\n".to_owned(), false),
            ("[state]\n".to_owned(), false),
            (String::new(), false),
        ] {
            let expected = found.then(|| PathBuf::from("/srv/state"));
            assert_eq!(in_text(&text), expected, "{text}");
        }
    }
}
