//! Creates named versions of an iModel: after each run, or once a day.
//!
//! Input: what the ledger has recorded as synchronized since the last one, and the configuration. It names the newest
//! changeset, whose id is always sent: without it the platform names the empty baseline. The intent is in the ledger
//! before the request, so after a lost response or a kill the version is found by its name. It never delays a run and
//! never changes a file: its failures are problems of the iModel.

use std::time::{Duration, Instant};

use jiff::ZonedDateTime;
use jiff::tz::TimeZone;
use tracing::{debug, error, info, warn};

use super::version_rules::{Due, due, fill, numbered, subject};
use super::{IDLE_MAX, SyncError, Synchronizer};
use crate::config::{NamedVersion, NamedVersionTime};
use crate::failpoint::failpoint;
use crate::itwin::{self, VersionAnswer};
use crate::ledger::{self, Naming, NamingFailure, Unnamed, VersionIntent};
use crate::next_attempt::{self, clock_time};
use crate::retry::Class;

/// A taken name gets a number, up to this one.
const NUMBER_MAX: u32 = 9;

/// Attempts in a row after which a temporary failure is reported to the operator.
const FAILURES_SEVERE: u32 = 8;

/// A run that is active at the time of day delays the version by this much.
const RUN_ACTIVE_PAUSE: Duration = Duration::from_secs(30);

/// What a synchronizer remembers between two attempts.
#[derive(Debug)]
pub(super) struct Attempts {
    /// What the ledger has as requested by the configuration; None before it was recorded.
    wanted: Option<bool>,
    failures: u32,
    not_before: Instant,
}

impl Attempts {
    pub(super) fn new() -> Self {
        Self {
            wanted: None,
            failures: 0,
            not_before: Instant::now(),
        }
    }

    /// The operator asks not to wait.
    pub(super) fn at_once(&mut self) {
        self.failures = 0;
        self.not_before = Instant::now();
    }
}

impl Synchronizer {
    /// Creates a named version if one is due. Returns the pause before the next look.
    pub(super) async fn name_version(&mut self) -> Result<Duration, ledger::Error> {
        let version = self
            .settings
            .borrow()
            .named_versions
            .get(&self.imodel_id)
            .cloned();
        if self.naming.wanted != Some(version.is_some()) {
            self.ledger
                .want_named_versions(&self.imodel_id, version.is_some())
                .await?;
            self.naming.wanted = Some(version.is_some());
        }
        let Some(version) = version else {
            return Ok(IDLE_MAX);
        };
        let left = self
            .naming
            .not_before
            .saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return Ok(left.min(IDLE_MAX));
        }
        let naming = self.ledger.naming(&self.imodel_id).await?;
        let now = crate::clock::now().to_zoned_datetime(TimeZone::system());
        if naming.intent.is_none() {
            match due(&version, naming.unnamed.as_ref(), &now) {
                Due::Now => {}
                Due::In(pause) => return Ok(pause.min(IDLE_MAX)),
                Due::Later => return Ok(IDLE_MAX),
            }
        }
        let run = naming.unnamed.as_ref().map(|unnamed| unnamed.run.as_str());
        let subject = subject(&version, run.unwrap_or_default());
        if naming.refused.as_ref() == Some(&subject) {
            return Ok(IDLE_MAX);
        }
        match self.create_version(&version, &naming, &now).await {
            Ok(pause) => {
                self.naming.failures = 0;
                self.naming.not_before = Instant::now() + pause;
                Ok(IDLE_MAX)
            }
            Err(SyncError::Ledger(error)) => Err(error),
            Err(SyncError::Platform(error)) => self.refuse_version(&naming, &error, subject).await,
        }
    }

    /// Creates a named version, or finds the one whose creation was begun. Returns a pause if a run has to end first.
    async fn create_version(
        &mut self,
        version: &NamedVersion,
        naming: &Naming,
        now: &ZonedDateTime,
    ) -> Result<Duration, SyncError> {
        if let Some(intent) = &naming.intent {
            if let Some(id) = self.created_before(intent).await? {
                info!(imodel = %self.imodel_id, version = intent.name, "named version was created by an earlier request");
                self.record_version(intent, &id).await?;
                return Ok(Duration::ZERO);
            }
            // Begun for an older run, or not at all.
            self.ledger
                .intend_named_version(&self.imodel_id, None)
                .await?;
        }
        let Some(unnamed) = &naming.unnamed else {
            return Ok(Duration::ZERO);
        };
        let at_time = matches!(version.when, NamedVersionTime::DailyAt(_));
        if at_time && self.run_of_others_is_active().await? {
            debug!(imodel = %self.imodel_id, "a run is active; the named version waits for its end");
            return Ok(RUN_ACTIVE_PAUSE);
        }
        let Some(changeset_id) = self.client.latest_changeset(&self.imodel_id).await? else {
            return self
                .skip_version(unnamed, "the iModel has no changeset")
                .await;
        };
        let files = self.ledger.unnamed_files(&self.imodel_id).await?;
        let name = fill(&version.name, &unnamed.run, &files, now);
        // A template may consist of placeholders that are empty.
        let name = if name.is_empty() {
            changeset_id.clone()
        } else {
            name
        };
        let mut intent = VersionIntent {
            name: String::new(),
            description: fill(&version.description, &unnamed.run, &files, now),
            changeset_id,
            run_id: unnamed.run_id,
            files: files.count,
        };
        for number in 1..=NUMBER_MAX {
            intent.name = numbered(&name, number);
            self.ledger
                .intend_named_version(&self.imodel_id, Some(&intent))
                .await?;
            failpoint("named version intended");
            let answer = self
                .client
                .create_named_version(
                    &self.imodel_id,
                    &intent.name,
                    &intent.description,
                    &intent.changeset_id,
                )
                .await?;
            failpoint("named version answered");
            match answer {
                VersionAnswer::Created { id } => {
                    self.record_version(&intent, &id).await?;
                    return Ok(Duration::ZERO);
                }
                VersionAnswer::ChangesetNamed => {
                    return self
                        .skip_version(unnamed, "the newest changeset has a named version already")
                        .await;
                }
                VersionAnswer::NameTaken => {}
            }
        }
        self.ledger
            .intend_named_version(&self.imodel_id, None)
            .await?;
        let failure = NamingFailure {
            reason: format!(
                "cannot create named version {name:?}: the name and its numbers up to {NUMBER_MAX} are taken"
            ),
            hint: Some(
                "write {time} or {run} into named_version.name of the [[imodel]] table".to_owned(),
            ),
            severe: true,
            refused: Some(subject(version, &unnamed.run)),
        };
        error!(imodel = %self.imodel_id, hint = failure.hint, "{}", failure.reason);
        self.ledger
            .fail_named_version(&self.imodel_id, &failure)
            .await?;
        Ok(Duration::ZERO)
    }

    /// The id of the named version that an earlier request has created.
    async fn created_before(&self, intent: &VersionIntent) -> Result<Option<String>, SyncError> {
        let found = self
            .client
            .named_version(&self.imodel_id, &intent.name)
            .await?;
        let same = found.filter(|found| found.changeset_id.as_ref() == Some(&intent.changeset_id));
        Ok(same.map(|found| found.id))
    }

    async fn record_version(&self, intent: &VersionIntent, id: &str) -> Result<(), ledger::Error> {
        self.ledger
            .record_named_version(&self.imodel_id, intent, id, crate::clock::now())
            .await?;
        failpoint("named version recorded");
        info!(
            imodel = %self.imodel_id, version = intent.name, changeset = intent.changeset_id, files = intent.files,
            "named version created"
        );
        Ok(())
    }

    async fn skip_version(&self, unnamed: &Unnamed, note: &str) -> Result<Duration, SyncError> {
        info!(imodel = %self.imodel_id, reason = note, "no named version created");
        self.ledger
            .skip_named_version(&self.imodel_id, unnamed.run_id, note)
            .await?;
        Ok(Duration::ZERO)
    }

    /// Whether any run of the iModel is active. Ours is not: the synchronizer would follow it.
    async fn run_of_others_is_active(&self) -> Result<bool, SyncError> {
        for connection in self.client.connections(&self.imodel_id).await? {
            let runs = self.client.runs(&connection.id).await?;
            if runs.iter().any(|run| !run.is_final()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Records a failure, and when it is tried again.
    async fn refuse_version(
        &mut self,
        naming: &Naming,
        error: &itwin::Error,
        subject: String,
    ) -> Result<Duration, ledger::Error> {
        self.naming.failures = self.naming.failures.saturating_add(1);
        let failures = self.naming.failures;
        let is_transient = matches!(error.class(), Class::Transient { .. });
        let for_good = matches!(error.status(), Some(400 | 422));
        let pause = if is_transient {
            self.policy.delay(failures, error.floor())
        } else {
            self.policy.max
        };
        self.naming.not_before = Instant::now() + pause;
        let failure = NamingFailure {
            reason: format!("cannot create a named version: {error}"),
            hint: if for_good {
                Some("change named_version of the [[imodel]] table; it is tried again then, and after the next run".to_owned())
            } else {
                error.hint()
            },
            severe: !is_transient || failures >= FAILURES_SEVERE,
            refused: for_good.then_some(subject),
        };
        self.ledger
            .fail_named_version(&self.imodel_id, &failure)
            .await?;
        let (imodel, reason, hint) = (&self.imodel_id, &failure.reason, &failure.hint);
        let next = clock_time(next_attempt::after(crate::clock::now(), pause));
        if naming.reason.as_ref() == Some(reason) {
            debug!(%imodel, reason, next, "named version failed again");
        } else if for_good {
            error!(%imodel, reason, hint, "named version failed");
        } else if failure.severe {
            error!(%imodel, reason, hint, next, "named version failed; trying again");
        } else {
            warn!(%imodel, reason, hint, next, "named version failed; trying again");
        }
        Ok(pause.min(IDLE_MAX))
    }
}
