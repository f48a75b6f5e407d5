//! Lists of the items in a folder.

use serde_json::{Value, json};

use super::INVALID;
use super::lookup::{folder, itwin_of};
use super::shapes::{file_json, folder_json};
use crate::emulator::model::{File, Folder, State, root_id};
use crate::emulator::paging::Pages;
use crate::emulator::reply::{self, Refusal, Reply};
use crate::emulator::request::ApiRequest;
use crate::emulator::switches::{IncompleteFiles, ListedDescription};

pub(super) fn top_level(request: &ApiRequest<'_>, state: &State) -> Result<Reply, Refusal> {
    let root = root_id(&itwin_of(request, state)?);
    let found = Found::in_folder(request, state, folder(request, state, &root)?);
    let (page, mut links) = found.folders().files().page()?;
    links["folder"] =
        json!({ "href": format!("{}/storage/folders/{root}", request.shared.api_url) });
    Ok(reply::json(200, &json!({ "items": page, "_links": links })))
}

pub(super) fn list<'a>(
    request: &'a ApiRequest<'_>,
    state: &'a State,
    id: &str,
    field: &str,
    fill: impl FnOnce(Found<'a>) -> Found<'a>,
) -> Result<Reply, Refusal> {
    let found = Found::in_folder(request, state, folder(request, state, id)?);
    let (page, links) = fill(found).page()?;
    Ok(reply::json(200, &json!({ field: page, "_links": links })))
}

/// Paging of storage lists.
pub(super) fn pages(request: &ApiRequest<'_>) -> Pages {
    Pages {
        cap: request.shared.options.page_size,
        ..Pages::always(100, INVALID)
    }
}

/// Items of a folder.
pub(super) struct Found<'a> {
    request: &'a ApiRequest<'a>,
    state: &'a State,
    parent: &'a Folder,
    items: Vec<Value>,
}

impl<'a> Found<'a> {
    pub(super) fn in_folder(
        request: &'a ApiRequest<'_>,
        state: &'a State,
        parent: &'a Folder,
    ) -> Self {
        Self {
            request,
            state,
            parent,
            items: Vec::new(),
        }
    }

    pub(super) fn folders(mut self) -> Self {
        let mut folders: Vec<&Folder> = self
            .state
            .folders
            .values()
            .filter(|folder| folder.parent_id.as_ref() == Some(&self.parent.id) && !folder.deleted)
            .collect();
        folders.sort_by_key(|folder| (folder.created_at, &folder.id));
        let shown = folders
            .into_iter()
            .map(|folder| folder_json(self.request, folder));
        self.items.extend(shown);
        self
    }

    pub(super) fn files(mut self) -> Self {
        let incomplete = self.request.switches.incomplete_files == IncompleteFiles::Listed;
        let mut files: Vec<&File> = self
            .state
            .files
            .values()
            .filter(|file| file.parent_folder_id == self.parent.id && !file.deleted)
            .filter(|file| incomplete || file.completed.is_some())
            .collect();
        files.sort_by_key(|file| (file.created_at, &file.id));
        let shown = files.into_iter().map(|file| file_json(self.request, file));
        self.items.extend(shown);
        self
    }

    /// Keeps the items whose name contains this text, in which `*` matches anything.
    pub(super) fn named(mut self, wanted: &str) -> Self {
        self.items.retain(|item| {
            let name = item["displayName"]
                .as_str()
                .unwrap_or_default()
                .to_lowercase();
            let mut rest = name.as_str();
            wanted.split('*').all(|word| match rest.split_once(word) {
                Some((_, after)) => {
                    rest = after;
                    true
                }
                None => false,
            })
        });
        self
    }

    fn page(mut self) -> Result<(Vec<Value>, Value), Refusal> {
        if self.request.switches.listed_description == ListedDescription::Absent {
            for item in self.items.iter_mut().filter_map(Value::as_object_mut) {
                item.remove("description");
            }
        }
        self.request.page(self.items, &pages(self.request))
    }
}
