//! One run: requests it, follows it to its end, and reports what came of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::{debug, error, info, warn};

use super::batching::LastRun;
use super::outcome::{self, Evidence};
use super::progress::Progress;
use super::{SyncError, Synchronizer};
use crate::connector_type::ConnectorType;
use crate::failpoint::failpoint;
use crate::itwin::{self, Run, RunAnswer};
use crate::ledger::{
    self, Again, ConnectionFile, ConnectionRecord, FileId, OpenRun, Outcome, RunReport, Verdict,
};
use crate::names::QuotedPath;
use crate::retry::Class;
use crate::stored_content::Content;

/// After several run requests at the same moment, all but one wait about this long.
const CONTENDED: Duration = Duration::from_secs(5);

/// Whether a run was requested.
#[derive(Debug)]
pub(super) enum Requested {
    /// It was, or may have been: the ledger has it as open.
    Open,
    /// There is nothing that it would bring.
    Nothing,
    /// Another run of the iModel comes first.
    Wait(Duration),
}

impl Synchronizer {
    /// Requests a run of the connection for every file that is ready.
    pub(super) async fn request(
        &mut self,
        connection: &ConnectionRecord,
        platform_id: &str,
        references: bool,
    ) -> Result<Requested, SyncError> {
        let run = self
            .ledger
            .begin_run(
                connection.id,
                self.client.platform_time(),
                crate::clock::now(),
            )
            .await?;
        let files = self.ledger.run_size(run).await?;
        if files == 0 && !references {
            self.ledger.abandon_run(run, crate::clock::now()).await?;
            return Ok(Requested::Nothing);
        }
        failpoint("run intended");
        match self.client.run(platform_id).await {
            Ok(RunAnswer::Started { run_id }) => {
                failpoint("run answered");
                self.ledger.record_run(run, &run_id).await?;
                failpoint("run recorded");
                self.unblock().await?;
                info!(imodel = %self.imodel_id, connection = connection.name, run = run_id, files, "run requested");
                Ok(Requested::Open)
            }
            Ok(RunAnswer::Active(active)) => {
                self.ledger.abandon_run(run, crate::clock::now()).await?;
                let pause = self.blocked(active).await?;
                Ok(Requested::Wait(pause))
            }
            Ok(RunAnswer::Contended) => {
                self.ledger.abandon_run(run, crate::clock::now()).await?;
                debug!(imodel = %self.imodel_id, "several run requests at the same time; trying again");
                Ok(Requested::Wait(CONTENDED.min(self.sync.poll_interval)))
            }
            Err(error) if error.may_have_taken_effect() => {
                warn!(imodel = %self.imodel_id, connection = connection.name, %error, "the run request failed, but may have started a run; looking for it");
                Ok(Requested::Open)
            }
            Err(error) => {
                self.ledger.abandon_run(run, crate::clock::now()).await?;
                Err(error.into())
            }
        }
    }

    /// Follows an open run to its end.
    pub(super) async fn follow(&mut self, open: &OpenRun) -> Result<Duration, ledger::Error> {
        let Some(connection) = open.connection_platform_id.as_deref() else {
            self.ledger
                .abandon_run(open.id, crate::clock::now())
                .await?;
            return Ok(Duration::ZERO);
        };
        let run_id = match &open.platform_id {
            Some(run_id) => run_id.clone(),
            None => match self.find_run(connection, open).await {
                Ok(Some(found)) => {
                    info!(imodel = %self.imodel_id, run = found, "run was started by an earlier request; following it");
                    self.ledger.record_run(open.id, &found).await?;
                    found
                }
                Ok(None) => {
                    debug!(imodel = %self.imodel_id, "run was not started; requesting it again");
                    return self.lose_run(open).await;
                }
                Err(SyncError::Ledger(error)) => return Err(error),
                Err(SyncError::Platform(error)) if error.is_not_found() => {
                    self.ledger
                        .abandon_run(open.id, crate::clock::now())
                        .await?;
                    self.ledger.set_connection(open.connection, None).await?;
                    return Ok(Duration::ZERO);
                }
                Err(SyncError::Platform(error)) => {
                    self.failures = self.failures.saturating_add(1);
                    warn!(imodel = %self.imodel_id, %error, "cannot look for a run; trying again");
                    return Ok(self.policy.delay(self.failures, error.floor()));
                }
            },
        };
        self.poll(connection, &run_id, open).await
    }

    /// A run that was requested does not exist. The next request waits the longer the more often that happens.
    async fn lose_run(&mut self, open: &OpenRun) -> Result<Duration, ledger::Error> {
        self.ledger
            .abandon_run(open.id, crate::clock::now())
            .await?;
        self.lost_runs = self.lost_runs.saturating_add(1);
        let pause = self.policy.delay(self.lost_runs, None);
        self.not_before = Instant::now() + pause;
        Ok(pause)
    }

    async fn poll(
        &mut self,
        connection: &str,
        run_id: &str,
        open: &OpenRun,
    ) -> Result<Duration, ledger::Error> {
        let mut pause = self.sync.poll_interval;
        let mut last_state = String::new();
        let mut last_progress = Progress::default();
        let overdue_at = deadline(
            open.requested_there.unwrap_or(open.requested_at),
            self.client.platform_time(),
            self.sync.run_deadline,
        );
        let mut overdue = open.overdue;
        loop {
            match self.client.run_state(connection, run_id).await {
                Ok(run) if run.is_final() => match self.conclude(connection, open, &run).await {
                    Ok(()) => return Ok(Duration::ZERO),
                    Err(SyncError::Ledger(error)) => return Err(error),
                    Err(SyncError::Platform(error)) => {
                        warn!(
                            imodel = %self.imodel_id, run = run_id, %error,
                            hint = error.hint(),
                            "run ended, but its files cannot be read in iTwin Storage; trying again"
                        );
                    }
                },
                Ok(run) => {
                    let progress = Progress::of(&run);
                    if run.state != last_state || progress != last_progress {
                        debug!(imodel = %self.imodel_id, run = run_id, state = run.state, ?progress, "run state changed");
                        self.note(open, &run.state, &progress).await?;
                        (last_state, last_progress) = (run.state, progress);
                    }
                }
                Err(error) if error.is_not_found() => {
                    warn!(imodel = %self.imodel_id, run = run_id, %error, "run was deleted; its files wait for another run");
                    return self.lose_run(open).await;
                }
                Err(error) => {
                    warn!(imodel = %self.imodel_id, run = run_id, %error, "cannot read the run; trying again");
                }
            }
            if !overdue && Instant::now() >= overdue_at {
                overdue = true;
                if self.ledger.record_overdue(open.id).await? {
                    error!(
                        imodel = %self.imodel_id, run = run_id, state = last_state, since = %open.requested_at,
                        hint = "check the run in the iTwin portal; it is followed until it ends",
                        "run exceeded sync.run_deadline"
                    );
                }
            }
            tokio::time::sleep(pause).await;
            pause = pause
                .mul_f64(1.5)
                .min(self.sync.poll_max)
                .max(self.sync.poll_interval);
        }
    }

    /// The latest run that ended, for the decision about the next one.
    pub(super) fn last_run(&self) -> Option<LastRun> {
        let (ended, took) = self.last_run?;
        let ended = ended.elapsed();
        Some(LastRun { ended, took })
    }

    /// Keeps state and progress of an active run for status.
    async fn note(
        &self,
        open: &OpenRun,
        state: &str,
        progress: &Progress,
    ) -> Result<(), ledger::Error> {
        let current = &progress.current;
        let current = self.ledger.paths_of(open.connection, current).await?;
        let recorded = progress.recorded(&current);
        self.ledger.note_run_state(open.id, state, &recorded).await
    }

    /// Records the outcome of every file of the run. The run stays open when the platform does not answer.
    async fn conclude(
        &mut self,
        connection: &str,
        open: &OpenRun,
        run: &Run,
    ) -> Result<(), SyncError> {
        let now = crate::clock::now();
        self.lost_runs = 0;
        let took = now.duration_since(open.requested_at).unsigned_abs();
        self.last_run = Some((Instant::now(), took));
        failpoint("run ended");
        if self.owner_is_refused(run) {
            return self.end_refused_run(open, run).await;
        }
        self.owner_is_accepted().await?;
        let in_run: HashSet<FileId> = self
            .ledger
            .files_in_run(open.id)
            .await?
            .into_iter()
            .collect();
        let mut files = self.ledger.connection_files(open.connection, now).await?;
        files.retain(|file| in_run.contains(&file.file) || outcome::has_task(run, file));
        let looked_at: Vec<&ConnectionFile> = files.iter().collect();
        let contents = match self.contents(&looked_at).await {
            Ok(contents) => contents,
            // Without access to storage no file counts as synchronized, and each gets the reason.
            Err(error) if !matches!(error.class(), Class::Transient { .. }) => {
                return self.unverified(open, run, &files, &in_run, &error).await;
            }
            Err(error) => return Err(error.into()),
        };
        let processed_elsewhere = self
            .processed_elsewhere(connection, open, run, &files, &in_run)
            .await?;
        let evidence = Evidence {
            generation: open.generation,
            in_run: &in_run,
            contents: &contents,
            processed_elsewhere: &processed_elsewhere,
        };
        let outcomes = outcome::outcomes(run, &files, &evidence, &self.policy, now);
        let concluding = Arc::clone(&self.concluding);
        let _until_logged = concluding.lock().await;
        let reports = self
            .ledger
            .finish_run(open.id, &run.state, &run.result, &outcomes, now)
            .await?;
        failpoint("run concluded");
        // What a check of everything reads was read for this run.
        self.check_turns.entry(open.connection).or_insert(0);
        self.report(open, run, &files, &contents, &reports);
        if reports.iter().any(|report| {
            matches!(
                report.verdict,
                Verdict::LostInStorage(_) | Verdict::Overwritten(_) | Verdict::SendAgain(_)
            )
        }) {
            self.uploads.notify_one();
        }
        Ok(())
    }

    /// Ends a run whose files may not be looked up in storage.
    async fn unverified(
        &self,
        open: &OpenRun,
        run: &Run,
        files: &[ConnectionFile],
        in_run: &HashSet<FileId>,
        error: &itwin::Error,
    ) -> Result<(), SyncError> {
        let now = crate::clock::now();
        let _until_logged = self.concluding.lock().await;
        self.ledger
            .finish_run(open.id, &run.state, &run.result, &[], now)
            .await?;
        let files: Vec<&ConnectionFile> = files
            .iter()
            .filter(|file| in_run.contains(&file.file))
            .collect();
        self.refuse_all(&files, error, now).await?;
        Ok(())
    }

    /// Logs each file whose state changed, and the run.
    fn report(
        &mut self,
        open: &OpenRun,
        run: &Run,
        files: &[ConnectionFile],
        contents: &HashMap<FileId, Content>,
        reports: &[RunReport],
    ) {
        let (mut synchronized, mut with_issues, mut failed, mut again) =
            (0_u64, 0_u64, 0_u64, 0_u64);
        for report in reports {
            let file = files.iter().find(|file| file.file == report.file);
            self.report_guess(report);
            match &report.verdict {
                Verdict::Synchronized(None) => {
                    synchronized += 1;
                    log_synchronized(report, &run.id);
                }
                Verdict::Synchronized(Some(issues)) => {
                    with_issues += 1;
                    let seconds = Duration::from_millis(report.millis).as_secs_f64();
                    warn!(
                        watch = report.watch, path = %QuotedPath(&report.path), connector = report.connector.as_ref().map(ConnectorType::as_str), run = run.id,
                        result = %Outcome::SynchronizedWithIssues, bytes = report.bytes, seconds,
                        errors = issues.errors, warnings = issues.warnings, others = issues.others,
                        reason = issues.reason, hint = issues.hint.as_deref(),
                        "file synchronized with issues"
                    );
                }
                Verdict::Refused(refusal) | Verdict::SendAgain(refusal) => {
                    match refusal.again {
                        Again::Never | Again::FailedUntil(_) => failed += 1,
                        Again::At(_) | Again::BusyUntil(_) => again += 1,
                    }
                    if let Some(file) = file {
                        super::report_failure(file, refusal);
                    }
                }
                Verdict::LostInStorage(_) | Verdict::Overwritten(_) => {
                    again += 1;
                    if let Some(file) = file {
                        super::report_foreign_change(file, contents.get(&file.file));
                    }
                }
            }
        }
        let seconds = crate::clock::now()
            .duration_since(open.requested_at)
            .as_secs_f64();
        let result = &run.result;
        let error = run.error.as_ref().map(itwin::RunError::to_string);
        if failed == 0 && again == 0 {
            info!(imodel = %self.imodel_id, run = run.id, result, synchronized, with_issues, failed, seconds, "run finished");
        } else {
            warn!(imodel = %self.imodel_id, run = run.id, result, error, synchronized, with_issues, failed, again, seconds, "run finished");
        }
    }

    /// Logs, with its first result in a watch, that a connector type was guessed.
    fn report_guess(&mut self, report: &RunReport) {
        let scope = self.scopes.get(&report.watch);
        let Some(guess) = scope.and_then(|scope| scope.decide(&report.path).guess()) else {
            return;
        };
        if !self.logged_guesses.insert((report.watch.clone(), guess)) {
            return;
        }
        let connector = report.connector.as_ref().map(ConnectorType::as_str);
        warn!(
            watch = report.watch, path = %QuotedPath(&report.path), connector, reason = %guess, hint = guess.hint(),
            "connector type is a guess"
        );
    }
}

/// Logs a synchronized file.
fn log_synchronized(report: &RunReport, run: &str) {
    let seconds = Duration::from_millis(report.millis).as_secs_f64();
    info!(
        watch = report.watch, path = %QuotedPath(&report.path), connector = report.connector.as_ref().map(ConnectorType::as_str), run,
        result = %Outcome::Synchronized, bytes = report.bytes, seconds, "file synchronized"
    );
}

fn deadline(requested_at: Timestamp, now: Timestamp, limit: Duration) -> Instant {
    let gone: Duration = now
        .duration_since(requested_at)
        .try_into()
        .unwrap_or(Duration::ZERO);
    Instant::now() + limit.saturating_sub(gone)
}
