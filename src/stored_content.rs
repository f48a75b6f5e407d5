//! Whether storage still has the content that we completed there.
//!
//! The platform gives a storage file no version and no checksum. What it says instead, its size and when and by whom it
//! was changed last, is recorded when our content is completed, and compared later.

use std::path::Path;

use jiff::Timestamp;
use tracing::warn;

use crate::itwin::File;
use crate::ledger::StorageStamp;
use crate::names::QuotedPath;

/// What storage has of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// What we completed.
    Ours,
    /// Content that another client changed.
    Changed {
        /// Who, if the platform says it.
        by: Option<String>,
        /// When, in the platform's notation.
        at: Option<String>,
    },
    /// Nothing: the storage file is gone.
    Missing,
}

/// What is recorded of a storage file.
pub(crate) fn stamp(file: &File) -> StorageStamp {
    StorageStamp {
        modified: file.modified.clone(),
        modified_by: file.modified_by.clone(),
        folder_id: file.parent_folder_id.clone(),
    }
}

/// Compares what was recorded of our content, `bytes` long, with what the platform says now.
pub(crate) fn compare(bytes: u64, recorded: &StorageStamp, seen: &File) -> Content {
    let differs = |was: &Option<String>, is: &Option<String>| match (was, is) {
        (Some(was), Some(is)) if was != is => {
            // The same moment in another notation is no difference.
            let (was, is) = (was.parse::<Timestamp>(), is.parse::<Timestamp>());
            !matches!((was, is), (Ok(was), Ok(is)) if was == is)
        }
        // What was not recorded, or is not said, can't be compared.
        _ => false,
    };
    let resized = seen.size.is_some_and(|size| size != bytes);
    if resized
        || differs(&recorded.modified, &seen.modified)
        || differs(&recorded.modified_by, &seen.modified_by)
    {
        Content::Changed {
            by: seen.modified_by.clone(),
            at: seen.modified.clone(),
        }
    } else {
        Content::Ours
    }
}

/// Logs a storage file that another client changed.
pub(crate) fn warn_changed(watch: &str, path: &Path, by: Option<&str>, at: Option<&str>) {
    warn!(
        watch, path = %QuotedPath(path), by = by.unwrap_or("unknown"), at = at.unwrap_or("unknown"),
        "storage file changed by another client: comparing its content, and uploading again if it differs"
    );
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn another_size_time_or_author_means_that_someone_changed_the_file() {
        let stored = |modified: Option<&str>, by: Option<&str>| StorageStamp {
            modified: modified.map(str::to_owned),
            modified_by: by.map(str::to_owned),
            folder_id: None,
        };
        let known = stored(Some("2026-11-25T10:00:00.0000000Z"), Some("daemon"));
        let seen = |size: u64, modified: &str, by: &str| json!({ "id": "f", "size": size, "lastModifiedDateTime": modified, "lastModifiedByDisplayName": by });
        for (what, stored, seen, ours) in [
            (
                "as recorded",
                &known,
                seen(10, "2026-11-25T10:00:00.0000000Z", "daemon"),
                true,
            ),
            (
                "another notation",
                &known,
                seen(10, "2026-11-25T11:00:00+01:00", "daemon"),
                true,
            ),
            (
                "another size",
                &known,
                seen(11, "2026-11-25T10:00:00.0000000Z", "daemon"),
                false,
            ),
            (
                "another time",
                &known,
                seen(10, "2026-11-25T10:00:01.0000000Z", "daemon"),
                false,
            ),
            (
                "another author",
                &known,
                seen(10, "2026-11-25T10:00:00.0000000Z", "Jane"),
                false,
            ),
            ("nothing but an id", &known, json!({ "id": "f" }), true),
            (
                "nothing recorded",
                &stored(None, None),
                seen(10, "2026-11-25T10:00:01.0000000Z", "Jane"),
                true,
            ),
            (
                "nothing recorded but the size",
                &stored(None, None),
                seen(11, "2026-11-25T10:00:01.0000000Z", "Jane"),
                false,
            ),
        ] {
            let seen: File = serde_json::from_value(seen).unwrap();
            assert_eq!(compare(10, stored, &seen) == Content::Ours, ours, "{what}");
        }
    }
}
