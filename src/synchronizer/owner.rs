//! Connections that act for a user: whether the platform may do that, before the first run and once a day.
//!
//! Input: the platform's answer, and how runs end. Output: runs that wait, and a note for status and alerts. While the
//! platform may not act for the user, nothing is run: files wait and do not fail. A run that the platform refuses in
//! spite of its answer is repeated with growing pauses. The user's `login --connector` ends every pause.

use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::{IDLE_MAX, SyncError, Synchronizer};
use crate::itwin::{self, Authentication, Run};
use crate::ledger::{
    self, Again, ConnectionFile, FailureKind, FileId, OpenRun, OwnerNote, Refusal,
};
use crate::names::QuotedPath;
use crate::retry::{Class, Policy};
use crate::shell;

/// How often the platform is asked while it may act for the user.
const INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// What a synchronizer remembers about the owner of its connections.
#[derive(Debug, Default)]
pub(super) struct Owner {
    /// When the platform was last found to be allowed to act.
    confirmed: Option<Instant>,
    /// Times in a row that it was not, or could not be asked.
    failures: u32,
    not_before: Option<Instant>,
    /// Runs in a row that were refused in spite of the answer.
    refused_runs: u32,
    /// A connection may not be used.
    claim_refused: bool,
    /// The note in the ledger; None before one was recorded by this process.
    recorded: Option<Option<OwnerNote>>,
}

/// What to do before a run.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Ask,
    Go,
    Wait(Duration),
}

impl Owner {
    /// The user has acted, or the operator asks not to wait.
    pub(super) fn at_once(&mut self) {
        self.confirmed = None;
        self.failures = 0;
        self.not_before = None;
        self.refused_runs = 0;
    }

    /// Pure.
    fn step(&self, now: Instant) -> Step {
        if let Some(until) = self.not_before.filter(|until| *until > now) {
            return Step::Wait(until - now);
        }
        match self.confirmed {
            Some(at) if now.saturating_duration_since(at) < INTERVAL => Step::Go,
            _ => Step::Ask,
        }
    }

    fn put_off(&mut self, count: u32, policy: &Policy, now: Instant) -> Duration {
        let pause = policy.delay(count, None);
        self.confirmed = None;
        self.not_before = Some(now + pause);
        pause
    }

    /// Whether the note may go when the platform says that it may act.
    fn is_doubted(&self) -> bool {
        self.refused_runs > 0 || self.claim_refused
    }
}

impl Synchronizer {
    /// Makes sure that the platform may act for the user. Some: not now, and how long to wait.
    pub(super) async fn await_owner(&mut self) -> Result<Option<Duration>, ledger::Error> {
        let Some(account) = self.settings.borrow().user.clone() else {
            return Ok(None);
        };
        let now = Instant::now();
        match self.owner.step(now) {
            Step::Go => return Ok(None),
            Step::Wait(left) => return Ok(Some(left)),
            Step::Ask => {}
        }
        let Some(redirect) = account.redirect_urls.first() else {
            return Ok(None);
        };
        match self.client.authorization(redirect).await {
            Ok(found) => {
                let note = found.note(&self.client.member(), crate::clock::now());
                let note = note.map(|note| OwnerNote {
                    waits: !found.is_authorized,
                    reason: note.reason,
                    hint: note.hint,
                });
                if found.is_authorized {
                    self.owner.failures = 0;
                    self.owner.not_before = None;
                    self.owner.confirmed = Some(now);
                    if !self.owner.is_doubted() {
                        self.note_owner(note).await?;
                    }
                    return Ok(None);
                }
                self.note_owner(note).await?;
            }
            Err(error) if error.class() == Class::AwaitsUser => return Ok(Some(IDLE_MAX)),
            Err(error) if !matches!(error.class(), Class::Transient { .. }) => {
                // The run itself will show it.
                warn!(
                    imodel = %self.imodel_id, %error, hint = error.hint(),
                    "cannot read whether connections may act for the user"
                );
                self.owner.confirmed = Some(now);
                return Ok(None);
            }
            Err(error) => warn!(
                imodel = %self.imodel_id, %error, hint = error.hint(),
                "cannot read whether connections may act for the user; trying again"
            ),
        }
        self.owner.failures = self.owner.failures.saturating_add(1);
        let count = self.owner.failures;
        Ok(Some(self.owner.put_off(count, &self.policy, now)))
    }

    /// Whether the platform refused a run because it may not act for the owner of the connection.
    pub(super) fn owner_is_refused(&self, run: &Run) -> bool {
        self.client.authentication() == Authentication::User
            && run
                .error
                .as_ref()
                .is_some_and(itwin::RunError::owner_is_not_authenticated)
    }

    /// Ends such a run: its files wait for the user.
    pub(super) async fn end_refused_run(
        &mut self,
        open: &OpenRun,
        run: &Run,
    ) -> Result<(), SyncError> {
        let now = crate::clock::now();
        let in_run = self.ledger.files_in_run(open.id).await?;
        let mut files = self.ledger.connection_files(open.connection, now).await?;
        files.retain(|file| in_run.contains(&file.file));
        let user = self.client.member();
        let note = OwnerNote {
            waits: true,
            reason: format!(
                "run {} ended with UserNotAuthenticated: the platform may not act for the owner of the connection",
                run.id
            ),
            hint: format!(
                "run `{}` as {user}; if another user owns the connection, set another name in sync.connection",
                shell::command(["login", "--connector"])
            ),
        };
        self.ledger
            .finish_run(open.id, &run.state, &run.result, &[], now)
            .await?;
        let refusals: Vec<(FileId, Refusal)> = files
            .iter()
            .map(|file: &ConnectionFile| {
                let refusal = Refusal {
                    kind: FailureKind::Credentials,
                    reason: format!(
                        "cannot synchronize {}: {}",
                        QuotedPath(&file.path),
                        note.reason
                    ),
                    hint: Some(note.hint.clone()),
                    again: Again::At(now),
                };
                (file.file, refusal)
            })
            .collect();
        self.ledger.put_off_stored(&refusals, now).await?;
        self.owner.refused_runs = self.owner.refused_runs.saturating_add(1);
        let count = self.owner.refused_runs;
        self.owner.put_off(count, &self.policy, Instant::now());
        self.note_owner(Some(note)).await?;
        Ok(())
    }

    /// A run was not refused.
    pub(super) async fn owner_is_accepted(&mut self) -> Result<(), ledger::Error> {
        if self.owner.refused_runs > 0 {
            self.owner.at_once();
            self.note_owner(None).await?;
        }
        Ok(())
    }

    /// A connection may not be used for the user; or, with None, it may.
    pub(super) async fn claim_refused(
        &mut self,
        error: Option<&itwin::Error>,
    ) -> Result<(), ledger::Error> {
        match error {
            // The service says so for all iModels.
            Some(error) if error.signed_out().is_some() => Ok(()),
            Some(error) => {
                self.owner.claim_refused = true;
                let note = OwnerNote {
                    waits: true,
                    reason: error.to_string(),
                    hint: error.hint().unwrap_or_default(),
                };
                self.note_owner(Some(note)).await
            }
            None if self.owner.claim_refused => {
                self.owner.claim_refused = false;
                self.owner.at_once();
                self.note_owner(None).await
            }
            None => Ok(()),
        }
    }

    /// Records and logs what the owner has to do, once.
    async fn note_owner(&mut self, note: Option<OwnerNote>) -> Result<(), ledger::Error> {
        if self.owner.recorded.as_ref() == Some(&note) {
            return Ok(());
        }
        self.ledger
            .record_owner_note(&self.imodel_id, note.as_ref())
            .await?;
        let waited = self.owner.recorded.replace(note.clone()).flatten();
        let waited = waited.is_some_and(|note| note.waits);
        match note {
            Some(OwnerNote {
                waits: true,
                reason,
                hint,
            }) => {
                error!(imodel = %self.imodel_id, reason, hint, "runs wait for the owner of the connection");
            }
            Some(OwnerNote { reason, hint, .. }) => {
                warn!(imodel = %self.imodel_id, reason, hint, "runs will soon wait for the owner of the connection");
            }
            None if waited => {
                info!(imodel = %self.imodel_id, "runs wait for the owner of the connection no longer");
            }
            None => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_platform_is_asked_before_the_first_run_and_once_a_day() {
        let began = Instant::now();
        let hour = Duration::from_secs(3600);
        let policy = Policy {
            first: Duration::from_secs(5),
            max: hour,
        };
        let mut owner = Owner::default();
        assert_eq!(owner.step(began), Step::Ask);
        owner.confirmed = Some(began);
        for (after, step) in [
            (0, Step::Go),
            (23, Step::Go),
            (24, Step::Ask),
            (1000, Step::Ask),
        ] {
            assert_eq!(owner.step(began + hour * after), step, "{after} h");
        }
        let pause = owner.put_off(1, &policy, began);
        assert_eq!(owner.step(began), Step::Wait(pause));
        assert_eq!(owner.step(began + pause), Step::Ask);
        owner.refused_runs = 2;
        assert!(owner.is_doubted());
        owner.at_once();
        assert_eq!(owner.step(began), Step::Ask);
        assert!(!owner.is_doubted());
    }
}
