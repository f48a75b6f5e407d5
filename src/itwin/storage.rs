//! Calls of iTwin Storage: files. Content is sent elsewhere, to the address that storage issues.

use jiff::Timestamp;
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::blob::UploadUrl;
use super::call::Call;
use super::headers::text_header;
use super::list::Item;
use super::reply::Reply;
use super::untrusted_text::{id, maybe_name, maybe_text, name, time};
use super::urls::id_after;
use super::{Client, Error};
use crate::ids::StorageFileId;

/// API version for content.
const OCTETS: &str = "application/vnd.bentley.itwin-platform.v1+octet-stream";

pub(super) const READ: &str = "a role with the permission storage_read";
pub(super) const WRITE: &str = "a role with the permissions storage_read and storage_write";
const DELETE: &str = "a role with the permissions storage_read and storage_delete";

/// A file in storage.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct File {
    /// Opaque; stays the same when the content is updated.
    #[serde(deserialize_with = "id")]
    pub id: StorageFileId,
    /// Its name; not unique.
    #[serde(default, deserialize_with = "name")]
    pub display_name: String,
    /// Free text, given when it was created. Lists may leave it out.
    #[serde(default, deserialize_with = "maybe_name")]
    pub description: Option<String>,
    /// Bytes.
    #[serde(default)]
    pub size: Option<u64>,
    /// Whether a user has locked it.
    #[serde(rename = "isFileLocked", default)]
    pub is_locked: Option<bool>,
    /// Creation time, if known.
    #[serde(rename = "createdDateTime", default, deserialize_with = "time")]
    pub created: Option<Timestamp>,
    /// Last change, in the platform's notation. Not a version: after the first upload it can be the
    /// creation time. But a change by others moves it.
    #[serde(
        rename = "lastModifiedDateTime",
        default,
        deserialize_with = "maybe_name"
    )]
    pub modified: Option<String>,
    /// The author of the last change.
    #[serde(
        rename = "lastModifiedByDisplayName",
        default,
        deserialize_with = "maybe_text"
    )]
    pub modified_by: Option<String>,
    /// Its folder.
    #[serde(default, deserialize_with = "maybe_name")]
    pub parent_folder_id: Option<String>,
}

/// The upload address of a file.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct UploadLinks {
    /// The file that gets the content.
    pub file_id: StorageFileId,
    /// Accepts content for about an hour.
    pub upload_url: UploadUrl,
}

impl Item for File {
    fn id(&self) -> &str {
        &self.id
    }

    fn weight(&self) -> usize {
        let more = [
            &self.description,
            &self.modified,
            &self.modified_by,
            &self.parent_folder_id,
        ];
        let more: usize = more.into_iter().flatten().map(String::len).sum();
        self.id.len() + self.display_name.len() + more
    }
}

impl Client {
    /// The files directly in a folder. Keeps the whole list in memory, up to 24 MiB; a longer one is an error.
    ///
    /// # Errors
    /// The folder does not exist, is not accessible, or the host is not reachable.
    ///
    /// Source: developer.bentley.com/apis/storage/operations/get-files-in-folder/
    pub async fn files(&self, folder_id: &str) -> Result<Vec<File>, Error> {
        let url = self.api.url(&["storage", "folders", folder_id, "files"]);
        let call = Call::repeatable("list files", Method::GET, url, READ);
        self.api.list(call, "files").await
    }

    /// A file's properties.
    ///
    /// # Errors
    /// The file does not exist, is not accessible, or the host is not reachable.
    ///
    /// Source: developer.bentley.com/apis/storage/operations/get-file/
    pub async fn file(&self, file_id: &StorageFileId) -> Result<File, Error> {
        let url = self.api.url(&["storage", "files", file_id]);
        let reply = self
            .api
            .send(&Call::repeatable("get file", Method::GET, url, READ))
            .await?;
        Ok(reply.json::<FileBody>()?.file)
    }

    /// Creates a file without content; never repeated automatically: a repeat creates another one.
    ///
    /// # Errors
    /// The folder does not exist, the name is rejected, not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/storage/operations/create-file/
    pub async fn create_file(
        &self,
        folder_id: &str,
        name: &str,
        description: &str,
    ) -> Result<UploadLinks, Error> {
        let url = self.api.url(&["storage", "folders", folder_id, "files"]);
        let body = json!({ "displayName": name, "description": description });
        let reply = self
            .api
            .send(
                &Call::creating("create file", url, WRITE)
                    .json(body)
                    .about_a_file(),
            )
            .await?;
        self.links(&reply)
    }

    /// Requests an upload address for new content of an existing file. The old content stays until *complete*.
    ///
    /// # Errors
    /// The file does not exist, not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/storage/operations/update-file-content/
    pub async fn update_content(&self, file_id: &StorageFileId) -> Result<UploadLinks, Error> {
        let url = self
            .api
            .url(&["storage", "files", file_id, "updateContent"]);
        let reply = self
            .api
            .send(&Call::repeatable("update content", Method::POST, url, WRITE).about_a_file())
            .await?;
        let links = self.links(&reply)?;
        Ok(UploadLinks {
            file_id: file_id.to_owned(),
            ..links
        })
    }

    /// Makes the uploaded bytes the content of the file.
    ///
    /// # Errors
    /// The file does not exist, not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/storage/operations/complete-file-creation/
    pub async fn complete(&self, file_id: &StorageFileId) -> Result<File, Error> {
        let url = self.api.url(&["storage", "files", file_id, "complete"]);
        let reply = self
            .api
            .send(&Call::repeatable("complete", Method::POST, url, WRITE).about_a_file())
            .await?;
        Ok(reply.json::<FileBody>()?.file)
    }

    /// Gives a file another name. Its id, content and source files stay.
    ///
    /// # Errors
    /// The file does not exist, the name is rejected, not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/storage/operations/update-file/
    pub async fn rename_file(&self, file_id: &StorageFileId, name: &str) -> Result<File, Error> {
        let url = self.api.url(&["storage", "files", file_id]);
        let call = Call::repeatable("rename file", Method::PATCH, url, WRITE)
            .json(json!({ "displayName": name }))
            .about_a_file();
        Ok(self.api.send(&call).await?.json::<FileBody>()?.file)
    }

    /// Moves a file to another folder of its iTwin. Its id, content and source files stay.
    ///
    /// # Errors
    /// File or folder do not exist, the folder rejects the file, not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/storage/operations/move-file/
    pub async fn move_file(&self, file_id: &StorageFileId, folder_id: &str) -> Result<File, Error> {
        let url = self.api.url(&["storage", "files", file_id, "move"]);
        let call = Call::repeatable("move file", Method::POST, url, WRITE)
            .json(json!({ "parentFolderId": folder_id }))
            .about_a_file();
        Ok(self.api.send(&call).await?.json::<FileBody>()?.file)
    }

    /// Moves a file to the recycle bin, which keeps it for 30 days. A missing one counts as deleted. Its source files
    /// stay: remove them first.
    ///
    /// # Errors
    /// Rejected, not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/storage/operations/delete-file/
    pub async fn delete_file(&self, file_id: &StorageFileId) -> Result<(), Error> {
        let url = self.api.url(&["storage", "files", file_id]);
        let call = Call::repeatable("delete file", Method::DELETE, url, DELETE).about_a_file();
        match self.api.send(&call).await {
            Err(error) if error.is_not_found() => Ok(()),
            sent => sent.map(drop),
        }
    }

    /// Restores a file from the recycle bin, with its id and content. One that is not deleted counts as restored.
    ///
    /// # Errors
    /// The file exists neither in the recycle bin nor outside (not found), it is rejected, not allowed, or not
    /// reachable.
    ///
    /// Source: developer.bentley.com/apis/storage/operations/restore-file/
    pub async fn restore_file(&self, file_id: &StorageFileId) -> Result<(), Error> {
        let url = self
            .api
            .url(&["storage", "recyclebin", "files", file_id, "restore"]);
        let call = Call::repeatable("restore file", Method::POST, url, DELETE).about_a_file();
        match self.api.send(&call).await {
            Err(error) if error.is_not_found() => match self.file(file_id).await {
                Err(other) if other.is_not_found() => Err(error),
                found => found.map(drop),
            },
            sent => sent.map(drop),
        }
    }

    /// The address of the content of a file, valid for about an hour.
    pub(super) async fn content_address(
        &self,
        file_id: &StorageFileId,
    ) -> Result<UploadUrl, Error> {
        let url = self.api.url(&["storage", "files", file_id, "download"]);
        let call = Call::repeatable("download", Method::GET, url, READ).about_a_file();
        let reply = self.api.send(&call.accept(OCTETS).redirects()).await?;
        text_header(&reply.headers, "location")
            .and_then(UploadUrl::parse)
            .filter(|url| url.is_as_safe_as(self.api.base()))
            .ok_or_else(|| reply.unreadable("no download address with TLS"))
    }

    fn links(&self, reply: &Reply) -> Result<UploadLinks, Error> {
        #[derive(Deserialize)]
        struct Body {
            #[serde(rename = "_links")]
            links: Links,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Links {
            upload_url: Link,
            complete_url: Link,
        }
        // Not the parser's message: it can quote the address.
        let links = reply
            .json::<Body>()
            .map_err(|_| reply.unreadable("no upload links"))?
            .links;
        let file_id = id_after(self.api.base(), &links.complete_url.href, "files")
            .filter(|(_, then)| {
                then.as_deref()
                    .is_some_and(|word| word.eq_ignore_ascii_case("complete"))
            })
            .map(|(id, _)| id)
            .ok_or_else(|| reply.unreadable("no file id in the complete link"))?;
        let upload_url = UploadUrl::parse(&links.upload_url.href)
            .filter(|url| url.is_as_safe_as(self.api.base()))
            .ok_or_else(|| reply.unreadable("invalid upload address, or one without TLS"))?;
        Ok(UploadLinks {
            file_id: file_id.into(),
            upload_url,
        })
    }
}

#[derive(Deserialize)]
struct FileBody {
    file: File,
}

#[derive(Deserialize)]
pub(super) struct Link {
    pub(super) href: String,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_file_is_decoded_with_seven_digits_without_fields_and_with_unknown_ones() {
        let full = r#"{"id":"x","displayName":"a.dgn","size":9000000000,"createdDateTime":"2024-10-17T13:44:55.5370000Z","new":[]}"#;
        let file: File = serde_json::from_str(full).unwrap();
        assert_eq!(file.size, Some(9_000_000_000));
        assert_eq!(
            file.created.unwrap().to_string(),
            "2024-10-17T13:44:55.537Z"
        );
        let bare: File =
            serde_json::from_str(r#"{"id":"x","createdDateTime":"yesterday","size":null}"#)
                .unwrap();
        assert_eq!((bare.created, bare.size), (None, None));
    }

    mod against_the_emulator {
        use std::time::Duration;

        use crate::emulator::{
            DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, DEFAULT_ITWIN_ID, Emulator,
        };
        use crate::itwin::{Client, Credentials, Network, Settings};
        use crate::secret::Secret;

        fn client(emulator: &Emulator, id: &str) -> Client {
            let second = Duration::from_secs(1);
            let settings = Settings {
                api_url: emulator.api_url().parse().unwrap(),
                issuer_url: emulator.issuer_url().parse().unwrap(),
                client_id: id.to_owned(),
                credentials: Credentials::Service(Secret::new(DEFAULT_CLIENT_SECRET).into()),
                scope: "itwin-platform".to_owned(),
                limits: crate::retry::RequestLimits::per_minute(10_000),
                rate: Vec::new(),
                network: Network {
                    proxy: None,
                    no_proxy: Vec::new(),
                    extra_certificates: Vec::new(),
                    connect_timeout: second * 10,
                    idle_timeout: second * 10,
                    total_timeout: second * 10,
                },
            };
            Client::new(settings).unwrap()
        }

        #[tokio::test]
        async fn a_file_is_deleted_and_restored_with_its_id_however_often() {
            let emulator = Emulator::builder()
                .client(DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET)
                .start()
                .await
                .unwrap();
            let client = client(&emulator, DEFAULT_CLIENT_ID);
            let root = client.root_folder(DEFAULT_ITWIN_ID).await.unwrap();
            let id = client
                .create_file(&root, "a.dgn", "")
                .await
                .unwrap()
                .file_id;
            for _ in 0..2 {
                client.delete_file(&id).await.unwrap();
                assert!(emulator.state().files[id.as_str()].deleted);
            }
            for _ in 0..2 {
                client.restore_file(&id).await.unwrap();
                assert!(!emulator.state().files[id.as_str()].deleted);
            }
            let unknown = client.restore_file(&"unknown".into()).await.unwrap_err();
            assert!(unknown.is_not_found(), "{unknown}");
            assert!(
                unknown.to_string().starts_with("restore file: 404"),
                "{unknown}"
            );
            client.delete_file(&"unknown".into()).await.unwrap();
            emulator.stop().await;
        }

        #[tokio::test]
        async fn without_the_permission_neither_works_and_the_hint_names_it() {
            let emulator = Emulator::builder()
                .client(DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET)
                .outsider("service-writer", DEFAULT_CLIENT_SECRET)
                .start()
                .await
                .unwrap();
            let owner = client(&emulator, DEFAULT_CLIENT_ID);
            let root = owner.root_folder(DEFAULT_ITWIN_ID).await.unwrap();
            let id = owner.create_file(&root, "a.dgn", "").await.unwrap().file_id;
            let writer = client(&emulator, "service-writer");
            let not_deleted = writer.delete_file(&id).await.unwrap_err();
            owner.delete_file(&id).await.unwrap();
            let not_restored = writer.restore_file(&id).await.unwrap_err();
            for refused in [not_deleted, not_restored] {
                assert_eq!(refused.status(), Some(403), "{refused}");
                let hint = refused.hint().unwrap();
                assert!(hint.contains("storage_delete"), "{hint}");
            }
            emulator.stop().await;
        }
    }
}
