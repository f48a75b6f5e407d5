//! The state as one JSON object, and a stream of it.
//!
//! Open pages share one reader: the state is read at most twice a second while a page is open, and sent when it
//! has changed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, stream};
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Shared;
use super::imodels::PlaceView;
use super::problem::Problem;
use crate::ledger::{self, Lists};
use crate::status_view::{
    self, BatchView, DaemonView, FailureGroupView, FileView, ResultView, RunView, StatusView,
    Surroundings, UploadView, WatchView,
};

/// What the state lists. Files are listed page by page by a route of their own.
const LISTS: Lists = Lists {
    files: 50,
    groups: 100,
    results: 50,
    runs: 60,
};

/// Pause between two updates while a page is open; longer when an update takes long.
const PAUSE: Duration = Duration::from_millis(500);

/// Pause between two updates that differ in elapsed times and estimates only: an update is the whole state.
const ESTIMATE_PAUSE: Duration = Duration::from_secs(10);

/// Updates take at most this fraction of the time: 1 / `SHARE`.
const SHARE: u32 = 10;

/// Streams that may be open at the same time. A browser has one for all its tabs.
const WATCHERS_MAX: usize = 50;

/// Pause between two signs of life of a stream without updates. The page counts on it.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// The whole state, with the clock that its times refer to. Documented in `docs/openapi.json`.
#[derive(Serialize)]
struct Status<'a> {
    version: u32,
    now: Timestamp,
    host: &'a str,
    ok: bool,
    summary: String,
    daemon: &'a Option<DaemonView>,
    platform_outage: &'a Option<crate::runtime_status::Outage>,
    ledger_outage: &'a Option<crate::runtime_status::LedgerOutage>,
    undelivered: &'a [crate::runtime_status::Undelivered],
    standby: &'a Option<crate::runtime_status::Standby>,
    nodes: &'a [crate::ledger::NodeReport],
    places: &'a [PlaceView],
    watches: &'a [WatchView],
    uploads: &'a [UploadView],
    batch: &'a Option<BatchView>,
    failure_groups: &'a [FailureGroupView],
    more_failure_groups: u64,
    open: &'a [FileView],
    results: &'a [ResultView],
    runs: &'a [RunView],
}

/// What one look found.
#[derive(PartialEq)]
struct Look {
    places: Vec<PlaceView>,
    view: StatusView,
}

impl Look {
    async fn take(shared: &Shared) -> Result<Self, ledger::Error> {
        let overview = shared.reader.overview(LISTS, crate::clock::now()).await?;
        let places = shared.reader.watch_places().await?;
        Ok(Self {
            places: shared.names.of(&places, &shared.client),
            view: StatusView::new(&overview, Some(&shared.operator.live.now().await)),
        })
    }

    fn differs_in_time_only(&self, other: &Self) -> bool {
        self.places == other.places && self.view.differs_in_time_only(&other.view)
    }

    fn json(&self, host: &str) -> String {
        let view = &self.view;
        let summary = status_view::summary(view, &Surroundings::default());
        let status = Status {
            version: 1,
            now: crate::clock::now(),
            host,
            ok: summary.ok,
            summary: summary.text,
            daemon: &view.daemon,
            platform_outage: &view.platform_outage,
            ledger_outage: &view.ledger_outage,
            undelivered: &view.undelivered,
            standby: &view.standby,
            nodes: &view.nodes,
            places: &self.places,
            watches: &view.watches,
            uploads: &view.uploads,
            batch: &view.batch,
            failure_groups: &view.failure_groups,
            more_failure_groups: view.more_failure_groups,
            open: &view.open,
            results: &view.results,
            runs: &view.runs,
        };
        serde_json::to_string(&status).unwrap_or_default()
    }
}

pub(super) async fn status(State(shared): State<Arc<Shared>>) -> Result<Response, Problem> {
    let look = Look::take(&shared).await?;
    let json = [(axum::http::header::CONTENT_TYPE, "application/json")];
    Ok((json, look.json(&shared.host)).into_response())
}

/// Publishes changes of the state while a page is open.
pub(super) async fn publish(shared: Arc<Shared>) {
    let mut last: Option<(Look, Instant)> = None;
    loop {
        let began = Instant::now();
        if shared.latest.receiver_count() == 0 {
            last = None;
        } else {
            match Look::take(&shared).await {
                Ok(look) => {
                    let known = last.as_ref().is_some_and(|(last, sent)| {
                        *last == look
                            || (sent.elapsed() < ESTIMATE_PAUSE && last.differs_in_time_only(&look))
                    });
                    if !known {
                        let json = look.json(&shared.host);
                        shared.latest.send_replace(json.into());
                        last = Some((look, Instant::now()));
                    }
                }
                Err(error) => warn!(%error, "cannot update the page"),
            }
        }
        tokio::time::sleep(PAUSE.max(began.elapsed() * SHARE)).await;
    }
}

pub(super) async fn events(State(shared): State<Arc<Shared>>) -> Result<Response, Problem> {
    if shared.latest.receiver_count() >= WATCHERS_MAX {
        let problem = Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{WATCHERS_MAX} event streams are open already"),
        );
        return Err(problem.hint("close pages in other browsers, or end scripts that read events"));
    }
    let receiver = shared.latest.subscribe();
    let first = Look::take(&shared).await?.json(&shared.host);
    let stream = changes(first, receiver, shared.stop.clone());
    Ok(Sse::new(stream)
        .keep_alive(KeepAlive::new().interval(SIGN_OF_LIFE))
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
