//! Calls of the settings of connections and iModels, a technology preview of the platform.

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use super::ROLE;
use crate::ids::ImodelId;
use crate::itwin::call::Call;
use crate::itwin::{Client, Error};

/// What settings apply to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingsScope<'a> {
    /// All connections of an iModel.
    Imodel(&'a ImodelId),
    /// A connection, by the platform's id.
    Connection(&'a str),
}

#[derive(Deserialize)]
struct Body {
    configuration: Configuration,
}

#[derive(Deserialize)]
struct Configuration {
    /// Those of the scope itself; `resolvedSettings` has those of wider scopes too.
    #[serde(default)]
    settings: Option<Map<String, Value>>,
}

impl Client {
    /// The settings of a scope itself; None if it has none.
    ///
    /// # Errors
    /// The connection does not exist, not allowed, not enabled, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/synchronization/operations/get-connection-configuration/
    pub async fn platform_settings(
        &self,
        scope: SettingsScope<'_>,
    ) -> Result<Option<Map<String, Value>>, Error> {
        let call = Call::repeatable("get settings", Method::GET, self.settings_url(scope), ROLE);
        match self.api.send(&call).await {
            Err(error) if is_without_settings(&error) => Ok(None),
            sent => Ok(Some(settings(&sent?.json::<Body>()?))),
        }
    }

    /// Changes settings of a scope that has some; None if it has none any more. Returns those of the scope afterwards.
    ///
    /// # Errors
    /// A setting is rejected, not allowed, not enabled, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/synchronization/operations/patch-connection-configuration/
    pub async fn change_settings(
        &self,
        scope: SettingsScope<'_>,
        changed: Map<String, Value>,
    ) -> Result<Option<Map<String, Value>>, Error> {
        let url = self.settings_url(scope);
        let call = Call::repeatable("set settings", Method::PATCH, url, ROLE);
        match self.api.send(&call.json(Value::Object(changed))).await {
            Err(error) if is_without_settings(&error) => Ok(None),
            sent => Ok(Some(settings(&sent?.json::<Body>()?))),
        }
    }

    /// Sets the first settings of a scope; the same again if it is sent twice. Returns those of the scope afterwards.
    ///
    /// # Errors
    /// A setting is rejected, not allowed, not enabled, or not reachable.
    ///
    /// Source: developer.bentley.com/apis/synchronization/operations/create-connection-configuration/
    pub async fn create_settings(
        &self,
        scope: SettingsScope<'_>,
        wanted: Map<String, Value>,
    ) -> Result<Map<String, Value>, Error> {
        let url = self.settings_url(scope);
        let call = Call::repeatable("set settings", Method::POST, url, ROLE);
        let reply = self.api.send(&call.json(Value::Object(wanted))).await?;
        Ok(settings(&reply.json::<Body>()?))
    }

    fn settings_url(&self, scope: SettingsScope<'_>) -> Url {
        let (kind, id) = match scope {
            SettingsScope::Imodel(id) => ("imodels", &**id),
            SettingsScope::Connection(id) => ("connections", id),
        };
        self.api
            .url(&["synchronization", "configurations", kind, id])
    }
}

fn is_without_settings(error: &Error) -> bool {
    let is_code = |code: &str| code.eq_ignore_ascii_case("ConfigurationNotFound");
    error.status() == Some(404) && error.code().is_some_and(is_code)
}

fn settings(body: &Body) -> Map<String, Value> {
    body.configuration.settings.clone().unwrap_or_default()
}
