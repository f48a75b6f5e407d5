//! Emulates the iTwin Platform, to try everything without an account: in the demo, in tests, as a server.
//!
//! Input: HTTP requests on two origins, one for the API with its identity provider and one for the blob storage.
//! Output: the platform's statuses, headers and bodies. State is in memory, and in a data folder if there is one;
//! content is always on disk. Both can be read with [`Emulator::state`] and [`Emulator::requests`], and by HTTP below
//! `/_emulator`. A kill loses the changes of the last fraction of a second.
//!
//! It uses no other module of this program, least of all the client: it would share the client's bugs.
//!
//! The list at the end of `docs/emulator.md` names behavior without a source.
//!
//! # What is emulated
//!
//! The statuses of each operation, and the switches ([`Switches`]) for what the documentation leaves open. A test
//! checks that every operation returns every status here, and sets every switch to every value.
//!
//! | operation | statuses | switches |
//! |---|---|---|
//! | `any operation` | 401 404 413 429 | accept-missing, media-type, oversized-page |
//! | `GET /.well-known/jwks` | 200 | |
//! | `GET /.well-known/openid-configuration` | 200 | |
//! | `GET /connect/authorize` | 302 400 | |
//! | `GET /connect/consent` | 302 400 | |
//! | `GET /connect/endsession` | 200 302 400 | |
//! | `POST /connect/introspect` | 200 400 | |
//! | `POST /connect/revocation` | 200 400 | |
//! | `POST /connect/token` | 200 400 401 | refresh-token |
//! | `GET /users/me` | 200 | |
//! | `GET /accesscontrol/permissions` | 200 | |
//! | `GET /accesscontrol/itwins/{id}/permissions` | 200 404 | |
//! | `GET /accesscontrol/itwins/{id}/roles` | 200 404 | |
//! | `POST /accesscontrol/itwins/{id}/roles` | 201 403 404 422 | |
//! | `GET /accesscontrol/itwins/{id}/roles/{id}` | 200 404 | |
//! | `PATCH /accesscontrol/itwins/{id}/roles/{id}` | 200 403 404 422 | |
//! | `DELETE /accesscontrol/itwins/{id}/roles/{id}` | 204 403 404 | |
//! | `GET /accesscontrol/itwins/{id}/members/users` | 200 404 422 | |
//! | `POST /accesscontrol/itwins/{id}/members/users` | 201 403 404 422 | |
//! | `GET /accesscontrol/itwins/{id}/members/users/{id}` | 200 404 | |
//! | `PATCH /accesscontrol/itwins/{id}/members/users/{id}` | 200 403 404 422 | |
//! | `DELETE /accesscontrol/itwins/{id}/members/users/{id}` | 204 403 404 | |
//! | `GET /accesscontrol/itwins/{id}/members/owners` | 200 404 422 | |
//! | `POST /accesscontrol/itwins/{id}/members/owners` | 201 403 404 422 | |
//! | `DELETE /accesscontrol/itwins/{id}/members/owners/{id}` | 204 403 404 | |
//! | `GET /itwins` | 200 422 | |
//! | `POST /itwins` | 201 409 422 | |
//! | `GET /itwins/myprimaryaccount` | 200 | |
//! | `GET /itwins/favorites` | 200 422 | |
//! | `POST /itwins/favorites/{id}` | 204 404 422 | |
//! | `DELETE /itwins/favorites/{id}` | 204 404 422 | |
//! | `GET /itwins/recents` | 200 422 | |
//! | `POST /itwins/recents/{id}` | 204 404 422 | |
//! | `GET /itwins/{id}` | 200 404 422 | |
//! | `PATCH /itwins/{id}` | 200 404 422 | |
//! | `DELETE /itwins/{id}` | 204 404 | |
//! | `GET /itwins/{id}/account` | 200 404 422 | |
//! | `GET /imodels` | 200 403 404 422 | new-imodel-list |
//! | `POST /imodels` | 201 403 404 409 422 | new-imodel, create-limit |
//! | `GET /imodels/{id}` | 200 403 404 422 | |
//! | `PATCH /imodels/{id}` | 200 403 404 422 | |
//! | `DELETE /imodels/{id}` | 204 403 404 | |
//! | `POST /imodels/{id}/complete` | 200 403 404 422 | |
//! | `GET /imodels/{id}/operations/create` | 200 403 404 422 | |
//! | `GET /imodels/{id}/changesets` | 200 403 404 422 | |
//! | `GET /imodels/{id}/changesets/{id}` | 200 403 404 422 | |
//! | `GET /imodels/{id}/namedversions` | 200 403 404 422 | |
//! | `POST /imodels/{id}/namedversions` | 201 403 404 409 422 | |
//! | `GET /imodels/{id}/namedversions/{id}` | 200 403 404 422 | |
//! | `PATCH /imodels/{id}/namedversions/{id}` | 200 403 404 409 422 | |
//! | `GET /imodels/{id}/users` | 200 403 404 422 | |
//! | `GET /imodels/{id}/users/{id}` | 200 403 404 422 | |
//! | `GET /storage` | 200 403 404 422 | storage-forbidden, itwin-unknown |
//! | `GET /storage/files/{id}` | 200 403 404 | incomplete-files |
//! | `PATCH /storage/files/{id}` | 200 403 404 422 | |
//! | `DELETE /storage/files/{id}` | 204 403 404 | |
//! | `POST /storage/files/{id}/complete` | 200 403 404 409 422 | complete-without-content, complete-again, complete-empty, complete-expired |
//! | `GET /storage/files/{id}/download` | 302 403 404 | |
//! | `POST /storage/files/{id}/move` | 200 403 404 409 422 | move-name-taken |
//! | `POST /storage/files/{id}/updatecontent` | 202 403 404 409 | update-incomplete, update-blob, locked-file, sas-permissions |
//! | `GET /storage/folders/{id}` | 200 403 404 | |
//! | `PATCH /storage/folders/{id}` | 200 403 404 422 | |
//! | `DELETE /storage/folders/{id}` | 204 403 404 422 | |
//! | `GET /storage/folders/{id}/files` | 200 403 404 422 | incomplete-files, listed-description |
//! | `POST /storage/folders/{id}/files` | 202 403 404 409 422 | duplicate-file, name-case, recycled-name, name-error, sas-permissions |
//! | `GET /storage/folders/{id}/folders` | 200 403 404 422 | |
//! | `POST /storage/folders/{id}/folders` | 201 403 404 409 422 | duplicate-folder, name-case, name-error |
//! | `GET /storage/folders/{id}/list` | 200 403 404 422 | |
//! | `POST /storage/folders/{id}/lock` | 200 403 404 422 | |
//! | `POST /storage/folders/{id}/move` | 200 403 404 409 422 | move-name-taken |
//! | `GET /storage/folders/{id}/search` | 200 403 404 422 | |
//! | `POST /storage/folders/{id}/unlock` | 200 403 404 422 | |
//! | `GET /storage/recyclebin` | 200 403 404 422 | |
//! | `DELETE /storage/recyclebin/files/{id}` | 204 403 404 | |
//! | `POST /storage/recyclebin/files/{id}/restore` | 204 403 404 | restored-time |
//! | `DELETE /storage/recyclebin/folders/{id}` | 204 403 404 | |
//! | `POST /storage/recyclebin/folders/{id}/restore` | 204 403 404 | |
//! | `GET /emulated/{id}` | 200 206 404 416 | |
//! | `HEAD /emulated/{id}` | 200 | |
//! | `PUT /emulated/{id}` | 201 400 403 411 413 | |
//! | `PUT /emulated/{id}?comp=block` | 201 400 413 | |
//! | `GET /emulated/{id}?comp=blocklist` | 200 400 403 404 | |
//! | `PUT /emulated/{id}?comp=blocklist` | 201 400 | |
//! | `PUT /emulated/{id}?comp=lease` | 400 | |
//! | `GET /synchronization/configurations/connections/{id}` | 200 403 404 | |
//! | `POST /synchronization/configurations/connections/{id}` | 200 201 403 404 422 | unknown-setting |
//! | `PATCH /synchronization/configurations/connections/{id}` | 200 403 404 422 | unknown-setting |
//! | `DELETE /synchronization/configurations/connections/{id}` | 204 403 404 | |
//! | `GET /synchronization/configurations/imodels/{id}` | 200 403 404 | |
//! | `POST /synchronization/configurations/imodels/{id}` | 200 201 403 404 422 | unknown-setting |
//! | `PATCH /synchronization/configurations/imodels/{id}` | 200 403 404 422 | unknown-setting |
//! | `DELETE /synchronization/configurations/imodels/{id}` | 204 403 404 | |
//! | `GET /synchronization/configurations/itwins/{id}` | 200 403 404 | |
//! | `POST /synchronization/configurations/itwins/{id}` | 200 201 403 404 422 | unknown-setting |
//! | `PATCH /synchronization/configurations/itwins/{id}` | 200 403 404 422 | unknown-setting |
//! | `DELETE /synchronization/configurations/itwins/{id}` | 204 403 404 | |
//! | `GET /synchronization/imodels/connections` | 200 403 404 422 | |
//! | `GET /synchronization/imodels/connections/authorizationinformation` | 200 422 | |
//! | `GET /synchronization/imodels/storageconnections` | 200 403 404 422 | |
//! | `POST /synchronization/imodels/storageconnections` | 201 403 404 409 422 | empty-connection, retired-connector, unknown-connector, limit |
//! | `GET /synchronization/imodels/storageconnections/{id}` | 200 403 404 | last-run |
//! | `PUT /synchronization/imodels/storageconnections/{id}` | 200 403 404 422 | omitted-authentication, changed-owner |
//! | `DELETE /synchronization/imodels/storageconnections/{id}` | 204 403 404 409 | delete-in-run, removed-source-file |
//! | `POST /synchronization/imodels/storageconnections/{id}/run` | 202 303 403 404 409 422 | run-scope, simultaneous-run, empty-run, location, run-body, unchanged-task, undocumented-extension, geospatial-companions |
//! | `GET /synchronization/imodels/storageconnections/{id}/runs` | 200 403 404 422 | |
//! | `GET /synchronization/imodels/storageconnections/{id}/runs/{id}` | 200 403 404 | |
//! | `GET /synchronization/imodels/storageconnections/{id}/sourcefiles` | 200 403 404 422 | |
//! | `POST /synchronization/imodels/storageconnections/{id}/sourcefiles` | 201 403 404 409 422 | retired-connector, unknown-connector, limit |
//! | `GET /synchronization/imodels/storageconnections/{id}/sourcefiles/{id}` | 200 403 404 | |
//! | `PUT /synchronization/imodels/storageconnections/{id}/sourcefiles/{id}` | 200 403 404 409 422 | |
//! | `DELETE /synchronization/imodels/storageconnections/{id}/sourcefiles/{id}` | 204 403 404 | removed-source-file |
//! | `GET /synchronization/reports` | 200 403 422 | |

mod access;
mod addresses;
mod api;
mod azurite;
mod blob;
mod body;
mod builder;
mod compare;
mod control;
mod encoding;
mod error;
mod faults;
mod file_check;
mod guard;
mod identity;
mod imodels;
mod itwins;
mod lock;
mod model;
mod paging;
mod persist;
mod quota;
mod recorder;
mod reply;
mod request;
mod runs;
mod sas;
mod server;
mod shared;
mod signer;
mod state;
mod storage;
mod store;
mod switches;
mod synchronization;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use builder::Builder;
pub use compare::{CompareError, Comparison, compare};
pub use error::Error;
pub use faults::{AnyFault, Effect, Fault, InvalidFault, Report, Route, RunFault, TaskFault};
pub use model::{
    Changeset, Completed, Connection, Covered, File, Folder, Imodel, ImodelContent, Itwin, Member,
    NamedVersion, Role, Run, SourceFile, State,
};
pub use shared::RequestRecord;
pub use switches::*;

use lock::lock;
use shared::Shared;

/// The iTwin that exists if none is configured.
pub const DEFAULT_ITWIN_ID: &str = "11111111-2222-4333-8444-555555555555";
/// The iModel that exists if none is configured.
pub const DEFAULT_IMODEL_ID: &str = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";
/// The service application that exists if none is configured.
pub const DEFAULT_CLIENT_ID: &str = "service-emulator";
/// Its secret.
pub const DEFAULT_CLIENT_SECRET: &str = "emulator-secret";
/// The application for user sign-in that exists if none is configured; it has no secret.
pub const DEFAULT_NATIVE_CLIENT_ID: &str = "native-emulator";

/// A running emulator; dropping it stops it.
#[derive(Debug)]
pub struct Emulator {
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Emulator {
    /// Settings of a new emulator, by default with one client, one iTwin and one iModel.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Base address of the API.
    #[must_use]
    pub fn api_url(&self) -> &str {
        &self.shared.api_url
    }

    /// Base address of the identity provider.
    #[must_use]
    pub fn issuer_url(&self) -> &str {
        &self.shared.api_url
    }

    /// Base address of the blob storage.
    #[must_use]
    pub fn blob_url(&self) -> &str {
        &self.shared.blob_url
    }

    /// Everything on the platform now. Reads content whose digest is missing.
    #[must_use]
    pub fn state(&self) -> State {
        self.shared.digest_now();
        self.shared.state().as_of(Timestamp::now())
    }

    /// All requests so far, in the order of their responses.
    #[must_use]
    pub fn requests(&self) -> Vec<RequestRecord> {
        lock(&self.shared.requests).clone()
    }

    /// Injects a fault of requests.
    pub fn fault(&self, fault: Fault) {
        lock(&self.shared.faults).add(AnyFault::Request(fault));
    }

    /// Sets the result of a file's task in the next runs.
    pub fn fail_task(&self, fault: TaskFault) {
        lock(&self.shared.faults).add(AnyFault::Task(fault));
    }

    /// Sets result, duration or fate of the next runs.
    pub fn fail_run(&self, fault: RunFault) {
        lock(&self.shared.faults).add(AnyFault::Run(fault));
    }

    /// Sets the behaviors that the documentation leaves open.
    pub fn set_switches(&self, switches: Switches) {
        *lock(&self.shared.switches) = switches;
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        lock(&self.shared.faults).clear();
    }

    /// Starts a run of the iModel by another application, and returns its id.
    #[must_use]
    pub fn start_foreign_run(&self, imodel_id: &str, duration: Duration) -> String {
        self.shared
            .state()
            .start_foreign_run(imodel_id, duration, Timestamp::now())
    }

    /// Writes the state and stops.
    pub async fn stop(mut self) {
        self.stop.cancel();
        for task in std::mem::take(&mut self.tasks) {
            // A panic was already logged.
            drop(task.await);
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
