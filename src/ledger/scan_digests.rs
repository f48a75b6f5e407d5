//! Digests of folder listings in which nothing had changed: the next scan, also of the next process, reads one row for
//! a folder and not one for each file.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::{Error, Ledger, Tx, WatchId, sql};

/// One part of the listing of a folder; the parts of a folder count from 0 in the order in which it is listed.
#[derive(Debug, Clone, Copy)]
pub struct ListingPart<'a> {
    /// The watch.
    pub watch: WatchId,
    /// The folder, relative to the root.
    pub dir: &'a Path,
    /// Which part it is.
    pub part: u32,
    /// Of all that a scan compares of the files in it.
    pub digest: &'a [u8; 32],
}

/// How often a watch has changed what it knows of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changes(i64);

impl Ledger {
    /// Whether the part is the same as when it was last recorded as unchanged. If it is not, compare it with the known
    /// files, and read those after this call.
    pub async fn is_listing_unchanged(
        &self,
        part: &ListingPart<'_>,
    ) -> Result<(bool, Changes), Error> {
        let (changes, digest): (i64, Option<Vec<u8>>) = self
            .db
            .read("look up a listing", async |db| {
                sql::query_as(
                    "SELECT w.changes, l.digest FROM watches w LEFT JOIN listings l \
                     ON l.watch_id = w.id AND l.dir = $2 AND l.part = $3 WHERE w.id = $1",
                )
                .bind(part.watch.0)
                .bind(part.dir.as_os_str().as_bytes())
                .bind(i64::from(part.part))
                .fetch_one(db)
                .await
            })
            .await?;
        let same = digest.as_deref() == Some(&part.digest[..]);
        Ok((same, Changes(changes)))
    }

    /// Records a part in which nothing had changed, unless the known files of the watch have changed since `compared`,
    /// which was read before them.
    pub async fn record_listing(
        &self,
        part: &ListingPart<'_>,
        compared: Changes,
    ) -> Result<(), Error> {
        self.db
            .write("keep a listing", async |tx| {
                sql::query(
                    "INSERT INTO listings (watch_id, dir, part, digest) SELECT id, $2, $3, $4 \
                     FROM watches WHERE id = $1 AND changes = $5 ON CONFLICT (watch_id, dir, \
                     part) DO UPDATE SET digest = excluded.digest",
                )
                .bind(part.watch.0)
                .bind(part.dir.as_os_str().as_bytes())
                .bind(i64::from(part.part))
                .bind(&part.digest[..])
                .bind(compared.0)
                .execute(tx)
                .await
            })
            .await?;
        Ok(())
    }
}

/// What is known of files in a folder changes in this transaction, so its listing may differ from now on.
pub(super) async fn forget_listing(
    tx: &mut Tx,
    watch_id: i64,
    dir: &[u8],
) -> Result<(), sqlx::Error> {
    sql::query("DELETE FROM listings WHERE watch_id = $1 AND dir = $2")
        .bind(watch_id)
        .bind(dir)
        .execute(tx)
        .await?;
    note_change(tx, watch_id).await
}

/// The same for all folders of a watch.
pub(super) async fn forget_listings(tx: &mut Tx, watch_id: i64) -> Result<(), sqlx::Error> {
    sql::query("DELETE FROM listings WHERE watch_id = $1")
        .bind(watch_id)
        .execute(tx)
        .await?;
    note_change(tx, watch_id).await
}

async fn note_change(tx: &mut Tx, watch_id: i64) -> Result<(), sqlx::Error> {
    sql::query("UPDATE watches SET changes = changes + 1 WHERE id = $1")
        .bind(watch_id)
        .execute(tx)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::*;

    /// Every way in which what is known of a file changes.
    #[derive(Debug, Clone, Copy)]
    enum Change {
        NewFile,
        NewVersion,
        Vanished,
        Inherited,
        Moved,
    }

    impl Change {
        async fn happen(self, f: &Fixture) {
            match self {
                Self::NewFile => assert_eq!(f.hand_over("plans/new.dgn", 1, 1).await, 1),
                Self::NewVersion => assert_eq!(f.hand_over("plans/a.dgn", 2, 1).await, 1),
                Self::Vanished => {
                    let job = f.claim(1).await.unwrap();
                    assert_eq!(job.path, Path::new("plans/a.dgn"));
                    f.ledger.finish_vanished(&job, at(1)).await.unwrap();
                }
                Self::Inherited => {
                    let job = f.claim(1).await.unwrap();
                    f.ledger.take_place(&job, &[1; 16]).await.unwrap();
                    f.store(&job, 1, 1).await;
                    let run = f.begin_run(1).await;
                    f.finish_run(run, Verdict::Synchronized(None), 1).await;
                    f.hand_over("A.dgn", 1, 1).await;
                    let mut job = f.claim(2).await.unwrap();
                    let gone = f.ledger.take_place(&job, &[1; 16]).await.unwrap().unwrap();
                    assert_eq!(gone.path, Path::new("plans/a.dgn"));
                    assert!(f.ledger.inherit(&mut job, &gone).await.unwrap());
                }
                Self::Moved => {
                    let elsewhere = WatchSpec {
                        imodel_id: "elsewhere".into(),
                        ..spec("north")
                    };
                    let moved = f.ledger.register_watches(&[elsewhere], at(1)).await;
                    assert_eq!(moved.unwrap()[0].changes.len(), 1);
                }
            }
        }
    }

    #[tokio::test]
    async fn a_listing_is_unchanged_until_anything_that_is_known_of_its_files_changes() {
        for change in [
            Change::NewFile,
            Change::NewVersion,
            Change::Vanished,
            Change::Inherited,
            Change::Moved,
        ] {
            let f = Fixture::new().await;
            f.hand_over("plans/a.dgn", 1, 0).await;
            let part = |part, digest| ListingPart {
                watch: f.watch,
                dir: Path::new("plans"),
                part,
                digest,
            };
            let whole = part(0, &[7; 32]);
            let (old_news, changes) = f.ledger.is_listing_unchanged(&whole).await.unwrap();
            assert!(!old_news);
            f.ledger.record_listing(&whole, changes).await.unwrap();
            assert!(f.ledger.is_listing_unchanged(&whole).await.unwrap().0);
            for other in [part(0, &[8; 32]), part(1, &[7; 32])] {
                assert!(!f.ledger.is_listing_unchanged(&other).await.unwrap().0);
            }

            change.happen(&f).await;
            let (old_news, now) = f.ledger.is_listing_unchanged(&whole).await.unwrap();
            assert!(!old_news, "{change:?}");
            // What was compared before the change is not kept after it.
            f.ledger.record_listing(&whole, changes).await.unwrap();
            assert!(
                !f.ledger.is_listing_unchanged(&whole).await.unwrap().0,
                "{change:?}"
            );
            f.ledger.record_listing(&whole, now).await.unwrap();
            assert!(f.ledger.is_listing_unchanged(&whole).await.unwrap().0);
        }
    }
}
