//! Sends the requests that the crate `oauth2` builds the same way as all others.
//!
//! In: its requests. Out: answers that it can read, or our errors. Its own messages are never used: they can quote the
//! answer.

use std::pin::Pin;

use oauth2::basic::BasicTokenResponse;
use oauth2::{AsyncHttpClient, HttpRequest, HttpResponse, RequestTokenError, TokenResponse as _};
use url::Url;

use super::error::{Error, Kind};
use super::granted::{Granted, OPERATION};
use super::hosts::Hosts;
use super::transport::HttpClients;
use crate::secret::Secret;

/// The way of all requests, for the crate `oauth2`.
pub(super) struct OauthTransport<'t> {
    http: &'t HttpClients,
    hosts: &'t Hosts,
}

impl<'t> OauthTransport<'t> {
    pub(super) fn new(http: &'t HttpClients, hosts: &'t Hosts) -> Self {
        Self { http, hosts }
    }
}

impl<'c> AsyncHttpClient<'c> for OauthTransport<'_> {
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, Error>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(send(self.http, self.hosts, request))
    }
}

/// Sends a request of the crate `oauth2`. It reads answers strictly; so it gets what was read leniently before.
async fn send(
    http: &HttpClients,
    hosts: &Hosts,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    let unreadable = || {
        let what = "the request cannot be built".to_owned();
        Error::new(OPERATION, Kind::Unreadable { status: 0, what })
    };
    let (parts, body) = request.into_parts();
    let url = Url::parse(&parts.uri.to_string()).map_err(|_| unreadable())?;
    let host = hosts.of(&url);
    let request = http
        .to(&host)
        .request(parts.method, url)
        .headers(parts.headers)
        .body(body);
    let granted = Granted::ask(&host, request).await?;
    let mut answer = serde_json::json!({
        "access_token": granted.access_token.expose(),
        "token_type": "bearer",
        "expires_in": granted.lifetime.as_secs(),
    });
    if let Some(refresh) = &granted.refresh_token {
        answer["refresh_token"] = refresh.expose().into();
    }
    let mut response = HttpResponse::new(answer.to_string().into_bytes());
    *response.status_mut() = reqwest::StatusCode::OK;
    Ok(response)
}

pub(super) fn granted(answer: &BasicTokenResponse) -> Granted {
    Granted {
        access_token: Secret::new(answer.access_token().secret().as_str()),
        lifetime: answer.expires_in().unwrap_or_default(),
        refresh_token: answer
            .refresh_token()
            .map(|token| Secret::new(token.secret().as_str())),
    }
}

/// Not the crate's message: it can quote the answer.
pub(super) fn failure<T: oauth2::ErrorResponse + 'static>(
    error: RequestTokenError<Error, T>,
) -> Error {
    match error {
        RequestTokenError::Request(error) => error,
        _ => Error::new(
            OPERATION,
            Kind::Unreadable {
                status: 200,
                what: "no access token".to_owned(),
            },
        ),
    }
}
