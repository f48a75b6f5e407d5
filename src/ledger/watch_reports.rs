//! Reports of watches: their roots, what suspends them, and their files by state.
//!
//! Longer than most files because one query with all its columns fills the report.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

use super::clock::is_ahead;
use super::connections::{SOURCE_FILES, source_files};
use super::former_source_files::former_imodels;
use super::named_versions::{NAMED_VERSION, NamedVersionRow};
use super::run_progress::{duration, recorded};
use super::{
    BlockingRun, BulkChange, BulkChangeKind, DeletionCause, Deletions, Error, FormerImodel,
    Inactive, JobState, Ledger, NamedVersionReport, OnDelete, OtherLedger, Outcome, OwnerNote,
    Rival, RootState, RunProgress, SettingsFault, SignInWait, SpatialRootState, SpatialRootWait,
    Tx, WatchId, WindowWait, count_value, millis, sql, timestamp,
};
use crate::ids::ImodelId;
use crate::source_file_limit::SourceFiles;

/// Files that are due whose sizes are read; with more, those of the rest are estimated.
const SIZES_READ: i64 = 500;

/// A watch in a snapshot.
#[derive(Debug, Clone)]
pub struct WatchReport {
    /// Its name.
    pub name: String,
    /// Its iModel.
    pub imodel_id: ImodelId,
    /// How its root was found last.
    pub root: RootState,
    /// What is wrong with the root, if something is.
    pub note: Option<String>,
    /// The end of the last complete scan.
    pub scanned_at: Option<Timestamp>,
    /// Why none of its jobs is claimed.
    pub inactive: Option<Inactive>,
    /// It is in the configuration that the daemon was started with last.
    pub configured: bool,
    /// The last run of its connection.
    pub last_run: Option<RunSummary>,
    /// A run of someone else that keeps runs of its iModel from starting.
    pub blocked: Option<BlockingRun>,
    /// The source files of its iModel; None before its connection exists.
    pub source_files: Option<SourceFiles>,
    /// What the files of its iModel wait for, if that is its spatial root.
    pub spatial_root: Option<SpatialRootWait>,
    /// What its uploads wait for, if that is a time of day.
    pub upload_wait: Option<WindowWait>,
    /// What runs of its iModel wait for, if that is a time of day.
    pub run_wait: Option<WindowWait>,
    /// Why the platform does not have the settings of its connection or its iModel; runs wait.
    pub settings_fault: Option<SettingsFault>,
    /// What the owner of the connections of its iModel, a user, has to do.
    pub owner: Option<OwnerNote>,
    /// Another daemon that wants its storage folder and does not get it.
    pub rival: Option<Rival>,
    /// The named versions of its iModel, if the configuration requests any.
    pub named_version: Option<NamedVersionReport>,
    /// Its files that are gone, as far as they are or will be withdrawn.
    pub deletions: DeletionReport,
    /// The iModels that it went to before, and in which source files of it stayed.
    pub former_imodels: Vec<FormerImodel>,
    /// Its files by how they stand.
    pub counts: Counts,
    /// The size of its files that wait for their upload or are in it, estimated if there are many. None if some wait
    /// for something else than their turn.
    pub upload_bytes: Option<u64>,
}

/// The files of a watch that are gone, as far as they are or will be withdrawn.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeletionReport {
    /// What happens to files that are gone.
    pub on_delete: OnDelete,
    /// How long after that.
    pub after: Duration,
    /// Files whose withdrawal waits for the operator.
    pub suspended: Option<Deletions>,
    /// Files that the platform refuses to withdraw or to restore.
    pub refused: u64,
    /// Why it refuses one of them.
    pub reason: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Files by how they stand; each is counted once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// In the iModel, up to date.
    pub synchronized: u64,
    /// In the iModel, with errors or warnings of the connector.
    pub with_issues: u64,
    /// No longer in the folder or no longer selected; what was synchronized of them is still in the iModel.
    pub gone: u64,
    /// In storage, and meant to be there only.
    pub uploaded: u64,
    /// They wait for their upload.
    pub due: u64,
    /// They are being uploaded.
    pub uploading: u64,
    /// In storage, waiting for a run.
    pub stored: u64,
    /// In a run.
    pub running: u64,
    /// They failed.
    pub failed: u64,
    /// Gone from the folder before they could be read, or known without a result.
    pub other: u64,
}

/// Deleted files of a watch that are not handled as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletionTrouble {
    /// What kind of trouble.
    pub state: DeletionState,
    /// Files that it concerns.
    pub files: u64,
    /// Why.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// A kind of [`DeletionTrouble`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeletionState {
    /// The guard waits for the operator.
    Suspended,
    /// The platform refuses it.
    Refused,
}

impl DeletionState {
    /// The word for reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Suspended => "deletions suspended",
            Self::Refused => "deletions refused",
        }
    }
}

impl DeletionReport {
    /// What needs attention, for the watch of this name.
    #[must_use]
    pub fn troubles(&self, watch: &str) -> Vec<DeletionTrouble> {
        let suspended = self.suspended.map(|deletions| DeletionTrouble {
            state: DeletionState::Suspended,
            files: deletions.files,
            reason: format!(
                "{}; what was synchronized of them stays in the iModel",
                deletions.reason()
            ),
            hint: Some(Deletions::hint(watch)),
        });
        let refused = self.reason.as_ref().map(|reason| DeletionTrouble {
            state: DeletionState::Refused,
            files: self.refused,
            reason: match self.refused {
                0 | 1 => reason.clone(),
                files => format!("{reason} (and {} more)", files - 1),
            },
            hint: self.hint.clone(),
        });
        suspended.into_iter().chain(refused).collect()
    }
}

/// A run in a snapshot.
#[derive(Debug, Clone)]
pub struct RunSummary {
    /// The platform's id.
    pub id: Option<String>,
    /// When it was requested.
    pub requested_at: Timestamp,
    /// When its end was seen.
    pub ended_at: Option<Timestamp>,
    /// The platform's words for state and result.
    pub state: Option<String>,
    /// See `state`.
    pub result: Option<String>,
    /// It takes longer than `sync.run_deadline`.
    pub overdue: bool,
    /// How far it had got when it was seen last.
    pub progress: Option<RunProgress>,
    /// How long runs of its iModel usually took when it was requested.
    pub usual: Option<Duration>,
}

sql::row! {
    struct WatchRow {
        id: WatchId,
        name: String,
        imodel_id: ImodelId,
        root_state: RootState,
        root_note: Option<String>,
        scanned_at: Option<i64>,
        configured: bool,
        paused_at: Option<i64>,
        bulk_change_files: i64,
        bulk_change_moves: i64,
        bulk_change_kind: BulkChangeKind,
        bulk_change_limit: i64,
        new_files_limit: i64,
        imodel_wait: Option<String>,
        imodel_hint: Option<String>,
        other_ledger: Option<String>,
        other_host: Option<String>,
        rival_host: Option<String>,
        sign_in_reason: Option<String>,
        sign_in_hint: Option<String>,
        owner_reason: Option<String>,
        owner_hint: Option<String>,
        owner_waits: i64,
        backoff_until: i64,
        backoff_since: i64,
        backoff_reason: Option<String>,
        run: Option<String>,
        requested_at: Option<i64>,
        ended_at: Option<i64>,
        state: Option<String>,
        result: Option<String>,
        run_overdue: bool,
        progress: Option<String>,
        usual_ms: Option<i64>,
        blocking_run: Option<String>,
        blocking_connection: Option<String>,
        blocked_since: Option<i64>,
        blocked_overdue: bool,
        source_files: Option<i64>,
        other_source_files: Option<i64>,
        root_path: Option<String>,
        spatial_root_state: Option<SpatialRootState>,
        uploads_wait_until: i64,
        uploads_wait_overdue: i64,
        run_waits_until: i64,
        run_wait_overdue: i64,
        settings_reason: Option<String>,
        settings_hint: Option<String>,
        named_version: NamedVersionRow = ..,
        on_delete: OnDelete,
        delete_after: i64,
        deletions_suspended: i64,
        deletions_allowed: i64,
        deletions_cause: Option<DeletionCause>,
        withdrawals_refused: i64,
        withdrawal_reason: Option<String>,
        withdrawal_hint: Option<String>,
    }
}

sql::row! {
    /// A row of the counts that triggers keep.
    struct CountRow {
        watch_id: WatchId,
        job: Option<JobState>,
        outcome: Option<Outcome>,
        absent: bool,
        vanished: bool,
        files: i64,
    }
}

impl Counts {
    /// Files that wait for an upload or a run.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.due + self.stored
    }

    /// Files in an upload or a run.
    #[must_use]
    pub fn working(&self) -> u64 {
        self.uploading + self.running
    }

    fn add(&mut self, row: &CountRow) {
        let count = match (row.job, row.outcome) {
            (Some(JobState::Due), _) => &mut self.due,
            (Some(JobState::Uploading), _) => &mut self.uploading,
            (Some(JobState::Stored), _) => &mut self.stored,
            (Some(JobState::Running), _) => &mut self.running,
            (Some(JobState::Failed), _) => &mut self.failed,
            (None, _) if row.absent => &mut self.gone,
            (None, _) if row.vanished => &mut self.other,
            (None, Some(Outcome::Synchronized)) => &mut self.synchronized,
            (None, Some(Outcome::SynchronizedWithIssues)) => &mut self.with_issues,
            (None, Some(Outcome::Uploaded)) => &mut self.uploaded,
            (None, _) => &mut self.other,
        };
        *count += count_value(row.files);
    }
}

impl WatchRow {
    /// What only the operator ends comes first.
    fn inactive(&self, now: Timestamp) -> Option<Inactive> {
        if let Some(since) = self.paused_at.filter(|_| self.configured) {
            return Some(Inactive::Paused {
                since: timestamp(since),
            });
        }
        if self.bulk_change_files > 0 && self.configured {
            return Some(Inactive::Suspended(BulkChange {
                kind: self.bulk_change_kind,
                files: count_value(self.bulk_change_files),
                moves: count_value(self.bulk_change_moves),
                limit: count_value(match self.bulk_change_kind {
                    BulkChangeKind::Changed => self.bulk_change_limit,
                    BulkChangeKind::New => self.new_files_limit,
                }),
            }));
        }
        if let Some(reason) = self.sign_in_reason.clone().filter(|_| self.configured) {
            let hint = self.sign_in_hint.clone().unwrap_or_default();
            return Some(Inactive::AwaitsSignIn(SignInWait { reason, hint }));
        }
        if let Some(reason) = self.imodel_wait.clone().filter(|_| self.configured) {
            let hint = self.imodel_hint.clone();
            return Some(Inactive::AwaitsImodel { reason, hint });
        }
        if let Some(id) = self.other_ledger.clone().filter(|_| self.configured) {
            let host = self.other_host.clone().unwrap_or_default();
            return Some(Inactive::OtherLedger(OtherLedger { id, host }));
        }
        let until = timestamp(self.backoff_until);
        let lasts = until > now && !is_ahead(self.backoff_since, now);
        let reason = self.backoff_reason.clone().filter(|_| lasts)?;
        Some(Inactive::BackingOff { until, reason })
    }

    fn into_report(self, now: Timestamp) -> WatchReport {
        WatchReport {
            inactive: self.inactive(now),
            configured: self.configured,
            source_files: source_files(self.source_files, self.other_source_files),
            spatial_root: match (self.root_path, self.spatial_root_state) {
                (Some(path), Some(state)) => Some(SpatialRootWait { path, state }),
                _ => None,
            },
            upload_wait: wait(self.uploads_wait_until, self.uploads_wait_overdue),
            run_wait: wait(self.run_waits_until, self.run_wait_overdue),
            settings_fault: self.settings_reason.map(|reason| SettingsFault {
                reason,
                hint: self.settings_hint,
            }),
            owner: self.owner_reason.map(|reason| OwnerNote {
                waits: self.owner_waits != 0,
                reason,
                hint: self.owner_hint.unwrap_or_default(),
            }),
            rival: self.rival_host.map(|host| Rival { host }),
            named_version: self.named_version.into_report(),
            deletions: DeletionReport {
                on_delete: self.on_delete,
                after: Duration::from_millis(count_value(self.delete_after)),
                suspended: self.deletions_cause.map(|cause| Deletions {
                    files: count_value(self.deletions_suspended),
                    limit: count_value(self.deletions_allowed),
                    cause,
                }),
                refused: count_value(self.withdrawals_refused),
                reason: self.withdrawal_reason,
                hint: self.withdrawal_hint,
            },
            former_imodels: Vec::new(),
            counts: Counts::default(),
            upload_bytes: Some(0),
            name: self.name,
            imodel_id: self.imodel_id,
            root: self.root_state,
            note: self.root_note,
            scanned_at: self.scanned_at.map(timestamp),
            last_run: self.requested_at.map(|requested_at| RunSummary {
                id: self.run,
                requested_at: timestamp(requested_at),
                ended_at: self.ended_at.map(timestamp),
                state: self.state,
                result: self.result,
                overdue: self.run_overdue,
                progress: recorded(self.progress.as_deref()),
                usual: self.usual_ms.map(duration),
            }),
            blocked: match (
                self.blocking_run,
                self.blocking_connection,
                self.blocked_since,
            ) {
                (Some(run), Some(connection), Some(since)) => Some(BlockingRun {
                    run,
                    connection,
                    since: timestamp(since),
                    overdue: self.blocked_overdue,
                }),
                _ => None,
            },
        }
    }
}

fn wait(until: i64, overdue: i64) -> Option<WindowWait> {
    (until != 0).then(|| WindowWait {
        until: timestamp(until),
        overdue: overdue != 0,
    })
}

impl Ledger {
    /// All watches with their counts, by name.
    pub async fn watch_reports(&self, now: Timestamp) -> Result<Vec<WatchReport>, Error> {
        self.db
            .read_at_once("report the watches", async |tx| {
                let watches = counted_watches(tx, now).await?;
                Ok(watches)
            })
            .await
    }
}

/// All watches, without counts.
pub(super) async fn watches(
    tx: &mut Tx,
    now: Timestamp,
) -> Result<Vec<(WatchId, WatchReport)>, sqlx::Error> {
    let sql = format!(
        "SELECT w.id, w.name, w.imodel_id, w.root_state, w.root_note, w.scanned_at, \
         w.configured <> 0 AS configured, w.paused_at, w.bulk_change_files, \
         w.bulk_change_moves, w.bulk_change_kind, w.bulk_change_limit, w.new_files_limit, \
         w.imodel_wait, w.imodel_hint, w.other_ledger, w.other_host, w.rival_host, sign_in.reason AS sign_in_reason, sign_in.hint AS sign_in_hint, \
         facts.owner_reason, facts.owner_hint, COALESCE(facts.owner_waits, 0) AS owner_waits, w.backoff_until, w.backoff_since, w.backoff_reason, r.platform_id AS run, \
         r.requested_at, r.ended_at, r.state, r.result, r.progress, r.usual_ms, COALESCE(r.overdue, \
         0) <> 0 AS run_overdue, b.run AS blocking_run, b.connection AS blocking_connection, \
         b.since AS blocked_since, COALESCE(b.overdue, 0) <> 0 AS blocked_overdue, {SOURCE_FILES}, \
         facts.root_path, facts.root_state AS spatial_root_state, \
         settings.reason AS settings_reason, settings.hint AS settings_hint, \
         w.uploads_wait_until, w.uploads_wait_overdue, \
         COALESCE(facts.run_waits_until, 0) AS run_waits_until, \
         COALESCE(facts.run_wait_overdue, 0) AS run_wait_overdue, w.on_delete, w.delete_after, \
         w.deletions_suspended, w.deletions_allowed, w.deletions_cause, (SELECT COUNT(*) FROM files f \
         WHERE f.watch_id = w.id AND f.withdrawal_reason IS NOT NULL) AS withdrawals_refused, \
         (SELECT f.withdrawal_reason FROM files f WHERE f.watch_id = w.id \
         AND f.withdrawal_reason IS NOT NULL ORDER BY f.id LIMIT 1) AS withdrawal_reason, \
         (SELECT f.withdrawal_hint FROM files f WHERE f.watch_id = w.id \
         AND f.withdrawal_reason IS NOT NULL ORDER BY f.id LIMIT 1) AS withdrawal_hint, {NAMED_VERSION} \
         FROM watches w \
         LEFT JOIN named_versions v ON v.imodel_id = w.imodel_id \
         LEFT JOIN settings_faults settings ON settings.connection_id = (SELECT MIN(s.connection_id) \
         FROM settings_faults s JOIN watch_connections wc ON wc.connection_id = s.connection_id \
         WHERE wc.watch_id = w.id) \
         LEFT JOIN sign_in_wait sign_in ON 1 = 1 \
         LEFT JOIN imodel_facts facts ON facts.imodel_id = w.imodel_id \
         LEFT JOIN blocking_runs b ON b.imodel_id = w.imodel_id LEFT JOIN runs r \
         ON r.id = (SELECT MAX((SELECT MAX(id) FROM runs \
         WHERE connection_id = wc.connection_id)) FROM watch_connections wc \
         WHERE wc.watch_id = w.id) \
         ORDER BY w.name"
    );
    let rows: Vec<WatchRow> = sql::query_as(sqlx::AssertSqlSafe(sql))
        .fetch_all(tx)
        .await?;
    let reports = rows.into_iter();
    Ok(reports.map(|row| (row.id, row.into_report(now))).collect())
}

/// All watches with their counts, which are kept and not counted.
pub(super) async fn counted_watches(
    tx: &mut Tx,
    now: Timestamp,
) -> Result<Vec<WatchReport>, sqlx::Error> {
    let rows: Vec<CountRow> = sql::query_as(
        "SELECT watch_id, NULLIF(job, '') AS job, NULLIF(outcome, '') AS outcome, \
         absent <> 0 AS absent, vanished <> 0 AS vanished, files FROM counts WHERE files > 0",
    )
    .fetch_all(tx)
    .await?;
    let mut counts: HashMap<WatchId, Counts> = HashMap::new();
    for row in rows {
        counts.entry(row.watch_id).or_default().add(&row);
    }
    let former = former_imodels(tx).await?;
    let mut reports = Vec::new();
    for (id, watch) in watches(tx, now).await? {
        let counts = counts.remove(&id).unwrap_or_default();
        let former = former.iter().filter(|one| one.watch == watch.name);
        reports.push(WatchReport {
            counts,
            upload_bytes: upload_bytes(tx, id, &counts, now).await?,
            former_imodels: former.cloned().collect(),
            ..watch
        });
    }
    Ok(reports)
}

/// See [`WatchReport::upload_bytes`]. Of many files that are due, only the first are read.
async fn upload_bytes(
    tx: &mut Tx,
    watch: WatchId,
    counts: &Counts,
    now: Timestamp,
) -> Result<Option<u64>, sqlx::Error> {
    if counts.due + counts.uploading == 0 {
        return Ok(Some(0));
    }
    let mut sizes = [(0_u64, 0_u64); 2];
    for (state, size) in ["due", "uploading"].into_iter().zip(&mut sizes) {
        let (files, bytes): (i64, i64) = sql::query_as(
            "SELECT COUNT(*), CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM (SELECT CASE WHEN f.size > 0 \
             THEN f.size ELSE 0 END AS size FROM jobs j CROSS JOIN files f WHERE f.id = j.file_id \
             AND j.watch_id = $1 AND j.state = $2 AND j.due_at <= $3 LIMIT $4) AS first",
        )
        .bind(watch)
        .bind(state)
        .bind(millis(now))
        .bind(SIZES_READ)
        .fetch_one(tx)
        .await?;
        *size = (count_value(files), count_value(bytes));
    }
    let [(ready, bytes), (_, uploading)] = sizes;
    let due = if ready == count_value(SIZES_READ) {
        let mean = bytes / ready;
        mean.saturating_mul(counts.due)
    } else if ready == counts.due {
        bytes
    } else {
        return Ok(None);
    };
    Ok(due.checked_add(uploading))
}
