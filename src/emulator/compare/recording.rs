//! Reads a recording: requests and responses of a HAR file, without their secrets.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use url::Url;

use super::CompareError;
use crate::emulator::recorder::{redact, without_secrets};

/// First path segments of the API.
const APIS: [&str; 6] = [
    "accesscontrol",
    "imodels",
    "itwins",
    "storage",
    "synchronization",
    "users",
];

/// A recorded request with its response.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) method: String,
    pub(super) url: Url,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Option<Value>,
    pub(super) size: u64,
    pub(super) status: u16,
    pub(super) location: Option<Url>,
    pub(super) media_type: String,
    pub(super) answer: Value,
}

pub(super) fn read(path: &Path) -> Result<Vec<Recorded>, CompareError> {
    let text = std::fs::read(path).map_err(|source| CompareError::Read {
        path: path.to_owned(),
        source,
    })?;
    let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&text);
    let har: Value = serde_json::from_slice(text).unwrap_or_default();
    let entries = har["log"]["entries"].as_array();
    let entries = entries.ok_or_else(|| CompareError::Format(path.to_owned()))?;
    Ok(entries.iter().filter_map(recorded).collect())
}

fn recorded(entry: &Value) -> Option<Recorded> {
    let (request, response) = (&entry["request"], &entry["response"]);
    let headers = |of: &Value| -> BTreeMap<String, String> {
        let headers = of["headers"].as_array().into_iter().flatten();
        headers
            .filter_map(|header| {
                let name = header["name"].as_str()?.to_ascii_lowercase();
                Some((name, header["value"].as_str()?.to_owned()))
            })
            .collect()
    };
    let json = |text: &Value| {
        let mut json = serde_json::from_str(text.as_str()?).ok()?;
        redact(&mut json);
        Some(json)
    };
    let url = Url::parse(&without_secrets(request["url"].as_str()?)).ok()?;
    let answered = headers(response);
    let location = answered.get("location").map(String::as_str);
    let kind = response["content"]["mimeType"].as_str().unwrap_or_default();
    Some(Recorded {
        method: request["method"].as_str()?.to_owned(),
        location: location.and_then(|to| url.join(&without_secrets(to)).ok()),
        headers: headers(request),
        body: json(&request["postData"]["text"]),
        size: request["bodySize"].as_u64().unwrap_or(0),
        status: u16::try_from(response["status"].as_u64()?).ok()?,
        media_type: kind.split(';').next().unwrap_or_default().trim().to_owned(),
        answer: json(&response["content"]["text"]).unwrap_or_default(),
        url,
    })
}

impl Recorded {
    pub(super) fn segments(&self) -> Vec<String> {
        segments(&self.url)
    }

    pub(super) fn is_of_api(&self) -> bool {
        let first = self
            .segments()
            .first()
            .map(|word| word.to_ascii_lowercase());
        first.is_some_and(|word| APIS.contains(&word.as_str()))
    }
}

pub(super) fn segments(url: &Url) -> Vec<String> {
    let segments = url.path_segments().into_iter().flatten();
    let decoded = segments.map(|segment| {
        let text = percent_encoding::percent_decode_str(segment).decode_utf8_lossy();
        text.into_owned()
    });
    decoded.filter(|segment| !segment.is_empty()).collect()
}

/// Method and path, with placeholders for ids.
pub(super) fn operation(one: &Recorded) -> String {
    let is_id =
        |segment: &String| segment.len() >= 30 || segment.contains(|c: char| c.is_ascii_digit());
    let segments = one.segments();
    let segments: Vec<&str> = segments
        .iter()
        .map(|segment| {
            if is_id(segment) {
                "{id}"
            } else {
                segment.as_str()
            }
        })
        .collect();
    format!("{} /{}", one.method, segments.join("/"))
}
