//! Another host becomes active when only that one still sees a share.
//!
//! A standby records which shares it sees; the active host looks for one that sees more than itself. If that lasts, it
//! ends as for a stop, so that the other one takes over at once, and systemd starts it again as a standby.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Until;
use crate::failpoint::{lease_time, share_deadline};
use crate::ledger::{self, Ledger, WatchId};
use crate::upload;
use crate::watch::ShareLook;

/// How often a standby looks for the shares, and the active host for a better one.
const LOOK: Duration = Duration::from_secs(10);

/// A share that does not answer for this long is not seen.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// For how long another host has to see more: a share that is away for a moment is no reason.
const LASTS: Duration = Duration::from_mins(1);

/// Where this host finds the folders of the watches.
#[derive(Default)]
struct Looks(HashMap<(WatchId, PathBuf), ShareLook>);

impl Looks {
    /// Of the watches in whose folder files were found, those whose folder is there on this host, and the others.
    async fn look(
        &mut self,
        ledger: &Ledger,
        settings: &watch::Receiver<upload::Settings>,
    ) -> Result<(BTreeSet<WatchId>, BTreeSet<WatchId>), ledger::Error> {
        let (mut seen, mut unseen) = (BTreeSet::new(), BTreeSet::new());
        for (id, share) in ledger.shares().await? {
            let watch = settings.borrow().watches.get(&id).cloned();
            let Some(watch) = watch else {
                continue;
            };
            let look = self.0.entry((id, watch.path.clone()));
            let look = look.or_insert_with(|| ShareLook::new(&watch));
            if look.look(share_deadline(ANSWER_MAX)).await == Some(share) {
                seen.insert(id);
            } else {
                unseen.insert(id);
            }
        }
        Ok((seen, unseen))
    }
}

/// Records which shares this standby sees, until the ledger fails.
pub(super) async fn record_seen(
    ledger: Ledger,
    settings: watch::Receiver<upload::Settings>,
) -> ledger::Error {
    let mut looks = Looks::default();
    let mut recorded = BTreeSet::new();
    loop {
        let seen = match looks.look(&ledger, &settings).await {
            Ok((seen, _)) => seen,
            Err(error) => return error,
        };
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
///
/// What counts here is the same look that other hosts take. A folder that is listed, but unavailable for another
/// reason, would be so there as well, and the hosts would take over from each other without end.
pub(super) async fn seen_by_another_only(
    ledger: Ledger,
    settings: watch::Receiver<upload::Settings>,
    until: Until,
) -> String {
    if !ledger.is_shared() || until == Until::Done {
        return std::future::pending().await;
    }
    let mut looks = Looks::default();
    let mut since = None;
    loop {
        tokio::time::sleep(lease_time(LOOK)).await;
        let found = match looks.look(&ledger, &settings).await {
            Ok((_, unseen)) => ledger.host_that_sees_more(&unseen).await,
            Err(error) => Err(error),
        };
        match found {
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
