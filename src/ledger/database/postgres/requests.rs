//! What the processes have in common of their requests to the platform: how many they may send, and pauses.
//!
//! Each process draws portions: it reads what all have drawn, and adds its own. That is one short transaction on a
//! connection of its own. It waits for nobody but those who draw for the same host of the platform, and nobody who
//! writes waits for it: so the work of the ledger and the requests do not delay each other. What was drawn is never
//! given back: a process that dies, or that does not learn what became of its transaction, has used it.
//!
//! All times are those of the server. If its clock was set back, what is ahead of it counts as if it had happened now.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;

use super::connect::{CONNECT_MAX, connect, within};
use super::lease::NOW;
use super::{Database, Outage};
use crate::ledger::Error;
use crate::retry::{self, Drawing, Drawn, DrawnInHour, HOUR, MINUTE, Order, RequestLimits};

/// A process that stops in such a transaction delays the others for so long.
const BEGIN: &str = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '5s'";

/// Two numbers, so that the lock is none of those that have one.
const LOCK: &str = "SELECT pg_advisory_xact_lock(57846, hashtext($1))";

/// Each pause keeps its length.
const PAUSES_FOLLOW_CLOCK: &str =
    "UPDATE pauses SET until = until - since + $1, since = $1 WHERE since > $1";

/// The connection for it, once it is needed, and until it is lost.
pub(super) type RequestsConnection = Arc<Mutex<Option<PgConnection>>>;

/// The requests and pauses that all processes have in common. It keeps no lease.
#[derive(Clone)]
pub(in crate::ledger) struct SharedRequests(Database);

impl Database {
    pub(in crate::ledger::database) fn shared_requests(&self) -> SharedRequests {
        SharedRequests(Self {
            held: None,
            ..self.clone()
        })
    }
}

impl SharedRequests {
    /// Draws a portion.
    pub(in crate::ledger) async fn draw_portion(&self, order: Order<'_>) -> Result<Drawing, Error> {
        let mut outage = Outage::new(&self.0, "share the limit of requests");
        loop {
            let drawn = async {
                let mut taken = self.connection().await?;
                let drawing = within(CONNECT_MAX, draw(&mut taken.connection, order)).await?;
                taken.give_back();
                Ok(drawing)
            };
            match drawn.await {
                Ok(drawing) => {
                    outage.over();
                    return Ok(drawing);
                }
                Err(error) => outage.wait_after(error).await?,
            }
        }
    }

    /// Adds pauses that hosts of the platform have requested, by what is left of them. None is shortened.
    pub(in crate::ledger) async fn pause(
        &self,
        pauses: &[(String, Duration)],
    ) -> Result<(), Error> {
        let asked = Instant::now();
        let mut outage = Outage::new(&self.0, "record the pauses of hosts");
        loop {
            let recorded = async {
                let mut taken = self.connection().await?;
                let recorded = pause(&mut taken.connection, pauses, asked.elapsed());
                within(CONNECT_MAX, recorded).await?;
                taken.give_back();
                Ok(())
            };
            match recorded.await {
                Ok(()) => {
                    outage.over();
                    return Ok(());
                }
                Err(error) => outage.wait_after(error).await?,
            }
        }
    }

    async fn connection(&self) -> Result<Taken, sqlx::Error> {
        let Self(database) = self;
        let mut place = Arc::clone(&database.requests).lock_owned().await;
        let connection = match place.take() {
            Some(connection) => connection,
            None => connect(&database.options).await?,
        };
        Ok(Taken { place, connection })
    }
}

/// The connection, taken out of its place. Dropped, it is closed, which ends its transaction.
struct Taken {
    place: OwnedMutexGuard<Option<PgConnection>>,
    connection: PgConnection,
}

impl Taken {
    fn give_back(mut self) {
        *self.place = Some(self.connection);
    }
}

/// What was drawn in the last minute, and what holds now.
struct Found {
    now: i64,
    minute: Vec<(i64, usize)>,
    /// The smallest limits of the processes that want requests.
    per_minute: Option<usize>,
    per_hour: Option<usize>,
    pauses: Vec<(String, Duration)>,
    /// Something has a later time.
    is_ahead: bool,
}

impl Found {
    async fn read(connection: &mut PgConnection, host: &str) -> Result<Self, sqlx::Error> {
        type Row = (
            i64,
            Vec<i64>,
            Vec<i64>,
            Option<i64>,
            Option<i64>,
            Vec<String>,
            Vec<i64>,
            bool,
        );
        let sql = format!(
            "WITH t AS MATERIALIZED (SELECT {NOW} AS now) SELECT t.now, d.seconds, d.counts, \
             d.per_minute, d.per_hour, p.hosts, p.rests, d.is_ahead OR p.is_ahead FROM t, \
             LATERAL (SELECT COALESCE(array_agg(second ORDER BY second), '{{}}') AS seconds, \
             COALESCE(array_agg(count ORDER BY second), '{{}}') AS counts, \
             MIN(per_minute) AS per_minute, MIN(per_hour) AS per_hour, \
             COALESCE(bool_or(second > t.now / 1000), FALSE) AS is_ahead \
             FROM drawn_requests WHERE host = $1 AND second >= t.now / 1000 - {MINUTE}) d, \
             LATERAL (SELECT COALESCE(array_agg(host ORDER BY host), '{{}}') AS hosts, \
             COALESCE(array_agg(until - t.now ORDER BY host), '{{}}') AS rests, \
             COALESCE(bool_or(since > t.now), FALSE) AS is_ahead FROM pauses WHERE until > t.now) p"
        );
        let (now, seconds, counts, per_minute, per_hour, hosts, rests, is_ahead): Row =
            sqlx::query_as(sqlx::AssertSqlSafe(sql))
                .bind(host)
                .fetch_one(connection)
                .await?;
        let rests = rests
            .into_iter()
            .map(|rest| Duration::from_millis(rest.max(0).unsigned_abs()));
        Ok(Self {
            now,
            minute: seconds
                .into_iter()
                .zip(counts.into_iter().map(number))
                .collect(),
            per_minute: per_minute.map(number),
            per_hour: per_hour.map(number),
            pauses: hosts.into_iter().zip(rests).collect(),
            is_ahead,
        })
    }

    /// The limits of a process, or smaller ones of others that want requests as well.
    fn limits(&self, own: RequestLimits) -> RequestLimits {
        let per_minute = self
            .per_minute
            .map_or(own.per_minute, |other| other.min(own.per_minute));
        RequestLimits {
            per_minute,
            per_hour: self.per_hour.into_iter().chain(own.per_hour).min(),
        }
    }
}

fn number(count: i64) -> usize {
    usize::try_from(count).unwrap_or(0)
}

fn integer(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

async fn draw(connection: &mut PgConnection, order: Order<'_>) -> Result<Drawing, sqlx::Error> {
    sqlx::raw_sql(BEGIN).execute(&mut *connection).await?;
    sqlx::query(LOCK)
        .bind(order.host)
        .execute(&mut *connection)
        .await?;
    // Before it is counted: it ends too early rather than too late.
    let at = Instant::now();
    let mut found = Found::read(connection, order.host).await?;
    if found.is_ahead {
        follow_clock(connection, order.host, found.now).await?;
        found = Found::read(connection, order.host).await?;
    }
    let limits = found.limits(order.limits);
    let now = found.now;
    let drawn = Drawn {
        now,
        minute: found.minute,
        hour: match limits.per_hour {
            Some(_) => in_hour(connection, order.host, now).await?,
            None => None,
        },
    };
    let portion = retry::portion(order.wanted, limits, &drawn);
    let sql = format!(
        "WITH old AS (DELETE FROM drawn_requests WHERE host = $1 AND second < $2 - {HOUR}) \
         INSERT INTO drawn_requests (host, second, count, last_at, per_minute, per_hour) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (host, second) DO UPDATE SET \
         count = drawn_requests.count + excluded.count, \
         last_at = GREATEST(drawn_requests.last_at, excluded.last_at), \
         per_minute = LEAST(drawn_requests.per_minute, excluded.per_minute), \
         per_hour = LEAST(drawn_requests.per_hour, excluded.per_hour)"
    );
    sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(order.host)
        .bind(now / 1000)
        .bind(integer(portion.count))
        .bind(if portion.count > 0 { now } else { 0 })
        .bind(integer(order.limits.per_minute))
        .bind(order.limits.per_hour.map(integer))
        .execute(&mut *connection)
        .await?;
    sqlx::raw_sql("COMMIT").execute(connection).await?;
    Ok(Drawing {
        portion,
        at,
        pauses: found.pauses,
    })
}

async fn in_hour(
    connection: &mut PgConnection,
    host: &str,
    now: i64,
) -> Result<Option<DrawnInHour>, sqlx::Error> {
    let sql = format!(
        "SELECT CAST(SUM(count) AS BIGINT), MIN(second), MAX(last_at) FROM drawn_requests \
         WHERE host = $1 AND second >= $2 - {HOUR} AND count > 0"
    );
    let (count, first, last): (Option<i64>, Option<i64>, Option<i64>) =
        sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(host)
            .bind(now / 1000)
            .fetch_one(connection)
            .await?;
    let (Some(count), Some(first), Some(last)) = (count, first, last) else {
        return Ok(None);
    };
    Ok(Some(DrawnInHour {
        count: number(count),
        first,
        last,
    }))
}

/// The clock was set back: otherwise, what is ahead of it would count until it has caught up.
async fn follow_clock(
    connection: &mut PgConnection,
    host: &str,
    now: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "WITH ahead AS (DELETE FROM drawn_requests WHERE host = $1 AND second > $2 / 1000 \
         RETURNING count, per_minute, per_hour) \
         INSERT INTO drawn_requests (host, second, count, last_at, per_minute, per_hour) \
         SELECT $1, $2 / 1000, CAST(SUM(count) AS BIGINT), $2, MIN(per_minute), MIN(per_hour) \
         FROM ahead HAVING COUNT(*) > 0 ON CONFLICT (host, second) DO UPDATE SET \
         count = drawn_requests.count + excluded.count, last_at = excluded.last_at, \
         per_minute = LEAST(drawn_requests.per_minute, excluded.per_minute), \
         per_hour = LEAST(drawn_requests.per_hour, excluded.per_hour)",
    )
    .bind(host)
    .bind(now)
    .execute(&mut *connection)
    .await?;
    sqlx::query(PAUSES_FOLLOW_CLOCK)
        .bind(now)
        .execute(connection)
        .await?;
    Ok(())
}

async fn pause(
    connection: &mut PgConnection,
    pauses: &[(String, Duration)],
    passed: Duration,
) -> Result<(), sqlx::Error> {
    let now = format!("SELECT {NOW}");
    let now: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(now))
        .fetch_one(&mut *connection)
        .await?;
    sqlx::query(PAUSES_FOLLOW_CLOCK)
        .bind(now)
        .execute(&mut *connection)
        .await?;
    for (host, rest) in pauses {
        let rest = i64::try_from(rest.saturating_sub(passed).as_millis()).unwrap_or(i64::MAX);
        sqlx::query(
            "INSERT INTO pauses (host, until, since) VALUES ($1, $2, $3) ON CONFLICT (host) \
             DO UPDATE SET until = GREATEST(pauses.until, excluded.until), since = excluded.since",
        )
        .bind(host)
        .bind(now.saturating_add(rest))
        .bind(now)
        .execute(&mut *connection)
        .await?;
    }
    sqlx::query("DELETE FROM pauses WHERE until <= $1")
        .bind(now)
        .execute(connection)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
