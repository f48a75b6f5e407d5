//! `itwin-syncd demo`: emulator and daemon in one process, on a temporary folder, and three files saved
//! into it the way editors save. With several nodes, the daemons are processes of their own (`hosts`).

mod found;
mod hosts;
mod node;
mod postgres;

use std::collections::HashMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{EXIT_FAILED, EXIT_GOOD, print_error};
use crate::config::{Config, Environment};
use crate::connector_type::ConnectorType;
use crate::emulator::{self, DEFAULT_CLIENT_ID, DEFAULT_IMODEL_ID, Emulator};
use crate::ledger::{FileReport, JobState, Ledger, Outcome};
use crate::ledger_location::LedgerLocation;
use crate::names::QuotedPath;
use crate::service::{self, Until, signals};
use crate::status_view;
use crate::telemetry;

/// The demo takes about ten seconds; after this it gives up.
const TIMEOUT: Duration = Duration::from_secs(120);

/// How often the ledger is read for progress.
const POLL: Duration = Duration::from_millis(150);

/// How long the slow program takes for each part of its file.
const SLOW: Duration = Duration::from_millis(500);

/// The configuration in the demo's folder.
const CONFIG: &str = "config.toml";

/// At the beginning of a configuration.
const SETTLE: &str = "settle = \"1s\"\n";

/// Lines of a log in the message of a failure.
const TAIL: usize = 20;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Keep running afterwards, to try your own files; press Ctrl-C to stop
    #[arg(long)]
    stay: bool,
    /// Show several hosts with one ledger instead, 2 to 5: two of them are killed in mid work, and no file is missing
    /// or doubled; takes one to two minutes, and needs the programs of PostgreSQL on this machine
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(2..=5))]
    nodes: Option<u8>,
}

/// Why the demo failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot set up the demo")]
    Folder(#[from] std::io::Error),
    #[error(transparent)]
    Emulator(#[from] emulator::Error),
    #[error("invalid demo configuration: {0}")]
    Config(String),
    #[error(transparent)]
    Telemetry(#[from] telemetry::Error),
    #[error(transparent)]
    Service(#[from] service::Error),
    #[error(transparent)]
    Ledger(#[from] crate::ledger::Error),
    #[error("stopped before it was done")]
    Stopped,
    #[error("not done within {} s", .0.as_secs())]
    Late(Duration),
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
    #[error("{name} has ended:\n{log}")]
    Node { name: String, log: String },
}

impl Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Postgres(error) => error.hint(),
            _ => None,
        }
    }
}

pub(super) async fn demo(arguments: &Arguments) -> u8 {
    let stop = CancellationToken::new();
    let shown = match signals::handle(stop.clone()) {
        Ok(()) => match arguments.nodes {
            Some(count) => show_hosts(count, arguments.stay, stop).await,
            None => show(arguments.stay, stop).await,
        },
        Err(error) => Err(error.into()),
    };
    match shown {
        Ok(good) => {
            if good {
                EXIT_GOOD
            } else {
                EXIT_FAILED
            }
        }
        Err(error) => {
            let hint = error.hint();
            print_error(&error, hint);
            EXIT_FAILED
        }
    }
}

async fn show_hosts(count: u8, stay: bool, stop: CancellationToken) -> Result<bool, Error> {
    // The processes of the demo do not end with the terminal by themselves.
    let mut hangups = signals::hangups()?;
    let stopped = async {
        tokio::select! {
            () = stop.cancelled() => {}
            _ = hangups.recv() => {}
        }
    };
    tokio::pin!(stopped);
    let mut hosts = hosts::Hosts::prepare(count).await?;
    let shown = tokio::select! {
        shown = hosts.show(stay) => shown,
        // The regular end with --stay.
        () = &mut stopped => if stay { Ok(true) } else { Err(Error::Stopped) },
    };
    hosts.stop().await;
    shown
}

async fn show(stay: bool, stop: CancellationToken) -> Result<bool, Error> {
    let place = tempfile::Builder::new()
        .prefix("itwin-syncd-demo-")
        .tempdir()?;
    let folder = place.path().join("drop");
    tokio::fs::create_dir(&folder).await?;
    // Random: other users of this machine can reach the emulator.
    let client_secret = Uuid::new_v4().simple().to_string();
    let emulator = Emulator::builder()
        .client(DEFAULT_CLIENT_ID, &client_secret)
        .file_check(true)
        .start()
        .await?;
    let page = free_address();
    let config = config(&place, &folder, (&emulator, &client_secret), page)?;
    let _telemetry = telemetry::start(&config.log)?;
    say(&format!(
        "emulated iTwin Platform at {}",
        emulator.api_url()
    ));
    say(&format!("watching {}", folder.display()));
    say(&format!(
        "status page at http://{page}/ until the demo ends"
    ));

    let state = config.state.path.clone();
    let ended = CancellationToken::new();
    let service = tokio::spawn(service::run(config, Until::Stopped, ended.clone(), None));
    let shown = async {
        let ledger = reader(&state).await?;
        let mut progress = Progress {
            ledger,
            shown: HashMap::new(),
        };
        let good = save_and_follow(&folder, &mut progress).await?;
        if stay {
            say(&format!(
                "\nsave files into {folder} and follow them in a browser:\n\n  http://{page}/\n\nor in another terminal:\n\n  \
                 itwin-syncd status --watch --config {config}\n  \
                 itwin-syncd explain --config {config} {folder}/house.ifc\n\n\
                 press Ctrl-C to stop and delete the folder",
                folder = folder.display(),
                config = place.path().join(CONFIG).display(),
            ));
            loop {
                progress.update().await?;
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(good)
    };
    let mut service = std::pin::pin!(service);
    let shown = tokio::select! {
        shown = shown => shown,
        // The regular end with --stay.
        () = stop.cancelled() => if stay { Ok(true) } else { Err(Error::Stopped) },
        ended = &mut service => return Err(unexpected_end(ended)),
    };
    ended.cancel();
    if let Ok(Err(error)) = service.await {
        return Err(error.into());
    }
    emulator.stop().await;
    shown
}

fn unexpected_end(
    ended: Result<Result<service::Pass, service::Error>, tokio::task::JoinError>,
) -> Error {
    match ended {
        Ok(Ok(_)) => Error::Stopped,
        Ok(Err(error)) => error.into(),
        Err(panic) => service::Error::Panicked(panic.to_string()).into(),
    }
}

/// The demo's configuration, with short times.
fn config(
    place: &TempDir,
    folder: &Path,
    (emulator, client_secret): (&Emulator, &str),
    page: SocketAddr,
) -> Result<Config, Error> {
    let (api, issuer) = (emulator.api_url(), emulator.issuer_url());
    let secret = place.path().join("client-secret");
    let text = format!(
        "{SETTLE}\
         [itwin]\napi_url = \"{api}\"\nissuer_url = \"{issuer}\"\nclient_id = \"{DEFAULT_CLIENT_ID}\"\n\
         client_secret_file = {secret:?}\n\
         [state]\npath = {state:?}\n\
         [log]\nlevel = \"warn\"\n\
         [web]\nlisten = \"{page}\"\n{watch}",
        state = place.path().join("state"),
        watch = watch(folder),
    );
    // On disk, so that the other commands can be tried on it.
    private_file(&secret, client_secret)?;
    std::fs::write(place.path().join(CONFIG), &text)?;
    Config::parse(&text, CONFIG, &Environment::default())
        .map_err(|errors| Error::Config(errors.to_string()))
}

/// At the end of a configuration: times of runs, and the watch.
fn watch(folder: &Path) -> String {
    format!(
        "[sync]\nbatch_window = \"1s\"\npoll_interval = \"500ms\"\npoll_max = \"1s\"\n\
         [[watch]]\nname = \"demo\"\npath = {folder:?}\nimodel_id = \"{DEFAULT_IMODEL_ID}\"\n"
    )
}

/// A free port of this machine.
fn any_address() -> std::io::Result<SocketAddr> {
    std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.len().saturating_sub(TAIL);
    lines.get(last..).unwrap_or_default().join("\n")
}

/// The default address of the page, or a free port if that is in use.
fn free_address() -> SocketAddr {
    let usual = SocketAddr::from(([127, 0, 0, 1], 8291));
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    [usual, any]
        .into_iter()
        .find_map(|address| std::net::TcpListener::bind(address).ok()?.local_addr().ok())
        .unwrap_or(usual)
}

/// Creates a file that only its owner can read.
fn private_file(path: &Path, content: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content.as_bytes())
}

/// Opens the ledger for reading, once the service has created it.
async fn reader(state: &LedgerLocation) -> Result<Ledger, Error> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match Ledger::read(state).await {
            Ok(ledger) => return Ok(ledger),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// Saves the three files, waits until all are done, and prints their results. False if one failed.
async fn save_and_follow(folder: &Path, progress: &mut Progress) -> Result<bool, Error> {
    let began = Instant::now();
    let (dxf, ifc, geojson) = (
        folder.join("bridge.dxf"),
        folder.join("house.ifc"),
        folder.join("site.geojson"),
    );
    say("saving house.ifc as editors do: to a temporary file, then renamed");
    let unfinished = folder.join("~house.tmp");
    tokio::fs::write(&unfinished, IFC).await?;
    tokio::fs::rename(&unfinished, &ifc).await?;
    say("saving site.geojson");
    tokio::fs::write(&geojson, SITE).await?;
    say("saving bridge.dxf slowly, in place");
    let slowly = tokio::spawn(save_slowly(dxf));
    let mut first_run = None;
    loop {
        let files = progress.update().await?;
        let site = files
            .iter()
            .find(|file| file.path == Path::new("site.geojson"));
        match (&first_run, site.filter(|file| is_done(file))) {
            (None, Some(site)) => {
                first_run = Some(site.run.clone());
                say("saving site.geojson again, with one more tree");
                tokio::fs::write(&geojson, SITE_CHANGED).await?;
            }
            (Some(first), Some(site))
                if site.run != *first && files.len() == 3 && files.iter().all(is_done) =>
            {
                if let Ok(Err(error)) = slowly.await {
                    return Err(error.into());
                }
                return Ok(table(&files));
            }
            _ if began.elapsed() > TIMEOUT => return Err(Error::Late(TIMEOUT)),
            _ => tokio::time::sleep(POLL).await,
        }
    }
}

async fn save_slowly(path: PathBuf) -> std::io::Result<()> {
    let mut file = tokio::fs::File::create(path).await?;
    for part in DXF {
        file.write_all(part.as_bytes()).await?;
        file.flush().await?;
        tokio::time::sleep(SLOW).await;
    }
    file.sync_all().await
}

/// Whether a file has a result, good or bad, and no job.
fn is_done(file: &FileReport) -> bool {
    matches!(file.job, None | Some(JobState::Failed)) && file.outcome.is_some()
}

struct Progress {
    ledger: Ledger,
    /// What was printed last for each file.
    shown: HashMap<PathBuf, (Option<JobState>, Option<String>, String)>,
}

impl Progress {
    /// Prints what changed, and returns all files.
    async fn update(&mut self) -> Result<Vec<FileReport>, Error> {
        let files = self.ledger.snapshot(crate::clock::now()).await?.files;
        for file in &files {
            let word = status_view::word(file).to_owned();
            let current = (file.job, file.run.clone(), word.clone());
            if self.shown.get(&file.path) != Some(&current) {
                let reason = file
                    .reason
                    .as_ref()
                    .map(|reason| format!(" ({})", sanitize(reason)))
                    .unwrap_or_default();
                say(&format!("  {:<14} {word}{reason}", shown(&file.path)));
                self.shown.insert(file.path.clone(), current);
            }
        }
        Ok(files)
    }
}

/// Prints the results; false if a file failed.
fn table(files: &[FileReport]) -> bool {
    let row = |cells: [&str; 6]| {
        let [file, connector, storage_file, run, result, seconds] = cells;
        say(&format!(
            "{file:<14} {connector:<11} {storage_file:<13} {run:<13} {result:<13} {seconds:>7}"
        ));
    };
    say("");
    row([
        "file",
        "connector",
        "storage file",
        "run",
        "result",
        "seconds",
    ]);
    for file in files {
        let known = |text: Option<&str>| sanitize(text.unwrap_or_default());
        let seconds = file
            .millis
            .map(|millis| format!("{:.1}", Duration::from_millis(millis).as_secs_f64()));
        row([
            &shown(&file.path),
            &known(file.connector.as_ref().map(ConnectorType::as_str)),
            &short(&known(file.storage_file_id.as_deref())),
            &short(&known(file.run.as_deref())),
            file.outcome.map_or("", Outcome::as_str),
            &seconds.unwrap_or_default(),
        ]);
    }
    let synchronized = files
        .iter()
        .filter(|file| file.outcome == Some(Outcome::Synchronized))
        .count();
    let failed = files.len() - synchronized;
    say(&format!("\n{synchronized} synchronized, {failed} failed"));
    failed == 0
}

/// The end of an id, which differs from those of the others; an empty one as it is.
fn short(id: &str) -> String {
    let count = id.chars().count();
    if count <= 12 {
        return id.to_owned();
    }
    let end: String = id.chars().skip(count - 11).collect();
    format!("…{end}")
}

/// Quotes and escapes text that has characters a terminal would interpret.
fn sanitize(text: &str) -> String {
    let quoted = format!("{text:?}");
    let is_plain = quoted.len() == text.len() + 2;
    if is_plain { text.to_owned() } else { quoted }
}

/// A path, escaped for a terminal.
fn shown(path: &Path) -> String {
    match path.to_str() {
        Some(text) => sanitize(text),
        None => QuotedPath(path).to_string(),
    }
}

/// Prints the progress. If nobody reads it any more, the demo continues to the end, where it removes its files.
fn say(text: &str) {
    drop(writeln!(std::io::stdout().lock(), "{text}"));
}

/// A line from abutment to abutment, in parts.
const DXF: &[&str] = &[
    "0\nSECTION\n2\nHEADER\n9\n$ACADVER\n1\nAC1009\n0\nENDSEC\n",
    "0\nSECTION\n2\nENTITIES\n0\nLINE\n8\nDECK\n",
    "10\n0.0\n20\n0.0\n30\n4.5\n",
    "11\n120.0\n21\n0.0\n31\n4.5\n",
    "0\nENDSEC\n0\nEOF\n",
];

/// A project with a building.
const IFC: &str = "\
ISO-10303-21;
HEADER;
FILE_DESCRIPTION(('ViewDefinition [ReferenceView]'),'2;1');
FILE_NAME('house.ifc','2026-01-01T00:00:00',(''),(''),'','','');
FILE_SCHEMA(('IFC4'));
ENDSEC;
DATA;
#1=IFCDIMENSIONALEXPONENTS(0,0,0,0,0,0,0);
#2=IFCSIUNIT(*,.LENGTHUNIT.,$,.METRE.);
#3=IFCUNITASSIGNMENT((#2));
#4=IFCPROJECT('0YvctVUKr0kugbFTf53O9L',$,'House',$,$,$,$,$,#3);
#5=IFCBUILDING('2FCZDorxHDT8NI01kdXi8P',$,'House',$,$,$,$,$,.ELEMENT.,$,$,$);
#6=IFCRELAGGREGATES('3JuhtbQOLBFuNRXPwFcfeu',$,$,$,#4,(#5));
ENDSEC;
END-ISO-10303-21;
";

/// A site with a tree.
const SITE: &str = r#"{"type":"FeatureCollection","features":[
{"type":"Feature","properties":{"kind":"tree"},"geometry":{"type":"Point","coordinates":[-75.1652,39.9526]}}]}
"#;

/// The same site with another one.
const SITE_CHANGED: &str = r#"{"type":"FeatureCollection","features":[
{"type":"Feature","properties":{"kind":"tree"},"geometry":{"type":"Point","coordinates":[-75.1652,39.9526]}},
{"type":"Feature","properties":{"kind":"tree"},"geometry":{"type":"Point","coordinates":[-75.1649,39.9528]}}]}
"#;
