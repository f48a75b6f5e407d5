//! Counts the files that watches select: source files, references, and those of retired connector types.
//!
//! Input: files of a scan, one by one. Output: counts for `check` and `run --dry-run`. It keeps no paths, so a folder
//! of any size takes little memory.

use std::collections::BTreeMap;
use std::path::Path;

use crate::connector_type::ConnectorType;
use crate::text::plural;

/// Extensions that are counted by themselves; files of any others are counted together.
const EXTENSIONS_MAX: usize = 20;

/// Longer extensions are not shown.
const EXTENSION_LENGTH_MAX: usize = 16;

/// What the extension of a file is shown as if it is not shown.
const OTHER: &str = "other";

/// Selected files by what they become.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) source_files: u64,
    pub(super) references: u64,
    /// Source files of retired connector types, by extension.
    retired: BTreeMap<(ConnectorType, String), u64>,
}

impl Tally {
    /// Counts a selected file.
    pub(super) fn add(&mut self, path: &Path, connector: Option<&ConnectorType>) {
        let Some(connector) = connector else {
            self.references += 1;
            return;
        };
        self.source_files += 1;
        if !connector.is_retired() {
            return;
        }
        let extension = path.extension().and_then(|extension| extension.to_str());
        let extension = extension
            .filter(|extension| extension.len() <= EXTENSION_LENGTH_MAX)
            .filter(|extension| extension.chars().all(char::is_alphanumeric))
            .map_or_else(|| OTHER.to_owned(), str::to_lowercase);
        let mut key = (connector.clone(), extension);
        if self.retired.len() >= EXTENSIONS_MAX && !self.retired.contains_key(&key) {
            OTHER.clone_into(&mut key.1);
        }
        *self.retired.entry(key).or_default() += 1;
    }

    /// The count in one line.
    pub(super) fn text(&self) -> String {
        let source_files = plural(self.source_files, "source file", "source files");
        match self.references {
            0 => source_files,
            references => format!("{source_files}, {references} only stored"),
        }
    }

    /// One line per extension whose files have a retired connector type.
    pub(super) fn retired(&self) -> Vec<String> {
        let lines = self.retired.iter().map(|((connector, extension), count)| {
            let files = plural(*count, "file uses", "files use");
            let files = files.replacen(' ', &format!(" {extension} "), 1);
            format!("{files} {connector}, which is retired")
        });
        lines.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_by_what_they_become() {
        let mut tally = Tally::default();
        let of = |word: &str| Some(ConnectorType::new(word));
        for (path, connector) in [
            ("a.dgn", of("MSTN")),
            ("b.dgn", None),
            ("c.XLSX", of("PSEXCEL")),
            ("d.xlsx", of("PSEXCEL")),
            ("e.xls", of("PSEXCEL")),
            ("f.csv", of("SHELLEDWCSV")),
            ("noextension", of("PSEXCEL")),
            ("x.\u{202e}odd", of("PSEXCEL")),
        ] {
            tally.add(Path::new(path), connector.as_ref());
        }
        assert_eq!(tally.text(), "7 source files, 1 only stored");
        assert_eq!(
            tally.retired(),
            [
                "2 other files use PSEXCEL, which is retired",
                "1 xls file uses PSEXCEL, which is retired",
                "2 xlsx files use PSEXCEL, which is retired",
                "1 csv file uses SHELLEDWCSV, which is retired",
            ]
        );
    }

    #[test]
    fn any_number_of_extensions_takes_few_lines() {
        let mut tally = Tally::default();
        for number in 0..1000 {
            let path = format!("a.{number}");
            tally.add(Path::new(&path), Some(&ConnectorType::new("PSEXCEL")));
        }
        let lines = tally.retired();
        assert_eq!(lines.len(), EXTENSIONS_MAX + 1);
        assert!(lines.contains(&"980 other files use PSEXCEL, which is retired".to_owned()));
    }
}
