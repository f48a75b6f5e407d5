//! `demo --nodes`: several hosts with one ledger, each a process of its own. Two are killed in mid work.
//!
//! Each signs in as an application of its own, so that the emulated platform records who has uploaded what. The table
//! at the end has nothing but such records and what the ledger says.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use super::found::Found;
use super::node::Node;
use super::postgres::Server;
use super::{CONFIG, Error, POLL, SETTLE, any_address, private_file, reader, say, watch};
use crate::config::{Config, Environment};
use crate::emulator::{Emulator, Fault};
use crate::ledger::{JobState, Ledger, Lists, NodeReport, Outcome};
use crate::ledger_location::LedgerLocation;
use crate::text::plural;

/// Files that are saved into the folder.
const FILES: usize = 90;

/// Between two of them.
const PAUSE: Duration = Duration::from_millis(60);

/// How long the platform takes for the content of a file, so that all hosts have uploads in hand when two are killed.
const TRANSFER: Duration = Duration::from_millis(500);

/// Between the kill of a standby and that of the active node.
const BETWEEN_KILLS: Duration = Duration::from_secs(2);

/// When systemd starts a process again that has failed.
const RESTART: Duration = Duration::from_secs(10);

/// All of it takes one to two minutes; after this it gives up.
pub(super) const TIMEOUT: Duration = Duration::from_secs(300);

/// Between two lines about the progress.
const REPORT: Duration = Duration::from_secs(5);

/// No list of a report is needed, only its nodes.
const NO_LISTS: Lists = Lists {
    files: 0,
    groups: 0,
    results: 0,
    runs: 0,
};

/// All of it; what is dropped here ends or is deleted.
pub(super) struct Hosts {
    nodes: Vec<Node>,
    emulator: Emulator,
    server: Server,
    /// The folder that all nodes watch.
    shared: PathBuf,
    began: Instant,
    /// It has the folders.
    place: TempDir,
}

impl Hosts {
    /// Starts the database server and the platform, and prepares the nodes.
    pub(super) async fn prepare(count: u8) -> Result<Self, Error> {
        let place = tempfile::Builder::new()
            .prefix("itwin-syncd-demo-")
            .tempdir()?;
        let shared = place.path().join("drop");
        tokio::fs::create_dir(&shared).await?;
        say("starting a PostgreSQL server for the ledger of all nodes");
        let server = Server::start().await?;
        let names: Vec<(String, String)> = (1..=count)
            .map(|number| {
                let secret = Uuid::new_v4().simple().to_string();
                (format!("node{number}"), secret)
            })
            .collect();
        let builder = names.iter().fold(
            Emulator::builder().file_check(true),
            |builder, (name, secret)| builder.client(name, secret),
        );
        let emulator = match builder.start().await {
            Ok(emulator) => emulator,
            Err(error) => {
                server.stop().await;
                return Err(error.into());
            }
        };
        emulator.fault(Fault::on("PUT /emulated/*").latency(TRANSFER));
        let mut hosts = Self {
            nodes: Vec::new(),
            emulator,
            server,
            shared,
            began: Instant::now(),
            place,
        };
        for (name, secret) in names {
            let folder = hosts.place.path().join(&name);
            match hosts.node(name, folder, &secret) {
                Ok(node) => hosts.nodes.push(node),
                Err(error) => {
                    hosts.stop().await;
                    return Err(error);
                }
            }
        }
        say(&format!(
            "emulated iTwin Platform at {}; each node signs in there as an application of its own",
            hosts.emulator.api_url()
        ));
        say(&format!("folder of all nodes: {}", hosts.shared.display()));
        Ok(hosts)
    }

    /// Writes the configuration of a node.
    fn node(&self, name: String, folder: PathBuf, secret: &str) -> Result<Node, Error> {
        std::fs::create_dir(&folder)?;
        let (client, password) = (folder.join("client-secret"), folder.join("ledger-password"));
        private_file(&client, secret)?;
        private_file(&password, self.server.password())?;
        let page = any_address()?;
        let text = format!(
            "{SETTLE}\
             [itwin]\napi_url = \"{api}\"\nissuer_url = \"{issuer}\"\nclient_id = \"{name}\"\n\
             client_secret_file = {client:?}\n\
             [state]\npath = {state:?}\nurl = \"{url}\"\npassword_file = {password:?}\n\
             [upload]\nworkers = 2\n\
             [web]\nlisten = \"{page}\"\n{watch}",
            api = self.emulator.api_url(),
            issuer = self.emulator.issuer_url(),
            state = folder.join("state"),
            url = self.server.url(),
            watch = watch(&self.shared),
        );
        std::fs::write(folder.join(CONFIG), text)?;
        Ok(Node {
            name,
            folder,
            page,
            process: None,
            role: "standby",
            killed: "no".to_owned(),
        })
    }

    /// Shows it. False if a file is missing or doubled.
    pub(super) async fn show(&mut self, stay: bool) -> Result<bool, Error> {
        let ledger = self.start_all().await?;
        let (saving, files) = self.save_files();
        let good = self.kill_and_follow(&ledger, &files).await?;
        if let Ok(Err(error)) = saving.await {
            return Err(error.into());
        }
        if stay {
            self.explain_stay();
            loop {
                self.look_at_processes()?;
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(good)
    }

    async fn start_all(&mut self) -> Result<Ledger, Error> {
        self.start(0)?;
        let ledger = reader(&self.location()?).await?;
        self.until(&ledger, |nodes| active(nodes).is_some()).await?;
        for index in 1..self.nodes.len() {
            self.start(index)?;
        }
        let count = self.nodes.len();
        self.until(&ledger, |nodes| nodes.len() == count).await?;
        if let Some(first) = self.nodes.first_mut() {
            first.role = "active";
        }
        let (first, others) = self.nodes.split_at(1);
        let others: Vec<&str> = others.iter().map(|node| node.name.as_str()).collect();
        let first = first.first().map_or("", |node| node.name.as_str());
        say(&format!(
            "active: {first}; standby: {}; all of them upload",
            others.join(", ")
        ));
        for node in &self.nodes {
            say(&format!("  page of {}: http://{}/", node.name, node.page));
        }
        Ok(ledger)
    }

    fn start(&mut self, index: usize) -> Result<(), Error> {
        match self.nodes.get_mut(index) {
            Some(node) => node.start(),
            None => Ok(()),
        }
    }

    /// Where the nodes have the ledger.
    fn location(&self) -> Result<LedgerLocation, Error> {
        let file = self.nodes.first().map(|node| node.folder.join(CONFIG));
        let file = file.unwrap_or_default();
        let text = std::fs::read_to_string(&file)?;
        let name = file.display().to_string();
        let config = Config::parse(&text, &name, &Environment::default())
            .map_err(|errors| Error::Config(errors.to_string()))?;
        Ok(config.state.path)
    }

    /// Waits until the ledger says this of the nodes.
    async fn until(
        &mut self,
        ledger: &Ledger,
        is_so: impl Fn(&[NodeReport]) -> bool,
    ) -> Result<(), Error> {
        loop {
            self.look_at_processes()?;
            if is_so(&nodes(ledger).await?) {
                return Ok(());
            }
            if self.began.elapsed() > TIMEOUT {
                return Err(Error::Late(TIMEOUT));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// A process that ends by itself is a failure.
    fn look_at_processes(&mut self) -> Result<(), Error> {
        for node in &mut self.nodes {
            node.check()?;
        }
        Ok(())
    }

    /// Begins to save the files. Returns them with the digests of their contents as well.
    fn save_files(&self) -> (JoinHandle<std::io::Result<()>>, BTreeMap<String, String>) {
        say(&format!(
            "saving {FILES} files, one each {} ms",
            PAUSE.as_millis()
        ));
        let contents: Vec<(String, String)> = (1..=FILES)
            .map(|number| (format!("tree-{number:02}.geojson"), tree(number)))
            .collect();
        let digests = contents.iter().map(|(name, content)| {
            let mut digest = String::new();
            for byte in Sha256::digest(content) {
                // Writing into a text does not fail.
                write!(digest, "{byte:02x}").ok();
            }
            (name.clone(), digest)
        });
        let digests = digests.collect();
        let folder = self.shared.clone();
        let saving = tokio::spawn(async move {
            for (name, content) in contents {
                tokio::fs::write(folder.join(name), content).await?;
                tokio::time::sleep(PAUSE).await;
            }
            Ok(())
        });
        (saving, digests)
    }

    /// Kills a standby and the active node in mid work, and waits for all files. False if one is missing or doubled.
    async fn kill_and_follow(
        &mut self,
        ledger: &Ledger,
        files: &BTreeMap<String, String>,
    ) -> Result<bool, Error> {
        let began = Instant::now();
        let last = self.nodes.len() - 1;
        let mut reported = Instant::now();
        let (mut standby_killed, mut active_killed) = (None, None);
        let mut has_successor = false;
        loop {
            self.look_at_processes()?;
            let now = nodes(ledger).await?;
            let found = Found::of(&self.emulator.state(), files);
            let (of_active, of_standby) = (self.uploads(&now, 0), self.uploads(&now, last));
            match standby_killed {
                None if found.stored >= FILES / 8 && of_standby > 0 => {
                    self.kill(last, of_standby, began).await;
                    standby_killed = Some(Instant::now());
                }
                Some(at) if self.is_dead(last) && at.elapsed() >= RESTART => {
                    self.start(last)?;
                    let name = self.name(last);
                    say(&format!(
                        "{} {name} started again, as systemd would do it",
                        time(began)
                    ));
                    self.note(last, ", started again");
                }
                _ => {}
            }
            if active_killed.is_none()
                && standby_killed.is_some_and(|at: Instant| at.elapsed() >= BETWEEN_KILLS)
                && found.stored >= FILES / 3
                && of_active > 0
            {
                self.kill(0, of_active, began).await;
                active_killed = Some(Instant::now());
            }
            if let (Some(killed), Some(node), false) = (active_killed, active(&now), has_successor)
                && node.host != self.name(0)
            {
                has_successor = true;
                say(&format!(
                    "{} {} is active now, {:.0} s after the kill",
                    time(began),
                    node.host,
                    killed.elapsed().as_secs_f64()
                ));
                for own in &mut self.nodes {
                    if own.name == node.host {
                        own.role = "standby, then active";
                    }
                }
            }
            if reported.elapsed() >= REPORT {
                reported = Instant::now();
                say(&progress(&found, began));
            }
            let is_over = found.covered == files.len() && has_successor && !self.is_dead(last);
            if is_over && self.rest(ledger, files.len()).await? {
                say(&progress(&found, began));
                return self.table(ledger, files).await;
            }
            if began.elapsed() > TIMEOUT {
                say(&progress(&found, began));
                self.table(ledger, files).await?;
                return Err(Error::Late(TIMEOUT));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn name(&self, index: usize) -> String {
        let node = self.nodes.get(index);
        node.map(|node| node.name.clone()).unwrap_or_default()
    }

    /// How many uploads a node has in hand, as the ledger says.
    fn uploads(&self, now: &[NodeReport], index: usize) -> u64 {
        let name = self.name(index);
        let mut nodes = now.iter().filter(|node| node.host == name);
        nodes.next().map_or(0, |node| node.uploads)
    }

    fn is_dead(&self, index: usize) -> bool {
        let node = self.nodes.get(index);
        node.is_some_and(|node| node.process.is_none())
    }

    fn note(&mut self, index: usize, what: &str) {
        if let Some(node) = self.nodes.get_mut(index) {
            node.killed.push_str(what);
        }
    }

    /// Kills the process of a node, as if its power failed.
    async fn kill(&mut self, index: usize, uploads: u64, began: Instant) {
        let Some(node) = self.nodes.get_mut(index) else {
            return;
        };
        if let Some(mut process) = node.process.take() {
            process.kill().await.ok();
        }
        node.killed = format!("SIGKILL after {:.0} s", began.elapsed().as_secs_f64());
        say(&format!(
            "{} SIGKILL for {} ({}), which has {} in hand",
            time(began),
            node.name,
            node.role,
            plural(uploads, "upload", "uploads")
        ));
    }

    /// Whether the ledger has a good result for each file, and nothing to do.
    async fn rest(&self, ledger: &Ledger, files: usize) -> Result<bool, Error> {
        let found = ledger.snapshot(crate::clock::now()).await?.files;
        Ok(found.len() == files
            && found
                .iter()
                .all(|file| file.job.is_none() && file.outcome == Some(Outcome::Synchronized)))
    }

    /// Prints what the platform has. False if a file is missing or doubled.
    async fn table(
        &self,
        ledger: &Ledger,
        files: &BTreeMap<String, String>,
    ) -> Result<bool, Error> {
        let found = Found::of(&self.emulator.state(), files);
        let row = |cells: [&str; 4]| {
            let [node, role, killed, uploaded] = cells;
            say(&format!("{node:<7} {role:<21} {killed:<33} {uploaded:>14}"));
        };
        say("");
        row(["node", "role", "killed", "files uploaded"]);
        for node in &self.nodes {
            let uploaded = found.by_node.get(&node.name).copied().unwrap_or(0);
            row([&node.name, node.role, &node.killed, &uploaded.to_string()]);
        }
        let files_in_ledger = ledger.snapshot(crate::clock::now()).await?.files;
        let failed = files_in_ledger
            .iter()
            .filter(|file| file.job == Some(JobState::Failed));
        let dropped = files.len();
        say(&format!(
            "\n{dropped} dropped, {} in storage, {} covered by a run, {} missing, {} doubled, {} failed, {} sent again",
            found.stored,
            found.covered,
            dropped - found.covered,
            found.doubled,
            failed.count(),
            found.again,
        ));
        Ok(found.is_good(dropped))
    }

    fn explain_stay(&self) {
        let running = self.nodes.iter().find(|node| node.process.is_some());
        let config = running.map(|node| node.folder.join(CONFIG));
        say(&format!(
            "\nsave files into {}, and follow them on the pages above or in another terminal:\n\n  \
             itwin-syncd status --watch --config {}\n\npress Ctrl-C to stop and delete everything",
            self.shared.display(),
            config.unwrap_or_default().display()
        ));
    }

    /// Ends all processes, and deletes the folders.
    pub(super) async fn stop(self) {
        for node in self.nodes {
            if let Some(mut process) = node.process {
                process.kill().await.ok();
            }
        }
        self.emulator.stop().await;
        self.server.stop().await;
    }
}

/// The hosts that share the ledger, as it says.
async fn nodes(ledger: &Ledger) -> Result<Vec<NodeReport>, Error> {
    Ok(ledger.overview(NO_LISTS, crate::clock::now()).await?.nodes)
}

fn active(nodes: &[NodeReport]) -> Option<&NodeReport> {
    nodes.iter().find(|node| node.active)
}

fn progress(found: &Found, began: Instant) -> String {
    format!(
        "{} {} in storage, {} in the iModel",
        time(began),
        plural(found.stored as u64, "file", "files"),
        found.covered
    )
}

fn time(began: Instant) -> String {
    format!("{:>5.1} s ", began.elapsed().as_secs_f64())
}

/// A site with one tree, at a place of its own.
fn tree(number: usize) -> String {
    format!(
        "{{\"type\":\"FeatureCollection\",\"features\":[\n{{\"type\":\"Feature\",\"properties\":{{\"kind\":\"tree\"}},\
         \"geometry\":{{\"type\":\"Point\",\"coordinates\":[-75.16{number:02},39.9526]}}}}]}}\n"
    )
}
