//! Runs programs and measures what they need.

use std::ffi::OsString;
use std::io::{Read as _, Seek as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What a program needed from its start to its end.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    pub seconds: f64,
    pub peak_mib: f64,
    /// Processor time, of the daemon only.
    pub processor: f64,
}

/// The middle of several values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A figure of the kernel's about a process, in KiB.
fn status_kib(pid: u32, key: &str) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Processor time of a process so far, in seconds.
pub fn processor_seconds(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: f64 = fields[11..13]
        .iter()
        .map(|ticks| ticks.parse::<f64>().unwrap())
        .sum();
    // The kernel's unit in this file is a hundredth of a second on every common machine.
    ticks / 100.0
}

pub fn peak_mib(pid: u32) -> Option<f64> {
    status_kib(pid, "VmHWM:").map(|kib| kib / 1024.0)
}

/// Threads and open descriptors.
pub fn threads_and_descriptors(pid: u32) -> (usize, usize) {
    let count = |what: &str| {
        let entries = std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap();
        entries.count()
    };
    (count("task"), count("fd"))
}

pub fn resident_mib(pid: u32) -> Option<f64> {
    status_kib(pid, "VmRSS:").map(|kib| kib / 1024.0)
}

/// Whether a program is there to be measured against; says so if it is not.
pub fn installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = Path::new(program).is_file()
        || std::env::split_paths(&paths).any(|folder| folder.join(program).is_file());
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

/// A program that a variable of the environment names; says so if there is none.
pub fn named(variable: &str) -> Option<OsString> {
    let program = std::env::var_os(variable);
    if program.is_none() {
        println!("skipped: {variable} is not set");
    }
    program
}

/// Runs a program to its end, which must be a good one.
pub fn run(command: &mut Command) -> Cost {
    let mut told = tempfile::tempfile().unwrap();
    let began = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(told.try_clone().unwrap())
        .stderr(told.try_clone().unwrap())
        .spawn()
        .unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
    let mut peak = 0.0;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        // None when it has just ended.
        peak = peak_mib(child.id()).unwrap_or(peak);
        std::thread::sleep(Duration::from_millis(2));
    };
    let seconds = began.elapsed().as_secs_f64();
    if !status.success() {
        let mut text = String::new();
        told.rewind().unwrap();
        told.read_to_string(&mut text).unwrap();
        panic!("{:?}: {status}:\n{text}", command.get_program());
    }
    Cost {
        seconds,
        peak_mib: peak,
        processor: f64::NAN,
    }
}

/// The seconds of one request to the daemon's page, which must be answered well.
pub fn get(host: SocketAddr, path: &str) -> f64 {
    let began = Instant::now();
    let mut socket = TcpStream::connect(host).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    let seconds = began.elapsed().as_secs_f64();
    assert!(
        answer.starts_with(b"HTTP/1.1 200 "),
        "{path}: {}",
        String::from_utf8_lossy(&answer)
    );
    seconds
}

/// The daemon on a folder, with its log.
pub struct Daemon {
    child: Child,
    /// Lines as they are written; nobody polls, as that would take a core from what is measured.
    lines: mpsc::Receiver<String>,
    log: Vec<String>,
}

/// A place for a daemon: its configuration, ledger and folder.
pub struct Site {
    pub dir: tempfile::TempDir,
}

impl Site {
    /// `top` and `tables` are keys and tables of the configuration beside the necessary ones.
    pub fn new(api: &str, top: &str, tables: &str) -> Self {
        let dir = tempfile::tempdir_in(crate::scratch()).unwrap();
        std::fs::create_dir(dir.path().join("watched")).unwrap();
        let site = Self { dir };
        let watch = format!(
            "[[watch]]\nname = \"bench\"\npath = {:?}\nimodel_id = \"aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee\"\n",
            site.watched()
        );
        site.configure(api, top, &format!("{tables}\n{watch}"));
        site
    }

    /// Writes the configuration; `tables` has the watches, too.
    pub fn configure(&self, api: &str, top: &str, tables: &str) {
        let text = format!(
            "{top}\n[itwin]\napi_url = {api:?}\nissuer_url = {api:?}\nclient_id = \"service-bench\"\nrequests_per_minute = 1000000\n\
             [state]\npath = {:?}\n{tables}\n",
            self.state()
        );
        std::fs::write(self.dir.path().join("config.toml"), text).unwrap();
    }

    pub fn watched(&self) -> PathBuf {
        self.dir.path().join("watched")
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn start(&self) -> Daemon {
        let mut child = Command::new(env!("CARGO_BIN_EXE_itwin-syncd"))
            .args(["run", "--config"])
            .arg(self.dir.path().join("config.toml"))
            .env("ITWIN_SYNCD_CLIENT_SECRET", "bench")
            .env_remove("NOTIFY_SOCKET")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pipe = child.stderr.take().unwrap();
        let (told, lines) = mpsc::channel();
        std::thread::spawn(move || {
            use std::io::BufRead as _;
            for line in std::io::BufReader::new(pipe).lines().map_while(Result::ok) {
                if told.send(line).is_err() {
                    return;
                }
            }
        });
        Daemon {
            child,
            lines,
            log: Vec::new(),
        }
    }
}

impl Daemon {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until this many lines of the log contain this, and returns the last of them.
    pub fn says(&mut self, text: &str, count: usize) -> String {
        let deadline = Instant::now() + Duration::from_secs(900);
        let mut found = self.log.iter().filter(|line| line.contains(text)).count();
        while found < count {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    found += usize::from(line.contains(text));
                    self.log.push(line);
                }
                Err(error) => panic!("{text:?} does not come ({error}):\n{}", self.log.join("\n")),
            }
        }
        let mut told = self.log.iter().filter(|line| line.contains(text));
        told.nth(count - 1).unwrap().clone()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The number behind `key=` in a line of the log.
pub fn number(line: &str, key: &str) -> f64 {
    let at = line.find(&format!("{key}=")).unwrap() + key.len() + 1;
    let rest: String = line
        .chars()
        .skip(at)
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .collect();
    rest.parse().unwrap()
}
