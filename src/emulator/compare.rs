//! Compares a recording of the real platform with the emulator: replays its requests and reports where the responses
//! differ.
//!
//! In: a HAR file, as browsers, mitmproxy and [`Builder::record`] write it. Out: differences of statuses, error codes,
//! headers and the shapes of bodies. Values are not compared: ids, times and names differ anyway. An id from the
//! platform is translated to the one that the emulator returned in the same place. iTwins and iModels that existed
//! before the recording are created first.

mod recording;
mod shape;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Client, Method, Response};
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use super::encoding::percent;
use super::{Builder, DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, DEFAULT_ITWIN_ID, Emulator, Error};

use recording::{Recorded, operation, read, segments};
use shape::shape_differences;

/// Maximum length of the placeholder for content that was not recorded, in bytes.
const CONTENT_MAX: u64 = 16 * 1024 * 1024;

/// Pause between polls of a run that has to end, and the maximum number of polls.
const POLL: Duration = Duration::from_millis(100);
const POLLS_MAX: u32 = 600;

/// The result of a comparison.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Comparison {
    /// Number of exchanges that were replayed.
    pub compared: usize,
    /// Number of exchanges that were not: with the identity provider, with other hosts, about things that existed
    /// before the recording.
    pub skipped: usize,
    /// Each difference once, with its operation.
    pub differences: BTreeSet<String>,
}

/// Why a comparison failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// The file cannot be read.
    #[error("cannot read the recording {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is not a HAR file.
    #[error("{0:?} is not a HAR file: log.entries is missing")]
    Format(PathBuf),
    /// The emulator did not start.
    #[error(transparent)]
    Emulator(#[from] Error),
    /// The emulator did not respond.
    #[error("the emulator does not respond")]
    Answer(#[source] reqwest::Error),
}

/// Replays a recording against an emulator and compares the responses.
///
/// # Errors
/// When the file is not a recording or the emulator does not start.
pub async fn compare(builder: Builder, path: &Path) -> Result<Comparison, CompareError> {
    let recorded = read(path)?;
    let emulator = set_up(builder, &recorded).start().await?;
    let client = Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(CompareError::Answer)?;
    let mut replay = Replay {
        token: token(&emulator, &client).await?,
        emulator,
        client,
        ids: BTreeMap::new(),
        uploads: BTreeMap::new(),
        result: Comparison::default(),
    };
    for one in &recorded {
        replay.exchange(one).await?;
    }
    Ok(replay.result)
}

/// Adds the iTwins and iModels that a recording mentions and did not create.
fn set_up(mut builder: Builder, recorded: &[Recorded]) -> Builder {
    let (mut itwins, mut imodels, mut created) =
        (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
    for one in recorded {
        for (kind, known) in [("iTwin", true), ("iModel", false)] {
            let Some(id) = one.answer[kind]["id"].as_str() else {
                continue;
            };
            if one.method == "POST" && one.status == 201 {
                created.insert(id.to_owned());
            } else if known {
                itwins.insert(id.to_owned());
            } else {
                let itwin = one.answer[kind]["iTwinId"].as_str();
                imodels.insert(id.to_owned(), itwin.map(str::to_owned));
            }
        }
        for (name, value) in one.url.query_pairs() {
            match name.to_ascii_lowercase().as_str() {
                "itwinid" => {
                    itwins.insert(value.into_owned());
                }
                "imodelid" => {
                    imodels.entry(value.into_owned()).or_insert(None);
                }
                _ => {}
            }
        }
        if let Some(id) = one.body.as_ref().and_then(|body| body["iModelId"].as_str()) {
            imodels.entry(id.to_owned()).or_insert(None);
        }
    }
    let is_new = |id: &str| Uuid::parse_str(id).is_ok() && !created.contains(id);
    let other = itwins.iter().find(|id| is_new(id)).cloned();
    let other = other.unwrap_or_else(|| DEFAULT_ITWIN_ID.to_owned());
    itwins.insert(other.clone());
    itwins.extend(imodels.values().flatten().cloned());
    for id in itwins.iter().filter(|id| is_new(id)) {
        builder = builder.itwin(id, "Recorded");
    }
    for (id, itwin) in imodels.iter().filter(|(id, _)| is_new(id)) {
        let itwin = itwin.as_ref().unwrap_or(&other);
        builder = builder.imodel(id, itwin, &format!("Recorded {id}"));
    }
    builder.client(DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET)
}

async fn token(emulator: &Emulator, client: &Client) -> Result<String, CompareError> {
    let form = [
        ("grant_type", "client_credentials"),
        ("scope", "itwin-platform"),
        ("client_id", DEFAULT_CLIENT_ID),
        ("client_secret", DEFAULT_CLIENT_SECRET),
    ];
    let url = format!("{}/connect/token", emulator.issuer_url());
    let answer = client.post(url).form(&form).send().await;
    let answer = answer.map_err(CompareError::Answer)?;
    let granted: Value = answer.json().await.map_err(CompareError::Answer)?;
    Ok(granted["access_token"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

struct Replay {
    emulator: Emulator,
    client: Client,
    token: String,
    /// Our ids by the recorded ones.
    ids: BTreeMap<String, String>,
    /// Our upload addresses by the recorded ones without their query.
    uploads: BTreeMap<String, String>,
    result: Comparison,
}

impl Replay {
    async fn exchange(&mut self, one: &Recorded) -> Result<(), CompareError> {
        let bare = without_query(&one.url);
        let upload = self.uploads.get(&bare).cloned();
        let request = match upload {
            Some(ours) if one.method == "PUT" => self.upload(one, &ours),
            _ if one.is_of_api() => self.request(one),
            _ => {
                self.result.skipped += 1;
                return Ok(());
            }
        };
        self.result.compared += 1;
        let again = request.try_clone();
        let answer = request.send().await.map_err(CompareError::Answer)?;
        let mut answer = Observed::read(answer).await?;
        // A completed run is compared with a completed one.
        let mut polls = 0;
        while is_ended(&one.answer) && is_run(&answer.json) && !is_ended(&answer.json) {
            let Some(request) = again.as_ref().and_then(reqwest::RequestBuilder::try_clone) else {
                break;
            };
            if polls == POLLS_MAX {
                break;
            }
            polls += 1;
            tokio::time::sleep(POLL).await;
            let polled = request.send().await.map_err(CompareError::Answer)?;
            answer = Observed::read(polled).await?;
        }
        self.compare_response(one, &answer);
        Ok(())
    }

    fn upload(&self, one: &Recorded, ours: &str) -> reqwest::RequestBuilder {
        let wanted = one.url.query_pairs();
        let wanted = wanted.filter(|(name, _)| name == "comp" || name == "blockid");
        let mut url = ours.to_owned();
        for (name, value) in wanted {
            url.push_str(&format!("&{name}={}", percent(&value)));
        }
        let size = usize::try_from(one.size.min(CONTENT_MAX)).unwrap_or(0);
        let mut request = self.client.put(url).body(vec![b' '; size]);
        if let Some(kind) = one.headers.get("x-ms-blob-type") {
            request = request.header("x-ms-blob-type", kind);
        }
        request.header("content-length", size)
    }

    fn request(&self, one: &Recorded) -> reqwest::RequestBuilder {
        let path: Vec<String> = one
            .segments()
            .iter()
            .map(|segment| percent(self.ours(segment)))
            .collect();
        let query: Vec<(String, String)> = one
            .url
            .query_pairs()
            .map(|(name, value)| (name.into_owned(), self.ours(&value).to_owned()))
            .collect();
        let url = format!("{}/{}", self.emulator.api_url(), path.join("/"));
        let method = Method::from_bytes(one.method.as_bytes()).unwrap_or_default();
        let mut request = self.client.request(method, url).query(&query);
        if one.headers.contains_key("authorization") {
            request = request.bearer_auth(&self.token);
        }
        for name in ["accept", "prefer"] {
            if let Some(value) = one.headers.get(name) {
                request = request.header(name, value);
            }
        }
        match one.body.clone() {
            Some(mut body) => {
                self.translate(&mut body);
                request.json(&body)
            }
            None if one.method == "GET" => request,
            None => request.header("content-length", 0),
        }
    }

    fn ours<'t>(&'t self, text: &'t str) -> &'t str {
        self.ids.get(text).map_or(text, String::as_str)
    }

    fn translate(&self, json: &mut Value) {
        match json {
            Value::Object(properties) => {
                properties.values_mut().for_each(|one| self.translate(one));
            }
            Value::Array(items) => items.iter_mut().for_each(|one| self.translate(one)),
            Value::String(text) => *text = self.ours(text).to_owned(),
            _ => {}
        }
    }

    /// Records the differences of a response, and the ids in it.
    fn compare_response(&mut self, one: &Recorded, answer: &Observed) {
        let operation = operation(one);
        let (status, ours) = (answer.status, &answer.json);
        let differences = &mut self.result.differences;
        let mut differ = |what: String| {
            differences.insert(format!("{operation}: {what}"));
        };
        let code = |of: &Value| of["error"]["code"].as_str().unwrap_or("no code").to_owned();
        if status != one.status {
            let said = |status: u16, of: &Value| match status {
                400.. => format!("{status} {}", code(of)),
                _ => status.to_string(),
            };
            differ(format!(
                "the platform returned {}, the emulator {}",
                said(one.status, &one.answer),
                said(status, ours)
            ));
            return;
        }
        if status >= 400 && code(&one.answer) != code(ours) {
            differ(format!(
                "with {status} the platform's code is {}, the emulator's {}",
                code(&one.answer),
                code(ours)
            ));
        }
        let kind = answer
            .media_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim();
        if !one.media_type.is_empty() && kind != one.media_type {
            differ(format!(
                "the platform's media type is {}, the emulator's {kind}",
                one.media_type
            ));
        }
        let location = answer.location.as_ref();
        if one.location.is_some() != location.is_some() {
            let has = |has: bool| if has { "has" } else { "has no" };
            differ(format!(
                "the platform's answer {} Location, the emulator's {}",
                has(one.location.is_some()),
                has(location.is_some())
            ));
        }
        let under_way = |answer: &Value| is_run(answer) && !is_ended(answer);
        if !one.answer.is_null() && !under_way(&one.answer) && !under_way(ours) {
            differences.extend(
                shape_differences(&one.answer, ours)
                    .into_iter()
                    .map(|what| format!("{operation}: {what}")),
            );
        }
        let location = location.and_then(|to| one.url.join(to).ok());
        if let (Some(theirs), Some(ours)) = (&one.location, &location) {
            self.learn_address(theirs, ours);
        }
        self.learn(&one.answer, ours, "");
    }

    /// Maps recorded ids to ours: those in the same place.
    fn learn(&mut self, theirs: &Value, ours: &Value, name: &str) {
        match (theirs, ours) {
            (Value::Object(theirs), Value::Object(ours)) => {
                for (name, value) in theirs {
                    if let Some(ours) = ours.get(name) {
                        self.learn(value, ours, name);
                    }
                }
            }
            (Value::Array(theirs), Value::Array(ours)) if theirs.len() == ours.len() => {
                for (theirs, ours) in theirs.iter().zip(ours) {
                    self.learn(theirs, ours, name);
                }
            }
            (Value::String(theirs), Value::String(ours)) if name == "href" => {
                if let (Ok(theirs), Ok(ours)) = (Url::parse(theirs), Url::parse(ours)) {
                    self.learn_address(&theirs, &ours);
                }
            }
            (Value::String(theirs), Value::String(ours)) => {
                let is_id = name == "id" || name.ends_with("Id");
                if is_id && theirs != ours {
                    self.ids.insert(theirs.clone(), ours.clone());
                }
            }
            _ => {}
        }
    }

    fn learn_address(&mut self, theirs: &Url, ours: &Url) {
        if ours.as_str().starts_with(self.emulator.blob_url()) {
            self.uploads
                .insert(without_query(theirs), ours.as_str().to_owned());
            return;
        }
        let (theirs, ours) = (segments(theirs), segments(ours));
        if theirs.len() != ours.len() {
            return;
        }
        for (theirs, ours) in theirs.into_iter().zip(ours) {
            if !theirs.eq_ignore_ascii_case(&ours) {
                self.ids.insert(theirs, ours);
            }
        }
    }
}

/// A response of the emulator.
struct Observed {
    status: u16,
    media_type: String,
    location: Option<String>,
    json: Value,
}

impl Observed {
    async fn read(answer: Response) -> Result<Self, CompareError> {
        let header = |name: &str| answer.headers().get(name)?.to_str().ok().map(str::to_owned);
        Ok(Self {
            status: answer.status().as_u16(),
            media_type: header("content-type").unwrap_or_default(),
            location: header("location"),
            json: serde_json::from_slice(&answer.bytes().await.map_err(CompareError::Answer)?)
                .unwrap_or_default(),
        })
    }
}

fn is_run(answer: &Value) -> bool {
    answer["run"]["state"].is_string()
}

fn is_ended(answer: &Value) -> bool {
    answer["run"]["state"] == "Completed"
}

fn without_query(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.into()
}
