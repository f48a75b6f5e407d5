//! The local page, the metrics and the health checks, over HTTP.
//!
//! In come the reports of a ledger that is open for reading, the live record, and clicks; out go one page that is built
//! into the program, its events, and [`Act`]s for the [`Desk`]. It holds no state of its own but counters, never waits for
//! the work, and the work never waits for it.
//!
//! Who may: everybody on this machine when it listens on a loopback address without a token, else who knows the token.
//! `guard` keeps pages of others from using a browser that may.

mod connections;
mod guard;
mod guesses;
mod metrics;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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
use crate::control::{Act, Desk};
use crate::itwin::Client;
use crate::ledger::{self, FileId, Ledger, Lists, RootState};
use crate::status_view::{self, View};
use connections::{Counts, Peer, Quiet};
use guard::{Guard, Refusal};
use guesses::Guesses;
use metrics::Tally;

/// What the page lists.
const LISTS: Lists = Lists {
    files: 200,
    results: 50,
    runs: 60,
};

/// Between two looks while somebody looks; longer when a look takes long.
const PAUSE: Duration = Duration::from_millis(500);

/// So much of the time at most goes into looking: one part in so many.
const SHARE: u32 = 10;

/// Pages that are shown at the same time.
const WATCHERS_MAX: usize = 50;

/// For the answer to a request to begin.
const ANSWER: Duration = Duration::from_secs(30);

/// The longest body of a request, in bytes: as many files as the page lists, to try again.
const BODY_MAX: usize = 256 * 1024;

/// What the room is made of.
#[derive(Debug)]
pub struct Parts {
    /// Token and names.
    pub config: config::Web,
    /// Where clicks go.
    pub desk: Desk,
    /// A ledger for reading only.
    pub reader: Ledger,
    /// Whose requests are counted.
    pub client: Client,
}

/// A place to listen that is taken.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
}

#[derive(Debug)]
struct Shared {
    guard: Guard,
    guesses: Mutex<Guesses>,
    /// For log lines about wrong tokens.
    quiet: Mutex<Quiet>,
    counts: Arc<Counts>,
    desk: Desk,
    reader: Ledger,
    client: Client,
    tally: tokio::sync::Mutex<Tally>,
    /// The latest state as JSON, made while somebody listens.
    latest: watch::Sender<Arc<str>>,
    stop: CancellationToken,
}

/// Why there is no answer.
struct Failure(ledger::Error);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        warn!(error = %self.0, "the page could not be answered");
        (StatusCode::INTERNAL_SERVER_ERROR, self.0.to_string()).into_response()
    }
}

impl From<ledger::Error> for Failure {
    fn from(error: ledger::Error) -> Self {
        Self(error)
    }
}

impl Server {
    /// Takes the address.
    ///
    /// # Errors
    /// When somebody else has it, or it is none of this machine.
    pub async fn bind(listen: SocketAddr) -> std::io::Result<Self> {
        Ok(Self {
            listener: TcpListener::bind(listen).await?,
        })
    }

    /// Serves until `stop`.
    ///
    /// # Errors
    /// When the ledger cannot be read at the start.
    pub async fn run(self, parts: Parts, stop: CancellationToken) -> Result<(), ledger::Error> {
        let shared = Arc::new(Shared {
            guard: Guard::new(&parts.config),
            guesses: Mutex::default(),
            quiet: Mutex::default(),
            counts: Arc::default(),
            tally: tokio::sync::Mutex::new(Tally::new(&parts.reader).await?),
            desk: parts.desk,
            reader: parts.reader,
            client: parts.client,
            latest: watch::channel(Arc::from("")).0,
            stop: stop.clone(),
        });
        if let Ok(address) = self.listener.local_addr() {
            info!(address = %format!("http://{address}/"), "the page is served");
        }
        let counts = Arc::clone(&shared.counts);
        let router = router(Arc::clone(&shared));
        let serving = connections::serve(self.listener, router, counts, stop.clone());
        tokio::select! {
            () = serving => {}
            () = publish(shared) => {}
            () = stop.cancelled() => {}
        }
        Ok(())
    }
}

impl Shared {
    /// Whether a request may be answered. Counts wrong tokens, and looks at none of a peer that has to wait.
    fn admits(&self, peer: IpAddr, request: &axum::extract::Request) -> Result<(), Refusal> {
        let (uri, headers) = (request.uri(), request.headers());
        // Held over the whole decision: requests at the same time get no more guesses than one after the other.
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if self.guard.brings_token(uri, headers)
            && let Some(wait) = guesses.wait(peer, now)
        {
            return Err(Refusal::Later(wait));
        }
        let admitted = self.guard.admits(request.method(), uri, headers);
        if admitted == Err(Refusal::WrongToken) {
            let (wrong, delay) = guesses.wrong(peer, now);
            self.counts.wrong_tokens.fetch_add(1, Ordering::Relaxed);
            let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(left_out) = quiet.may(now) {
                warn!(
                    %peer, wrong, delay_seconds = delay.as_secs(), left_out,
                    "a request to the page had a wrong token"
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
        .route("/api/act", post(act))
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

/// The state of everything, with the clock that its times are of.
#[derive(Serialize)]
struct Told<'a> {
    now: Timestamp,
    view: &'a View,
}

async fn look(shared: &Shared) -> Result<View, ledger::Error> {
    let overview = shared.reader.overview(LISTS, crate::clock::now()).await?;
    Ok(View::new(&overview, Some(&shared.desk.live.now().await)))
}

fn told(view: &View) -> String {
    let now = crate::clock::now();
    serde_json::to_string(&Told { now, view }).unwrap_or_default()
}

async fn state(State(shared): State<Arc<Shared>>) -> Result<Response, Failure> {
    let view = look(&shared).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], told(&view)).into_response())
}

/// Looks while somebody listens, and tells what is new.
async fn publish(shared: Arc<Shared>) {
    let mut last: Option<View> = None;
    loop {
        let began = Instant::now();
        if shared.latest.receiver_count() == 0 {
            last = None;
        } else {
            match look(&shared).await {
                Ok(view) => {
                    if last.as_ref() != Some(&view) {
                        shared.latest.send_replace(told(&view).into());
                        last = Some(view);
                    }
                }
                Err(error) => warn!(%error, "the page could not be brought up to date"),
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
    let first = told(&look(&shared).await?);
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
    Query(which): Query<WhichFile>,
) -> Result<Response, Failure> {
    let unknown = || (StatusCode::NOT_FOUND, "no such file is known").into_response();
    let Ok(id) = which.id.parse::<FileId>() else {
        return Ok(unknown());
    };
    Ok(match shared.reader.story(id).await? {
        Some(story) => Json(status_view::story_view(&story)).into_response(),
        None => unknown(),
    })
}

#[derive(Serialize)]
struct Done {
    count: u64,
}

async fn act(
    State(shared): State<Arc<Shared>>,
    Json(act): Json<Act>,
) -> Result<Json<Done>, Failure> {
    let count = shared.desk.carry_out(&act).await?;
    Ok(Json(Done { count }))
}

async fn show_metrics(State(shared): State<Arc<Shared>>) -> Result<Response, Failure> {
    let mut tally = shared.tally.lock().await;
    tally.count(&shared.reader).await?;
    let now = crate::clock::now();
    let overview = shared
        .reader
        .overview(
            Lists {
                files: 0,
                results: 0,
                runs: 0,
            },
            now,
        )
        .await?;
    let text = metrics::text(&metrics::Facts {
        overview: &overview,
        live: &shared.desk.live,
        traffic: &shared.client.traffic(),
        tally: &tally,
        page: &shared.counts,
        now,
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
    let began = shared.desk.live.began();
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
                Some(format!("{away} folders cannot be reached"))
            } else {
                (unseen > 0).then(|| format!("{unseen} folders are not scanned yet"))
            }
        }
    };
    match problem {
        None => "ready\n".into_response(),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")).into_response(),
    }
}
