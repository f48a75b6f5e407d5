//! One run: request it, find it again after a lost answer, follow it to its end.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tracing::{debug, error, info, warn};

use super::{Lane, Trouble, outcome};
use crate::failpoint::failpoint;
use crate::itwin::{self, Run, RunAnswer};
use crate::ledger::{self, ConnectionRecord, OpenRun, Outcome, RunReport, Verdict};
use crate::names::Shown;

/// Clocks that were compared over a network agree to this much.
const CLOCKS_AGREE: SignedDuration = SignedDuration::from_secs(2);

/// After several run requests at the same moment, all but one wait about this long.
const CONTENDED: Duration = Duration::from_secs(5);

/// Whether a run was requested.
#[derive(Debug)]
pub(super) enum Requested {
    /// It was, or may have been: the ledger has it as open.
    Yes,
    /// Another run of the iModel comes first.
    NotYet(Duration),
}

impl Lane {
    /// Requests a run of the connection for every file that is ready.
    pub(super) async fn request(
        &mut self,
        connection: &ConnectionRecord,
        platform_id: &str,
    ) -> Result<Requested, Trouble> {
        let run = self
            .ledger
            .begin_run(connection.id, Timestamp::now())
            .await?;
        failpoint("run intended");
        match self.client.run(platform_id).await {
            Ok(RunAnswer::Started { run_id }) => {
                failpoint("run answered");
                self.ledger.record_run(run, &run_id).await?;
                failpoint("run recorded");
                let files = self.ledger.run_files(run).await?.len();
                info!(imodel = %self.imodel_id, connection = connection.name, run = run_id, files, "run requested");
                Ok(Requested::Yes)
            }
            Ok(RunAnswer::Active(active)) => {
                self.ledger.abandon_run(run).await?;
                let other = active.map(|active| active.run_id).unwrap_or_default();
                info!(imodel = %self.imodel_id, active = other, "another run of the iModel is active; waiting for its end");
                Ok(Requested::NotYet(self.sync.poll_interval))
            }
            Ok(RunAnswer::Contended) => {
                self.ledger.abandon_run(run).await?;
                debug!(imodel = %self.imodel_id, "run requests at the same moment; asking again");
                Ok(Requested::NotYet(CONTENDED.min(self.sync.poll_interval)))
            }
            Err(error) if error.may_have_taken_effect() => {
                warn!(imodel = %self.imodel_id, connection = connection.name, %error, "a run request got no answer; looking for the run");
                Ok(Requested::Yes)
            }
            Err(error) => {
                self.ledger.abandon_run(run).await?;
                Err(error.into())
            }
        }
    }

    /// Follows an open run to its end.
    pub(super) async fn follow(&mut self, open: &OpenRun) -> Result<Duration, ledger::Error> {
        let Some(connection) = open.connection_platform_id.as_deref() else {
            self.ledger.abandon_run(open.id).await?;
            return Ok(Duration::ZERO);
        };
        let run_id = match &open.platform_id {
            Some(run_id) => run_id.clone(),
            None => match self.find_run(connection, open).await {
                Ok(Some(found)) => {
                    info!(imodel = %self.imodel_id, run = found, "the run was requested after all; following it");
                    self.ledger.record_run(open.id, &found).await?;
                    found
                }
                Ok(None) => {
                    debug!(imodel = %self.imodel_id, "the run was not requested; requesting it again");
                    self.ledger.abandon_run(open.id).await?;
                    return Ok(Duration::ZERO);
                }
                Err(Trouble::Ledger(error)) => return Err(error),
                Err(Trouble::Platform(error)) if error.is_not_found() => {
                    self.ledger.abandon_run(open.id).await?;
                    self.ledger.set_connection(open.connection, None).await?;
                    return Ok(Duration::ZERO);
                }
                Err(Trouble::Platform(error)) => {
                    self.failures = self.failures.saturating_add(1);
                    warn!(imodel = %self.imodel_id, %error, "cannot look for a run; trying again");
                    return Ok(self.policy.delay(self.failures, error.floor()));
                }
            },
        };
        self.poll(connection, &run_id, open).await
    }

    /// A run of the connection that can only be the one whose request got no answer: not known yet, and started
    /// after the request, by the platform's clock.
    async fn find_run(&self, connection: &str, open: &OpenRun) -> Result<Option<String>, Trouble> {
        let runs = self.client.runs(connection).await?;
        let offset = self.client.clock_offset();
        let earliest = open
            .requested_at
            .saturating_add(offset - CLOCKS_AGREE)
            .unwrap_or(open.requested_at);
        let mut candidates: Vec<&Run> = runs
            .iter()
            .filter(|run| run.started.is_some_and(|started| started >= earliest))
            .collect();
        candidates.sort_by_key(|run| run.started);
        for run in candidates {
            if !self.ledger.knows_run(&run.id).await? {
                return Ok(Some(run.id.clone()));
            }
        }
        Ok(None)
    }

    async fn poll(
        &mut self,
        connection: &str,
        run_id: &str,
        open: &OpenRun,
    ) -> Result<Duration, ledger::Error> {
        let mut pause = self.sync.poll_interval;
        let mut last_state = String::new();
        let mut alarm = deadline(open.requested_at, self.sync.run_deadline);
        loop {
            match self.client.run_state(connection, run_id).await {
                Ok(run) if run.is_final() => {
                    self.conclude(open, &run).await?;
                    return Ok(Duration::ZERO);
                }
                Ok(run) => {
                    if run.state != last_state {
                        debug!(imodel = %self.imodel_id, run = run_id, state = run.state, "run goes on");
                        self.ledger.note_run_state(open.id, &run.state).await?;
                        last_state = run.state;
                    }
                }
                Err(error) if error.is_not_found() => {
                    warn!(imodel = %self.imodel_id, run = run_id, %error, "the run is gone; its files get another one");
                    self.ledger.abandon_run(open.id).await?;
                    return Ok(Duration::ZERO);
                }
                Err(error) => {
                    warn!(imodel = %self.imodel_id, run = run_id, %error, "cannot ask for the run; asking again");
                }
            }
            if Instant::now() >= alarm {
                error!(
                    imodel = %self.imodel_id, run = run_id, state = last_state, since = %open.requested_at,
                    hint = "look at the run in the iTwin portal; it is followed until it ends",
                    "the run takes longer than sync.run_deadline"
                );
                alarm = Instant::now() + self.sync.run_deadline;
            }
            tokio::time::sleep(pause).await;
            pause = pause
                .mul_f64(1.5)
                .min(self.sync.poll_max)
                .max(self.sync.poll_interval);
        }
    }

    async fn conclude(&self, open: &OpenRun, run: &Run) -> Result<(), ledger::Error> {
        let now = Timestamp::now();
        failpoint("run ended");
        let files = self.ledger.run_files(open.id).await?;
        let outcomes = outcome::outcomes(run, &files, &self.policy, now);
        let reports = self
            .ledger
            .finish_run(open.id, &run.state, &run.result, &outcomes, now)
            .await?;
        failpoint("run concluded");
        let synchronized = reports
            .iter()
            .filter(|report| matches!(report.verdict, Verdict::Synchronized))
            .count();
        for report in &reports {
            if matches!(report.verdict, Verdict::Synchronized) {
                tell(report, &run.id);
            }
        }
        for (file, outcome) in files.iter().zip(&outcomes) {
            if let Verdict::Refused(refusal) = &outcome.verdict {
                super::report_failure(file, refusal);
            }
        }
        let seconds = now.duration_since(open.requested_at).as_secs_f64();
        let (result, failed) = (&run.result, reports.len() - synchronized);
        let error = run
            .error
            .as_ref()
            .map(itwin::RunError::to_string)
            .unwrap_or_default();
        if failed == 0 && run.result.eq_ignore_ascii_case("success") {
            info!(imodel = %self.imodel_id, run = run.id, result, synchronized, failed, seconds, "run finished");
        } else {
            warn!(imodel = %self.imodel_id, run = run.id, result, error, synchronized, failed, seconds, "run finished");
        }
        Ok(())
    }
}

/// The one line that every synchronized file gets.
fn tell(report: &RunReport, run: &str) {
    let seconds = Duration::from_millis(report.millis).as_secs_f64();
    info!(
        watch = report.watch, path = %Shown(&report.path), connector = report.connector, run,
        result = %Outcome::Synchronized, bytes = report.bytes, seconds, "file synchronized"
    );
}

fn deadline(requested_at: Timestamp, limit: Duration) -> Instant {
    let gone: Duration = Timestamp::now()
        .duration_since(requested_at)
        .try_into()
        .unwrap_or(Duration::ZERO);
    Instant::now() + limit.saturating_sub(gone)
}
