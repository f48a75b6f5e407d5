//! The processes that share a ledger on a server: the active one, and others that upload beside it.
//!
//! `database` knows who may write; here is what follows from it for watches, and for reports.

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch;

use super::database::SERVER_TIME;
use super::{Error, Ledger, Tx, WatchId, count_value, sql, timestamp};
use crate::failpoint::lease_time;

/// How often the active process looks whether others have left.
const LOOK: std::time::Duration = std::time::Duration::from_millis(200);

/// A host that shares the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NodeReport {
    /// Its name.
    pub host: String,
    /// Whether it is the active one.
    pub active: bool,
    /// Since when it is what it is.
    #[cfg_attr(test, schemars(with = "String"))]
    pub since: Timestamp,
    /// Whether its lease is valid.
    pub responds: bool,
    /// Uploads that it has in hand.
    pub uploads: u64,
}

/// A configured watch, as the active process has registered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredWatch {
    /// Its id.
    pub id: WatchId,
    /// Its name.
    pub name: String,
    /// The digest of its settings; None while they change.
    pub settings: Option<String>,
}

impl Ledger {
    /// Whether several processes may use it at a time.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.db.is_shared()
    }

    /// Rises when another process has written; None except on the active one of several.
    #[must_use]
    pub fn others(&self) -> Option<watch::Receiver<u64>> {
        self.db.others()
    }

    /// Returns when this process, which is not the active one, is asked to end its uploads.
    pub async fn dismissed(&self) {
        match self.db.dismissed() {
            // The sender is there as long as the ledger.
            Some(mut dismissed) => drop(dismissed.wait_for(|dismissed| *dismissed).await),
            None => std::future::pending().await,
        }
    }

    /// The configured watches, as the active process has registered them.
    pub async fn registered_watches(&self) -> Result<Vec<RegisteredWatch>, Error> {
        let rows: Vec<(WatchId, String, Option<String>)> = self
            .db
            .read("look up the watches", async |db| {
                sql::query_as("SELECT id, name, settings FROM watches WHERE configured = 1")
                    .fetch_all(db)
                    .await
            })
            .await?;
        let watches = rows.into_iter();
        Ok(watches
            .map(|(id, name, settings)| RegisteredWatch { id, name, settings })
            .collect())
    }

    /// Whether another host has joined, which takes over when this one stops.
    pub async fn has_other_hosts(&self) -> Result<bool, Error> {
        if !self.is_shared() {
            return Ok(false);
        }
        self.db
            .read("look for other hosts", async |db| {
                sql::query_scalar("SELECT EXISTS (SELECT 1 FROM nodes)")
                    .fetch_one(db)
                    .await
            })
            .await
    }

    /// Lets all other processes end their uploads and waits for that, before watches change that have files.
    pub async fn dismiss_others(&self) -> Result<(), Error> {
        if !self.is_shared() {
            return Ok(());
        }
        self.db
            .write("let other hosts end their uploads", async |tx| {
                // None claims anything before it knows the new settings.
                sql::query("UPDATE watches SET settings = NULL")
                    .execute(tx)
                    .await?;
                sql::query("UPDATE nodes SET dismissed = TRUE")
                    .execute(tx)
                    .await
            })
            .await?;
        loop {
            let left: bool = self
                .db
                .read("look for other hosts", async |db| {
                    sql::query_scalar("SELECT EXISTS (SELECT 1 FROM nodes WHERE dismissed)")
                        .fetch_one(db)
                        .await
                })
                .await?;
            if !left {
                return Ok(());
            }
            tokio::time::sleep(lease_time(LOOK)).await;
        }
    }
}

/// The hosts that share the ledger, the active one first; none if there can be only one.
pub(super) async fn nodes(tx: &mut Tx) -> Result<Vec<NodeReport>, sqlx::Error> {
    const SQL: &str = "SELECT l.host, TRUE, l.since, l.until >= n.now, (SELECT COUNT(*) FROM jobs \
         WHERE state = 'uploading' AND node IS NULL) FROM lease l, now n WHERE l.holder IS NOT NULL \
         UNION ALL (SELECT o.host, FALSE, o.since, o.until >= n.now, (SELECT COUNT(*) FROM jobs \
         WHERE state = 'uploading' AND node = o.id) FROM nodes o, now n ORDER BY o.host, o.id)";
    type Row = (String, bool, i64, bool, i64);
    if !tx.is_shared() {
        return Ok(Vec::new());
    }
    let sql = format!("WITH now AS (SELECT {SERVER_TIME} AS now) {SQL}");
    let rows: Vec<Row> = sql::query_as(sqlx::AssertSqlSafe(sql))
        .fetch_all(tx)
        .await?;
    let nodes = rows.into_iter();
    Ok(nodes
        .map(|(host, active, since, responds, uploads)| NodeReport {
            host,
            active,
            since: timestamp(since),
            responds,
            uploads: count_value(uploads),
        })
        .collect())
}
