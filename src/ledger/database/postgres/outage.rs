//! Actions that wait while the server is away.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::super::Error;
use super::Database;
use super::errors::{advice, passes};
use super::transaction::Unanswered;

/// Pauses between attempts while the server is away.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Why the database cannot be used, while actions wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerOutage {
    /// When the first of them failed.
    pub since: Timestamp,
    /// Why the last one failed.
    pub reason: String,
    /// What to do about it.
    pub hint: &'static str,
}

/// Whether the database can be used.
#[derive(Default)]
pub(super) struct Availability(std::sync::Mutex<Waits>);

#[derive(Default)]
struct Waits {
    /// Actions that wait. The database can be used again when none does: while its disk is full, some succeed and
    /// others do not.
    actions: u32,
    outage: Option<(Instant, LedgerOutage)>,
}

/// Waits while the server is away, for one action.
pub(in crate::ledger::database) struct Outage<'d> {
    database: &'d Database,
    action: &'static str,
    began: Option<Instant>,
    pause: Duration,
}

impl<'d> Outage<'d> {
    pub(in crate::ledger::database) fn new(database: &'d Database, action: &'static str) -> Self {
        Self {
            database,
            action,
            began: None,
            pause: PAUSE_MIN,
        }
    }

    /// Returns when the action may be repeated.
    ///
    /// # Errors
    /// It would fail again, or the server is away for too long.
    pub(in crate::ledger::database) async fn wait_after(
        &mut self,
        error: sqlx::Error,
    ) -> Result<(), Error> {
        let database = self.database;
        let began = self.began.unwrap_or_else(Instant::now);
        if !passes(&error) || database.patience.is_some_and(|max| began.elapsed() >= max) {
            return Err(database.error(self.action, error));
        }
        database.availability.lost(&error, self.began.is_none());
        self.began = Some(began);
        tokio::time::sleep(self.pause.mul_f64(0.5 + fastrand::f64())).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }

    /// Whether a transaction was committed, after the answer to that was lost.
    ///
    /// # Errors
    /// As [`Self::wait_after`].
    pub(in crate::ledger::database) async fn was_committed(
        &mut self,
        commit: Unanswered,
    ) -> Result<bool, Error> {
        let Unanswered {
            mut writer,
            number,
            mut error,
        } = commit;
        loop {
            self.wait_after(error).await?;
            match self.database.has_committed(&mut writer, number).await {
                Ok(committed) => return Ok(committed),
                Err(failed) => error = failed,
            }
        }
    }

    /// The server has answered.
    pub(in crate::ledger::database) fn over(&mut self) {
        let has_waited = self.began.take().is_some();
        self.database.availability.found(has_waited);
    }
}

impl Drop for Outage<'_> {
    fn drop(&mut self) {
        if self.began.is_some() {
            self.database.availability.given_up();
        }
    }
}

impl Availability {
    fn waits(&self) -> std::sync::MutexGuard<'_, Waits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::ledger::database) fn outage(&self) -> Option<LedgerOutage> {
        Some(self.waits().outage.as_ref()?.1.clone())
    }

    /// An action failed, and waits now.
    fn lost(&self, error: &sqlx::Error, is_new: bool) {
        let mut waits = self.waits();
        waits.actions += u32::from(is_new);
        let (reason, hint) = (error.to_string(), advice(error));
        if let Some((_, outage)) = &mut waits.outage {
            (outage.reason, outage.hint) = (reason, hint);
            return;
        }
        let since = crate::clock::now();
        let outage = LedgerOutage {
            since,
            reason,
            hint,
        };
        waits.outage = Some((Instant::now(), outage));
        tracing::warn!(
            error = error as &dyn std::error::Error,
            hint,
            "cannot use the database of the ledger: waiting for it"
        );
    }

    /// An action ended without success. That says nothing about the database.
    fn given_up(&self) {
        let mut waits = self.waits();
        waits.actions = waits.actions.saturating_sub(1);
    }

    /// An action has succeeded.
    fn found(&self, has_waited: bool) {
        let mut waits = self.waits();
        waits.actions = waits.actions.saturating_sub(u32::from(has_waited));
        if waits.actions == 0
            && let Some((since, _)) = waits.outage.take()
        {
            let seconds = since.elapsed().as_secs();
            tracing::info!(seconds, "the database of the ledger can be used again");
        }
    }
}
