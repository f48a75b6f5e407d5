//! Whole content: put a blob in one request, replace what a blob has.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::body::Incoming;
use uuid::Uuid;

use super::MIB;
use super::request::{BlobError, BlobRequest, LARGE_SINCE, refused};
use crate::emulator::body::discard;
use crate::emulator::model::{Content, Part};
use crate::emulator::reply::{self, Reply};

impl BlobRequest<'_> {
    pub(super) async fn blob(&self, body: Incoming) -> Result<Reply, BlobError> {
        match self.header("x-ms-blob-type") {
            Some("BlockBlob") => {}
            Some(_) => {
                discard(body).await;
                return refused(400, "InvalidHeaderValue", "Only block blobs are supported.");
            }
            None => {
                discard(body).await;
                return refused(400, "MissingRequiredHeader", "x-ms-blob-type is missing.");
            }
        }
        let max = if self.version() < LARGE_SINCE {
            256
        } else {
            5000
        };
        let whole = self.header("x-ms-blob-content-md5").map(str::to_owned);
        let received = self.receive(body, max * MIB, true).await?;
        let md5 = received.md5.map(|md5| BASE64_STANDARD.encode(md5));
        if whole.is_some() && whole != md5 {
            self.delete_part(&received.part.name).await;
            return refused(400, "Md5Mismatch", "The MD5 value does not match the body.");
        }
        let name = received.part.name.clone();
        if !self.replace(vec![(None, received.part)]) {
            self.delete_part(&name).await;
        }
        Ok(created(md5.as_deref(), Some(received.crc64)))
    }

    /// Replaces the content of the blob; false if the blob no longer exists.
    pub(super) fn replace(&self, parts: Vec<(Option<String>, Part)>) -> bool {
        let mut state = self.shared.state();
        let state = &mut *state;
        let Some(blob) = state.blobs.get_mut(self.blob) else {
            return false;
        };
        let content = Content {
            id: Uuid::new_v4().simple().to_string(),
            size: parts.iter().map(|(_, part)| part.size).sum(),
            parts,
        };
        let unlisted = std::mem::take(&mut blob.uncommitted);
        let (id, size) = (content.id.clone(), content.size);
        state.retired.extend(blob.content.replace(content));
        blob.is_new = true;
        if !unlisted.is_empty() {
            state.retired.push(Content {
                id: Uuid::new_v4().simple().to_string(),
                size: 0,
                parts: unlisted
                    .into_iter()
                    .map(|(id, part)| (Some(id), part))
                    .collect(),
            });
        }
        if let Some(file) = state.files.get_mut(&blob.file_id) {
            file.blob_writes += 1;
            // New content in the blob of the completed one is visible at once.
            if file.blob.as_deref() == Some(self.blob)
                && let Some(completed) = &mut file.completed
            {
                completed.size = size;
                completed.sha256.clear();
                completed.version += 1;
                completed.content = Some(id);
            }
        }
        self.shared.store.changed();
        true
    }
}

pub(super) fn created(md5: Option<&str>, crc64: Option<[u8; 8]>) -> Reply {
    let etag = format!("\"0x{}\"", Uuid::new_v4().simple());
    let crc64 = crc64.map(|crc64| BASE64_STANDARD.encode(crc64));
    let mut headers = vec![("etag", etag.as_str())];
    headers.extend(md5.map(|md5| ("content-md5", md5)));
    headers.extend(crc64.as_deref().map(|crc64| ("x-ms-content-crc64", crc64)));
    reply::with(201, &headers, "")
}
