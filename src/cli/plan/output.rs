//! What `run --dry-run` says: lines, or one JSON object at its end.

use std::path::Path;

use bytesize::ByteSize;
use serde::Serialize;

use crate::cli::{json, print_line};
use crate::config::Watch;
use crate::ids::ImodelId;
use crate::names::QuotedPath;

/// Prints lines at once, or collects an object.
pub(super) struct Output {
    is_json: bool,
    plan: Plan,
}

/// What a start would do, as JSON.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct Plan {
    version: u32,
    /// Every folder can be read, and nothing will fail.
    ok: bool,
    watches: Vec<WatchPlan>,
    imodels: Vec<ImodelPlan>,
    /// What happens to watches that are no longer configured.
    notes: Vec<String>,
}

/// What it would do in a watch.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct WatchPlan {
    name: String,
    folder: String,
    imodel_id: String,
    /// Why its folder cannot be read.
    unavailable: Option<String>,
    /// What in it cannot be read.
    unreadable: Vec<String>,
    /// What changes for the whole watch.
    notes: Vec<String>,
    /// Files with something to do.
    files: Vec<FilePlan>,
    /// Bytes to upload, at most.
    upload_bytes: u64,
    unchanged: u64,
    ignored: u64,
}

/// What it would do with a file.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct FilePlan {
    /// Relative to the folder.
    path: String,
    /// `new`, `changed`, `renamed`, `moved`, `pending`, `stored`, `failed before`, `gone`, or the last result.
    what: String,
    /// Its size; null if it is gone.
    bytes: Option<u64>,
    /// What happens to it.
    text: String,
}

/// The source files that an iModel will have.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct ImodelPlan {
    imodel_id: String,
    text: String,
    hint: Option<String>,
}

impl Output {
    pub(super) fn new(is_json: bool) -> Self {
        Self {
            is_json,
            plan: Plan {
                version: json::VERSION,
                ok: true,
                watches: Vec::new(),
                imodels: Vec::new(),
                notes: Vec::new(),
            },
        }
    }

    fn line(&self, text: &str) {
        if !self.is_json {
            print_line(text);
        }
    }

    /// Begins with a watch; what follows is about it.
    pub(super) fn watch(&mut self, watch: &Watch) {
        let folder = watch.path.display().to_string();
        self.line(&format!(
            "watch {:?}, {folder} → iModel {}",
            watch.name, watch.imodel_id
        ));
        self.plan.watches.push(WatchPlan {
            name: watch.name.clone(),
            folder,
            imodel_id: watch.imodel_id.to_string(),
            unavailable: None,
            unreadable: Vec::new(),
            notes: Vec::new(),
            files: Vec::new(),
            upload_bytes: 0,
            unchanged: 0,
            ignored: 0,
        });
    }

    fn last(&mut self, change: impl FnOnce(&mut WatchPlan)) {
        if let Some(watch) = self.plan.watches.last_mut() {
            change(watch);
        }
    }

    pub(super) fn unavailable(&mut self, why: &str) {
        self.line(&format!("  folder unavailable: {why}"));
        self.last(|watch| watch.unavailable = Some(why.to_owned()));
    }

    pub(super) fn unreadable(&mut self, what: &str) {
        self.line(&format!("  unreadable: {what}"));
        self.last(|watch| watch.unreadable.push(what.to_owned()));
    }

    /// Something about the whole watch.
    pub(super) fn note(&mut self, text: &str, hint: Option<&str>) {
        self.line(&format!("  {text}"));
        if let Some(hint) = hint {
            self.line(&format!("    hint: {hint}"));
        }
        self.last(|watch| watch.notes.push(with_hint(text, hint)));
    }

    /// Something about a watch that is no longer configured.
    pub(super) fn other_note(&mut self, text: &str, hint: Option<&str>) {
        self.line(text);
        if let Some(hint) = hint {
            self.line(&format!("  hint: {hint}"));
        }
        self.plan.notes.push(with_hint(text, hint));
    }

    pub(super) fn file(&mut self, what: &str, path: &Path, bytes: Option<u64>, text: &str) {
        let size = bytes.map_or_else(String::new, |bytes| {
            format!("{}  ", ByteSize(bytes).display().iec())
        });
        self.line(&format!("  {what:<13} {}  {size}{text}", QuotedPath(path)));
        if self.is_json {
            self.last(|watch| {
                watch.files.push(FilePlan {
                    path: path.to_string_lossy().into_owned(),
                    what: what.to_owned(),
                    bytes,
                    text: text.to_owned(),
                });
            });
        }
    }

    pub(super) fn counts(&mut self, planned: u64, upload_bytes: u64, unchanged: u64, ignored: u64) {
        self.line(&format!(
            "  {planned} to process, up to {} to upload; {unchanged} unchanged, {ignored} ignored",
            ByteSize(upload_bytes).display().iec()
        ));
        self.last(|watch| {
            (watch.upload_bytes, watch.unchanged, watch.ignored) =
                (upload_bytes, unchanged, ignored);
        });
    }

    pub(super) fn imodel(&mut self, id: &ImodelId, text: String, hint: Option<&str>) {
        self.line(&format!("iModel {id}: {text}"));
        if let Some(hint) = hint {
            self.line(&format!("  hint: {hint}"));
        }
        self.plan.imodels.push(ImodelPlan {
            imodel_id: id.to_string(),
            text,
            hint: hint.map(ToOwned::to_owned),
        });
    }

    /// The end.
    pub(super) fn end(mut self, ok: bool) {
        self.plan.ok = ok;
        if self.is_json {
            print_line(&json::text(&self.plan));
        }
    }
}

fn with_hint(text: &str, hint: Option<&str>) -> String {
    hint.map_or_else(|| text.to_owned(), |hint| format!("{text}; {hint}"))
}
