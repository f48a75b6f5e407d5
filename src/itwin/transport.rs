//! One HTTP exchange with a host: respects its pauses and the lease of this host, counts its responses, and bounds what
//! is read.
//!
//! In: a request. Out: a [`Reply`] of any status, or why there is none. It never repeats a request; that is up to the
//! caller.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};

use super::body::{self, Body, Completeness};
use super::error::{Error, Kind, root_cause};
use super::guarded_body::{self, guard};
use super::headers::{date, text_header};
use super::hosts::Host;
use super::limits::Limit;
use super::network::Route;
use super::reply::Reply;
use crate::lease::Lease;
use crate::retry::{self, Budget};

/// Interval of HTTP/2 pings on idle connections to the platform.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Two clients: one reuses connections, the other opens a new one for every request.
#[derive(Debug, Clone)]
pub(super) struct HttpClients {
    pooled: reqwest::Client,
    fresh: reqwest::Client,
}

impl HttpClients {
    /// Builds both from `builder`.
    pub(super) fn new(
        builder: impl Fn() -> Result<reqwest::ClientBuilder, Error>,
    ) -> Result<Self, Error> {
        let build =
            |builder: reqwest::ClientBuilder| builder.build().map_err(|error| Error::setup(&error));
        Ok(Self {
            pooled: build(builder()?)?,
            fresh: build(builder()?.pool_max_idle_per_host(0))?,
        })
    }

    /// The client to use for this host.
    pub(super) fn to(&self, host: &Host) -> &reqwest::Client {
        if host.is_distrusted() {
            &self.fresh
        } else {
            &self.pooled
        }
    }
}

/// The clients for the platform and its identity provider. Redirects are not followed: the API gives them a meaning.
pub(super) fn platform_client(route: &Route) -> Result<HttpClients, Error> {
    HttpClients::new(|| {
        Ok(route
            .builder()?
            .read_timeout(route.network.idle_timeout)
            .timeout(route.network.total_timeout)
            // Detects a connection that a firewall has dropped before the next request waits for it.
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_keep_alive_while_idle(true))
    })
}

/// Sends a request and reads the response; waits first if the host requested a short pause.
pub(super) async fn execute(
    operation: &'static str,
    host: &Host,
    request: reqwest::RequestBuilder,
    limit: Limit,
) -> Result<Reply, Error> {
    pass_gate(operation, host).await?;
    send(operation, host, request, limit).await
}

async fn pass_gate(operation: &'static str, host: &Host) -> Result<(), Error> {
    host.gate.wait().await.map_err(|left| {
        Error::new(
            operation,
            Kind::Held {
                host: host.label.clone(),
                left,
            },
        )
    })
}

/// Waits until a request may be sent, which then is at once: until its host is not paused, the lease is valid if it is
/// a change, and the budget has a request left.
pub(super) async fn wait_for_turn(
    operation: &'static str,
    host: &Host,
    is_change: bool,
    budget: &Budget,
) -> Result<(), Error> {
    let lease = host.lease().filter(|_| is_change);
    loop {
        pass_gate(operation, host).await?;
        if let Some(lease) = lease {
            lease.valid().await;
        }
        budget.take().await;
        // That may have taken long, and have brought a pause.
        if host.gate.remaining().is_zero() && lease.is_none_or(Lease::is_valid) {
            return Ok(());
        }
    }
}

/// Sends a request and reads the response.
pub(super) async fn send(
    operation: &'static str,
    host: &Host,
    request: reqwest::RequestBuilder,
    limit: Limit,
) -> Result<Reply, Error> {
    let result = exchange(operation, host, request, limit).await;
    host.record(match &result {
        Ok(reply) if reply.status.is_server_error() => {
            Some(format!("{} responds with {}", host.label, reply.status))
        }
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    });
    result
}

async fn exchange(
    operation: &'static str,
    host: &Host,
    request: reqwest::RequestBuilder,
    limit: Limit,
) -> Result<Reply, Error> {
    let label = || host.label.clone();
    let unreachable = |error: &reqwest::Error| {
        let sent = !error.is_connect() && !error.is_builder();
        if sent && !error.is_timeout() {
            host.distrust();
        }
        Error::new(
            operation,
            Kind::Unreachable {
                host: label(),
                cause: root_cause(error),
                sent,
            },
        )
    };
    let (client, request) = request.build_split();
    let mut request = request.map_err(|error| unreachable(&error))?;
    let is_change = request.method() != Method::GET;
    let lease = host.lease().filter(|_| is_change);
    if let Some(lease) = lease {
        // What was waited for before may have taken longer than the lease.
        lease.valid().await;
        guard(&mut request, lease.clone(), operation);
    }
    let mut sent = pin!(client.execute(request));
    // Nobody waits for the answer to a request that may not be whole.
    let response = std::future::poll_fn(|context| {
        if lease.is_some_and(|lease| !lease.is_valid()) {
            return Poll::Ready(None);
        }
        sent.as_mut().poll(context).map(Some)
    });
    let Some(response) = response.await else {
        return Err(Error::new(
            operation,
            Kind::Unreachable {
                host: label(),
                cause: guarded_body::ENDED.to_owned(),
                sent: true,
            },
        ));
    };
    host.count(response.as_ref().ok().map(reqwest::Response::status));
    let response = response.map_err(|error| unreachable(&error))?;
    let (status, headers) = (response.status(), response.headers().clone());
    let read = body::read(response, limit).await;
    let (body, completeness) = match read {
        Ok(read) => read,
        // An error status counts even if its body cannot be read.
        Err(_) if status.as_u16() >= 400 => (Body::Small(Vec::new()), Completeness::Whole),
        Err(error) => return Err(unreachable(&error)),
    };
    let reply = Reply::new(operation, label(), status, headers, body);
    if completeness == Completeness::Truncated && status.as_u16() < 400 {
        let mib = limit.bytes() / (1024 * 1024);
        return Err(reply.too_large(format!("more than {mib} MiB")));
    }
    Ok(reply)
}

/// Pauses the host if the response requests that; returns the requested pause.
pub(super) fn pause_host(host: &Host, status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    let header = text_header(headers, "retry-after")
        .or_else(|| text_header(headers, "itwinplatform-ratelimit-retry-after-seconds"));
    let rate_limited = status == StatusCode::TOO_MANY_REQUESTS;
    // A date is by the host's clock, so it is compared with the host's time.
    let now = date(headers).unwrap_or_else(crate::clock::now);
    let pause = retry::parse_retry_after(header, rate_limited, now)?;
    if rate_limited || status.is_server_error() {
        host.gate.close(pause);
    }
    Some(pause)
}
