use std::fs::{self, File};

use super::waiting::{DEPTH_MAX, PATH_MAX};
use super::*;
use crate::connector_type::ConnectorType;
use crate::ledger::Fingerprint;
use crate::watch::events::{Events, Hint, Hints};

/// A walk that has begun to list a folder and waits until its listing is taken.
struct Halted {
    dir: tempfile::TempDir,
    root: PathBuf,
    reports: async_mpsc::Receiver<Report>,
    hints: Hints,
    _requests: ThreadOnDemand<Request>,
}

impl Halted {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        // One listing is taken, one fits into the channel, and the next waits before the folder is at its end.
        for number in 0..LISTING_MAX * 4 {
            File::create(root.join(format!("{number}.ifc"))).unwrap();
        }
        let (sender, hints) = events::channel();
        let (reporter, reports) = async_mpsc::channel(1);
        let plan = Plan {
            root: root.clone(),
            scope: Scope::default(),
            skip_log: Arc::new(SkipLog::new("north")),
            pulse: Arc::default(),
        };
        let watches = Events::default().of_root(&root, sender);
        let requests = scanner("north", plan, Some(watches), reporter);
        requests.send(Request::All).unwrap();
        Self {
            dir,
            root,
            reports,
            hints,
            _requests: requests,
        }
    }

    async fn first_listing(&mut self) -> Listing {
        loop {
            match self.reports.recv().await {
                Some(Report::Begun(_)) => {}
                Some(Report::Listing(listing)) => return listing,
                other => panic!("{other:?}"),
            }
        }
    }

    async fn summary(&mut self) -> Summary {
        loop {
            if let Report::Done(summary) = self.reports.recv().await.unwrap() {
                return summary;
            }
        }
    }
}

#[tokio::test]
async fn a_change_while_its_folder_is_listed_causes_an_event() {
    let mut walk = Halted::new();
    let listed = walk.first_listing().await.files.remove(0).path;
    fs::write(walk.root.join(&listed), "changed after it was listed").unwrap();
    walk.summary().await;
    let hint = tokio::time::timeout(Duration::from_secs(10), walk.hints.next()).await;
    assert_eq!(hint.ok(), Some(Hint::Path(listed)));
}

#[tokio::test]
async fn a_walk_of_a_root_that_is_replaced_meanwhile_counts_for_nothing() {
    let mut walk = Halted::new();
    walk.first_listing().await;
    fs::rename(&walk.root, walk.dir.path().join("away")).unwrap();
    fs::create_dir(&walk.root).unwrap();
    let reported = walk.summary().await.root.unwrap_err().to_string();
    assert!(reported.contains("replaced"), "{reported}");
}

#[test]
fn folders_are_read_deepest_first_and_wait_by_their_names_only() {
    let mut waiting = Waiting::new(PathBuf::new());
    assert!(waiting.push(OsStr::new("a")) && waiting.push(OsStr::new("b")));
    let mut seen = Vec::new();
    while let Some(dir) = waiting.next().map(Path::to_owned) {
        if dir.components().count() < 3 {
            waiting.push(OsStr::new("x"));
            waiting.push(OsStr::new("y"));
        }
        seen.push(dir.to_str().unwrap().to_owned());
    }
    let below = |top: &str| {
        let each = ["", "/y", "/y/y", "/y/x", "/x", "/x/y", "/x/x"];
        each.map(|below| format!("{top}{below}"))
    };
    assert_eq!(seen, [below("b"), below("a")].concat());
    assert_eq!(waiting.bytes, 0);
    let mut count = 0;
    while waiting.push(OsStr::new("one more folder")) {
        count += 1;
    }
    assert!((500_000..2_000_000).contains(&count), "{count}");
}

#[test]
fn a_path_is_refused_by_its_length_and_by_its_depth() {
    let deep = |depth: usize| PathBuf::from(vec!["d"; depth].join("/"));
    for (path, refused) in [
        (deep(DEPTH_MAX), false),
        (deep(DEPTH_MAX + 1), true),
        (PathBuf::from("x".repeat(PATH_MAX)), false),
        (PathBuf::from("x".repeat(PATH_MAX + 1)), true),
    ] {
        assert_eq!(too_long(&path).is_some(), refused, "{path:?}");
    }
}

/// One file with this name, this size and these times, and this connector.
fn listing(path: &str, numbers: [i64; 3], connector: Option<&str>) -> Listing {
    let [size, mtime_ns, ctime_ns] = numbers;
    let file = Listed {
        path: PathBuf::from(path),
        fingerprint: Fingerprint {
            size: size.unsigned_abs(),
            mtime_ns,
            ctime_ns,
        },
        connector: connector.map(ConnectorType::new),
        set_stem: None,
    };
    Listing {
        dir: PathBuf::from("plans"),
        files: vec![file],
        part: 0,
        last: true,
    }
}

#[test]
fn a_digest_tells_any_change_of_what_a_file_is_known_by() {
    let digests: Vec<_> = [
        listing("plans/a.dgn", [1, 2, 3], Some("MSTN")),
        listing("plans/b.dgn", [1, 2, 3], Some("MSTN")),
        listing("plans/a.dgn", [0, 2, 3], Some("MSTN")),
        listing("plans/a.dgn", [1, 0, 3], Some("MSTN")),
        listing("plans/a.dgn", [1, 2, 0], Some("MSTN")),
        listing("plans/a.dgn", [1, 2, 3], Some("DWG")),
        listing("plans/a.dgn", [1, 2, 3], Some("CIVI")),
        listing("plans/a.dgn", [1, 2, 3], Some("")),
        listing("plans/a.dgn", [1, 2, 3], None),
    ]
    .iter()
    .map(Listing::digest)
    .collect();
    let different: std::collections::HashSet<_> = digests.iter().collect();
    assert_eq!(different.len(), digests.len());
    let again = listing("plans/a.dgn", [1, 2, 3], Some("MSTN"));
    assert_eq!(again.digest(), digests[0]);
    let two = Listing {
        files: again
            .files
            .into_iter()
            .chain(listing("plans/b.dgn", [1, 2, 3], None).files)
            .collect(),
        dir: again.dir,
        part: 0,
        last: true,
    };
    assert!(!digests.contains(&two.digest()));
}
