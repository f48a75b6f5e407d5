//! What is logged about a file: changes of others in storage, and failures.

use tracing::{debug, error, warn};

use crate::ledger::{Again, ConnectionFile, Outcome, Refusal};
use crate::names::QuotedPath;
use crate::next_attempt::clock_time;
use crate::stored_content::{self, Content};

/// Logs a storage file that another client deleted or changed.
pub(super) fn report_foreign_change(file: &ConnectionFile, content: Option<&Content>) {
    let (watch, path) = (&file.watch, QuotedPath(&file.path));
    match content {
        Some(Content::Changed { by, at }) => {
            stored_content::warn_changed(watch, &file.path, by.as_deref(), at.as_deref());
        }
        Some(Content::Missing | Content::Ours) | None => warn!(
            %watch, %path,
            "file was deleted from iTwin Storage by another client; uploading it again"
        ),
    }
}

/// Logs a file that failed.
pub(super) fn report_failure(file: &ConnectionFile, refusal: &Refusal) {
    let (watch, path) = (&file.watch, QuotedPath(&file.path));
    let (reason, hint) = (&refusal.reason, refusal.hint.as_deref());
    let (connector, kind) = (file.connector.as_str(), refusal.kind);
    match refusal.again {
        Again::BusyUntil(at) => {
            debug!(%watch, %path, connector, reason, next = clock_time(at), "not synchronized yet");
        }
        Again::At(at) => {
            warn!(%watch, %path, connector, %kind, reason, hint, next = clock_time(at), "synchronization failed; trying again");
        }
        Again::FailedUntil(at) => error!(
            %watch, %path, connector, result = %Outcome::Failed, %kind, reason, hint, next = clock_time(at),
            "synchronization failed"
        ),
        Again::Never => error!(
            %watch, %path, connector, result = %Outcome::Failed, %kind, reason, hint,
            "synchronization failed; it is tried again when the file changes"
        ),
    }
}
