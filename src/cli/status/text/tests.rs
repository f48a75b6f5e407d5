//! The text of `status` in its main states, recorded as snapshots.
//!
//! Longer than most files because each state is built here.

use super::lists::progress;
use super::*;
use crate::cli::status::unfinished::UnfinishedFile;
use crate::connector_type::ConnectorType;
use crate::ledger::{HistoryEvent, Outcome, RunEvent, Step};
use crate::runtime_status::{LedgerOutage, Outage, PageProblem, Undelivered};
use crate::status_view::{
    BatchView, BlockingView, DaemonView, ExampleView, FailureGroupView, FilesView, HistoryView,
    IssuesView, LineView, ResultView, RunProgressView, RunView, UnfinishedView, UploadView,
};

#[test]
fn times_are_relative_to_now() {
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    for (seconds, expected) in [
        (0, "just now"),
        (-42, "42 s ago"),
        (-300, "5 min ago"),
        (-3 * 3600, "3 h ago"),
        (59 * 60, "in 59 min"),
    ] {
        let at = Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        assert_eq!(moment_at(at, now), expected);
    }
}

#[test]
fn an_upload_shows_bar_percent_rate_and_remaining_time() {
    let upload = UploadView {
        watch: "north".to_owned(),
        path: "a.dgn".to_owned(),
        bytes: 200 * 1024 * 1024,
        sent: 50 * 1024 * 1024,
        percent: 25,
        bytes_per_second: 10 * 1024 * 1024,
        since: Timestamp::UNIX_EPOCH,
    };
    assert_eq!(
        progress(&upload),
        "█████░░░░░░░░░░░░░░░  25 % of 200.0 MiB, 10.0 MiB/s, 15 s left"
    );
    let stalled = UploadView {
        bytes_per_second: 0,
        ..upload
    };
    assert!(
        progress(&stalled).ends_with("0 B/s"),
        "{}",
        progress(&stalled)
    );
}

#[test]
fn a_due_time_is_now() {
    for (second, expected) in [(-60, "now"), (0, "now"), (1, "now"), (2, "in 2 s")] {
        assert_eq!(upcoming(ago(-second), now()), expected);
    }
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn ago(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 - seconds).unwrap()
}

fn watch() -> WatchView {
    WatchView {
        name: "north".to_owned(),
        imodel_id: "c0ffee00-1234-4abc-8def-0123456789ab".to_owned(),
        configured: true,
        root: "ok",
        note: None,
        scanned_at: Some(ago(1140)),
        next_scan: Some(ago(-2760)),
        scanning: false,
        paused_at: None,
        suspended_until: None,
        suspended_reason: None,
        files: FilesView {
            synchronized: 212,
            synchronized_with_issues: 0,
            uploaded: 0,
            gone: 0,
            waiting: 0,
            working: 0,
            failed: 0,
            settling: Some(0),
            unreadable: Some(0),
            ignored: Some(37),
        },
        last_run: Some(run()),
        blocked_by: None,
        source_files: None,
        former_imodels: Vec::new(),
        spatial_root: None,
        waits: Vec::new(),
        settings: None,
        owner: None,
        rival: None,
        named_version: None,
        deletions: Vec::new(),
        unfinished: Vec::new(),
    }
}

fn run() -> RunView {
    RunView {
        id: Some("3d746129".to_owned()),
        imodel_id: None,
        requested_at: ago(191),
        ended_at: Some(ago(120)),
        seconds: Some(71.0),
        state: Some("Completed".to_owned()),
        result: Some("Success".to_owned()),
        files: None,
        overdue: false,
        progress: None,
        elapsed_seconds: None,
        usual_seconds: None,
        seconds_left: None,
    }
}

fn file(path: &str) -> FileView {
    FileView {
        failure_group: None,
        id: "1".to_owned(),
        watch: "north".to_owned(),
        path: path.to_owned(),
        path_bytes: None,
        state: "due",
        status: "waiting for upload",
        seen_at: Some(ago(42)),
        result: None,
        result_at: None,
        connector: Some(ConnectorType::new("MSTN")),
        storage_file_id: None,
        bytes: None,
        run: None,
        seconds: None,
        issues: None,
        absence: None,
        absent_since: None,
        withdrawal: None,
        failure: None,
        reason: None,
        hint: None,
        attempts: 0,
        next_attempt: None,
    }
}

fn failed(path: &str, next_attempt: Option<Timestamp>) -> FileView {
    FileView {
        state: "failed",
        status: "failed",
        reason: Some(format!("cannot upload {path:?}: it is empty")),
        hint: Some("save the file again with content, or exclude it".to_owned()),
        attempts: 1,
        next_attempt,
        ..file(path)
    }
}

fn view(watches: Vec<WatchView>) -> StatusView {
    StatusView {
        failure_groups: Vec::new(),
        more_failure_groups: 0,
        daemon: Some(DaemonView {
            pid: 812,
            since: ago(10_800),
            version: "0.1.0".to_owned(),
        }),
        platform_outage: None,
        ledger_outage: None,
        undelivered: Vec::new(),
        page_problem: None,
        standby: None,
        nodes: Vec::new(),
        watches,
        uploads: Vec::new(),
        batch: None,
        failed: Vec::new(),
        open: Vec::new(),
        results: Vec::new(),
        runs: Vec::new(),
    }
}

fn shown(view: &StatusView) -> String {
    report(view, &Surroundings::default(), now())
}

#[test]
fn nothing_needs_attention() {
    insta::assert_snapshot!(shown(&view(vec![watch()])));
}

#[test]
fn nothing_synchronized_yet() {
    let mut new = watch();
    (new.files.synchronized, new.last_run, new.scanned_at) = (0, None, None);
    (new.next_scan, new.scanning) = (None, true);
    insta::assert_snapshot!(shown(&view(vec![new])));
}

#[test]
fn platform_unreachable() {
    let mut view = view(vec![watch()]);
    view.platform_outage = Some(Outage {
        since: ago(300),
        reason: "list folders: cannot reach api.bentley.com: connection refused".to_owned(),
    });
    insta::assert_snapshot!(shown(&view));
}

#[test]
fn the_disk_of_the_database_server_is_full() {
    let mut view = view(vec![watch()]);
    view.ledger_outage = Some(LedgerOutage {
        since: ago(300),
        reason: "error returned from database: could not extend file: No space left on device"
            .to_owned(),
        hint: "free space on the disk of the database server".to_owned(),
    });
    insta::assert_snapshot!(shown(&view));
}

#[test]
fn a_hook_whose_messages_are_not_delivered() {
    let mut view = view(vec![watch()]);
    view.undelivered.push(Undelivered {
        receiver: "hook \"build-server\"".to_owned(),
        since: ago(300),
        reason: "build.example.com answered 503".to_owned(),
    });
    insta::assert_snapshot!(shown(&view));
}

#[test]
fn a_page_whose_address_is_in_use() {
    let mut view = view(vec![watch()]);
    view.page_problem = Some(PageProblem {
        since: ago(300),
        reason: "cannot listen on 127.0.0.1:8291: Address already in use (os error 98)".to_owned(),
    });
    insta::assert_snapshot!(shown(&view));
}

#[test]
fn daemon_not_running() {
    let mut last = view(vec![watch()]);
    last.daemon = None;
    insta::assert_snapshot!(shown(&last));
}

#[test]
fn daemon_not_responding_and_disk_full() {
    let mut last = view(vec![watch()]);
    last.daemon = None;
    let surroundings = Surroundings {
        unreachable: Some("cannot reach the daemon at \"/run/x\": permission denied".to_owned()),
        disk_full: Some(512),
    };
    insta::assert_snapshot!(report(&last, &surroundings, now()));
}

#[test]
fn failed_files() {
    let mut watch = watch();
    watch.files.failed = 3;
    let mut view = view(vec![watch]);
    view.failed = vec![
        failed("Pump.dwg", None),
        failed("Deck.dgn", Some(ago(-540))),
    ];
    insta::assert_snapshot!(shown(&view));
}

fn group(files: u64, next_attempt: Option<Timestamp>) -> FailureGroupView {
    FailureGroupView {
        key: "e2a14f787f6f".to_owned(),
        failure: "blocked",
        text: format!("{files} files: it is empty"),
        reason: "cannot upload \"…\": it is empty".to_owned(),
        hint: Some("save the file again with content, or exclude it".to_owned()),
        files,
        failed: files,
        retrying: 0,
        watches: vec!["north".to_owned()],
        since: Some(ago(300)),
        next_attempt,
        examples: vec![ExampleView {
            id: "2".to_owned(),
            watch: "north".to_owned(),
            path: "Span 1.dgn".to_owned(),
        }],
    }
}

#[test]
fn many_failures_by_reason_and_the_newest_of_them() {
    let mut watch = watch();
    watch.files.failed = 480;
    let mut view = view(vec![watch]);
    let retrying = FailureGroupView {
        failed: 0,
        retrying: 2,
        ..group(2, Some(ago(-60)))
    };
    view.failure_groups = vec![group(478, None), retrying];
    view.more_failure_groups = 1;
    let in_group = FileView {
        failure_group: Some("e2a14f787f6f".to_owned()),
        ..failed("Deck.dgn", Some(ago(-540)))
    };
    view.failed = vec![in_group; 10];
    insta::assert_snapshot!(shown(&view));
}

#[test]
fn a_list_of_files_says_how_it_continues() {
    let found = [failed("Pump.dwg", None), file("Deck.dgn")];
    let page = |offset, all| page(&found, all, offset, &[], now());
    let none = super::page(&[], 0, 0, &[], now());
    let search = Search {
        failed: true,
        filter: crate::ledger::FileFilter {
            watches: Vec::new(),
            text: Some("d\u{202e}".to_owned()),
        },
    };
    let head = head_of_list(
        &view(vec![watch()]),
        &Surroundings::default(),
        now(),
        &search,
    );
    insta::assert_snapshot!(format!(
        "{head}{}\n{}\n{}\n{none}",
        page(0, 9),
        page(7, 9),
        page(0, 2)
    ));
}

#[test]
fn work_in_progress() {
    let mut busy = watch();
    (busy.files.working, busy.files.waiting, busy.files.settling) = (1, 2, Some(2));
    busy.next_scan = Some(now());
    busy.last_run = Some(RunView {
        ended_at: None,
        seconds: None,
        state: Some("Executing".to_owned()),
        result: None,
        usual_seconds: Some(300.0),
        progress: Some(RunProgressView {
            phase: Some("MasterFile".to_owned()),
            jobs: 1,
            jobs_done: 0,
            tasks: 40,
            tasks_done: 12,
            current: vec!["Deck.dgn".to_owned(), "a\u{1b}[2J.dgn".to_owned()],
            text: "MasterFile, 0 of 1 job and 12 of 40 tasks done".to_owned(),
        }),
        ..run()
    });
    busy.unfinished = ["Saving.dgn", "Open.dwg"]
        .map(|path| UnfinishedView {
            path: path.to_owned(),
            busy: path == "Open.dwg",
            reason: (path == "Open.dwg").then(|| "cannot be opened: Permission denied".to_owned()),
            hint: (path == "Open.dwg").then(|| "grant read permission".to_owned()),
        })
        .into();
    let mut view = view(vec![busy]);
    view.batch = Some(BatchView {
        files: 40,
        uploaded: 27,
        bytes_left: Some(18_000_000_000),
        upload_seconds_left: Some(180),
        run_seconds_left: None,
        text: "27 of 40 files uploaded, about 3 min left".to_owned(),
    });
    view.uploads.push(UploadView {
        watch: "north".to_owned(),
        path: "Scan.rvt".to_owned(),
        bytes: 4_000_000_000,
        sent: 1_000_000_000,
        percent: 25,
        bytes_per_second: 100_000_000,
        since: ago(10),
    });
    let retried = FileView {
        reason: Some("cannot upload \"Wall.dgn\": no connection".to_owned()),
        hint: Some("check the network".to_owned()),
        attempts: 2,
        next_attempt: Some(ago(-40)),
        ..file("Wall.dgn")
    };
    view.open = vec![file("Scan.rvt"), file("Deck.dgn"), retried];
    view.results.push(ResultView {
        file: "7".to_owned(),
        watch: "north".to_owned(),
        path: "Bridge/Deck 6.dgn".to_owned(),
        result: "synchronized",
        at: ago(120),
        seconds: 71.0,
        bytes: 7,
        connector: Some(ConnectorType::new("MSTN")),
        reason: None,
    });
    insta::assert_snapshot!(shown(&view));
}

#[test]
fn paused_suspended_and_unavailable_watches() {
    let named = |name: &str| WatchView {
        name: name.to_owned(),
        ..watch()
    };
    let mut paused = named("paused");
    paused.paused_at = Some(ago(300));
    paused.suspended_reason = Some("paused by an operator".to_owned());
    let mut guarded = named("guarded");
    guarded.suspended_reason = Some("1204 known files changed at once (limit 1000)".to_owned());
    let mut rejected = named("rejected");
    rejected.suspended_reason = Some("the credentials were rejected".to_owned());
    rejected.suspended_until = Some(ago(-300));
    let mut away = named("away");
    (away.root, away.note) = ("unavailable", Some("host is down".to_owned()));
    let mut partly = named("partly");
    (partly.root, partly.note) = ("degraded", Some("\"Secret\": permission denied".to_owned()));
    partly.files.synchronized_with_issues = 1;
    (partly.files.gone, partly.files.uploaded) = (2, 3);
    let mut blocked = named("blocked");
    blocked.root = "polled";
    blocked.blocked_by = Some(BlockingView {
        run: "25de0720".to_owned(),
        connection: "theirs".to_owned(),
        since: ago(30_000),
        overdue: true,
    });
    let mut former = named("former");
    former.configured = false;
    insta::assert_snapshot!(shown(&view(vec![
        paused, guarded, rejected, away, partly, blocked, former
    ])));
}

#[test]
fn history_of_a_file() {
    let line = |second: i64, what: HistoryEvent, text: &str| LineView {
        at: ago(second),
        version: Some(1),
        what,
        text: text.to_owned(),
        note: None,
        hint: None,
        run: None,
        bytes: None,
        seconds: None,
    };
    let run = |second, what: RunEvent, text: &str, note: Option<&str>| LineView {
        version: None,
        run: Some("25de0720".to_owned()),
        note: note.map(str::to_owned),
        ..line(second, HistoryEvent::Run(what), text)
    };
    let history = HistoryView {
        file: FileView {
            storage_file_id: Some("cafe".to_owned()),
            bytes: Some(262),
            issues: Some(IssuesView {
                errors: 1,
                warnings: 5,
                others: 0,
            }),
            status: "synchronized with issues",
            ..file("Site/Ground.ifc")
        },
        history: vec![
            line(60, HistoryEvent::Step(Step::Seen), "version 1 queued"),
            LineView {
                note: Some("cannot upload: no connection".to_owned()),
                hint: Some("check the network".to_owned()),
                ..line(
                    50,
                    HistoryEvent::Step(Step::PutOff),
                    "attempt failed, will be retried",
                )
            },
            line(
                40,
                HistoryEvent::Step(Step::Uploaded),
                "uploaded to storage",
            ),
            run(30, RunEvent::Requested, "run requested", None),
            run(20, RunEvent::Ended, "run ended", Some("Success")),
            LineView {
                seconds: Some(3.3),
                ..line(
                    20,
                    HistoryEvent::Result(Outcome::Synchronized),
                    "synchronized",
                )
            },
        ],
    };
    let unknown = HistoryView {
        file: file("Other.dgn"),
        history: Vec::new(),
    };
    let unfinished = UnfinishedFile {
        watch: "north".to_owned(),
        view: UnfinishedView {
            path: "Secret.dgn".to_owned(),
            busy: true,
            reason: Some("cannot be opened: Permission denied".to_owned()),
            hint: Some("grant read permission".to_owned()),
        },
        unreadable_since: Some(ago(240)),
    };
    let text = histories(&[history, unknown], &[unfinished], ago(0));
    insta::with_settings!({filters => vec![(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "[local time]")]}, {
        insta::assert_snapshot!(text);
    });
}

#[test]
fn elapsed_times_and_estimates_alone_are_no_other_state() {
    let with = |elapsed: u64, done: u64| {
        let mut watch = watch();
        watch.last_run = Some(RunView {
            elapsed_seconds: Some(elapsed),
            seconds_left: Some(300 - elapsed),
            progress: Some(RunProgressView {
                phase: None,
                jobs: 1,
                jobs_done: 0,
                tasks: 2,
                tasks_done: done,
                current: Vec::new(),
                text: String::new(),
            }),
            ..run()
        });
        let mut view = view(vec![watch]);
        view.batch = Some(BatchView {
            files: 2,
            uploaded: 2,
            bytes_left: Some(0),
            upload_seconds_left: None,
            run_seconds_left: Some(300 - elapsed),
            text: format!("2 of 2 files uploaded; the run should end in about {elapsed} s"),
        });
        view
    };
    for (other, expected) in [
        (with(7, 0), true),
        (with(7, 1), false),
        (view(vec![watch()]), false),
    ] {
        assert_eq!(
            with(5, 0).differs_in_time_only(&other),
            expected,
            "{other:?}"
        );
    }
}
