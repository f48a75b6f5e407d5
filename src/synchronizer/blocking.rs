//! Waits for a run of another client that blocks ours, shows it, and reports it once if it takes too long.

use std::time::{Duration, Instant};

use tracing::{debug, error, info};

use super::Synchronizer;
use crate::itwin::ActiveRun;
use crate::ledger::{self, BlockingRun};

/// The blocking run, and how it is polled.
#[derive(Debug)]
pub(super) struct Blocking {
    /// None when the platform does not say which run it is.
    active: Option<ActiveRun>,
    pause: Duration,
    next_poll: Instant,
}

impl Synchronizer {
    /// The platform refused a run because another one is active. Returns how long to wait.
    pub(super) async fn blocked(
        &mut self,
        active: Option<ActiveRun>,
    ) -> Result<Duration, ledger::Error> {
        let run = active.as_ref().map(|active| active.run_id.clone());
        let run = run.unwrap_or_default();
        let known = self.ledger.blocking_run(&self.imodel_id).await?;
        let pause = match &self.blocking {
            Some(blocking) => self.longer(blocking.pause),
            None => self.sync.poll_interval,
        };
        let record = match known.filter(|known| known.run == run) {
            Some(known) => known,
            None => self.first_seen(run, active.as_ref()).await,
        };
        self.blocking_recorded = true;
        self.blocking = Some(Blocking {
            active,
            pause,
            next_poll: Instant::now() + pause,
        });
        let record = self.report_overdue(record);
        self.ledger
            .record_blocking_run(&self.imodel_id, Some(&record))
            .await?;
        Ok(pause)
    }

    /// Polls the blocking run. None: it has ended, as far as can be seen.
    pub(super) async fn poll_blocking(&mut self) -> Result<Option<Duration>, ledger::Error> {
        let Some(blocking) = &mut self.blocking else {
            return Ok(None);
        };
        let left = blocking.next_poll.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return Ok(Some(left));
        }
        // A run of a manifest connection cannot be read here: the next run request shows whether it has ended.
        let Some(active) = blocking.active.clone().filter(|active| !active.manifest) else {
            return Ok(None);
        };
        match self
            .client
            .run_state(&active.connection_id, &active.run_id)
            .await
        {
            Ok(run) if !run.is_final() => self.blocked(Some(active)).await.map(Some),
            Ok(_) => Ok(None),
            Err(error) => {
                debug!(imodel = %self.imodel_id, run = active.run_id, %error, "cannot read the active run");
                Ok(None)
            }
        }
    }

    /// No other run blocks ours any more, or nothing waits for a run.
    pub(super) async fn unblock(&mut self) -> Result<(), ledger::Error> {
        self.blocking = None;
        if !std::mem::take(&mut self.blocking_recorded) {
            return Ok(());
        }
        if let Some(ended) = self.ledger.blocking_run(&self.imodel_id).await? {
            info!(imodel = %self.imodel_id, run = ended.run, connection = ended.connection, "other run of the iModel ended; no longer waiting");
            self.ledger
                .record_blocking_run(&self.imodel_id, None)
                .await?;
        }
        Ok(())
    }

    /// What can be found out about a run that was not seen before.
    async fn first_seen(&self, run: String, active: Option<&ActiveRun>) -> BlockingRun {
        let now = self.client.platform_time();
        let mut record = BlockingRun {
            run,
            connection: active
                .map(|active| active.connection_id.clone())
                .unwrap_or_default(),
            since: now,
            overdue: false,
        };
        if let Some(active) = active.filter(|active| !active.manifest) {
            let started = self
                .client
                .run_state(&active.connection_id, &active.run_id)
                .await;
            if let Ok(Some(started)) = started.map(|run| run.started) {
                record.since = started.min(now);
            }
            let named = self.client.connection(&active.connection_id).await;
            if let Ok(Some(name)) = named.map(|connection| connection.display_name) {
                record.connection = name;
            }
        }
        info!(
            imodel = %self.imodel_id, run = record.run, connection = record.connection, since = %record.since,
            "another run of the iModel is active; waiting until it ends"
        );
        record
    }

    fn report_overdue(&self, record: BlockingRun) -> BlockingRun {
        let lasts = Duration::try_from(self.client.platform_time().duration_since(record.since));
        if record.overdue || lasts.unwrap_or_default() < self.sync.run_deadline {
            return record;
        }
        error!(
            imodel = %self.imodel_id, run = record.run, connection = record.connection, since = %record.since,
            hint = "check the run in the iTwin portal; uploaded files wait until it ends",
            "another run of the iModel exceeded sync.run_deadline"
        );
        BlockingRun {
            overdue: true,
            ..record
        }
    }

    /// Polls at once at the next check.
    pub(super) fn poll_blocking_soon(&mut self) {
        if let Some(blocking) = &mut self.blocking {
            blocking.next_poll = Instant::now();
        }
    }

    /// The pause after this one, up to `sync.poll_max`.
    pub(super) fn longer(&self, pause: Duration) -> Duration {
        pause
            .mul_f64(1.5)
            .min(self.sync.poll_max)
            .max(self.sync.poll_interval)
    }
}
