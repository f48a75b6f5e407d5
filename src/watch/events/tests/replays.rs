//! Replays of how programs save files, from the kernel's events to the moment at which a file counts as complete: no
//! replay is ever taken before its save has ended, whatever the pauses are.
//!
//! By hand for longer: `REPLAYS=1000000`; `REPLAY_SEED=…` repeats one.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::*;
use crate::config::SettlePolicy;
use crate::ledger::Fingerprint;
use crate::watch::settle::{Observation, Settling, Step};

const SETTLE: u64 = 10_000;

/// Pauses within a save, and between a rename of a closed file and the moment at which it is opened again.
const PAUSE: u64 = SETTLE - 500;
const REOPENED: u64 = 1_400;

/// A file that arrived complete is taken after this time at the latest.
const TAKEN: u64 = 2_000;

/// What a program does. A handle is an open file, whatever it is called by now.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Act {
    Create(&'static str),
    Reopen(&'static str),
    Write,
    Close,
    Rename(&'static str, &'static str),
    Remove(&'static str),
    SetTimes(&'static str),
    /// From outside of what is watched.
    MoveIn(&'static str),
    /// The kernel's queue overflows, and the events of the next acts are lost for this time.
    LoseEvents(u64),
    /// The save has ended; `at_once`: it ended with the rename of a closed file.
    End {
        at_once: bool,
    },
}

const FILE: &str = "a.dgn";
const NEW: &str = "a.tmp";
const OLD: &str = "a.bak";

/// The acts of one save with the pauses before them.
fn save(chance: &mut fastrand::Rng) -> Vec<(u64, Act)> {
    let mut pause = |most: u64| {
        // Most pauses are short, some as long as they may be.
        let most = [5, 50, most / 4, most][chance.usize(0..4)];
        chance.u64(0..=most)
    };
    let mut acts = Vec::new();
    let write = |acts: &mut Vec<_>, pause: &mut dyn FnMut(u64) -> u64| {
        for _ in 0..=pause(5) {
            acts.push((pause(PAUSE), Act::Write));
        }
    };
    let mut at_once = false;
    match pause(7) {
        // In place.
        0 => {
            acts.push((0, Act::Reopen(FILE)));
            write(&mut acts, &mut pause);
            acts.push((pause(PAUSE), Act::Close));
        }
        // The last version is renamed, the new one is written under its name.
        1 => {
            acts.push((0, Act::Rename(FILE, OLD)));
            acts.push((pause(PAUSE), Act::Create(FILE)));
            write(&mut acts, &mut pause);
            acts.push((pause(PAUSE), Act::Close));
        }
        // Into a new file, which is renamed when it is closed; some set its times in between.
        kind @ (2 | 3) => {
            acts.push((0, Act::Create(NEW)));
            write(&mut acts, &mut pause);
            acts.push((pause(PAUSE), Act::Close));
            if kind == 3 {
                acts.push((pause(50), Act::SetTimes(NEW)));
                acts.push((pause(PAUSE), Act::Rename(FILE, OLD)));
            }
            acts.push((pause(PAUSE), Act::Rename(NEW, FILE)));
            at_once = true;
        }
        // Renamed while it is still written.
        4 => {
            acts.push((0, Act::Create(NEW)));
            write(&mut acts, &mut pause);
            acts.push((pause(PAUSE), Act::Rename(NEW, FILE)));
            write(&mut acts, &mut pause);
            acts.push((pause(PAUSE), Act::Close));
        }
        // Opened again after the rename, as for a preview or a checksum.
        5 => {
            acts.push((0, Act::Create(NEW)));
            write(&mut acts, &mut pause);
            acts.push((pause(PAUSE), Act::Close));
            acts.push((pause(PAUSE), Act::Rename(NEW, FILE)));
            acts.push((pause(REOPENED / 2), Act::Reopen(FILE)));
            acts.push((pause(REOPENED / 2), Act::Write));
            write(&mut acts, &mut pause);
            acts.push((pause(PAUSE), Act::Close));
        }
        // Events are lost while it is written on after the rename.
        6 => {
            acts.push((0, Act::Create(NEW)));
            write(&mut acts, &mut pause);
            acts.push((pause(PAUSE), Act::Close));
            acts.push((pause(50), Act::Rename(NEW, FILE)));
            acts.push((pause(REOPENED / 4), Act::LoseEvents(PAUSE)));
            acts.push((pause(REOPENED / 4), Act::Reopen(FILE)));
            acts.push((pause(REOPENED / 4), Act::Write));
            write(&mut acts, &mut pause);
            acts.push((pause(PAUSE), Act::Close));
        }
        // From a folder that is not watched, still open.
        _ => {
            acts.push((0, Act::MoveIn(FILE)));
            write(&mut acts, &mut pause);
            acts.push((pause(PAUSE), Act::Close));
        }
    }
    acts.push((0, Act::End { at_once }));
    if pause(3) == 0 {
        acts.push((SETTLE * 2, Act::Remove(OLD)));
    }
    acts
}

/// The folder, and what the daemon makes of its events.
struct Replay<'e> {
    events: &'e Events,
    hints: &'e mut Hints,
    settling: Settling,
    began: Instant,
    now: u64,
    /// Of each name, and what is open.
    files: HashMap<&'static str, usize>,
    /// How often each file was changed.
    changes: Vec<u64>,
    open: Option<usize>,
    lost_until: u64,
    probes: VecDeque<PathBuf>,
    /// Looks whose answers are on the way.
    looks: Vec<(u64, PathBuf, u64, Option<Fingerprint>)>,
    known: Option<Fingerprint>,
    taken: Vec<(u64, Fingerprint)>,
}

impl Replay<'_> {
    fn tell(&mut self, kind: EventKind, names: &[&str]) {
        if self.now < self.lost_until {
            return;
        }
        let mut event = Event::new(kind);
        for name in names {
            event = event.add_path(Path::new("/root").join(name));
        }
        self.events.table().dispatch(Ok(event));
    }

    fn new_file(&mut self, name: &'static str) {
        self.changes.push(1);
        self.files.insert(name, self.changes.len() - 1);
        self.open = Some(self.changes.len() - 1);
    }

    fn name_of_open(&self) -> &'static str {
        let open = self.open.unwrap();
        let named = self.files.iter().find(|(_, file)| **file == open);
        named.map(|(name, _)| *name).unwrap()
    }

    fn act(&mut self, act: Act) {
        let renamed = |mode| EventKind::Modify(ModifyKind::Name(mode));
        match act {
            Act::Create(name) => {
                self.new_file(name);
                self.tell(EventKind::Create(CreateKind::File), &[name]);
            }
            Act::Reopen(name) => {
                if !self.files.contains_key(name) {
                    return self.act(Act::Create(name));
                }
                self.open = Some(self.files[name]);
            }
            Act::Write => {
                let name = self.name_of_open();
                self.changes[self.open.unwrap()] += 1;
                self.tell(
                    EventKind::Modify(ModifyKind::Data(DataChange::Any)),
                    &[name],
                );
            }
            Act::Close => {
                let name = self.name_of_open();
                self.open = None;
                self.tell(
                    EventKind::Access(AccessKind::Close(AccessMode::Write)),
                    &[name],
                );
            }
            Act::Rename(from, to) => {
                let Some(file) = self.files.remove(from) else {
                    return;
                };
                // The change time.
                self.changes[file] += 1;
                self.files.insert(to, file);
                self.tell(renamed(RenameMode::From), &[from]);
                self.tell(renamed(RenameMode::To), &[to]);
                self.tell(renamed(RenameMode::Both), &[from, to]);
            }
            Act::Remove(name) => {
                if self.files.remove(name).is_some() {
                    self.tell(EventKind::Remove(RemoveKind::File), &[name]);
                }
            }
            Act::SetTimes(name) => {
                self.changes[self.files[name]] += 1;
                self.tell(
                    EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)),
                    &[name],
                );
            }
            Act::MoveIn(name) => {
                self.new_file(name);
                self.tell(renamed(RenameMode::To), &[name]);
            }
            Act::LoseEvents(time) => {
                self.tell_of_loss();
                self.lost_until = self.now + time;
            }
            Act::End { .. } => {}
        }
    }

    fn tell_of_loss(&mut self) {
        let lost = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        self.events.table().dispatch(Ok(lost));
    }

    fn instant(&self) -> Instant {
        self.began + Duration::from_millis(self.now)
    }

    fn fingerprint(&self, path: &Path) -> Option<Fingerprint> {
        let file = self.files.get(path.to_str()?)?;
        let changes = self.changes[*file];
        let number = i64::try_from(*file).unwrap();
        Some(Fingerprint {
            size: changes,
            mtime_ns: number,
            ctime_ns: number,
        })
    }

    fn probe(&mut self, path: &Path) {
        if !self.settling.touch(path, self.instant()) && path == Path::new(FILE) {
            self.probes.push_back(path.to_owned());
        }
    }

    /// As the task of a root does it, with looks whose answers take a while.
    fn follow(&mut self, chance: &mut fastrand::Rng) {
        while let Some(hint) = self.hints.try_next() {
            match hint {
                Hint::Path(path) => self.probe(&path),
                Hint::Arrived(path) => {
                    self.probe(&path);
                    self.settling.arrive(&path);
                }
                Hint::Everything | Hint::WatcherDied => {
                    self.settling.distrust_arrivals();
                    self.probe(Path::new(FILE));
                }
            }
        }
        let now = self.now;
        let (answered, waiting) = self.looks.drain(..).partition(|(at, ..)| *at <= now);
        self.looks = waiting;
        let answered: Vec<_> = answered;
        for (_, path, looked, print) in answered {
            match print {
                None => self.settling.forget(&path),
                Some(print) if self.known == Some(print) => self.settling.forget(&path),
                Some(fingerprint) => {
                    let at = self.began + Duration::from_millis(looked);
                    let seen = Observation {
                        began: at,
                        ended: at,
                        fingerprint,
                    };
                    if self.settling.observe(&path, seen) == Step::Ready {
                        self.taken.push((now, fingerprint));
                        self.known = Some(fingerprint);
                    }
                }
            }
        }
        // Nothing is asked while an answer is awaited.
        if !self.looks.is_empty() {
            return;
        }
        let mut due = self.settling.take_due(self.instant(), 10);
        due.extend(self.probes.drain(..));
        let answer = now + [0, 1, 200][chance.usize(0..3)];
        for path in due {
            let print = self.fingerprint(&path);
            self.looks.push((answer, path, now, print));
        }
    }

    fn next(&self, act: Option<u64>) -> Option<u64> {
        let probe = self.settling.next_probe().map(|at| {
            let after = at.saturating_duration_since(self.began);
            u64::try_from(after.as_micros().div_ceil(1000)).unwrap()
        });
        let answer = self.looks.first().map(|(at, ..)| *at);
        let probe = probe.filter(|_| answer.is_none());
        let next = [act, probe, answer].into_iter().flatten().min()?;
        // Looks that are due are sent at once.
        Some(next.max(self.now))
    }
}

fn replay(seed: u64, events: &Events, hints: &mut Hints) -> usize {
    let mut chance = fastrand::Rng::with_seed(seed);
    let (mut acts, mut at) = (Vec::new(), 0);
    for _ in 0..=chance.usize(0..3) {
        for (pause, act) in save(&mut chance) {
            at += pause;
            acts.push((at, act));
        }
        // Until it is taken, and that is known.
        at += SETTLE * 3;
    }
    let policy = SettlePolicy {
        settle: Duration::from_millis(SETTLE),
        max_wait: None,
        upload_interval: Duration::ZERO,
    };
    let mut replay = Replay {
        events,
        hints,
        settling: Settling::new(policy),
        began: Instant::now(),
        now: 0,
        files: HashMap::new(),
        changes: Vec::new(),
        open: None,
        lost_until: 0,
        probes: VecDeque::new(),
        looks: Vec::new(),
        known: None,
        taken: Vec::new(),
    };
    let told = format!("REPLAY_SEED={seed} {acts:?}");
    let mut acts = acts.into_iter().peekable();
    let (mut saving, mut taken, mut at_once) = (false, 0, 0);
    let mut ended: Option<(u64, bool)> = None;
    while let Some(now) = replay.next(acts.peek().map(|(at, _)| *at)) {
        replay.now = now;
        while let Some((_, act)) = acts.next_if(|(at, _)| *at <= now) {
            if let Act::End { at_once } = act {
                (saving, ended) = (false, Some((now, at_once)));
            } else if !matches!(act, Act::Remove(_)) {
                assert!(
                    saving || ended.is_none(),
                    "the last save was not taken: {told}"
                );
                saving = true;
            }
            replay.act(act);
        }
        if replay.lost_until > 0 && now >= replay.lost_until {
            replay.lost_until = 0;
            replay.tell_of_loss();
        }
        // What the events of this moment and of those before lead to, and the look that follows at once.
        replay.follow(&mut chance);
        for (at, print) in replay.taken.drain(..).collect::<Vec<_>>() {
            assert!(!saving, "taken at {at} during a save: {told}");
            assert_eq!(Some(print), replay.fingerprint(Path::new(FILE)), "{told}");
            let (end, arrived) = ended
                .take()
                .unwrap_or_else(|| panic!("taken twice: {told}"));
            taken += 1;
            if arrived {
                assert!(
                    at - end <= TAKEN,
                    "taken {} ms after its rename: {told}",
                    at - end
                );
                at_once += 1;
            }
        }
        assert!(now < 10_000_000, "endless: {told}");
    }
    assert!(ended.is_none() && taken > 0, "not taken: {told}");
    at_once
}

#[tokio::test]
async fn no_replay_of_a_save_is_taken_before_its_end_and_one_that_ends_with_a_rename_soon_after() {
    let events = Events::default();
    let (_watches, mut hints) = root(&events, "/root", &[("", 1)]);
    if let Ok(seed) = std::env::var("REPLAY_SEED") {
        replay(seed.parse().unwrap(), &events, &mut hints);
        return;
    }
    let count = std::env::var("REPLAYS").map_or(10_000, |count| count.parse().unwrap());
    let at_once: usize = (0..count)
        .map(|seed| replay(seed, &events, &mut hints))
        .sum();
    assert!(
        at_once as u64 > count / 4,
        "{at_once} of {count} arrived by a rename"
    );
}
