//! What `explain` says about the rule that decides for a path, and about the settings that concern the file.

use std::path::Path;

use super::Explanation;
use crate::config::{ReadOnlyConfig, Watch};
use crate::names::QuotedPath;
use crate::selection::{Reason, Verdict};

/// The answer for a file and the rule that decides it; Err if it is not selected.
pub(super) fn answer(watch: &Watch, below: &Path) -> Result<(String, String), Explanation> {
    let in_watch = super::in_watch(watch);
    Ok(match watch.scope.decide(below) {
        Verdict::Ignored(reason @ Reason::NotRecursive) => {
            return Err(Explanation::no(&reason.to_string(), in_watch));
        }
        Verdict::Ignored(reason) => {
            let mut explanation = Explanation::no(&format!("ignored, {reason}"), in_watch);
            explanation.lines.push(match reason {
                Reason::DotFolder => format!(
                    "hint: rename the folder, or add it to include of watch {:?}, as in include = [\"*\", \".name/**\"]",
                    watch.name
                ),
                Reason::BuiltIn { .. } => {
                    "hint: save it under another name; the built-in list cannot be changed"
                        .to_owned()
                }
                _ => format!(
                    "hint: change include or exclude of watch {:?}",
                    watch.name
                ),
            });
            return Err(explanation);
        }
        Verdict::NoConnector => {
            let mut explanation = Explanation::no("no connector for its extension", in_watch);
            explanation.lines.push(
                "hint: set one in connectors of the watch, or add the file to upload_only"
                    .to_owned(),
            );
            return Err(explanation);
        }
        Verdict::UploadOnly { glob } => (
            "selected for upload only".to_owned(),
            format!("matches upload_only {glob:?}"),
        ),
        Verdict::Reference => (
            "selected for upload only".to_owned(),
            "reference: masters is set and no glob matches".to_owned(),
        ),
        Verdict::Companion(companion) => (
            "selected for upload only".to_owned(),
            format!(
                "companion of {}",
                QuotedPath(Path::new(&companion.to_string()))
            ),
        ),
        Verdict::Source {
            master: None,
            connector,
            why,
        } => (
            "selected for synchronization".to_owned(),
            format!("connector {}: {why}", connector.as_str()),
        ),
        Verdict::Source {
            master: Some(glob),
            connector,
            why,
        } => (
            "selected for synchronization".to_owned(),
            format!(
                "master: matches masters {glob:?}; connector {}: {why}",
                connector.as_str()
            ),
        ),
    })
}

/// The settings that concern the file.
pub(super) fn settings(watch: &Watch, below: &Path, config: &ReadOnlyConfig) -> Vec<String> {
    let mut lines = Vec::new();
    if is_spatial_root(config, watch, below) {
        let line =
            "spatial root of the iModel: synchronized first and alone, while the iModel is empty";
        lines.push(line.to_owned());
    }
    if let Verdict::Source { connector, .. } = watch.scope.decide(below)
        && watch.connection.is_per_type()
    {
        let line = format!("connection {:?}", watch.connection.of(&connector));
        lines.push(line);
    }
    let mut imodels = config.imodels.iter();
    let imodel = imodels.find(|imodel| imodel.id == watch.imodel_id);
    if let Some(version) = imodel.and_then(|imodel| imodel.named_version.as_ref()) {
        let line = format!("named version of the iModel: {}", version.when_text());
        lines.push(line);
    }
    let of_watch = config
        .connection_settings
        .iter()
        .find(|one| one.imodel_id == watch.imodel_id && one.connection == watch.connection);
    for (what, settings) in [
        ("iModel", imodel.and_then(|imodel| imodel.settings.as_ref())),
        ("connection", of_watch.map(|one| &one.settings)),
    ] {
        if let Some(settings) = settings {
            let line = format!("settings of the {what}: {}", settings.text());
            lines.push(line);
        }
    }
    lines
}

fn is_spatial_root(config: &ReadOnlyConfig, watch: &Watch, below: &Path) -> bool {
    config
        .imodels
        .iter()
        .filter(|imodel| imodel.id == watch.imodel_id)
        .filter_map(|imodel| imodel.spatial_root.as_ref())
        .any(|root| root.watch == watch.name && root.path == below)
}
