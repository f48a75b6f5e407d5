//! What the tests of the ledger share: a ledger with one watch, and verbs that bring files to a state.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot continue should stop here"
)]

use std::path::PathBuf;

use jiff::Timestamp;
use sqlx::Connection as _;

use super::*;
use crate::connection_name::ConnectionName;
use crate::connector_type::ConnectorType;
use crate::ledger_location::Server;

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

pub(super) fn print(n: i64) -> Fingerprint {
    Fingerprint {
        size: 10,
        mtime_ns: n,
        ctime_ns: n,
    }
}

pub(super) fn ready(path: &str, n: i64) -> Ready {
    Ready {
        path: PathBuf::from(path),
        fingerprint: print(n),
        connector: Some(ConnectorType::new("MSTN")),
        set_stem: None,
    }
}

/// The same as a reference, which is stored only.
pub(super) fn reference(path: &str, n: i64) -> Ready {
    Ready {
        connector: None,
        ..ready(path, n)
    }
}

pub(super) fn content(n: u8) -> Content {
    Content {
        digest: [n; 32],
        bytes: 10,
    }
}

pub(super) fn spec(name: &str) -> WatchSpec {
    WatchSpec {
        name: name.to_owned(),
        settings: format!("settings of {name}"),
        follows: None,
        formerly: None,
        path: PathBuf::from("/srv").join(name),
        imodel_wait: None,
        imodel_id: "imodel".into(),
        storage_folder: String::new(),
        withdrawal: crate::ledger::WithdrawalPolicy::default(),
        bulk_change_limits: BulkChangeLimits {
            changed_files: 1000,
            new_files: 1000,
        },
        connection: ConnectionName::from("itwin-syncd".to_owned()),
    }
}

pub(super) struct Fixture {
    pub(super) dir: tempfile::TempDir,
    pub(super) ledger: Ledger,
    pub(super) watch: WatchId,
}

/// The server of `ITWIN_SYNCD_TEST_POSTGRES`, on which all tests of the ledger run if there is one.
const SERVER: &str = "ITWIN_SYNCD_TEST_POSTGRES";

/// How many random cases a test runs: fewer on a server, where each needs a database of its own.
pub(crate) fn cases(number: u32) -> u32 {
    if std::env::var_os(SERVER).is_some() {
        number / 10
    } else {
        number
    }
}

/// Where the ledger of a state directory is: on PostgreSQL in a schema of its own.
pub(super) async fn location(dir: &Path) -> LedgerLocation {
    let Ok(url) = std::env::var(SERVER) else {
        return dir.into();
    };
    let schema = dir.file_name().unwrap().to_str().unwrap().replace('.', "");
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    let create = format!("CREATE SCHEMA IF NOT EXISTS \"{schema}\"");
    let create = sqlx::raw_sql(sqlx::AssertSqlSafe(create));
    create.execute(&mut connection).await.unwrap();
    let url = format!("{url}?options=-c%20search_path%3D%22{schema}%22");
    let server = Server {
        url: url.parse().unwrap(),
        password: None,
        ca_file: None,
    };
    LedgerLocation::on(server, dir)
}

/// Opens the ledger of a state directory.
pub(super) async fn open(dir: &Path) -> Result<Ledger, Error> {
    Ledger::open(location(dir).await).await
}

impl Fixture {
    pub(super) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ledger = open(dir.path()).await.unwrap();
        Self::with(dir, ledger).await
    }

    /// For tests of SQLite's file.
    pub(super) async fn on_sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).await.unwrap();
        Self::with(dir, ledger).await
    }

    async fn with(dir: tempfile::TempDir, ledger: Ledger) -> Self {
        let watch = ledger
            .register_watches(&[spec("north")], at(0))
            .await
            .unwrap()[0]
            .id;
        Self { dir, ledger, watch }
    }

    pub(super) async fn restart(self) -> Self {
        self.ledger.close().await;
        let ledger = open(self.dir.path()).await.unwrap();
        let watch = ledger
            .register_watches(&[spec("north")], at(0))
            .await
            .unwrap()[0]
            .id;
        Self {
            dir: self.dir,
            ledger,
            watch,
        }
    }

    /// Makes it the only configured watch.
    pub(super) async fn register(&self, spec: &WatchSpec, second: i64) -> Registered {
        let specs = std::slice::from_ref(spec);
        let registered = self.ledger.register_watches(specs, at(second)).await;
        registered.unwrap().remove(0)
    }

    pub(super) async fn hand_over(&self, path: &str, n: i64, second: i64) -> usize {
        self.ledger
            .hand_over(self.watch, &[ready(path, n)], at(second))
            .await
            .unwrap()
            .changed
    }

    pub(super) async fn claim(&self, second: i64) -> Option<UploadJob> {
        self.ledger.claim_upload(None, at(second)).await.unwrap()
    }

    /// A file whose content is in storage, and that waits for a run.
    pub(super) async fn stored(&self, path: &str) -> UploadJob {
        self.hand_over(path, 1, 0).await;
        let job = self.claim(0).await.unwrap();
        self.store(&job, 1, 1).await;
        job
    }

    /// The same in a run, together with all others that waited for one.
    pub(super) async fn running(&self, path: &str) -> RunId {
        self.stored(path).await;
        self.begin_run(2).await
    }

    /// The same in the iModel.
    pub(super) async fn synchronized(&self, path: &str) {
        let run = self.running(path).await;
        self.finish_run(run, Verdict::Synchronized(None), 3).await;
    }

    pub(super) async fn store(&self, job: &UploadJob, n: u8, second: i64) -> UploadResult {
        if job.storage_file_id.is_none() {
            let id = format!("storage {}", job.path.display());
            self.ledger
                .record_storage_file(job, &id.as_str().into(), at(second))
                .await
                .unwrap();
        }
        let stored = StoredContent {
            version: job.version,
            content: content(n),
        };
        self.ledger
            .record_blob_written(job, &stored.content, at(second))
            .await
            .unwrap();
        self.ledger
            .finish_stored(job, &stored, &StorageStamp::default(), at(second))
            .await
            .unwrap()
    }

    pub(super) async fn connection(&self) -> ConnectionRecord {
        self.ledger
            .connections(&"imodel".into())
            .await
            .unwrap()
            .remove(0)
    }

    /// The files that wait for a run.
    pub(super) async fn batch(&self, second: i64) -> Vec<ConnectionFile> {
        let connection = self.connection().await.id;
        let files = self.ledger.connection_files(connection, at(second)).await;
        let mut files = files.unwrap();
        files.retain(ConnectionFile::awaits_run);
        files
    }

    /// Maps everything that waits and begins a run of it.
    pub(super) async fn begin_run(&self, second: i64) -> RunId {
        let connection = self.connection().await.id;
        let mappings: Vec<_> = self
            .batch(second)
            .await
            .into_iter()
            .map(|file| Mapping {
                file: file.file,
                source_file_id: format!("source {}", file.path.display()),
                connector: file.connector,
                last_reader: LastReader::Same,
            })
            .collect();
        self.ledger
            .record_mappings(connection, &mappings, at(second))
            .await
            .unwrap();
        self.ledger
            .begin_run(connection, at(second), at(second))
            .await
            .unwrap()
    }

    pub(super) async fn finish_run(
        &self,
        run: RunId,
        verdict: Verdict,
        second: i64,
    ) -> Vec<RunReport> {
        let outcomes = outcomes(&self.ledger, run, &verdict, second).await;
        self.ledger
            .finish_run(run, "Completed", "Success", &outcomes, at(second))
            .await
            .unwrap()
    }

    pub(super) async fn file(&self, path: &str) -> FileReport {
        let files = self.ledger.snapshot(at(0)).await.unwrap().files;
        files
            .into_iter()
            .find(|file| file.path == Path::new(path))
            .unwrap()
    }
}

pub(super) fn refusal(again: Again) -> Refusal {
    Refusal {
        kind: FailureKind::Transient,
        reason: "no".to_owned(),
        hint: None,
        again,
    }
}

/// One verdict for every file of a run.
pub(super) async fn outcomes(
    ledger: &Ledger,
    run: RunId,
    verdict: &Verdict,
    second: i64,
) -> Vec<FileOutcome> {
    let in_run = ledger.files_in_run(run).await.unwrap();
    let connection = ledger.connections(&"imodel".into()).await.unwrap()[0].id;
    let files = ledger.connection_files(connection, at(second)).await;
    let mut files = files.unwrap();
    files.retain(|file| in_run.contains(&file.file));
    let outcome = |file: ConnectionFile| FileOutcome {
        file: file.file,
        storage_file_id: file.storage_file_id,
        stored_generation: file.stored.generation,
        verdict: verdict.clone(),
    };
    files.into_iter().map(outcome).collect()
}

/// Counts every file, and compares with the kept counts.
pub(super) async fn assert_counts_are_right(connection: &mut database::Connection) {
    type Row = (i64, String, String, i64, i64, i64, i64);
    let kept: Vec<Row> = sql::query_as(
        "SELECT watch_id, job, outcome, absent, vanished, reported, files FROM counts \
         WHERE files <> 0 ORDER BY 1, 2, 3, 4, 5, 6",
    )
    .fetch_all(connection)
    .await
    .unwrap();
    let counted: Vec<Row> = sql::query_as(
        "SELECT f.watch_id, COALESCE(j.state, ''), COALESCE(f.outcome, ''), \
         CASE WHEN COALESCE(f.absence, 'missing') <> 'missing' THEN CAST(1 AS BIGINT) ELSE 0 END, \
         CASE WHEN f.known = 0 THEN CAST(1 AS BIGINT) ELSE 0 END, \
         CASE WHEN j.reported IS NOT NULL THEN CAST(1 AS BIGINT) ELSE 0 END, COUNT(*) FROM files f LEFT JOIN jobs j ON j.file_id = f.id \
         GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6",
    )
    .fetch_all(connection)
    .await
    .unwrap();
    assert_eq!(kept, counted, "kept counts and counted ones");
}
