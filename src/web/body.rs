//! Bodies of requests: read as a whole, up to a limit, before anything else is done with the request.

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http_body_util::BodyExt as _;

use super::problem::Problem;

/// Longest request body in bytes: a retry of some ten thousand files.
const BODY_MAX: usize = 256 * 1024;

/// How much of a longer body is read nevertheless, in bytes. A client that still sends when the connection is closed
/// does not read why its request was refused.
const DISCARDED_MAX: usize = 16 * 1024 * 1024;

/// Answers what has a body that is too long, or ends too early.
pub(super) async fn read(request: Request, next: Next) -> Response {
    let (parts, mut body) = request.into_parts();
    let mut content = Vec::new();
    let mut length = 0_usize;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Problem::new(StatusCode::BAD_REQUEST, "the body is incomplete")
                .hint("send the request again")
                .into_response();
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        length = length.saturating_add(data.len());
        if length > DISCARDED_MAX {
            break;
        }
        if length <= BODY_MAX {
            content.extend_from_slice(&data);
        }
    }
    if length > BODY_MAX {
        return Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is larger than 256 KiB",
        )
        .hint("send several requests with fewer files each, or retry a group")
        .into_response();
    }
    next.run(Request::from_parts(parts, Body::from(content)))
        .await
}
