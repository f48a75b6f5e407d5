//! Which watch follows which: the watches of a configured table with several iModels.
//!
//! Input: the registered watches. Output: `watches.follows`, and the end of watches whose iModel is no longer listed.

use jiff::Timestamp;

use super::counterparts::wake_all;
use super::forget::forget_cloud_side;
use super::former_source_files::{drop_former, pass_on_former};
use super::{Tx, sql};
use crate::ids::ImodelId;

/// A configured watch that follows another one.
pub(super) struct Follower<'a> {
    pub(super) name: &'a str,
    /// The name of the other one.
    pub(super) leader: &'a str,
    pub(super) imodel_id: &'a ImodelId,
}

/// Records which watch follows which. Two watches whose iModels are known to be in different iTwins both upload.
pub(super) async fn follow(
    tx: &mut Tx,
    followers: impl Iterator<Item = Follower<'_>>,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    sql::query("UPDATE watches SET follows = NULL WHERE configured = 1")
        .execute(tx)
        .await?;
    for Follower {
        name,
        leader,
        imodel_id,
    } in followers
    {
        sql::query(
            "UPDATE watches SET follows = (SELECT l.id FROM watches l WHERE l.name = $2 \
             AND NOT EXISTS (SELECT 1 FROM imodels a JOIN imodels b ON b.id = l.imodel_id \
             WHERE a.id = watches.imodel_id AND a.root_folder_id <> b.root_folder_id)) \
             WHERE name = $1",
        )
        .bind(name)
        .bind(leader)
        .execute(tx)
        .await?;
        let leader: Option<i64> = sql::query_scalar("SELECT id FROM watches WHERE name = $1")
            .bind(leader)
            .fetch_optional(tx)
            .await?;
        if let Some(leader) = leader {
            drop_former(tx, leader, imodel_id).await?;
        }
    }
    wake_all(tx, now).await
}

/// Ends the watches of iModels that a table no longer lists. Their storage files are those of the watch that stays;
/// their source files are kept as its former ones.
pub(super) async fn leave_imodels(tx: &mut Tx, now: Timestamp) -> Result<(), sqlx::Error> {
    let left: Vec<(i64, i64)> = sql::query_as(
        "SELECT u.id, w.id FROM watches u JOIN watches w ON w.path IS NOT DISTINCT FROM u.path \
         AND w.storage_folder = u.storage_folder WHERE w.configured = 1 AND w.follows IS NULL \
         AND u.configured = 0 AND EXISTS (SELECT 1 FROM files f WHERE f.watch_id = u.id \
         AND f.storage_file_id IS NOT NULL)",
    )
    .fetch_all(tx)
    .await?;
    for (ended, stays) in left {
        pass_on_former(tx, ended, stays, now).await?;
        forget_cloud_side(tx, ended).await?;
    }
    Ok(())
}
