//! The iModels that the configuration names, in commands: the ids that the ledger has of them, and what a start will do
//! about the others. It creates none.

use crate::config::{KnownImodels, NewImodel};
use crate::itwin::{self, Client};
use crate::ledger::Ledger;
use crate::ledger_location::LedgerLocation;

/// The ids that the ledger has; none before the first start. An error of the ledger is reported elsewhere.
pub(super) async fn known(state: &LedgerLocation) -> KnownImodels {
    match Ledger::read(state).await {
        Ok(ledger) => ledger.created_imodels().await.unwrap_or_default(),
        Err(_) => KnownImodels::default(),
    }
}

/// What a start will do about an iModel whose id is not known.
#[derive(Debug)]
pub(super) enum Plan {
    Create,
    Use(String),
    /// Their ids.
    Ambiguous(Vec<String>),
}

/// Looks for the iModel on the platform.
pub(super) async fn plan(client: &Client, new: &NewImodel) -> Result<Plan, itwin::Error> {
    let found = client.imodels_named(&new.itwin_id, &new.name).await?;
    let mut ids: Vec<String> = found.into_iter().map(|imodel| imodel.id).collect();
    Ok(match ids.len() {
        0 => Plan::Create,
        1 => Plan::Use(ids.remove(0)),
        _ => Plan::Ambiguous(ids),
    })
}
