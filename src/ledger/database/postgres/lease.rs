//! Which of several hosts is the active one.
//!
//! The row `lease` names the active process until a time of the server's clock. The process renews it on a connection
//! of its own. Each of its transactions that write compares the row first, so a process that was replaced writes
//! nothing; and [`Lease`] stops its requests to the platform before anybody may replace it.
//!
//! Another process takes the lease when it was given up, or when it is over for so long that nothing of the former
//! holder is in progress any more. Whoever has just come, or has not reached the database either, waits first: after an
//! outage of the database the active host continues. A process with the locked file of the former holder replaces it at
//! once: that one is dead.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::sync::watch;
use tracing::warn;

use super::connect::{CONNECT_MAX, connect, within};
use crate::failpoint::lease_time;
use crate::lease::{Lease, boot_time};
use crate::ledger::host_name;

/// How long a lease lasts after it was renewed.
pub(super) const LEASE: Duration = Duration::from_secs(15);

/// How often it is renewed.
pub(super) const BEAT: Duration = Duration::from_secs(3);

/// The holder stops so long before the end of its lease.
pub(super) const MARGIN: Duration = Duration::from_secs(1);

/// Nothing of a former holder is in progress so long after the end of its lease: a request of it takes up to
/// `itwin::CHANGE_MAX`, and the platform may need 10 s to show what it did.
pub(super) const GRACE: Duration = Duration::from_secs(30);

/// The id of this boot, which the unit sets because it hides the kernel's file from the service.
const BOOT_ID: &str = "ITWIN_SYNCD_BOOT_ID";

/// How often a waiting process looks.
pub(super) const LOOK: Duration = Duration::from_millis(500);

/// The lock that begins all transactions that write, as in `begin_write`.
pub(super) const LOCK: &str = "SELECT pg_advisory_xact_lock(5784612270211)";

/// The active host, as another one sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveHost {
    /// Its name.
    pub host: String,
    /// Since when it is active, by the server's clock.
    pub since: Timestamp,
}

/// What to do while another process is active.
pub(in crate::ledger) enum Turn {
    /// Give up after this time.
    Within(Duration),
    /// Wait, and say who is active.
    Waiting(watch::Sender<Option<ActiveHost>>),
}

/// A process as the row names it.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    /// A random number.
    pub(super) id: String,
    pub(super) host: String,
    pub(super) life: String,
}

impl Holder {
    /// This process, which has locked the file with these properties.
    pub(super) fn new(lock: &std::fs::Metadata) -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .ok()
            .or_else(|| std::env::var(BOOT_ID).ok())
            .unwrap_or_default();
        Self {
            id: uuid::Uuid::new_v4().to_string(),
            host: host_name(),
            life: life(&boot, lock.dev(), lock.ino()),
        }
    }

    /// By which the row knows it.
    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

/// What a process shares with those before it that are dead, because it has their locked file: no other machine has it,
/// not even a copy of this one.
fn life(boot: &str, device: u64, inode: u64) -> String {
    let boot = boot.trim().replace('-', "");
    if boot.is_empty() {
        // Then nothing proves that a former life is dead.
        return uuid::Uuid::new_v4().to_string();
    }
    format!("{boot} {device} {inode}")
}

crate::ledger::sql::row! {
    /// The row, with the time of the server.
    #[derive(Debug)]
    struct Row {
        holder: Option<String>,
        host: String,
        life: String,
        since: i64,
        until: i64,
        now: i64,
    }
}

/// What a process that wants the lease does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Take,
    Wait,
}

/// Decides that. `over`: for how long the lease is over, in milliseconds, negative while it lasts. `contact`: for how
/// long this process has reached the database without a gap. Pure.
fn decide(is_free: bool, is_own_former_life: bool, over: i64, contact: i64) -> Decision {
    if is_free || is_own_former_life || is_dead(over, contact) {
        Decision::Take
    } else {
        Decision::Wait
    }
}

/// Whether nothing of a process is in progress any more. The arguments are those of [`decide`].
pub(super) fn is_dead(over: i64, contact: i64) -> bool {
    let (lease, grace) = (millis(LEASE), millis(GRACE));
    over >= grace && contact >= lease + grace
}

pub(super) fn millis(usual: Duration) -> i64 {
    i64::try_from(lease_time(usual).as_millis()).unwrap_or(i64::MAX)
}

/// SQL: the time of the server, in milliseconds.
pub(in crate::ledger) const NOW: &str =
    "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)";

/// For how long a process has reached the database without a gap.
pub(super) struct Contact {
    since: i64,
    looked: i64,
}

impl Contact {
    /// It begins now.
    pub(super) fn new() -> Self {
        let now = boot_time();
        Self {
            since: now,
            looked: now,
        }
    }

    /// The process is about to look.
    pub(super) fn look(&mut self) {
        let now = boot_time();
        // This machine slept, or was busy.
        if now.saturating_sub(self.looked) > millis(LEASE) {
            self.since = now;
        }
        self.looked = now;
    }

    /// It has a new connection: what happened before is not known.
    pub(super) fn renew(&mut self) {
        self.since = boot_time();
    }

    /// In milliseconds.
    pub(super) fn lasts(&self) -> i64 {
        boot_time().saturating_sub(self.since)
    }
}

/// A process that wants the lease.
pub(super) struct Waiting {
    holder: Holder,
    connection: Option<PgConnection>,
    contact: Contact,
}

impl Waiting {
    pub(super) fn new(holder: Holder) -> Self {
        Self {
            holder,
            connection: None,
            contact: Contact::new(),
        }
    }

    /// Reads the lease once: `Ok` if this process has it now, `Err` with the active host.
    pub(super) async fn look(
        &mut self,
        options: &PgConnectOptions,
    ) -> Result<Result<Lease, ActiveHost>, sqlx::Error> {
        self.contact.look();
        let looked = within(CONNECT_MAX, self.try_look(options)).await;
        if looked.is_err() {
            self.connection = None;
        }
        looked
    }

    async fn try_look(
        &mut self,
        options: &PgConnectOptions,
    ) -> Result<Result<Lease, ActiveHost>, sqlx::Error> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            lost => {
                let mut connection = connect(options).await?;
                let exists: bool = sqlx::query_scalar("SELECT to_regclass('lease') IS NOT NULL")
                    .fetch_one(&mut connection)
                    .await?;
                if !exists {
                    let create = concat!(
                        "BEGIN; SELECT pg_advisory_xact_lock(5784612270211); ",
                        include_str!("lease.sql"),
                        "COMMIT"
                    );
                    sqlx::raw_sql(create).execute(&mut connection).await?;
                }
                self.contact.renew();
                lost.insert(connection)
            }
        };
        let contact = self.contact.lasts();
        let asked = boot_time();
        let sql = format!(
            "SELECT holder, host, life, since, until, {NOW} AS now FROM lease WHERE id = 1"
        );
        let row: Row = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .fetch_one(&mut *connection)
            .await?;
        let decision = decide(
            row.holder.is_none(),
            row.life == self.holder.life,
            row.now.saturating_sub(row.until),
            contact,
        );
        if decision == Decision::Take && take(connection, &self.holder, &row).await? {
            let lasts = millis(LEASE) - millis(MARGIN);
            return Ok(Ok(Lease::until(asked.saturating_add(lasts))));
        }
        Ok(Err(ActiveHost {
            host: row.host,
            since: Timestamp::from_millisecond(row.since).unwrap_or(Timestamp::UNIX_EPOCH),
        }))
    }

    /// Who has the lease now.
    pub(super) fn into_holder(self) -> Holder {
        self.holder
    }

    /// Pauses between two looks.
    pub(super) async fn pause() {
        tokio::time::sleep(lease_time(LOOK)).await;
    }
}

/// Takes the lease after the last transaction of the former holder, unless the row has changed. Whether it did.
async fn take(
    connection: &mut PgConnection,
    holder: &Holder,
    row: &Row,
) -> Result<bool, sqlx::Error> {
    use sqlx::Connection as _;
    let mut tx = connection.begin().await?;
    sqlx::query(LOCK).execute(&mut *tx).await?;
    let sql = format!(
        "UPDATE lease SET holder = $1, host = $2, life = $3, since = {NOW}, until = {NOW} + $4 \
         WHERE id = 1 AND holder IS NOT DISTINCT FROM $5 AND until = $6"
    );
    let taken = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(&holder.id)
        .bind(&holder.host)
        .bind(&holder.life)
        .bind(millis(LEASE))
        .bind(&row.holder)
        .bind(row.until)
        .execute(&mut *tx)
        .await?
        .rows_affected();
    tx.commit().await?;
    Ok(taken == 1)
}

/// Renews the lease until it is lost, on a connection of its own.
pub(super) async fn keep(options: PgConnectOptions, holder: Holder, lease: Lease) {
    let mut connection = None;
    loop {
        let asked = boot_time();
        let renewed = within(lease_time(LEASE), renew(&mut connection, &options, &holder)).await;
        match renewed {
            Ok(true) => lease.renew(asked.saturating_add(millis(LEASE) - millis(MARGIN))),
            Ok(false) => {
                lease.lose();
                return;
            }
            Err(error) => {
                if !lease.is_valid() {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "cannot renew the lease of this host: requests to the platform wait"
                    );
                }
                connection = None;
            }
        }
        tokio::time::sleep(lease_time(BEAT)).await;
    }
}

async fn renew(
    connection: &mut Option<PgConnection>,
    options: &PgConnectOptions,
    holder: &Holder,
) -> Result<bool, sqlx::Error> {
    let connection = match connection {
        Some(connection) => connection,
        lost => lost.insert(connect(options).await?),
    };
    let sql = format!("UPDATE lease SET until = {NOW} + $2 WHERE id = 1 AND holder = $1");
    let renewed = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(&holder.id)
        .bind(millis(LEASE))
        .execute(connection)
        .await?;
    Ok(renewed.rows_affected() == 1)
}

/// Gives the lease up, after the last transaction.
pub(super) async fn release(
    connection: &mut PgConnection,
    holder: &Holder,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE lease SET holder = NULL WHERE id = 1 AND holder = $1")
        .bind(&holder.id)
        .execute(connection)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_former_life_is_one_of_the_same_boot_and_locked_file() {
        let this = life("8bd1d5e2-7f10-4a86-9d9c-0f6a1c1a2b3c\n", 8, 13);
        // systemd writes the id without hyphens.
        assert_eq!(this, life("8bd1d5e27f104a869d9c0f6a1c1a2b3c", 8, 13));
        assert_ne!(this, life("8bd1d5e27f104a869d9c0f6a1c1a2b3c", 8, 14));
        assert_ne!(this, life("8bd1d5e27f104a869d9c0f6a1c1a2b3c", 9, 13));
        assert_ne!(this, life("00000000000000000000000000000001", 8, 13));
        assert_ne!(life("", 8, 13), life("", 8, 13));
    }

    #[test]
    fn a_lease_is_taken_when_nothing_of_its_holder_can_be_in_progress() {
        const OVER: i64 = 30_000;
        const LONG: i64 = 45_000;
        for (is_free, is_own, over, contact, expected) in [
            // Given up.
            (true, false, -15_000, 0, Decision::Take),
            (true, false, 90_000, 0, Decision::Take),
            // The process before this one, on the same host, which is dead.
            (false, true, -15_000, 0, Decision::Take),
            // It lasts.
            (false, false, -15_000, LONG, Decision::Wait),
            (false, false, -1, i64::MAX, Decision::Wait),
            // It is over, but a request of its holder may be in progress.
            (false, false, 0, LONG, Decision::Wait),
            (false, false, OVER - 1, LONG, Decision::Wait),
            // It is over, but the database may have been away for its holder as well.
            (false, false, OVER, LONG - 1, Decision::Wait),
            (false, false, i64::MAX, 0, Decision::Wait),
            (false, false, OVER, LONG, Decision::Take),
            (false, false, i64::MAX, i64::MAX, Decision::Take),
        ] {
            let decision = decide(is_free, is_own, over, contact);
            assert_eq!(decision, expected, "{is_free} {is_own} {over} {contact}");
        }
    }
}
