//! The memory for content that is being sent: one pool for the whole process, so that its size is one setting.
//!
//! A caller waits until enough memory is free. A buffer returns to the pool when its last reader drops it. Buffers are
//! reused by others of their size, because fresh memory costs the kernel more than sending it does; those in use and
//! those that wait for that are together no larger than the pool.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ledger::WatchId;

/// The pool's smallest change, in bytes.
const UNIT: usize = 64 * 1024;

/// The pool. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    capacity: Arc<Semaphore>,
    units: u32,
    /// What one watch may use while others have work: all but one buffer of the usual size.
    watch_units: u32,
    watches: Arc<Mutex<HashMap<WatchId, Arc<Semaphore>>>>,
    free: Arc<Free>,
}

/// Unused buffers, the oldest first.
#[derive(Debug)]
struct Free {
    /// Their sizes are multiples of this, and greater.
    step: usize,
    buffers: Mutex<Vec<Box<[u8]>>>,
}

/// Memory for one piece of content, all of it writable.
#[derive(Debug)]
pub(super) struct Buffer {
    /// Never empty before the drop.
    bytes: Box<[u8]>,
    len: usize,
    free: Arc<Free>,
    _permit: Option<OwnedSemaphorePermit>,
    /// Out of what its watch may use.
    _share: Option<OwnedSemaphorePermit>,
}

impl Pool {
    /// A pool of `memory` bytes, most of whose buffers have up to `usual` bytes.
    pub(super) fn new(memory: u64, usual: u64) -> Self {
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let units = bytes(memory)
            .div_ceil(UNIT)
            .clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let one = u32::try_from(bytes(usual).div_ceil(UNIT)).unwrap_or(u32::MAX);
        Self {
            capacity: Arc::new(Semaphore::new(units as usize)),
            units,
            watch_units: if units / 2 >= one { units - one } else { units },
            watches: Arc::default(),
            free: Arc::new(Free {
                step: (bytes(usual) / 8).max(UNIT),
                buffers: Mutex::default(),
            }),
        }
    }

    /// Waits for `len` free bytes. What is larger than the whole pool gets all of it.
    ///
    /// With a `watch`, the memory comes from the share of that watch; without one, all of it may be used.
    pub(super) async fn take(&self, watch: Option<WatchId>, len: usize) -> Buffer {
        let size = self.free.size(len);
        let units = u32::try_from(size.div_ceil(UNIT)).unwrap_or(u32::MAX);
        // The semaphores are never closed.
        let share = match watch {
            Some(watch) => {
                let units = units.clamp(1, self.watch_units);
                let share = self.share(watch);
                share.acquire_many_owned(units).await.ok()
            }
            None => None,
        };
        let capacity = Arc::clone(&self.capacity)
            .acquire_many_owned(units.clamp(1, self.units))
            .await
            .ok();
        let bytes = self.free.take(size);
        let bytes = bytes.unwrap_or_else(|| vec![0; size].into_boxed_slice());
        self.free
            .shrink_to(self.capacity.available_permits() * UNIT);
        Buffer {
            bytes,
            len,
            free: Arc::clone(&self.free),
            _permit: capacity,
            _share: share,
        }
    }

    fn share(&self, watch: WatchId) -> Arc<Semaphore> {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.watch_units as usize;
        let share = watches
            .entry(watch)
            .or_insert_with(|| Arc::new(Semaphore::new(all)));
        Arc::clone(share)
    }

    /// Gives unused memory back to the system.
    pub(super) fn shrink(&self) {
        self.free.shrink_to(0);
    }
}

impl Free {
    /// The size of a buffer for `len` bytes.
    fn size(&self, len: usize) -> usize {
        if len > self.step {
            len.next_multiple_of(self.step)
        } else {
            len
        }
    }

    fn take(&self, size: usize) -> Option<Box<[u8]>> {
        let mut buffers = self.lock();
        let at = buffers.iter().rposition(|buffer| buffer.len() == size)?;
        Some(buffers.remove(at))
    }

    /// Gives the oldest buffers back to the system until the others have at most this many bytes.
    fn shrink_to(&self, bytes: usize) {
        let mut buffers = self.lock();
        let mut all: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        buffers.retain(|buffer| {
            let stays = all <= bytes;
            if !stays {
                all -= buffer.len();
            }
            stays
        });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Box<[u8]>>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    pub(super) fn as_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        self.bytes.get_mut(..len).unwrap_or_default()
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes.len() > self.free.step {
            self.free.lock().push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MIB: usize = 1024 * 1024;

    #[tokio::test(start_paused = true)]
    async fn buffers_in_use_never_exceed_the_pool() {
        let pool = Pool::new(4 * MIB as u64, MIB as u64);
        let mut taken = Vec::new();
        for _ in 0..4 {
            taken.push(pool.take(None, MIB).await);
        }
        let wait = Duration::from_secs(1);
        assert!(
            tokio::time::timeout(wait, pool.take(None, 1))
                .await
                .is_err()
        );
        taken.pop();
        assert!(tokio::time::timeout(wait, pool.take(None, 1)).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn one_watch_leaves_a_buffer_to_the_others() {
        let pool = Pool::new(4 * MIB as u64, MIB as u64);
        let [north, south] = [1, 2].map(|id| Some(WatchId::for_test(id)));
        let mut taken = Vec::new();
        for _ in 0..3 {
            taken.push(pool.take(north, MIB).await);
        }
        let wait = Duration::from_secs(1);
        assert!(
            tokio::time::timeout(wait, pool.take(north, MIB))
                .await
                .is_err()
        );
        assert!(
            tokio::time::timeout(wait, pool.take(south, MIB))
                .await
                .is_ok()
        );
        // Without other uploads it may have all.
        assert!(
            tokio::time::timeout(wait, pool.take(None, MIB))
                .await
                .is_ok()
        );
        // What does not fit into its part gets all of that part.
        taken.clear();
        assert!(
            tokio::time::timeout(wait, pool.take(north, 9 * MIB))
                .await
                .is_ok()
        );
    }

    #[tokio::test]
    async fn a_buffer_has_the_length_that_was_asked_for_and_is_used_again() {
        let pool = Pool::new(4 * MIB as u64, MIB as u64);
        for len in [1, 1000, MIB - 1, MIB, MIB * 7 / 8 + 1] {
            let mut buffer = pool.take(None, len).await;
            assert_eq!(buffer.as_mut().len(), len);
            assert_eq!(buffer.as_ref().len(), len);
        }
        assert_eq!(pool.free.lock().len(), 1, "small ones are not kept");
        pool.shrink();
        assert_eq!(pool.free.lock().len(), 0);
    }

    #[tokio::test]
    async fn buffers_of_other_sizes_do_not_pile_up() {
        let pool = Pool::new(4 * MIB as u64, MIB as u64);
        for eighths in [8, 7, 6, 5, 4, 3, 8, 7, 6] {
            let buffers = [
                pool.take(None, eighths * MIB / 8).await,
                pool.take(None, eighths * MIB / 8).await,
            ];
            let used: usize = buffers.iter().map(|buffer| buffer.bytes.len()).sum();
            let free: usize = pool.free.lock().iter().map(|buffer| buffer.len()).sum();
            assert!(used + free <= 4 * MIB, "{used} in use, {free} kept");
        }
    }

    #[tokio::test]
    async fn what_is_larger_than_the_pool_gets_all_of_it() {
        let pool = Pool::new(MIB as u64, MIB as u64);
        assert_eq!(pool.take(None, 3 * MIB).await.as_ref().len(), 3 * MIB);
    }
}
