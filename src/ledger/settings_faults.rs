//! Settings that the platform did not accept, and the runs that changed settings need.
//!
//! What the platform has is never recorded: another client may change it at any time.

use jiff::Timestamp;

use super::{ConnectionId, Error, Ledger, millis, sql};

/// Why the platform does not have the settings of the configuration. Runs of the connection wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsFault {
    /// What failed and why.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Ledger {
    /// Requests a run of these connections, because their settings are about to change. One that needs a run already
    /// stays as it is. Call it before the request that changes them: after a kill in between, a run too many is better
    /// than none.
    pub async fn expect_settings(
        &self,
        connections: &[ConnectionId],
        now: Timestamp,
    ) -> Result<(), Error> {
        self.db
            .write_durably("request a run for changed settings", async |tx| {
                for connection in connections {
                    sql::query(
                        "UPDATE connections SET generation = generation + 1, moved_at = $2 \
                         WHERE id = $1 AND generation = covered",
                    )
                    .bind(connection.0)
                    .bind(millis(now))
                    .execute(tx)
                    .await?;
                }
                Ok(())
            })
            .await
    }

    /// Records why the settings of a connection are not those of the configuration, or that they are.
    pub async fn record_settings_fault(
        &self,
        connection: ConnectionId,
        fault: Option<&SettingsFault>,
    ) -> Result<(), Error> {
        self.db
            .write("record a fault of settings", async |tx| {
                let Some(fault) = fault else {
                    return sql::query("DELETE FROM settings_faults WHERE connection_id = $1")
                        .bind(connection.0)
                        .execute(tx)
                        .await;
                };
                sql::query(
                    "INSERT INTO settings_faults (connection_id, reason, hint) VALUES ($1, $2, $3) \
                     ON CONFLICT (connection_id) DO UPDATE SET reason = excluded.reason, \
                     hint = excluded.hint",
                )
                .bind(connection.0)
                .bind(&fault.reason)
                .bind(&fault.hint)
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }
}
