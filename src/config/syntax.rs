//! Errors of TOML syntax, for those who do not know TOML: what is wrong in a line, and what to write instead.
//!
//! Input: the text of the file, and the place and message of the parser's error. Output: a sentence, a hint, and an
//! excerpt with a caret. Pure. The line may contain a secret: a value is shown only if its key is one of the
//! configuration whose values are not secret, and nothing else in the line looks like a secret.

use std::borrow::Cow;

use super::values::InvalidValue;

/// The tables of the configuration, and the keys of each.
type Keys = [(&'static str, &'static [&'static str])];

/// What a line can contain that must not be shown, also as part of a word.
const SENSITIVE: [&str; 14] = [
    "secret",
    "pass",
    "token",
    "url",
    "proxy",
    "command",
    "smtp",
    "header",
    "auth",
    "sig",
    "credential",
    "api_key",
    "apikey",
    "://",
];

/// The longest excerpt, in characters.
const SHOWN_MAX: usize = 90;

/// Replaces what is not shown.
const HIDDEN: char = '…';

/// An error of the parser.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found<'t> {
    /// Its line, from 1, and the text of it.
    pub(super) number: usize,
    pub(super) line: &'t str,
    /// Byte offset in the line.
    pub(super) at: usize,
    /// In words of the grammar.
    pub(super) message: &'t str,
}

/// An error in words of the user.
#[derive(Debug)]
pub(super) struct Explained {
    pub(super) error: InvalidValue,
    /// The line and the offset in it that it belongs to, if not those of the parser.
    pub(super) moved: Option<(usize, usize)>,
    /// The parser understands nothing of what follows: its next errors say nothing.
    pub(super) is_last: bool,
}

/// The lines of an excerpt: the number with the line, and a caret below `at`. None if nothing of it can be shown.
pub(super) fn excerpt(number: usize, line: &str, at: usize, known: &Keys) -> Option<String> {
    let shown = shown(line, known)?;
    // Nothing may be before the caret that is not in the line above.
    let before = line.get(..at).unwrap_or(line).chars().count();
    let before = before.min(shown.chars().count());
    let start = before.saturating_sub(SHOWN_MAX - 20);
    let window: String = shown
        .chars()
        .skip(start)
        .take(SHOWN_MAX)
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    let number = number.to_string();
    let margin = " ".repeat(number.len());
    let (cut, caret) = if start > 0 {
        ("…", before - start + 1)
    } else {
        ("", before)
    };
    Some(format!(
        "  {number} | {cut}{}\n  {margin} | {}^",
        window.trim_end(),
        " ".repeat(caret)
    ))
}

/// Explains an error. `text` is the whole file.
pub(super) fn explain(found: Found<'_>, text: &str, known: &Keys) -> Explained {
    let unclosed = found.message.contains("array elements") || found.message.contains("in array");
    if (unclosed || found.message.contains("unclosed array, "))
        && let Some((number, line)) = array_start(found, text)
    {
        let end = without_comment(line).len();
        return Explained {
            error: InvalidValue::new(
                "the array has no closing bracket",
                match example(line, known, |value| format!("{value}]")) {
                    Some(example) => format!("write ] after its last entry: {example}"),
                    None => "write ] after its last entry".to_owned(),
                },
            ),
            moved: Some((number, end)),
            is_last: true,
        };
    }
    let (what, hint) = say(found, text, known);
    Explained {
        error: InvalidValue { what, hint },
        moved: None,
        is_last: found.message.contains("unclosed inline table"),
    }
}

/// The sentence and the hint.
fn say(found: Found<'_>, text: &str, known: &Keys) -> (String, Option<String>) {
    let message = found.message;
    let pair = |what: &str, hint: &str| (what.to_owned(), Some(hint.to_owned()));
    let with_example = |what: &str, hint: &str, change: &dyn Fn(&str) -> String| {
        let general = example_of(hint);
        let example = example(found.line, known, change).unwrap_or(general);
        (what.to_owned(), Some(format!("{hint}: {example}")))
    };
    if let Some(said) = whole_line(found.line) {
        return pair(said.0, said.1);
    }
    let rest = found.line.get(found.at..).unwrap_or_default().trim_start();
    if message.contains("duplicate key") {
        return duplicate(found, text, known);
    }
    if ["escape", "unicode value"]
        .iter()
        .any(|word| message.contains(word))
    {
        if key_of(found.line) == Some("path") {
            return pair(
                "a path on Linux has no backslashes",
                "write the path of the folder on this machine, such as \"/srv/projects/north\"; mount a Windows share \
                 first",
            );
        }
        return with_example(
            "a backslash in double quotes begins an escape such as \\n",
            "use single quotes, in which it has no meaning",
            &|value| format!("'{}'", bare(value)),
        );
    }
    if message.contains("expected non-double-quote")
        || message.contains("expected non-single-quote")
    {
        return pair(
            "the string contains a control character",
            "remove it; a tab can be written as \\t",
        );
    }
    if message.contains("invalid basic string") || message.contains("invalid literal string") {
        return with_example(
            "the string has no closing quote",
            "end it with a quote",
            &quoted,
        );
    }
    if message.contains("unclosed array table") {
        return pair(
            "the head of the table has no closing brackets",
            "write both brackets on each side, such as [[watch]]",
        );
    }
    if message.contains("unclosed table") {
        return pair(
            "the head of the table has no closing bracket",
            "write it like [itwin]",
        );
    }
    let before = text.lines().nth(found.number.saturating_sub(2));
    let is_open = before.is_some_and(|line| line.contains('{') && !line.contains('}'));
    let is_comma = message.contains("missing comma");
    if message.contains("unclosed inline table") || is_comma && is_open {
        return pair(
            "the table above has no closing brace",
            "write it on one line, with } after its last entry: { dgn = \"CIVIL\", xml = \"OPENTOWER\" }",
        );
    }
    if is_comma {
        return pair(
            "a comma is missing",
            "separate the entries by commas: [\"*.bak\", \"*.tmp\"]",
        );
    }
    if message.contains("unexpected key or value") {
        if rest.starts_with(';') || rest.starts_with(',') {
            return pair("unexpected character at the end of the line", "remove it");
        }
        if key_of(rest).is_some() {
            return pair(
                "two keys on one line",
                "write each key on a line of its own",
            );
        }
        return pair(
            "unexpected text after the value",
            "remove it, or write # before a comment",
        );
    }
    if message.contains("key with no value") || message.contains("key") && !is_value(found) {
        return key(found, known);
    }
    if is_value(found) {
        return value(found, known);
    }
    (message.to_owned(), None)
}

/// What a whole line shows, before its details.
fn whole_line(line: &str) -> Option<(&'static str, &'static str)> {
    let trimmed = line.trim_start();
    if ["//", ";", "/*", "--"]
        .iter()
        .any(|mark| trimmed.starts_with(mark))
    {
        return Some((
            "this is not how TOML writes a comment",
            "begin comments with #",
        ));
    }
    trimmed.starts_with('{').then_some((
        "this is JSON or another format, not TOML",
        "write it like config.example.toml, or let `itwin-syncd init` write it",
    ))
}

/// What is wrong with a key.
fn key(found: Found<'_>, known: &Keys) -> (String, Option<String>) {
    let line = found.line.trim();
    let (colon, equals) = (line.find(':'), line.find('='));
    if let Some(colon) = colon
        && equals.is_none_or(|equals| colon < equals)
    {
        let (key, value) = line.split_at(colon);
        let example = shown(line, known)
            .filter(|shown| shown.trim() == line)
            .map_or("key = \"value\"".to_owned(), |_| {
                format!("{} = {}", key.trim(), quoted(value.trim_start_matches(':')))
            });
        return (
            "a key is followed by =, not by a colon".to_owned(),
            Some(format!("write {example}")),
        );
    }
    let key = equals.and_then(|at| line.get(..at)).unwrap_or(line);
    if !key.is_ascii() {
        return (
            "a key has a character that is not a letter, digit, _ or -".to_owned(),
            Some("type the key again: copied text can contain invisible characters".to_owned()),
        );
    }
    match equals {
        Some(_) => (
            "a key consists of letters, digits, _ and - only".to_owned(),
            Some("write the key without spaces, such as storage_folder".to_owned()),
        ),
        None => (
            "= and a value are missing after the key".to_owned(),
            Some(match line.split_once(char::is_whitespace) {
                Some((key, value))
                    if shown(line, known).is_some_and(|shown| shown.trim() == line) =>
                {
                    format!("write {key} = {}", quoted(value))
                }
                _ => "write key = \"value\"".to_owned(),
            }),
        ),
    }
}

/// What is wrong with a value that no type fits.
fn value(found: Found<'_>, known: &Keys) -> (String, Option<String>) {
    let written = value_of(found.line);
    let suggest = |what: &str, hint: &str, change: &dyn Fn(&str) -> String| {
        let example = example(found.line, known, change);
        let example = example.unwrap_or_else(|| "key = \"value\"".to_owned());
        (what.to_owned(), Some(format!("{hint}: {example}")))
    };
    if written.is_empty() {
        return (
            "the key has no value".to_owned(),
            Some("write a value after =, or remove the line if the key has a default".to_owned()),
        );
    }
    let lower = written.to_ascii_lowercase();
    if ["true", "yes", "on", "false", "no", "off"].contains(&lower.as_str()) {
        let truth = ["true", "yes", "on"].contains(&lower.as_str());
        return suggest(
            "neither true nor false",
            "write true or false in lower case, without quotes",
            &|_| truth.to_string(),
        );
    }
    if written.starts_with(['“', '”', '„', '‘', '’', '«', '»', '`']) {
        return suggest(
            "the value is in quotes that TOML does not know",
            "use straight quotes",
            &quoted,
        );
    }
    if written.starts_with('~') {
        return (
            "the value is not in quotes, and ~ has no meaning".to_owned(),
            Some("write the whole path, such as \"/home/ann/designs\"".to_owned()),
        );
    }
    if written.ends_with('"') && !written.starts_with('"') {
        return suggest(
            "the string has no opening quote",
            "begin it with a quote",
            &quoted,
        );
    }
    if written.starts_with(['[', '{']) {
        return suggest(
            "a text in the list is not in quotes",
            "put each in quotes",
            &|_| "[\"first\", \"second\"]".to_owned(),
        );
    }
    suggest("the value is not in quotes", "put it in quotes", &quoted)
}

/// Two keys or tables with the same name.
fn duplicate(found: Found<'_>, text: &str, known: &Keys) -> (String, Option<String>) {
    let earlier = |same: &dyn Fn(&str) -> bool, in_table: bool| {
        let before: Vec<&str> = text.lines().take(found.number - 1).collect();
        let start = if in_table {
            before
                .iter()
                .rposition(|line| is_head(line))
                .map_or(0, |at| at + 1)
        } else {
            0
        };
        let at = before.iter().skip(start).position(|line| same(line))?;
        Some(start + at + 1)
    };
    let place = |number: Option<usize>| {
        number.map_or(String::new(), |number| format!(" (first in line {number})"))
    };
    let line = without_comment(found.line).trim();
    if is_head(line) && found.at <= found.line.find(']').unwrap_or_default() {
        let first = earlier(&|one| without_comment(one).trim() == line, false);
        return (
            format!("this table is in the file twice{}", place(first)),
            Some("move its keys to the first one, and remove this line".to_owned()),
        );
    }
    let key = found.line.get(found.at..).and_then(key_of);
    let first = earlier(&|one| key_of(one) == key && key.is_some(), true);
    let hint = match key {
        Some("path" | "name" | "imodel_id") => {
            "keep one of the lines; another folder needs a [[watch]] table of its own"
        }
        _ => "keep one of the lines",
    };
    let what = match key.filter(|key| known.iter().any(|(_, keys)| keys.contains(key))) {
        Some(key) => format!("{key} is set twice{}", place(first)),
        None => format!("this key is set twice{}", place(first)),
    };
    (what, Some(hint.to_owned()))
}

/// The line that an array starts on which has not ended where the error is: that line begins something new.
fn array_start<'t>(found: Found<'_>, text: &'t str) -> Option<(usize, &'t str)> {
    let begins_new = |line: &str| key_of(line).is_some() || is_head(line) || line.trim().is_empty();
    let last = found.message.contains("unclosed array, ");
    if !last && !begins_new(found.line) {
        return None;
    }
    let lines: Vec<&str> = text.lines().collect();
    let opens = |line: &str| {
        key_of(line).is_some() && value_of(line).starts_with('[') && !value_of(line).ends_with(']')
    };
    let end = if opens(found.line) {
        found.number
    } else {
        found.number - 1
    };
    let at = lines.iter().take(end).rposition(|line| opens(line))?;
    let has_entries_below = lines.iter().take(end).skip(at + 1).rposition(|line| {
        let line = line.trim();
        line.starts_with(['"', '\'']) || line.ends_with(',')
    });
    let at = has_entries_below.map_or(at, |below| at + 1 + below);
    lines.get(at).map(|line| (at + 1, *line))
}

/// Whether the error is in the value of a line.
fn is_value(found: Found<'_>) -> bool {
    key_of(found.line).is_some() && found.line.find('=').is_some_and(|equals| equals < found.at)
}

fn is_head(line: &str) -> bool {
    line.trim_start().starts_with('[')
}

/// The key that a line begins with, if = follows it.
fn key_of(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim();
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    (!key.is_empty() && key.bytes().all(is_bare)).then_some(key)
}

/// What a line has after =, without a comment.
fn value_of(line: &str) -> &str {
    let value = line.split_once('=').map_or("", |(_, value)| value);
    without_comment(value).trim()
}

/// A line up to a comment; a # within quotes cuts it as well.
fn without_comment(line: &str) -> &str {
    line.split_once('#')
        .map_or(line, |(code, _)| code)
        .trim_end()
}

/// The line with another value, if it can be shown.
fn example(line: &str, known: &Keys, change: impl Fn(&str) -> String) -> Option<String> {
    let code = without_comment(line).trim();
    let key = key_of(code)?;
    (shown(code, known)? == code && code.len() <= SHOWN_MAX)
        .then(|| format!("{key} = {}", change(value_of(code))))
}

/// An example for a line that cannot be shown.
fn example_of(hint: &str) -> String {
    let quote = if hint.contains("single") { '\'' } else { '"' };
    format!("key = {quote}value{quote}")
}

/// A value without quotes of any kind, and without what other languages end a line with.
fn bare(value: &str) -> &str {
    let quotes = ['"', '\'', '“', '”', '„', '‘', '’', '«', '»', '`'];
    value
        .trim()
        .trim_end_matches([';', ','])
        .trim_matches(quotes)
        .trim()
}

/// A value in quotes.
fn quoted(value: &str) -> String {
    let value = bare(value);
    if value.contains('\\') {
        format!("'{value}'")
    } else {
        format!("\"{value}\"")
    }
}

/// What can be shown of a line: all of it, its key, or nothing.
fn shown<'l>(line: &'l str, known: &Keys) -> Option<Cow<'l, str>> {
    let code = without_comment(line);
    let is_name = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-. ".contains(&byte))
    };
    if is_head(code) {
        let name = code.trim().trim_matches(['[', ']']);
        return (is_name(name) && !is_sensitive(name)).then_some(Cow::Borrowed(code));
    }
    let first = code
        .trim_start()
        .split([' ', '\t', '=', ':'])
        .next()
        .unwrap_or_default();
    let is_known = known.iter().any(|(_, keys)| keys.contains(&first));
    if is_known && !is_sensitive(code) {
        return Some(Cow::Borrowed(code));
    }
    let end = code.find(['=', ':'])?;
    let key = code.get(..end)?;
    let mark = code.get(end..=end)?;
    (is_name(key.trim()) && key.len() <= 40).then(|| Cow::Owned(format!("{key}{mark} {HIDDEN}")))
}

fn is_sensitive(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    SENSITIVE.iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests;
