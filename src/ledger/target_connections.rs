//! Which connection a source file belongs in, and which connections a watch has.
//!
//! The target of a file follows from its watch and its connector type, and is kept with the file
//! (`files.target_connection_id`): it is set in each transaction that changes one of both. `files.connection_id` is
//! the connection that has its source file; while they differ, the synchronizer moves the source file. A file that is
//! stored only has no target: it belongs to all connections of its watch.
//!
//! Generations are counted per connection. The generation of a stored-only file is compared with that of each
//! connection of its watch, so none of them is ever behind it.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{Tx, millis, sql};
use crate::connection_name::ConnectionName;
use crate::connector_type::ConnectorType;
use crate::ids::ImodelId;

/// SQL: the connection that a file of the watch with this connector type belongs in; NULL without a type.
macro_rules! target_connection {
    ($watch:literal, $connector:literal) => {
        concat!(
            "CASE WHEN ",
            $connector,
            " IS NOT NULL THEN (SELECT wc.connection_id FROM watch_connections wc \
             WHERE wc.watch_id = ",
            $watch,
            " AND wc.connector IN ('', ",
            $connector,
            ")) END"
        )
    };
}

/// SQL: the ids of the connections of a watch.
macro_rules! connections_of_watch {
    ($watch:literal) => {
        concat!(
            "(SELECT wc.connection_id FROM watch_connections wc WHERE wc.watch_id = ",
            $watch,
            ")"
        )
    };
}

/// SQL: the ids of the watches of a connection.
macro_rules! watches_of_connection {
    ($connection:literal) => {
        concat!(
            "(SELECT wc.watch_id FROM watch_connections wc WHERE wc.connection_id = ",
            $connection,
            ")"
        )
    };
}

pub(super) use {connections_of_watch, target_connection, watches_of_connection};

/// Sets the connections of a watch to those of the configured name. What changes, changes for its files as well.
pub(super) async fn set_connections_of_watch(
    tx: &mut Tx,
    watch: i64,
    imodel_id: &ImodelId,
    name: &ConnectionName,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let named = connection_row(tx, imodel_id, name.as_str()).await?;
    let (before, has_one_for_all): (i64, bool) = sql::query_as(
        "SELECT connection_id, EXISTS (SELECT 1 FROM watch_connections \
         WHERE watch_id = watches.id AND connector = '') FROM watches WHERE id = $1",
    )
    .bind(watch)
    .fetch_one(tx)
    .await?;
    if before == named && has_one_for_all != name.is_per_type() {
        return Ok(());
    }
    sql::query("UPDATE watches SET connection_id = $2 WHERE id = $1")
        .bind(watch)
        .bind(named)
        .execute(tx)
        .await?;
    sql::query("DELETE FROM watch_connections WHERE watch_id = $1")
        .bind(watch)
        .execute(tx)
        .await?;
    if name.is_per_type() {
        let connectors: Vec<ConnectorType> = sql::query_scalar(
            "SELECT DISTINCT connector FROM files WHERE watch_id = $1 AND connector IS NOT NULL",
        )
        .bind(watch)
        .fetch_all(tx)
        .await?;
        for connector in connectors {
            let connection = connection_row(tx, imodel_id, &name.of(&connector)).await?;
            add_connection(tx, watch, connector.as_str(), connection, now).await?;
        }
    } else {
        add_connection(tx, watch, "", named, now).await?;
    }
    retarget_files(tx, watch).await
}

/// Before files of a watch with these connector types are recorded: adds the connections of types that are new.
pub(super) async fn add_connections(
    tx: &mut Tx,
    watch: i64,
    connectors: &BTreeSet<&ConnectorType>,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    for connector in connectors {
        let missing: Option<(String, ImodelId)> = sql::query_as(
            "SELECT c.name, w.imodel_id FROM watches w JOIN connections c \
             ON c.id = w.connection_id WHERE w.id = $1 AND NOT EXISTS (SELECT 1 \
             FROM watch_connections WHERE watch_id = $1 AND connector IN ('', $2))",
        )
        .bind(watch)
        .bind(*connector)
        .fetch_optional(tx)
        .await?;
        if let Some((name, imodel_id)) = missing {
            let name = ConnectionName::from(name).of(connector);
            let connection = connection_row(tx, &imodel_id, &name).await?;
            add_connection(tx, watch, connector.as_str(), connection, now).await?;
        }
    }
    Ok(())
}

/// The record of a connection by its name.
pub(super) async fn connection_row(
    tx: &mut Tx,
    imodel_id: &ImodelId,
    name: &str,
) -> Result<i64, sqlx::Error> {
    let known = sql::query_scalar("SELECT id FROM connections WHERE imodel_id = $1 AND name = $2")
        .bind(imodel_id)
        .bind(name)
        .fetch_optional(tx)
        .await?;
    if let Some(id) = known {
        return Ok(id);
    }
    let id = tx.new_numbers(1).await?;
    sql::query("INSERT INTO connections (id, imodel_id, name) VALUES ($1, $2, $3)")
        .bind(id)
        .bind(imodel_id)
        .bind(name)
        .execute(tx)
        .await?;
    Ok(id)
}

/// Adds a connection to a watch. Its generation is not behind those of the stored-only files of the watch. It has to
/// run for them if it has source files of the watch already, from a time before: their run may be older than these
/// files.
async fn add_connection(
    tx: &mut Tx,
    watch: i64,
    connector: &str,
    connection: i64,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sql::query(
        "INSERT INTO watch_connections (watch_id, connector, connection_id) VALUES ($1, $2, $3)",
    )
    .bind(watch)
    .bind(connector)
    .bind(connection)
    .execute(tx)
    .await?;
    let reached: Option<i64> = sql::query_scalar(
        "SELECT MAX(stored_generation) FROM files WHERE watch_id = $1 AND connector IS NULL",
    )
    .bind(watch)
    .fetch_one(tx)
    .await?;
    let Some(reached) = reached else {
        return Ok(());
    };
    let has_source_files: bool = sql::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM files WHERE connection_id = $2 \
         AND source_file_id IS NOT NULL AND watch_id = $1)",
    )
    .bind(watch)
    .bind(connection)
    .fetch_one(tx)
    .await?;
    if has_source_files {
        sql::query(
            "UPDATE connections SET \
             generation = CASE WHEN generation > $2 THEN generation ELSE $2 END + 1, moved_at = $3 \
             WHERE id = $1",
        )
        .bind(connection)
        .bind(reached)
        .bind(millis(now))
        .execute(tx)
        .await?;
    } else {
        sql::query(
            "UPDATE connections SET generation = $2, covered = CASE WHEN covered = generation \
             THEN $2 ELSE covered END WHERE id = $1 AND generation < $2",
        )
        .bind(connection)
        .bind(reached)
        .execute(tx)
        .await?;
    }
    Ok(())
}

/// The connections of a watch have changed: each of its source files gets its new target. What is counted by the
/// generations of the old one counts as reached just now by those of the new one.
async fn retarget_files(tx: &mut Tx, watch: i64) -> Result<(), sqlx::Error> {
    sql::query(concat!(
        "UPDATE files SET target_connection_id = t.id, stored_generation = t.generation, \
         withdrawal_generation = CASE WHEN withdrawal_generation > 0 THEN t.generation + 1 \
         ELSE 0 END FROM connections t WHERE files.watch_id = $1 AND files.connector IS NOT NULL \
         AND t.id = ",
        target_connection!("files.watch_id", "files.connector"),
        " AND files.target_connection_id IS DISTINCT FROM t.id",
    ))
    .bind(watch)
    .execute(tx)
    .await?;
    // The source files that are elsewhere move at the next opportunity.
    sql::query(
        "UPDATE connections SET checked_at = 0 WHERE checked_at > 0 AND id IN \
         (SELECT f.target_connection_id FROM files f WHERE f.watch_id = $1 \
         AND f.source_file_id IS NOT NULL AND f.connection_id <> f.target_connection_id)",
    )
    .bind(watch)
    .execute(tx)
    .await?;
    Ok(())
}

/// The watch or the connector type of a file has changed: sets its target. If that is another one than before, its
/// content has to be run there.
pub(super) async fn set_target(tx: &mut Tx, file: i64) -> Result<(), sqlx::Error> {
    let (before, target): (Option<i64>, Option<i64>) = sql::query_as(concat!(
        "SELECT target_connection_id, ",
        target_connection!("f.watch_id", "f.connector"),
        " FROM files f WHERE id = $1",
    ))
    .bind(file)
    .fetch_one(tx)
    .await?;
    if target == before {
        return Ok(());
    }
    sql::query("UPDATE files SET target_connection_id = $2 WHERE id = $1")
        .bind(file)
        .bind(target)
        .execute(tx)
        .await?;
    match (before, target) {
        (Some(_), Some(target)) => {
            sql::query(
                "UPDATE files SET processed = 0, outcome = NULL, outcome_at = NULL, \
                 stored_generation = (SELECT generation FROM connections WHERE id = $2) \
                 WHERE id = $1",
            )
            .bind(file)
            .bind(target)
            .execute(tx)
            .await?;
        }
        // It is compared with all connections of the watch from now on.
        (_, None) => {
            sql::query(concat!(
                "UPDATE files SET stored_generation = (SELECT CASE \
                 WHEN COALESCE(MIN(c.generation), 0) < files.stored_generation \
                 THEN COALESCE(MIN(c.generation), 0) ELSE files.stored_generation END \
                 FROM connections c WHERE c.id IN ",
                connections_of_watch!("files.watch_id"),
                ") WHERE id = $1",
            ))
            .bind(file)
            .execute(tx)
            .await?;
        }
        (None, Some(_)) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests;
