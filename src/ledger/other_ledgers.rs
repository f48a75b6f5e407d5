//! Watches whose storage folder another ledger has claimed, or wants.
//!
//! What the claims are is on the platform; here is what follows from them for the watches.

use jiff::Timestamp;

use super::{Error, Ledger, Tx, WatchId, millis, sql, timestamp};
use crate::shell;

/// The ledger whose claim keeps a watch from being uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherLedger {
    /// Its id.
    pub id: String,
    /// The host of its daemon.
    pub host: String,
}

/// A daemon with another ledger that is configured for the same iModel and storage folder, and waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rival {
    /// Its host.
    pub host: String,
}

impl Rival {
    /// What it does.
    #[must_use]
    pub fn reason(&self) -> String {
        format!(
            "another itwin-syncd, with a ledger of its own on host {}, has a watch with the same iModel and storage \
             folder; it waits, and uploads nothing",
            self.host
        )
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        "remove the watch from one of the two configurations, or give each its own storage_folder"
    }
}

sql::row! {
    /// What was decided about a storage folder that another ledger has.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct Contest {
        /// The watch waits for this one.
        pub other_ledger: Option<String>,
        /// The operator takes it over from this one.
        pub takes_over: Option<String>,
    }
}

impl OtherLedger {
    /// Why a watch waits.
    #[must_use]
    pub fn reason(&self) -> String {
        format!(
            "another itwin-syncd, with a ledger of its own on host {}, uploads to its storage folder",
            self.host
        )
    }

    /// What to do about it, for the watch of this name.
    #[must_use]
    pub fn hint(&self, watch: &str) -> String {
        format!(
            "remove the watch here, or stop that service and run `{}` to take over",
            shell::command(["resume", watch])
        )
    }
}

impl Ledger {
    /// Claims no job of a watch: another ledger has its storage folder. Returns whether that is new.
    pub async fn yield_to(&self, watch: WatchId, other: &OtherLedger) -> Result<bool, Error> {
        self.db
            .write("let a watch wait for another ledger", async |tx| {
                let changed = sql::query(
                    "UPDATE watches SET other_ledger = $2, other_host = $3, takes_over = NULL, \
                     rival_host = NULL WHERE id = $1 AND configured = 1 \
                     AND (other_ledger IS NULL OR other_ledger <> $2 OR other_host <> $3)",
                )
                .bind(watch)
                .bind(&other.id)
                .bind(&other.host)
                .execute(tx)
                .await?;
                Ok(changed > 0)
            })
            .await
    }

    /// This ledger has the storage folder of a watch. Returns whether it waited for another one.
    pub async fn end_yield(&self, watch: WatchId) -> Result<bool, Error> {
        self.db
            .write("end the wait for another ledger", async |tx| {
                let changed = sql::query(
                    "UPDATE watches SET other_ledger = NULL, other_host = NULL, takes_over = NULL \
                     WHERE id = $1 AND (other_ledger IS NOT NULL OR takes_over IS NOT NULL)",
                )
                .bind(watch)
                .execute(tx)
                .await?;
                Ok(changed > 0)
            })
            .await
    }

    /// The ledger for which a watch waits, and the one from which the operator takes its storage folder over.
    pub async fn contest(&self, watch: WatchId) -> Result<Contest, Error> {
        let found = self
            .db
            .read("look for a take-over", async |db| {
                sql::query_as("SELECT other_ledger, takes_over FROM watches WHERE id = $1")
                    .bind(watch)
                    .fetch_optional(db)
                    .await
            })
            .await?;
        Ok(found.unwrap_or_default())
    }

    /// Before the claim on a storage folder is changed: whoever had it may not have noticed yet.
    pub async fn begin_take_over(
        &self,
        watch: WatchId,
        from: &str,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.db
            .write_durably("begin a take-over", async |tx| {
                sql::query(
                    "UPDATE watches SET takes_over = $2, takes_over_since = $3 WHERE id = $1",
                )
                .bind(watch)
                .bind(from)
                .bind(millis(now))
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }

    /// Since when the claim on the storage folder of a watch is that of this ledger, while it is taken over. A time
    /// that has not come was taken from a clock that was ahead.
    pub async fn taking_over_since(
        &self,
        watch: WatchId,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Error> {
        let since: Option<i64> = self
            .db
            .read("look for a take-over", async |db| {
                sql::query_scalar(
                    "SELECT takes_over_since FROM watches WHERE id = $1 AND takes_over IS NOT NULL",
                )
                .bind(watch)
                .fetch_optional(db)
                .await
            })
            .await?;
        Ok(since.map(|since| timestamp(since.min(millis(now)))))
    }

    /// Another daemon, on this host, wants the storage folder of a watch; None: none does. Returns whether that is
    /// something else than before.
    pub async fn record_rival(&self, watch: WatchId, host: Option<&str>) -> Result<bool, Error> {
        self.db
            .write("record who wants a storage folder", async |tx| {
                let changed = sql::query(
                    "UPDATE watches SET rival_host = $2 WHERE id = $1 \
                     AND COALESCE(rival_host, '') <> COALESCE($2, '')",
                )
                .bind(watch)
                .bind(host)
                .execute(tx)
                .await?;
                Ok(changed > 0)
            })
            .await
    }

    /// The watches that another ledger keeps waiting, or whose storage folder another one wants.
    pub async fn contested_watches(&self) -> Result<Vec<WatchId>, Error> {
        self.db
            .read("look for contested storage folders", async |db| {
                sql::query_scalar(
                    "SELECT id FROM watches WHERE configured = 1 \
                     AND (other_ledger IS NOT NULL OR rival_host IS NOT NULL)",
                )
                .fetch_all(db)
                .await
            })
            .await
    }
}

/// Approves that a watch takes its storage folder over. What is more urgent to decide comes first.
pub(super) async fn approve_take_over(tx: &mut Tx, watch: &str) -> Result<u64, sqlx::Error> {
    let approved = sql::query(
        "UPDATE watches SET takes_over = other_ledger, other_ledger = NULL, other_host = NULL \
         WHERE name = $1 AND configured = 1 AND other_ledger IS NOT NULL AND paused_at IS NULL \
         AND bulk_change_files = 0",
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

    fn other() -> OtherLedger {
        OtherLedger {
            id: "0f".repeat(16),
            host: "borg".to_owned(),
        }
    }

    async fn inactive(f: &Fixture) -> Option<Inactive> {
        f.ledger.watch_reports(at(1)).await.unwrap()[0]
            .inactive
            .clone()
    }

    #[tokio::test]
    async fn a_watch_waits_for_another_ledger_until_it_has_the_folder_or_is_resumed() {
        let f = Fixture::new().await;
        let id = f
            .ledger
            .register_watches(&[spec("north")], at(0))
            .await
            .unwrap()[0]
            .id;
        let names = ["north".to_owned()];
        f.ledger
            .hand_over(id, &[ready("n.dgn", 1)], at(0))
            .await
            .unwrap();
        assert!(f.ledger.yield_to(id, &other()).await.unwrap());
        assert!(!f.ledger.yield_to(id, &other()).await.unwrap(), "not new");
        assert!(f.claim(1).await.is_none());
        assert_eq!(inactive(&f).await, Some(Inactive::OtherLedger(other())));
        assert_eq!(f.ledger.contested_watches().await.unwrap(), [id]);

        f.ledger.pause_watches(&names, at(1)).await.unwrap();
        f.ledger.resume_watches(&names, at(1)).await.unwrap();
        assert_eq!(
            inactive(&f).await,
            Some(Inactive::OtherLedger(other())),
            "the end of a pause is no take-over"
        );
        assert_eq!(f.ledger.contest(id).await.unwrap().takes_over, None);

        assert_eq!(f.ledger.resume_watches(&names, at(1)).await.unwrap(), 1);
        assert_eq!(inactive(&f).await, None);
        assert_eq!(
            f.ledger.contest(id).await.unwrap().takes_over,
            Some(other().id)
        );
        assert!(f.claim(2).await.is_some());

        assert!(f.ledger.end_yield(id).await.unwrap());
        assert_eq!(f.ledger.contest(id).await.unwrap().takes_over, None);
        assert!(!f.ledger.end_yield(id).await.unwrap());
    }

    #[tokio::test]
    async fn a_watch_with_another_storage_folder_does_not_wait_any_more() {
        let f = Fixture::new().await;
        let mut spec = spec("north");
        let specs = [spec.clone()];
        let id = f.ledger.register_watches(&specs, at(0)).await.unwrap()[0].id;
        f.ledger.yield_to(id, &other()).await.unwrap();
        f.ledger.register_watches(&specs, at(0)).await.unwrap();
        assert!(inactive(&f).await.is_some());
        spec.storage_folder = "other".to_owned();
        f.ledger.register_watches(&[spec], at(0)).await.unwrap();
        assert_eq!(inactive(&f).await, None);
    }
}
