//! How single values are written, and what is wrong with one that is not.
//!
//! Input: one TOML value. Output: the typed value, or a [`InvalidValue`] whose text follows the name of the key. Pure.
//!
//! Longer than most files because it has a function for each kind of value.

use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use jiff::{SignedDuration, Span, SpanRelativeTo};
use toml::de::DeValue;
use unicode_normalization::UnicodeNormalization;
use url::Url;
use uuid::Uuid;

use super::{Level, LogFormat};
use crate::bandwidth::Period;
use crate::connection_name::ConnectionName;
use crate::itwin::is_loopback;
use crate::local_time::time_of_day;
use crate::shell;

/// What is wrong with a value, and what to write instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InvalidValue {
    pub(super) what: String,
    pub(super) hint: Option<String>,
}

impl InvalidValue {
    pub(super) fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            hint: Some(hint.into()),
        }
    }
}

/// The type of a value, with its article, for messages.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// Text, as written.
pub(super) fn text(value: &DeValue<'_>) -> Result<String, InvalidValue> {
    value.as_str().map(str::to_owned).ok_or_else(|| {
        InvalidValue::new(
            format!("expected a string, found {}", kind(value)),
            "put the value in quotes",
        )
    })
}

/// One line of text, not blank.
pub(super) fn line(value: &DeValue<'_>) -> Result<String, InvalidValue> {
    let text = text(value)?;
    if text.is_empty() {
        return Err(InvalidValue::new(
            "must not be empty",
            "set a value, or remove the key if it has a default",
        ));
    }
    if text.trim() != text || text.chars().any(char::is_control) {
        return Err(InvalidValue::new(
            "must not start or end with a space, or contain control characters",
            "remove these characters",
        ));
    }
    Ok(text)
}

/// A name of storage connections, which may have a placeholder.
pub(super) fn connection_name(value: &DeValue<'_>) -> Result<ConnectionName, InvalidValue> {
    let text = line(value)?;
    ConnectionName::parse(&text)
        .map_err(|invalid| InvalidValue::new(invalid.to_string(), invalid.hint()))
}

pub(super) fn flag(value: &DeValue<'_>) -> Result<bool, InvalidValue> {
    value.as_bool().ok_or_else(|| {
        InvalidValue::new(
            format!("expected true or false, found {}", kind(value)),
            "write true or false, without quotes",
        )
    })
}

/// A list of text that is not empty.
pub(super) fn globs(value: &DeValue<'_>) -> Result<Vec<String>, InvalidValue> {
    list(value).and_then(|globs| {
        if globs.is_empty() {
            let hint = "write at least one glob, such as [\"*_MASTER.dgn\"], or remove the key";
            return Err(InvalidValue::new("is empty", hint));
        }
        Ok(globs)
    })
}

/// A list of text.
pub(super) fn list(value: &DeValue<'_>) -> Result<Vec<String>, InvalidValue> {
    let bad = || {
        InvalidValue::new(
            "expected an array of strings",
            "write [\"first\", \"second\"]",
        )
    };
    value
        .as_array()
        .ok_or_else(bad)?
        .iter()
        .map(|one| one.get_ref().as_str().map(str::to_owned).ok_or_else(bad))
        .collect()
}

/// A whole number within `limits`.
pub(super) fn count(
    limits: RangeInclusive<usize>,
) -> impl FnOnce(&DeValue<'_>) -> Result<usize, InvalidValue> {
    move |value| {
        let hint = format!("write a number from {} to {}", limits.start(), limits.end());
        let DeValue::Integer(number) = value else {
            return Err(InvalidValue::new(
                format!("expected a whole number, found {}", kind(value)),
                hint,
            ));
        };
        usize::from_str_radix(number.as_str(), number.radix())
            .ok()
            .filter(|number| limits.contains(number))
            .ok_or_else(|| InvalidValue::new(format!("{number} is out of range"), hint))
    }
}

/// A duration such as `"1h 30m"`, within `limits`.
pub(super) fn duration(
    limits: RangeInclusive<Duration>,
) -> impl FnOnce(&DeValue<'_>) -> Result<Duration, InvalidValue> {
    move |value| {
        let text = with_unit(value, "write \"5s\" or \"2m\"")?;
        // A day is 24 hours: these are pauses, not dates.
        let duration = text
            .parse::<Span>()
            .and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()))
            .ok()
            .and_then(|duration| Duration::try_from(duration).ok())
            .ok_or_else(|| {
                InvalidValue::new(
                    format!("invalid duration {text:?}"),
                    "write it like \"5s\", \"2m\", \"1h 30m\" or \"3 days\"",
                )
            })?;
        within(
            &text,
            &duration,
            &limits,
            &["too short", "too long"],
            show_duration,
        )
        .map(|()| duration)
    }
}

/// A size such as `"64MiB"`, in bytes, within `limits`.
pub(super) fn size(
    limits: RangeInclusive<u64>,
) -> impl FnOnce(&DeValue<'_>) -> Result<u64, InvalidValue> {
    move |value| {
        let text = with_unit(value, "write \"8MiB\" or \"512KiB\"")?;
        let ByteSize(size) = text.parse().map_err(|_| {
            InvalidValue::new(
                format!("invalid size {text:?}"),
                "write it like \"512KiB\", \"8MiB\" or \"1GiB\"",
            )
        })?;
        within(
            &text,
            &size,
            &limits,
            &["too small", "too large"],
            |&size| show_size(size),
        )
        .map(|()| size)
    }
}

/// Bandwidth limits by the time of day.
pub(super) fn periods(value: &DeValue<'_>) -> Result<Vec<Period>, InvalidValue> {
    let bad = |what: &str| {
        let hint = "write [{ from = \"07:00\", to = \"19:00\", limit = \"2MiB/s\" }]";
        InvalidValue::new(what, hint)
    };
    let all = value
        .as_array()
        .ok_or_else(|| bad("expected an array of tables"))?;
    let period = |one: &DeValue<'_>| {
        let table = one
            .as_table()
            .ok_or_else(|| bad("expected an array of tables"))?;
        let text = |key: &str| {
            let found = table.iter().find(|(name, _)| name.get_ref() == key);
            let text = found.and_then(|(_, value)| value.get_ref().as_str());
            text.ok_or_else(|| bad(&format!("a period has no {key:?}")))
        };
        let unknown = |name: &str| !["from", "to", "limit"].contains(&name);
        if let Some((name, _)) = table.iter().find(|(name, _)| unknown(name.get_ref())) {
            return Err(bad(&format!(
                "unknown key {:?} in a period",
                name.get_ref()
            )));
        }
        let time = |key: &str| {
            let text = text(key)?;
            time_of_day(text).ok_or_else(|| bad(&format!("invalid time of day {text:?}")))
        };
        let limit = text("limit")?;
        let size = limit.strip_suffix("/s").filter(|size| size.ends_with('B'));
        let bytes = if limit == "0" {
            Some(ByteSize(0))
        } else {
            size.and_then(|size| size.parse().ok())
        };
        let ByteSize(bytes) = bytes
            .filter(|ByteSize(bytes)| *bytes > 0 || limit == "0")
            .ok_or_else(|| bad(&format!("invalid rate {limit:?}")))?;
        let (from, to) = (time("from")?, time("to")?);
        if bytes == 0 && from == to {
            return Err(InvalidValue::new(
                "a pause (limit = \"0\") never ends",
                format!(
                    "write different times for from and to, or run `{}`",
                    shell::command(["pause"])
                ),
            ));
        }
        Ok(Period {
            from,
            to,
            limit: bytes,
        })
    };
    all.iter().map(|one| period(one.get_ref())).collect()
}

/// A URL without query: https, or http to this machine.
pub(super) fn url(value: &DeValue<'_>) -> Result<Url, InvalidValue> {
    let text = text(value)?;
    let url = Url::parse(&text).ok().filter(Url::has_host);
    // Whatever is quoted below has no user part and no query, which could be a secret.
    match url {
        Some(url) if !url.username().is_empty() || url.password().is_some() => {
            Err(InvalidValue::new(
                "must not contain a user name or password",
                "write the URL without them; the client secret belongs in itwin.client_secret_file",
            ))
        }
        Some(url) if url.query().is_some() || url.fragment().is_some() => Err(InvalidValue::new(
            "must not contain a query (\"?\") or fragment (\"#\")",
            "write the URL without it, such as \"https://api.bentley.com\"",
        )),
        Some(url) if url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url)) => {
            Ok(url)
        }
        Some(url) if url.scheme() == "http" => Err(InvalidValue::new(
            format!("{text:?} would send the client secret unencrypted"),
            format!(
                "write \"https://{}\"; http is allowed for localhost only",
                url.host_str().unwrap_or_default()
            ),
        )),
        _ => Err(InvalidValue::new(
            "invalid URL",
            "write it like \"https://api.bentley.com\"",
        )),
    }
}

/// A UUID, in lower case with hyphens.
pub(super) fn uuid(value: &DeValue<'_>) -> Result<String, InvalidValue> {
    let text = text(value)?;
    Uuid::try_parse(&text)
        .map(|uuid| uuid.hyphenated().to_string())
        .map_err(|_| {
            InvalidValue::new(
                format!("invalid UUID {text:?}"),
                "copy the id from the iModel's page: 32 hexadecimal digits in five groups",
            )
        })
}

/// The most iModels of one watch.
const IDS_MAX: usize = 16;

/// One UUID, or a list of different ones.
pub(super) fn uuids(value: &DeValue<'_>) -> Result<Vec<String>, InvalidValue> {
    let Some(list) = value.as_array() else {
        return uuid(value).map(|one| vec![one]);
    };
    let mut ids: Vec<String> = Vec::with_capacity(list.len().min(IDS_MAX));
    for value in list {
        let id = uuid(value.get_ref())?;
        if ids.contains(&id) {
            return Err(InvalidValue::new(
                format!("{id:?} is listed twice"),
                "list each iModel once",
            ));
        }
        ids.push(id);
    }
    if ids.is_empty() || ids.len() > IDS_MAX {
        return Err(InvalidValue::new(
            format!(
                "expected 1 to {IDS_MAX} ids, but the list has {}",
                ids.len()
            ),
            "list the iModels that receive the files",
        ));
    }
    Ok(ids)
}

/// An absolute path without `..`.
pub(super) fn absolute(value: &DeValue<'_>) -> Result<PathBuf, InvalidValue> {
    // The value is not quoted: someone may have written the secret itself as the path of its file.
    let path = PathBuf::from(text(value)?);
    if !path.is_absolute() {
        return Err(InvalidValue::new(
            "not an absolute path",
            "write the full path, starting with \"/\"",
        ));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(InvalidValue::new(
            "must not contain \"..\"",
            "write the path without \"..\"",
        ));
    }
    Ok(path)
}

pub(super) fn level(value: &DeValue<'_>) -> Result<Level, InvalidValue> {
    let text = text(value)?;
    [
        Level::Error,
        Level::Warn,
        Level::Info,
        Level::Debug,
        Level::Trace,
    ]
    .into_iter()
    .find(|level| level.as_str() == text)
    .ok_or_else(|| {
        InvalidValue::new(
            format!("unknown log level {text:?}"),
            "write \"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
        )
    })
}

pub(super) fn log_format(value: &DeValue<'_>) -> Result<LogFormat, InvalidValue> {
    match text(value)?.as_str() {
        "plain" => Ok(LogFormat::Plain),
        "json" => Ok(LogFormat::Json),
        "journal" => Ok(LogFormat::Journal),
        other => Err(InvalidValue::new(
            format!("unknown log format {other:?}"),
            "write \"plain\", \"json\" or \"journal\"",
        )),
    }
}

/// The name of a watch.
pub(super) fn watch_name(value: &DeValue<'_>) -> Result<String, InvalidValue> {
    let text = text(value)?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ' ');
    if text.is_empty() || text.len() > 64 || text.trim() != text || !text.chars().all(is_plain) {
        return Err(InvalidValue::new(
            format!("invalid name {text:?}"),
            "use 1 to 64 letters a to z, digits, \".\", \"_\" or \"-\"; spaces are allowed inside",
        ));
    }
    Ok(text)
}

/// A folder of iTwin Storage such as `"Projects/North"`, as its segments in Unicode normal form C; `""` is the storage
/// root.
///
/// The rules are stricter than the service's own, which are not published in full. Source:
/// developer.bentley.com/apis/storage/operations/create-folder (at most 255 characters), and what other file services
/// refuse.
pub(super) fn storage_folder(value: &DeValue<'_>) -> Result<Vec<String>, InvalidValue> {
    let text = text(value)?;
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.nfc()
        .collect::<String>()
        .split('/')
        .map(|segment| storage_segment(&text, segment).map(|()| segment.to_owned()))
        .collect()
}

fn storage_segment(text: &str, segment: &str) -> Result<(), InvalidValue> {
    let edge = |c| c == ' ' || c == '.';
    if segment.is_empty() {
        return Err(InvalidValue::new(
            format!("{text:?} contains an empty folder name"),
            "separate folder names with a single \"/\", as in \"Projects/North\"; \"\" is the root folder",
        ));
    }
    if let Some(refused) = segment
        .chars()
        .find(|&c| c.is_control() || r#"\:*?"<>|"#.contains(c))
    {
        return Err(InvalidValue::new(
            format!("{text:?} contains {refused:?}, which iTwin Storage does not allow"),
            "remove it; separate folder names with \"/\"",
        ));
    }
    if segment.starts_with(edge) || segment.ends_with(edge) {
        return Err(InvalidValue::new(
            format!(
                "{segment:?} starts or ends with a space or dot, which iTwin Storage does not allow"
            ),
            format!("write {:?}", segment.trim_matches(edge)),
        ));
    }
    if segment.encode_utf16().count() > 255 {
        return Err(InvalidValue::new(
            "a folder name is longer than 255 characters, which iTwin Storage does not allow",
            "write a shorter name",
        ));
    }
    Ok(())
}

/// The text of a number with a unit; a bare number is the most common error.
fn with_unit(value: &DeValue<'_>, hint: &str) -> Result<String, InvalidValue> {
    match value {
        DeValue::String(text)
            if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.') =>
        {
            Err(InvalidValue::new(format!("{text:?} has no unit"), hint))
        }
        DeValue::String(text) => Ok(text.as_ref().to_owned()),
        DeValue::Integer(number) => Err(InvalidValue::new(format!("{number} has no unit"), hint)),
        other => Err(InvalidValue::new(
            format!("expected a string with a unit, found {}", kind(other)),
            hint,
        )),
    }
}

fn within<T: PartialOrd>(
    text: &str,
    value: &T,
    limits: &RangeInclusive<T>,
    words: &[&str; 2],
    show: impl Fn(&T) -> String,
) -> Result<(), InvalidValue> {
    let [below, above] = words;
    let word = if value < limits.start() {
        below
    } else if value > limits.end() {
        above
    } else {
        return Ok(());
    };
    Err(InvalidValue::new(
        format!("{text:?} is {word}"),
        format!(
            "write a value from {:?} to {:?}",
            show(limits.start()),
            show(limits.end())
        ),
    ))
}

/// As the config file would write it.
pub(crate) fn show_duration(duration: &Duration) -> String {
    SignedDuration::try_from(*duration).map_or_else(
        |_| format!("{duration:?}"),
        |duration| format!("{duration:#}"),
    )
}

/// As the config file would write it.
pub(super) fn show_size(bytes: u64) -> String {
    ByteSize(bytes)
        .display()
        .iec()
        .to_string()
        .replace(".0 ", "")
        .replace(' ', "")
}

/// Quotes a path of the config file for a message; such a path is always UTF-8.
pub(super) fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}
