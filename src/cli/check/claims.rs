//! Whether the daemon of another ledger has the storage folders of the watches.

use super::Report;
use crate::config::{Config, Watch};
use crate::itwin::Client;
use crate::ledger::{Ledger, OtherLedger, id_of_place};
use crate::upload::read_claim;

/// The id of the ledger of this configuration, or the one that it gets with the first start.
pub(super) async fn own_ledger(config: &Config) -> Option<String> {
    let place = &config.state.path;
    let known = match Ledger::read(place).await {
        Ok(ledger) => ledger.id().await.ok().flatten(),
        // What else is wrong with it was reported before.
        Err(_) => None,
    };
    known.or_else(|| id_of_place(place))
}

/// Reads the claim on the storage folder of a watch.
pub(super) async fn claim(
    report: &mut Report,
    client: &Client,
    root_folder_id: &str,
    watch: &Watch,
    own: Option<&str>,
) {
    match read_claim(client, root_folder_id, watch).await {
        Ok(Some(claim)) if own != Some(&claim.ledger) => {
            let other = OtherLedger {
                id: claim.ledger,
                host: claim.host,
            };
            report.wrong(
                &format!("watch {:?}: {}", watch.name, other.reason()),
                Some(&other.hint(&watch.name)),
            );
        }
        Ok(_) => {}
        Err(error) => report.refused(&format!("storage folder of watch {:?}", watch.name), &error),
    }
}
