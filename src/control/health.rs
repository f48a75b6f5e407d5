//! Whether the daemon works: the ledger accepts a change, and the upload queue was checked recently.
//!
//! A hanging share and an unreachable platform affect neither, because a restart would not help.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::ledger::Ledger;

/// The upload queue is checked at least every half minute.
const QUEUE_MAX: Duration = Duration::from_secs(120);

/// Ok, or what does not work. The ledger may take `patience` to accept a change; `queue` has the time at which the
/// upload queue was checked last.
pub(crate) async fn prove(
    ledger: &Ledger,
    queue: &watch::Receiver<Instant>,
    patience: Duration,
) -> Result<(), String> {
    match tokio::time::timeout(patience, ledger.prove_alive()).await {
        Ok(Ok(())) if queue.borrow().elapsed() < QUEUE_MAX => Ok(()),
        Ok(Ok(())) => Err("the upload queue is stalled".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the ledger does not respond".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[tokio::test]
    async fn a_stalled_upload_queue_fails_the_health_check() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).await.unwrap();
        let now = Instant::now();
        let (turned, queue) = watch::channel(now);
        let patience = Duration::from_secs(60);
        assert_eq!(prove(&ledger, &queue, patience).await, Ok(()));
        turned.send_replace(now.checked_sub(QUEUE_MAX).unwrap());
        assert_eq!(
            prove(&ledger, &queue, patience).await,
            Err("the upload queue is stalled".to_owned())
        );
    }
}
