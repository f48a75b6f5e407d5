//! Files of a watch that follows another one, because their folder goes into several iModels.
//!
//! The watch that is followed uploads each file once; a job of the other one takes over what came of it. This sends
//! nothing but the question which iTwin an iModel belongs to: storage is per iTwin, so if they differ, both watches
//! upload.

use tracing::info;

use super::Shared;
use super::error::UploadError;
use super::renames::Rename;
use super::steps::JobOutcome;
use super::tracked_job::TrackedJob;
use crate::config::{Followed, Watch};
use crate::ledger::Following;

impl Shared {
    /// Ends the attempt of a file that another watch uploads; None: this one has to do it.
    pub(super) async fn follow(
        &self,
        watch: &Watch,
        leader: &Followed,
        job: &TrackedJob<'_>,
    ) -> Result<Option<JobOutcome>, UploadError> {
        let (own, other) = (&watch.imodel_id, &leader.imodel_id);
        if !self.folders.share_storage(own, other).await? {
            if self.ledger.stop_following(job.watch).await? {
                info!(
                    watch = %watch.name, imodel = %own, other = %other,
                    "the iModels of this folder belong to different iTwins; files are uploaded to each"
                );
            }
            return Ok(None);
        }
        match self.ledger.follow(job, crate::clock::now()).await? {
            Following::InStorage(result) => Ok(Some(JobOutcome::Unchanged(result))),
            Following::Renamed(from) => Ok(Some(JobOutcome::Renamed(Rename {
                from,
                bulk_change: None,
            }))),
            Following::AtWork(other) => Err(UploadError::Predecessor { other }),
            Following::Waiting => Ok(Some(JobOutcome::AwaitsOther)),
            Following::Independent => Ok(None),
        }
    }
}
