//! Calls of iTwin Storage: folders.

use jiff::Timestamp;
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::call::Call;
use super::list::Item;
use super::storage::{Link, READ, WRITE};
use super::untrusted_text::{id, maybe_name, name, time};
use super::urls::id_after;
use super::{Client, Error};

/// A folder in storage.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Folder {
    /// Opaque.
    #[serde(deserialize_with = "id")]
    pub id: String,
    /// Its name; not unique.
    #[serde(default, deserialize_with = "name")]
    pub display_name: String,
    /// Free text. Lists may leave it out.
    #[serde(default, deserialize_with = "maybe_name")]
    pub description: Option<String>,
    /// Creation time, if known.
    #[serde(rename = "createdDateTime", default, deserialize_with = "time")]
    pub created: Option<Timestamp>,
}

#[derive(Deserialize)]
struct FolderBody {
    folder: Folder,
}

impl Item for Folder {
    fn id(&self) -> &str {
        &self.id
    }

    fn weight(&self) -> usize {
        let description = self.description.as_ref().map_or(0, String::len);
        self.id.len() + self.display_name.len() + description
    }
}

impl Client {
    /// The root folder of an iTwin's storage.
    ///
    /// # Errors
    /// Not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/storage/operations/get-top-level-folders-and-files-by-itwin/
    pub async fn root_folder(&self, itwin_id: &str) -> Result<String, Error> {
        #[derive(Deserialize)]
        struct Body {
            #[serde(rename = "_links")]
            links: Links,
        }
        #[derive(Deserialize)]
        struct Links {
            folder: Link,
        }
        let mut url = self.api.url(&["storage", ""]);
        url.query_pairs_mut()
            .append_pair("iTwinId", itwin_id)
            .append_pair("$top", "1");
        let call = Call::repeatable("get root folder", Method::GET, url, READ);
        let reply = self.api.send(&call).await?;
        let link = reply.json::<Body>()?.links.folder.href;
        id_after(self.api.base(), &link, "folders")
            .map(|(id, _)| id)
            .ok_or_else(|| reply.unreadable("no folder id in the folder link"))
    }

    /// The folders directly in a folder.
    ///
    /// # Errors
    /// The folder does not exist, is not accessible, or the host is not reachable.
    ///
    /// Source: developer.bentley.com/apis/storage/operations/get-folders-in-folder/
    pub async fn folders(&self, folder_id: &str) -> Result<Vec<Folder>, Error> {
        let url = self.api.url(&["storage", "folders", folder_id, "folders"]);
        let call = Call::repeatable("list folders", Method::GET, url, READ);
        self.api.list(call, "folders").await
    }

    /// A folder's properties.
    ///
    /// # Errors
    /// The folder does not exist, is not accessible, or the host is not reachable.
    ///
    /// Source: developer.bentley.com/apis/storage/operations/get-folder/
    pub async fn folder(&self, folder_id: &str) -> Result<Folder, Error> {
        let url = self.api.url(&["storage", "folders", folder_id]);
        let call = Call::repeatable("get folder", Method::GET, url, READ);
        Ok(self.api.send(&call).await?.json::<FolderBody>()?.folder)
    }

    /// Gives a folder another description.
    ///
    /// # Errors
    /// The folder does not exist, not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/storage/operations/update-folder/
    pub async fn describe_folder(
        &self,
        folder_id: &str,
        description: &str,
    ) -> Result<Folder, Error> {
        let url = self.api.url(&["storage", "folders", folder_id]);
        let call = Call::repeatable("describe folder", Method::PATCH, url, WRITE)
            .json(json!({ "description": description }));
        Ok(self.api.send(&call).await?.json::<FolderBody>()?.folder)
    }

    /// Creates a folder; never repeated automatically.
    ///
    /// # Errors
    /// The parent does not exist, the name is rejected, not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/storage/operations/create-folder/
    pub async fn create_folder(
        &self,
        parent_id: &str,
        name: &str,
        description: Option<&str>,
    ) -> Result<Folder, Error> {
        let mut body = json!({ "displayName": name });
        if let Some(description) = description {
            body["description"] = description.into();
        }
        let url = self.api.url(&["storage", "folders", parent_id, "folders"]);
        let call = Call::creating("create folder", url, WRITE)
            .json(body)
            .about_a_file();
        Ok(self.api.send(&call).await?.json::<FolderBody>()?.folder)
    }
}
