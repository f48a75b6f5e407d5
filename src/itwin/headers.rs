//! Response headers.

use jiff::Timestamp;
use reqwest::header::HeaderMap;

pub(super) fn text_header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The host's time, from the `Date` header.
pub(super) fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let text = text_header(headers, "date")?;
    jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(text)
        .ok()
}
