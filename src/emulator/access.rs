//! Access control: users, members of iTwins, and roles with permissions.
//!
//! Every application is an organization administrator with all permissions, unless it was configured as an outsider:
//! then it has the permissions of its roles in an iTwin, like a service application on the platform.
//!
//! Source: developer.bentley.com/apis/access-control-v2/operations/, /apis/users/

use serde_json::{Value, json};
use uuid::Uuid;

use super::model::{Itwin, Member, Role, State, member_id};
use super::paging::Pages;
use super::reply::{self, Refusal, Reply, insufficient, invalid, itwin_not_found, refuse, unknown};
use super::request::{ApiRequest, text};
use super::shared::Shared;

const INVALID: &str = "InvalidiTwinsMemberRequest";
const INVALID_ROLE: &str = "InvalidiTwinsRoleRequest";

/// Maximum number of role assignments in one request.
const ASSIGNMENTS_MAX: usize = 50;

/// Permissions that a role can have.
pub(super) const PERMISSIONS: [&str; 10] = [
    "administration_invite_member",
    "administration_manage_roles",
    "administration_remove_member",
    "imodels_manage",
    "imodels_read",
    "imodels_webview",
    "imodels_write",
    "storage_delete",
    "storage_read",
    "storage_write",
];

/// A permission that an operation requires.
pub(super) type Permission = &'static str;

/// The e-mail address of a client as a user; that of a service application is derived from its id.
pub(super) fn email(shared: &Shared, client_id: &str) -> String {
    if shared
        .options
        .native_clients
        .iter()
        .any(|id| id == client_id)
    {
        return format!("{client_id}@example.com");
    }
    format!("{client_id}@apps.imsoidc.bentley.com")
}

/// The client ids of all users.
fn clients(shared: &Shared) -> Vec<String> {
    let options = &shared.options;
    let services = options.clients.iter().map(|(id, _)| id);
    services.chain(&options.native_clients).cloned().collect()
}

fn is_administrator(request: &ApiRequest<'_>) -> bool {
    !request
        .shared
        .options
        .outsiders
        .contains(&request.client_id)
}

fn member<'s>(request: &ApiRequest<'_>, itwin: &'s Itwin) -> Option<&'s Member> {
    let email = email(request.shared, &request.client_id);
    let mut members = itwin.members.iter();
    members.find(|member| member.email.eq_ignore_ascii_case(&email))
}

/// Whether the caller can see an iTwin.
pub(super) fn is_member(request: &ApiRequest<'_>, itwin: &Itwin) -> bool {
    is_administrator(request) || member(request, itwin).is_some()
}

/// Whether the caller has a permission in an iTwin.
pub(super) fn has(request: &ApiRequest<'_>, itwin: &Itwin, permission: Permission) -> bool {
    is_administrator(request)
        || member(request, itwin).is_some_and(|member| {
            member.owner || permissions_of(itwin, member).contains(&permission)
        })
}

/// The permissions of a member's roles.
fn permissions_of<'i>(itwin: &'i Itwin, member: &Member) -> Vec<&'i str> {
    let roles = itwin
        .roles
        .iter()
        .filter(|role| member.role_ids.contains(&role.id));
    let mut permissions: Vec<&str> = roles
        .flat_map(|role| &role.permissions)
        .map(String::as_str)
        .collect();
    permissions.sort_unstable();
    permissions.dedup();
    permissions
}

/// Fails when the caller lacks a permission on an iModel. An unknown iModel passes: callers report it themselves.
pub(super) fn check_imodel(
    request: &ApiRequest<'_>,
    state: &State,
    id: &str,
    permission: Permission,
) -> Result<(), Refusal> {
    let forbidden = &request.shared.options.forbidden_imodels;
    let imodel = state.imodels.get(&id.to_ascii_lowercase());
    let itwin = imodel.and_then(|imodel| state.itwins.get(&imodel.itwin_id));
    if forbidden.iter().any(|forbidden| forbidden == id)
        || itwin.is_some_and(|itwin| !has(request, itwin, permission))
    {
        return Err(insufficient());
    }
    Ok(())
}

/// Makes a client the owner of an iTwin.
pub(super) fn add_owner(shared: &Shared, itwin: &mut Itwin, client_id: &str) {
    let role = Role {
        id: Uuid::new_v4().to_string(),
        display_name: "Owner".to_owned(),
        description: "Has all permissions.".to_owned(),
        permissions: PERMISSIONS.map(str::to_owned).to_vec(),
    };
    let role_id = match itwin
        .roles
        .iter()
        .find(|known| known.display_name == "Owner")
    {
        Some(known) => known.id.clone(),
        None => role.id.clone(),
    };
    if itwin.roles.iter().all(|known| known.id != role_id) {
        itwin.roles.push(role);
    }
    let email = email(shared, client_id);
    if itwin.members.iter().all(|member| member.email != email) {
        itwin.members.push(Member {
            email,
            role_ids: vec![role_id],
            owner: true,
        });
    }
}

/// Handles `/users/me`.
pub(super) fn me(request: &ApiRequest<'_>) -> Result<Reply, Refusal> {
    let path = request.path();
    match (request.method.as_str(), path.as_slice()) {
        ("GET", ["users", "me"]) => {
            let user = user_json(request.shared, &request.client_id);
            Ok(reply::json(200, &json!({ "user": user })))
        }
        _ => Err(unknown()),
    }
}

/// The user of a client.
pub(super) fn user_json(shared: &Shared, client_id: &str) -> Value {
    let name = shared.display_name(client_id);
    json!({
        "id": member_id(client_id), "displayName": name, "givenName": name, "surname": "",
        "email": email(shared, client_id), "alternateEmail": null, "phone": null,
        "organizationName": "Emulated organization", "city": null, "country": null, "language": "EN",
        "createdDateTime": "2020-01-01T00:00:00.0000000Z",
    })
}

/// The id of the user with this e-mail address, which can be unknown.
fn id_of(shared: &Shared, address: &str) -> String {
    let known = clients(shared)
        .into_iter()
        .find(|client| email(shared, client).eq_ignore_ascii_case(address));
    member_id(known.as_deref().unwrap_or(address))
}

/// Handles everything below `/accesscontrol`.
pub(super) fn handle(request: &ApiRequest<'_>, state: &mut State) -> Result<Reply, Refusal> {
    let path = request.path();
    if let ("GET", ["accesscontrol", "permissions"]) = (request.method.as_str(), path.as_slice()) {
        return Ok(reply::json(200, &json!({ "permissions": PERMISSIONS })));
    }
    let ["accesscontrol", "itwins", _, rest @ ..] = path.as_slice() else {
        return Err(unknown());
    };
    let id = request.segment(2).to_ascii_lowercase();
    let itwin = state.itwins.get_mut(&id);
    let itwin = itwin.filter(|itwin| is_member(request, itwin));
    let itwin = itwin.ok_or_else(itwin_not_found)?;
    let needs = |itwin: &Itwin, permission| {
        if has(request, itwin, permission) {
            Ok(())
        } else {
            Err(insufficient())
        }
    };
    match (request.method.as_str(), rest) {
        ("GET", ["permissions"]) => {
            let all = is_administrator(request);
            let mine = member(request, itwin).map(|member| permissions_of(itwin, member));
            let permissions = if all {
                PERMISSIONS.to_vec()
            } else {
                mine.unwrap_or_default()
            };
            Ok(reply::json(200, &json!({ "permissions": permissions })))
        }
        ("GET", ["roles"]) => {
            let roles: Vec<Value> = itwin.roles.iter().map(role_json).collect();
            Ok(reply::json(200, &json!({ "roles": roles })))
        }
        ("POST", ["roles"]) => {
            needs(itwin, "administration_manage_roles")?;
            let role = changed_role(request, Role::default())?;
            let shown = role_json(&role);
            itwin.roles.push(role);
            Ok(reply::json(201, &json!({ "role": shown })))
        }
        (method, ["roles", _]) => {
            let at = itwin
                .roles
                .iter()
                .position(|role| role.id == request.segment(4));
            let at =
                at.ok_or_else(|| refuse(404, "RoleNotFound", "Requested role is not available."))?;
            match method {
                "GET" => Ok(reply::json(
                    200,
                    &json!({ "role": role_json(&itwin.roles[at]) }),
                )),
                "PATCH" => {
                    needs(itwin, "administration_manage_roles")?;
                    let role = changed_role(request, itwin.roles[at].clone())?;
                    let shown = role_json(&role);
                    itwin.roles[at] = role;
                    Ok(reply::json(200, &json!({ "role": shown })))
                }
                "DELETE" => {
                    needs(itwin, "administration_manage_roles")?;
                    let role = itwin.roles.remove(at);
                    for member in &mut itwin.members {
                        member.role_ids.retain(|id| *id != role.id);
                    }
                    Ok(reply::empty(204))
                }
                _ => Err(unknown()),
            }
        }
        (_, ["members", "users" | "owners", ..]) => members(request, itwin, &rest[1..]),
        _ => Err(unknown()),
    }
}

fn members(request: &ApiRequest<'_>, itwin: &mut Itwin, rest: &[&str]) -> Result<Reply, Refusal> {
    let (owners, one) = (rest[0] == "owners", rest.len() == 2);
    let method = request.method.as_str();
    let permission = match method {
        "GET" => None,
        "POST" | "PATCH" => Some("administration_invite_member"),
        _ => Some("administration_remove_member"),
    };
    if permission.is_some_and(|permission| !has(request, itwin, permission)) {
        return Err(insufficient());
    }
    let listed = |member: &Member| !owners || member.owner;
    match (method, rest.len()) {
        ("GET", 1) => {
            let members = itwin.members.iter().filter(|member| listed(member));
            let members: Vec<Value> = members
                .map(|member| member_json(request, itwin, member, owners))
                .collect();
            let (page, links) = request.page(members, &Pages::while_more(100, INVALID))?;
            Ok(reply::json(
                200,
                &json!({ "members": page, "_links": links }),
            ))
        }
        ("POST", 1) => {
            let body = request.json(INVALID)?;
            let wanted = if owners {
                vec![owner_of(&body)?]
            } else {
                new_members(itwin, &body)?
            };
            let (mut added, mut invited) = (Vec::new(), Vec::new());
            for member in wanted {
                let known = clients(request.shared).iter().any(|client| {
                    email(request.shared, client).eq_ignore_ascii_case(&member.email)
                });
                let shown = member_json(request, itwin, &member, owners);
                if !known {
                    invited.push(shown);
                    continue;
                }
                itwin
                    .members
                    .retain(|other| !other.email.eq_ignore_ascii_case(&member.email));
                itwin.members.push(member);
                added.push(shown);
            }
            Ok(reply::json(
                201,
                &if owners {
                    json!({ "member": added.first(), "invitation": invited.first() })
                } else {
                    json!({ "members": added, "invitations": invited })
                },
            ))
        }
        (_, 2) if one => {
            let at = itwin.members.iter().position(|member| {
                listed(member) && id_of(request.shared, &member.email) == request.segment(5)
            });
            let at = at.ok_or_else(|| {
                refuse(
                    404,
                    "TeamMemberNotFound",
                    "Requested team member is not available.",
                )
            })?;
            match method {
                "GET" if !owners => {
                    let shown = member_json(request, itwin, &itwin.members[at], false);
                    Ok(reply::json(200, &json!({ "member": shown })))
                }
                "PATCH" if !owners => {
                    let ids = role_ids(itwin, &request.json(INVALID)?)?;
                    itwin.members[at].role_ids = ids;
                    let shown = member_json(request, itwin, &itwin.members[at], false);
                    Ok(reply::json(200, &json!({ "member": shown })))
                }
                "DELETE" => {
                    itwin.members.remove(at);
                    Ok(reply::empty(204))
                }
                _ => Err(unknown()),
            }
        }
        _ => Err(unknown()),
    }
}

fn owner_of(body: &Value) -> Result<Member, Refusal> {
    let email = text(body, "email", INVALID)?.filter(|email| email.contains('@'));
    let email =
        email.ok_or_else(|| invalid(INVALID, "email", "The value is not an e-mail address."))?;
    Ok(Member {
        email: email.to_owned(),
        role_ids: Vec::new(),
        owner: true,
    })
}

/// The members in a body.
fn new_members(itwin: &Itwin, body: &Value) -> Result<Vec<Member>, Refusal> {
    let members = body["members"].as_array();
    let members = members.ok_or_else(|| invalid(INVALID, "members", "The value is missing."))?;
    let assignments: usize = members
        .iter()
        .map(|member| member["roleIds"].as_array().map_or(0, Vec::len))
        .sum();
    if assignments > ASSIGNMENTS_MAX {
        let what = "A maximum of 50 role assignments can be performed.";
        return Err(invalid(INVALID, "members", what));
    }
    let member = |member| {
        Ok(Member {
            owner: false,
            role_ids: role_ids(itwin, member)?,
            ..owner_of(member)?
        })
    };
    members.iter().map(member).collect()
}

fn role_ids(itwin: &Itwin, body: &Value) -> Result<Vec<String>, Refusal> {
    let ids = body["roleIds"].as_array();
    let ids = ids.ok_or_else(|| invalid(INVALID, "roleIds", "The value is missing."))?;
    if ids.len() > ASSIGNMENTS_MAX {
        let what = "A maximum of 50 roles can be assigned.";
        return Err(invalid(INVALID, "roleIds", what));
    }
    let id = |id: &Value| {
        let known = itwin.roles.iter().find(|role| *id == role.id.as_str());
        let known = known.map(|role| role.id.clone());
        known.ok_or_else(|| invalid(INVALID, "roleIds", "A role does not belong to the iTwin."))
    };
    ids.iter().map(id).collect()
}

/// A role with the changes in the body.
fn changed_role(request: &ApiRequest<'_>, mut role: Role) -> Result<Role, Refusal> {
    let body = request.json(INVALID_ROLE)?;
    if let Some(name) = text(&body, "displayName", INVALID_ROLE)? {
        name.clone_into(&mut role.display_name);
    }
    if let Some(description) = text(&body, "description", INVALID_ROLE)? {
        description.clone_into(&mut role.description);
    }
    if role.display_name.is_empty() {
        return Err(invalid(
            INVALID_ROLE,
            "displayName",
            "The value is missing.",
        ));
    }
    if let Some(permissions) = body["permissions"].as_array() {
        let known = |permission: &Value| {
            let mut known = PERMISSIONS.iter();
            let known = known.find(|known| *permission == **known);
            known
                .map(|known| (*known).to_owned())
                .ok_or_else(|| invalid(INVALID_ROLE, "permissions", "A permission is unknown."))
        };
        role.permissions = permissions.iter().map(known).collect::<Result<_, _>>()?;
    }
    if role.id.is_empty() {
        role.id = Uuid::new_v4().to_string();
    }
    Ok(role)
}

fn role_json(role: &Role) -> Value {
    json!({
        "id": role.id, "displayName": role.display_name, "description": role.description,
        "permissions": role.permissions,
    })
}

fn member_json(request: &ApiRequest<'_>, itwin: &Itwin, member: &Member, owner: bool) -> Value {
    let known = clients(request.shared)
        .into_iter()
        .find(|client| email(request.shared, client).eq_ignore_ascii_case(&member.email));
    let name = known
        .as_deref()
        .map_or("", |client| request.shared.display_name(client));
    let mut shown = json!({
        "id": id_of(request.shared, &member.email), "email": member.email, "givenName": name, "surname": "",
        "organization": "Emulated organization",
    });
    if !owner {
        let ids = member.role_ids.iter();
        let roles = ids.filter_map(|id| itwin.roles.iter().find(|role| role.id == *id));
        let roles = roles.map(|role| {
            json!({ "id": role.id, "displayName": role.display_name, "description": role.description })
        });
        shown["roles"] = roles.collect();
    }
    shown
}
