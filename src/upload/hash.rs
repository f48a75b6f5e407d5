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
const PIECE: u64 = 4 * 1024 * 1024;

/// Hashed in one go: a share must answer within its deadline for as much.
const GO: u64 = 64 * 1024 * 1024;

/// More threads would only wait for the disk, or for memory.
const THREADS_MAX: usize = 4;

/// The branches of a file so far.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    branches: Vec<ChainingValue>,
    /// The root, when one branch is the whole file.
    whole: Option<blake3::Hash>,
}

impl Pieces {
    /// Hashes some of the `left` bytes of the file from `at` on, where the last call ended, and tells how many.
    pub(super) fn add(&mut self, file: &File, at: u64, left: u64) -> io::Result<u64> {
        if at == 0 && left <= PIECE {
            self.whole = Some(read(file, 0, left)?.finalize());
            return Ok(left);
        }
        let len = left.min(GO);
        let next = AtomicU64::new(0);
        let work = || {
            let mut done = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let from = index * PIECE;
                if from >= len {
                    return Ok::<_, io::Error>(done);
                }
                let piece = read(file, at + from, PIECE.min(len - from))?;
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
        self.branches
            .extend(done.into_iter().map(|(_, branch)| branch));
        Ok(len)
    }

    /// The hash of the whole file, if that is what was added.
    pub(super) fn finish(&self) -> Option<blake3::Hash> {
        match self
            .branches
            .split_at_checked(left_side(self.branches.len()))
        {
            Some((left, right)) if !left.is_empty() => {
                Some(merge_subtrees_root(&join(left), &join(right), Mode::Hash))
            }
            _ => self.whole,
        }
    }
}

/// A piece of a file, at its place in the tree.
fn read(file: &File, at: u64, len: u64) -> io::Result<blake3::Hasher> {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(at);
    let mut slice = vec![0; SLICE];
    let mut done = 0;
    while done < len {
        let most = usize::try_from(len - done).map_or(SLICE, |left| left.min(SLICE));
        let slice = slice.get_mut(..most).unwrap_or_default();
        file.read_exact_at(slice, at + done)?;
        hasher.update(slice);
        done += most as u64;
    }
    Ok(hasher)
}

/// Branches on the left of a node that has so many below it: the largest power of two that leaves some for the right.
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
        let mut bytes = vec![0; 9 * usize::try_from(PIECE).unwrap()];
        fastrand::Rng::with_seed(1).fill(&mut bytes);
        for len in [
            0,
            1,
            PIECE - 1,
            PIECE,
            PIECE + 1,
            2 * PIECE,
            3 * PIECE + 5,
            8 * PIECE,
            9 * PIECE - 1,
        ] {
            let bytes = &bytes[..usize::try_from(len).unwrap()];
            std::fs::write(&path, bytes).unwrap();
            let file = File::open(&path).unwrap();
            let mut pieces = Pieces::default();
            assert_eq!(pieces.add(&file, 0, len).unwrap(), len);
            assert_eq!(pieces.finish(), Some(blake3::hash(bytes)), "{len}");
        }
    }

    #[test]
    fn a_file_goes_on_where_the_last_go_ended() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create_new(dir.path().join("a.dgn")).unwrap();
        let len = 2 * GO + PIECE + 7;
        file.set_len(len).unwrap();
        let file = File::open(dir.path().join("a.dgn")).unwrap();
        let (mut pieces, mut at, mut goes) = (Pieces::default(), 0, 0);
        while at < len {
            at += pieces.add(&file, at, len - at).unwrap();
            goes += 1;
        }
        let mut whole = blake3::Hasher::new();
        whole.update_reader(&file).unwrap();
        assert_eq!((goes, pieces.finish()), (3, Some(whole.finalize())));
    }
}
