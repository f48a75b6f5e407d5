//! Keeps the backoffs that hosts requested (Retry-After) across a restart: from the client into the ledger, and back.
//! In a ledger that several hosts share, they count for all of them: the portions of requests bring them.

use crate::clock;
use crate::itwin::{Client, Pause};
use crate::ledger::{self, Ledger};

/// Restores the backoffs of the previous process in the client.
pub(super) async fn resume(client: &Client, ledger: &Ledger) -> Result<(), ledger::Error> {
    let known = ledger.pauses(clock::now()).await?;
    let pauses: Vec<Pause> = known
        .into_iter()
        .map(|(host, until)| Pause { host, until })
        .collect();
    client.restore_pauses(&pauses);
    Ok(())
}

/// Records each backoff when a host requests it, until that fails.
pub(super) async fn record(client: Client, ledger: Ledger) -> ledger::Error {
    loop {
        client.pause_requested().await;
        let pauses: Vec<_> = client
            .pauses()
            .into_iter()
            .map(|pause| (pause.host, pause.until))
            .collect();
        if let Err(error) = ledger.record_pauses(&pauses, clock::now()).await {
            return error;
        }
    }
}
