//! What both origins work on: options, state, tokens, faults, and the record of requests.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::azurite::Azurite;
use super::faults::ActiveFaults;
use super::guard::Guard;
use super::lock::lock;
use super::model::State;
use super::quota::Quota;
use super::recorder::Recorder;
use super::signer::Signer;
use super::store::Store;
use super::switches::Switches;
use super::tokens::Tokens;

/// How the emulated platform behaves.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) clients: Vec<(String, String)>,
    pub(super) display_names: Vec<(String, String)>,
    /// Clients that have only the permissions of their roles.
    pub(super) outsiders: Vec<String>,
    pub(super) native_clients: Vec<String>,
    /// Allowed redirect addresses beside those on this machine.
    pub(super) redirects: Vec<String>,
    pub(super) run_duration: Duration,
    pub(super) sas_lifetime: Duration,
    pub(super) token_lifetime: Duration,
    /// How long connections may act for a user after the last consent.
    pub(super) owner_token_lifetime: Option<Duration>,
    pub(super) max_source_files: usize,
    pub(super) max_connections: usize,
    pub(super) page_size: Option<usize>,
    pub(super) requests_per_minute: Option<u32>,
    pub(super) forbidden_imodels: Vec<String>,
    pub(super) forbidden_storage: Vec<String>,
    pub(super) refused_connectors: Vec<String>,
    /// Whether runs check the first bytes of files.
    pub(super) file_check: bool,
}

/// What both origins work on.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) api_url: String,
    pub(super) blob_url: String,
    pub(super) azurite: Option<Azurite>,
    pub(super) guard: Guard,
    pub(super) recorder: Option<Recorder>,
    pub(super) signer: Signer,
    pub(super) store: Store,
    pub(super) state: Mutex<State>,
    pub(super) tokens: Mutex<Tokens>,
    pub(super) switches: Mutex<Switches>,
    pub(super) faults: Mutex<ActiveFaults>,
    pub(super) quota: Mutex<Quota>,
    pub(super) requests: Mutex<Vec<RequestRecord>>,
}

/// A recorded request.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RequestRecord {
    /// Time of arrival.
    pub time: Timestamp,
    /// `api` or `blob`.
    pub origin: &'static str,
    /// HTTP method.
    pub method: String,
    /// Path, as it was sent.
    pub path: String,
    /// Query, without a signature.
    pub query: String,
    /// Status of the response; 0 if the connection was closed instead.
    pub status: u16,
    /// The correlation id of the response.
    pub correlation_id: String,
    /// Bytes of the body, for requests to the blob storage.
    pub bytes: u64,
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The display name of a client.
    pub(super) fn display_name<'s>(&'s self, client_id: &'s str) -> &'s str {
        let mut names = self.options.display_names.iter();
        names
            .find(|(id, _)| id == client_id)
            .map_or(client_id, |(_, name)| name)
    }

    /// Computes all missing digests. Reads that content.
    pub(super) fn digest_now(&self) {
        let undigested = self.state().undigested();
        for content in undigested {
            // Content can be replaced at any time; its digest is computed before it is deleted.
            if let Ok(sha256) = self.store.digest(&content) {
                self.state().digested(&content.id, &sha256);
            }
        }
    }

    pub(super) async fn digest_all(self: &Arc<Self>) {
        let worker = Arc::clone(self);
        if let Err(panic) = tokio::task::spawn_blocking(move || worker.digest_now()).await {
            tracing::error!(%panic, "cannot compute digests");
        }
    }

    /// Restores the state at the start.
    pub(super) fn reset(&self) {
        let mut state = self.state();
        let blobs = std::mem::take(&mut state.blobs);
        state
            .retired
            .extend(blobs.into_values().filter_map(|blob| blob.content));
        state.files.clear();
        state.folders.retain(|_, folder| folder.parent_id.is_none());
        state.connections.clear();
        state.runs.clear();
        state.end_consents();
        state.configurations.clear();
        state.favorites.clear();
        state.recents.clear();
        for imodel in state.imodels.values_mut() {
            imodel.changesets.clear();
            imodel.named_versions.clear();
            imodel.contents.clear();
            imodel.gcs_from = None;
        }
        drop(state);
        lock(&self.requests).clear();
        lock(&self.faults).clear();
        *lock(&self.quota) = Quota::default();
        lock(&self.tokens).revoke_all();
        self.store.changed();
    }
}
