//! How single values are written, and what is wrong with one that is not.
//!
//! In comes one TOML value, out goes the typed value, or [`Bad`]: the end of a sentence that starts with the key. Pure.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use jiff::{SignedDuration, Span, SpanRelativeTo};
use toml::de::DeValue;
use unicode_normalization::UnicodeNormalization;
use url::{Host, Url};
use uuid::Uuid;

use super::Level;
use super::document::kind;
use crate::bandwidth::Period;

/// What is wrong with a value, and what to write instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bad {
    pub(super) what: String,
    pub(super) hint: Option<String>,
}

impl Bad {
    pub(super) fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            hint: Some(hint.into()),
        }
    }
}

/// Text, as written.
pub(super) fn text(value: &DeValue<'_>) -> Result<String, Bad> {
    value.as_str().map(str::to_owned).ok_or_else(|| {
        Bad::new(
            format!("is {} where text is expected", kind(value)),
            "write it in quotes",
        )
    })
}

/// Text of one line that is more than space.
pub(super) fn line(value: &DeValue<'_>) -> Result<String, Bad> {
    let text = text(value)?;
    if text.trim() != text || text.is_empty() || text.chars().any(char::is_control) {
        return Err(Bad::new(
            "is empty, or has space around it or control characters in it",
            "write the bare text",
        ));
    }
    Ok(text)
}

pub(super) fn flag(value: &DeValue<'_>) -> Result<bool, Bad> {
    value.as_bool().ok_or_else(|| {
        Bad::new(
            format!("is {}", kind(value)),
            "write true or false, without quotes",
        )
    })
}

/// A list of text.
pub(super) fn list(value: &DeValue<'_>) -> Result<Vec<String>, Bad> {
    let bad = || Bad::new("is no list of text", "write [\"first\", \"second\"]");
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
) -> impl FnOnce(&DeValue<'_>) -> Result<usize, Bad> {
    move |value| {
        let hint = format!("write a number from {} to {}", limits.start(), limits.end());
        let DeValue::Integer(number) = value else {
            return Err(Bad::new(
                format!("is {} where a whole number is expected", kind(value)),
                hint,
            ));
        };
        usize::from_str_radix(number.as_str(), number.radix())
            .ok()
            .filter(|number| limits.contains(number))
            .ok_or_else(|| Bad::new(format!("{number} is out of range"), hint))
    }
}

/// A duration such as `"1h 30m"`, within `limits`.
pub(super) fn duration(
    limits: RangeInclusive<Duration>,
) -> impl FnOnce(&DeValue<'_>) -> Result<Duration, Bad> {
    move |value| {
        let text = with_unit(value, "write \"5s\" or \"2m\"")?;
        // A day is 24 hours: these are pauses, not dates.
        let duration = text
            .parse::<Span>()
            .and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()))
            .ok()
            .and_then(|duration| Duration::try_from(duration).ok())
            .ok_or_else(|| {
                Bad::new(
                    format!("{text:?} is no duration"),
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
pub(super) fn size(limits: RangeInclusive<u64>) -> impl FnOnce(&DeValue<'_>) -> Result<u64, Bad> {
    move |value| {
        let text = with_unit(value, "write \"8MiB\" or \"512KiB\"")?;
        let ByteSize(size) = text.parse().map_err(|_| {
            Bad::new(
                format!("{text:?} is no size"),
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

/// An address without query: https, or http to this machine.
/// Limits of speed by the time of day.
pub(super) fn periods(value: &DeValue<'_>) -> Result<Vec<Period>, Bad> {
    let bad = |what: &str| {
        let hint = "write [{ from = \"07:00\", to = \"19:00\", limit = \"2MiB/s\" }]";
        Bad::new(what, hint)
    };
    let all = value.as_array().ok_or_else(|| bad("is no list"))?;
    let period = |one: &DeValue<'_>| {
        let table = one.as_table().ok_or_else(|| bad("is no list of tables"))?;
        let text = |key: &str| {
            let found = table.iter().find(|(name, _)| name.get_ref() == key);
            let text = found.and_then(|(_, value)| value.get_ref().as_str());
            text.ok_or_else(|| bad(&format!("has a period without {key}")))
        };
        let unknown = |name: &str| !["from", "to", "limit"].contains(&name);
        if let Some((name, _)) = table.iter().find(|(name, _)| unknown(name.get_ref())) {
            return Err(bad(&format!("has a period with {:?}", name.get_ref())));
        }
        let time = |key: &str| {
            let text = text(key)?;
            let time = jiff::civil::Time::strptime("%H:%M", text);
            time.map_err(|_| bad(&format!("has {text:?}, which is no time of day")))
        };
        let limit = text("limit")?;
        let size = limit.strip_suffix("/s").filter(|size| size.ends_with('B'));
        let bytes = size.and_then(|size| size.parse().ok());
        let ByteSize(bytes) = bytes
            .filter(|ByteSize(bytes)| *bytes > 0)
            .ok_or_else(|| bad(&format!("has {limit:?}, which is no speed")))?;
        Ok(Period {
            from: time("from")?,
            to: time("to")?,
            limit: bytes,
        })
    };
    all.iter().map(|one| period(one.get_ref())).collect()
}

pub(super) fn url(value: &DeValue<'_>) -> Result<Url, Bad> {
    let text = text(value)?;
    let url = Url::parse(&text).ok().filter(Url::has_host);
    // Whatever is quoted below has no user part and no query, which could be a secret.
    match url {
        Some(url) if !url.username().is_empty() || url.password().is_some() => Err(Bad::new(
            "holds a user name or password",
            "write the bare address; the client secret has a place of its own",
        )),
        Some(url) if url.query().is_some() || url.fragment().is_some() => Err(Bad::new(
            "holds a query (\"?\") or fragment (\"#\")",
            "write the bare address, such as \"https://api.bentley.com\"",
        )),
        Some(url) if url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url)) => {
            Ok(url)
        }
        Some(url) if url.scheme() == "http" => Err(Bad::new(
            format!("{text:?} would send the secret unencrypted"),
            format!(
                "write \"https://{}\"; http is for this machine only",
                url.host_str().unwrap_or_default()
            ),
        )),
        _ => Err(Bad::new(
            "is no web address",
            "write it like \"https://api.bentley.com\"",
        )),
    }
}

/// A UUID, in lower case with hyphens.
pub(super) fn uuid(value: &DeValue<'_>) -> Result<String, Bad> {
    let text = text(value)?;
    Uuid::try_parse(&text)
        .map(|uuid| uuid.hyphenated().to_string())
        .map_err(|_| {
            Bad::new(
                format!("{text:?} is no UUID"),
                "copy the id from the iModel's page: 32 digits and letters a to f in five groups",
            )
        })
}

/// An absolute path without `..`.
pub(super) fn absolute(value: &DeValue<'_>) -> Result<PathBuf, Bad> {
    // The value is not quoted: someone may have written the secret itself as the path of its file.
    let path = PathBuf::from(text(value)?);
    if !path.is_absolute() {
        return Err(Bad::new(
            "is no absolute path",
            "write the whole path, starting with \"/\"",
        ));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(Bad::new(
            "has \"..\" in it",
            "write the path without \"..\"",
        ));
    }
    Ok(path)
}

pub(super) fn level(value: &DeValue<'_>) -> Result<Level, Bad> {
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
        Bad::new(
            format!("{text:?} is no level"),
            "write \"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
        )
    })
}

/// The name of a watch.
pub(super) fn watch_name(value: &DeValue<'_>) -> Result<String, Bad> {
    let text = text(value)?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ' ');
    if text.is_empty() || text.len() > 64 || text.trim() != text || !text.chars().all(is_plain) {
        return Err(Bad::new(
            format!("{text:?} cannot be a name"),
            "write 1 to 64 letters a to z, digits, \".\", \"_\", \"-\" or spaces between them",
        ));
    }
    Ok(text)
}

/// A folder of iTwin Storage such as `"Projects/North"`, as its segments in Unicode normal form C; `""` is the storage root.
///
/// The rules are stricter than the service's own, which are not published in full.
/// Source: developer.bentley.com/apis/storage/operations/create-folder (at most 255 characters), and what other file services refuse.
pub(super) fn storage_folder(value: &DeValue<'_>) -> Result<Vec<String>, Bad> {
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

fn storage_segment(text: &str, segment: &str) -> Result<(), Bad> {
    let edge = |c| c == ' ' || c == '.';
    if segment.is_empty() {
        return Err(Bad::new(
            format!("{text:?} has an empty part"),
            "write the names with one \"/\" between them, as in \"Projects/North\"; \"\" is the root folder",
        ));
    }
    if let Some(refused) = segment
        .chars()
        .find(|&c| c.is_control() || r#"\:*?"<>|"#.contains(c))
    {
        return Err(Bad::new(
            format!("{text:?} has {refused:?} in it, which iTwin Storage refuses"),
            "leave it out; names are separated by \"/\"",
        ));
    }
    if segment.starts_with(edge) || segment.ends_with(edge) {
        return Err(Bad::new(
            format!("{segment:?} starts or ends with a space or dot, which iTwin Storage refuses"),
            format!("write {:?}", segment.trim_matches(edge)),
        ));
    }
    if segment.encode_utf16().count() > 255 {
        return Err(Bad::new(
            "has a name of more than 255 characters, which iTwin Storage refuses",
            "write a shorter name",
        ));
    }
    Ok(())
}

/// The text of a number with a unit; a bare number is the usual mistake.
fn with_unit(value: &DeValue<'_>, hint: &str) -> Result<String, Bad> {
    match value {
        DeValue::String(text)
            if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.') =>
        {
            Err(Bad::new(format!("{text:?} has no unit"), hint))
        }
        DeValue::String(text) => Ok(text.as_ref().to_owned()),
        DeValue::Integer(number) => Err(Bad::new(format!("{number} has no unit"), hint)),
        other => Err(Bad::new(format!("is {}", kind(other)), hint)),
    }
}

fn within<T: PartialOrd>(
    text: &str,
    value: &T,
    limits: &RangeInclusive<T>,
    words: &[&str; 2],
    show: impl Fn(&T) -> String,
) -> Result<(), Bad> {
    let [below, above] = words;
    let word = if value < limits.start() {
        below
    } else if value > limits.end() {
        above
    } else {
        return Ok(());
    };
    Err(Bad::new(
        format!("{text:?} is {word}"),
        format!(
            "write a value from {:?} to {:?}",
            show(limits.start()),
            show(limits.end())
        ),
    ))
}

/// As the config file would write it.
pub(super) fn show_duration(duration: &Duration) -> String {
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

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
        None => false,
    }
}

/// Quotes a path of the config file for a message; such a path is always UTF-8.
pub(super) fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}
