//! Copies a ledger between SQLite and PostgreSQL. Afterwards it continues in the copy, and the original is not used any
//! more: two ledgers with one id would both have the claims in storage.
//!
//! In: a state directory and a server, and which way. Out: what was copied. The lock of the directory and the lease of
//! the server keep every daemon away meanwhile. There is no transaction over both databases, so the steps are:
//!
//! 1. One transaction fills the target and compares it with the source. It also notes there that the copy is not
//!    finished, so nothing uses it.
//! 2. The source gets the note that the ledger continues in the target. From here on, nothing uses the source.
//! 3. The note in the target is deleted: it is the ledger now.
//!
//! A kill before 2 leaves a source that is as it was, and a target that the next copy empties; one before 3, two that
//! are not used, and the next copy does the rest. Never are there two that are used.

mod note;
mod side;

use std::cmp::Ordering;
use std::path::Path;
use std::time::Duration;

use super::claims::release_claims;
use super::database::content::{self, Digesting, Table, TableDigest};
use super::{Error, millis, sql};
use crate::failpoint::{failpoint, slowpoint};
use crate::ledger_location::Server;
pub(super) use note::mention_left_behind;
use note::{Note, insert_note, place, read_note, refusal, write_note};
use side::{Side, is_same};

/// A page of rows takes no longer.
const PAGE_MAX: Duration = Duration::from_secs(60);

/// To empty the tables, or to check their foreign keys, takes no longer.
const TABLES_MAX: Duration = Duration::from_secs(1800);

/// Which way a ledger is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyDirection {
    /// From SQLite in a state directory to PostgreSQL.
    ToServer,
    /// From PostgreSQL to SQLite in a state directory.
    ToDirectory,
}

/// A table of both sides.
#[derive(Debug, Clone)]
pub struct CopiedTable {
    /// Its name.
    pub name: String,
    /// What was read.
    pub source: TableDigest,
    /// What was written.
    pub target: TableDigest,
}

impl CopiedTable {
    /// All tables together.
    #[must_use]
    pub fn total(tables: &[Self]) -> Self {
        let sum = |of: fn(&Self) -> &TableDigest| {
            let mut hash = blake3::Hasher::new();
            for table in tables {
                hash.update(table.name.as_bytes());
                hash.update(of(table).digest.as_bytes());
            }
            TableDigest {
                rows: tables.iter().map(|table| of(table).rows).sum(),
                digest: hash.finalize().to_hex().to_string(),
            }
        };
        Self {
            name: "total".to_owned(),
            source: sum(|table| &table.source),
            target: sum(|table| &table.target),
        }
    }
}

/// Why a ledger was not copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// One of the sides cannot be used.
    #[error(transparent)]
    Ledger(#[from] Error),
    /// The target has a ledger.
    #[error("there is a ledger in {place} already")]
    Occupied {
        /// Where.
        place: String,
        /// Whether that is a database.
        is_server: bool,
    },
    /// The databases differ, though both are of this version.
    #[error("the tables of {place} are not those of this version")]
    Tables {
        /// Where.
        place: String,
    },
    /// Content of the copy differs. It was undone.
    #[error("the copy differs from the original")]
    Differs(Vec<CopiedTable>),
}

/// Copies the ledger of a state directory to a server, or back; returns what was copied. None: a former copy had been
/// interrupted after that, and is finished now.
///
/// # Errors
/// [`CopyError`]. Then the target is as empty as it was, or not used, and the source as it was, unless the copy was
/// complete: then the next attempt finishes it.
pub async fn copy(
    directory: &Path,
    server: &Server,
    direction: CopyDirection,
) -> Result<Option<Vec<CopiedTable>>, CopyError> {
    let (in_directory, on_server) = side::open(directory, server, direction).await?;
    let copied = match direction {
        CopyDirection::ToServer => between(&in_directory, &on_server).await,
        CopyDirection::ToDirectory => between(&on_server, &in_directory).await,
    };
    on_server.close().await;
    in_directory.close().await;
    copied
}

async fn between(source: &Side, target: &Side) -> Result<Option<Vec<CopiedTable>>, CopyError> {
    source.check_version().await?;
    let tables = source.tables().await?;
    let is_current = match target.db.compare_version().await? {
        Ordering::Greater => return Err(target.newer().into()),
        order => order == Ordering::Equal,
    };
    let note = if is_current {
        read_note(&target.db).await?
    } else {
        None
    };
    if let Some(of_source) = read_note(&source.db).await? {
        let is_copied = |of_target: &Note| of_source.is_away && of_target.copy == of_source.copy;
        if note.as_ref().is_some_and(is_copied) {
            finish(target).await?;
            return Ok(None);
        }
        return Err(refusal(of_source, &source.location).into());
    }
    let may_be_filled =
        target.is_empty().await? || (note.is_some() && is_same(source, target).await?);
    if !may_be_filled {
        return Err(CopyError::Occupied {
            place: place(&target.location),
            is_server: target.location.server.is_some(),
        });
    }
    target.db.migrate().await?;
    if target.tables().await? != tables {
        return Err(CopyError::Tables {
            place: place(&target.location),
        });
    }
    let copy = uuid::Uuid::new_v4().simple().to_string();
    let note = |is_away, other: &Side| Note {
        copy: copy.clone(),
        is_away,
        place: place(&other.location),
        at: millis(crate::clock::now()),
    };
    let copied = fill(source, target, &tables, &note(false, source)).await?;
    failpoint("copy committed");
    write_note(&source.db, &note(true, target)).await?;
    failpoint("original marked");
    finish(target).await?;
    Ok(Some(copied))
}

/// Fills the target with the content of the source, in one transaction.
async fn fill(
    source: &Side,
    target: &Side,
    tables: &[Table],
    note: &Note,
) -> Result<Vec<CopiedTable>, CopyError> {
    const ACTION: &str = "write the copy";
    let db = &target.db;
    let copied = db.write_once(ACTION, async |tx| {
        let emptied = content::begin_filling(tx, tables);
        let suspended = db.answer("empty its tables", TABLES_MAX, emptied).await?;
        let mut copied = Vec::new();
        for table in tables {
            let mut read = Digesting::new();
            let mut last = None;
            loop {
                let page = source.db.read("read it for a copy", async |db| {
                    table.page(db, last.as_ref()).await
                });
                let (mut rows, more) = page.await?;
                read.add(&rows);
                let inserted = table.insert(tx, &rows);
                db.answer(ACTION, PAGE_MAX, inserted).await?;
                failpoint("rows copied");
                slowpoint("rows copied").await;
                last = rows.pop();
                if !more {
                    break;
                }
            }
            copied.push(CopiedTable {
                name: table.name.clone(),
                source: read.finish(),
                target: Digesting::new().finish(),
            });
        }
        for (table, copied) in tables.iter().zip(&mut copied) {
            let mut written = Digesting::new();
            let mut last = None;
            loop {
                let page = table.page(tx, last.as_ref());
                let (mut rows, more) = db.answer("read the copy", PAGE_MAX, page).await?;
                written.add(&rows);
                last = rows.pop();
                if !more {
                    break;
                }
            }
            copied.target = written.finish();
        }
        if copied.iter().any(|table| table.source != table.target) {
            return Err(CopyError::Differs(copied));
        }
        let checked = content::end_filling(tx, tables, suspended);
        db.answer("check the copy", TABLES_MAX, checked).await?;
        let noted = insert_note(tx, note);
        db.answer(ACTION, PAGE_MAX, noted).await?;
        failpoint("copy complete");
        Ok(copied)
    });
    let copied = copied.await?;
    db.sync(ACTION).await?;
    Ok(copied)
}

/// Makes a complete copy the ledger. Nobody works on the uploads that were claimed.
async fn finish(target: &Side) -> Result<(), Error> {
    target
        .db
        .write_durably("finish the copy", async |tx| {
            release_claims(tx).await?;
            sql::query("DELETE FROM moved").execute(tx).await?;
            Ok(())
        })
        .await
}
