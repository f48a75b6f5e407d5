//! Random sequences of what we and another client do to the same files, connection and storage, then calm: whatever
//! status then calls synchronized was read by a run after its last completion, with our content, and nothing else is.
//!
//! By hand for longer: `TOGETHER_SEQUENCES=500`; `TOGETHER_SEED=…` repeats one sequence.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt as _;
use itwin_syncd::emulator::{DEFAULT_IMODEL_ID, State, Switches, UnchangedTask};
use tokio::time::Instant;

use super::other_client::{OtherClient, shared_platform};
use super::support::{Site, sha256};

const NAMES: [&str; 4] = ["a.ifc", "b.ifc", "in/c.ifc", "in/d.ifc"];

/// Acts of one sequence.
const ACTS: usize = 12;

/// Sequences of every run of the tests, and how many of them at once.
const SEQUENCES: u64 = 20;
const AT_ONCE: usize = 4;

struct World<'s> {
    site: &'s Site,
    folder: &'s Path,
    other_client: OtherClient<'s>,
    chance: fastrand::Rng,
    local: BTreeMap<&'static str, String>,
    /// What was done, for the report.
    done: Vec<String>,
}

impl World<'_> {
    /// The storage file of a name, if it is there.
    fn stored(&self, name: &str) -> Option<String> {
        let state = self.site.emulator.state();
        let mut files = state.files.values();
        let file =
            files.find(|file| file.path == name && !file.deleted && file.completed.is_some());
        file.map(|file| file.id.clone())
    }

    async fn act(&mut self) {
        let name = NAMES[self.chance.usize(0..NAMES.len())];
        let content = format!("{:08x}", self.chance.u32(..));
        let stored = self.stored(name);
        let what = self.chance.u32(0..15);
        let did = match (what, stored) {
            (0..=3, _) => {
                let path = self.folder.join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, &content).unwrap();
                self.local.insert(name, content);
                "saved by us"
            }
            (4, _) if self.local.contains_key(name) && self.local.len() > 1 => {
                std::fs::remove_file(self.folder.join(name)).unwrap();
                self.local.remove(name);
                "deleted by us"
            }
            (5, Some(id)) if self.other_client.unmaps(&id).await => "unmapped",
            (6, Some(id)) if self.other_client.remaps(&id, &id, "DWG").await => "another connector",
            (7, Some(id)) => {
                let theirs = self.other_client.stores(&content).await;
                if !self.other_client.remaps(&id, &theirs, "IFC").await {
                    return;
                }
                "another storage file"
            }
            (8, _) if self.other_client.deletes_the_connection().await => "connection deleted",
            (9, Some(id)) if self.other_client.deletes_the_storage_file(&id).await => {
                "storage file deleted"
            }
            // Of another size: an upload of ours at the same time may complete theirs, as a storage file has one
            // address, and then nothing but the size tells them apart.
            (10 | 11, Some(id))
                if self
                    .other_client
                    .overwrites(&id, &format!("{content} of another client"))
                    .await =>
            {
                "foreign content"
            }
            (12, _) => {
                let connection = self.other_client.connection();
                match connection {
                    Some(connection) if self.other_client.runs(&connection).await => "run of ours",
                    _ => return,
                }
            }
            (13, _) => {
                let theirs = self.other_client.stores(&content).await;
                let name = ["itwin-syncd", "theirs"][self.chance.usize(0..2)];
                let Some(connection) = self.other_client.connects(name, &theirs).await else {
                    return;
                };
                self.other_client.runs(&connection).await;
                "foreign connection and run"
            }
            (14, _) if self.other_client.changes_the_authentication().await => "authentication",
            _ => return,
        };
        self.done.push(format!("{name}: {did}"));
    }
}

/// What is wrong now, if anything is.
fn judge(
    state: &State,
    local: &BTreeMap<&'static str, String>,
    status: &BTreeMap<String, serde_json::Value>,
) -> Result<(), String> {
    for (path, file) in status {
        let name = path.strip_prefix("north/").unwrap_or(path);
        let synchronized = file["state"] == "done"
            && ["synchronized", "unchanged", "renamed"]
                .contains(&file["status"].as_str().unwrap_or_default());
        let Some(content) = local.get(name) else {
            if synchronized {
                return Err(format!(
                    "{name} is gone, and status calls it {}",
                    file["status"]
                ));
            }
            continue;
        };
        if !synchronized {
            return Err(format!("{name} is not synchronized: {file}"));
        }
        let id = file["storage_file_id"].as_str().unwrap_or_default();
        let Some(stored) = state.files.get(id).filter(|stored| !stored.deleted) else {
            return Err(format!("{name}: no storage file {id}"));
        };
        let completed = stored.completed.as_ref().ok_or("not completed")?;
        if completed.sha256 != sha256(content.as_bytes()) {
            return Err(format!("{name}: storage holds other content"));
        }
        let covered = state.runs.values().any(|run| {
            run.requested_at >= completed.completed_at
                && run.state == "Completed"
                && run.covered.iter().any(|covered| {
                    covered.storage_file_id == id
                        && covered.version == completed.version
                        && covered.result == "Success"
                        && covered.connector_type == "IFC"
                })
        });
        if !covered {
            return Err(format!("{name}: no run read version {}", completed.version));
        }
        let mapped = state
            .connections
            .values()
            .filter(|connection| connection.imodel_id == DEFAULT_IMODEL_ID)
            .flat_map(|connection| &connection.source_files)
            .filter(|held| held.storage_file_id == id && held.connector_type == "IFC")
            .count();
        if mapped != 1 {
            return Err(format!("{name} is mapped {mapped} times"));
        }
    }
    let known = |name: &&&str| status.contains_key(&format!("north/{name}"));
    match local.keys().find(|name| !known(name)) {
        Some(name) => Err(format!("{name} is not known")),
        None => Ok(()),
    }
}

async fn sequence(seed: u64) {
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut switches = Switches::default();
    if chance.bool() {
        switches.unchanged_task = UnchangedTask::Absent;
    }
    let builder = shared_platform()
        .switches(switches)
        .run_duration(Duration::from_millis(chance.u64(50..400)));
    let (mut site, folder) = Site::with_folder(builder).await;
    site.top = site.top.replace("settle = \"300ms\"", "settle = \"100ms\"");
    site.top += "rescan_interval = \"1s\"\n";
    site.tables = site
        .tables
        .replace("batch_window = \"300ms\"", "batch_window = \"100ms\"")
        .replace("max_delay = \"2s\"", "max_delay = \"500ms\"");
    let other_client = OtherClient::signs_in(&site.emulator).await;
    let mut world = World {
        site: &site,
        folder: &folder,
        other_client,
        chance,
        local: BTreeMap::new(),
        done: Vec::new(),
    };
    // So that there is something to act on.
    std::fs::write(folder.join("a.ifc"), "first").unwrap();
    world.local.insert("a.ifc", "first".to_owned());
    let daemon = site.start();
    for _ in 0..ACTS {
        world.act().await;
        let pause = world.chance.u64(0..500);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    // Calm: nothing is wrong any more, and a while later still nothing is.
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut good_since = None;
    loop {
        let status = site.status().await;
        match judge(&site.emulator.state(), &world.local, &status) {
            Ok(()) => {
                let since: &Instant = good_since.get_or_insert_with(Instant::now);
                if since.elapsed() > Duration::from_secs(2) {
                    break;
                }
            }
            Err(why) => {
                good_since = None;
                assert!(
                    Instant::now() < deadline,
                    "TOGETHER_SEED={seed}: {why}\n{:#?}\n{}",
                    world.done,
                    daemon.log()
                );
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    daemon.stop().await;
}

#[tokio::test]
async fn whatever_other_clients_do_synchronized_means_a_run_read_the_content() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seeds: Vec<u64> = match number("TOGETHER_SEED") {
        Some(seed) => vec![seed],
        None => {
            let count = number("TOGETHER_SEQUENCES").unwrap_or(SEQUENCES);
            (0..count).map(|_| fastrand::u64(..)).collect()
        }
    };
    #[allow(clippy::print_stderr, reason = "a failure is repeated by its seed")]
    let sequences = seeds.into_iter().map(|seed| async move {
        eprintln!("TOGETHER_SEED={seed}");
        sequence(seed).await;
    });
    futures_util::stream::iter(sequences)
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<()>>()
        .await;
}
