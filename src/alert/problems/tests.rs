use jiff::Timestamp;

use super::*;
use crate::ledger::{
    BlockingRun, BulkChange, Counts, DeletionCause, DeletionReport, Deletions, NamedVersionReport,
    OtherLedger, OwnerNote, Rival, RunSummary, SignInWait, SpatialRootWait, WindowWait,
};

fn watch() -> WatchReport {
    WatchReport {
        name: "north".to_owned(),
        imodel_id: "c0ffee00".into(),
        root: RootState::Ok,
        note: None,
        scanned_at: None,
        inactive: None,
        configured: true,
        last_run: None,
        blocked: None,
        source_files: None,
        spatial_root: None,
        upload_wait: None,
        run_wait: None,
        named_version: None,
        settings_fault: None,
        owner: None,
        rival: None,
        deletions: DeletionReport::default(),
        former_imodels: Vec::new(),
        counts: Counts::default(),
        upload_bytes: Some(0),
    }
}

fn unnamed(severe: bool) -> WatchReport {
    WatchReport {
        named_version: Some(NamedVersionReport {
            last: None,
            note: None,
            reason: Some("cannot create a named version: 403".to_owned()),
            hint: Some("assign a role".to_owned()),
            severe,
        }),
        ..watch()
    }
}

fn owner(waits: bool) -> WatchReport {
    WatchReport {
        owner: Some(OwnerNote {
            waits,
            reason: "runs may not act for Ada".to_owned(),
            hint: "run `itwin-syncd login --connector`".to_owned(),
        }),
        ..watch()
    }
}

/// What only the user can end.
fn of_the_user() -> [WatchReport; 3] {
    let signed_out = WatchReport {
        inactive: Some(Inactive::AwaitsSignIn(SignInWait {
            reason: "no user is signed in".to_owned(),
            hint: "run `itwin-syncd login`".to_owned(),
        })),
        ..watch()
    };
    [signed_out, owner(true), owner(false)]
}

/// Runs that take too long: one of its own, and one that it waits for.
fn of_overdue_runs() -> [WatchReport; 2] {
    let at = Timestamp::UNIX_EPOCH;
    let run = RunSummary {
        id: Some("3d746129".to_owned()),
        requested_at: at,
        ended_at: None,
        state: None,
        result: None,
        overdue: true,
        progress: None,
        usual: None,
    };
    let blocking = BlockingRun {
        run: "25de0720".to_owned(),
        connection: "theirs".to_owned(),
        since: at,
        overdue: true,
    };
    let own = WatchReport {
        last_run: Some(run),
        ..watch()
    };
    let other = WatchReport {
        blocked: Some(blocking),
        ..watch()
    };
    [own, other]
}

/// What the daemon of another ledger causes.
fn of_another_ledger() -> [WatchReport; 2] {
    let waits = WatchReport {
        inactive: Some(Inactive::OtherLedger(OtherLedger {
            id: "0a".repeat(16),
            host: "cad1".to_owned(),
        })),
        ..watch()
    };
    let wanted = WatchReport {
        rival: Some(Rival {
            host: "cad2".to_owned(),
        }),
        ..watch()
    };
    [waits, wanted]
}

#[test]
fn problems_of_a_watch() {
    let at = Timestamp::UNIX_EPOCH;
    let inactive = |inactive| WatchReport {
        inactive: Some(inactive),
        ..watch()
    };
    let noted = |root, note: &str| WatchReport {
        root,
        note: Some(note.to_owned()),
        ..watch()
    };
    let waiting = |state| WatchReport {
        spatial_root: Some(SpatialRootWait {
            path: "Site/GCS.dgn".to_owned(),
            state,
        }),
        ..watch()
    };
    let deleted = |deletions| WatchReport {
        deletions,
        ..watch()
    };
    let [own, other] = of_overdue_runs();
    let watches = [
        noted(RootState::Unavailable, "host is down"),
        noted(RootState::Degraded, "\"Secret\": permission denied"),
        inactive(Inactive::Paused { since: at }),
        inactive(Inactive::Suspended(BulkChange {
            kind: ledger::BulkChangeKind::Changed,
            files: 1204,
            moves: 0,
            limit: 1000,
        })),
        inactive(Inactive::BackingOff {
            until: at,
            reason: "the credentials were rejected".to_owned(),
        }),
        own,
        other,
        waiting(SpatialRootState::Pending),
        waiting(SpatialRootState::Missing),
        waiting(SpatialRootState::Failed),
        WatchReport {
            run_wait: Some(WindowWait {
                until: crate::clock::now(),
                overdue: true,
            }),
            ..watch()
        },
        unnamed(false),
        unnamed(true),
        deleted(DeletionReport {
            suspended: Some(Deletions {
                files: 45,
                limit: 20,
                cause: DeletionCause::Bulk,
            }),
            ..DeletionReport::default()
        }),
        deleted(DeletionReport {
            refused: 3,
            reason: Some("cannot delete the storage file of \"a.dgn\": 403".to_owned()),
            hint: Some("give the application a role".to_owned()),
            ..DeletionReport::default()
        }),
    ];
    let mut text = String::new();
    let others = of_the_user().into_iter().chain(of_another_ledger());
    for problem in watches
        .into_iter()
        .chain(others)
        .flat_map(|watch| of_watch(&watch))
    {
        let level = if problem.severe { "error" } else { "warn" };
        text += &format!("{level} {}: {}\n", problem.place(), problem.reason);
        if let Some(hint) = problem.hint {
            text += &format!("  hint: {hint}\n");
        }
    }
    insta::with_settings!({filters => vec![(r"until \d\d:\d\d", "until [time]")]}, {
        insta::assert_snapshot!(text);
    });
}
