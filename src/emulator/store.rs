//! Where state and content are kept: the state as one file, written soon after a change; content as pieces, each a file
//! of its own, so that a list of blocks is put together without copying a byte.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::model::{Content, State};
use super::{Error, Shared};

/// Changes that come close together are written at once.
const WRITE_AFTER: Duration = Duration::from_millis(100);

/// The format of the state file.
const VERSION: u32 = 2;

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
        let content = folder.join("content");
        tokio::fs::create_dir_all(&content)
            .await
            .map_err(|source| Error::Data {
                path: content,
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
        let found: serde_json::Value =
            serde_json::from_slice(&text).map_err(|error| refused(error.into()))?;
        if found["version"] != VERSION {
            let text = format!(
                "its format is {}, this program knows {VERSION}; choose a new folder",
                found["version"]
            );
            return Err(refused(std::io::Error::other(text)));
        }
        let saved: Saved = serde_json::from_value(found).map_err(|error| refused(error.into()))?;
        Ok(saved.state)
    }

    /// Something changed that is to be written.
    pub(super) fn changed(&self) {
        self.changed.notify_one();
    }

    /// The file of a piece of content.
    pub(super) fn part(&self, name: &str) -> PathBuf {
        self.folder.join("content").join(name)
    }

    /// SHA-256 of content, in lower-case hexadecimal. Reads all of it.
    pub(super) fn digest(&self, content: &Content) -> std::io::Result<String> {
        let mut sha256 = Sha256::new();
        let mut piece = vec![0; 256 * 1024];
        for (_, part) in &content.parts {
            let mut file = std::fs::File::open(self.part(&part.name))?;
            loop {
                let read = file.read(&mut piece)?;
                let Some(read) = piece.get(..read).filter(|read| !read.is_empty()) else {
                    break;
                };
                sha256.update(read);
            }
        }
        Ok(hex(&sha256.finalize()))
    }

    /// The first bytes of content, at most so many. Empty when nothing of it is here.
    pub(super) fn head(&self, content: &Content, length: usize) -> Vec<u8> {
        let mut head = Vec::new();
        for (_, part) in &content.parts {
            let left = (length - head.len()) as u64;
            let Ok(file) = std::fs::File::open(self.part(&part.name)) else {
                return Vec::new();
            };
            if left == 0 || file.take(left).read_to_end(&mut head).is_err() {
                break;
            }
        }
        head
    }

    fn state_file(&self) -> PathBuf {
        self.folder.join("state.json")
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// After every change: writes the state, when it is to be kept, and removes content that counts no longer.
pub(super) async fn keep(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let stopping = tokio::select! {
            () = stop.cancelled() => true,
            () = shared.store.changed.notified() => false,
        };
        if !stopping {
            tokio::time::sleep(WRITE_AFTER).await;
        }
        let worker = Arc::clone(&shared);
        let kept = tokio::task::spawn_blocking(move || {
            clear_away(&worker);
            if worker.store.temporary.is_some() {
                return Ok(());
            }
            let state = worker.state().clone();
            write(&worker.store.state_file(), state)
        });
        match kept.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the emulator's state could not be written"),
            Err(panic) => tracing::error!(%panic, "the emulator's state could not be written"),
        }
        if stopping {
            return;
        }
    }
}

/// Removes what counts no longer, once its digest is known to whatever mentions it.
fn clear_away(shared: &Shared) {
    let retired = shared.state().retired.clone();
    for content in retired {
        let wanted = shared.state().undigested();
        if wanted.iter().any(|one| one.id == content.id)
            && let Ok(sha256) = shared.store.digest(&content)
        {
            shared.state().digested(&content.id, &sha256);
        }
        let mut state = shared.state();
        state.retired.retain(|one| one.id != content.id);
        let parts = content.parts.iter().map(|(_, part)| &part.name);
        let unused: Vec<&String> = parts.filter(|part| !state.is_used(part)).collect();
        drop(state);
        for part in unused {
            // It may be gone with its folder.
            drop(std::fs::remove_file(shared.store.part(part)));
        }
    }
}

fn write(path: &Path, state: State) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut unfinished = tempfile::NamedTempFile::new_in(folder)?;
    let saved = Saved {
        version: VERSION,
        state,
    };
    unfinished.write_all(&serde_json::to_vec_pretty(&saved)?)?;
    unfinished.persist(path)?;
    Ok(())
}
