//! Paths that wait for their first probe, oldest first, each once.

use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The queue. A path is stored once, however often it is asked about.
#[derive(Debug, Default)]
pub(super) struct ProbeQueue {
    order: VecDeque<Arc<Path>>,
    queued: HashSet<Arc<Path>>,
    bytes: usize,
}

impl ProbeQueue {
    /// Adds a path, unless it waits already.
    pub(super) fn push(&mut self, path: &Path) {
        if self.queued.contains(path) {
            return;
        }
        let path: Arc<Path> = path.into();
        self.bytes += path.as_os_str().len();
        self.queued.insert(Arc::clone(&path));
        self.order.push_back(path);
    }

    /// Moves the oldest paths to `paths`, until that holds `most` or none is left.
    pub(super) fn fill(&mut self, paths: &mut Vec<PathBuf>, most: usize) {
        while paths.len() < most {
            let Some(path) = self.order.pop_front() else {
                break;
            };
            self.queued.remove(&path);
            self.bytes -= path.as_os_str().len();
            paths.push(path.to_path_buf());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Bytes of all paths.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_waits_once_and_the_oldest_leaves_first() {
        let mut queue = ProbeQueue::default();
        for path in ["a", "bb", "a", "ccc"] {
            queue.push(Path::new(path));
        }
        assert_eq!((queue.len(), queue.bytes()), (3, 6));
        let mut taken = vec![PathBuf::from("due")];
        queue.fill(&mut taken, 3);
        assert_eq!(taken, ["due", "a", "bb"].map(PathBuf::from));
        assert_eq!((queue.len(), queue.bytes()), (1, 3));
        queue.push(Path::new("a"));
        queue.fill(&mut taken, 9);
        assert_eq!(taken.len(), 5);
        assert!(queue.is_empty() && queue.bytes() == 0);
    }
}
