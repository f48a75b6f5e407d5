//! Changesets, named versions and users of an iModel.
//!
//! Source: developer.bentley.com/apis/imodels-v2/operations/ get-imodel-changesets, create-imodel-named-version,
//! get-imodel-named-versions, update-imodel-named-version, get-imodel-users

use serde_json::{Value, json};
use uuid::Uuid;

use super::lookup::{INVALID, PAGES, description_of, imodel_in_path, name_of};
use crate::emulator::access;
use crate::emulator::model::{Changeset, Imodel, NamedVersion, State, member_id};
use crate::emulator::reply::{self, Refusal, Reply, imodel_not_found, invalid, refuse, unknown};
use crate::emulator::request::{ApiRequest, text};

/// Handles everything below `/imodels/{id}`.
pub(super) fn handle(
    request: &ApiRequest<'_>,
    state: &mut State,
    rest: &[&str],
) -> Result<Reply, Refusal> {
    match (request.method.as_str(), rest) {
        ("GET", ["changesets"]) => {
            list_changesets(request, imodel_in_path(request, state, "imodels_webview")?)
        }
        ("GET", ["changesets", _]) => {
            let imodel = imodel_in_path(request, state, "imodels_webview")?;
            let wanted = request.segment(3);
            let mut changesets = imodel.changesets.iter();
            let found = changesets
                .find(|one| one.id == wanted || one.index.to_string() == wanted)
                .ok_or_else(no_changeset)?;
            let shown = changeset_json(request, imodel, found, true);
            Ok(reply::json(200, &json!({ "changeset": shown })))
        }
        ("GET", ["namedversions"]) => {
            list_versions(request, imodel_in_path(request, state, "imodels_webview")?)
        }
        ("POST", ["namedversions"]) => {
            let id = imodel_in_path(request, state, "imodels_write")?.id.clone();
            create_version(request, state, &id)
        }
        ("GET" | "PATCH", ["namedversions", _]) => {
            let permission = if request.method == "GET" {
                "imodels_webview"
            } else {
                "imodels_write"
            };
            let id = imodel_in_path(request, state, permission)?.id.clone();
            one_version(request, state, &id)
        }
        ("GET", ["users"]) => {
            let imodel = imodel_in_path(request, state, "imodels_webview")?;
            let users: Vec<Value> = users(imodel)
                .iter()
                .map(|client| user_json(request, imodel, client, request.wants_representation()))
                .collect();
            let (page, links) = request.page(users, &PAGES)?;
            Ok(reply::json(200, &json!({ "users": page, "_links": links })))
        }
        ("GET", ["users", _]) => {
            let imodel = imodel_in_path(request, state, "imodels_webview")?;
            let users = users(imodel);
            let client = users
                .iter()
                .find(|client| member_id(client) == request.segment(3));
            let client = client
                .ok_or_else(|| refuse(404, "UserNotFound", "Requested User is not available."))?;
            let shown = user_json(request, imodel, client, true);
            Ok(reply::json(200, &json!({ "user": shown })))
        }
        _ => Err(unknown()),
    }
}

fn no_changeset() -> Refusal {
    refuse(
        404,
        "ChangesetNotFound",
        "Requested Changeset is not available.",
    )
}

fn no_version() -> Refusal {
    refuse(
        404,
        "NamedVersionNotFound",
        "Requested Named Version is not available.",
    )
}

fn list_changesets(request: &ApiRequest<'_>, imodel: &Imodel) -> Result<Reply, Refusal> {
    let bound = |name: &'static str| match request.query(name).map(str::parse::<u64>) {
        None => Ok(None),
        Some(Ok(index)) => Ok(Some(index)),
        Some(Err(_)) => Err(invalid(INVALID, name, "The value must be a number.")),
    };
    let (after, last) = (bound("afterIndex")?, bound("lastIndex")?);
    let mut found: Vec<&Changeset> = imodel
        .changesets
        .iter()
        .filter(|one| after.is_none_or(|after| one.index > after))
        .filter(|one| last.is_none_or(|last| one.index <= last))
        .collect();
    if is_descending(request, "index", &["index"])? {
        found.reverse();
    }
    let (page, links) = request.page(found, &PAGES)?;
    let items: Vec<Value> = page
        .into_iter()
        .map(|one| changeset_json(request, imodel, one, request.wants_representation()))
        .collect();
    Ok(reply::json(
        200,
        &json!({ "changesets": items, "_links": links }),
    ))
}

/// Whether a list is requested in descending order; `known` are the properties that can order it.
fn is_descending(request: &ApiRequest<'_>, usual: &str, known: &[&str]) -> Result<bool, Refusal> {
    let order = request.query("$orderBy").unwrap_or(usual);
    let (by, direction) = order.split_once(' ').unwrap_or((order, "asc"));
    if !known.contains(&by) || !["asc", "desc"].contains(&direction) {
        return Err(invalid(INVALID, "$orderBy", "The value is unknown."));
    }
    Ok(direction == "desc")
}

fn changeset_json(request: &ApiRequest<'_>, imodel: &Imodel, one: &Changeset, full: bool) -> Value {
    let base = format!("{}/imodels/{}", request.shared.api_url, imodel.id);
    let creator = member_id(&one.creator);
    let parent = imodel
        .changesets
        .iter()
        .find(|parent| parent.index + 1 == one.index);
    let mut shown = json!({
        "id": one.id, "displayName": one.index.to_string(), "description": one.description, "index": one.index,
        "parentId": parent.map_or("", |parent| &parent.id), "creatorId": creator,
        "pushDateTime": format!("{:.7}", one.pushed_at), "state": "fileUploaded", "containingChanges": 0,
        "fileSize": 1024, "briefcaseId": 2, "groupId": null,
        "_links": {
            "self": { "href": format!("{base}/changesets/{}", one.id) },
            "creator": { "href": format!("{base}/users/{creator}") },
        },
    });
    if full {
        let mut versions = imodel.named_versions.iter();
        let version = versions.find(|version| version.changeset_index == one.index);
        shown["application"] =
            json!({ "id": one.creator, "name": request.shared.display_name(&one.creator) });
        shown["synchronizationInfo"] =
            json!({ "taskId": one.run_id, "changedFiles": one.changed_files });
        shown["_links"]["namedVersion"] = version.map_or(
            Value::Null,
            |version| json!({ "href": format!("{base}/namedversions/{}", version.id) }),
        );
        shown["_links"]["currentOrPrecedingCheckpoint"] = Value::Null;
        shown["_links"]["download"] = Value::Null;
    }
    shown
}

fn list_versions(request: &ApiRequest<'_>, imodel: &Imodel) -> Result<Reply, Refusal> {
    let mut found: Vec<&NamedVersion> = imodel
        .named_versions
        .iter()
        .filter(|version| {
            let name = request.query("name").or(request.query("displayName"));
            name.is_none_or(|name| version.name == name)
        })
        .filter(|version| {
            request.query("$search").is_none_or(|wanted| {
                let wanted = wanted.to_lowercase();
                let description = version.description.as_deref().unwrap_or_default();
                version.name.to_lowercase().contains(&wanted)
                    || description.to_lowercase().contains(&wanted)
            })
        })
        .collect();
    let known = ["changesetIndex", "createdDateTime", "name"];
    let descending = is_descending(request, "createdDateTime", &known)?;
    let order = request.query("$orderBy").unwrap_or_default();
    if order.starts_with("changesetIndex") {
        found.sort_by_key(|version| version.changeset_index);
    } else if order.starts_with("name") {
        found.sort_by_key(|version| &version.name);
    }
    if descending {
        found.reverse();
    }
    let (page, links) = request.page(found, &PAGES)?;
    let items: Vec<Value> = page
        .into_iter()
        .map(|version| version_json(request, imodel, version, request.wants_representation()))
        .collect();
    Ok(reply::json(
        200,
        &json!({ "namedVersions": items, "_links": links }),
    ))
}

/// Creates a named version on a changeset, or on the baseline if the body has none.
fn create_version(
    request: &ApiRequest<'_>,
    state: &mut State,
    imodel_id: &str,
) -> Result<Reply, Refusal> {
    let body = request.json(INVALID)?;
    let imodel = state.imodels.get_mut(imodel_id);
    let imodel = imodel.ok_or_else(imodel_not_found)?;
    let name = name_of(&body)?.ok_or_else(|| invalid(INVALID, "name", "The value is missing."))?;
    let description = description_of(&body)?;
    let changeset_id = text(&body, "changesetId", INVALID)?;
    let changeset_index = match changeset_id {
        None => 0,
        Some(id) => {
            let mut changesets = imodel.changesets.iter();
            changesets
                .find(|one| one.id == id)
                .ok_or_else(no_changeset)?
                .index
        }
    };
    let versions = &imodel.named_versions;
    if versions
        .iter()
        .any(|one| one.changeset_index == changeset_index)
    {
        return Err(refuse(
            409,
            "NamedVersionOnChangesetExists",
            "Named Version already exists on the Changeset.",
        ));
    }
    if versions.iter().any(|one| one.name == name) {
        return Err(name_exists());
    }
    let version = NamedVersion {
        id: Uuid::new_v4().to_string(),
        name,
        description,
        changeset_id: changeset_id.map(str::to_owned),
        changeset_index,
        created_at: request.now,
        state: "visible".to_owned(),
        creator: request.client_id.clone(),
    };
    imodel.named_versions.push(version.clone());
    let shown = version_json(request, imodel, &version, true);
    Ok(reply::json(201, &json!({ "namedVersion": shown })))
}

fn name_exists() -> Refusal {
    refuse(
        409,
        "NamedVersionExists",
        "Named Version already exists with the specified name.",
    )
}

fn one_version(
    request: &ApiRequest<'_>,
    state: &mut State,
    imodel_id: &str,
) -> Result<Reply, Refusal> {
    let imodel = state.imodels.get_mut(imodel_id);
    let imodel = imodel.ok_or_else(imodel_not_found)?;
    let mut versions = imodel.named_versions.iter();
    let at = versions.position(|version| version.id == request.segment(3));
    let at = at.ok_or_else(no_version)?;
    if request.method == "PATCH" {
        let body = request.json(INVALID)?;
        let mut version = imodel.named_versions[at].clone();
        if let Some(name) = name_of(&body)? {
            let mut others = imodel.named_versions.iter();
            if others.any(|other| other.id != version.id && other.name == name) {
                return Err(name_exists());
            }
            version.name = name;
        }
        if let Some(description) = description_of(&body)? {
            version.description = Some(description);
        }
        match text(&body, "state", INVALID)? {
            None => {}
            Some(word @ ("visible" | "hidden")) => word.clone_into(&mut version.state),
            Some(_) => return Err(invalid(INVALID, "state", "The value is unknown.")),
        }
        imodel.named_versions[at] = version;
    }
    let shown = version_json(request, imodel, &imodel.named_versions[at], true);
    Ok(reply::json(200, &json!({ "namedVersion": shown })))
}

fn version_json(
    request: &ApiRequest<'_>,
    imodel: &Imodel,
    version: &NamedVersion,
    full: bool,
) -> Value {
    let base = format!("{}/imodels/{}", request.shared.api_url, imodel.id);
    let mut shown = json!({
        "id": version.id, "displayName": version.name, "changesetId": version.changeset_id,
        "changesetIndex": version.changeset_index,
    });
    if full {
        let changeset = version
            .changeset_id
            .as_ref()
            .map(|id| json!({ "href": format!("{base}/changesets/{id}") }));
        shown["name"] = json!(version.name);
        shown["description"] = json!(version.description);
        shown["createdDateTime"] = json!(format!("{:.7}", version.created_at));
        shown["state"] = json!(version.state);
        shown["application"] =
            json!({ "id": version.creator, "name": request.shared.display_name(&version.creator) });
        shown["_links"] = json!({
            "creator": { "href": format!("{base}/users/{}", member_id(&version.creator)) },
            "changeset": changeset,
        });
    }
    shown
}

/// The creators of an iModel, of its changesets and of its named versions.
fn users(imodel: &Imodel) -> Vec<&str> {
    let pushed = imodel.changesets.iter().map(|one| one.creator.as_str());
    let named = imodel.named_versions.iter().map(|one| one.creator.as_str());
    let mut users: Vec<&str> = std::iter::once(imodel.creator.as_str())
        .chain(pushed)
        .chain(named)
        .collect();
    users.sort_unstable();
    users.dedup();
    users
}

fn user_json(request: &ApiRequest<'_>, imodel: &Imodel, client: &str, full: bool) -> Value {
    let id = member_id(client);
    let href = format!(
        "{}/imodels/{}/users/{id}",
        request.shared.api_url, imodel.id
    );
    let user = access::user_json(request.shared, client);
    let mut shown = json!({ "id": id, "displayName": user["displayName"], "_links": { "self": { "href": href } } });
    if full {
        let pushed: Vec<&Changeset> = imodel
            .changesets
            .iter()
            .filter(|one| one.creator == client)
            .collect();
        let named = imodel
            .named_versions
            .iter()
            .filter(|one| one.creator == client);
        for name in ["givenName", "surname", "email"] {
            shown[name] = user[name].clone();
        }
        shown["statistics"] = json!({
            "pushedChangesetsCount": pushed.len(), "briefcasesCount": 0, "createdVersionsCount": named.count(),
            "lastChangesetPushDate": pushed.last().map(|last| format!("{:.7}", last.pushed_at)), "applications": [],
        });
    }
    shown
}
