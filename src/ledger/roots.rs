//! How the roots of watches were found: their state, for reports, and their identity, which shows that one was
//! replaced.

use jiff::Timestamp;

use super::{Error, Ledger, RootState, Tx, WatchId, millis, sql};

/// The root in which files of a watch were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootIdentity {
    /// It is another one than before, but no known file is missing in it; or there was none before.
    Complete,
    /// It is another one than before, and known files are missing in it.
    Incomplete,
}

impl Ledger {
    /// Records how the root of a watch was found, for status. `scanned` is the end of a complete scan, if there was
    /// one.
    pub async fn record_root(
        &self,
        watch: WatchId,
        state: RootState,
        note: Option<&str>,
        scanned: Option<Timestamp>,
    ) -> Result<(), Error> {
        self.db
            .write("record the state of a root", async |tx| {
                sql::query(
                    "UPDATE watches SET root_state = $2, root_note = $3, \
                     scanned_at = COALESCE($4, scanned_at) WHERE id = $1",
                )
                .bind(watch.0)
                .bind(state)
                .bind(note)
                .bind(scanned.map(millis))
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }

    /// The identity of the root in which files of a watch were found last, in the watch's notation.
    pub async fn root_identity(&self, watch: WatchId) -> Result<Option<String>, Error> {
        self.db
            .read("look up the identity of a root", async |db| {
                sql::query_scalar("SELECT root_identity FROM watches WHERE id = $1")
                    .bind(watch.0)
                    .fetch_one(db)
                    .await
            })
            .await
    }

    /// Where the folder of a watch was when it was scanned last, and whether another one was found in its place since.
    pub async fn share(&self, watch: WatchId) -> Result<(Option<String>, bool), Error> {
        self.db
            .read("look up the share of a watch", async |db| {
                sql::query_as("SELECT share, other_share IS NOT NULL FROM watches WHERE id = $1")
                    .bind(watch.0)
                    .fetch_one(db)
                    .await
            })
            .await
    }

    /// Records where the folder of a watch is.
    pub async fn record_share(&self, watch: WatchId, share: &str) -> Result<(), Error> {
        self.db
            .write("record the share of a watch", async |tx| {
                sql::query("UPDATE watches SET share = $2, other_share = NULL WHERE id = $1")
                    .bind(watch.0)
                    .bind(share)
                    .execute(tx)
                    .await
            })
            .await?;
        Ok(())
    }

    /// Records that another folder is there, for the operator, who may accept it.
    pub async fn record_other_share(&self, watch: WatchId, share: &str) -> Result<(), Error> {
        self.db
            .write("record another share of a watch", async |tx| {
                sql::query("UPDATE watches SET other_share = $2 WHERE id = $1")
                    .bind(watch.0)
                    .bind(share)
                    .execute(tx)
                    .await
            })
            .await?;
        Ok(())
    }

    /// Records the identity of a root in which files were found.
    pub async fn record_root_identity(
        &self,
        watch: WatchId,
        identity: &str,
        found: RootIdentity,
    ) -> Result<(), Error> {
        self.db
            .write("record the identity of a root", async |tx| {
                sql::query(
                    "UPDATE watches SET root_identity = $2, \
                     root_replaced = CASE WHEN $3 = 1 THEN 1 ELSE root_replaced END WHERE id = $1",
                )
                .bind(watch.0)
                .bind(identity)
                .bind(i64::from(found == RootIdentity::Incomplete))
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }
}

/// Takes the folder that is in the place of another one as that of the watch, if one is.
pub(super) async fn accept_other_share(tx: &mut Tx, watch: &str) -> Result<u64, sqlx::Error> {
    sql::query(
        "UPDATE watches SET share = other_share, other_share = NULL WHERE name = $1 \
         AND configured = 1 AND other_share IS NOT NULL",
    )
    .bind(watch)
    .execute(tx)
    .await
}
