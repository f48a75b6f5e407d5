//! Any sequence of file changes and kills comes to the same end: what is in the folders is in the iModel.
//!
//! A run with a seed that never changes, and one with another seed each time, which is printed at the start:
//! `SOAK_SEED` repeats it. `SOAK_KILLS` says how often each kills the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use fastrand::Rng;
use itwin_syncd::emulator::{DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID, Effect, Emulator, Fault, State};

use super::support::{Daemon, SECRET, Site, sha256};

const SECOND_IMODEL: &str = "bbbbbbbb-bbbb-4ccc-8ddd-eeeeeeeeeeee";

/// The folders, and every content that ever stood in them.
struct World {
    /// The folder on disk and in storage.
    roots: Vec<(PathBuf, &'static str)>,
    random: Rng,
    /// By the folder of a watch in storage: a storage file has those of every path that its local file had.
    ever: BTreeMap<String, BTreeSet<String>>,
    saves: u64,
}

impl World {
    /// All files below the folders: path in storage to content.
    fn files(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for (root, stored) in &self.roots {
            let mut waiting = vec![root.clone()];
            while let Some(folder) = waiting.pop() {
                for entry in std::fs::read_dir(&folder).unwrap() {
                    let path = entry.unwrap().path();
                    if path.is_dir() {
                        waiting.push(path);
                    } else if path.extension().is_some_and(|extension| extension == "ifc") {
                        let below = path.strip_prefix(root).unwrap().display();
                        let content = std::fs::read_to_string(&path).unwrap();
                        found.insert(format!("{stored}{below}"), content);
                    }
                }
            }
        }
        found
    }

    fn note(&mut self) {
        for (path, content) in self.files() {
            self.ever
                .entry(watch_of(&path))
                .or_default()
                .insert(sha256(content.as_bytes()));
        }
    }

    fn content(&mut self) -> String {
        self.saves += 1;
        format!("save {} ", self.saves).repeat(self.random.usize(1..2000))
    }

    fn a_path(&mut self) -> PathBuf {
        let at = self.random.usize(0..self.roots.len());
        let folder = self.random.choice(["", "a", "a/b", "c"]).unwrap();
        let folder = self.roots[at].0.join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder.join(format!("{}.ifc", self.random.u8(0..12)))
    }

    /// One change, as programs and users make them.
    fn change(&mut self) {
        let path = self.a_path();
        let content = self.content();
        match self.random.u8(0..10) {
            0..=3 => std::fs::write(&path, content).unwrap(),
            4 | 5 => {
                let unfinished = path.with_extension("tmp");
                std::fs::write(&unfinished, content).unwrap();
                std::fs::rename(&unfinished, &path).unwrap();
            }
            6 => {
                use std::io::Write as _;
                let mut file = std::fs::File::options()
                    .append(true)
                    .create(true)
                    .open(&path)
                    .unwrap();
                file.write_all(content.as_bytes()).unwrap();
            }
            7 => drop(std::fs::remove_file(&path)),
            8 => {
                let other = self.a_path();
                if path.exists() && path != other {
                    std::fs::rename(&path, &other).unwrap();
                }
            }
            _ => self.move_a_tree_in(),
        }
        self.note();
    }

    fn move_a_tree_in(&mut self) {
        let outside = tempfile::tempdir_in(self.roots[0].0.parent().unwrap()).unwrap();
        let tree = outside.path().join("tree");
        std::fs::create_dir_all(tree.join("deep")).unwrap();
        for name in ["x.ifc", "deep/y.ifc"] {
            let content = self.content();
            std::fs::write(tree.join(name), content).unwrap();
        }
        let at = self.random.usize(0..self.roots.len());
        let into = self.roots[at]
            .0
            .join(format!("moved{}", self.random.u8(0..4)));
        if !into.exists() {
            std::fs::rename(&tree, into).unwrap();
        }
    }
}

async fn site(seed: u64) -> (Site, World, Rng) {
    #[allow(clippy::print_stdout, reason = "a failure must be repeatable")]
    {
        println!("SOAK_SEED={seed}");
    }
    let builder = Emulator::builder()
        .client("service-test", SECRET)
        .imodel(DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID, "One")
        .imodel(SECOND_IMODEL, DEFAULT_ITWIN_ID, "Two")
        .run_duration(Duration::from_millis(150))
        .seed(seed);
    let mut site = Site::new(builder).await;
    let mut roots = Vec::new();
    for (name, imodel) in [("north", DEFAULT_IMODEL_ID), ("south", SECOND_IMODEL)] {
        let folder = site.watch(name, imodel, &format!("storage_folder = {name:?}"));
        roots.push((folder, if name == "north" { "north/" } else { "south/" }));
    }
    let mut random = Rng::with_seed(seed);
    let world = World {
        roots,
        random: random.fork(),
        ever: BTreeMap::new(),
        saves: 0,
    };
    (site, world, random)
}

/// The last content of every file is synchronized.
fn is_calm(state: &State, files: &BTreeMap<String, String>) -> bool {
    files.iter().all(|(path, content)| {
        let wanted = sha256(content.as_bytes());
        let stored = state.files.values().find(|file| {
            let completed = file.completed.as_ref();
            file.path == *path && completed.is_some_and(|completed| completed.sha256 == wanted)
        });
        stored.is_some_and(|stored| {
            let completed = stored.completed.as_ref().unwrap();
            state.runs.values().any(|run| {
                run.state == "Completed"
                    && run.requested_at >= completed.completed_at
                    && run.covered.iter().any(|covered| {
                        covered.storage_file_id == stored.id && covered.version == completed.version
                    })
            })
        })
    })
}

async fn calms_down(site: &Site, world: &World, daemon: &Daemon) {
    let files = world.files();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    while !is_calm(&site.emulator.state(), &files) {
        assert!(
            tokio::time::Instant::now() < deadline,
            "not all is in the iModel: {:#?}\n{}",
            site.status().await,
            daemon.log()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What holds after any trouble, once things have calmed down.
fn judge(state: &State, world: &World) {
    for path in world.files().keys() {
        let twins: Vec<_> = state
            .files
            .values()
            .filter(|file| file.path == *path && file.completed.is_some())
            .collect();
        assert_eq!(twins.len(), 1, "{path}: {twins:#?}");
    }
    let mut mapped = BTreeMap::new();
    for source in state
        .connections
        .values()
        .flat_map(|connection| &connection.source_files)
    {
        *mapped.entry(&source.storage_file_id).or_insert(0) += 1;
    }
    assert!(
        mapped.values().all(|count| *count == 1),
        "mapped twice: {mapped:?}"
    );
    assert_eq!(state.connections.len(), 2, "{:#?}", state.connections);
    for file in state.files.values() {
        assert!(!file.deleted, "{file:#?}");
        let Some(completed) = &file.completed else {
            continue;
        };
        let ever = world.ever.get(&watch_of(&file.path));
        assert!(
            ever.is_some_and(|ever| ever.contains(&completed.sha256)),
            "{} holds what never stood in the folder",
            file.path
        );
    }
    for covered in state.runs.values().flat_map(|run| &run.covered) {
        let file = &state.files[&covered.storage_file_id];
        let ever = &world.ever[&watch_of(&file.path)];
        assert!(
            covered.sha256.is_empty() || ever.contains(&covered.sha256),
            "a run read what never stood in {}",
            file.path
        );
    }
}

/// The folder in storage of the watch of a path.
fn watch_of(path: &str) -> String {
    path.split('/').next().unwrap_or_default().to_owned()
}

fn kills() -> u32 {
    std::env::var("SOAK_KILLS").map_or(20, |kills| kills.parse().unwrap())
}

fn any_seed() -> u64 {
    std::env::var("SOAK_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap())
}

#[tokio::test]
async fn a_fixed_sequence_of_changes_and_kills_loses_nothing() {
    soak(1, kills()).await;
}

#[tokio::test]
async fn random_changes_and_kills_lose_nothing() {
    soak(any_seed(), kills()).await;
}

#[tokio::test]
#[ignore = "takes an hour: by hand"]
async fn an_hour_of_changes_and_kills_loses_nothing() {
    let end = tokio::time::Instant::now() + Duration::from_secs(3600);
    while tokio::time::Instant::now() < end {
        soak(fastrand::u64(..), 100).await;
    }
}

async fn soak(seed: u64, kills: u32) {
    let (site, mut world, mut random) = site(seed).await;
    for round in 0..kills {
        let daemon = site.start();
        if round % 3 == 0 {
            site.emulator.fault(trouble(&mut random));
        }
        let until = tokio::time::Instant::now() + Duration::from_millis(random.u64(20..900));
        while tokio::time::Instant::now() < until {
            if random.bool() {
                world.change();
            }
            tokio::time::sleep(Duration::from_millis(random.u64(1..120))).await;
        }
        let log = daemon.log();
        assert!(!log.contains("panicked"), "{log}");
        daemon.kill().await;
        if random.bool() {
            world.change();
        }
    }
    site.emulator.clear_faults();
    let daemon = site.start();
    calms_down(&site, &world, &daemon).await;
    let (status, log) = daemon.stop().await;
    assert!(status.success(), "{log}");
    judge(&site.emulator.state(), &world);
}

/// Something that goes wrong once, at any route that the daemon uses.
fn trouble(random: &mut Rng) -> Fault {
    let routes = [
        "POST /storage/folders/*/files",
        "POST /storage/folders/*/folders",
        "POST /storage/files/*/complete",
        "POST /storage/files/*/updateContent",
        "PUT /emulated/*",
        "POST */storageConnections",
        "POST */sourceFiles",
        "POST */run",
        "GET *",
        "POST /connect/token",
    ];
    let effect = match random.u8(0..6) {
        0 => Effect::Reset { after_effect: true },
        1 => Effect::Reset {
            after_effect: false,
        },
        2 => Effect::CutAnswer,
        3 => Effect::RevokeTokens,
        4 => Effect::Latency {
            ms: 200,
            jitter_ms: 300,
        },
        _ => Effect::Status {
            status: *random.choice(&[500, 502, 503, 504, 408]).unwrap(),
            body: "<html>".to_owned(),
            headers: Vec::new(),
            after_effect: random.bool(),
        },
    };
    Fault::on(*random.choice(&routes).unwrap())
        .effect(effect)
        .skip(random.u32(0..2))
        .times(random.u32(1..3))
}
