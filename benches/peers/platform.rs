//! A platform that knows only what a measurement needs, and takes bytes as fast as they come: blobs are read and
//! discarded. One thread for each socket, so that it is no slower than what is measured.

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
    /// When files were created.
    pub created: Vec<Instant>,
}

#[derive(Debug, Default)]
struct State {
    seen: Seen,
    /// Bytes by file.
    sizes: HashMap<String, u64>,
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

    /// Where other programs send content to.
    pub fn sink(&self, name: &str) -> String {
        format!("{}/blob/{name}?sv=2022-11-02", self.address)
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
            let mut text = Vec::new();
            while left > 0 {
                let most = buffer.len().min(usize::try_from(left).unwrap());
                match reader.read(&mut buffer[..most]) {
                    Ok(0) | Err(_) => return,
                    Ok(got) => {
                        left -= got as u64;
                        if !request.is_content() {
                            text.extend_from_slice(&buffer[..got]);
                        }
                    }
                }
            }
            let (status, headers, body) = self.answer(&request, began);
            let answer = format!(
                "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{headers}\r\n{body}",
                body.len()
            );
            if writer.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, request: &Request, began: Instant) -> (u16, String, String) {
        let path = request.path.split('?').next().unwrap_or_default();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let query = request.path.split_once('?').map_or("", |(_, query)| query);
        if !request.is_content() {
            let latency = self.latency.load(Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(latency));
        }
        let mut state = self.state.lock().unwrap();
        let mut count = |operation| *state.seen.requests.entry(operation).or_default() += 1;
        let ok = |body: String| (200, String::new(), body);
        match (request.method.as_str(), parts.as_slice()) {
            ("PUT", ["blob", file]) => {
                count("content");
                if query.contains("comp=blocklist") {
                    return (201, String::new(), String::new());
                }
                let size = state.sizes.entry((*file).to_owned()).or_default();
                *size = if query.contains("comp=block") {
                    *size + request.length
                } else {
                    request.length
                };
                let now = Instant::now();
                let first = state
                    .seen
                    .content
                    .map_or(began, |(first, _)| first.min(began));
                state.seen.content = Some((first, now));
                (201, String::new(), String::new())
            }
            ("GET", ["blob", _]) => (404, String::new(), String::new()),
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
                count("list");
                ok(format!(r#"{{"{list}":[],"_links":{{}}}}"#))
            }
            ("POST", ["storage", "folders", _, "folders"]) => {
                let id = self.next.fetch_add(1, Ordering::Relaxed);
                (
                    201,
                    String::new(),
                    format!(r#"{{"folder":{{"id":"d{id}","displayName":"d"}}}}"#),
                )
            }
            ("POST", ["storage", "folders", _, "files"]) => {
                count("create");
                state.seen.created.push(Instant::now());
                let id = self.next.fetch_add(1, Ordering::Relaxed);
                (202, String::new(), self.links(&format!("f{id}")))
            }
            ("POST", ["storage", "files", file, "updateContent"]) => {
                count("update");
                state.sizes.remove(*file);
                (202, String::new(), self.links(file))
            }
            ("POST", ["storage", "files", file, "complete"]) => {
                count("complete");
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
                count("run");
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
            ("GET", [.., "runs", run]) => ok(format!(
                r#"{{"run":{{"id":"{run}","state":"Completed","result":"Success","jobs":[]}}}}"#
            )),
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
        self.path.starts_with("/blob/")
    }
}
