//! TOML with line numbers: where a key is, which keys a table may have, and the errors found while reading.
//!
//! Input: the text of the file. Output: sections that return checked values key by key. The only key it knows by name
//! is `client_secret`, which is refused. Only `syntax` shows lines of the file, because they may contain a secret.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::credentials;
use super::errors::{ConfigError, ConfigErrors};
use super::syntax::{self, Found};
use super::values::{InvalidValue, kind};

/// Collects errors, and turns byte offsets into lines.
pub(super) struct Report {
    file: String,
    /// Byte offset of every line's start.
    starts: Vec<usize>,
    errors: Vec<ConfigError>,
}

/// Where an error belongs.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    pub(super) line: Option<usize>,
    pub(super) column: Option<usize>,
    /// As in [`ConfigError::watch`].
    pub(super) watch: Option<String>,
    pub(super) key: Option<String>,
}

/// The tables that may be in a file, and the keys of each; `""` is the top of the file.
pub(super) type Keys = [(&'static str, &'static [&'static str])];

/// A key of a table, its line, and its value.
pub(super) type Entry<'d> = (&'d str, Option<usize>, &'d DeValue<'d>);

/// One table of the file, or none when the file leaves it out.
pub(super) struct Section<'d> {
    table: Option<&'d DeTable<'d>>,
    /// `""` for the top of the file and for watches, whose keys are shown bare.
    prefix: &'static str,
    /// Where a missing key is reported: the table's own line.
    place: Place,
    report: &'d mut Report,
}

impl Report {
    pub(super) fn new(file: &str, text: &str) -> Self {
        let starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Self {
            file: file.to_owned(),
            starts,
            errors: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, place: Place, bad: InvalidValue) {
        self.add_with_excerpt(place, bad, None);
    }

    fn add_with_excerpt(&mut self, place: Place, bad: InvalidValue, excerpt: Option<String>) {
        let Place {
            line,
            column,
            watch,
            key,
        } = place;
        self.errors.push(ConfigError {
            file: self.file.clone(),
            line,
            column,
            watch,
            key,
            what: bad.what,
            excerpt,
            hint: bad.hint,
        });
    }

    /// The value, when there was no error.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, ConfigErrors> {
        value
            .filter(|_| self.errors.is_empty())
            .ok_or_else(|| self.into_errors())
    }

    pub(super) fn into_errors(self) -> ConfigErrors {
        ConfigErrors::new(self.errors)
    }

    /// Line of a byte offset, from 1.
    fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|&start| start <= at).max(1)
    }

    /// Column of a byte offset, in bytes from 1.
    fn column(&self, at: usize) -> usize {
        self.starts
            .get(self.line(at) - 1)
            .map_or(1, |start| at - start + 1)
    }
}

/// Parses the file. `None` when it is not TOML; its errors have been reported then.
pub(super) fn parse<'t>(text: &'t str, known: &Keys, report: &mut Report) -> Option<DeTable<'t>> {
    let (root, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Some(root.into_inner());
    }
    let mut last_line = 0;
    for error in errors {
        let Some(at) = error.span().map(|span: Range<usize>| span.start) else {
            let bad = InvalidValue {
                what: error.message().to_owned(),
                hint: None,
            };
            report.add(Place::default(), bad);
            continue;
        };
        let number = report.line(at);
        let line = |number: usize| text.lines().nth(number - 1).unwrap_or_default();
        let found = Found {
            number,
            line: line(number),
            at: report.column(at) - 1,
            message: error.message(),
        };
        let explained = syntax::explain(found, text, known);
        let (number, at) = explained.moved.unwrap_or((number, found.at));
        // What the parser finds after its first error in a line follows from that one.
        if number > last_line {
            let place = Place {
                line: Some(number),
                column: Some(at + 1),
                ..Place::default()
            };
            let excerpt = syntax::excerpt(number, line(number), at, known);
            report.add_with_excerpt(place, explained.error, excerpt);
            last_line = number;
        }
        if explained.is_last {
            break;
        }
    }
    None
}

impl<'d> Section<'d> {
    /// The top of the file.
    pub(super) fn top(root: &'d DeTable<'d>, known: &Keys, report: &'d mut Report) -> Self {
        Self {
            table: Some(root),
            prefix: "",
            place: Place::default(),
            report,
        }
        .checked("", known)
    }

    /// The table `[name]`.
    pub(super) fn open(
        root: &'d DeTable<'d>,
        name: &'static str,
        known: &Keys,
        report: &'d mut Report,
    ) -> Self {
        let mut place = Place::default();
        let table = root.get_key_value(name).and_then(|(key, value)| {
            place.line = Some(report.line(key.span().start));
            let table = value.get_ref().as_table();
            if table.is_none() {
                let bad = InvalidValue::new(
                    format!("expected a table, found {}", kind(value.get_ref())),
                    format!("write [{name}] on its own line"),
                );
                report.add(
                    Place {
                        key: Some(name.to_owned()),
                        ..place.clone()
                    },
                    bad,
                );
            }
            table
        });
        Self {
            table,
            prefix: name,
            place,
            report,
        }
        .checked(name, known)
    }

    /// Every `[[watch]]`-like table of the array `name`.
    pub(super) fn each(
        root: &'d DeTable<'d>,
        name: &'static str,
        report: &mut Report,
    ) -> Vec<&'d Spanned<DeValue<'d>>> {
        let Some((key, value)) = root.get_key_value(name) else {
            return Vec::new();
        };
        let tables: Option<Vec<_>> = value
            .get_ref()
            .as_array()
            .map(|array| array.iter().collect())
            .filter(|all: &Vec<&Spanned<DeValue<'_>>>| {
                all.iter().all(|one| one.get_ref().is_table())
            });
        tables.unwrap_or_else(|| {
            let place = Place {
                line: Some(report.line(key.span().start)),
                key: Some(name.to_owned()),
                ..Place::default()
            };
            report.add(
                place,
                InvalidValue::new(
                    format!(
                        "expected an array of tables, found {}",
                        kind(value.get_ref())
                    ),
                    format!("write [[{name}]], with double brackets"),
                ),
            );
            Vec::new()
        })
    }

    /// One table of [`Section::each`], shown as `watch`.
    pub(super) fn one(
        table: &'d Spanned<DeValue<'d>>,
        watch: String,
        known: &Keys,
        report: &'d mut Report,
    ) -> Self {
        let place = Place {
            line: Some(report.line(table.span().start)),
            watch: Some(watch),
            ..Place::default()
        };
        Self {
            table: table.get_ref().as_table(),
            prefix: "",
            place,
            report,
        }
        .checked("watch", known)
    }

    /// One table of [`Section::each`] that is no watch.
    pub(super) fn one_of(
        table: &'d Spanned<DeValue<'d>>,
        name: &'static str,
        known: &Keys,
        report: &'d mut Report,
    ) -> Self {
        let place = Place {
            line: Some(report.line(table.span().start)),
            ..Place::default()
        };
        Self {
            table: table.get_ref().as_table(),
            prefix: name,
            place,
            report,
        }
        .checked(name, known)
    }

    /// The value of `key`, read by `read`. `None` when it is missing or wrong; only the latter is an error.
    pub(super) fn read<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, InvalidValue>,
    ) -> Option<T> {
        let value = self.table?.get(key)?;
        read(value.get_ref()).map_err(|bad| self.add(key, bad)).ok()
    }

    /// As [`Section::read`], but a missing key is an error too; `hint` says what to write.
    pub(super) fn require<T>(
        &mut self,
        key: &str,
        hint: &str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, InvalidValue>,
    ) -> Option<T> {
        if !self.has(key) {
            self.add(
                key,
                InvalidValue::new("missing required key".to_owned(), hint.to_owned()),
            );
        }
        self.read(key, read)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Reports an error at `key`.
    pub(super) fn add(&mut self, key: &str, bad: InvalidValue) {
        let place = self.place(key);
        self.report.add(place, bad);
    }

    /// Reports an error at `key`, on the line of one entry of its value: an element of a list, or a key of a table.
    pub(super) fn add_at_entry(&mut self, key: &str, entry: &str, bad: InvalidValue) {
        let mut place = self.place(key);
        if let Some(at) = self
            .table
            .and_then(|table| table.get(key))
            .and_then(|value| find_entry(value.get_ref(), entry))
        {
            place.line = Some(self.report.line(at));
        }
        self.report.add(place, bad);
    }

    /// The entries of the table at `key` in the order of the file, each with its line. `None` when the key is missing;
    /// reports an error when its value is not a table.
    pub(super) fn entries(&mut self, key: &str, hint: &str) -> Option<Vec<Entry<'d>>> {
        let value = self.table?.get(key)?.get_ref();
        let Some(table) = value.as_table() else {
            let what = format!("expected a table, found {}", kind(value));
            self.add(key, InvalidValue::new(what, hint));
            return None;
        };
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let with_line = entries.into_iter().map(|(key, value)| {
            let line = Some(self.report.line(key.span().start));
            (key.get_ref().as_ref(), line, value.get_ref())
        });
        Some(with_line.collect())
    }

    /// The place of `key`, or of the table when the key is missing.
    pub(super) fn place(&self, key: &str) -> Place {
        let line = self
            .table
            .and_then(|table| table.get_key_value(key))
            .map(|(key, _)| self.report.line(key.span().start));
        let key = if self.prefix.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.prefix)
        };
        Place {
            line: line.or(self.place.line),
            key: Some(key),
            ..self.place.clone()
        }
    }

    /// Reports every key that `known` does not list for the table `name`.
    fn checked(mut self, name: &str, known: &Keys) -> Self {
        let here = known
            .iter()
            .find(|(table, _)| *table == name)
            .map_or(&[][..], |(_, keys)| *keys);
        for key in self.table.into_iter().flat_map(DeTable::keys) {
            let key = key.get_ref().as_ref();
            if !here.contains(&key) {
                self.add(key, unknown(key, here, known));
            }
        }
        self
    }
}

/// Entries of a table in the order of the file.
pub(super) fn in_file_order<'t>(table: &'t DeTable<'t>) -> Vec<(&'t str, &'t DeValue<'t>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
        .into_iter()
        .map(|(key, value)| (key.get_ref().as_ref(), value.get_ref()))
        .collect()
}

fn unknown(key: &str, here: &[&str], known: &Keys) -> InvalidValue {
    if key == "client_secret" {
        return InvalidValue::new(
            "the client secret must not be stored in the config file",
            credentials::HINT,
        );
    }
    let elsewhere = known
        .iter()
        .find(|(_, keys)| keys.contains(&key))
        .map(|(table, _)| *table);
    let nearest = here
        .iter()
        .map(|known| (strsim::damerau_levenshtein(key, known), *known))
        .min();
    let hint = match (elsewhere, nearest) {
        (Some(""), _) => "move it to the top of the file, above the first [table]".to_owned(),
        (Some("watch"), _) => "move it into a [[watch]] table".to_owned(),
        (Some(table), _) => format!("move it into the [{table}] table"),
        (None, Some((distance, nearest))) if distance <= 1 + nearest.len() / 3 => {
            format!("did you mean {nearest:?}?")
        }
        (None, _) => format!("known keys: {}", here.join(", ")),
    };
    InvalidValue::new("unknown key", hint)
}

fn find_entry(value: &DeValue<'_>, entry: &str) -> Option<usize> {
    match value {
        DeValue::Array(array) => array
            .iter()
            .find(|one| one.get_ref().as_str() == Some(entry))
            .map(|one| one.span().start),
        DeValue::Table(table) => table.get_key_value(entry).map(|(key, _)| key.span().start),
        _ => None,
    }
}
