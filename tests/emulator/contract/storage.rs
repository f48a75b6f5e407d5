//! Folders, files, uploads, the recycle bin.

use std::sync::Arc;
use std::time::Duration;

use itwin_syncd::emulator::{DEFAULT_ITWIN_ID, Emulator, Switches};
use serde_json::{Value, json};

use super::{FORBIDDEN_ITWIN, NOBODY, platform, root};
use crate::support::{Platform, Seen, links, sha256};

pub async fn folders(seen: &Arc<Seen>) {
    let platform = platform(seen).await;
    let root = root(&platform).await;
    assert_eq!(root.len(), 43);
    let top = |itwin: &str| format!("/storage?iTwinId={itwin}");
    platform
        .get("/storage")
        .await
        .is(422, "InvalidStorageRequest");
    platform
        .get(&top("nonsense"))
        .await
        .is(422, "InvalidStorageRequest");
    platform.get(&top(NOBODY)).await.is(404, "iTwinNotFound");
    platform.switch("itwin-unknown", "422");
    platform
        .get(&top(NOBODY))
        .await
        .is(422, "InvalidStorageRequest");
    platform.switch("itwin-unknown", "403");
    platform
        .get(&top(NOBODY))
        .await
        .is(403, "InsufficientPermissions");
    platform.switches_off();
    platform
        .get(&top(FORBIDDEN_ITWIN))
        .await
        .is(403, "InsufficientPermissions");
    platform.switch("storage-forbidden", "404");
    platform
        .get(&top(FORBIDDEN_ITWIN))
        .await
        .is(404, "iTwinNotFound");
    platform.switch("storage-forbidden", "401");
    platform
        .get(&top(FORBIDDEN_ITWIN))
        .await
        .is(401, "Unauthorized");
    platform.switches_off();

    let folders = |parent: &str| format!("/storage/folders/{parent}/folders");
    let made = platform
        .post(
            &folders(&root),
            json!({ "displayName": "Bridge", "description": "all of it" }),
        )
        .await
        .ok(201);
    let folder = made["folder"].clone();
    let id = folder["id"].as_str().unwrap().to_owned();
    assert_eq!(
        (&folder["type"], &folder["parentFolderId"]),
        (&json!("folder"), &json!(root))
    );
    assert_eq!(
        (&folder["path"], &folder["description"]),
        (&json!("Bridge"), &json!("all of it"))
    );
    let inner = platform
        .post(&folders(&id), json!({ "displayName": "Deck" }))
        .await
        .ok(201);
    assert_eq!(inner["folder"]["path"], "Bridge/Deck");
    platform
        .post(&folders("missing"), json!({ "displayName": "X" }))
        .await
        .is(404, "FolderNotFound");
    for wrong in [
        "", "a/b", "a\\b", "a:b", "a*", "a?", "\"", "<", ">", "|", "\u{7}", "..",
    ] {
        let refused = platform
            .post(&folders(&root), json!({ "displayName": wrong }))
            .await;
        let output = refused.is(422, "InvalidCreateFolderRequest");
        assert_eq!(output["error"]["details"][0]["target"], "displayName");
    }
    let long = json!({ "displayName": "x".repeat(256) });
    platform
        .post(&folders(&root), long)
        .await
        .is(422, "InvalidCreateFolderRequest");
    let twin = json!({ "displayName": "Bridge" });
    let second = platform.post(&folders(&root), twin.clone()).await.ok(201);
    platform.switch("duplicate-folder", "conflict");
    platform
        .post(&folders(&root), twin.clone())
        .await
        .is(409, "Conflict");
    platform
        .post(&folders(&root), json!({ "displayName": "BRIDGE" }))
        .await
        .ok(201);
    platform.switch("duplicate-folder", "refused");
    platform
        .post(&folders(&root), twin)
        .await
        .is(422, "InvalidCreateFolderRequest");
    platform.switches_off();

    assert_eq!(
        platform
            .get(&format!("/storage/folders/{id}"))
            .await
            .ok(200)["folder"],
        folder
    );
    platform
        .get("/storage/folders/missing")
        .await
        .is(404, "FolderNotFound");
    let listed = platform
        .get(&format!("/storage/folders/{root}/folders"))
        .await
        .ok(200);
    assert_eq!(listed["folders"].as_array().unwrap().len(), 3);
    assert!(
        listed["_links"]["next"]["href"].is_string(),
        "storage names a next page even behind the last"
    );
    let paths = ["list", "files", "folders", "search?name=deck"];
    for path in paths {
        platform
            .get(&format!("/storage/folders/missing/{path}"))
            .await
            .is(404, "FolderNotFound");
        let and = if path.contains('?') { '&' } else { '?' };
        platform
            .get(&format!("/storage/folders/{root}/{path}{and}$top=x"))
            .await
            .is(422, "InvalidStorageRequest");
        platform
            .get(&format!("/storage/folders/{root}/{path}{and}$skip=99"))
            .await
            .ok(200);
    }
    platform
        .get(&format!("/storage/folders/{root}/search"))
        .await
        .is(422, "InvalidStorageRequest");
    let found = platform
        .get(&format!("/storage/folders/{id}/search?name=de*k"))
        .await
        .ok(200);
    assert_eq!(found["items"][0]["displayName"], "Deck");
    let of_size = |size: u32| format!("/storage/folders/{root}/folders?$top={size}");
    platform.get(&of_size(1000)).await.ok(200);
    platform
        .get(&of_size(1001))
        .await
        .is(422, "InvalidStorageRequest");
    platform.switch("oversized-page", "clamped");
    platform.get(&of_size(1001)).await.ok(200);
    platform.switches_off();

    let patch = async |id: &str, body: Value| {
        platform
            .ask("PATCH", &format!("/storage/folders/{id}"), body)
            .await
    };
    let renamed = patch(&id, json!({ "displayName": "Dam" })).await.ok(200);
    assert_eq!(renamed["folder"]["path"], "Dam");
    let inner_id = inner["folder"]["id"].as_str().unwrap();
    assert_eq!(
        platform
            .get(&format!("/storage/folders/{inner_id}"))
            .await
            .ok(200)["folder"]["path"],
        "Dam/Deck"
    );
    patch(&id, json!({ "displayName": "a/b" }))
        .await
        .is(422, "InvalidCreateFolderRequest");
    patch("missing", json!({ "displayName": "X" }))
        .await
        .is(404, "FolderNotFound");

    moves(&platform, &root, &id, inner_id).await;
    locks(&platform, &root, &id).await;
    platform
        .delete(&format!("/storage/folders/{root}"))
        .await
        .is(422, "InvalidStorageRequest");
    platform
        .delete(&format!("/storage/folders/{id}"))
        .await
        .ok(204);
    platform
        .delete(&format!("/storage/folders/{id}"))
        .await
        .is(404, "FolderNotFound");
    platform
        .get(&format!("/storage/folders/{inner_id}"))
        .await
        .is(404, "FolderNotFound");
    drop(second);
}

/// Files and folders go to another folder.
async fn moves(platform: &Platform, root: &str, folder: &str, inner: &str) {
    let to = |target: &str| json!({ "parentFolderId": target });
    let file = platform.upload(root, "m.dgn", b"x").await;
    let path = format!("/storage/files/{file}/move");
    let moved = platform.post(&path, to(inner)).await.ok(200)["file"].clone();
    assert_eq!(
        (&moved["parentFolderId"], &moved["path"], &moved["id"]),
        (&json!(inner), &json!("Dam/Deck/m.dgn"), &json!(file))
    );
    platform
        .post(&path, to("missing"))
        .await
        .is(404, "FolderNotFound");
    platform
        .post("/storage/files/missing/move", to(root))
        .await
        .is(404, "FileNotFound");
    platform
        .post(&path, json!({}))
        .await
        .is(422, "InvalidStorageRequest");
    let path = format!("/storage/folders/{inner}/move");
    let moved = platform.post(&path, to(root)).await.ok(200)["folder"].clone();
    assert_eq!(
        (&moved["parentFolderId"], &moved["path"]),
        (&json!(root), &json!("Deck"))
    );
    let shown = platform.get(&format!("/storage/files/{file}")).await;
    assert_eq!(shown.ok(200)["file"]["path"], "Deck/m.dgn");
    platform
        .post("/storage/folders/missing/move", to(root))
        .await
        .is(404, "FolderNotFound");
    platform.post(&path, to(folder)).await.ok(200);
    for (moved, target) in [(folder, inner), (folder, folder), (root, folder)] {
        platform
            .post(&format!("/storage/folders/{moved}/move"), to(target))
            .await
            .is(422, "InvalidStorageRequest");
    }
    let twin = platform.upload(root, "m.dgn", b"y").await;
    let path = format!("/storage/files/{twin}/move");
    for (word, status, code) in [
        ("409", 409, "Conflict"),
        ("422", 422, "InvalidStorageRequest"),
        ("twin", 200, ""),
    ] {
        platform.switch("move-name-taken", word);
        platform.post(&path, to(inner)).await.is(status, code);
    }
    let folders = format!("/storage/folders/{root}/folders");
    let deck = platform
        .post(&folders, json!({ "displayName": "Deck" }))
        .await
        .ok(201);
    let path = format!(
        "/storage/folders/{}/move",
        deck["folder"]["id"].as_str().unwrap()
    );
    platform.switch("move-name-taken", "409");
    platform.post(&path, to(folder)).await.is(409, "Conflict");
    platform.switches_off();
}

/// Files of a folder are locked and unlocked by their ids.
async fn locks(platform: &Platform, root: &str, folder: &str) {
    let first = platform.upload(folder, "l1.dgn", b"x").await;
    let second = platform.upload(folder, "l2.dgn", b"x").await;
    let elsewhere = platform.upload(root, "l3.dgn", b"x").await;
    let (lock, unlock) = (
        format!("/storage/folders/{folder}/lock"),
        format!("/storage/folders/{folder}/unlock"),
    );
    let of = |ids: &[&str]| json!({ "fileIds": ids });
    let locked = platform.post(&lock, of(&[&first, &second])).await.ok(200)["files"].clone();
    assert_eq!(
        (&locked[0]["isFileLocked"], &locked[1]["isFileLocked"]),
        (&json!(true), &json!(true))
    );
    let update = format!("/storage/files/{first}/updateContent");
    platform
        .post(&update, Value::Null)
        .await
        .is(409, "FileLocked");
    let free = platform.post(&unlock, of(&[&first])).await.ok(200)["files"].clone();
    assert_eq!(free[0]["isFileLocked"], false);
    platform.post(&update, Value::Null).await.ok(202);
    // One that is not locked, one of another folder, none at all.
    platform
        .post(&unlock, of(&[&first]))
        .await
        .is(404, "FileNotFound");
    platform
        .post(&lock, of(&[&first, &elsewhere]))
        .await
        .is(404, "FileNotFound");
    for path in [&lock, &unlock] {
        platform
            .post(path, json!({}))
            .await
            .is(422, "InvalidStorageRequest");
    }
    assert!(!platform.emulator.state().files[&first].locked);
}

#[tokio::test]
async fn written_content_is_visible_at_once_or_after_completion() {
    for (word, size, version) in [("fresh", 3, 1), ("same", 8, 2)] {
        let platform =
            Platform::start(Emulator::builder().run_duration(Duration::from_millis(50))).await;
        let root = root(&platform).await;
        platform.switch("update-blob", word);
        let file = platform.upload(&root, "a.ifc", b"old").await;
        let update = format!("/storage/files/{file}/updateContent");
        let (_, url) = links(&platform.post(&update, Value::Null).await.ok(202));
        platform.put(&url, b"new, not").await;
        let path = format!("/storage/files/{file}");
        let shown = platform.get(&path).await.ok(200)["file"].clone();
        assert_eq!(shown["size"], size, "{word}");
        let mapped = super::connections::mapped(&file, "IFC");
        let id = super::connections::connected(&platform, &[mapped]).await;
        let run = format!("{}/{id}/run", super::connections::CONNECTIONS);
        let started = platform.post(&run, Value::Null).await;
        super::runs::ended(&platform, started.header("location")).await;
        let state = platform.emulator.state();
        let covered = &state.runs.values().next().unwrap().covered[0];
        let content: &[u8] = if word == "same" { b"new, not" } else { b"old" };
        assert_eq!(
            (covered.version, &covered.sha256),
            (version, &sha256(content)),
            "{word}"
        );
        // Its completion makes no further version of it.
        platform.complete(&file).await.ok(200);
        let completed = platform.emulator.state().files[&file]
            .completed
            .clone()
            .unwrap();
        assert_eq!((completed.size, completed.version), (8, 2), "{word}");
    }
}

#[tokio::test]
async fn an_upload_address_is_encoded_like_azures_and_names_the_download() {
    let platform = Platform::start(Emulator::builder()).await;
    let root = root(&platform).await;
    let (file, url) = platform.create(&root, "a b+c.dgn").await;
    let query = url.split_once('?').unwrap().1;
    let names: Vec<&str> = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap().0)
        .collect();
    assert_eq!(names, ["sv", "se", "sr", "sp", "rscd", "sig"]);
    assert!(query.starts_with("sv=2019-07-07&se=20"), "{query}");
    assert!(
        query.contains("&rscd=attachment%3B%20filename%3D%22a%20b%2Bc.dgn%22&"),
        "{query}"
    );
    platform.put(&url, b"x").await;
    platform.complete(&file).await.ok(200);
    let download = platform
        .get(&format!("/storage/files/{file}/download"))
        .await;
    let content = platform
        .blob("GET", download.header("location"), b"", &[])
        .await;
    assert_eq!(
        content.header("content-disposition"),
        "attachment; filename=\"a b+c.dgn\""
    );
    let forged = url.replace("b%2Bc", "evil");
    platform
        .blob("PUT", &forged, b"x", &[("x-ms-blob-type", "BlockBlob")])
        .await
        .is(403, "AuthenticationFailed");
}

pub async fn files(seen: &Arc<Seen>) {
    let platform = platform(seen).await;
    let root = root(&platform).await;
    let files = format!("/storage/folders/{root}/files");
    let named = |name: &str| json!({ "displayName": name });
    platform
        .post("/storage/folders/missing/files", named("a.dgn"))
        .await
        .is(404, "FolderNotFound");
    platform
        .post(&files, json!({}))
        .await
        .is(422, "InvalidCreateFileRequest");
    platform
        .post(&files, json!({ "displayName": 5 }))
        .await
        .is(422, "InvalidCreateFileRequest");
    platform
        .post(&files, named("virus.exe"))
        .await
        .is(422, "InvalidCreateFileRequest");
    platform
        .post(&files, named(&"é".repeat(256)))
        .await
        .is(422, "InvalidCreateFileRequest");
    platform.switch("name-error", "observed");
    let output = platform
        .post(&files, named("./a/b.dgn"))
        .await
        .is(422, "InvalidStorageRequest");
    assert!(output["error"]["details"][0]["target"].is_null());
    platform.switches_off();

    let file = platform.upload(&root, "a.dgn", b"one").await;
    let second = platform.upload(&root, "a.dgn", b"two").await;
    assert_ne!(file, second);
    platform.switch("duplicate-file", "renamed");
    let (third, _) = platform.create(&root, "a.dgn").await;
    assert_eq!(
        platform
            .get(&format!("/storage/files/{third}"))
            .await
            .ok(200)["file"]["displayName"],
        "a (1).dgn"
    );
    platform.switch("duplicate-file", "conflict");
    platform
        .post(&files, named("a.dgn"))
        .await
        .is(409, "Conflict");
    platform.switch("duplicate-file", "refused");
    platform
        .post(&files, named("a.dgn"))
        .await
        .is(422, "InvalidCreateFileRequest");
    let mut both = Switches::default();
    both.set("duplicate-file", "conflict").unwrap();
    platform.emulator.set_switches(both);
    let (other_case, _) = links(&platform.post(&files, named("A.DGN")).await.ok(202));
    both.set("name-case", "insensitive").unwrap();
    platform.emulator.set_switches(both);
    platform
        .post(&files, named("A.Dgn"))
        .await
        .is(409, "Conflict");
    seen.switches
        .lock()
        .unwrap()
        .insert("name-case=insensitive".to_owned());
    platform.switches_off();

    let shown = platform
        .get(&format!("/storage/files/{file}"))
        .await
        .ok(200)["file"]
        .clone();
    assert_eq!(
        (&shown["type"], &shown["size"]),
        (&json!("file"), &json!(3))
    );
    assert_eq!(
        (&shown["description"], &shown["path"]),
        (&json!("marked"), &json!("a.dgn"))
    );
    assert_eq!(
        (&shown["parentFolderId"], &shown["isFileLocked"]),
        (&json!(root), &json!(false))
    );
    assert_eq!(
        shown["createdDateTime"].as_str().unwrap().len(),
        "2024-10-17T13:44:55.5370000Z".len()
    );
    platform
        .get("/storage/files/missing")
        .await
        .is(404, "FileNotFound");

    let listed = async |path: &str| {
        let mut found = Vec::new();
        for page in 0.. {
            let answer = platform
                .get(&format!("{path}?%24skip={}", page * 3))
                .await
                .ok(200);
            let items = answer["files"]
                .as_array()
                .or(answer["items"].as_array())
                .unwrap()
                .clone();
            assert!(answer["_links"]["next"].is_object());
            if items.is_empty() {
                return found;
            }
            found.extend(items);
        }
        found
    };
    assert_eq!(listed(&files).await.len(), 4);
    assert_eq!(
        listed(&format!("/storage/folders/{root}/list")).await.len(),
        4
    );
    platform.switch("incomplete-files", "unlisted");
    assert_eq!(listed(&files).await.len(), 2);
    platform
        .get(&format!("/storage/files/{other_case}"))
        .await
        .ok(200);
    platform.switch("incomplete-files", "hidden");
    assert_eq!(listed(&files).await.len(), 2);
    platform
        .get(&format!("/storage/files/{other_case}"))
        .await
        .is(404, "FileNotFound");
    platform.switch("listed-description", "absent");
    assert!(listed(&files).await[0]["description"].is_null());
    platform.switches_off();
    assert_eq!(listed(&files).await[0]["description"], "marked");

    let patch = async |id: &str, body: Value| {
        platform
            .ask("PATCH", &format!("/storage/files/{id}"), body)
            .await
    };
    let changed = patch(&file, json!({ "displayName": "b", "description": "new" }))
        .await
        .ok(200);
    assert_eq!(
        (
            &changed["file"]["displayName"],
            &changed["file"]["description"]
        ),
        (&json!("b"), &json!("new"))
    );
    patch(&file, json!({ "displayName": "" }))
        .await
        .is(422, "InvalidCreateFileRequest");
    patch("missing", json!({ "displayName": "b" }))
        .await
        .is(404, "FileNotFound");

    let download = platform
        .get(&format!("/storage/files/{file}/download"))
        .await;
    assert_eq!(download.status, 302);
    let content = platform
        .blob("GET", download.header("location"), b"", &[])
        .await;
    assert_eq!(content.body, b"one");
    let read_only = platform
        .blob(
            "PUT",
            download.header("location"),
            b"x",
            &[("x-ms-blob-type", "BlockBlob")],
        )
        .await;
    read_only.is(403, "AuthorizationPermissionMismatch");
    platform
        .get(&format!("/storage/files/{third}/download"))
        .await
        .is(404, "FileNotFound");
    platform
        .delete(&format!("/storage/files/{second}"))
        .await
        .ok(204);
    platform
        .get(&format!("/storage/files/{second}"))
        .await
        .is(404, "FileNotFound");
    platform
        .delete(&format!("/storage/files/{second}"))
        .await
        .is(404, "FileNotFound");
}

pub async fn uploads(seen: &Arc<Seen>) {
    let platform = platform(seen).await;
    let root = root(&platform).await;
    let update = |file: &str| format!("/storage/files/{file}/updateContent");
    platform.complete("missing").await.is(404, "FileNotFound");
    platform
        .post(&update("missing"), Value::Null)
        .await
        .is(404, "FileNotFound");

    let (file, url) = platform.create(&root, "a.dgn").await;
    assert!(url.starts_with(platform.emulator.blob_url()));
    platform
        .complete(&file)
        .await
        .is(422, "InvalidStorageRequest");
    platform
        .post(&format!("/storage/files/{file}/complete"), json!({}))
        .await
        .is(422, "InvalidStorageRequest");
    platform.switch("update-incomplete", "conflict");
    platform
        .post(&update(&file), Value::Null)
        .await
        .is(409, "Conflict");
    platform.switch("update-incomplete", "not-found");
    platform
        .post(&update(&file), Value::Null)
        .await
        .is(404, "FileNotFound");
    platform.switches_off();
    let (same, url) = links(&platform.post(&update(&file), Value::Null).await.ok(202));
    assert_eq!(same, file);
    platform.put(&url, b"first").await;
    let completed = platform.complete(&file).await.ok(200);
    assert_eq!(
        (&completed["file"]["size"], &completed["file"]["id"]),
        (&json!(5), &json!(file))
    );
    platform.complete(&file).await.ok(200);
    platform.switch("complete-again", "conflict");
    platform.complete(&file).await.is(409, "Conflict");
    platform.switch("complete-again", "refused");
    platform
        .complete(&file)
        .await
        .is(422, "InvalidStorageRequest");
    platform.switches_off();

    // New content counts when it is completed, not before.
    let (_, url) = links(&platform.post(&update(&file), Value::Null).await.ok(202));
    platform.put(&url, b"second").await;
    let of = |file: &str| {
        platform.emulator.state().files[file]
            .completed
            .clone()
            .unwrap()
    };
    assert_eq!((of(&file).sha256, of(&file).version), (sha256(b"first"), 1));
    platform.complete(&file).await.ok(200);
    assert_eq!(
        (of(&file).sha256, of(&file).version),
        (sha256(b"second"), 2)
    );
    platform.switch("update-blob", "same");
    let path = |url: &str| url.split('?').next().unwrap().to_owned();
    let (_, again) = links(&platform.post(&update(&file), Value::Null).await.ok(202));
    assert_eq!(path(&again), path(&url));
    platform
        .complete(&file)
        .await
        .is(422, "InvalidStorageRequest");
    platform.put(&again, b"third!").await;
    platform.complete(&file).await.ok(200);
    assert_eq!(
        (of(&file).sha256, of(&file).version),
        (sha256(b"third!"), 3)
    );
    platform.switches_off();

    platform.switch("complete-without-content", "taken");
    let (bare, _) = platform.create(&root, "bare.dgn").await;
    assert_eq!(platform.complete(&bare).await.ok(200)["file"]["size"], 0);
    platform.switches_off();
    let empty = platform.upload(&root, "empty.dgn", b"").await;
    assert_eq!(of(&empty).size, 0);
    platform.switch("complete-empty", "refused");
    let (empty, url) = platform.create(&root, "empty.dgn").await;
    platform.put(&url, b"").await;
    platform
        .complete(&empty)
        .await
        .is(422, "InvalidStorageRequest");
    platform.switches_off();

    let lock = format!("{}/_emulator/lock?file={file}", platform.emulator.api_url());
    assert_eq!(
        platform.http.post(&lock).send().await.unwrap().status(),
        204
    );
    assert_eq!(
        platform
            .get(&format!("/storage/files/{file}"))
            .await
            .ok(200)["file"]["isFileLocked"],
        true
    );
    platform
        .post(&update(&file), Value::Null)
        .await
        .is(409, "FileLocked");
    platform.switch("locked-file", "forbidden");
    platform
        .post(&update(&file), Value::Null)
        .await
        .is(403, "InsufficientPermissions");
    platform.switch("locked-file", "taken");
    platform.post(&update(&file), Value::Null).await.ok(202);
    platform.switches_off();
    assert_eq!(
        platform
            .http
            .post(format!("{lock}&locked=false"))
            .send()
            .await
            .unwrap()
            .status(),
        204
    );
    platform.post(&update(&file), Value::Null).await.ok(202);

    let short = Emulator::builder().sas_lifetime(Duration::from_millis(200));
    let platform = Platform::seeing(short, Arc::clone(seen)).await;
    let (file, url) = platform.create(&root, "late.dgn").await;
    platform.put(&url, b"in time").await;
    tokio::time::sleep(Duration::from_millis(250)).await;
    platform
        .blob("PUT", &url, b"late", &[("x-ms-blob-type", "BlockBlob")])
        .await
        .is(403, "AuthenticationFailed");
    platform.switch("complete-expired", "refused");
    platform
        .complete(&file)
        .await
        .is(422, "InvalidStorageRequest");
    platform.switches_off();
    platform.complete(&file).await.ok(200);
}

pub async fn recycle_bin(seen: &Arc<Seen>) {
    let platform = platform(seen).await;
    let root = root(&platform).await;
    let bin = format!("/storage/recyclebin?iTwinId={DEFAULT_ITWIN_ID}");
    let file = platform.upload(&root, "a.dgn", b"one").await;
    let folder = platform
        .post(
            &format!("/storage/folders/{root}/folders"),
            json!({ "displayName": "F" }),
        )
        .await
        .ok(201);
    let folder = folder["folder"]["id"].as_str().unwrap().to_owned();
    let inner = platform.upload(&folder, "b.dgn", b"two").await;
    assert_eq!(platform.get(&bin).await.ok(200)["items"], json!([]));
    platform
        .get("/storage/recyclebin")
        .await
        .is(422, "InvalidStorageRequest");
    platform
        .get(&format!("/storage/recyclebin?iTwinId={NOBODY}"))
        .await
        .is(404, "iTwinNotFound");
    platform
        .get(&format!("/storage/recyclebin?iTwinId={FORBIDDEN_ITWIN}"))
        .await
        .is(403, "InsufficientPermissions");
    let restore = |kind: &str, id: &str| format!("/storage/recyclebin/{kind}/{id}/restore");
    let purge = |kind: &str, id: &str| format!("/storage/recyclebin/{kind}/{id}");

    platform
        .delete(&format!("/storage/files/{file}"))
        .await
        .ok(204);
    platform
        .delete(&format!("/storage/folders/{folder}"))
        .await
        .ok(204);
    platform
        .get(&format!("/storage/files/{inner}"))
        .await
        .is(404, "FileNotFound");
    assert_eq!(
        platform.get(&bin).await.ok(200)["items"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    platform.switch("recycled-name", "conflict");
    platform
        .post(
            &format!("/storage/folders/{root}/files"),
            json!({ "displayName": "a.dgn" }),
        )
        .await
        .is(409, "Conflict");
    platform.switches_off();
    let modified = |platform: &Platform| platform.emulator.state().files[&file].modified_at;
    let before = modified(&platform);
    platform
        .post(&restore("files", &file), Value::Null)
        .await
        .ok(204);
    assert_eq!(modified(&platform), before);
    platform.switch("restored-time", "changed");
    platform
        .delete(&format!("/storage/files/{file}"))
        .await
        .ok(204);
    platform
        .post(&restore("files", &file), Value::Null)
        .await
        .ok(204);
    assert!(modified(&platform) > before);
    platform.switches_off();
    platform
        .post(&restore("folders", &folder), Value::Null)
        .await
        .ok(204);
    platform
        .get(&format!("/storage/files/{file}"))
        .await
        .ok(200);
    platform
        .get(&format!("/storage/files/{inner}"))
        .await
        .ok(200);
    platform
        .post(&restore("files", &file), Value::Null)
        .await
        .is(404, "FileNotFound");
    platform
        .post(&restore("folders", &folder), Value::Null)
        .await
        .is(404, "FolderNotFound");
    platform
        .delete(&purge("files", &file))
        .await
        .is(404, "FileNotFound");
    platform
        .delete(&purge("folders", &folder))
        .await
        .is(404, "FolderNotFound");
    platform
        .delete(&format!("/storage/files/{file}"))
        .await
        .ok(204);
    platform.delete(&purge("files", &file)).await.ok(204);
    platform
        .delete(&format!("/storage/folders/{folder}"))
        .await
        .ok(204);
    platform.delete(&purge("folders", &folder)).await.ok(204);
    platform
        .post(&restore("files", &file), Value::Null)
        .await
        .is(404, "FileNotFound");
    assert_eq!(platform.emulator.state().files.len(), 0);
}
