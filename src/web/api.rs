//! The HTTP API, for the page and for scripts. `docs/openapi.json` documents it; a test compares both.
//!
//! Input: parameters and bodies, each with a limit. Output: JSON, also for errors, which say what to do.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::answer::{Answer, Parameters, answer, bad_request, parameters};
use super::problem::Problem;
use super::{Shared, daily, events};
use crate::control::Command;
use crate::ledger::{FileFilter, FileId, FileList, FilePosition};
use crate::status_view::{self, FileView, HistoryView};

/// Files on a page without a request for more or fewer.
const FILES: u32 = 50;

/// Files on a page at most.
const FILES_MAX: u32 = 200;

/// Characters of a search.
const SEARCH_MAX: usize = 200;

/// Watches that a hint names.
const WATCHES_NAMED: usize = 20;

const FILES_HINT: &str = "the parameters are state (failed, open, all), group, watch, search (up to 200 characters), \
                          limit (1 to 200) and after (next of the previous page)";

const RETRY_HINT: &str = "send {\"files\": [ids]}, {\"group\": \"key\"} or {\"all_failed\": true}; ids and keys are in /api/v1/files and \
     /api/v1/status";

const SPECIFICATION: &str = include_str!("../../docs/openapi.json");

type Body<T> = Result<Json<T>, JsonRejection>;

/// Every route: method, path, handler. Paths are written as in the specification.
fn routes() -> [(&'static str, &'static str, MethodRouter<Arc<Shared>>); 11] {
    [
        ("get", "/api/v1/status", get(events::status)),
        ("get", "/api/v1/events", get(events::events)),
        ("get", "/api/v1/files", get(files)),
        ("get", "/api/v1/files/{id}", get(file)),
        ("get", "/api/v1/history", get(daily::history)),
        ("post", "/api/v1/retry", post(retry)),
        ("post", "/api/v1/rescan", post(rescan)),
        ("post", "/api/v1/pause", post(pause)),
        ("post", "/api/v1/resume", post(resume)),
        ("post", "/api/v1/sync", post(sync)),
        ("get", "/api/v1/openapi.json", get(specification)),
    ]
}

/// The routes of the API, and an answer to requests for others.
pub(super) fn router() -> Router<Arc<Shared>> {
    let mut router = Router::new();
    for (_, path, handler) in routes() {
        router = router.route(path, handler);
    }
    router
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown)
}

async fn unknown(uri: Uri) -> Response {
    let problem = Problem::new(StatusCode::NOT_FOUND, "unknown path");
    if uri.path().starts_with("/api/") {
        let hint = "the paths of the API are in /api/v1/openapi.json";
        return problem.hint(hint).into_response();
    }
    problem.into_text()
}

async fn wrong_method(uri: Uri) -> Response {
    let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "wrong method for this path");
    if uri.path().starts_with("/api/") {
        let hint = "the methods of each path are in /api/v1/openapi.json";
        return problem.hint(hint).into_response();
    }
    problem.into_text()
}

async fn specification() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], SPECIFICATION).into_response()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StateName {
    Failed,
    Open,
    All,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FilesQuery {
    state: Option<StateName>,
    group: Option<String>,
    watch: Option<String>,
    search: Option<String>,
    limit: Option<u32>,
    after: Option<String>,
}

#[derive(Serialize)]
struct FilesPage {
    files: Vec<FileView>,
    /// For `after`; None: this is the last page.
    next: Option<String>,
}

async fn files(
    State(shared): State<Arc<Shared>>,
    query: Parameters<FilesQuery>,
) -> Answer<FilesPage> {
    let query = parameters(query, FILES_HINT)?;
    let list = match (query.group, query.state) {
        (Some(_), Some(_)) => {
            return Err(bad_request(
                "group and state exclude each other",
                FILES_HINT,
            ));
        }
        (Some(group), None) => FileList::Group(group),
        (None, Some(StateName::Failed)) => FileList::Failed,
        (None, Some(StateName::Open)) => FileList::Open,
        (None, Some(StateName::All) | None) => FileList::All,
    };
    let after = match query.after {
        None => None,
        Some(after) => Some(after.parse::<FilePosition>().map_err(|_| {
            bad_request(
                "invalid value of after",
                "use next of the previous page as it is",
            )
        })?),
    };
    let limit = query.limit.unwrap_or(FILES);
    let text = query.search.filter(|text| !text.is_empty());
    let is_long = |text: &String| text.chars().count() > SEARCH_MAX;
    if !(1..=FILES_MAX).contains(&limit) || text.as_ref().is_some_and(is_long) {
        return Err(bad_request("limit or search is too large", FILES_HINT));
    }
    let filter = FileFilter {
        watches: query
            .watch
            .into_iter()
            .filter(|watch| !watch.is_empty())
            .collect(),
        text,
    };
    let reader = &shared.reader;
    let page = reader.list_files(&list, &filter, after, limit).await?;
    answer(FilesPage {
        files: page.files.iter().map(status_view::file_view).collect(),
        next: page.next.map(|next| next.to_string()),
    })
}

async fn file(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Answer<HistoryView> {
    let unknown = || {
        Problem::new(StatusCode::NOT_FOUND, "unknown file")
            .hint("the ids of files are in /api/v1/files")
    };
    let id = id.parse::<FileId>().map_err(|_| unknown())?;
    let story = shared.reader.file_history(id).await?;
    answer(status_view::history_view(&story.ok_or_else(unknown)?))
}

#[derive(Serialize)]
struct Done {
    count: u64,
}

async fn execute(shared: &Shared, command: &Command) -> Answer<Done> {
    let count = shared.operator.execute(command).await?;
    answer(Done { count })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Retry {
    files: Option<Vec<String>>,
    group: Option<String>,
    all_failed: Option<bool>,
}

async fn retry(State(shared): State<Arc<Shared>>, body: Body<Retry>) -> Answer<Done> {
    let Json(which) = body?;
    let command = match (which.files, which.group, which.all_failed) {
        (Some(files), None, None) => {
            if let Some(id) = files.iter().find(|id| id.parse::<FileId>().is_err()) {
                return Err(bad_request(
                    format!("{id:?} is not the id of a file"),
                    RETRY_HINT,
                ));
            }
            Command::Retry { files }
        }
        (None, Some(group), None) => Command::RetryGroup { group },
        (None, None, Some(true)) => Command::RetryFailed,
        _ => {
            return Err(bad_request(
                "expected exactly one of files, group and all_failed",
                RETRY_HINT,
            ));
        }
    };
    execute(&shared, &command).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Watches {
    watches: Vec<String>,
}

/// The watches of a request, which are all configured.
async fn watches(shared: &Shared, body: Body<Watches>) -> Result<Vec<String>, Problem> {
    let Json(Watches { watches }) = body?;
    let known = shared.reader.watch_places().await?;
    let names = || {
        let names = known.iter().map(|place| format!("{:?}", place.watch));
        let names: Vec<_> = names.take(WATCHES_NAMED).collect();
        format!("the watches are {}", names.join(", "))
    };
    if watches.is_empty() {
        return Err(bad_request("no watch is named", names()));
    }
    let unknown = |name: &&String| known.iter().all(|place| place.watch != **name);
    if let Some(name) = watches.iter().find(unknown) {
        let problem = Problem::new(StatusCode::NOT_FOUND, format!("unknown watch {name:?}"));
        return Err(problem.hint(names()));
    }
    Ok(watches)
}

async fn rescan(State(shared): State<Arc<Shared>>, body: Body<Watches>) -> Answer<Done> {
    let watches = watches(&shared, body).await?;
    execute(&shared, &Command::Rescan { watches }).await
}

async fn pause(State(shared): State<Arc<Shared>>, body: Body<Watches>) -> Answer<Done> {
    let watches = watches(&shared, body).await?;
    execute(&shared, &Command::Pause { watches }).await
}

async fn resume(State(shared): State<Arc<Shared>>, body: Body<Watches>) -> Answer<Done> {
    let watches = watches(&shared, body).await?;
    execute(&shared, &Command::Resume { watches }).await
}

async fn sync(State(shared): State<Arc<Shared>>, body: Body<Watches>) -> Answer<Done> {
    let watches = watches(&shared, body).await?;
    execute(&shared, &Command::Sync { watches }).await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_specification_has_exactly_the_routes() {
        let specification: serde_json::Value = serde_json::from_str(SPECIFICATION).unwrap();
        let paths = specification["paths"].as_object().unwrap();
        let documented = paths.iter().flat_map(|(path, operations)| {
            let methods = operations.as_object().unwrap().keys();
            methods.map(move |method| (method.clone(), path.clone()))
        });
        let routes = routes();
        let served = routes
            .iter()
            .map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned()));
        let documented: BTreeSet<_> = documented.collect();
        assert_eq!(documented, served.collect::<BTreeSet<_>>());
    }
}
