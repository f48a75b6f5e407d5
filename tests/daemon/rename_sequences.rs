//! Random sequences of renames, moves, copies, deletions, restores and saves of files and folders, on local and polled
//! roots, under each `on_delete`, with kills in between, compared with a simple model: the storage files are the local
//! files and, unless `on_delete` removes them, those that are gone; each keeps its id while its local file is renamed,
//! gone and back; and only new content is uploaded.
//!
//! By hand for longer: `RENAME_SEQUENCES=1000`; `RENAME_SEED=…` repeats one sequence.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::Instant;

use super::polled_share;
use super::support::{Daemon, Site, platform, sha256, write};

const FOLDERS: [&str; 4] = ["", "in/", "in/deep/", "out/"];
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Rounds of one sequence, and the acts between two of them.
const ROUNDS: usize = 5;
const ACTS_MAX: usize = 3;

/// Sequences of every run of the tests, and how many of them at once.
const SEQUENCES: u64 = 20;
const AT_ONCE: usize = 20;

/// `on_delete` of the watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnDelete {
    Keep,
    Unmap,
    Remove,
}

impl OnDelete {
    fn any(chance: &mut fastrand::Rng) -> Self {
        [Self::Keep, Self::Unmap, Self::Remove][chance.usize(0..3)]
    }

    fn keys(self) -> &'static str {
        match self {
            Self::Keep => "",
            Self::Unmap => "on_delete = \"unmap\"\ndelete_after = \"1s\"\n",
            Self::Remove => "on_delete = \"remove\"\ndelete_after = \"1s\"\n",
        }
    }
}

struct Model<'s> {
    site: &'s Site,
    on_delete: OnDelete,
    folder: &'s Path,
    chance: fastrand::Rng,
    /// The content of each local file.
    local: BTreeMap<String, String>,
    /// The storage file of each known path, of files that are gone as well; None: not seen yet.
    ids: BTreeMap<String, Option<String>>,
    /// The content that each storage path of a gone file had last.
    gone: BTreeMap<String, String>,
    /// Paths of gone files that the operator has restored.
    restored: BTreeSet<String>,
    /// Paths that an act of this round has touched: no other act may.
    touched: BTreeSet<String>,
    /// Contents of files that they have touched: of two files with one content, either may be the origin.
    touched_contents: BTreeSet<String>,
    saves: u32,
    /// Contents that have to be uploaded, and that were.
    expected_uploads: usize,
    kills: u32,
    done: Vec<String>,
}

impl Model<'_> {
    fn content(&mut self) -> String {
        self.saves += 1;
        format!("content {:04}", self.saves)
    }

    /// A path without a local file.
    fn free_path(&mut self) -> String {
        loop {
            let folder = FOLDERS[self.chance.usize(0..FOLDERS.len())];
            let name = NAMES[self.chance.usize(0..NAMES.len())];
            let path = format!("{folder}{name}.ifc");
            if !self.local.contains_key(&path) && !self.touched.contains(&path) {
                return path;
            }
        }
    }

    fn any_file(&mut self) -> Option<String> {
        let mut paths: Vec<String> = self.local.keys().cloned().collect();
        paths.retain(|path| self.is_untouched(path, &self.local[path]));
        let path = self.chance.choice(paths)?;
        self.touched_contents.insert(self.local[&path].clone());
        self.touched.insert(path.clone());
        Some(path)
    }

    fn is_untouched(&self, path: &str, content: &str) -> bool {
        !self.touched.contains(path) && !self.touched_contents.contains(content)
    }

    fn at(&self, path: &str) -> PathBuf {
        let at = self.folder.join(path);
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        at
    }

    fn save(&mut self, path: &str) {
        let content = self.content();
        write(&self.at(path), &content);
        self.is_saved(path, content);
    }

    fn is_saved(&mut self, path: &str, content: String) {
        self.touched.insert(path.to_owned());
        // Its storage file may have this content already.
        if self.gone.remove(path).as_ref() != Some(&content) {
            self.expected_uploads += 1;
        }
        self.restored.remove(path);
        self.ids.entry(path.to_owned()).or_default();
        self.local.insert(path.to_owned(), content);
    }

    /// A local file has a new path. A path that is known already keeps its own storage file.
    fn is_renamed(&mut self, from: &str, to: &str) {
        self.touched.extend([from.to_owned(), to.to_owned()]);
        let content = self.local.remove(from).unwrap();
        self.touched_contents.insert(content.clone());
        if self.ids.contains_key(to) {
            self.gone.insert(from.to_owned(), content.clone());
            self.is_saved(to, content);
            return;
        }
        let id = self.ids.remove(from).unwrap();
        self.ids.insert(to.to_owned(), id);
        self.local.insert(to.to_owned(), content);
    }

    /// A second file with this content may also be the gone one, back under a new name: both are right.
    fn is_content_of_a_gone_file(&self, path: &str) -> bool {
        self.gone.values().any(|gone| *gone == self.local[path])
    }

    /// Some acts between two scans, each on paths of its own.
    fn acts(&mut self, count: usize) {
        self.touched.clear();
        self.touched_contents.clear();
        for _ in 0..count {
            self.act();
        }
    }

    #[allow(clippy::too_many_lines, reason = "one arm per kind of act")]
    fn act(&mut self) {
        let Some(path) = self.any_file() else {
            let path = self.free_path();
            self.save(&path);
            return;
        };
        let what = match self.chance.u32(0..15) {
            0..=3 => {
                let to = self.free_path();
                std::fs::rename(self.at(&path), self.at(&to)).unwrap();
                self.is_renamed(&path, &to);
                format!("{path} renamed to {to}")
            }
            4 | 5 => {
                // A folder gets a name that it never had, so each path in it is new.
                let Some(folder) = path.rsplit_once('/').map(|(folder, _)| folder) else {
                    return;
                };
                let below: Vec<String> = self
                    .local
                    .keys()
                    .filter_map(|path| path.strip_prefix(&format!("{folder}/")))
                    .map(str::to_owned)
                    .collect();
                // Of two files with one content, either may be the origin of both.
                let contents: BTreeSet<&String> = below
                    .iter()
                    .map(|below| &self.local[&format!("{folder}/{below}")])
                    .collect();
                if contents.len() < below.len() {
                    return;
                }
                let others = below.iter().map(|below| format!("{folder}/{below}"));
                let mut others = others.filter(|other| *other != path);
                let is_below = |path: &String| path.starts_with(&format!("{folder}/"));
                let mut touched = self.touched.iter().filter(|one| **one != path);
                if touched.any(is_below)
                    || others.any(|other| !self.is_untouched(&other, &self.local[&other]))
                {
                    return;
                }
                let to = format!("folder {}", self.saves);
                self.saves += 1;
                std::fs::rename(self.folder.join(folder), self.folder.join(&to)).unwrap();
                for below in below {
                    self.is_renamed(&format!("{folder}/{below}"), &format!("{to}/{below}"));
                }
                format!("{folder} renamed to {to}")
            }
            6 => {
                if self.is_content_of_a_gone_file(&path) {
                    return;
                }
                let content = self.local[&path].clone();
                let to = self.free_path();
                std::fs::copy(self.at(&path), self.at(&to)).unwrap();
                self.is_saved(&to, content);
                format!("{path} copied to {to}")
            }
            7 => {
                std::fs::remove_file(self.at(&path)).unwrap();
                let content = self.local.remove(&path).unwrap();
                self.gone.insert(path.clone(), content);
                self.touched.insert(path.clone());
                format!("{path} deleted")
            }
            10 => {
                // From a backup, with the content and the time that it had.
                let mut gone: Vec<(String, String)> = self.gone.clone().into_iter().collect();
                gone.retain(|(path, content)| self.is_untouched(path, content));
                let Some((path, content)) = self.chance.choice(gone) else {
                    return;
                };
                write(&self.at(&path), &content);
                self.gone.remove(&path);
                self.restored.remove(&path);
                self.touched_contents.insert(content.clone());
                self.local.insert(path.clone(), content);
                self.touched.insert(path.clone());
                format!("{path} restored")
            }
            11 => {
                // A chain: the design gets another name, and another design gets its name.
                let Some(other) = self.any_file().filter(|other| *other != path) else {
                    return;
                };
                let (one, two) = (self.local[&path].clone(), self.local[&other].clone());
                if one == two
                    || self.is_content_of_a_gone_file(&path)
                    || self.is_content_of_a_gone_file(&other)
                {
                    return;
                }
                let to = self.free_path();
                std::fs::rename(self.at(&path), self.at(&to)).unwrap();
                std::fs::rename(self.at(&other), self.at(&path)).unwrap();
                self.local.remove(&other);
                self.touched.insert(other.clone());
                self.gone.insert(other.clone(), two.clone());
                self.is_saved(&to, one);
                self.is_saved(&path, two);
                format!("{path} renamed to {to}, {other} to {path}")
            }
            8 => {
                if self.is_content_of_a_gone_file(&path) {
                    return;
                }
                // A program keeps the last version under another name.
                let backup = self.free_path();
                let content = self.content();
                let unfinished = self.folder.join("unfinished.tmp");
                write(&unfinished, &content);
                std::fs::rename(self.at(&path), self.at(&backup)).unwrap();
                std::fs::rename(&unfinished, self.at(&path)).unwrap();
                let old = self.local[&path].clone();
                self.is_saved(&backup, old);
                self.is_saved(&path, content);
                format!("{path} saved, backup {backup}")
            }
            9 => {
                let Some(other) = self.any_file().filter(|other| *other != path) else {
                    return;
                };
                let aside = self.folder.join("aside.tmp");
                std::fs::rename(self.at(&path), &aside).unwrap();
                std::fs::rename(self.at(&other), self.at(&path)).unwrap();
                std::fs::rename(&aside, self.at(&other)).unwrap();
                let (one, two) = (self.local[&path].clone(), self.local[&other].clone());
                self.touched.extend([path.clone(), other.clone()]);
                if one != two {
                    self.is_saved(&path, two);
                    self.is_saved(&other, one);
                }
                format!("{path} and {other} swapped")
            }
            _ => {
                let path = if self.chance.bool() {
                    path
                } else {
                    self.free_path()
                };
                self.save(&path);
                format!("{path} saved")
            }
        };
        self.done.push(what);
    }

    fn is_local_or_restored(&self, path: &str) -> bool {
        self.local.contains_key(path) || self.restored.contains(path)
    }

    /// Whether the storage file of a known path is not in the recycle bin.
    fn has_storage_file(&self, path: &str) -> bool {
        self.on_delete != OnDelete::Remove || self.is_local_or_restored(path)
    }

    /// Whether a known path has a source file.
    fn is_mapped(&self, path: &str) -> bool {
        self.on_delete == OnDelete::Keep || self.is_local_or_restored(path)
    }

    /// The operator restores a gone file.
    async fn restores(&mut self) {
        let gone: Vec<String> = self.gone.keys().cloned().collect();
        let Some(path) = self.chance.choice(gone) else {
            return;
        };
        if self.restored.contains(&path) {
            return;
        }
        let at = self.site.path("north").join(&path);
        let restored = self.site.run(&["restore", at.to_str().unwrap()]).await;
        assert_eq!(restored.code, Some(0), "{restored:?}");
        self.done.push(format!("{path} restored by the operator"));
        self.restored.insert(path);
    }

    /// Whether storage has the paths and contents that it should have. Cheaper than asking for the status.
    fn is_stored(&self) -> bool {
        let state = self.site.emulator.state();
        let live = state.files.values().filter(|file| !file.deleted);
        let stored: BTreeMap<&str, Option<&str>> = live
            .map(|file| {
                let completed = file.completed.as_ref();
                let sha256 = completed.map(|completed| completed.sha256.as_str());
                (file.path.as_str(), sha256)
            })
            .collect();
        let all = self.local.iter().chain(&self.gone);
        let mut all = all.filter(|(path, _)| self.has_storage_file(path));
        let expected = self.ids.keys().filter(|path| self.has_storage_file(path));
        stored.len() == expected.count()
            && all.all(|(path, content)| {
                stored.get(path.as_str()) == Some(&Some(sha256(content.as_bytes()).as_str()))
            })
    }

    /// What is not yet as it should be.
    fn judge(&self, status: &BTreeMap<String, serde_json::Value>) -> Result<(), String> {
        let state = self.site.emulator.state();
        let sources = state.connections.values().flat_map(|one| &one.source_files);
        let mapped: Vec<&str> = sources.map(|one| one.storage_file_id.as_str()).collect();
        for (path, id) in &self.ids {
            let Some(file) = status.get(&format!("north/{path}")) else {
                return Err(format!("{path} is not known"));
            };
            let found = file["storage_file_id"].as_str().unwrap_or_default();
            if id.as_deref().is_some_and(|id| id != found) {
                return Err(format!("{path} has another storage file than before"));
            }
            let Some(stored) = state.files.get(found) else {
                return Err(format!("{path} was never stored"));
            };
            if stored.deleted == self.has_storage_file(path) {
                return Err(format!("{path}: deleted in storage is {}", stored.deleted));
            }
            if mapped.contains(&found) != self.is_mapped(path) {
                return Err(format!("{path}: mapped is {}", mapped.contains(&found)));
            }
            if stored.path != *path {
                return Err(format!("{path} is stored as {}", stored.path));
            }
            let content = self.local.get(path).or(self.gone.get(path)).unwrap();
            let completed = stored.completed.as_ref().ok_or("not completed")?;
            if completed.sha256 != sha256(content.as_bytes()) {
                return Err(format!("{path}: storage has other content"));
            }
            let is_gone = file["absence"] == "gone";
            if self.local.contains_key(path) && (file["state"] != "done" || is_gone) {
                return Err(format!("{path} is not done: {file}"));
            }
            if !self.local.contains_key(path) && !is_gone {
                return Err(format!("{path} is not gone: {file}"));
            }
        }
        let known = |is: &dyn Fn(&str) -> bool| self.ids.keys().filter(|path| is(path)).count();
        let live = state.files.values().filter(|file| !file.deleted).count();
        let found = (status.len(), live, mapped.len());
        let expected = (
            self.ids.len(),
            known(&|path| self.has_storage_file(path)),
            known(&|path| self.is_mapped(path)),
        );
        if found != expected {
            return Err(format!(
                "{found:?} files known, stored, mapped; {expected:?} expected"
            ));
        }
        Ok(())
    }

    /// Of a few files, two that are gone are too many at once.
    async fn resumes_deletions(&self) {
        let status = self.site.run(&["status", "--json"]).await.out;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        if status["watches"][0]["deletions"][0]["state"] == "deletions suspended" {
            self.site.run(&["resume", "north"]).await;
        }
    }

    /// Waits until all is as it should be, and remembers the storage files.
    async fn calms_down(&mut self, seed: u64, daemon: &Daemon) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut looks = 0_u32;
        let status = loop {
            looks += 1;
            if self.on_delete != OnDelete::Keep && looks.is_multiple_of(25) {
                self.resumes_deletions().await;
            }
            if !self.is_stored() && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            let status = self.site.status().await;
            let Err(why) = self.judge(&status) else {
                break status;
            };
            assert!(
                Instant::now() < deadline,
                "RENAME_SEED={seed}: {why}\n{:#?}\n{}",
                self.done,
                daemon.log()
            );
            daemon.logs_more().await;
        };
        for (path, id) in &mut self.ids {
            let found = &status[&format!("north/{path}")]["storage_file_id"];
            *id = found.as_str().map(str::to_owned);
        }
        let uploads = self
            .site
            .emulator
            .state()
            .files
            .values()
            .map(|file| usize::try_from(file.completions).unwrap())
            .sum::<usize>();
        assert!(
            self.kills > 0 || uploads == self.expected_uploads,
            "RENAME_SEED={seed}: {uploads} uploads, not {}\n{:#?}\n{}",
            self.expected_uploads,
            self.done,
            daemon.log()
        );
    }
}

/// Which kind of root a sequence has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Root {
    Local,
    Polled,
}

/// Returns how often the daemon was killed.
async fn sequence(seed: u64) -> u32 {
    let (mut site, watched) = Site::with_folder(platform()).await;
    "settle = \"150ms\"\npoll_interval = \"200ms\"\nrescan_interval = \"2s\"\n"
        .clone_into(&mut site.top);
    site.tables = site
        .tables
        .replace("batch_window = \"300ms\"", "batch_window = \"100ms\"");
    let mut chance = fastrand::Rng::with_seed(seed);
    let on_delete = OnDelete::any(&mut chance);
    site.replace_in_watches("imodel_id", &format!("{}imodel_id", on_delete.keys()));
    let root = if chance.bool() {
        Root::Polled
    } else {
        Root::Local
    };
    let (folder, share) = match root {
        Root::Local => (watched, None),
        Root::Polled => {
            let folder = site.path("on the server");
            std::fs::create_dir(&folder).unwrap();
            let share = polled_share::mount(&folder, &watched);
            (folder, Some(share))
        }
    };
    let mut model = Model {
        site: &site,
        on_delete,
        folder: &folder,
        chance,
        local: BTreeMap::new(),
        ids: BTreeMap::new(),
        gone: BTreeMap::new(),
        restored: BTreeSet::new(),
        touched: BTreeSet::new(),
        touched_contents: BTreeSet::new(),
        saves: 0,
        expected_uploads: 0,
        kills: 0,
        done: vec![format!("{root:?} root, {on_delete:?}")],
    };
    for _ in 0..model.chance.usize(3..10) {
        let path = model.free_path();
        model.save(&path);
    }
    let mut daemon = site.start();
    model.calms_down(seed, &daemon).await;
    for _ in 0..ROUNDS {
        let acts = model.chance.usize(1..=ACTS_MAX);
        if model.chance.u32(0..4) == 0 {
            // Half of them while nothing runs, half in the middle of what follows from the acts.
            let pause = model.chance.u64(0..600);
            if model.chance.bool() {
                daemon.kill().await;
                model.acts(acts);
            } else {
                model.acts(acts);
                tokio::time::sleep(Duration::from_millis(pause)).await;
                daemon.kill().await;
            }
            model.kills += 1;
            model.done.push("killed".to_owned());
            daemon = site.start();
        } else {
            model.acts(acts);
        }
        model.calms_down(seed, &daemon).await;
        if model.chance.u32(0..4) == 0 {
            model.restores().await;
            model.calms_down(seed, &daemon).await;
        }
    }
    daemon.stop().await;
    drop(share);
    model.kills
}

#[tokio::test]
async fn whatever_is_renamed_storage_files_keep_their_ids_and_only_new_content_is_uploaded() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seeds: Vec<u64> = match number("RENAME_SEED") {
        Some(seed) => vec![seed],
        None => {
            let count = number("RENAME_SEQUENCES").unwrap_or(SEQUENCES);
            (0..count).map(|_| fastrand::u64(..)).collect()
        }
    };
    #[allow(clippy::print_stderr, reason = "a failure is repeated by its seed")]
    let sequences = seeds.into_iter().map(|seed| async move {
        eprintln!("RENAME_SEED={seed}");
        sequence(seed).await
    });
    let kills: Vec<u32> = futures_util::stream::iter(sequences)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    #[allow(clippy::print_stderr, reason = "a long run by hand counts")]
    {
        let (sequences, kills) = (kills.len(), kills.iter().sum::<u32>());
        eprintln!("{sequences} sequences, {kills} kills");
    }
}
