//! The platform's API: sends a call with a token, repeats it where that is safe, and turns an error response into an
//! [`Error`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Method;
use reqwest::header::{self, HeaderMap};
use tokio::time::Instant;
use url::Url;

use super::auth::Tokens;
use super::call::Call;
use super::error::{Answer, Error, Kind};
use super::headers::{date, text_header};
use super::hosts::{Host, Hosts};
use super::reply::{Reply, is_of_the_platform};
use super::transport::{HttpClients, pause_host, send, wait_for_turn};
use super::untrusted_text::sanitize;
use super::urls::below;
use crate::retry::{self, Budget};
use crate::secret::Secret;

/// The platform's API.
#[derive(Debug)]
pub(super) struct Api {
    http: HttpClients,
    base: Url,
    tokens: Tokens,
    host: Arc<Host>,
    budget: Budget,
    /// Time limit of a request that changes something; None: that of the client.
    change_timeout: Option<Duration>,
    /// The platform's time, and when it was received.
    clock: Mutex<Option<(Timestamp, Instant)>>,
}

impl Api {
    pub(super) fn new(
        http: HttpClients,
        base: Url,
        tokens: Tokens,
        hosts: &Hosts,
        budget: Budget,
        change_timeout: Option<Duration>,
    ) -> Self {
        let host = hosts.of(&base);
        Self {
            http,
            base,
            tokens,
            host,
            budget,
            change_timeout,
            clock: Mutex::default(),
        }
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(super) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// The platform's time, independent of the system clock.
    pub(super) fn platform_clock(&self) -> Option<Timestamp> {
        let (date, heard) = (*self.clock())?;
        date.checked_add(heard.elapsed()).ok()
    }

    /// A URL below the base; every segment becomes one path segment, whatever it contains.
    pub(super) fn url(&self, segments: &[&str]) -> Url {
        below(&self.base, segments)
    }

    /// Sends a request, after a short pause if the host requested one, and repeats it in place where that is safe and
    /// can help. A status below 400 is a success.
    pub(super) async fn send(&self, call: &Call) -> Result<Reply, Error> {
        retry::in_place(
            || self.send_with_token(call),
            |error| error.retry_in_place(call.repeat),
        )
        .await
    }

    async fn send_with_token(&self, call: &Call) -> Result<Reply, Error> {
        let token = self.tokens.get().await?;
        match self.send_once(call, &token).await {
            Err(error) if error.token_refused() => {
                let token = self.tokens.renew(&token).await?;
                self.send_once(call, &token).await
            }
            sent => sent,
        }
    }

    async fn send_once(&self, call: &Call, token: &Secret) -> Result<Reply, Error> {
        let is_change = call.method != Method::GET;
        wait_for_turn(call.operation, &self.host, is_change, &self.budget).await?;
        let mut request = self
            .http
            .to(&self.host)
            .request(call.method.clone(), call.url.clone())
            .bearer_auth(token.expose())
            .header(header::ACCEPT, call.accept)
            .header("x-correlation-id", uuid::Uuid::new_v4().to_string());
        if !is_change {
            let prefer = if call.minimal {
                "return=minimal"
            } else {
                "return=representation"
            };
            request = request.header("prefer", prefer);
        } else if let Some(timeout) = self.change_timeout {
            request = request.timeout(timeout);
        }
        request = match &call.body {
            Some(body) => request.json(body),
            None if !is_change => request,
            // Some gateways reject a request without a Content-Length.
            None => request.header(header::CONTENT_LENGTH, 0),
        };
        let reply = send(call.operation, &self.host, request, call.limit).await?;
        if !is_of_the_platform(&reply, call.redirects) {
            let floor = pause_host(&self.host, reply.status, &reply.headers);
            return Err(reply.foreign(floor));
        }
        self.note_clock(&reply.headers);
        if reply.status.as_u16() < 400 {
            return Ok(reply);
        }
        let permission = Some(format!(
            "give {} {} in the iTwin",
            self.tokens.member(),
            call.permission
        ));
        let (code, message) = reply.envelope();
        let answer = Answer {
            from: call.about,
            status: reply.status.as_u16(),
            code: code.map(|code| sanitize(&code)),
            message: sanitize(&message),
            request_id: text_header(&reply.headers, "x-correlation-id").map(sanitize),
            floor: pause_host(&self.host, reply.status, &reply.headers),
            permission,
        };
        Err(Error::new(call.operation, Kind::Answer(Box::new(answer))))
    }

    fn note_clock(&self, headers: &HeaderMap) {
        if let Some(date) = date(headers) {
            *self.clock() = Some((date, Instant::now()));
        }
    }

    fn clock(&self) -> MutexGuard<'_, Option<(Timestamp, Instant)>> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
