//! Another client that works on the same iModel: another application of the platform, by plain HTTP.

use std::sync::atomic::{AtomicU32, Ordering};

use itwin_syncd::emulator::{Builder, DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID, Emulator, SourceFile};
use reqwest::Method;
use serde_json::{Value, json};

use super::support::{SECRET, platform};

/// The other application.
const CLIENT: &str = "service-other";

/// How it is called by the platform.
pub const NAME: &str = "Jane Doe";

const CONNECTIONS: &str = "/synchronization/imodels/storageConnections";

/// An emulator on which the daemon and another client have an application each.
pub fn shared_platform() -> Builder {
    platform().client(CLIENT, SECRET).display_name(CLIENT, NAME)
}

const SETTINGS: &str = "/synchronization/configurations";

pub struct OtherClient<'e> {
    emulator: &'e Emulator,
    http: reqwest::Client,
    token: String,
    count: AtomicU32,
}

impl<'e> OtherClient<'e> {
    pub async fn signs_in(emulator: &'e Emulator) -> Self {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", CLIENT),
            ("client_secret", SECRET),
            ("scope", "itwin-platform"),
        ];
        let url = format!("{}/connect/token", emulator.issuer_url());
        let answer = http.post(url).form(&form).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        Self {
            emulator,
            http,
            token: answer["access_token"].as_str().unwrap().to_owned(),
            // Names of its files differ from those of an earlier sign-in.
            count: AtomicU32::new(u32::try_from(emulator.state().files.len()).unwrap()),
        }
    }

    /// Status and body.
    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let url = if path.starts_with("http") {
            path.to_owned()
        } else {
            format!("{}{path}", self.emulator.api_url())
        };
        let version = if path.starts_with("/imodels/") { 2 } else { 1 };
        let accept = format!("application/vnd.bentley.itwin-platform.v{version}+json");
        let mut request = self
            .http
            .request(method, url)
            .bearer_auth(&self.token)
            .header("Accept", accept);
        request = match body {
            Some(body) => request.json(&body),
            None => request.header("Content-Length", "0"),
        };
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or_default())
    }

    #[track_caller]
    fn good((status, body): (u16, Value)) -> Value {
        assert!((200..300).contains(&status), "{status} {body}");
        body
    }

    /// The daemon's connection.
    pub fn connection(&self) -> Option<String> {
        let state = self.emulator.state();
        let mut ours = state.connections.values();
        let ours =
            ours.find(|connection| connection.display_name.as_deref() == Some("itwin-syncd"));
        ours.map(|connection| connection.id.clone())
    }

    /// The source file of a storage file, over all connections: connection id and source file.
    pub fn source_file(&self, storage_file_id: &str) -> Option<(String, SourceFile)> {
        let state = self.emulator.state();
        state.connections.values().find_map(|connection| {
            let mut held = connection.source_files.iter();
            let held = held.find(|held| held.storage_file_id == storage_file_id)?;
            Some((connection.id.clone(), held.clone()))
        })
    }

    /// Sets the settings of a scope such as `connections/ID`, in place of those it has.
    pub async fn creates_settings(&self, scope: &str, settings: &Value) {
        let path = format!("{SETTINGS}/{scope}");
        Self::good(self.ask(Method::POST, &path, Some(settings.clone())).await);
    }

    pub async fn changes_settings(&self, scope: &str, settings: &Value) {
        let path = format!("{SETTINGS}/{scope}");
        Self::good(self.ask(Method::PATCH, &path, Some(settings.clone())).await);
    }

    pub async fn deletes_settings(&self, scope: &str) {
        let path = format!("{SETTINGS}/{scope}");
        Self::good(self.ask(Method::DELETE, &path, None).await);
    }

    pub async fn unmaps(&self, storage_file_id: &str) -> bool {
        let Some((connection, source)) = self.source_file(storage_file_id) else {
            return false;
        };
        let path = format!("{CONNECTIONS}/{connection}/sourceFiles/{}", source.id);
        let (status, _) = self.ask(Method::DELETE, &path, None).await;
        status == 204
    }

    /// Changes a source file to another connector or storage file.
    pub async fn remaps(&self, storage_file_id: &str, to_storage: &str, connector: &str) -> bool {
        let Some((connection, source)) = self.source_file(storage_file_id) else {
            return false;
        };
        let path = format!("{CONNECTIONS}/{connection}/sourceFiles/{}", source.id);
        let body = json!({ "storageFileId": to_storage, "connectorType": connector });
        let (status, _) = self.ask(Method::PUT, &path, Some(body)).await;
        status == 200
    }

    pub async fn deletes_the_imodel(&self, id: &str) -> bool {
        let path = format!("/imodels/{id}");
        self.ask(Method::DELETE, &path, None).await.0 == 204
    }

    pub async fn deletes_the_connection(&self) -> bool {
        let Some(connection) = self.connection() else {
            return false;
        };
        let path = format!("{CONNECTIONS}/{connection}");
        self.ask(Method::DELETE, &path, None).await.0 == 204
    }

    pub async fn changes_the_authentication(&self) -> bool {
        let Some(connection) = self.connection() else {
            return false;
        };
        let path = format!("{CONNECTIONS}/{connection}");
        let body = json!({ "displayName": "itwin-syncd", "authenticationType": "User" });
        self.ask(Method::PUT, &path, Some(body)).await.0 == 200
    }

    pub async fn deletes_the_storage_file(&self, id: &str) -> bool {
        let path = format!("/storage/files/{id}");
        self.ask(Method::DELETE, &path, None).await.0 == 204
    }

    pub async fn deletes_the_storage_folder(&self, id: &str) -> bool {
        let path = format!("/storage/folders/{id}");
        self.ask(Method::DELETE, &path, None).await.0 == 204
    }

    /// Puts other content into a storage file, and completes it.
    pub async fn overwrites(&self, id: &str, content: &str) -> bool {
        let path = format!("/storage/files/{id}/updateContent");
        let (status, links) = self.ask(Method::POST, &path, None).await;
        if status != 202 {
            return false;
        }
        self.puts(&links, content).await;
        let path = format!("/storage/files/{id}/complete");
        self.ask(Method::POST, &path, None).await.0 == 200
    }

    async fn puts(&self, links: &Value, content: &str) {
        let url = links["_links"]["uploadUrl"]["href"].as_str().unwrap();
        let put = self
            .http
            .put(url)
            .header("x-ms-blob-type", "BlockBlob")
            .body(content.to_owned())
            .send();
        assert!(put.await.unwrap().status().is_success());
    }

    /// Renames a storage file, which changes no content.
    pub async fn renames(&self, id: &str, name: &str) -> bool {
        let path = format!("/storage/files/{id}");
        let body = json!({ "displayName": name });
        self.ask(Method::PATCH, &path, Some(body)).await.0 == 200
    }

    /// A storage file of its own in the root folder.
    pub async fn stores(&self, content: &str) -> String {
        let top = format!("/storage/?iTwinId={DEFAULT_ITWIN_ID}");
        let top = Self::good(self.ask(Method::GET, &top, None).await);
        let folder = top["_links"]["folder"]["href"].as_str().unwrap();
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let body = json!({ "displayName": format!("theirs {number}.ifc") });
        let created = self
            .ask(Method::POST, &format!("{folder}/files"), Some(body))
            .await;
        let created = Self::good(created);
        self.puts(&created, content).await;
        let complete = created["_links"]["completeUrl"]["href"].as_str().unwrap();
        let completed = Self::good(self.ask(Method::POST, complete, None).await);
        completed["file"]["id"].as_str().unwrap().to_owned()
    }

    /// A connection of its own that holds this storage file.
    pub async fn connects(&self, name: &str, storage_file_id: &str) -> Option<String> {
        let body = json!({
            "iModelId": DEFAULT_IMODEL_ID, "displayName": name, "authenticationType": "Service",
            "sourceFiles": [{ "storageFileId": storage_file_id, "connectorType": "IFC" }],
        });
        let (status, made) = self.ask(Method::POST, CONNECTIONS, Some(body)).await;
        (status == 201).then(|| made["connection"]["id"].as_str().unwrap().to_owned())
    }

    /// Starts a run; false if another one is active.
    pub async fn runs(&self, connection: &str) -> bool {
        let path = format!("{CONNECTIONS}/{connection}/run");
        self.ask(Method::POST, &path, None).await.0 == 202
    }
}
