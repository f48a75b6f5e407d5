//! Listings of folders in which there was no news, so that the next scan, or the next process, asks one row of a folder
//! and not one of each file.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use sqlx::{Sqlite, Transaction};

use super::{During as _, Error, Ledger, WatchId};

/// One part of the listing of a folder; the parts of a folder count from 0 in the order in which it is listed.
#[derive(Debug, Clone, Copy)]
pub struct ListingPart<'a> {
    /// The watch.
    pub watch: WatchId,
    /// The folder, relative to the root.
    pub dir: &'a Path,
    /// Which part it is.
    pub part: u32,
    /// Of all that the watch room compares of the files in it.
    pub digest: &'a [u8; 32],
}

/// How often a watch has changed what it knows of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changes(i64);

impl Ledger {
    /// Whether the part is just as it was when it last held no news. If it is not, it has to be compared with what is
    /// known of its files, which must be asked for after this.
    pub async fn is_old_news(&self, part: &ListingPart<'_>) -> Result<(bool, Changes), Error> {
        let (changes, digest): (i64, Option<Vec<u8>>) = sqlx::query_as(
            "SELECT w.changes, l.digest FROM watches w \
             LEFT JOIN listings l ON l.watch_id = w.id AND l.dir = $2 AND l.part = $3 WHERE w.id = $1",
        )
        .bind(part.watch.0)
        .bind(part.dir.as_os_str().as_bytes())
        .bind(i64::from(part.part))
        .fetch_one(&self.reads)
        .await
        .during("look up a listing")?;
        let same = digest.as_deref() == Some(&part.digest[..]);
        Ok((same, Changes(changes)))
    }

    /// Keeps a part that turned out to hold no news, unless what is known of the watch's files has changed since
    /// `compared`, which was told before they were asked for.
    pub async fn keep_listing(
        &self,
        part: &ListingPart<'_>,
        compared: Changes,
    ) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO listings (watch_id, dir, part, digest) \
             SELECT id, $2, $3, $4 FROM watches WHERE id = $1 AND changes = $5 \
             ON CONFLICT (watch_id, dir, part) DO UPDATE SET digest = excluded.digest",
        )
        .bind(part.watch.0)
        .bind(part.dir.as_os_str().as_bytes())
        .bind(i64::from(part.part))
        .bind(&part.digest[..])
        .bind(compared.0)
        .execute(&self.pool)
        .await
        .during("keep a listing")?;
        Ok(())
    }
}

/// What is known of files in a folder changes in this transaction, so its listing may be news from now on.
pub(super) async fn forget_listing(
    tx: &mut Transaction<'_, Sqlite>,
    watch_id: i64,
    dir: &[u8],
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM listings WHERE watch_id = $1 AND dir = $2")
        .bind(watch_id)
        .bind(dir)
        .execute(&mut **tx)
        .await?;
    note_change(tx, watch_id).await
}

/// The same for all folders of a watch.
pub(super) async fn forget_listings(
    tx: &mut Transaction<'_, Sqlite>,
    watch_id: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM listings WHERE watch_id = $1")
        .bind(watch_id)
        .execute(&mut **tx)
        .await?;
    note_change(tx, watch_id).await
}

async fn note_change(tx: &mut Transaction<'_, Sqlite>, watch_id: i64) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE watches SET changes = changes + 1 WHERE id = $1")
        .bind(watch_id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
