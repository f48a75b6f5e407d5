//! The local page, the metrics and the health checks, over HTTP.
//!
//! Input: reports of a read-only ledger, the runtime status, and requests of browsers. Output: one page that is built
//! into the program, its events, and commands for the [`Operator`]. It keeps no state but counters, and never
//! delays uploads or runs.
//!
//! Access: every user of this machine if it listens on a loopback address without a token, else whoever has the token.
//! `guard` keeps pages of other origins from using a browser that has access.

mod answer;
mod api;
mod body;
mod connections;
mod daily;
mod events;
mod guard;
mod guesses;
mod imodels;
mod metrics;
mod problem;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Router, middleware};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config;
use crate::control::Operator;
use crate::itwin::Client;
use crate::ledger::{self, Ledger, Lists, RootState};
use crate::runtime_status::StatusTracker;
use crate::version;
use connections::{Counts, LogLimit, Peer};
use guard::{Guard, Refusal};
use guesses::Guesses;
use imodels::Names;
use metrics::Tally;
use problem::Problem;

/// Time limit until the response starts.
const ANSWER: Duration = Duration::from_secs(30);

/// Between two attempts to listen.
const BIND_PAUSE: Duration = Duration::from_secs(1);

const BIND_HINT: &str =
    "stop the program that uses the address, or set another one in web.listen and restart";

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
    names: Names,
    days: daily::Days,
    /// The name of this machine.
    host: String,
    stop: CancellationToken,
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
        names: Names::default(),
        days: daily::Days::default(),
        host: host_name(),
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
        () = events::publish(Arc::clone(&shared)) => {}
        () = shared.names.look_up(&shared.client) => {}
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

fn host_name() -> String {
    let system = rustix::system::uname();
    system.nodename().to_string_lossy().into_owned()
}

/// The page: name, type and content of each file. They contain nothing of this service but its version.
fn assets() -> [(&'static str, &'static str, String); 8] {
    let script = "text/javascript; charset=utf-8";
    let page = include_str!("web/index.html").replace("{version}", version::FULL);
    [
        ("/", "text/html; charset=utf-8", page),
        ("/app.js", script, include_str!("web/app.js").to_owned()),
        ("/api.js", script, include_str!("web/api.js").to_owned()),
        ("/files.js", script, include_str!("web/files.js").to_owned()),
        ("/dom.js", script, include_str!("web/dom.js").to_owned()),
        ("/chart.js", script, include_str!("web/chart.js").to_owned()),
        (
            "/stream.js",
            script,
            include_str!("web/stream.js").to_owned(),
        ),
        (
            "/style.css",
            "text/css; charset=utf-8",
            include_str!("web/style.css").to_owned(),
        ),
    ]
}

fn router(shared: Arc<Shared>) -> Router {
    let mut router = api::router();
    for (path, kind, text) in assets() {
        let answer = move || std::future::ready(([(header::CONTENT_TYPE, kind)], text.clone()));
        router = router.route(path, get(answer));
    }
    router
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(|| std::future::ready("ok\n")))
        .route("/readyz", get(ready))
        .layer(middleware::from_fn(body::read))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), guarded))
        .with_state(shared)
}

async fn guarded(
    State(shared): State<Arc<Shared>>,
    Extension(Peer(peer)): Extension<Peer>,
    request: axum::extract::Request,
    next: middleware::Next,
) -> Response {
    let is_api = request.uri().path().starts_with("/api/");
    let answered = match shared.admits(peer, &request) {
        Ok(()) => tokio::time::timeout(ANSWER, next.run(request))
            .await
            .map_err(|_| {
                Problem::new(StatusCode::REQUEST_TIMEOUT, "the request took too long")
                    .hint("repeat it later, or request less at once")
            }),
        Err(refusal) => Err(refusal.into_problem(is_api)),
    };
    let mut response = answered.unwrap_or_else(|problem| {
        if is_api {
            problem.into_response()
        } else {
            problem.into_text()
        }
    });
    for (name, value) in guard::HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn show_metrics(State(shared): State<Arc<Shared>>) -> Result<Response, Problem> {
    let mut tally = shared.tally.lock().await;
    tally.count(&shared.reader).await?;
    let overview = shared
        .reader
        .overview(
            Lists {
                files: 0,
                groups: 0,
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

/// Ready: this host is active, the ledger can be used, and every folder was scanned and can be reached.
async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    if shared.operator.live.standby().is_some() {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "standby: another host is active\n",
        )
            .into_response();
    }
    let problem = match shared.operator.live.ledger_outage() {
        // Without the reason: whoever asks here needs no token.
        Some(outage) => Some(format!("ledger not available: {}", outage.hint)),
        None => not_ready(&shared).await,
    };
    match problem {
        None => "ready\n".into_response(),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")).into_response(),
    }
}

/// Why ledger and folders are not ready, if they are not.
async fn not_ready(shared: &Shared) -> Option<String> {
    let lists = Lists {
        files: 0,
        groups: 0,
        results: 0,
        runs: 0,
    };
    let began = shared.operator.live.began();
    let Ok(overview) = shared.reader.overview(lists, crate::clock::now()).await else {
        return Some("the ledger cannot be read".to_owned());
    };
    let configured = || overview.watches.iter().filter(|watch| watch.configured);
    let away = configured()
        .filter(|watch| watch.root == RootState::Unavailable)
        .count();
    let unseen = configured()
        .filter(|watch| watch.scanned_at.is_none_or(|at| at < began))
        .count();
    if away > 0 {
        return Some(format!("unavailable folders: {away}"));
    }
    (unseen > 0).then(|| format!("folders not scanned yet: {unseen}"))
}
