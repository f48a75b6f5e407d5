//! BLAKE3 of a file on several threads: BLAKE3 is a tree, so whole branches of it are hashed apart and then joined.

use std::fs::File;
use std::io;
use std::num::NonZero;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};

use blake3::hazmat::{
    ChainingValue, HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root,
};

/// Read and hashed at once, so that what is hashed is still in the processor's cache.
pub(super) const SLICE: usize = 128 * 1024;

/// One branch of the tree, in bytes: a power of two, as the tree is binary.
const LEAF: u64 = 1024 * 1024;

/// Hashed in one go, a branch as well.
const CHUNK: u64 = 64 * 1024 * 1024;

/// More threads would only wait for the disk, or for memory.
const THREADS_MAX: usize = 4;

/// A file so far.
#[derive(Debug, Default)]
pub(super) struct TreeHasher {
    /// One for each go.
    branches: Vec<ChainingValue>,
    /// The root, when one go was the whole file.
    whole: Option<blake3::Hash>,
}

impl TreeHasher {
    /// Hashes some of the `left` bytes of the file from `at` on, where the last call ended, and returns how many.
    /// `progress` rises with every slice that was read.
    pub(super) fn add(
        &mut self,
        file: &File,
        at: u64,
        left: u64,
        progress: &AtomicU64,
    ) -> io::Result<u64> {
        let len = left.min(CHUNK);
        if at == 0 && left <= LEAF {
            let hasher = read(file, 0, left, &mut vec![0; SLICE], progress)?;
            self.whole = Some(hasher.finalize());
            return Ok(len);
        }
        let next = AtomicU64::new(0);
        let work = || {
            let mut slice = vec![0; SLICE];
            let mut done = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let from = index * LEAF;
                if from >= len {
                    return Ok::<_, io::Error>(done);
                }
                let piece = read(file, at + from, LEAF.min(len - from), &mut slice, progress)?;
                done.push((index, piece.finalize_non_root()));
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        let done: io::Result<Vec<_>> = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads.min(THREADS_MAX))
                .map(|_| scope.spawn(work))
                .collect();
            let mut done = work()?;
            for other in others {
                match other.join() {
                    Ok(its) => done.extend(its?),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok(done)
        });
        let mut done = done?;
        done.sort_unstable_by_key(|(index, _)| *index);
        let leaves: Vec<_> = done.into_iter().map(|(_, piece)| piece).collect();
        if at == 0 && left <= CHUNK {
            self.whole = root(&leaves);
        } else {
            self.branches.push(join(&leaves));
        }
        Ok(len)
    }

    /// The hash of the whole file, if that is what was added.
    pub(super) fn finish(&self) -> Option<blake3::Hash> {
        self.whole.or_else(|| root(&self.branches))
    }
}

/// A piece of a file, at its place in the tree.
fn read(
    file: &File,
    at: u64,
    len: u64,
    slice: &mut [u8],
    progress: &AtomicU64,
) -> io::Result<blake3::Hasher> {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(at);
    let mut done = 0;
    while done < len {
        let most = usize::try_from(len - done).map_or(SLICE, |left| left.min(SLICE));
        let slice = slice.get_mut(..most).unwrap_or_default();
        file.read_exact_at(slice, at + done)?;
        progress.fetch_add(1, Ordering::Relaxed);
        hasher.update(slice);
        done += most as u64;
    }
    Ok(hasher)
}

/// The root above two branches or more.
fn root(branches: &[ChainingValue]) -> Option<blake3::Hash> {
    let (left, right) = branches.split_at_checked(left_side(branches.len()))?;
    (!left.is_empty()).then(|| merge_subtrees_root(&join(left), &join(right), Mode::Hash))
}

/// Branches on the left of a node that has this many below it: the largest power of two that leaves some for the right.
fn left_side(branches: usize) -> usize {
    match branches {
        0 | 1 => 0,
        more => more.next_power_of_two() / 2,
    }
}

fn join(branches: &[ChainingValue]) -> ChainingValue {
    match branches {
        [one] => *one,
        _ => {
            let (left, right) = branches.split_at(left_side(branches.len()));
            merge_subtrees_non_root(&join(left), &join(right), Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_that_are_hashed_apart_make_the_hash_of_the_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.dgn");
        let mut bytes = vec![0; usize::try_from(CHUNK + 9 * LEAF).unwrap()];
        fastrand::Rng::with_seed(1).fill(&mut bytes);
        for len in [
            0,
            1,
            LEAF - 1,
            LEAF,
            LEAF + 1,
            2 * LEAF,
            3 * LEAF + 5,
            8 * LEAF,
            9 * LEAF - 1,
            CHUNK,
            CHUNK + 1,
            CHUNK + 9 * LEAF - 1,
        ] {
            let bytes = &bytes[..usize::try_from(len).unwrap()];
            std::fs::write(&path, bytes).unwrap();
            let file = File::open(&path).unwrap();
            let mut tree = TreeHasher::default();
            let mut at = 0;
            loop {
                at += tree.add(&file, at, len - at, &AtomicU64::new(0)).unwrap();
                if at == len {
                    break;
                }
            }
            assert_eq!(tree.finish(), Some(blake3::hash(bytes)), "{len}");
        }
    }
}
