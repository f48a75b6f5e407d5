//! The local page, the metrics and the health checks, over HTTP.
//!
//! Input: reports of a read-only ledger, the runtime status, and requests of browsers. Output: one page that is built
//! into the program, its events, and [`Command`]s for the [`Operator`]. It keeps no state but counters, and never
//! delays uploads or runs.
//!
//! Access: every user of this machine if it listens on a loopback address without a token, else whoever has the token.
//! `guard` keeps pages of other origins from using a browser that has access.

mod connections;
mod guard;
mod guesses;
mod metrics;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router, middleware};
use futures_util::{Stream, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config;
use crate::control::{Command, Operator};
use crate::itwin::Client;
use crate::ledger::{self, FileId, Ledger, Lists, RootState};
use crate::runtime_status::StatusTracker;
use crate::status_view::{self, StatusView};
use connections::{Counts, LogLimit, Peer};
use guard::{Guard, Refusal};
use guesses::Guesses;
use metrics::Tally;

/// What the page lists.
const LISTS: Lists = Lists {
    files: 200,
    results: 50,
    runs: 60,
};

/// Pause between two updates while a page is open; longer when an update takes long.
const PAUSE: Duration = Duration::from_millis(500);

/// Pause between two updates that differ in elapsed times and estimates only: an update is the whole state.
const ESTIMATE_PAUSE: Duration = Duration::from_secs(10);

/// Updates take at most this fraction of the time: 1 / `SHARE`.
const SHARE: u32 = 10;

/// Pages that may be open at the same time.
const WATCHERS_MAX: usize = 50;

/// Time limit until the response starts.
const ANSWER: Duration = Duration::from_secs(30);

/// Between two attempts to listen.
const BIND_PAUSE: Duration = Duration::from_secs(1);

const BIND_HINT: &str =
    "stop the program that uses the address, or set another one in web.listen and restart";

/// Longest request body in bytes: a retry of every file that the page lists.
const BODY_MAX: usize = 256 * 1024;

/// What the page depends on.
#[derive(Debug)]
pub struct Parts {
    /// Token and host names.
    pub config: config::Web,
    /// Executes the commands of the page.
    pub operator: Operator,
    /// A read-only ledger.
    pub reader: Ledger,
    /// The client whose requests are counted in the metrics.
    pub client: Client,
}

#[derive(Debug)]
struct Shared {
    guard: Guard,
    guesses: Mutex<Guesses>,
    /// For log lines about wrong tokens.
    log_limit: Mutex<LogLimit>,
    counts: Arc<Counts>,
    operator: Operator,
    reader: Ledger,
    client: Client,
    tally: tokio::sync::Mutex<Tally>,
    /// The latest state as JSON, updated while a page is open.
    latest: watch::Sender<Arc<str>>,
    stop: CancellationToken,
}

/// Why a request failed.
struct Failure(ledger::Error);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        warn!(error = %self.0, "cannot answer a request to the page");
        (StatusCode::INTERNAL_SERVER_ERROR, format!("{}\n", self.0)).into_response()
    }
}

impl From<ledger::Error> for Failure {
    fn from(error: ledger::Error) -> Self {
        Self(error)
    }
}

/// Serves the page at `listen` until `stop`. While another program has the address, it waits for it.
///
/// # Errors
/// When the ledger cannot be read at the start.
pub async fn run(
    listen: SocketAddr,
    parts: Parts,
    stop: CancellationToken,
) -> Result<(), ledger::Error> {
    let listener = tokio::select! {
        listener = bind(listen, &parts.operator.live) => listener,
        () = stop.cancelled() => return Ok(()),
    };
    let shared = Arc::new(Shared {
        guard: Guard::new(&parts.config),
        guesses: Mutex::default(),
        log_limit: Mutex::default(),
        counts: Arc::default(),
        tally: tokio::sync::Mutex::new(Tally::new(&parts.reader).await?),
        operator: parts.operator,
        reader: parts.reader,
        client: parts.client,
        latest: watch::channel(Arc::from("")).0,
        stop: stop.clone(),
    });
    if let Ok(address) = listener.local_addr() {
        info!(address = %format!("http://{address}/"), "serving the web page");
    }
    let counts = Arc::clone(&shared.counts);
    let router = router(Arc::clone(&shared));
    let serving = connections::serve(listener, router, counts, stop.clone());
    tokio::select! {
        () = serving => {}
        () = publish(shared) => {}
        () = stop.cancelled() => {}
    }
    Ok(())
}

/// Binds the address, and tries again while it cannot: synchronization does not depend on the page. A reason is logged
/// once, and shown by `status` until the address is free.
async fn bind(listen: SocketAddr, live: &StatusTracker) -> TcpListener {
    let mut last = None;
    loop {
        match TcpListener::bind(listen).await {
            Ok(listener) => {
                live.page_is_served();
                return listener;
            }
            Err(error) => {
                let reason = format!("cannot listen on {listen}: {error}");
                if last.as_ref() != Some(&reason) {
                    warn!(
                        %listen, %error,
                        hint = BIND_HINT,
                        "cannot serve the web page: trying again every second; synchronization continues without it"
                    );
                    last = Some(reason.clone());
                }
                live.page_is_not_served(reason);
            }
        }
        tokio::time::sleep(BIND_PAUSE).await;
    }
}

impl Shared {
    /// Whether a request is allowed. Counts wrong tokens, and checks none of a peer that has to wait.
    fn admits(&self, peer: IpAddr, request: &axum::extract::Request) -> Result<(), Refusal> {
        let (uri, headers) = (request.uri(), request.headers());
        // Locked over the whole decision: concurrent requests get no more guesses than sequential ones.
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if self.guard.has_token(uri, headers)
            && let Some(wait) = guesses.wait(peer, now)
        {
            return Err(Refusal::Later(wait));
        }
        let admitted = self.guard.admits(request.method(), uri, headers);
        if admitted == Err(Refusal::WrongToken) {
            let (wrong, delay) = guesses.wrong(peer, now);
            self.counts.wrong_tokens.fetch_add(1, Ordering::Relaxed);
            let mut quiet = self
                .log_limit
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(suppressed) = quiet.may(now) {
                warn!(
                    %peer, wrong, delay_seconds = delay.as_secs(), suppressed,
                    "rejected a request to the page: wrong token"
                );
            }
        }
        admitted
    }
}

fn router(shared: Arc<Shared>) -> Router {
    let text = |kind: &'static str, text: &'static str| {
        get(move || std::future::ready(([(header::CONTENT_TYPE, kind)], text)))
    };
    Router::new()
        .route(
            "/",
            text("text/html; charset=utf-8", include_str!("web/index.html")),
        )
        .route(
            "/app.js",
            text("text/javascript; charset=utf-8", include_str!("web/app.js")),
        )
        .route(
            "/style.css",
            text("text/css; charset=utf-8", include_str!("web/style.css")),
        )
        .route("/api/state", get(state))
        .route("/api/events", get(events))
        .route("/api/file", get(file))
        .route("/api/command", post(command))
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(|| std::future::ready("ok\n")))
        .route("/readyz", get(ready))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), guarded))
        .with_state(shared)
}

async fn guarded(
    State(shared): State<Arc<Shared>>,
    Extension(Peer(peer)): Extension<Peer>,
    request: axum::extract::Request,
    next: middleware::Next,
) -> Response {
    let mut response = match shared.admits(peer, &request) {
        Ok(()) => match tokio::time::timeout(ANSWER, next.run(request)).await {
            Ok(response) => response,
            Err(_) => (StatusCode::REQUEST_TIMEOUT, "the request took too long\n").into_response(),
        },
        Err(refusal) => refusal.into_response(),
    };
    for (name, value) in guard::HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The whole state, with the clock that its times refer to.
#[derive(Serialize)]
struct Snapshot<'a> {
    now: Timestamp,
    view: &'a StatusView,
}

async fn read_view(shared: &Shared) -> Result<StatusView, ledger::Error> {
    let overview = shared.reader.overview(LISTS, crate::clock::now()).await?;
    Ok(StatusView::new(
        &overview,
        Some(&shared.operator.live.now().await),
    ))
}

fn snapshot(view: &StatusView) -> String {
    let now = crate::clock::now();
    serde_json::to_string(&Snapshot { now, view }).unwrap_or_default()
}

async fn state(State(shared): State<Arc<Shared>>) -> Result<Response, Failure> {
    let view = read_view(&shared).await?;
    Ok((
        [(header::CONTENT_TYPE, "application/json")],
        snapshot(&view),
    )
        .into_response())
}

/// Publishes changes of the state while a page is open.
async fn publish(shared: Arc<Shared>) {
    let mut last: Option<(StatusView, Instant)> = None;
    loop {
        let began = Instant::now();
        if shared.latest.receiver_count() == 0 {
            last = None;
        } else {
            match read_view(&shared).await {
                Ok(view) => {
                    let known = last.as_ref().is_some_and(|(last, sent)| {
                        *last == view
                            || (sent.elapsed() < ESTIMATE_PAUSE && last.differs_in_time_only(&view))
                    });
                    if !known {
                        shared.latest.send_replace(snapshot(&view).into());
                        last = Some((view, Instant::now()));
                    }
                }
                Err(error) => warn!(%error, "cannot update the page"),
            }
        }
        tokio::time::sleep(PAUSE.max(began.elapsed() * SHARE)).await;
    }
}

async fn events(State(shared): State<Arc<Shared>>) -> Result<Response, Failure> {
    if shared.latest.receiver_count() >= WATCHERS_MAX {
        return Ok((
            StatusCode::SERVICE_UNAVAILABLE,
            "too many pages are open; close some",
        )
            .into_response());
    }
    let receiver = shared.latest.subscribe();
    let first = snapshot(&read_view(&shared).await?);
    let stream = changes(first, receiver, shared.stop.clone());
    Ok(Sse::new(stream)
        .keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
        .into_response())
}

fn changes(
    first: String,
    mut receiver: watch::Receiver<Arc<str>>,
    stop: CancellationToken,
) -> impl Stream<Item = Result<Event, std::convert::Infallible>> {
    receiver.mark_unchanged();
    let event = |text: &str| Ok(Event::default().event("state").data(text));
    stream::unfold(
        (Some(first), receiver, stop),
        move |(first, mut receiver, stop)| async move {
            if let Some(first) = first {
                return Some((event(&first), (None, receiver, stop)));
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                changed = receiver.changed() => changed.ok()?,
            }
            let text = Arc::clone(&receiver.borrow_and_update());
            Some((event(&text), (None, receiver, stop)))
        },
    )
}

#[derive(Deserialize)]
struct WhichFile {
    id: String,
}

async fn file(
    State(shared): State<Arc<Shared>>,
    which: Result<Query<WhichFile>, QueryRejection>,
) -> Result<Response, Failure> {
    let unknown = || (StatusCode::NOT_FOUND, "unknown file\n").into_response();
    let Ok(Query(which)) = which else {
        return Ok((StatusCode::BAD_REQUEST, "missing parameter: id\n").into_response());
    };
    let Ok(id) = which.id.parse::<FileId>() else {
        return Ok(unknown());
    };
    Ok(match shared.reader.file_history(id).await? {
        Some(story) => Json(status_view::history_view(&story)).into_response(),
        None => unknown(),
    })
}

#[derive(Serialize)]
struct Done {
    count: u64,
}

async fn command(
    State(shared): State<Arc<Shared>>,
    command: Result<Json<Command>, JsonRejection>,
) -> Result<Response, Failure> {
    let command = match command {
        Ok(Json(command)) => command,
        Err(rejection) => {
            return Ok((rejection.status(), invalid_command(&rejection)).into_response());
        }
    };
    let count = shared.operator.execute(&command).await?;
    Ok(Json(Done { count }).into_response())
}

/// What is wrong with the body of a command, without the words of the framework.
fn invalid_command(rejection: &JsonRejection) -> &'static str {
    match rejection.status() {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            "invalid command: send it with Content-Type: application/json\n"
        }
        StatusCode::PAYLOAD_TOO_LARGE => "invalid command: more than 256 KiB\n",
        StatusCode::BAD_REQUEST => "invalid command: not JSON\n",
        _ => "invalid command: unknown command, or a field is missing\n",
    }
}

async fn show_metrics(State(shared): State<Arc<Shared>>) -> Result<Response, Failure> {
    let mut tally = shared.tally.lock().await;
    tally.count(&shared.reader).await?;
    let overview = shared
        .reader
        .overview(
            Lists {
                files: 0,
                results: 0,
                runs: 0,
            },
            crate::clock::now(),
        )
        .await?;
    let text = metrics::text(&metrics::Facts {
        overview: &overview,
        live: &shared.operator.live,
        traffic: &shared.client.traffic(),
        tally: &tally,
        page: &shared.counts,
    });
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

/// Ready: the ledger can be read, and every folder was scanned and can be reached.
async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let lists = Lists {
        files: 0,
        results: 0,
        runs: 0,
    };
    let began = shared.operator.live.began();
    let problem = match shared.reader.overview(lists, crate::clock::now()).await {
        Err(_) => Some("the ledger cannot be read".to_owned()),
        Ok(overview) => {
            let configured = || overview.watches.iter().filter(|watch| watch.configured);
            let away = configured()
                .filter(|watch| watch.root == RootState::Unavailable)
                .count();
            let unseen = configured()
                .filter(|watch| watch.scanned_at.is_none_or(|at| at < began))
                .count();
            if away > 0 {
                Some(format!("unavailable folders: {away}"))
            } else {
                (unseen > 0).then(|| format!("folders not scanned yet: {unseen}"))
            }
        }
    };
    match problem {
        None => "ready\n".into_response(),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")).into_response(),
    }
}
