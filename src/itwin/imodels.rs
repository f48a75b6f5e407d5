//! iModels: the call that resolves an iModel to its iTwin.

use reqwest::Method;
use serde::Deserialize;

use super::call::{Call, V2};
use super::untrusted_text::{id, text};
use super::{Client, Error};

/// An iModel.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Imodel {
    /// UUID.
    #[serde(deserialize_with = "id")]
    pub id: String,
    /// The iTwin that it belongs to; UUID.
    #[serde(rename = "iTwinId", deserialize_with = "id")]
    pub itwin_id: String,
    /// Display name.
    #[serde(default, deserialize_with = "text")]
    pub display_name: String,
    /// The platform's state; see [`Imodel::initialized`].
    #[serde(default, deserialize_with = "text")]
    pub state: String,
}

impl Imodel {
    /// Whether runs can write to it. False for an unknown state.
    #[must_use]
    pub fn initialized(&self) -> bool {
        self.state.eq_ignore_ascii_case("initialized")
    }
}

impl Client {
    /// Reads an iModel.
    ///
    /// # Errors
    /// Not found, not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/imodels-v2/operations/get-imodel-details/
    pub async fn imodel(&self, id: &str) -> Result<Imodel, Error> {
        #[derive(Deserialize)]
        struct Body {
            #[serde(rename = "iModel")]
            imodel: Imodel,
        }
        let url = self.api.url(&["imodels", id]);
        let call = Call::repeatable(
            "get iModel",
            Method::GET,
            url,
            "a role with the permission imodels_webview",
        );
        let reply = self.api.send(&call.accept(V2)).await?;
        Ok(reply.json::<Body>()?.imodel)
    }

    /// Whether anything was ever pushed to an iModel.
    ///
    /// # Errors
    /// Not found, not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/imodels-v2/operations/get-imodel-changesets/
    pub async fn has_changesets(&self, id: &str) -> Result<bool, Error> {
        #[derive(Deserialize)]
        struct Body {
            changesets: Vec<serde::de::IgnoredAny>,
        }
        let mut url = self.api.url(&["imodels", id, "changesets"]);
        url.query_pairs_mut().append_pair("$top", "1");
        let call = Call::repeatable(
            "list changesets",
            Method::GET,
            url,
            "a role with the permission imodels_webview",
        );
        let reply = self.api.send(&call.accept(V2)).await?;
        Ok(!reply.json::<Body>()?.changesets.is_empty())
    }
}
