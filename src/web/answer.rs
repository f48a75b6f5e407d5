//! What the routes of the API have in common: their parameters, and their answers.

use axum::Json;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::StatusCode;

use super::problem::Problem;

/// What a route answers.
pub(super) type Answer<T> = Result<Json<T>, Problem>;
/// The parameters of a request, as far as they can be read.
pub(super) type Parameters<T> = Result<Query<T>, QueryRejection>;

/// The answer of a route that can fail.
#[allow(
    clippy::unnecessary_wraps,
    reason = "the last line of handlers that can fail"
)]
pub(super) fn answer<T>(value: T) -> Answer<T> {
    Ok(Json(value))
}

/// The request itself is wrong.
pub(super) fn bad_request(error: impl Into<String>, hint: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, error).hint(hint)
}

/// The parameters of a request.
pub(super) fn parameters<T>(query: Parameters<T>, hint: &str) -> Result<T, Problem> {
    match query {
        Ok(Query(query)) => Ok(query),
        Err(_) => Err(bad_request("unknown parameter or invalid value", hint)),
    }
}
