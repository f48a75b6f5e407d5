//! Users, members, roles, and what a service application may do that was given no role, or only some permissions.

use std::sync::Arc;
use std::time::Duration;

use itwin_syncd::emulator::{
    DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID, Emulator,
};
use serde_json::{Value, json};

use super::connections::{CONNECTIONS, connected, mapped};
use super::{NOBODY, root};
use crate::support::{Platform, Seen, V1, V2};

const OUTSIDE: (&str, &str) = ("service-outside", "outside");

const OURS: (&str, &str) = (DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET);

async fn with_outsider(seen: &Arc<Seen>) -> Platform {
    let builder = Emulator::builder()
        .client(OURS.0, OURS.1)
        .outsider(OUTSIDE.0, OUTSIDE.1)
        .run_duration(Duration::from_millis(100));
    Platform::seeing(builder, Arc::clone(seen)).await
}

async fn v2(platform: &Platform, method: &str, path: &str, body: Value) -> crate::support::Answer {
    platform
        .ask_with(method, path, body, &[("accept", V2)])
        .await
}

pub async fn members_and_roles(seen: &Arc<Seen>) {
    let mut platform = with_outsider(seen).await;
    let ask = async |platform: &Platform, method: &str, rest: &str, body: Value| {
        let path = format!("/accesscontrol/itwins/{DEFAULT_ITWIN_ID}/{rest}");
        v2(platform, method, &path, body).await
    };
    let me = platform.get("/users/me").await.ok(200)["user"].clone();
    let address = format!("{DEFAULT_CLIENT_ID}@apps.imsoidc.bentley.com");
    assert_eq!(me["email"], address);
    let all = v2(&platform, "GET", "/accesscontrol/permissions", Value::Null)
        .await
        .ok(200);
    assert!(
        all["permissions"]
            .as_array()
            .unwrap()
            .contains(&json!("storage_write"))
    );
    let mine = ask(&platform, "GET", "permissions", Value::Null)
        .await
        .ok(200);
    assert_eq!(mine, all);
    for rest in ["permissions", "roles", "members/users", "members/owners"] {
        let path = format!("/accesscontrol/itwins/{NOBODY}/{rest}");
        v2(&platform, "GET", &path, Value::Null)
            .await
            .is(404, "iTwinNotFound");
        if rest != "permissions" {
            v2(&platform, "POST", &path, json!({}))
                .await
                .is(404, "iTwinNotFound");
        }
    }

    let body =
        json!({ "displayName": "Reader", "description": "reads", "permissions": ["storage_read"] });
    let role = ask(&platform, "POST", "roles", body).await.ok(201)["role"].clone();
    assert_eq!(role["permissions"], json!(["storage_read"]));
    for wrong in [
        json!({}),
        json!({ "displayName": "X", "permissions": ["levitate"] }),
    ] {
        ask(&platform, "POST", "roles", wrong)
            .await
            .is(422, "InvalidiTwinsRoleRequest");
    }
    let one = format!("roles/{}", role["id"].as_str().unwrap());
    assert_eq!(
        ask(&platform, "GET", &one, Value::Null).await.ok(200)["role"],
        role
    );
    let body = json!({ "displayName": "Writer", "permissions": ["storage_read", "storage_write"] });
    let changed = ask(&platform, "PATCH", &one, body).await.ok(200)["role"].clone();
    assert_eq!(
        (&changed["displayName"], &changed["description"]),
        (&json!("Writer"), &json!("reads"))
    );
    ask(&platform, "PATCH", &one, json!({ "displayName": "" }))
        .await
        .is(422, "InvalidiTwinsRoleRequest");
    for method in ["GET", "PATCH", "DELETE"] {
        ask(&platform, method, "roles/missing", json!({}))
            .await
            .is(404, "RoleNotFound");
    }
    let listed = ask(&platform, "GET", "roles", Value::Null).await.ok(200);
    assert!(listed["roles"].as_array().unwrap().contains(&changed));

    // The application that was there from the start is the owner.
    let users = ask(&platform, "GET", "members/users", Value::Null)
        .await
        .ok(200);
    assert_eq!(users["members"].as_array().unwrap().len(), 1);
    assert_eq!(users["members"][0]["id"], me["id"]);
    assert_eq!(
        users["members"][0]["roles"].as_array().unwrap().len(),
        1,
        "{users}"
    );
    let member =
        |email: &str, roles: Value| json!({ "members": [{ "email": email, "roleIds": roles }] });
    let outside = format!("{}@apps.imsoidc.bentley.com", OUTSIDE.0);
    let added = ask(
        &platform,
        "POST",
        "members/users",
        member(&outside, json!([role["id"]])),
    )
    .await
    .ok(201);
    assert_eq!(
        (&added["members"][0]["email"], &added["invitations"]),
        (&json!(outside), &json!([]))
    );
    let invited = ask(
        &platform,
        "POST",
        "members/users",
        member("someone@example.com", json!([role["id"]])),
    )
    .await
    .ok(201);
    assert_eq!(invited["members"], json!([]));
    assert_eq!(invited["invitations"][0]["email"], "someone@example.com");
    let many: Vec<Value> = (0..51).map(|_| role["id"].clone()).collect();
    for wrong in [
        json!({}),
        member("no address", json!([])),
        member(&outside, json!(["unknown"])),
        member(&outside, json!(many)),
    ] {
        ask(&platform, "POST", "members/users", wrong)
            .await
            .is(422, "InvalidiTwinsMemberRequest");
    }
    let one = format!(
        "members/users/{}",
        added["members"][0]["id"].as_str().unwrap()
    );
    assert_eq!(
        ask(&platform, "GET", &one, Value::Null).await.ok(200)["member"],
        added["members"][0]
    );
    let bare = ask(&platform, "PATCH", &one, json!({ "roleIds": [] }))
        .await
        .ok(200);
    assert_eq!(bare["member"]["roles"], json!([]));
    ask(&platform, "PATCH", &one, json!({}))
        .await
        .is(422, "InvalidiTwinsMemberRequest");
    for method in ["GET", "PATCH", "DELETE"] {
        ask(&platform, method, "members/users/missing", json!({}))
            .await
            .is(404, "TeamMemberNotFound");
    }
    let owner = ask(
        &platform,
        "POST",
        "members/owners",
        json!({ "email": "native-emulator@example.com" }),
    )
    .await
    .ok(201)["member"]
        .clone();
    ask(&platform, "POST", "members/owners", json!({}))
        .await
        .is(422, "InvalidiTwinsMemberRequest");
    for list in ["members/users", "members/owners"] {
        ask(&platform, "GET", &format!("{list}?$top=x"), Value::Null)
            .await
            .is(422, "InvalidiTwinsMemberRequest");
    }
    let owners = ask(&platform, "GET", "members/owners", Value::Null)
        .await
        .ok(200);
    assert_eq!(owners["members"].as_array().unwrap().len(), 2);

    // A member without a permission may look and not change.
    platform.sign_in_as(OUTSIDE).await;
    let mine = ask(&platform, "GET", "permissions", Value::Null)
        .await
        .ok(200);
    assert_eq!(mine["permissions"], json!([]));
    let one_role = format!("roles/{}", role["id"].as_str().unwrap());
    let one_owner = format!("members/owners/{}", owner["id"].as_str().unwrap());
    for (method, rest) in [
        ("POST", "roles"),
        ("PATCH", one_role.as_str()),
        ("DELETE", one_role.as_str()),
        ("POST", "members/users"),
        ("PATCH", one.as_str()),
        ("DELETE", one.as_str()),
        ("POST", "members/owners"),
        ("DELETE", one_owner.as_str()),
    ] {
        ask(&platform, method, rest, json!({}))
            .await
            .is(403, "InsufficientPermissions");
    }
    platform.sign_in_as(OURS).await;
    ask(&platform, "DELETE", &one_owner, Value::Null)
        .await
        .ok(204);
    ask(&platform, "DELETE", &one_owner, Value::Null)
        .await
        .is(404, "TeamMemberNotFound");
    ask(&platform, "DELETE", &one, Value::Null).await.ok(204);
    ask(&platform, "DELETE", &one_role, Value::Null)
        .await
        .ok(204);
}

/// What a service application gets before it is made a member, with some permissions, and with all that the daemon
/// needs.
pub async fn rehearsal(seen: &Arc<Seen>) {
    let mut platform = with_outsider(seen).await;
    let root = root(&platform).await;
    let file = platform.upload(&root, "a.ifc", b"x").await;
    let folder = platform
        .post(
            &format!("/storage/folders/{root}/folders"),
            json!({ "displayName": "F" }),
        )
        .await
        .ok(201)["folder"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let connection = connected(&platform, &[mapped(&file, "IFC")]).await;
    let path = format!("{CONNECTIONS}/{connection}/sourceFiles");
    let source = platform.get(&path).await.ok(200)["sourceFiles"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let run = platform
        .post(&format!("{CONNECTIONS}/{connection}/run"), Value::Null)
        .await;
    super::runs::ended(&platform, run.header("location")).await;
    let run = run
        .header("location")
        .rsplit('/')
        .next()
        .unwrap()
        .to_owned();
    let recycled = platform.upload(&root, "b.ifc", b"x").await;
    platform
        .delete(&format!("/storage/files/{recycled}"))
        .await
        .ok(204);
    let gone = platform
        .post(
            &format!("/storage/folders/{root}/folders"),
            json!({ "displayName": "G" }),
        )
        .await
        .ok(201)["folder"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    platform
        .delete(&format!("/storage/folders/{gone}"))
        .await
        .ok(204);

    platform.sign_in_as(OUTSIDE).await;
    let itwins = platform.get("/itwins").await.ok(200);
    assert_eq!(itwins["iTwins"], json!([]));
    platform
        .get(&format!("/itwins/{DEFAULT_ITWIN_ID}"))
        .await
        .is(404, "iTwinNotFound");
    let (c, i) = (
        format!("{CONNECTIONS}/{connection}"),
        format!("/imodels/{DEFAULT_IMODEL_ID}"),
    );
    let (f, d) = (
        format!("/storage/files/{file}"),
        format!("/storage/folders/{folder}"),
    );
    let (bin, of_imodel) = (
        "/storage/recyclebin".to_owned(),
        format!("imodelId={DEFAULT_IMODEL_ID}"),
    );
    let configurations = "/synchronization/configurations";
    let mut refused: Vec<(&str, String)> = vec![
        ("GET", format!("/storage?iTwinId={DEFAULT_ITWIN_ID}")),
        ("GET", f.clone()),
        ("PATCH", f.clone()),
        ("DELETE", f.clone()),
        ("GET", format!("{f}/download")),
        ("POST", format!("{f}/complete")),
        ("POST", format!("{f}/updateContent")),
        ("POST", format!("{f}/move")),
        ("GET", d.clone()),
        ("PATCH", d.clone()),
        ("DELETE", d.clone()),
        ("POST", format!("{d}/move")),
        ("POST", format!("{d}/lock")),
        ("POST", format!("{d}/unlock")),
        ("GET", format!("{d}/list")),
        ("GET", format!("{d}/files")),
        ("POST", format!("{d}/files")),
        ("GET", format!("{d}/folders")),
        ("POST", format!("{d}/folders")),
        ("GET", format!("{d}/search?name=a")),
        ("GET", format!("{bin}?iTwinId={DEFAULT_ITWIN_ID}")),
        ("POST", format!("{bin}/files/{recycled}/restore")),
        ("DELETE", format!("{bin}/files/{recycled}")),
        ("POST", format!("{bin}/folders/{gone}/restore")),
        ("DELETE", format!("{bin}/folders/{gone}")),
        ("GET", format!("/imodels?iTwinId={DEFAULT_ITWIN_ID}")),
        ("GET", i.clone()),
        ("PATCH", i.clone()),
        ("DELETE", i.clone()),
        ("POST", format!("{i}/complete")),
        ("GET", format!("{i}/operations/create")),
        ("GET", format!("{i}/changesets")),
        ("GET", format!("{i}/changesets/1")),
        ("GET", format!("{i}/namedversions")),
        ("POST", format!("{i}/namedversions")),
        ("GET", format!("{i}/namedversions/x")),
        ("PATCH", format!("{i}/namedversions/x")),
        ("GET", format!("{i}/users")),
        ("GET", format!("{i}/users/x")),
        ("GET", format!("{CONNECTIONS}?{of_imodel}")),
        (
            "GET",
            format!("/synchronization/imodels/connections?{of_imodel}"),
        ),
        (
            "GET",
            format!("/synchronization/reports?{of_imodel}&runId=x"),
        ),
        ("GET", c.clone()),
        ("PUT", c.clone()),
        ("DELETE", c.clone()),
        ("POST", format!("{c}/run")),
        ("GET", format!("{c}/runs")),
        ("GET", format!("{c}/runs/{run}")),
        ("GET", format!("{c}/sourceFiles")),
        ("POST", format!("{c}/sourceFiles")),
        ("GET", format!("{c}/sourceFiles/{source}")),
        ("PUT", format!("{c}/sourceFiles/{source}")),
        ("DELETE", format!("{c}/sourceFiles/{source}")),
    ];
    for scope in [
        format!("itwins/{DEFAULT_ITWIN_ID}"),
        format!("imodels/{DEFAULT_IMODEL_ID}"),
        format!("connections/{connection}"),
    ] {
        for method in ["GET", "POST", "PATCH", "DELETE"] {
            refused.push((method, format!("{configurations}/{scope}")));
        }
    }
    for (method, path) in &refused {
        let answer = platform.ask(method, path, Value::Null).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (403, "InsufficientPermissions"),
            "{method} {path}"
        );
    }
    let imodel = json!({ "name": "X", "iTwinId": DEFAULT_ITWIN_ID });
    platform
        .post("/imodels", imodel)
        .await
        .is(403, "InsufficientPermissions");
    let body = super::connections::connection_of(&[mapped(&file, "IFC")]);
    platform
        .post(CONNECTIONS, body)
        .await
        .is(403, "InsufficientPermissions");

    // With some permissions some of it works, with those that the daemon needs all of its own does.
    for (permissions, expected) in [
        (json!(["storage_read"]), [200, 403, 403, 403, 403]),
        (
            json!(["storage_read", "storage_write", "imodels_webview"]),
            [200, 202, 200, 200, 403],
        ),
        (
            json!([
                "storage_read",
                "storage_write",
                "imodels_webview",
                "imodels_write"
            ]),
            [200, 202, 200, 200, 202],
        ),
    ] {
        platform.sign_in_as(OURS).await;
        let access = format!("/accesscontrol/itwins/{DEFAULT_ITWIN_ID}");
        let body = json!({ "displayName": "Synchronizer", "permissions": permissions });
        let role = v2(&platform, "POST", &format!("{access}/roles"), body).await;
        let role = role.ok(201)["role"]["id"].clone();
        let email = format!("{}@apps.imsoidc.bentley.com", OUTSIDE.0);
        let body = json!({ "members": [{ "email": email, "roleIds": [role] }] });
        v2(&platform, "POST", &format!("{access}/members/users"), body)
            .await
            .ok(201);
        platform.sign_in_as(OUTSIDE).await;
        assert_eq!(
            platform.get("/itwins").await.ok(200)["iTwins"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
        let got = [
            platform.get(&format!("{d}/files")).await.status,
            platform
                .post(&format!("{f}/updateContent"), Value::Null)
                .await
                .status,
            platform.get(&i).await.status,
            platform
                .get(&format!("{CONNECTIONS}?{of_imodel}"))
                .await
                .status,
            platform.post(&format!("{c}/run"), Value::Null).await.status,
        ];
        assert_eq!(got, expected, "{permissions}");
    }
    let listed = platform
        .ask_with(
            "GET",
            &format!("/itwins/{DEFAULT_ITWIN_ID}"),
            Value::Null,
            &[("accept", V1)],
        )
        .await;
    listed.ok(200);
}
