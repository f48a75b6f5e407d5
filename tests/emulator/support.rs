//! A plain HTTP client for an emulator of its own, which keeps account of what it saw.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use itwin_syncd::emulator::{
    Builder, DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, Emulator, Switches,
};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub const V1: &str = "application/vnd.bentley.itwin-platform.v1+json";
pub const V2: &str = "application/vnd.bentley.itwin-platform.v2+json";

/// Which operation answered with which status, and which switches were set.
#[derive(Debug, Default)]
pub struct Seen {
    pub cells: Mutex<BTreeSet<(String, u16)>>,
    pub switches: Mutex<BTreeSet<String>>,
}

/// Words of paths; everything else is an id.
const WORDS: [&str; 50] = [
    "accesscontrol",
    "account",
    "changesets",
    "configurations",
    "consent",
    "create",
    "endsession",
    "favorites",
    "lock",
    "me",
    "members",
    "move",
    "myprimaryaccount",
    "namedversions",
    "operations",
    "owners",
    "permissions",
    "recents",
    "reports",
    "revocation",
    "roles",
    "unlock",
    "users",
    "storage",
    "folders",
    "files",
    "list",
    "search",
    "updatecontent",
    "complete",
    "download",
    "recyclebin",
    "restore",
    "synchronization",
    "imodels",
    "connections",
    "storageconnections",
    "sourcefiles",
    "run",
    "runs",
    "authorizationinformation",
    "itwins",
    "connect",
    "token",
    "authorize",
    "introspect",
    ".well-known",
    "openid-configuration",
    "jwks",
    "emulated",
];

/// Codes that every operation can answer with.
const COMMON: [&str; 6] = [
    "HeaderNotFound",
    "InvalidAuthorizationScheme",
    "Unauthorized",
    "ResourceNotFound",
    "RequestTooLarge",
    "RateLimitExceeded",
];

fn operation(method: &str, path: &str) -> String {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let words: Vec<String> = path
        .trim_matches('/')
        .split('/')
        .map(str::to_lowercase)
        .map(|word| {
            if WORDS.contains(&word.as_str()) {
                word
            } else {
                "{id}".to_owned()
            }
        })
        .collect();
    let comp = query
        .split('&')
        .find(|pair| pair.starts_with("comp="))
        .map(|comp| format!("?{comp}"))
        .unwrap_or_default();
    format!("{method} /{}{comp}", words.join("/"))
}

pub struct Platform {
    pub emulator: Emulator,
    pub http: reqwest::Client,
    pub token: String,
    seen: Arc<Seen>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    async fn read(response: Response) -> Self {
        Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.bytes().await.unwrap().to_vec(),
        }
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The machine word of an error.
    pub fn code(&self) -> String {
        let json = self.json();
        let code = json["error"]["code"].as_str().or(json["error"].as_str());
        code.map_or_else(|| self.header("x-ms-error-code").to_owned(), str::to_owned)
    }

    /// Asserts status and code, and returns the body.
    #[track_caller]
    pub fn is(self, status: u16, code: &str) -> Value {
        assert_eq!(
            (self.status, self.code().as_str()),
            (status, code),
            "{}",
            String::from_utf8_lossy(&self.body)
        );
        self.json()
    }

    /// The body of a success.
    #[track_caller]
    pub fn ok(self, status: u16) -> Value {
        self.is(status, "")
    }
}

impl Platform {
    pub async fn start(builder: Builder) -> Self {
        Self::seeing(builder, Arc::default()).await
    }

    pub async fn seeing(builder: Builder, seen: Arc<Seen>) -> Self {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .unwrap();
        let mut platform = Self {
            emulator: builder.start().await.unwrap(),
            http,
            token: String::new(),
            seen,
        };
        platform.sign_in().await;
        platform
    }

    pub async fn sign_in(&mut self) {
        self.sign_in_as((DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET))
            .await;
    }

    /// Acts as this client from now on.
    pub async fn sign_in_as(&mut self, (id, secret): (&str, &str)) {
        let granted = self
            .form(
                "/connect/token",
                &[
                    ("grant_type", "client_credentials"),
                    ("client_id", id),
                    ("client_secret", secret),
                    ("scope", "itwin-platform"),
                ],
            )
            .await;
        granted.ok(200)["access_token"]
            .as_str()
            .unwrap()
            .clone_into(&mut self.token);
    }

    fn note(&self, method: &str, path: &str, answer: &Answer) {
        let code = answer.code();
        let operation = if COMMON.contains(&code.as_str()) {
            "any operation".to_owned()
        } else {
            operation(method, path)
        };
        self.seen
            .cells
            .lock()
            .unwrap()
            .insert((operation, answer.status));
    }

    /// Sets a switch for the requests that follow.
    pub fn switch(&self, name: &str, word: &str) {
        let mut switches = Switches::default();
        switches.set(name, word).unwrap();
        self.emulator.set_switches(switches);
        self.seen
            .switches
            .lock()
            .unwrap()
            .insert(format!("{name}={word}"));
    }

    pub fn switches_off(&self) {
        self.emulator.set_switches(Switches::default());
    }

    pub async fn form(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let url = format!("{}{path}", self.emulator.api_url());
        let answer = Answer::read(self.http.post(url).form(fields).send().await.unwrap()).await;
        self.note("POST", path, &answer);
        answer
    }

    /// A request of a careful client.
    pub async fn ask(&self, method: &str, path: &str, body: Value) -> Answer {
        let accept = if path.to_lowercase().starts_with("/imodels") {
            V2
        } else {
            V1
        };
        self.ask_with(method, path, body, &[("accept", accept)])
            .await
    }

    pub async fn ask_with(
        &self,
        method: &str,
        path: &str,
        body: Value,
        headers: &[(&str, &str)],
    ) -> Answer {
        let url = format!("{}{path}", self.emulator.api_url());
        let mut request = self
            .http
            .request(Method::from_bytes(method.as_bytes()).unwrap(), url)
            .bearer_auth(&self.token);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request = match body {
            Value::Null if method == "GET" => request,
            Value::Null => request.header("content-length", 0),
            Value::String(raw) => request.body(raw),
            body => request.json(&body),
        };
        let answer = Answer::read(request.send().await.unwrap()).await;
        self.note(method, path, &answer);
        answer
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, Value::Null).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask("POST", path, body).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path, Value::Null).await
    }

    /// A request to the blob storage.
    pub async fn blob(
        &self,
        method: &str,
        url: &str,
        body: &[u8],
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = self
            .http
            .request(Method::from_bytes(method.as_bytes()).unwrap(), url)
            .body(body.to_vec());
        if method == "PUT" && body.is_empty() {
            request = request.header("content-length", 0);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = Answer::read(request.send().await.unwrap()).await;
        let path = url.strip_prefix(self.emulator.blob_url()).unwrap_or(url);
        self.note(method, path, &answer);
        answer
    }

    /// A file with no content yet: its id and where its content goes.
    pub async fn create(&self, folder: &str, name: &str) -> (String, String) {
        let path = format!("/storage/folders/{folder}/files");
        let created = self.post(
            &path,
            json!({ "displayName": name, "description": "marked" }),
        );
        links(&created.await.ok(202))
    }

    /// Puts content whole.
    pub async fn put(&self, url: &str, content: &[u8]) {
        let answer = self
            .blob("PUT", url, content, &[("x-ms-blob-type", "BlockBlob")])
            .await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }

    pub async fn complete(&self, file: &str) -> Answer {
        self.post(&format!("/storage/files/{file}/complete"), Value::Null)
            .await
    }

    /// A file with content.
    pub async fn upload(&self, folder: &str, name: &str, content: &[u8]) -> String {
        let (file, url) = self.create(folder, name).await;
        self.put(&url, content).await;
        self.complete(&file).await.ok(200);
        file
    }
}

/// File id and upload address from the answer to *create file* or *update content*.
pub fn links(answer: &Value) -> (String, String) {
    let link = |name: &str| answer["_links"][name]["href"].as_str().unwrap().to_owned();
    let complete = link("completeUrl");
    let file = complete.rsplit('/').nth(1).unwrap().to_owned();
    (file, link("uploadUrl"))
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

pub fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// Text as it stands in a query.
pub fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
