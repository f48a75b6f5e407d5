//! Receives a body: to a file of its own on disk, with the checksums that the headers request. A failure leaves no
//! file.

use std::io::{self, Write as _};
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use crc64fast_nvme::Digest as Crc64;
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use md5::{Digest as _, Md5};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::request::{BlobError, BlobRequest, INCOMPLETE, refused};
use crate::emulator::body::{discard, pause};
use crate::emulator::faults::Effect;
use crate::emulator::model::Part;

/// Chunks of a body that can wait to be written.
const CHUNKS_WAITING: usize = 4;

/// The requested checksums of a body.
#[derive(Default)]
pub(super) struct Checksums {
    pub(super) md5: Option<[u8; 16]>,
    pub(super) crc64: Option<[u8; 8]>,
}

/// A received body.
pub(super) struct Received {
    pub(super) part: Part,
    pub(super) md5: Option<[u8; 16]>,
    pub(super) crc64: [u8; 8],
}

impl BlobRequest<'_> {
    /// The checksums in the headers.
    pub(super) fn checksums(&self) -> Result<Checksums, BlobError> {
        let decoded = |name: &str| self.header(name).map(|text| BASE64_STANDARD.decode(text));
        let (md5, crc64) = (decoded("content-md5"), decoded("x-ms-content-crc64"));
        if md5.is_some() && crc64.is_some() {
            return refused(
                400,
                "BothCrc64AndMd5HeaderPresent",
                "Only one of the two checksums may be sent.",
            );
        }
        let mut checksums = Checksums::default();
        if let Some(md5) = md5 {
            match md5.ok().and_then(|md5| md5.try_into().ok()) {
                Some(md5) => checksums.md5 = Some(md5),
                None => return refused(400, "InvalidMd5", "The header is not an MD5 value."),
            }
        }
        if let Some(crc64) = crc64 {
            match crc64.ok().and_then(|crc64| crc64.try_into().ok()) {
                Some(crc64) => checksums.crc64 = Some(crc64),
                None => {
                    return refused(
                        400,
                        "InvalidHeaderValue",
                        "The header is not a CRC64 value.",
                    );
                }
            }
        }
        Ok(checksums)
    }

    /// Writes a body to a file of its own; a body that is cut off or fails a check leaves no file.
    pub(super) async fn receive(
        &self,
        body: Incoming,
        max: u64,
        with_md5: bool,
    ) -> Result<Received, BlobError> {
        let length = self.length().unwrap_or(0);
        let checksums = match self.checksums() {
            Ok(checksums) if length <= max => checksums,
            // Too much to read and drop: the connection closes.
            Ok(_) => return refused(413, "RequestBodyTooLarge", "The body is too large."),
            Err(refused) => {
                discard(body).await;
                return Err(refused);
            }
        };
        let name = Uuid::new_v4().simple().to_string();
        let received = self
            .write_to_disk(body, &name, with_md5 || checksums.md5.is_some())
            .await;
        let mismatch = match received {
            Ok(received) if received.part.size != length => {
                BlobError(400, INCOMPLETE, "the body was cut off".to_owned())
            }
            Ok(received) if checksums.md5.is_some() && checksums.md5 != received.md5 => BlobError(
                400,
                "Md5Mismatch",
                "The MD5 value does not match the body.".to_owned(),
            ),
            Ok(received) if checksums.crc64.is_some_and(|crc64| crc64 != received.crc64) => {
                BlobError(
                    400,
                    "Crc64Mismatch",
                    "The CRC64 value does not match the body.".to_owned(),
                )
            }
            Ok(received) => return Ok(received),
            Err(refused) => refused,
        };
        self.delete_part(&name).await;
        Err(mismatch)
    }

    pub(super) async fn delete_part(&self, part: &str) {
        // The file may not exist.
        drop(tokio::fs::remove_file(self.shared.store.part(part)).await);
    }

    /// Reads the body from the network while a thread hashes and writes it.
    async fn write_to_disk(
        &self,
        body: Incoming,
        name: &str,
        with_md5: bool,
    ) -> Result<Received, BlobError> {
        let (chunks, waiting) = mpsc::channel(CHUNKS_WAITING);
        let path = self.shared.store.part(name);
        let writer = tokio::task::spawn_blocking(move || write(&path, waiting, with_md5));
        let cut_after = match self.applied.effect {
            Some(Effect::CutBody { after }) => after,
            _ => u64::MAX,
        };
        let mut size = 0;
        let mut data = body.into_data_stream();
        let mut ended_early = None;
        while let Some(chunk) = data.next().await {
            let Ok(chunk) = chunk else {
                ended_early = Some("the body was cut off");
                break;
            };
            let length = chunk.len();
            size += length as u64;
            if size > cut_after {
                ended_early = Some("cut off by a fault");
                break;
            }
            // The error of a failed writer is returned below.
            if chunks.send(chunk).await.is_err() {
                break;
            }
            if let Some(bytes_per_second) = self.applied.bytes_per_second {
                tokio::time::sleep(pause(length, bytes_per_second)).await;
            }
        }
        drop(chunks);
        let (md5, crc64) = writer.await.map_err(io::Error::other)??;
        match ended_early {
            Some(why) => refused(400, INCOMPLETE, why),
            None => Ok(Received {
                part: Part {
                    name: name.to_owned(),
                    size,
                },
                md5,
                crc64,
            }),
        }
    }
}

/// Writes chunks to a file and returns their MD5, if requested, and their CRC64.
fn write(
    path: &Path,
    mut chunks: mpsc::Receiver<Bytes>,
    with_md5: bool,
) -> io::Result<(Option<[u8; 16]>, [u8; 8])> {
    let mut file = std::fs::File::create(path)?;
    let (mut md5, mut crc64) = (with_md5.then(Md5::new), Crc64::new());
    while let Some(chunk) = chunks.blocking_recv() {
        if let Some(md5) = &mut md5 {
            md5.update(&chunk);
        }
        crc64.write(&chunk);
        file.write_all(&chunk)?;
    }
    let md5 = md5.map(|md5| md5.finalize().into());
    Ok((md5, crc64.sum64().to_le_bytes()))
}
