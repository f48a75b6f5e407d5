//! What the daemon knows of one file that is not handed over to the ledger yet.

use std::path::Path;

use jiff::Timestamp;

use crate::control::{self, Answer, Request};
use crate::watch::Unfinished;

/// Asks the daemon for a file; None when it does not wait for it, or no daemon answers.
pub(super) async fn ask(state: &Path, watch: &str, below: &Path) -> Option<Unfinished> {
    use std::os::unix::ffi::OsStrExt as _;
    let request = Request::Unfinished {
        watch: watch.to_owned(),
        path: below.as_os_str().as_bytes().to_owned(),
    };
    match control::ask(state, &request).await {
        Ok(Some(Answer::Unfinished { file })) => file,
        _ => None,
    }
}

/// When the file could not be opened for the first time.
pub(super) fn since(file: &Unfinished) -> Timestamp {
    let now = crate::clock::now();
    now.checked_sub(std::time::Duration::from_millis(file.unreadable_ms))
        .unwrap_or(now)
}
