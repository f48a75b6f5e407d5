//! The processes that write beside the active one: each has a row in the table `nodes`.
//!
//! A process renews its row as the active one renews its lease, and each of its transactions that write needs the row.
//! The active process deletes the row of one that is dead and makes its jobs due, in one transaction: until then
//! nobody else has them, and from then on the process writes nothing. A process with the locked file of an earlier one
//! deletes the row of that one at once.
//!
//! All processes use the clock of the active one, because they compare the times of each other.

use jiff::Timestamp;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::sync::watch;
use tracing::{info, warn};

use super::connect::{CONNECT_MAX, connect, within};
use super::lease::{
    ActiveHost, BEAT, Contact, Holder, LEASE, LOCK, LOOK, MARGIN, NOW, is_dead, millis,
};
use crate::clock;
use crate::failpoint::lease_time;
use crate::lease::{Lease, boot_time};

/// A difference between two clocks that matters, in milliseconds.
const CLOCK_DIFFERENCE: i64 = 250;

/// Gives back what a process had. Its row is deleted in the same transaction.
const GIVE_BACK: [&str; 2] = [
    "UPDATE jobs SET state = 'due', node = NULL WHERE state = 'uploading' AND node = $1",
    "UPDATE created_folders SET node = NULL, \
     left_at = CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) WHERE node = $1",
];

fn text(sql: String) -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(sql)
}

async fn give_back(tx: &mut PgConnection, id: &str) -> Result<(), sqlx::Error> {
    for sql in GIVE_BACK {
        sqlx::query(sql).bind(id).execute(&mut *tx).await?;
    }
    Ok(())
}

/// Adds the row of this process and deletes that of the one before it on this host. None: no process is active, or its
/// clock is not known.
pub(super) async fn join(
    options: &PgConnectOptions,
    holder: &Holder,
) -> Result<Option<Lease>, sqlx::Error> {
    let mut connection = connect(options).await?;
    let joined = within(CONNECT_MAX, async {
        let mut tx = connection.begin().await?;
        sqlx::query(LOCK).execute(&mut *tx).await?;
        give_back_former(&mut tx, holder).await?;
        let asked = boot_time();
        let sql = format!(
            "INSERT INTO nodes (id, host, life, since, until) SELECT $1, $2, $3, {NOW}, {NOW} + $4 FROM cluster \
             WHERE clock_ahead IS NOT NULL AND EXISTS (SELECT 1 FROM lease WHERE holder IS NOT NULL) \
             RETURNING since, (SELECT clock_ahead FROM cluster)"
        );
        let row: Option<(i64, i64)> = sqlx::query_as(text(sql))
            .bind(&holder.id)
            .bind(&holder.host)
            .bind(&holder.life)
            .bind(millis(LEASE))
            .fetch_optional(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(row.map(|(now, ahead)| {
            follow_clock(now, ahead);
            Lease::until(asked.saturating_add(millis(LEASE) - millis(MARGIN)))
        }))
    });
    let joined = joined.await?;
    connection.close().await.ok();
    Ok(joined)
}

/// Takes over the clock of the active process.
fn follow_clock(now: i64, ahead: i64) {
    let there = Timestamp::from_millisecond(now.saturating_add(ahead));
    if let Ok(there) = there {
        clock::follow(there.duration_since(clock::now()));
    }
}

/// Gives back what processes had whose locked file this one has.
async fn give_back_former(tx: &mut PgConnection, holder: &Holder) -> Result<(), sqlx::Error> {
    let former: Vec<String> = sqlx::query_scalar("DELETE FROM nodes WHERE life = $1 RETURNING id")
        .bind(&holder.life)
        .fetch_all(&mut *tx)
        .await?;
    for id in former {
        give_back(tx, &id).await?;
    }
    Ok(())
}

/// The same for a process that is active now, and what the active one before it was creating.
pub(super) async fn succeed(
    options: &PgConnectOptions,
    holder: &Holder,
) -> Result<(), sqlx::Error> {
    let mut connection = connect(options).await?;
    within(CONNECT_MAX, async {
        let mut tx = connection.begin().await?;
        sqlx::query(LOCK).execute(&mut *tx).await?;
        give_back_former(&mut tx, holder).await?;
        sqlx::query(GIVE_BACK[1]).bind("").execute(&mut *tx).await?;
        tx.commit().await
    })
    .await?;
    connection.close().await
}

/// Asks the others to leave and lets none join until a process is active that works with the ledger. Returns one that
/// has not left.
pub(super) async fn exclude(
    options: &PgConnectOptions,
    holder: &Holder,
) -> Result<Option<ActiveHost>, sqlx::Error> {
    let mut connection = connect(options).await?;
    let left = within(CONNECT_MAX, async {
        let mut tx = connection.begin().await?;
        sqlx::query(LOCK).execute(&mut *tx).await?;
        let exists: bool = sqlx::query_scalar("SELECT to_regclass('nodes') IS NOT NULL")
            .fetch_one(&mut *tx)
            .await?;
        if !exists {
            return Ok(None);
        }
        // Without it, none joins.
        sqlx::query("UPDATE cluster SET clock_ahead = NULL")
            .execute(&mut *tx)
            .await?;
        sqlx::query("UPDATE nodes SET dismissed = TRUE")
            .execute(&mut *tx)
            .await?;
        give_back_former(&mut tx, holder).await?;
        let sql = format!("DELETE FROM nodes WHERE {NOW} - until > $1 RETURNING id");
        let dead: Vec<String> = sqlx::query_scalar(text(sql))
            .bind(millis(super::lease::GRACE))
            .fetch_all(&mut *tx)
            .await?;
        for id in dead {
            give_back(&mut tx, &id).await?;
        }
        let other: Option<(String, i64)> =
            sqlx::query_as("SELECT host, since FROM nodes ORDER BY since LIMIT 1")
                .fetch_optional(&mut *tx)
                .await?;
        tx.commit().await?;
        Ok(other.map(|(host, since)| ActiveHost {
            host,
            since: Timestamp::from_millisecond(since).unwrap_or(Timestamp::UNIX_EPOCH),
        }))
    });
    let left = left.await?;
    connection.close().await.ok();
    Ok(left)
}

/// Gives back what a process has, and deletes its row, after its last transaction.
pub(super) async fn leave(
    connection: &mut PgConnection,
    holder: &Holder,
) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin().await?;
    sqlx::query(LOCK).execute(&mut *tx).await?;
    let mine = sqlx::query("DELETE FROM nodes WHERE id = $1")
        .bind(&holder.id)
        .execute(&mut *tx)
        .await?;
    if mine.rows_affected() == 1 {
        give_back(&mut tx, &holder.id).await?;
    }
    tx.commit().await
}

/// Renews the row of a process until it is gone, on a connection of its own. `dismissed` becomes true when the process
/// is asked to leave.
pub(super) async fn keep(
    options: PgConnectOptions,
    holder: Holder,
    lease: Lease,
    dismissed: watch::Sender<bool>,
) {
    let mut connection = None;
    loop {
        tokio::time::sleep(lease_time(BEAT)).await;
        let asked = boot_time();
        let renewed = within(lease_time(LEASE), renew(&mut connection, &options, &holder)).await;
        match renewed {
            Ok(Some((now, ahead, leave))) => {
                lease.renew(asked.saturating_add(millis(LEASE) - millis(MARGIN)));
                follow_clock(now, ahead);
                if leave {
                    dismissed.send_replace(true);
                }
            }
            Ok(None) => {
                lease.lose();
                return;
            }
            Err(error) => {
                if !lease.is_valid() {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "cannot reach the database of the ledger: uploads of this host wait"
                    );
                }
                connection = None;
            }
        }
    }
}

type Renewed = (i64, i64, bool);

async fn renew(
    connection: &mut Option<PgConnection>,
    options: &PgConnectOptions,
    holder: &Holder,
) -> Result<Option<Renewed>, sqlx::Error> {
    let connection = match connection {
        Some(connection) => connection,
        lost => lost.insert(connect(options).await?),
    };
    let sql = format!(
        "UPDATE nodes SET until = {NOW} + $2 WHERE id = $1 RETURNING {NOW}, \
         (SELECT COALESCE(clock_ahead, 0) FROM cluster), dismissed"
    );
    sqlx::query_as(text(sql))
        .bind(&holder.id)
        .bind(millis(LEASE))
        .fetch_optional(connection)
        .await
}

/// What the active process does for the others, on a connection of its own: publishes its clock, notices what they
/// write, and gives back what dead ones had. `changed` rises with each of their transactions.
pub(super) async fn watch_over(
    options: PgConnectOptions,
    holder: Holder,
    changed: watch::Sender<u64>,
) {
    let mut active = Active {
        holder,
        connection: None,
        contact: Contact::new(),
        seen: Vec::new(),
    };
    loop {
        active.contact.look();
        match within(CONNECT_MAX, active.look(&options)).await {
            Ok(true) => changed.send_modify(|count| *count += 1),
            Ok(false) => {}
            // The renewal of the lease reports it.
            Err(_) => active.connection = None,
        }
        tokio::time::sleep(lease_time(LOOK)).await;
    }
}

struct Active {
    holder: Holder,
    connection: Option<PgConnection>,
    contact: Contact,
    /// Id and last transaction of each process.
    seen: Vec<(String, i64)>,
}

/// Id, host, for how long it is over, last transaction.
type Node = (String, String, i64, i64);

impl Active {
    /// Whether another process has written since the last look.
    async fn look(&mut self, options: &PgConnectOptions) -> Result<bool, sqlx::Error> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            lost => {
                let connection = connect(options).await?;
                self.contact.renew();
                lost.insert(connection)
            }
        };
        publish_clock(connection, &self.holder).await?;
        let sql = format!("SELECT id, host, {NOW} - until, last_commit FROM nodes ORDER BY id");
        let nodes: Vec<Node> = sqlx::query_as(text(sql))
            .fetch_all(&mut *connection)
            .await?;
        for (id, host, over, _) in &nodes {
            if is_dead(*over, self.contact.lasts()) && fence(connection, &self.holder, id).await? {
                info!(
                    host,
                    "host does not respond: other hosts continue its uploads"
                );
            }
        }
        let seen = nodes.into_iter().map(|(id, _, _, last)| (id, last));
        let seen = seen.collect();
        Ok(std::mem::replace(&mut self.seen, seen) != self.seen)
    }
}

/// Lets the other processes know the clock of this one, if it is the active one.
async fn publish_clock(connection: &mut PgConnection, holder: &Holder) -> Result<(), sqlx::Error> {
    let sql = format!("SELECT {NOW}, clock_ahead FROM cluster");
    let (there, known): (i64, Option<i64>) = sqlx::query_as(text(sql))
        .fetch_one(&mut *connection)
        .await?;
    let ahead = clock::now().as_millisecond().saturating_sub(there);
    if known.is_some_and(|known| ahead.abs_diff(known) < CLOCK_DIFFERENCE.unsigned_abs()) {
        return Ok(());
    }
    sqlx::query(
        "UPDATE cluster SET clock_ahead = $1 WHERE EXISTS (SELECT 1 FROM lease WHERE holder = $2)",
    )
    .bind(ahead)
    .bind(&holder.id)
    .execute(connection)
    .await?;
    Ok(())
}

/// Gives back what a dead process had. False: it is not dead, or this one is not active any more.
async fn fence(
    connection: &mut PgConnection,
    holder: &Holder,
    id: &str,
) -> Result<bool, sqlx::Error> {
    let mut tx = connection.begin().await?;
    sqlx::query(LOCK).execute(&mut *tx).await?;
    let sql = format!(
        "DELETE FROM nodes WHERE id = $1 AND {NOW} - until > $2 \
         AND EXISTS (SELECT 1 FROM lease WHERE holder = $3)"
    );
    let dead = sqlx::query(text(sql))
        .bind(id)
        .bind(millis(super::lease::GRACE))
        .bind(&holder.id)
        .execute(&mut *tx)
        .await?
        .rows_affected()
        == 1;
    if dead {
        give_back(&mut tx, id).await?;
    }
    tx.commit().await?;
    Ok(dead)
}

#[cfg(test)]
mod tests;
