//! Records all exchanges, without secrets, to a HAR file that is complete after each exchange.
//!
//! File content is not recorded, only its size.
//!
//! Source: the HTTP Archive format 1.2, w3c.github.io/web-performance/specs/HAR/Overview.html

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Mutex;

use hyper::header::HeaderMap;
use jiff::Timestamp;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::lock::lock;

/// Replaces a secret.
const REDACTED: &str = "REDACTED";

/// Headers, form fields, JSON properties and query parameters whose value is a secret.
const SECRETS: [&str; 16] = [
    "access_token",
    "assertion",
    "authorization",
    "client_secret",
    "code",
    "code_verifier",
    "cookie",
    "id_token",
    "id_token_hint",
    "password",
    "proxy-authorization",
    "refresh_token",
    "set-cookie",
    "sig",
    "ticket",
    "token",
];

/// Maximum length of a recorded body, in bytes.
const BODY_MAX: usize = 256 * 1024;

const TAIL: &str = "\n]}}\n";

/// Position of the tail, from the end of the file.
const TAIL_AT: i64 = -5;

/// Writes exchanges to a file.
#[derive(Debug)]
pub(super) struct Recorder {
    file: Mutex<(File, bool)>,
}

/// A request with its response.
#[derive(Debug)]
pub(super) struct Exchange<'a> {
    pub(super) began: Timestamp,
    pub(super) method: &'a str,
    pub(super) url: String,
    pub(super) request_headers: &'a HeaderMap,
    pub(super) request_body: &'a [u8],
    /// Content-Length of the request.
    pub(super) request_size: u64,
    /// 0 if the connection was closed instead.
    pub(super) status: u16,
    pub(super) response_headers: HeaderMap,
    pub(super) response_body: &'a [u8],
}

impl Recorder {
    /// Creates the file, or overwrites an existing one.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let mut file = File::create(path)?;
        let creator =
            json!({ "name": "itwin-syncd emulator", "version": env!("CARGO_PKG_VERSION") });
        write!(
            file,
            r#"{{"log":{{"version":"1.2","creator":{creator},"entries":["#
        )?;
        file.write_all(TAIL.as_bytes())?;
        Ok(Self {
            file: Mutex::new((file, true)),
        })
    }

    /// Writes an exchange; logs an error if that fails.
    pub(super) fn write(&self, exchange: &Exchange<'_>) {
        let entry = entry(exchange);
        let mut file = lock(&self.file);
        let (file, is_first) = &mut *file;
        let comma = if std::mem::take(is_first) {
            "\n"
        } else {
            ",\n"
        };
        let written = file
            .seek(SeekFrom::End(TAIL_AT))
            .and_then(|_| write!(file, "{comma}{entry}{TAIL}"));
        if let Err(error) = written {
            tracing::error!(%error, "cannot record an exchange");
        }
    }
}

fn entry(exchange: &Exchange<'_>) -> Value {
    let url = without_secrets(&exchange.url);
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let query: Vec<Value> = form_urlencoded::parse(query.as_bytes())
        .map(|(name, value)| json!({ "name": name, "value": value }))
        .collect();
    let millis = Timestamp::now().duration_since(exchange.began).as_millis();
    let mut request = json!({
        "method": exchange.method, "url": url, "httpVersion": "HTTP/1.1", "cookies": [], "headersSize": -1,
        "headers": headers(exchange.request_headers), "queryString": query, "bodySize": exchange.request_size,
    });
    let kind = media_type(exchange.request_headers);
    if !exchange.request_body.is_empty() {
        request["postData"] = json!({ "mimeType": kind, "text": body(exchange.request_body) });
    }
    let kind = media_type(&exchange.response_headers);
    let location = exchange.response_headers.get("location");
    let location = location
        .and_then(|to| to.to_str().ok())
        .map(without_secrets);
    json!({
        "startedDateTime": exchange.began.to_string(), "time": u64::try_from(millis).unwrap_or(0),
        "request": request,
        "response": {
            "status": exchange.status, "statusText": "", "httpVersion": "HTTP/1.1", "cookies": [], "headersSize": -1,
            "headers": headers(&exchange.response_headers), "redirectURL": location.unwrap_or_default(),
            "bodySize": exchange.response_body.len(),
            "content": {
                "size": exchange.response_body.len(), "mimeType": kind, "text": body(exchange.response_body),
            },
        },
        "cache": {}, "timings": { "send": 0, "wait": u64::try_from(millis).unwrap_or(0), "receive": 0 },
    })
}

fn media_type(headers: &HeaderMap) -> String {
    let kind = headers
        .get("content-type")
        .and_then(|kind| kind.to_str().ok());
    kind.unwrap_or_default().to_owned()
}

fn headers(headers: &HeaderMap) -> Vec<Value> {
    headers
        .iter()
        .map(|(name, value)| {
            let value = value.to_str().unwrap_or_default();
            let shown = if SECRETS.contains(&name.as_str()) {
                REDACTED.to_owned()
            } else {
                without_secrets(value)
            };
            json!({ "name": name.as_str(), "value": shown })
        })
        .collect()
}

/// A body as text, without secrets.
fn body(bytes: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return String::new();
    };
    if text.len() > BODY_MAX {
        return String::new();
    }
    match serde_json::from_str::<Value>(text) {
        Ok(mut json) => {
            redact(&mut json);
            json.to_string()
        }
        Err(_) => without_secrets(text),
    }
}

/// Removes secrets from JSON: by property names, and from addresses.
pub(super) fn redact(json: &mut Value) {
    match json {
        Value::Object(properties) => {
            for (name, value) in properties {
                let is_secret = SECRETS.contains(&name.to_ascii_lowercase().as_str());
                // An error code is not a secret.
                if is_secret && name != "code" && value.is_string() {
                    *value = REDACTED.into();
                } else {
                    redact(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::String(text) => *text = without_secrets(text),
        _ => {}
    }
}

/// Text without the values of secret parameters such as `sig=`.
pub(super) fn without_secrets(text: &str) -> String {
    if !text.contains('=') {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len());
    for piece in text.split_inclusive(['?', '&']) {
        let (pair, end) = match piece.strip_suffix(['?', '&']) {
            Some(pair) => (pair, piece.strip_prefix(pair).unwrap_or_default()),
            None => (piece, ""),
        };
        match pair.split_once('=') {
            Some((name, _)) if SECRETS.contains(&name.to_ascii_lowercase().as_str()) => {
                shown.push_str(&format!("{name}={REDACTED}"));
            }
            _ => shown.push_str(pair),
        }
        shown.push_str(end);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_takes_the_place_of_the_end() {
        assert_eq!(TAIL_AT, -i64::try_from(TAIL.len()).unwrap());
    }

    #[test]
    fn secrets_go_and_the_rest_stays() {
        for (text, expected) in [
            ("no secret", "no secret"),
            (
                "https://h/p?sv=1&sig=abc%3D&se=2",
                "https://h/p?sv=1&sig=REDACTED&se=2",
            ),
            (
                "grant_type=x&client_secret=a&scope=b",
                "grant_type=x&client_secret=REDACTED&scope=b",
            ),
            (
                "http://localhost/?code=1&state=2",
                "http://localhost/?code=REDACTED&state=2",
            ),
            ("signal=1&SIG=2", "signal=1&SIG=REDACTED"),
        ] {
            assert_eq!(without_secrets(text), expected);
        }
        let mut json = json!({
            "access_token": "a", "error": { "code": "FileNotFound" }, "token": 5,
            "_links": [{ "href": "https://h/p?sig=abc" }],
        });
        redact(&mut json);
        let expected = json!({
            "access_token": "REDACTED", "error": { "code": "FileNotFound" }, "token": 5,
            "_links": [{ "href": "https://h/p?sig=REDACTED" }],
        });
        assert_eq!(json, expected);
    }
}
