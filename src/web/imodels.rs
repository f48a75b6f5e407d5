//! Names of the iModels and the pages of them in the portal.
//!
//! Names are read from the platform while someone has the page open or uses its API, one request at a time, and kept
//! in memory. No request of a browser waits for the platform; a name that is not known yet is left out.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::Notify;
use tracing::debug;
use url::Url;

use crate::itwin::Client;
use crate::ledger::WatchPlace;

/// How long a name counts as current.
const FRESH: Duration = Duration::from_secs(6 * 3600);

/// Pause after a request that failed.
const PAUSE: Duration = Duration::from_secs(300);

/// Where the files of a watch are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct PlaceView {
    watch: String,
    folder: Option<String>,
    imodel_id: String,
    imodel_name: Option<String>,
    itwin_id: Option<String>,
    /// The page of the iModel in the portal; None if the platform is not that of the portal.
    portal_url: Option<String>,
}

/// The names that are known.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: Mutex<HashMap<String, Known>>,
    wanted: Mutex<Vec<String>>,
    wake: Notify,
}

#[derive(Debug, Clone)]
struct Known {
    name: Option<String>,
    itwin_id: Option<String>,
    until: Instant,
}

impl Names {
    /// The places with their names. Requests those that are missing.
    pub(super) fn of(&self, places: &[WatchPlace], client: &Client) -> Vec<PlaceView> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let mut missing = Vec::new();
        let views = places.iter().map(|place| {
            let id = place.imodel_id.as_str();
            let found = known.get(id);
            // An iModel that is being created has no id yet.
            if uuid::Uuid::try_parse(id).is_ok() && found.is_none_or(|found| found.until < now) {
                missing.push(id.to_owned());
            }
            let itwin_id = found.and_then(|found| found.itwin_id.clone());
            let itwin_id = itwin_id.or_else(|| place.itwin_id.clone());
            let folder = place.folder.as_ref();
            PlaceView {
                watch: place.watch.clone(),
                folder: folder.map(|folder| folder.to_string_lossy().into_owned()),
                imodel_id: id.to_owned(),
                imodel_name: found.and_then(|found| found.name.clone()),
                portal_url: itwin_id
                    .as_ref()
                    .and_then(|itwin| client.portal_page(itwin, id))
                    .map(Url::into),
                itwin_id,
            }
        });
        let views = views.collect();
        if !missing.is_empty() {
            missing.sort();
            missing.dedup();
            *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = missing;
            self.wake.notify_one();
        }
        views
    }

    /// Reads names that are requested. Never returns.
    pub(super) async fn look_up(&self, client: &Client) {
        loop {
            self.wake.notified().await;
            let wanted =
                std::mem::take(&mut *self.wanted.lock().unwrap_or_else(PoisonError::into_inner));
            for id in wanted {
                if self.is_fresh(&id) {
                    continue;
                }
                let found = match client.imodel(&id).await {
                    Ok(imodel) => Known {
                        name: Some(imodel.display_name).filter(|name| !name.is_empty()),
                        itwin_id: Some(imodel.itwin_id),
                        until: Instant::now() + FRESH,
                    },
                    Err(error) => {
                        // The synchronizer reports why the iModel cannot be used.
                        debug!(imodel = id, %error, "cannot read the name of the iModel for the page");
                        self.outdated(&id)
                    }
                };
                let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                known.insert(id, found);
            }
        }
    }

    fn is_fresh(&self, id: &str) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(id)
            .is_some_and(|known| known.until >= Instant::now())
    }

    /// What was known before, for a while.
    fn outdated(&self, id: &str) -> Known {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.get(id);
        Known {
            name: before.and_then(|known| known.name.clone()),
            itwin_id: before.and_then(|known| known.itwin_id.clone()),
            until: Instant::now() + PAUSE,
        }
    }
}
