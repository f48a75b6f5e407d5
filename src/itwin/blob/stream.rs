//! A request body that is sent in chunks within the bandwidth limit, and a timeout for one that stalls.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::time::Instant;

use crate::bandwidth::BandwidthLimiter;

/// Time limit for the response after the last byte of a body.
pub(super) const ANSWER: Duration = Duration::from_secs(120);

/// Whether content is sent within the bandwidth limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speed {
    /// Within the configured limit.
    Limited,
    /// Unlimited: within the limit the upload would never complete.
    Full,
}

/// Splits bytes into chunks, to see progress and to apply the bandwidth limit.
pub(super) fn chunks(
    bytes: Bytes,
    limiter: Arc<BandwidthLimiter>,
    speed: Speed,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    stream::unfold((bytes, limiter), move |(mut rest, limiter)| async move {
        if rest.is_empty() {
            return None;
        }
        let chunk = rest.split_to(rest.len().min(limiter.chunk_size()));
        if speed == Speed::Limited {
            limiter.acquire(chunk.len()).await;
        }
        Some((Ok(chunk), (rest, limiter)))
    })
}

/// The progress of a body.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    /// Bytes left, and the time of the last progress.
    state: Arc<Mutex<(u64, Instant)>>,
    idle: Duration,
}

impl Progress {
    pub(super) fn new(len: u64, idle: Duration) -> Self {
        Self {
            state: Arc::new(Mutex::new((len, Instant::now()))),
            idle,
        }
    }

    pub(super) fn note(&self, bytes: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = (state.0.saturating_sub(bytes as u64), Instant::now());
    }

    /// Waits until there is no progress for too long.
    pub(super) async fn stalled(&self) {
        loop {
            let (left, at) = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let until = at + if left == 0 { ANSWER } else { self.idle };
            if Instant::now() >= until {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stalled_body_is_aborted_and_a_slow_one_is_not() {
        const IDLE: Duration = Duration::from_secs(60);
        let progress = Progress::new(10, IDLE);
        let began = Instant::now();
        let mover = progress.clone();
        let (slow, ()) = tokio::join!(
            async {
                progress.stalled().await;
                began.elapsed()
            },
            async {
                for _ in 0..5 {
                    tokio::time::sleep(IDLE / 2).await;
                    mover.note(1);
                }
            }
        );
        assert!(slow >= IDLE * 7 / 2, "{slow:?}");
    }
}
