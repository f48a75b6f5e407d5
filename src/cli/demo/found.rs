//! What the emulated platform has of the files of the demo.

use std::collections::BTreeMap;
use std::path::Path;

use crate::emulator::State;

/// What the platform has of the files.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Files whose content is complete in storage.
    pub(super) stored: usize,
    /// Files whose content was read by a run.
    pub(super) covered: usize,
    /// Storage files beyond one for each file.
    pub(super) doubled: usize,
    /// Contents that were completed once more: their node was killed before it could record that. Storage has them
    /// once.
    pub(super) again: u32,
    /// Contents by the node that has completed them.
    pub(super) by_node: BTreeMap<String, u64>,
}

impl Found {
    /// Compares the platform with the files and the digests of their contents. Pure.
    pub(super) fn of(state: &State, files: &BTreeMap<String, String>) -> Self {
        let mut found = Self::default();
        for (name, digest) in files {
            let is_copy = |path: &str| Path::new(path).file_name() == Some(name.as_ref());
            let copies: Vec<_> = state
                .files
                .values()
                .filter(|file| !file.deleted && is_copy(&file.path))
                .collect();
            let completed = copies.iter().filter_map(|file| {
                let completed = file.completed.as_ref()?;
                (completed.sha256 == *digest).then_some((file.id.as_str(), completed))
            });
            let completed: Vec<_> = completed.collect();
            found.stored += usize::from(!completed.is_empty());
            found.doubled += copies.len().saturating_sub(1);
            let again = copies.iter().map(|file| file.completions.saturating_sub(1));
            found.again += again.sum::<u32>();
            for (_, completed) in &completed {
                *found
                    .by_node
                    .entry(completed.completed_by.clone())
                    .or_default() += 1;
            }
            let runs = state.runs.values().filter(|run| run.state == "Completed");
            let was_read = runs.flat_map(|run| &run.covered).any(|read| {
                read.has_task
                    && read.sha256 == *digest
                    && completed.iter().any(|(id, _)| *id == read.storage_file_id)
            });
            found.covered += usize::from(was_read);
        }
        found
    }

    /// Whether each of this number of files is in storage once, and was read by a run.
    pub(super) fn is_good(&self, files: usize) -> bool {
        self.stored == files && self.covered == files && self.doubled == 0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A platform with these storage files: id, path, content, completions, and whether a run has read it.
    fn platform(stored: &[(&str, &str, &str, u32, bool)]) -> State {
        let mut state = State::default();
        let at = "2026-11-27T12:00:00Z";
        let mut covered = Vec::new();
        for (id, path, content, completions, was_read) in stored {
            let file = json!({
                "id": id, "itwinId": "", "parentFolderId": "", "displayName": "", "path": path,
                "description": null, "createdAt": at, "modifiedAt": at, "completions": completions,
                "blobWrites": 1, "deleted": false, "locked": false,
                "completed": {
                    "size": 1, "sha256": content, "version": completions, "completedAt": at,
                    "completedBy": "node1",
                },
            });
            let file = serde_json::from_value(file).unwrap();
            state.files.insert((*id).to_owned(), file);
            if *was_read {
                covered.push(json!({
                    "storageFileId": id, "version": completions, "sha256": content,
                    "connectorType": "GEOSPATIAL", "result": "Success",
                }));
            }
        }
        let run = json!({
            "id": "run", "connectionId": "", "imodelId": "", "requestedAt": at, "durationMs": 1,
            "state": "Completed", "result": "Success", "verdict": "Success", "covered": covered,
        });
        state
            .runs
            .insert("run".to_owned(), serde_json::from_value(run).unwrap());
        state
    }

    #[test]
    fn what_is_missing_or_doubled_is_found() {
        let files = [("a.dgn", "1"), ("b.dgn", "2")];
        let files = files.map(|(name, digest)| (name.to_owned(), digest.to_owned()));
        let files = BTreeMap::from(files);
        let a = ("A", "drop/a.dgn", "1", 1, true);
        let b = ("B", "b.dgn", "2", 1, true);
        let good = Found::of(&platform(&[a, b]), &files);
        assert!(good.is_good(2), "{good:?}");
        assert_eq!(good.by_node, BTreeMap::from([("node1".to_owned(), 2)]));
        let again = Found::of(&platform(&[a, ("B", "b.dgn", "2", 2, true)]), &files);
        assert!(again.is_good(2) && again.again == 1, "{again:?}");
        for other in [
            // Missing.
            &[a][..],
            // With the content of another file.
            &[a, ("B", "b.dgn", "1", 1, true)],
            // In no run.
            &[a, ("B", "b.dgn", "2", 1, false)],
            // A twin.
            &[a, b, ("C", "b.dgn", "2", 1, false)],
        ] {
            let found = Found::of(&platform(other), &files);
            assert!(!found.is_good(2), "{found:?}");
        }
    }
}
