//! iModels: the iTwin of an iModel, its changesets and its named versions.

use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::call::{Call, V2};
use super::list::Item;
use super::untrusted_text::{id, maybe_name, name, text};
use super::urls::portal;
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

/// An iModel in the list of an iTwin.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ListedImodel {
    /// UUID.
    #[serde(deserialize_with = "id")]
    pub id: String,
    /// Display name.
    #[serde(default, deserialize_with = "text")]
    pub display_name: String,
}

impl Item for ListedImodel {
    fn id(&self) -> &str {
        &self.id
    }

    fn weight(&self) -> usize {
        self.id.len() + self.display_name.len()
    }
}

/// Corners of an area, in degrees: latitude and longitude.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Corners {
    /// The southwestern one.
    pub south_west: (f64, f64),
    /// The northeastern one.
    pub north_east: (f64, f64),
}

/// The response to the request for a new iModel.
#[derive(Debug, Clone)]
pub enum ImodelAnswer {
    /// It was created.
    Created(Imodel),
    /// The iTwin has one with this name.
    NameTaken,
}

/// A named version of an iModel.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct NamedVersion {
    /// UUID.
    #[serde(deserialize_with = "id")]
    pub id: String,
    /// Its name.
    #[serde(rename = "displayName", deserialize_with = "name")]
    pub name: String,
    /// The changeset that it names; empty for the baseline.
    #[serde(default, deserialize_with = "maybe_name")]
    pub changeset_id: Option<String>,
}

/// The response to the request for a named version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionAnswer {
    /// It was created.
    Created {
        /// Its id.
        id: String,
    },
    /// Another one has this name.
    NameTaken,
    /// The changeset has one already.
    ChangesetNamed,
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

    /// The page of an iModel in the portal; None if the API is not that of the platform.
    #[must_use]
    pub fn portal_page(&self, itwin_id: &str, imodel_id: &str) -> Option<Url> {
        portal(&self.api.url(&[]), itwin_id, imodel_id)
    }

    /// The iModels of an iTwin with exactly this name.
    ///
    /// # Errors
    /// Not found, not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/imodels-v2/operations/get-itwin-imodels/
    pub async fn imodels_named(
        &self,
        itwin_id: &str,
        name: &str,
    ) -> Result<Vec<ListedImodel>, Error> {
        let mut url = self.api.url(&["imodels"]);
        url.query_pairs_mut()
            .append_pair("iTwinId", itwin_id)
            .append_pair("name", name);
        let call = Call::repeatable(
            "list iModels",
            Method::GET,
            url,
            "a role with the permission imodels_webview",
        );
        let mut found: Vec<ListedImodel> = self.api.list(call.accept(V2), "iModels").await?;
        found.retain(|imodel| imodel.display_name == name);
        Ok(found)
    }

    /// Creates an empty iModel. Not repeated after a lost response: look for its name first.
    ///
    /// # Errors
    /// iTwin not found, not allowed, invalid, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/imodels-v2/operations/create-imodel/
    pub async fn create_imodel(
        &self,
        itwin_id: &str,
        name: &str,
        extent: Option<Corners>,
    ) -> Result<ImodelAnswer, Error> {
        #[derive(Deserialize)]
        struct Body {
            #[serde(rename = "iModel")]
            imodel: Imodel,
        }
        let corner =
            |(latitude, longitude)| json!({ "latitude": latitude, "longitude": longitude });
        let mut body = json!({ "iTwinId": itwin_id, "name": name });
        if let Some(extent) = extent {
            body["extent"] = json!({
                "southWest": corner(extent.south_west), "northEast": corner(extent.north_east),
            });
        }
        let call = Call::creating(
            "create iModel",
            self.api.url(&["imodels"]),
            "a role with the permission imodels_manage",
        );
        match self.api.send(&call.accept(V2).json(body)).await {
            Ok(reply) => Ok(ImodelAnswer::Created(reply.json::<Body>()?.imodel)),
            Err(error)
                if error.status() == Some(409)
                    && error
                        .code()
                        .is_some_and(|code| code.eq_ignore_ascii_case("iModelExists")) =>
            {
                Ok(ImodelAnswer::NameTaken)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the creation of an iModel that is not initialized has failed.
    ///
    /// # Errors
    /// Not found, not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/imodels-v2/operations/get-create-imodel-operation-details/
    pub async fn has_creation_failed(&self, id: &str) -> Result<bool, Error> {
        #[derive(Deserialize)]
        struct Operation {
            #[serde(default, deserialize_with = "text")]
            state: String,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            create_operation: Operation,
        }
        let call = Call::repeatable(
            "get creation of iModel",
            Method::GET,
            self.api.url(&["imodels", id, "operations", "create"]),
            "a role with the permission imodels_webview",
        );
        let reply = self.api.send(&call.accept(V2)).await?;
        let state = reply.json::<Body>()?.create_operation.state;
        Ok(state.eq_ignore_ascii_case("failed"))
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

    /// The id of the newest changeset of an iModel; None if nothing was ever pushed to it.
    ///
    /// # Errors
    /// Not found, not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/imodels-v2/operations/get-imodel-changesets/
    pub async fn latest_changeset(&self, imodel_id: &str) -> Result<Option<String>, Error> {
        #[derive(Deserialize)]
        struct Changeset {
            #[serde(deserialize_with = "id")]
            id: String,
        }
        #[derive(Deserialize)]
        struct Body {
            changesets: Vec<Changeset>,
        }
        let mut url = self.api.url(&["imodels", imodel_id, "changesets"]);
        url.query_pairs_mut()
            .append_pair("$top", "1")
            .append_pair("$orderBy", "index desc");
        let call = Call::repeatable(
            "list changesets",
            Method::GET,
            url,
            "a role with the permission imodels_webview",
        );
        let reply = self.api.send(&call.accept(V2)).await?;
        let latest = reply.json::<Body>()?.changesets.into_iter().next();
        Ok(latest.map(|changeset| changeset.id))
    }

    /// The named version of an iModel with exactly this name.
    ///
    /// # Errors
    /// Not found, not allowed, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/imodels-v2/operations/get-imodel-named-versions/
    pub async fn named_version(
        &self,
        imodel_id: &str,
        name: &str,
    ) -> Result<Option<NamedVersion>, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            named_versions: Vec<NamedVersion>,
        }
        let mut url = self.api.url(&["imodels", imodel_id, "namedversions"]);
        url.query_pairs_mut().append_pair("name", name);
        let call = Call::repeatable(
            "list named versions",
            Method::GET,
            url,
            "a role with the permission imodels_webview",
        );
        let reply = self.api.send(&call.accept(V2)).await?;
        let mut found = reply.json::<Body>()?.named_versions.into_iter();
        Ok(found.find(|version| version.name == name))
    }

    /// Creates a named version of a changeset. Not repeated after a lost response: look for its name first.
    ///
    /// # Errors
    /// Not found, not allowed, invalid, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/imodels-v2/operations/create-imodel-named-version/
    pub async fn create_named_version(
        &self,
        imodel_id: &str,
        name: &str,
        description: &str,
        changeset_id: &str,
    ) -> Result<VersionAnswer, Error> {
        #[derive(Deserialize)]
        struct Created {
            #[serde(deserialize_with = "id")]
            id: String,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            named_version: Created,
        }
        let call = Call::creating(
            "create named version",
            self.api.url(&["imodels", imodel_id, "namedversions"]),
            "a role with the permission imodels_write",
        );
        let body = json!({ "name": name, "description": description, "changesetId": changeset_id });
        match self.api.send(&call.accept(V2).json(body)).await {
            Ok(reply) => Ok(VersionAnswer::Created {
                id: reply.json::<Body>()?.named_version.id,
            }),
            Err(error) if error.status() == Some(409) => match error.code() {
                Some("NamedVersionExists") => Ok(VersionAnswer::NameTaken),
                Some("NamedVersionOnChangesetExists") => Ok(VersionAnswer::ChangesetNamed),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }
}
