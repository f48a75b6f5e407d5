//! State and content on disk. The state is one file, replaced after changes; content consists of parts, each a file
//! of its own: committing a block list copies no data.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;

use super::encoding::hex;
use super::error::Error;
use super::model::{Content, State};

/// The format of the state file.
const VERSION: u32 = 2;

#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    /// Deletes the folder at the end if no data folder was configured.
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
                "format {} is not supported, expected {VERSION}: use a new folder",
                found["version"]
            );
            return Err(refused(std::io::Error::other(text)));
        }
        let saved: Saved = serde_json::from_value(found).map_err(|error| refused(error.into()))?;
        Ok(saved.state)
    }

    /// Marks the state as changed.
    pub(super) fn changed(&self) {
        self.changed.notify_one();
    }

    pub(super) async fn wait_for_change(&self) {
        self.changed.notified().await;
    }

    /// Writes the state file, unless the folder is temporary. Replaces it in one step.
    pub(super) fn save(&self, state: State) -> std::io::Result<()> {
        if self.temporary.is_some() {
            return Ok(());
        }
        let mut unfinished = tempfile::NamedTempFile::new_in(&self.folder)?;
        let saved = Saved {
            version: VERSION,
            state,
        };
        unfinished.write_all(&serde_json::to_vec_pretty(&saved)?)?;
        unfinished.persist(self.state_file())?;
        Ok(())
    }

    /// The file of a part.
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

    /// The first `length` bytes of content. Empty if it is not stored here.
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
