//! A platform that knows only what a measurement needs, and takes bytes as fast as they come: blobs are read and
//! discarded. One thread for each socket, so that it is no slower than what is measured.
//!
//! Blobs are at `/account/blob/NAME`, with the account in the path as emulators of Azure have it: other programs take
//! an address of a machine in no other form.

use std::collections::HashMap;
use std::io::{BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What happened since the last reset.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Requests by operation.
    pub requests: HashMap<&'static str, u64>,
    /// When the first byte of content came, and when the last was taken.
    pub content: Option<(Instant, Instant)>,
    /// Bytes of content.
    pub bytes: u64,
    /// When files were created.
    pub created: Vec<Instant>,
    /// When the last file was complete.
    pub completed: Option<Instant>,
    /// When the last run was requested.
    pub run: Option<Instant>,
}

#[derive(Debug, Default)]
struct State {
    seen: Seen,
    /// Bytes by blob, which has the name of its file.
    sizes: HashMap<String, u64>,
    /// Bytes by blob that is sent in blocks and not complete yet.
    blocks: HashMap<String, u64>,
    /// Folders as they were sent, by id.
    folders: HashMap<String, serde_json::Value>,
    source_files: Vec<String>,
    connected: bool,
}

#[derive(Debug)]
pub struct Platform {
    address: String,
    state: Mutex<State>,
    next: AtomicU64,
    /// Milliseconds that every call but those of content takes.
    latency: AtomicU64,
}

impl Platform {
    pub fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let platform = Arc::new(Self {
            address: format!("http://{}", listener.local_addr().unwrap()),
            state: Mutex::default(),
            next: AtomicU64::new(1),
            latency: AtomicU64::new(0),
        });
        let serving = Arc::clone(&platform);
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let platform = Arc::clone(&serving);
                std::thread::spawn(move || platform.serve(socket.unwrap()));
            }
        });
        platform
    }

    pub fn url(&self) -> &str {
        &self.address
    }

    /// Where other programs send a blob to.
    pub fn sink(&self, name: &str) -> String {
        format!("{}/account/blob/{name}?{SIGNATURE}", self.address)
    }

    /// The container of the blobs.
    pub fn container(&self) -> String {
        format!("{}/account/blob?{SIGNATURE}", self.address)
    }

    pub fn set_latency(&self, latency: Duration) {
        let millis = u64::try_from(latency.as_millis()).unwrap();
        self.latency.store(millis, Ordering::Relaxed);
    }

    pub fn reset(&self) {
        *self.state.lock().unwrap() = State::default();
    }

    pub fn seen(&self) -> Seen {
        self.state.lock().unwrap().seen.clone()
    }

    fn serve(&self, socket: TcpStream) {
        socket.set_nodelay(true).unwrap();
        let mut writer = socket.try_clone().unwrap();
        let mut reader = BufReader::with_capacity(64 * 1024, socket);
        let mut buffer = vec![0; 1024 * 1024];
        while let Some(request) = Request::read(&mut reader) {
            if request.expects_continue {
                writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
            }
            let began = Instant::now();
            let mut left = request.length;
            let mut sent = Vec::new();
            while left > 0 {
                let most = buffer.len().min(usize::try_from(left).unwrap());
                match reader.read(&mut buffer[..most]) {
                    Ok(0) | Err(_) => return,
                    Ok(got) => {
                        left -= got as u64;
                        if !request.is_content() {
                            sent.extend_from_slice(&buffer[..got]);
                        }
                    }
                }
            }
            let (status, headers, body) = self.answer(&request, &sent, began);
            let format = if body.starts_with('<') { "xml" } else { "json" };
            let mut answer =
                format!("HTTP/1.1 {status} X\r\nContent-Type: application/{format}\r\n{headers}");
            // The length in an answer to HEAD is that of the blob.
            if request.method != "HEAD" {
                answer.push_str(&format!("Content-Length: {}\r\n", body.len()));
            }
            answer.push_str("\r\n");
            answer.push_str(&body);
            if writer.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, request: &Request, sent: &[u8], began: Instant) -> (u16, String, String) {
        let path = request.path.split('?').next().unwrap_or_default();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let query = request.path.split_once('?').map_or("", |(_, query)| query);
        if !request.is_content() {
            let latency = self.latency.load(Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(latency));
        }
        let mut state = self.state.lock().unwrap();
        if let ["account", "blob", blob @ ..] = parts.as_slice() {
            let (status, headers, body) = state.blob(request, query, &blob.join("/"), began);
            let headers = format!(
                "ETag: {TAG}\r\nLast-Modified: {MODIFIED}\r\nx-ms-version: 2022-11-02\r\n\
                 x-ms-request-id: 00000000-0000-4000-8000-000000000000\r\nx-ms-request-server-encrypted: true\r\n{headers}"
            );
            return (status, headers, body);
        }
        let ok = |body: String| (200, String::new(), body);
        match (request.method.as_str(), parts.as_slice()) {
            ("POST", ["connect", "token"]) => {
                ok(r#"{"access_token":"t","expires_in":3600,"token_type":"Bearer"}"#.to_owned())
            }
            ("GET", ["imodels", imodel]) => ok(format!(
                r#"{{"iModel":{{"id":"{imodel}","iTwinId":"itwin","state":"initialized"}}}}"#
            )),
            ("GET", ["storage"]) => {
                let root = format!("{}/storage/folders/root", self.address);
                ok(format!(
                    r#"{{"items":[],"_links":{{"folder":{{"href":"{root}"}}}}}}"#
                ))
            }
            ("GET", ["storage", "folders", _, list @ ("files" | "folders")]) => {
                state.count("list");
                ok(format!(r#"{{"{list}":[],"_links":{{}}}}"#))
            }
            ("POST", ["storage", "folders", _, "folders"]) => {
                let id = self.next.fetch_add(1, Ordering::Relaxed);
                (201, String::new(), state.folder(&format!("d{id}"), sent))
            }
            ("GET" | "PATCH", ["storage", "folders", folder]) => ok(state.folder(folder, sent)),
            ("POST", ["storage", "folders", _, "files"]) => {
                state.count("create");
                state.seen.created.push(Instant::now());
                let id = self.next.fetch_add(1, Ordering::Relaxed);
                (202, String::new(), self.links(&format!("f{id}")))
            }
            ("POST", ["storage", "files", file, "updateContent"]) => {
                state.count("update");
                state.sizes.remove(*file);
                (202, String::new(), self.links(file))
            }
            ("POST", ["storage", "files", file, "complete"]) => {
                state.count("complete");
                state.seen.completed = Some(Instant::now());
                ok(file_entity(file, &state))
            }
            ("GET", ["storage", "files", file]) => ok(file_entity(file, &state)),
            ("GET", ["synchronization", "imodels", "storageConnections"]) => {
                let connection = if state.connected { CONNECTION } else { "" };
                ok(format!(r#"{{"connections":[{connection}],"_links":{{}}}}"#))
            }
            ("POST", ["synchronization", "imodels", "storageConnections"]) => {
                state.connected = true;
                (
                    201,
                    String::new(),
                    format!(r#"{{"connection":{CONNECTION}}}"#),
                )
            }
            ("GET", [.., "sourceFiles"]) => ok(format!(
                r#"{{"sourceFiles":[{}],"_links":{{}}}}"#,
                state.source_files.join(",")
            )),
            ("POST", [.., "sourceFiles"]) => {
                let id = self.next.fetch_add(1, Ordering::Relaxed);
                (
                    201,
                    String::new(),
                    format!(
                        r#"{{"sourceFile":{{"id":"s{id}","storageFileId":"f","connectorType":"IFC"}}}}"#
                    ),
                )
            }
            ("POST", [.., "run"]) => {
                state.count("run");
                state.seen.run = Some(Instant::now());
                let id = self.next.fetch_add(1, Ordering::Relaxed);
                (
                    202,
                    format!(
                        "Location: {}/synchronization/imodels/storageConnections/c/runs/r{id}\r\n",
                        self.address
                    ),
                    String::new(),
                )
            }
            ("GET", [.., "storageConnections", _]) => {
                ok(format!(r#"{{"connection":{CONNECTION}}}"#))
            }
            // A run has read every file that is there.
            ("GET", [.., "runs", run]) => {
                let tasks: Vec<String> = state
                    .sizes
                    .keys()
                    .map(|file| format!(r#"{{"storageFileId":"{file}","result":"Success"}}"#))
                    .collect();
                ok(format!(
                    r#"{{"run":{{"id":"{run}","state":"Completed","result":"Success","jobs":[{{"tasks":[{}]}}]}}}}"#,
                    tasks.join(",")
                ))
            }
            _ => (404, String::new(), String::new()),
        }
    }

    fn links(&self, file: &str) -> String {
        let complete = format!("{}/storage/files/{file}/complete", self.address);
        format!(
            r#"{{"_links":{{"uploadUrl":{{"href":"{}"}},"completeUrl":{{"href":"{complete}"}}}}}}"#,
            self.sink(file)
        )
    }
}

impl State {
    fn count(&mut self, operation: &'static str) {
        *self.seen.requests.entry(operation).or_default() += 1;
    }

    /// A folder after what was sent of it, if anything.
    fn folder(&mut self, id: &str, sent: &[u8]) -> String {
        let folder = self.folders.entry(id.to_owned());
        let folder = folder.or_insert_with(|| serde_json::json!({ "id": id, "displayName": "d" }));
        if let Ok(serde_json::Value::Object(sent)) = serde_json::from_slice(sent) {
            folder.as_object_mut().unwrap().extend(sent);
        }
        serde_json::json!({ "folder": folder }).to_string()
    }

    /// What storage answers: as much of it as other programs look at.
    fn blob(
        &mut self,
        request: &Request,
        query: &str,
        name: &str,
        began: Instant,
    ) -> (u16, String, String) {
        let empty = |status| (status, String::new(), String::new());
        match request.method.as_str() {
            "GET" if name.is_empty() => (200, String::new(), self.list()),
            "PUT" if query.contains("comp=blocklist") => {
                self.count("content");
                let size = self.blocks.remove(name).unwrap_or(0);
                self.sizes.insert(name.to_owned(), size);
                empty(201)
            }
            "PUT" => {
                self.count("content");
                if query.contains("comp=block") {
                    *self.blocks.entry(name.to_owned()).or_default() += request.length;
                } else {
                    self.sizes.insert(name.to_owned(), request.length);
                }
                let seen = &mut self.seen;
                seen.bytes += request.length;
                let first = seen.content.map_or(began, |(first, _)| first.min(began));
                seen.content = Some((first, Instant::now()));
                empty(201)
            }
            "HEAD" if self.sizes.contains_key(name) => {
                let size = self.sizes[name];
                let told = format!("Content-Length: {size}\r\nx-ms-blob-type: BlockBlob\r\n");
                (200, told, String::new())
            }
            _ => {
                let told = "x-ms-error-code: BlobNotFound\r\n";
                (404, told.to_owned(), String::new())
            }
        }
    }

    /// The blobs of the container.
    fn list(&self) -> String {
        let mut blobs = String::new();
        for (name, size) in &self.sizes {
            blobs.push_str(&format!(
                "<Blob><Name>{name}</Name><Properties><Last-Modified>{MODIFIED}</Last-Modified><Etag>{TAG}</Etag>\
                 <Content-Length>{size}</Content-Length><Content-Type>application/octet-stream</Content-Type>\
                 <BlobType>BlockBlob</BlobType></Properties></Blob>"
            ));
        }
        format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>"
        )
    }
}

/// Nobody checks it.
const SIGNATURE: &str = "sv=2022-11-02&sr=c&sp=rcwl&se=2099-01-01T00:00:00Z&sig=c2ln";
const MODIFIED: &str = "Tue, 25 Nov 2025 00:00:00 GMT";
const TAG: &str = "\"0x1\"";

const CONNECTION: &str = r#"{"id":"c","displayName":"itwin-syncd","authenticationType":"Service"}"#;

fn file_entity(file: &str, state: &State) -> String {
    let size = state.sizes.get(file).copied().unwrap_or(0);
    format!(r#"{{"file":{{"id":"{file}","type":"file","displayName":"x","size":{size}}}}}"#)
}

struct Request {
    method: String,
    path: String,
    length: u64,
    expects_continue: bool,
}

impl Request {
    fn read(reader: &mut BufReader<TcpStream>) -> Option<Self> {
        use std::io::BufRead as _;
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let mut words = line.split_whitespace();
        let mut request = Self {
            method: words.next()?.to_owned(),
            path: words.next()?.to_owned(),
            length: 0,
            expects_continue: false,
        };
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                return Some(request);
            }
            if let Some(length) = line.strip_prefix("content-length:") {
                request.length = length.trim().parse().ok()?;
            }
            request.expects_continue |= line == "expect: 100-continue";
        }
    }

    fn is_content(&self) -> bool {
        self.path.starts_with("/account/")
    }
}
