//! An environment variable of a service, from `Environment=` and `EnvironmentFile=` of its unit.
//!
//! Source: systemd.exec(5). Of the syntax of values, it reads quotes and a backslash before a character. It skips other
//! variables.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;

/// The largest file that is read.
const FILE_MAX: u64 = 1024 * 1024;

/// Where a unit gets the variable from.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Variable {
    name: &'static str,
    assigned: Option<String>,
    files: Vec<PathBuf>,
}

impl Variable {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }

    /// A value of `Environment=`; an empty one drops those before it.
    pub(super) fn environment(&mut self, value: &str) {
        if value.is_empty() {
            self.assigned = None;
        }
        for word in words(value) {
            if let Some((name, value)) = word.split_once('=')
                && name == self.name
            {
                self.assigned = Some(value.to_owned());
            }
        }
    }

    /// A value of `EnvironmentFile=`; an empty one drops those before it.
    pub(super) fn environment_file(&mut self, value: &str) {
        if value.is_empty() {
            self.files.clear();
        } else {
            // Whether systemd starts the service without the file does not matter here.
            self.files.push(value.trim_start_matches('-').into());
        }
    }

    /// The value: files override what is assigned in the unit, and later ones those before them.
    ///
    /// # Errors
    /// A file cannot be read; a missing one is passed over.
    pub(super) fn value(&self) -> Result<Option<String>, (PathBuf, io::Error)> {
        let mut found = self.assigned.clone();
        for path in &self.files {
            let mut text = String::new();
            let read =
                File::open(path).and_then(|file| file.take(FILE_MAX).read_to_string(&mut text));
            match read {
                Ok(_) => found = self.in_file(&text).or(found),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err((path.clone(), error)),
            }
        }
        Ok(found)
    }

    fn in_file(&self, text: &str) -> Option<String> {
        let text = text.replace("\\\n", "");
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.starts_with(['#', ';']));
        let mut found = lines.filter_map(|line| line.split_once('='));
        let value = found.rfind(|(name, _)| name.trim() == self.name)?.1;
        Some(unquoted(value.trim()))
    }
}

/// The words of a line, without their quotes.
fn words(text: &str) -> Vec<String> {
    let (mut all, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\\', _) => word.get_or_insert_default().extend(letters.next()),
            (_, Some(open)) if letter == open => quote = None,
            ('"' | '\'', None) => {
                word.get_or_insert_default();
                quote = Some(letter);
            }
            (_, None) if letter.is_whitespace() => all.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    all.extend(word);
    all
}

/// A value in a file: all of the line, without quotes around it.
fn unquoted(value: &str) -> String {
    for quote in ['"', '\''] {
        let inner = value.strip_prefix(quote);
        if let Some(inner) = inner.and_then(|inner| inner.strip_suffix(quote)) {
            return inner.to_owned();
        }
    }
    value.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_assignment_counts_and_files_count_more() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let first = file("first", "# A=no\n; A=no\nB=x\n A = \"open sesame\" \n");
        let second = file("second", "A='it''s'\nA=last\\\n one\n");
        let missing = format!("-{}", dir.path().join("missing").display());
        let other = file("other", "B=x\n");
        for (assigned, files, expected) in [
            (vec![], vec![], None),
            (vec!["B=x A=one"], vec![], Some("one")),
            (vec!["A=one A=two", "B=x"], vec![], Some("two")),
            (vec!["A=one", ""], vec![], None),
            (vec!["\"A=open sesame\" B=x"], vec![], Some("open sesame")),
            (vec![r"A='x y'\ z"], vec![], Some("x y z")),
            (vec!["A="], vec![], Some("")),
            (vec!["A=one"], vec![&missing, &other], Some("one")),
            (vec!["A=one"], vec![&first], Some("open sesame")),
            (vec![], vec![&first, &second], Some("last one")),
        ] {
            let mut variable = Variable::new("A");
            for value in &assigned {
                variable.environment(value);
            }
            for value in &files {
                variable.environment_file(value);
            }
            let found = variable.value().unwrap();
            assert_eq!(found.as_deref(), expected, "{assigned:?} {files:?}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut variable = Variable::new("A");
        variable.environment_file(dir.path().to_str().unwrap());
        assert_eq!(variable.value().unwrap_err().0, dir.path());
        variable.environment_file("");
        assert_eq!(variable.value().unwrap(), None);
    }
}
