//! Another host becomes active when only that one still sees a share.
//!
//! A standby records which shares it sees; the active host looks for one that sees more than itself. If that lasts, it
//! ends as for a stop, so that the other one takes over at once, and systemd starts it again as a standby.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Until;
use crate::failpoint::{lease_time, share_deadline};
use crate::ledger::{self, Ledger};
use crate::upload;
use crate::watch::ShareLook;

/// How often a standby looks for the shares, and the active host for a better one.
const LOOK: Duration = Duration::from_secs(10);

/// A share that does not answer for this long is not seen.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// For how long another host has to see more: a share that is away for a moment is no reason.
const LASTS: Duration = Duration::from_mins(1);

/// Records which shares this standby sees, until the ledger fails.
pub(super) async fn record_seen(
    ledger: Ledger,
    settings: watch::Receiver<upload::Settings>,
) -> ledger::Error {
    let mut looks = HashMap::new();
    let mut recorded = BTreeSet::new();
    loop {
        let shares = match ledger.shares().await {
            Ok(shares) => shares,
            Err(error) => return error,
        };
        let mut seen = BTreeSet::new();
        for (id, share) in shares {
            let watch = settings.borrow().watches.get(&id).cloned();
            let Some(watch) = watch else {
                continue;
            };
            let look = looks
                .entry((id, watch.path.clone()))
                .or_insert_with(|| ShareLook::new(&watch));
            if look.look(share_deadline(ANSWER_MAX)).await == Some(share) {
                seen.insert(id);
            }
        }
        if seen != recorded {
            if let Err(error) = ledger.record_seen_shares(&seen).await {
                return error;
            }
            recorded = seen;
        }
        tokio::time::sleep(lease_time(LOOK)).await;
    }
}

/// Returns when another host has seen more than this one, the active one, for long enough.
pub(super) async fn seen_by_another_only(ledger: Ledger, until: Until) -> String {
    if !ledger.is_shared() || until == Until::Done {
        return std::future::pending().await;
    }
    let mut since = None;
    loop {
        tokio::time::sleep(lease_time(LOOK)).await;
        match ledger.host_that_sees_more().await {
            Ok(Some(host)) => {
                let began = *since.get_or_insert_with(Instant::now);
                if began.elapsed() >= lease_time(LASTS) {
                    return host;
                }
            }
            Ok(None) | Err(_) => since = None,
        }
    }
}
