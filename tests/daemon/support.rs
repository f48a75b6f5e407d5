//! A site to test on: folders, an emulated platform, a configuration, and the program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use itwin_syncd::emulator::{
    Builder, Completed, DEFAULT_IMODEL_ID, Emulator, File, RequestRecord, State,
};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// Nothing that is waited for takes longer, unless it never comes.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// The secret of the emulator's client in every test: a word that stands out.
pub const SECRET: &str = "open+sesame/tiger=";

pub struct Site {
    dir: TempDir,
    pub emulator: Emulator,
    pub watches: String,
    /// Keys at the top of the file, such as `settle`.
    pub top: String,
    /// Whole tables, in place of the defaults for tests.
    pub tables: String,
    pub secret: String,
    pub client_id: String,
    /// Keys of the table `itwin`.
    pub itwin: String,
    /// Where the platform is, if not where the emulator listens.
    pub platform: Option<String>,
}

/// What no output, log or ledger of any test may contain: the secret, as it is and as a form carries it, how every
/// token begins, and the signature of an upload address.
const SECRETS: [&str; 5] = [
    SECRET,
    "open%2Bsesame%2Ftiger%3D",
    "eyJhbGciOi",
    "sig=",
    "Bearer ",
];

fn assert_no_secret(place: &str, bytes: &[u8]) {
    for secret in SECRETS {
        let found = bytes
            .windows(secret.len())
            .any(|window| window == secret.as_bytes());
        assert!(
            !found,
            "{place} contains {secret:?}: {}",
            String::from_utf8_lossy(bytes)
        );
    }
}

/// Looks for secrets in all that a test leaves behind.
impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for folder in ["state", "log"] {
            for entry in std::fs::read_dir(self.path(folder)).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    assert_no_secret(&format!("{path:?}"), &std::fs::read(&path).unwrap());
                }
            }
        }
    }
}

/// An emulator for tests: short runs.
pub fn platform() -> Builder {
    Emulator::builder()
        .client("service-test", SECRET)
        .run_duration(Duration::from_millis(300))
}

impl Site {
    pub async fn new(builder: Builder) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            emulator: builder.start().await.unwrap(),
            watches: String::new(),
            top: "settle = \"300ms\"\npoll_interval = \"1s\"\n".to_owned(),
            tables: "[sync]\nbatch_window = \"300ms\"\npoll_interval = \"100ms\"\npoll_max = \"200ms\"\n\
                     [retry]\nfirst_delay = \"200ms\"\nmax_delay = \"2s\"\n"
                .to_owned(),
            secret: SECRET.to_owned(),
            client_id: "service-test".to_owned(),
            itwin: String::new(),
            platform: None,
        }
    }

    /// A site with one watch, and its folder.
    pub async fn with_folder(builder: Builder) -> (Self, PathBuf) {
        let mut site = Self::new(builder).await;
        let folder = site.watch("north", DEFAULT_IMODEL_ID, "");
        (site, folder)
    }

    /// Makes a folder and watches it; `keys` are more keys of the watch.
    pub fn watch(&mut self, name: &str, imodel_id: &str, keys: &str) -> PathBuf {
        let folder = self.path(name);
        std::fs::create_dir(&folder).unwrap();
        self.watches += &format!(
            "[[watch]]\nname = {name:?}\npath = {folder:?}\nimodel_id = {imodel_id:?}\n{keys}\n"
        );
        folder
    }

    pub fn replace_in_watches(&mut self, from: &str, to: &str) {
        self.watches = self.watches.replace(from, to);
    }

    /// Appends to the last watch.
    pub fn add_to_watches(&mut self, keys: &str) {
        self.watches += keys;
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Writes the configuration file.
    pub fn config(&self) -> PathBuf {
        let platform = self.platform.as_deref();
        let api = platform.unwrap_or(self.emulator.api_url());
        let issuer = platform.unwrap_or(self.emulator.issuer_url());
        let state = self.path("state");
        let text = format!(
            "{}[itwin]\napi_url = {api:?}\nissuer_url = {issuer:?}\nclient_id = {:?}\n{}\
             [state]\npath = {state:?}\n{}{}",
            self.top, self.client_id, self.itwin, self.tables, self.watches
        );
        let path = self.path("config.toml");
        // A daemon that starts must not read half of it.
        let unfinished = tempfile::NamedTempFile::new_in(self.dir.path()).unwrap();
        std::fs::write(unfinished.path(), text).unwrap();
        unfinished.persist(&path).unwrap();
        path
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        // Some commands have commands of their own.
        let words = if ["alert", "ledger"].contains(&arguments[0]) {
            2
        } else {
            1
        };
        command
            .args(&arguments[..words])
            .arg("--config")
            .arg(self.config())
            .args(&arguments[words..])
            .env("ITWIN_SYNCD_CLIENT_SECRET", &self.secret);
        command
    }

    /// A command as messages name it.
    pub fn hinted(&self, words: &str) -> String {
        let config = self.path("config.toml");
        format!("itwin-syncd {words} --config {}", config.display())
    }

    /// Runs a command to its end.
    pub async fn run(&self, arguments: &[&str]) -> Finished {
        let output = tokio::time::timeout(PATIENCE, self.command(arguments).output()).await;
        Finished::from(output.expect("the command should end").unwrap())
    }

    /// Starts the daemon.
    pub fn start(&self) -> Daemon {
        self.start_with(&[])
    }

    /// Starts the daemon with more in its environment.
    pub fn start_with(&self, environment: &[(&str, &str)]) -> Daemon {
        let mut command = self.command(&["run"]);
        command.envs(environment.iter().copied());
        Self::started(command)
    }

    /// A command on another host with the same configuration, as far as a state directory of its own makes one.
    pub fn command_on(&self, host: &str, arguments: &[&str]) -> Command {
        let text = std::fs::read_to_string(self.config()).unwrap();
        let state = format!("path = {:?}", self.path("state"));
        let text = text.replace(&state, &format!("path = {:?}", self.path(host)));
        let path = self.path(&format!("{host}.toml"));
        let unfinished = tempfile::NamedTempFile::new_in(self.dir.path()).unwrap();
        std::fs::write(unfinished.path(), text).unwrap();
        unfinished.persist(&path).unwrap();
        let mut command = program();
        command
            .args(&arguments[..1])
            .arg("--config")
            .arg(path)
            .args(&arguments[1..])
            .env("ITWIN_SYNCD_CLIENT_SECRET", &self.secret);
        command
    }

    /// Runs a command on another host.
    pub async fn run_on(&self, host: &str, arguments: &[&str]) -> Finished {
        let output =
            tokio::time::timeout(PATIENCE, self.command_on(host, arguments).output()).await;
        Finished::from(output.expect("the command should end").unwrap())
    }

    /// Starts the daemon on another host.
    pub fn start_on(&self, host: &str, environment: &[(&str, &str)]) -> Daemon {
        let mut command = self.command_on(host, &["run"]);
        command.envs(environment.iter().copied());
        Self::started(command)
    }

    /// Starts the daemon on another host by way of another program.
    pub fn start_on_under(&self, host: &str, words: &[&str]) -> Daemon {
        let inner = self.command_on(host, &["run"]);
        let inner = inner.as_std();
        let mut command = program_of(words[0]);
        command
            .args(&words[1..])
            .arg(inner.get_program())
            .args(inner.get_args());
        command.env("ITWIN_SYNCD_CLIENT_SECRET", &self.secret);
        Self::started(command)
    }

    /// Starts the daemon by way of another program.
    pub fn start_under(&self, words: &[&str]) -> Daemon {
        let inner = self.command(&["run"]);
        let inner = inner.as_std();
        let mut command = program_of(words[0]);
        command
            .args(&words[1..])
            .arg(inner.get_program())
            .args(inner.get_args());
        command.env("ITWIN_SYNCD_CLIENT_SECRET", &self.secret);
        Self::started(command)
    }

    /// A command that runs on, as the daemon does.
    pub fn started(mut command: Command) -> Daemon {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let printed = Arc::clone(&log);
        let reader = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                *printed.lock().unwrap() += &format!("{line}\n");
            }
        });
        Daemon {
            child,
            log,
            reader,
            seen: AtomicUsize::new(0),
        }
    }

    /// What `status --json --all` says of every file: `watch/path` to the object.
    pub async fn status(&self) -> BTreeMap<String, serde_json::Value> {
        let printed = self.run(&["status", "--json", "--all"]).await;
        if printed.err.contains("no ledger in") {
            return BTreeMap::new();
        }
        let printed: serde_json::Value =
            serde_json::from_str(&printed.out).unwrap_or_else(|_| panic!("{printed:?}"));
        let files = printed["files"].as_array().unwrap();
        let named = |file: &serde_json::Value| {
            let text = |key: &str| file[key].as_str().unwrap_or_default().to_owned();
            format!("{}/{}", text("watch"), text("path"))
        };
        files
            .iter()
            .map(|file| (named(file), file.clone()))
            .collect()
    }

    /// Waits until `status` shows this text.
    pub async fn shows(&self, text: &str, daemon: &Daemon) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let shown = self.run(&["status"]).await.out;
            if shown.contains(text) {
                return;
            }
            assert!(Instant::now() < deadline, "{shown}\n{}", daemon.log());
            daemon.logs_more().await;
        }
    }

    /// Waits until `count` files are synchronized and nothing else is in progress.
    pub async fn synchronized(&self, count: usize, daemon: &Daemon) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let files = self.status().await;
            let done = files
                .values()
                .filter(|file| file["state"] == "done" && file["result"] == "synchronized")
                .count();
            if done == count && files.len() == count {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{done} of {count} synchronized: {files:#?}\n{}",
                daemon.log()
            );
            daemon.logs_more().await;
        }
    }

    /// Whether storage holds this content of each path. Until it does, a file can still count as synchronized with what
    /// it held before, because its change has not been noticed.
    pub fn holds(&self, files: &BTreeMap<String, String>) -> bool {
        let state = self.emulator.state();
        files.iter().all(|(path, content)| {
            let sha256 = sha256(content.as_bytes());
            state.files.values().any(|file| {
                let completed = file.completed.as_ref();
                file.path == *path && completed.is_some_and(|completed| completed.sha256 == sha256)
            })
        })
    }

    /// The storage file of this path, which must be the only one.
    pub fn stored(&self, path: &str) -> File {
        let state = self.emulator.state();
        let mut found = state
            .files
            .values()
            .filter(|file| file.path == path && !file.deleted);
        let file = found
            .next()
            .unwrap_or_else(|| panic!("{path} is not in storage: {state:#?}"));
        assert!(found.next().is_none(), "{path} is in storage twice");
        file.clone()
    }

    /// The requests whose method and path contain these words in this order.
    pub fn requests(&self, method: &str, words: &str) -> Vec<RequestRecord> {
        let mut requests = self.emulator.requests();
        requests.retain(|request| {
            request.method == method && request.path.to_lowercase().ends_with(&words.to_lowercase())
        });
        requests
    }
}

/// The program, with nothing of this process's environment that it reads.
pub fn program() -> Command {
    program_of(env!("CARGO_BIN_EXE_itwin-syncd"))
}

pub fn program_of(path: &str) -> Command {
    let mut command = Command::new(path);
    command
        .kill_on_drop(true)
        .env_remove("STATE_DIRECTORY")
        .env_remove("CREDENTIALS_DIRECTORY")
        .env_remove("NOTIFY_SOCKET")
        .env_remove("JOURNAL_STREAM")
        .env_remove("ITWIN_SYNCD_CLIENT_SECRET")
        .env_remove("ITWIN_SYNCD_CONFIG")
        .env("ITWIN_SYNCD_MACHINE", "test")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        assert_no_secret("the output", &output.stdout);
        assert_no_secret("the output", &output.stderr);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

pub struct Daemon {
    child: Child,
    log: Arc<Mutex<String>>,
    reader: tokio::task::JoinHandle<()>,
    /// The length of the log when `logs_more` last returned.
    seen: AtomicUsize,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_no_secret("the log", self.log().as_bytes());
        }
    }
}

impl Daemon {
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until the log has this text.
    pub async fn says(&self, text: &str) {
        eventually(
            || self.log().contains(text),
            || format!("{text:?} is not in the log:\n{}", self.log()),
        )
        .await;
    }

    /// Waits until the log is longer than at the last call, but no longer than half a second: the pause between two
    /// reads of the status, each of which takes a process. Nearly all that changes it is in the log.
    pub async fn logs_more(&self) {
        let deadline = Instant::now() + Duration::from_millis(500);
        let length = || self.log.lock().unwrap().len();
        loop {
            tokio::time::sleep(Duration::from_millis(40)).await;
            let length = length();
            let seen = self.seen.swap(length, Ordering::Relaxed);
            if length > seen || Instant::now() > deadline {
                return;
            }
        }
    }

    /// SIGKILL.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Waits for the end, but no longer than this; whether it came.
    pub async fn ends_within(&mut self, patience: Duration) -> bool {
        let ended = tokio::time::timeout(patience, self.child.wait()).await;
        ended.is_ok()
    }

    /// SIGKILL; how the process ended, which may have been before, and the whole log.
    pub async fn killed(mut self) -> (ExitStatus, String) {
        // Fails only if it has ended by itself.
        drop(self.child.start_kill());
        self.ended().await
    }

    /// The most memory that the process ever had, in bytes, without its program file: that of a test build is large.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let value = |name: &str| {
            let found = status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
            found.expect("the kernel should know") * 1024
        };
        value("VmHWM:") - value("RssFile:")
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("the daemon should live")
    }

    pub fn signal(&self, name: &str) {
        let pid = self.pid();
        let sent = std::process::Command::new("kill")
            .args([format!("-{name}"), pid.to_string()])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Waits for the end, and kills it if it does not come.
    #[cfg(feature = "failpoints")]
    pub async fn ended_by_itself_within(mut self, patience: Duration) -> bool {
        if tokio::time::timeout(patience, self.child.wait())
            .await
            .is_ok()
        {
            return true;
        }
        self.kill().await;
        false
    }

    /// Whether it ends by itself. It has time until `is_done`, and at least `at_least`; then it is killed.
    #[cfg(feature = "failpoints")]
    pub async fn ended_by_itself_before(
        mut self,
        at_least: Duration,
        is_done: impl AsyncFn() -> bool,
    ) -> bool {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let ended = tokio::time::timeout(Duration::from_millis(500), self.child.wait());
            if ended.await.is_ok() {
                return true;
            }
            if began.elapsed() > at_least && is_done().await {
                break;
            }
        }
        self.kill().await;
        false
    }

    /// SIGTERM; the exit status and the whole log.
    pub async fn stop(self) -> (ExitStatus, String) {
        self.signal("TERM");
        self.ended().await
    }

    /// Waits for the end.
    pub async fn ended(mut self) -> (ExitStatus, String) {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = status
            .unwrap_or_else(|_| panic!("still running:\n{}", self.log()))
            .unwrap();
        (&mut self.reader).await.unwrap();
        (status, self.log())
    }
}

/// Whether a process was stopped, and not continued yet.
pub fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.starts_with('T')
}

/// Waits for a condition.
pub async fn eventually(condition: impl Fn() -> bool, otherwise: impl Fn() -> String) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{}", otherwise());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// A small file with a content of its own.
pub fn write(path: &Path, content: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// What holds after any trouble: each local file is in storage once, whole and latest, mapped once, and covered by a
/// good run that was requested after its completion.
pub fn assert_in_imodel(state: &State, files: &BTreeMap<String, String>) {
    let live: Vec<&File> = state.files.values().filter(|file| !file.deleted).collect();
    assert_eq!(live.len(), files.len(), "storage files: {live:#?}");
    for (path, content) in files {
        let named: Vec<_> = live.iter().filter(|file| file.path == *path).collect();
        assert_eq!(named.len(), 1, "{path}: {named:#?}");
        let completed: &Completed = named[0].completed.as_ref().unwrap();
        assert_eq!(completed.sha256, sha256(content.as_bytes()), "{path}");
        let mapped = state
            .connections
            .values()
            .flat_map(|connection| &connection.source_files)
            .filter(|source| source.storage_file_id == named[0].id)
            .count();
        assert_eq!(mapped, 1, "{path} is mapped {mapped} times");
        let covered = state
            .runs
            .values()
            .filter(|run| run.requested_at >= completed.completed_at)
            .flat_map(|run| &run.covered)
            .any(|file| {
                file.storage_file_id == named[0].id
                    && file.version == completed.version
                    && file.result == "Success"
            });
        assert!(
            covered,
            "{path} has no good run after its completion: {:#?}",
            state.runs
        );
    }
    let mut imodels: Vec<_> = state
        .connections
        .values()
        .map(|one| &one.imodel_id)
        .collect();
    let count = imodels.len();
    imodels.sort();
    imodels.dedup();
    assert_eq!(
        imodels.len(),
        count,
        "an iModel has two connections: {:#?}",
        state.connections
    );
}
