//! Which hosts see the shares of the watches, so that another host becomes active when the active one loses one.
//!
//! Each process beside the active one records the watches whose folder is, on its host, where the files were found. The
//! active one leaves its place to such a host only if that sees all folders that are available here, and one that is
//! not: nothing becomes worse, and no two hosts leave their place to each other.

use std::collections::BTreeSet;

use super::database::SERVER_TIME;
use super::{Error, Ledger, WatchId, sql};

/// A host that is alive, `o`, and sees the share of the watch `w`.
macro_rules! is_seen {
    () => {
        "EXISTS (SELECT 1 FROM seen_shares s WHERE s.node = o.id AND s.watch_id = w.id)"
    };
}

impl Ledger {
    /// The configured watches in whose folder files were found, and where that was.
    pub async fn shares(&self) -> Result<Vec<(WatchId, String)>, Error> {
        self.db
            .read("look up the shares of watches", async |db| {
                sql::query_as(
                    "SELECT id, share FROM watches WHERE configured = 1 AND share IS NOT NULL",
                )
                .fetch_all(db)
                .await
            })
            .await
    }

    /// Records of which watches this process, which is not the active one, sees the share.
    pub async fn record_seen_shares(&self, seen: &BTreeSet<WatchId>) -> Result<(), Error> {
        let Some(node) = self.db.node() else {
            return Ok(());
        };
        self.db
            .write("record which shares this host sees", async |tx| {
                sql::query("DELETE FROM seen_shares WHERE node = $1")
                    .bind(node)
                    .execute(tx)
                    .await?;
                for watch in seen {
                    sql::query("INSERT INTO seen_shares (node, watch_id) VALUES ($1, $2)")
                        .bind(node)
                        .bind(watch.0)
                        .execute(tx)
                        .await?;
                }
                Ok(())
            })
            .await
    }

    /// A host that sees a folder which this one, the active one, does not see, and all that this one sees. `unseen`:
    /// the watches whose folder is not there on this host.
    pub async fn host_that_sees_more(
        &self,
        unseen: &BTreeSet<WatchId>,
    ) -> Result<Option<String>, Error> {
        const SQL: &str = concat!(
            "SELECT o.host FROM nodes o, now n WHERE o.until >= n.now AND NOT o.dismissed \
             AND EXISTS (SELECT 1 FROM watches w WHERE w.configured = 1 \
             AND w.root_state = 'unavailable' AND w.id IN ({UNSEEN}) AND ",
            is_seen!(),
            ") AND NOT EXISTS (SELECT 1 FROM watches w WHERE w.configured = 1 \
             AND w.root_state <> 'unavailable' AND NOT ",
            is_seen!(),
            ") ORDER BY o.host LIMIT 1"
        );
        if !self.is_shared() || unseen.is_empty() {
            return Ok(None);
        }
        let ids: Vec<String> = unseen.iter().map(|watch| watch.0.to_string()).collect();
        let sql = SQL.replace("{UNSEEN}", &ids.join(", "));
        let text = format!("WITH now AS (SELECT {SERVER_TIME} AS now) {sql}");
        self.db
            .read("look for a host that sees more", async |db| {
                sql::query_scalar(sqlx::AssertSqlSafe(text.clone()))
                    .fetch_optional(db)
                    .await
            })
            .await
    }
}
