//! One request to the platform: token, headers, pauses, quick repeats, and the answer or why there is none.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{self, HeaderMap};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;
use url::Url;

use super::answer::{self, Limit, Reply};
use super::auth::Tokens;
use super::error::{Answer, Error, From, Kind};
use super::network::Route;
use super::said::words;
use crate::retry::{self, Budget, Gate};
use crate::secret::Secret;

/// The version of storage and synchronization.
pub(super) const V1: &str = "application/vnd.bentley.itwin-platform.v1+json";

/// The version of iModels.
pub(super) const V2: &str = "application/vnd.bentley.itwin-platform.v2+json";

/// How often an idle connection to the platform is asked for a sign of life.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Items asked for at a time.
const PAGE: usize = 100;

/// A list with more pages than this is an endless one.
const PAGES_MAX: usize = 10_000;

/// A list of which more than this arrives, in bytes, is an endless one.
const LIST_MAX: usize = 128 * 1024 * 1024;

/// What is kept of a list, in bytes: the largest folder that is of use has some 100,000 files.
const KEPT_MAX: usize = 24 * 1024 * 1024;

/// After an answer that got lost on an open connection, new ones are used for this long.
const DISTRUST: Duration = Duration::from_secs(10 * 60);

/// The hosts that were asked, the pauses that they asked for, and how they answered.
#[derive(Debug)]
pub(super) struct Gates {
    route: Arc<Route>,
    /// By host and port.
    doors: Mutex<HashMap<String, Arc<Door>>>,
    news: Arc<Notify>,
}

/// One host.
#[derive(Debug)]
pub(super) struct Door {
    gate: Gate,
    /// The host for messages, with the proxy before it.
    pub(super) host: String,
    /// Requests by the status of their answers; None for those without an answer.
    answers: Mutex<BTreeMap<Option<u16>, u64>>,
    /// Until then no connection is used twice: something on the way closes them without a word.
    distrusted: Mutex<Option<Instant>>,
}

/// Two clients that differ in one thing: the second opens a connection for every request.
#[derive(Debug, Clone)]
pub(super) struct Http {
    pooled: reqwest::Client,
    fresh: reqwest::Client,
}

impl Http {
    /// Both from what `builder` gives.
    pub(super) fn new(
        builder: impl Fn() -> Result<reqwest::ClientBuilder, Error>,
    ) -> Result<Self, Error> {
        let build =
            |builder: reqwest::ClientBuilder| builder.build().map_err(|error| setup(&error));
        Ok(Self {
            pooled: build(builder()?)?,
            fresh: build(builder()?.pool_max_idle_per_host(0))?,
        })
    }

    /// The one that suits the way to this host.
    pub(super) fn to(&self, door: &Door) -> &reqwest::Client {
        let distrusted = *door
            .distrusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if distrusted.is_some_and(|until| Instant::now() < until) {
            &self.fresh
        } else {
            &self.pooled
        }
    }
}

impl Gates {
    pub(super) fn new(route: Arc<Route>) -> Self {
        Self {
            route,
            doors: Mutex::default(),
            news: Arc::default(),
        }
    }

    pub(super) fn of(&self, url: &Url) -> Arc<Door> {
        let mut doors = self.doors();
        let door = doors.entry(authority(url));
        Arc::clone(door.or_insert_with(|| {
            Arc::new(Door {
                gate: Gate::new(Arc::clone(&self.news)),
                host: self.route.describe(url),
                answers: Mutex::default(),
                distrusted: Mutex::default(),
            })
        }))
    }

    /// Hosts that are to be left alone, and for how long.
    pub(super) fn closed(&self) -> Vec<(String, Duration)> {
        let doors = self.doors();
        let closed = doors
            .iter()
            .map(|(host, door)| (host.clone(), door.gate.left()));
        closed.filter(|(_, left)| !left.is_zero()).collect()
    }

    /// Leaves a host alone for some time.
    pub(super) fn hold(&self, host: &str, left: Duration) {
        // The way there does not depend on what follows the host.
        if let Ok(url) = Url::parse(&format!("https://{host}/")) {
            self.of(&url).gate.hold(left);
        }
    }

    /// Waits until a host asks for a pause.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    fn doors(&self) -> MutexGuard<'_, HashMap<String, Arc<Door>>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests so far, by host and status.
    pub(super) fn traffic(&self) -> Vec<(String, Option<u16>, u64)> {
        let mut all = Vec::new();
        for (host, door) in self.doors().iter() {
            let answers = door.answers.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend(
                answers
                    .iter()
                    .map(|(status, count)| (host.clone(), *status, *count)),
            );
        }
        all.sort();
        all
    }
}

/// Host and port; never the user part, which may be a password.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

impl Door {
    /// Uses no open connection for a while: an answer got lost on one.
    fn distrust(&self) {
        let mut until = self
            .distrusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *until = Some(Instant::now() + DISTRUST);
    }

    pub(super) fn count(&self, status: Option<StatusCode>) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        *answers
            .entry(status.map(|status| status.as_u16()))
            .or_default() += 1;
    }
}

/// The platform's API.
#[derive(Debug)]
pub(super) struct Api {
    http: Http,
    base: Url,
    tokens: Tokens,
    door: Arc<Door>,
    budget: Budget,
    /// What the platform's clock said, and when.
    clock: Mutex<Option<(Timestamp, Instant)>>,
}

/// A request before it is sent.
#[derive(Debug)]
pub(super) struct Call {
    operation: &'static str,
    method: Method,
    url: Url,
    accept: &'static str,
    body: Option<Value>,
    about: From,
    repeatable: bool,
    /// An address of the platform's in the answer's `Location` is what the call is for.
    redirects: bool,
    limit: Limit,
    /// What a service application must be allowed to do.
    permission: &'static str,
}

/// The client for the platform and its identity provider. A redirect means something of its own there.
pub(super) fn platform_client(route: &Route) -> Result<Http, Error> {
    Http::new(|| {
        Ok(route
            .builder()?
            .read_timeout(route.network.idle_timeout)
            .timeout(route.network.total_timeout)
            // A connection that a firewall forgot is noticed before the next request waits for it.
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_keep_alive_while_idle(true))
    })
}

pub(super) fn setup(error: &reqwest::Error) -> Error {
    Error::new("HTTP client", Kind::Setup(innermost(error)))
}

impl Call {
    /// A request whose answer does not change anything, or whose repetition does not.
    pub(super) fn repeatable(
        operation: &'static str,
        method: Method,
        url: Url,
        permission: &'static str,
    ) -> Self {
        Self {
            operation,
            method,
            url,
            accept: V1,
            body: None,
            about: From::Target,
            repeatable: true,
            redirects: false,
            limit: Limit::Answer,
            permission,
        }
    }

    /// A request that makes something new each time it is sent.
    pub(super) fn creating(operation: &'static str, url: Url, permission: &'static str) -> Self {
        Self {
            repeatable: false,
            ..Self::repeatable(operation, Method::POST, url, permission)
        }
    }

    pub(super) fn accept(self, accept: &'static str) -> Self {
        Self { accept, ..self }
    }

    /// An answer may be an address.
    pub(super) fn redirects(self) -> Self {
        Self {
            redirects: true,
            ..self
        }
    }

    pub(super) fn json(self, body: Value) -> Self {
        Self {
            body: Some(body),
            ..self
        }
    }

    /// A refusal of this request is about one file.
    pub(super) fn about_a_file(self) -> Self {
        Self {
            about: From::Content,
            ..self
        }
    }
}

impl Api {
    pub(super) fn new(
        http: Http,
        base: Url,
        tokens: Tokens,
        gates: &Gates,
        budget: Budget,
    ) -> Self {
        let door = gates.of(&base);
        Self {
            http,
            base,
            tokens,
            door,
            budget,
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

    /// The platform's time, which our clock has no part in.
    pub(super) fn platform_clock(&self) -> Option<Timestamp> {
        let (date, heard) = (*self.clock())?;
        date.checked_add(heard.elapsed()).ok()
    }

    /// An address below the base; every segment is one path segment, whatever it contains.
    pub(super) fn url(&self, segments: &[&str]) -> Url {
        below(&self.base, segments)
    }

    /// Sends a request, after a short wait if the host asked for one, and again if that is safe and may help.
    /// A status below 400 is an answer.
    pub(super) async fn send(&self, call: &Call) -> Result<Reply, Error> {
        retry::in_place(
            || self.send_with_token(call),
            |error| error.passing(call.repeatable),
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
        self.budget.take().await;
        let mut request = self
            .http
            .to(&self.door)
            .request(call.method.clone(), call.url.clone())
            .bearer_auth(token.expose())
            .header(header::ACCEPT, call.accept)
            .header("x-correlation-id", uuid::Uuid::new_v4().to_string());
        if call.method == Method::GET {
            request = request.header("prefer", "return=representation");
        }
        request = match &call.body {
            Some(body) => request.json(body),
            None if call.method == Method::GET => request,
            // Some gateways refuse a request that does not say that its body is empty.
            None => request.header(header::CONTENT_LENGTH, 0),
        };
        let reply = exchange(call.operation, &self.door, request, call.limit).await?;
        if !answer::is_of_the_platform(&reply, call.redirects) {
            let floor = hold(&self.door, reply.status, &reply.headers);
            return Err(reply.foreign(floor));
        }
        self.note_clock(&reply.headers);
        if reply.status.as_u16() < 400 {
            return Ok(reply);
        }
        let permission = Some(format!(
            "give {} {} in the iTwin",
            self.tokens.service_user(),
            call.permission
        ));
        let (code, message) = reply.envelope();
        let answer = Answer {
            from: call.about,
            status: reply.status.as_u16(),
            code: code.map(|code| words(&code)),
            message: words(&message),
            request_id: text_header(&reply.headers, "x-correlation-id").map(words),
            floor: hold(&self.door, reply.status, &reply.headers),
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

    /// The items of a list, page by page.
    ///
    /// Storage names a next page even on the last one, so the end is a page without anything new; addresses in the
    /// answers are not followed, so the token goes nowhere else. Each page is read and dropped before the next is asked for.
    pub(super) async fn list<T: DeserializeOwned + Item>(
        &self,
        call: Call,
        field: &str,
    ) -> Result<Vec<T>, Error> {
        let mut call = Call {
            limit: Limit::List,
            ..call
        };
        let base = call.url.clone();
        let mut items: Vec<T> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        let (mut skip, mut received, mut kept) = (0, 0, 0);
        for pages in 1..=PAGES_MAX {
            call.url = base.clone();
            call.url
                .query_pairs_mut()
                .append_pair("$top", &PAGE.to_string())
                .append_pair("$skip", &skip.to_string());
            let reply = self.send(&call).await?;
            received += reply.len();
            let page = reply.page::<T>(field)?;
            skip += page.items.len();
            let mut news = false;
            for item in page.items {
                // What is remembered of the ids takes place too.
                let weight = item.weight() + 8 + size_of::<T>();
                if seen.insert(digest(item.id())) {
                    kept += weight;
                    items.push(item);
                    news = true;
                }
            }
            if !news || !page.more {
                return Ok(items);
            }
            if received > LIST_MAX || kept > KEPT_MAX || pages == PAGES_MAX {
                let mib = received / (1024 * 1024);
                return Err(reply.too_large(format!(
                    "the list has no end: {pages} pages with {} items and {mib} MiB so far",
                    items.len()
                )));
            }
        }
        Ok(items)
    }
}

/// An item of a list.
pub(super) trait Item {
    /// What tells it from all others.
    fn id(&self) -> &str;
    /// Bytes of its texts, about.
    fn weight(&self) -> usize;
}

/// Stands for an id among those of a list.
fn digest(id: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

/// One exchange with a host that may have asked for a pause.
pub(super) async fn exchange(
    operation: &'static str,
    door: &Door,
    request: reqwest::RequestBuilder,
    limit: Limit,
) -> Result<Reply, Error> {
    let host = || door.host.clone();
    door.gate
        .pass()
        .await
        .map_err(|left| Error::new(operation, Kind::Held { host: host(), left }))?;
    let unreachable = |error: &reqwest::Error| {
        let sent = !error.is_connect() && !error.is_builder();
        if sent && !error.is_timeout() {
            door.distrust();
        }
        Error::new(
            operation,
            Kind::Unreachable {
                host: host(),
                cause: innermost(error),
                sent,
            },
        )
    };
    let response = request.send().await;
    door.count(response.as_ref().ok().map(reqwest::Response::status));
    let response = response.map_err(|error| unreachable(&error))?;
    let (status, headers) = (response.status(), response.headers().clone());
    let read = answer::read(response, limit).await;
    let (body, whole) = match read {
        Ok(read) => read,
        // What it says cannot be read, which is no reason to forget that it said no.
        Err(_) if status.as_u16() >= 400 => (answer::Body::Small(Vec::new()), true),
        Err(error) => return Err(unreachable(&error)),
    };
    let reply = Reply::new(operation, host(), status, headers, body);
    if !whole && status.as_u16() < 400 {
        let mib = limit.bytes() / (1024 * 1024);
        return Err(reply.too_large(format!("it has more than {mib} MiB")));
    }
    Ok(reply)
}

/// Holds the host's gate when an answer asks for that, and tells for how long.
pub(super) fn hold(door: &Door, status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    let header = text_header(headers, "retry-after")
        .or_else(|| text_header(headers, "itwinplatform-ratelimit-retry-after-seconds"));
    let rate_limited = status == StatusCode::TOO_MANY_REQUESTS;
    // A date is one of the host's clock, so it is compared with what that says.
    let now = date(headers).unwrap_or_else(crate::clock::now);
    let pause = retry::asked_pause(header, rate_limited, now)?;
    if rate_limited || status.is_server_error() {
        door.gate.hold(pause);
    }
    Some(pause)
}

/// The host's time, as its answer says it.
fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let text = text_header(headers, "date")?;
    jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(text)
        .ok()
}

pub(super) fn text_header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

pub(super) fn below(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    // The configuration takes only addresses that have a path.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

/// What really happened, below the layers that only say that something did. Never the address.
pub(super) fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    let mut text = if error.is_timeout() {
        "no answer in time".to_owned()
    } else {
        String::new()
    };
    while let Some(source) = cause.source() {
        cause = source;
        if !error.is_timeout() {
            text = cause.to_string();
        }
    }
    if text.is_empty() {
        "the request could not be sent".to_owned()
    } else {
        words(&text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn an_id_stays_one_segment_and_the_base_may_end_with_a_slash() {
        for base in [
            "https://api.example",
            "https://api.example/",
            "https://api.example/base/",
        ] {
            let url = below(&Url::parse(base).unwrap(), &["storage", "files", "-a/b?c"]);
            assert_eq!(
                url.as_str(),
                format!("{}/storage/files/-a%2Fb%3Fc", base.trim_end_matches('/'))
            );
        }
    }
}
