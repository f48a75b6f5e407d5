//! What entitles this process to write: the lease, or a row beside that.

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::super::migrations::OF_POSTGRES as MIGRATIONS;
use super::lease::{self, Holder};
use super::nodes;
use crate::lease::Lease;

/// The lease of this process, or its row beside that. It is renewed as long as this exists.
pub(super) struct Held {
    pub(super) holder: Holder,
    pub(super) lease: Lease,
    pub(super) role: Role,
    pub(super) tasks: Vec<JoinHandle<()>>,
}

pub(super) enum Role {
    /// It has the lease. What others write raises the number.
    Active(watch::Sender<u64>),
    /// It has a row of its own. True: it is asked to leave.
    Beside(watch::Sender<bool>),
}

impl Held {
    /// Its id, if it has a row of its own.
    pub(super) fn node(&self) -> Option<&str> {
        match self.role {
            Role::Active(_) => None,
            Role::Beside(_) => Some(self.holder.id()),
        }
    }

    /// The number of its last transaction, if it may write.
    pub(super) fn permission(&self) -> String {
        match self.node() {
            None => format!(
                "SELECT c.last_commit FROM lease l, cluster c WHERE l.holder = '{}'",
                self.holder.id()
            ),
            // Whoever is active may have migrated the tables.
            Some(id) => format!(
                "SELECT last_commit FROM nodes WHERE id = '{id}' \
                 AND (SELECT COUNT(*) FROM _sqlx_migrations WHERE success) = {}",
                MIGRATIONS.iter().count()
            ),
        }
    }

    /// Gives it up, after the last transaction.
    pub(super) async fn give_up(&self, mut connection: PgConnection) -> Result<(), sqlx::Error> {
        match self.role {
            Role::Active(_) => lease::release(&mut connection, &self.holder).await?,
            Role::Beside(_) => nodes::leave(&mut connection, &self.holder).await?,
        }
        connection.close().await
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
