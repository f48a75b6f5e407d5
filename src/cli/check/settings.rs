//! What `check` says about settings of iModels and connections: what the platform has, and what will change.

use super::Report;
use crate::config::{Config, PlatformSettings};
use crate::ids::ImodelId;
use crate::itwin::{Client, Connection, SettingsScope};
use crate::shell;

/// Compares the settings of an iModel and of its connections with the configuration.
pub(super) async fn settings(
    report: &mut Report,
    config: &Config,
    client: &Client,
    imodel_id: &ImodelId,
    connections: &[Connection],
) {
    let mut imodels = config.imodels.iter();
    let imodel = imodels.find(|imodel| imodel.id == *imodel_id);
    if let Some(wanted) = imodel.and_then(|imodel| imodel.settings.as_ref()) {
        let what = format!("settings of iModel {imodel_id}");
        compare(
            report,
            client,
            &what,
            SettingsScope::Imodel(imodel_id),
            wanted,
        )
        .await;
    }
    let of_imodel = config.connection_settings.iter();
    for one in of_imodel.filter(|one| one.imodel_id == *imodel_id) {
        let (name, wanted) = (&one.connection, &one.settings);
        let what = |name: &str| format!("settings of connection {name:?} of iModel {imodel_id}");
        let is_named = |one: &&Connection| {
            let name_there = one.display_name.as_deref();
            name_there.is_some_and(|there| name.fits(there))
        };
        // Of several with one name, the service uses one that only its ledger names.
        let mut named = connections.iter().filter(is_named).peekable();
        if named.peek().is_none() {
            report.ok(&format!(
                "{}: set before its first run: {}",
                what(name.as_str()),
                wanted.text()
            ));
        }
        for connection in named {
            let scope = SettingsScope::Connection(&connection.id);
            let name = connection.display_name.as_deref().unwrap_or_default();
            compare(report, client, &what(name), scope, wanted).await;
        }
    }
}

/// Says once that these settings may change.
pub(super) fn preview(report: &mut Report, config: &Config) {
    let any = config
        .imodels
        .iter()
        .any(|imodel| imodel.settings.is_some());
    if any || !config.connection_settings.is_empty() {
        report.note(
            "settings of iModels and connections are a technology preview of the platform: Bentley may change or remove them",
            &format!(
                "after an update of the platform, look at `{}`: runs wait while a setting is refused",
                shell::command(["status"])
            ),
        );
    }
}

async fn compare(
    report: &mut Report,
    client: &Client,
    what: &str,
    scope: SettingsScope<'_>,
    wanted: &PlatformSettings,
) {
    let there = match client.platform_settings(scope).await {
        Ok(there) => there.unwrap_or_default(),
        Err(error) => return report.refused(what, &error),
    };
    let differing = wanted.differing(&there);
    if differing.is_empty() {
        report.ok(&format!("{what}: as configured, {}", wanted.text()));
        return;
    }
    let changes: Vec<String> = differing
        .into_iter()
        .map(|setting| match there.get(&setting.name) {
            Some(now) => format!("{}, now {now}", setting.text()),
            None => format!("{}, now not set", setting.text()),
        })
        .collect();
    report.ok(&format!(
        "{what}: the service will set {}",
        changes.join("; ")
    ));
}
