//! Where state and content are kept: the state as one file, written soon after a change; each blob as a file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::model::State;
use super::{Error, Shared};

/// Changes that come close together are written at once.
const WRITE_AFTER: Duration = Duration::from_millis(100);

/// The format of the state file.
const VERSION: u32 = 1;

#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    /// Removes the folder when nobody asked to keep it.
    temporary: Option<tempfile::TempDir>,
    changed: Notify,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    version: u32,
    state: State,
}

impl Store {
    pub(super) async fn open(folder: Option<PathBuf>) -> Result<Self, Error> {
        let (folder, temporary) = match folder {
            Some(folder) => (folder, None),
            None => {
                let made = tempfile::Builder::new().prefix("itwin-emulator-").tempdir();
                let made = made.map_err(|source| Error::Data {
                    path: std::env::temp_dir(),
                    source,
                })?;
                (made.path().to_owned(), Some(made))
            }
        };
        let blobs = folder.join("blobs");
        tokio::fs::create_dir_all(&blobs)
            .await
            .map_err(|source| Error::Data {
                path: blobs,
                source,
            })?;
        Ok(Self {
            folder,
            temporary,
            changed: Notify::new(),
        })
    }

    pub(super) async fn load(&self) -> Result<State, Error> {
        let path = self.state_file();
        let refused = |source| Error::Data {
            path: path.clone(),
            source,
        };
        let text = match tokio::fs::read(&path).await {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(State::default());
            }
            Err(error) => return Err(refused(error)),
        };
        let saved: Saved = serde_json::from_slice(&text).map_err(|error| refused(error.into()))?;
        if saved.version != VERSION {
            let text = format!(
                "its format is {}, this program knows {VERSION}",
                saved.version
            );
            return Err(refused(std::io::Error::other(text)));
        }
        Ok(saved.state)
    }

    /// Something changed that is to be written.
    pub(super) fn changed(&self) {
        self.changed.notify_one();
    }

    pub(super) fn blob(&self, name: &str) -> PathBuf {
        self.folder.join("blobs").join(name)
    }

    fn state_file(&self) -> PathBuf {
        self.folder.join("state.json")
    }
}

/// Writes the state soon after every change, and at the end.
pub(super) async fn keep(shared: Arc<Shared>, stop: CancellationToken) {
    if shared.store.temporary.is_some() {
        return;
    }
    loop {
        let stopping = tokio::select! {
            () = stop.cancelled() => true,
            () = shared.store.changed.notified() => false,
        };
        if !stopping {
            tokio::time::sleep(WRITE_AFTER).await;
        }
        let state = shared.state().clone();
        if let Err(error) = write(&shared.store.state_file(), state).await {
            tracing::error!(%error, "the emulator's state could not be written");
        }
        if stopping {
            return;
        }
    }
}

async fn write(path: &Path, state: State) -> std::io::Result<()> {
    let text = serde_json::to_vec_pretty(&Saved {
        version: VERSION,
        state,
    })?;
    let unfinished = path.with_extension(format!("{}.part", Timestamp::now().as_nanosecond()));
    tokio::fs::write(&unfinished, text).await?;
    tokio::fs::rename(&unfinished, path).await
}
