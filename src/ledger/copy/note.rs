//! What is noted in a ledger that was copied, or that is a copy: whether it is used.

use super::super::database::Tx;
use super::super::identity::host_name;
use super::super::{Database, Error, Ledger, sql, timestamp};
use super::side::{Side, lock, with_ledger};
use crate::ledger_location::LedgerLocation;
use crate::shell;
use crate::state_directory::StateDirectory;

/// What is noted in a ledger that was copied or is a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    /// The same in both.
    pub(super) copy: String,
    /// Whether the ledger continues elsewhere; otherwise this copy is not finished.
    pub(super) is_away: bool,
    /// The other place.
    pub(super) place: String,
    pub(super) at: i64,
}

pub(super) async fn write_note(db: &Database, note: &Note) -> Result<(), Error> {
    db.write_durably("note where it was copied to", async |tx| {
        insert_note(tx, note).await
    })
    .await
}

pub(super) async fn insert_note(tx: &mut Tx, note: &Note) -> Result<(), sqlx::Error> {
    sql::query("DELETE FROM moved").execute(tx).await?;
    sql::query("INSERT INTO moved (copy, away, place, at) VALUES ($1, $2, $3, $4)")
        .bind(&note.copy)
        .bind(i64::from(note.is_away))
        .bind(&note.place)
        .bind(note.at)
        .execute(tx)
        .await?;
    Ok(())
}

pub(super) async fn read_note(db: &Database) -> Result<Option<Note>, Error> {
    let read = db.read("look up where it was copied to", async |db| {
        sql::query_as::<(String, i64, String, i64)>(
            "SELECT copy, away, place, at FROM moved LIMIT 1",
        )
        .fetch_optional(db)
        .await
    });
    let note = read.await?.map(|(copy, away, place, at)| Note {
        copy,
        is_away: away != 0,
        place,
        at,
    });
    Ok(note)
}

/// A place of a ledger, as messages name it: on another host as well.
pub(super) fn place(location: &LedgerLocation) -> String {
    match &location.server {
        Some(server) => format!("the database {server}"),
        None => format!("{} on host {}", location.display(), host_name()),
    }
}

/// Why a ledger with this note is not used.
pub(super) fn refusal(note: Note, location: &LedgerLocation) -> Error {
    let here = place(location);
    if note.is_away {
        Error::Moved {
            here,
            there: note.place,
            at: timestamp(note.at).strftime("%F %TZ").to_string(),
            is_on_server: location.server.is_none(),
        }
    } else {
        Error::Unfinished {
            here,
            there: note.place,
        }
    }
}

/// After a new ledger was made on a server: says that the state directory has another one, in case it was forgotten.
pub(in crate::ledger) async fn mention_left_behind(location: &LedgerLocation) {
    let directory = LedgerLocation::from(location.to_path_buf());
    let is_there = location.server.is_some() && with_ledger(&directory).is_ok();
    // One that was copied elsewhere cannot be read.
    if is_there && Ledger::read(&directory).await.is_ok() {
        let shown = directory.display().to_string();
        let command = shell::command(["ledger", "copy", "--from", &shown]);
        tracing::warn!(
            hint = format!(
                "to continue with its history, stop the service and run `{command}` with an empty database"
            ),
            "this ledger is new: that in {shown} was not copied"
        );
    }
}

impl Ledger {
    /// Fails for a ledger that continues elsewhere, or is a copy that is not finished.
    pub(in crate::ledger) async fn refuse_moved(
        &self,
        location: &LedgerLocation,
    ) -> Result<(), Error> {
        match read_note(&self.db).await? {
            Some(note) => Err(refusal(note, location)),
            None => Ok(()),
        }
    }

    /// Makes a ledger valid again that was copied to another place. Whether it was not valid.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub async fn reactivate(location: &LedgerLocation) -> Result<bool, Error> {
        let state = match &location.server {
            Some(_) => {
                StateDirectory::make(location)?;
                StateDirectory::open(location)?
            }
            None => with_ledger(location)?,
        };
        let (lock, check) = lock(location, &state).await?;
        let side = match &location.server {
            Some(server) => Side::on_server(server, location, lock).await?,
            None => Side::in_directory(&state, lock, check).await?,
        };
        let deleted = side.reactivate().await;
        side.close().await;
        deleted
    }
}

impl Side {
    async fn reactivate(&self) -> Result<bool, Error> {
        self.check_version().await?;
        let deleted = self.db.write_durably("make it valid again", async |tx| {
            sql::query("DELETE FROM moved").execute(tx).await
        });
        Ok(deleted.await? > 0)
    }
}
