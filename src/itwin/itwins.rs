//! iTwins, and the iModels of one, to choose from: page by page; and the permissions in an iTwin.

use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::call::{Call, V2};
use super::limits::Limit;
use super::untrusted_text::{id, text};
use super::{Client, Error, ListedImodel};

/// Items of a page to choose from.
const SHOWN: usize = 20;

/// An iTwin in a list.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ListedItwin {
    /// UUID.
    #[serde(deserialize_with = "id")]
    pub id: String,
    /// Display name.
    #[serde(default, deserialize_with = "text")]
    pub display_name: String,
}

/// A page of a list.
#[derive(Debug, Clone)]
pub struct Listed<T> {
    /// At most 20.
    pub items: Vec<T>,
    /// Whether there are more.
    pub more: bool,
}

impl Client {
    /// The iTwins that the account is a member of, from the number `skip`. With `search`, only those that have it in
    /// their name or number.
    ///
    /// # Errors
    /// Not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/itwins/operations/get-my-itwins/
    pub async fn itwins(
        &self,
        search: Option<&str>,
        skip: usize,
    ) -> Result<Listed<ListedItwin>, Error> {
        let url = self.api.url(&["itwins"]);
        let call = Call::repeatable("list iTwins", Method::GET, url, "a role in an iTwin");
        self.choices(call, "iTwins", search, skip).await
    }

    /// The iModels of an iTwin, from the number `skip`. With `search`, only those that have it in their name or
    /// description.
    ///
    /// # Errors
    /// Not found, not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/imodels-v2/operations/get-itwin-imodels/
    pub async fn imodels_of(
        &self,
        itwin_id: &str,
        search: Option<&str>,
        skip: usize,
    ) -> Result<Listed<ListedImodel>, Error> {
        let mut url = self.api.url(&["imodels"]);
        url.query_pairs_mut().append_pair("iTwinId", itwin_id);
        let call = Call::repeatable(
            "list iModels",
            Method::GET,
            url,
            "a role with the permission imodels_webview",
        );
        self.choices(call.accept(V2), "iModels", search, skip).await
    }

    /// The permissions of the account in an iTwin, by its roles there.
    ///
    /// # Errors
    /// Not found, not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/access-control-v2/operations/get-itwin-permissions/
    pub async fn permissions(&self, itwin_id: &str) -> Result<Vec<String>, Error> {
        #[derive(Deserialize)]
        struct Permission(#[serde(deserialize_with = "text")] String);
        #[derive(Deserialize)]
        struct Body {
            permissions: Vec<Permission>,
        }
        let url = self
            .api
            .url(&["accesscontrol", "itwins", itwin_id, "permissions"]);
        let call = Call::repeatable("get permissions", Method::GET, url, "a role in the iTwin");
        let reply = self.api.send(&call.accept(V2)).await?;
        let body = reply.json::<Body>()?;
        Ok(body.permissions.into_iter().map(|one| one.0).collect())
    }

    async fn choices<T: DeserializeOwned>(
        &self,
        call: Call,
        field: &str,
        search: Option<&str>,
        skip: usize,
    ) -> Result<Listed<T>, Error> {
        let mut call = Call {
            limit: Limit::List,
            ..call
        };
        // One more than is shown: the link to the next page can be there without a next page.
        page_of(&mut call.url, search, skip, SHOWN + 1);
        let page = self.api.send(&call).await?.page::<T>(field)?;
        let mut items = page.items;
        let more = items.len() > SHOWN;
        items.truncate(SHOWN);
        Ok(Listed { items, more })
    }
}

fn page_of(url: &mut Url, search: Option<&str>, skip: usize, top: usize) {
    let mut query = url.query_pairs_mut();
    query
        .append_pair("$top", &top.to_string())
        .append_pair("$skip", &skip.to_string());
    if let Some(search) = search {
        query.append_pair("$search", search);
    }
}
