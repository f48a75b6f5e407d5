//! What keeps the jobs of a watch from being claimed, over restarts: the operator has paused it, the bulk change guard
//! has suspended it, or a failure that concerns the whole watch makes it back off for a while.
//!
//! What was claimed before is finished.

use jiff::Timestamp;

use super::other_ledgers::approve_take_over;
use super::roots::accept_other_share;
use super::spatial_roots::release_spatial_root;
use super::{BulkChange, Error, Ledger, OtherLedger, SignInWait, Tx, WatchId, millis, sql};

use crate::shell;

/// Why no job of a watch is claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inactive {
    /// The operator has paused it, and resumes it.
    Paused {
        /// When.
        since: Timestamp,
    },
    /// Its iModel is not there: not created yet, or gone.
    AwaitsImodel {
        /// Why.
        reason: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// No user is signed in.
    AwaitsSignIn(SignInWait),
    /// The daemon of another ledger has its storage folder; the operator takes it over with `resume`.
    OtherLedger(OtherLedger),
    /// Too many files changed or arrived at once; the operator approves that with `resume`.
    Suspended(BulkChange),
    /// A failure that concerns the whole watch: its share does not respond, or the platform refuses all of it.
    BackingOff {
        /// When its jobs are claimed again.
        until: Timestamp,
        /// The failure.
        reason: String,
    },
}

impl Inactive {
    /// What the watch does meanwhile.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match self {
            Self::Paused { .. } => "paused",
            Self::AwaitsImodel { .. } => "waits for its iModel",
            Self::AwaitsSignIn(_) => "waits for a user to sign in",
            Self::OtherLedger(_) => "waits",
            Self::Suspended(_) | Self::BackingOff { .. } => "suspended",
        }
    }

    /// Why, and what to do about it, for the watch of this name.
    #[must_use]
    pub fn reason(&self, watch: &str) -> String {
        match self {
            Self::Paused { .. } => {
                format!("run `{}` to continue", shell::command(["resume", watch]))
            }
            Self::Suspended(change) => format!(
                "{}; check some of them, then run `{}` to {}",
                change.what(),
                shell::command(["resume", watch]),
                change.action()
            ),
            Self::AwaitsImodel { reason, hint } => match hint {
                Some(hint) => format!("{reason}; {hint}"),
                None => reason.clone(),
            },
            Self::AwaitsSignIn(wait) => format!("{}; {}", wait.reason, wait.hint),
            Self::OtherLedger(other) => format!("{}; {}", other.reason(), other.hint(watch)),
            Self::BackingOff { reason, .. } => reason.clone(),
        }
    }

    /// When it ends by itself; None when only the operator ends it.
    #[must_use]
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Self::BackingOff { until, .. } => Some(*until),
            Self::Paused { .. }
            | Self::Suspended(_)
            | Self::OtherLedger(_)
            | Self::AwaitsImodel { .. }
            | Self::AwaitsSignIn(_) => None,
        }
    }
}

impl Ledger {
    /// Claims no job of a watch before `until`, because of a failure that concerns the whole watch. A later end stays.
    pub async fn back_off_watch(
        &self,
        watch: WatchId,
        until: Timestamp,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.db
            .write("let a watch back off", async |tx| {
                sql::query(
                    "UPDATE watches SET backoff_until = $2, backoff_reason = $3, backoff_since \
                    = $4 \
                     WHERE id = $1 AND (backoff_until < $2 OR backoff_since > $4 + 5000)",
                )
                .bind(watch)
                .bind(millis(until))
                .bind(reason)
                .bind(millis(now))
                .execute(tx)
                .await?;
                Ok(())
            })
            .await
    }

    /// Ends what [`Ledger::back_off_watch`] began for this reason, unless there is another one by now.
    pub async fn end_backoff(&self, watch: WatchId, reason: &str) -> Result<(), Error> {
        self.db
            .write("end the backoff of a watch", async |tx| {
                sql::query(
                    "UPDATE watches SET backoff_until = 0, backoff_since = 0, backoff_reason = \
                    NULL \
                     WHERE id = $1 AND backoff_reason = $2",
                )
                .bind(watch)
                .bind(reason)
                .execute(tx)
                .await?;
                Ok(())
            })
            .await
    }

    /// Pauses watches until [`Ledger::resume_watches`]. Returns how many were not paused before; unknown names are
    /// ignored.
    pub async fn pause_watches(&self, names: &[String], now: Timestamp) -> Result<u64, Error> {
        self.db
            .write_durably("pause watches", async |tx| {
                let mut paused = 0;
                for name in names {
                    paused += sql::query(
                        "UPDATE watches SET paused_at = $2 \
                         WHERE name = $1 AND paused_at IS NULL AND configured = 1",
                    )
                    .bind(name)
                    .bind(millis(now))
                    .execute(tx)
                    .await?;
                }
                Ok(paused)
            })
            .await
    }

    /// Ends whatever makes watches inactive: a pause, a suspension, a backoff, the wait for a spatial root that is
    /// missing or has failed, that for another ledger, that of deleted files for approval, and that for a folder that
    /// is in the place of another one. Returns how many were inactive.
    ///
    /// The number of files that caused a suspension is approved by that, and the new files that are due: any of them
    /// may turn out to be a known one, in storage or under an old name. New files are not counted again before their
    /// number has fallen.
    pub async fn resume_watches(&self, names: &[String], now: Timestamp) -> Result<u64, Error> {
        self.db
            .write_durably("resume watches", async |tx| {
                let mut resumed = 0;
                for name in names {
                    resumed += approve_take_over(tx, name).await?;
                    resumed += sql::query(
                        "UPDATE watches SET paused_at = NULL, bulk_change_approved = \
                            CASE WHEN bulk_change_files > 0 THEN bulk_change_files + \
                            (SELECT COUNT(*) FROM jobs j JOIN files f ON f.id = j.file_id \
                            WHERE f.watch_id = watches.id AND j.state IN ('due', 'uploading') \
                            AND f.stored_version IS NULL AND f.adopted = 0) \
                            ELSE bulk_change_approved END, \
                         new_files_since = CASE WHEN bulk_change_files > 0 THEN NULL \
                            ELSE new_files_since END, new_files = 0, \
                         bulk_change_files = 0, backoff_until = 0, backoff_since = 0, \
                         backoff_reason = NULL \
                         WHERE name = $1 AND configured = 1 \
                         AND (paused_at IS NOT NULL OR bulk_change_files > 0 OR backoff_until \
                         > $2)",
                    )
                    .bind(name)
                    .bind(millis(now))
                    .execute(tx)
                    .await?;
                    resumed += u64::from(release_spatial_root(tx, name).await?);
                    resumed += approve_deletions(tx, name).await?;
                    resumed += accept_other_share(tx, name).await?;
                }
                Ok(resumed)
            })
            .await
    }
}

/// Approves the withdrawal of the files of a watch that are gone, if it waits for that.
async fn approve_deletions(tx: &mut Tx, watch: &str) -> Result<u64, sqlx::Error> {
    let approved = sql::query(
        "UPDATE watches SET deletions_approved = deletions_suspended, deletions_suspended = 0, \
         deletions_cause = NULL WHERE name = $1 AND configured = 1 AND deletions_suspended > 0",
    )
    .bind(watch)
    .execute(tx)
    .await?;
    Ok(approved)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::*;

    #[tokio::test]
    async fn a_corrected_configuration_ends_the_backoff_and_its_reason() {
        let f = Fixture::new().await;
        f.hand_over("a.dgn", 1, 1).await;
        let back_off = f
            .ledger
            .back_off_watch(f.watch, at(900), "invalid_client", at(1));
        back_off.await.unwrap();
        assert!(f.claim(2).await.is_none());
        f.ledger.retry_corrected().await.unwrap();
        let reports = f.ledger.watch_reports(at(2)).await.unwrap();
        assert_eq!(reports[0].inactive, None);
        assert!(f.claim(2).await.is_some());
    }

    #[tokio::test]
    async fn a_held_watch_holds_up_no_other() {
        let f = Fixture::new().await;
        let ids = f
            .ledger
            .register_watches(&[spec("north"), spec("south")], at(0))
            .await
            .unwrap();
        f.ledger
            .hand_over(ids[0].id, &[ready("n.dgn", 1)], at(0))
            .await
            .unwrap();
        f.ledger
            .hand_over(ids[1].id, &[ready("s.dgn", 1)], at(1))
            .await
            .unwrap();
        f.ledger
            .back_off_watch(ids[0].id, at(100), "hangs", at(1))
            .await
            .unwrap();
        assert_eq!(f.claim(2).await.unwrap().path, Path::new("s.dgn"));
        assert!(f.claim(99).await.is_none());
        assert_eq!(
            f.ledger.next_upload_due(at(2)).await.unwrap(),
            Some(at(100))
        );
        assert_eq!(f.claim(100).await.unwrap().path, Path::new("n.dgn"));
    }
}
