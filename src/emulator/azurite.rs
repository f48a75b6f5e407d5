//! A running Azurite, Microsoft's emulator of blob storage, instead of our own: signs addresses for it,
//! and reads the blobs that were uploaded to it.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::encoding::hex;
use super::sas::{self, Grant};

/// The default account of Azurite, with the key from its manual.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// The container of all blobs.
const CONTAINER: &str = "itwin-storage";

/// A blob in Azurite.
#[derive(Debug, Clone)]
pub(super) struct AzuriteBlob {
    pub(super) size: u64,
    /// Lower-case hexadecimal.
    pub(super) sha256: String,
    /// Its `ETag`.
    pub(super) tag: String,
}

#[derive(Debug)]
pub(super) struct Azurite {
    /// URL with the account.
    base: String,
    key: Vec<u8>,
    client: reqwest::Client,
}

impl Azurite {
    /// Creates the container.
    pub(super) async fn connect(url: &str) -> Result<Self, std::io::Error> {
        let failed = |error: String| std::io::Error::other(error);
        let azurite = Self {
            base: format!("{}/{ACCOUNT}", url.trim_end_matches('/')),
            key: BASE64_STANDARD
                .decode(KEY)
                .map_err(|error| failed(error.to_string()))?,
            client: reqwest::Client::builder()
                .no_proxy()
                .build()
                .map_err(|error| failed(error.to_string()))?,
        };
        let made = azurite
            .client
            .put(format!(
                "{}/{CONTAINER}?restype=container&{}",
                azurite.base,
                azurite.admin()
            ))
            .header("content-length", 0)
            .send()
            .await
            .map_err(|error| failed(error.without_url().to_string()))?;
        // 409: it exists.
        if !made.status().is_success() && made.status() != 409 {
            return Err(failed(format!("unexpected status {}", made.status())));
        }
        Ok(azurite)
    }

    /// The signed address of a blob.
    pub(super) fn address(&self, grant: Grant<'_>, expiry: Timestamp) -> String {
        let blob = grant.blob;
        let resource = format!("/{ACCOUNT}/{CONTAINER}/{blob}");
        let query = sas::service(&self.key, &resource, grant, expiry);
        format!("{}/{CONTAINER}/{blob}?{query}", self.base)
    }

    /// The content of a blob.
    pub(super) async fn read(&self, blob: &str) -> Option<AzuriteBlob> {
        let url = format!("{}/{CONTAINER}/{blob}?{}", self.base, self.admin());
        let answer = self.client.get(url).send().await.ok()?;
        let answer = answer.error_for_status().ok()?;
        let tag = answer.headers().get("etag")?.to_str().ok()?.to_owned();
        let (mut sha256, mut size) = (Sha256::new(), 0);
        let mut pieces = answer.bytes_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.ok()?;
            size += piece.len() as u64;
            sha256.update(&piece);
        }
        Some(AzuriteBlob {
            size,
            sha256: hex(&sha256.finalize()),
            tag,
        })
    }

    fn admin(&self) -> String {
        let expiry = Timestamp::now() + Duration::from_secs(3600);
        sas::account(&self.key, ACCOUNT, expiry)
    }
}
