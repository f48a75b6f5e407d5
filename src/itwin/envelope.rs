//! Code and message of an error response: the platform's envelope, or the flat one of its gateway.

use serde::Deserialize;

use super::limits::is_too_deep;

/// Code and message of an error body; None if it is neither envelope.
pub(super) fn envelope(body: &[u8]) -> Option<(Option<String>, String)> {
    #[derive(Deserialize)]
    struct Envelope {
        error: Body,
    }
    #[derive(Deserialize)]
    struct Body {
        code: Option<String>,
        message: Option<String>,
        target: Option<String>,
        details: Option<Vec<Body>>,
    }
    #[derive(Deserialize)]
    struct Flat {
        message: String,
    }
    if is_too_deep(body) {
        return None;
    }
    if let Ok(Envelope { error }) = serde_json::from_slice(body) {
        let details = error.details.unwrap_or_default();
        // Only a detail distinguishes an unknown application from an invalid token.
        let unknown_client = details
            .iter()
            .any(|detail| detail.code.as_deref() == Some("UnknownClient"));
        let code = if unknown_client {
            Some("UnknownClient".to_owned())
        } else {
            error.code
        };
        let mut message = error.message.unwrap_or_default();
        for detail in &details {
            let what = detail
                .message
                .as_deref()
                .or(detail.code.as_deref())
                .unwrap_or_default();
            let target = detail
                .target
                .as_deref()
                .map(|target| format!("{target}: "))
                .unwrap_or_default();
            message.push_str(&format!("; {target}{what}"));
        }
        if let Some(target) = error.target.filter(|target| !target.is_empty()) {
            message.push_str(&format!(" ({target})"));
        }
        return Some((code, message));
    }
    let flat = serde_json::from_slice(body).ok();
    flat.map(|Flat { message }| (None, message))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn an_error_is_read_from_the_envelope_or_from_a_flat_message() {
        for (body, code, message) in [
            (
                r#"{"error":{"code":"InvalidStorageRequest","message":"bad","target":null,
                   "details":[{"code":"InvalidValue","message":"name","target":"displayName"}]}}"#,
                Some("InvalidStorageRequest"),
                "bad; displayName: name",
            ),
            (
                r#"{"error":{"code":"Unauthorized","details":[{"code":"UnknownClient","message":"x"}]}}"#,
                Some("UnknownClient"),
                "; x",
            ),
            (
                r#"{"error":{"code":null,"message":null,"details":null}}"#,
                None,
                "",
            ),
            (r#"{"message":"no"}"#, None, "no"),
        ] {
            assert_eq!(
                envelope(body.as_bytes()),
                Some((code.map(str::to_owned), message.to_owned())),
                "{body}"
            );
        }
        for body in [
            "<html>busy</html>",
            "",
            "{}",
            r#"{"detail":"blocked"}"#,
            "[1]",
        ] {
            assert_eq!(envelope(body.as_bytes()), None, "{body}");
        }
    }
}
