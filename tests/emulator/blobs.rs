//! One suite of uploads for both blob storages: ours, and Microsoft's own emulator in its place. Where they answer
//! alike, ours is right; what only Azure's documentation says is in `contract`.

use itwin_syncd::emulator::{Builder, DEFAULT_ITWIN_ID, Effect, Emulator, Fault};
use md5::Digest as _;
use serde_json::{Value, json};

use super::common::Azurite;
use super::support::{Platform, base64, encoded, links, sha256};

const WHOLE: (&str, &str) = ("x-ms-blob-type", "BlockBlob");

#[tokio::test]
async fn uploads_to_the_emulated_blob_storage() {
    uploads(Emulator::builder()).await;
}

#[tokio::test]
#[ignore = "needs Azurite: run tests/all"]
async fn uploads_to_azurite() {
    let azurite = Azurite::start().await;
    uploads(Emulator::builder().azurite(&azurite.url)).await;
}

#[tokio::test]
async fn an_unreachable_azurite_is_reported() {
    let error = Emulator::builder()
        .azurite("http://127.0.0.1:1")
        .start()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("http://127.0.0.1:1"), "{error}");
}

async fn uploads(builder: Builder) {
    let platform = Platform::start(builder).await;
    let top = platform
        .get(&format!("/storage?iTwinId={DEFAULT_ITWIN_ID}"))
        .await
        .ok(200);
    let root = top["_links"]["folder"]["href"]
        .as_str()
        .unwrap()
        .rsplit('/')
        .next()
        .unwrap()
        .to_owned();

    let (file, url) = platform.create(&root, "whole.dgn").await;
    platform
        .complete(&file)
        .await
        .is(422, "InvalidStorageRequest");
    whole(&platform, &url).await;
    assert_eq!(platform.complete(&file).await.ok(200)["file"]["size"], 5);
    holds(&platform, &file, b"hello").await;

    // New content, at an address of its own, counts only when it is completed.
    let update = format!("/storage/files/{file}/updateContent");
    let (_, url) = links(&platform.post(&update, Value::Null).await.ok(202));
    blocks(&platform, &url).await;
    holds(&platform, &file, b"hello").await;
    assert_eq!(platform.complete(&file).await.ok(200)["file"]["size"], 4);
    holds(&platform, &file, b"b2b1").await;

    // Nothing new has arrived at an address that is given again.
    platform.switch("update-blob", "same");
    platform.post(&update, Value::Null).await.ok(202);
    platform
        .complete(&file)
        .await
        .is(422, "InvalidStorageRequest");
    platform.switches_off();

    let effect = Effect::ExpireAddress { ms: 0 };
    platform
        .emulator
        .fault(Fault::on("POST *").effect(effect).times(1));
    let (_, url) = links(&platform.post(&update, Value::Null).await.ok(202));
    let late = platform.blob("PUT", &url, b"late", &[WHOLE]).await;
    assert_eq!(late.status, 403);
    let (_, url) = links(&platform.post(&update, Value::Null).await.ok(202));
    let forged = platform
        .blob("PUT", &url.replace("sp=rw", "sp=rwd"), b"x", &[WHOLE])
        .await;
    assert_eq!(forged.status, 403);
    let empty = platform.upload(&root, "empty.dgn", b"").await;
    assert_eq!(
        platform
            .get(&format!("/storage/files/{empty}"))
            .await
            .ok(200)["file"]["size"],
        0
    );

    let download = platform
        .get(&format!("/storage/files/{file}/download"))
        .await;
    let refused = platform
        .blob("PUT", download.header("location"), b"x", &[WHOLE])
        .await;
    refused.is(403, "AuthorizationPermissionMismatch");
    let body = json!({ "iModelId": itwin_syncd::emulator::DEFAULT_IMODEL_ID, "sourceFiles": [{ "storageFileId": file, "connectorType": "MSTN" }] });
    platform
        .post("/synchronization/imodels/storageConnections", body)
        .await
        .ok(201);
}

async fn holds(platform: &Platform, file: &str, content: &[u8]) {
    let download = platform
        .get(&format!("/storage/files/{file}/download"))
        .await;
    let read = platform
        .blob("GET", download.header("location"), b"", &[])
        .await;
    assert_eq!((read.status, read.body.as_slice()), (200, content));
    let completed = platform.emulator.state().files[file]
        .completed
        .clone()
        .unwrap();
    assert_eq!(
        (completed.size, completed.sha256),
        (content.len() as u64, sha256(content))
    );
}

async fn whole(platform: &Platform, url: &str) {
    let put = async |headers: &[(&str, &str)]| platform.blob("PUT", url, b"hello", headers).await;
    assert_eq!(put(&[]).await.status, 400, "without x-ms-blob-type");
    // Azurite has a code of its own for this.
    let damaged = put(&[WHOLE, ("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")]).await;
    assert_eq!(damaged.status, 400);
    platform
        .blob("GET", url, b"", &[])
        .await
        .is(404, "BlobNotFound");
    platform
        .blob("GET", &format!("{url}&comp=blocklist"), b"", &[])
        .await
        .is(404, "BlobNotFound");
    let md5 = base64(&md5::Md5::digest(b"hello"));
    let stored = put(&[WHOLE, ("content-md5", &md5)]).await;
    assert_eq!(
        (stored.status, stored.header("content-md5")),
        (201, md5.as_str())
    );
    let head = platform.blob("HEAD", url, b"", &[]).await;
    assert_eq!((head.status, head.header("content-length")), (200, "5"));
    let part = platform
        .blob("GET", url, b"", &[("range", "bytes=1-3")])
        .await;
    assert_eq!(
        (part.status, part.body.as_slice()),
        (206, b"ell".as_slice())
    );
}

async fn blocks(platform: &Platform, url: &str) {
    let block = |id: &str| {
        format!(
            "{url}&comp=block&blockid={}",
            encoded(&base64(id.as_bytes()))
        )
    };
    let list = format!("{url}&comp=blocklist");
    let put = async |url: &str, body: &[u8], headers: &[(&str, &str)]| {
        platform.blob("PUT", url, body, headers).await
    };
    let commit = async |inner: String| {
        let xml =
            format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{inner}</BlockList>");
        put(
            &list,
            xml.as_bytes(),
            &[("content-type", "application/xml")],
        )
        .await
    };
    let named = |kind: &str, id: &str| format!("<{kind}>{}</{kind}>", base64(id.as_bytes()));
    let listed = async |kind: &str| {
        let output = platform
            .blob("GET", &format!("{list}&blocklisttype={kind}"), b"", &[])
            .await;
        assert_eq!(output.status, 200);
        String::from_utf8(output.body).unwrap()
    };
    for (id, content) in [
        ("001", "b1"),
        ("002", "old"),
        ("003", "never listed"),
        ("002", "b2"),
    ] {
        put(&block(id), content.as_bytes(), &[]).await.ok(201);
    }
    put(&block("0004"), b"x", &[])
        .await
        .is(400, "InvalidBlobOrBlock");
    let wrong = ("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==");
    assert_eq!(put(&block("004"), b"x", &[wrong]).await.status, 400);
    let waiting = listed("uncommitted").await;
    assert_eq!(waiting.matches("<Block>").count(), 3, "{waiting}");
    assert!(
        waiting.contains(&format!("<Name>{}</Name><Size>2</Size>", base64(b"002"))),
        "{waiting}"
    );
    commit(named("Latest", "004"))
        .await
        .is(400, "InvalidBlockList");
    commit(named("Committed", "001"))
        .await
        .is(400, "InvalidBlockList");
    let both = named("Latest", "002") + &named("Latest", "001");
    commit(both.clone()).await.ok(201);
    commit(both).await.ok(201);
    commit(named("Uncommitted", "001"))
        .await
        .is(400, "InvalidBlockList");
    assert_eq!(listed("committed").await.matches("<Block>").count(), 2);
    assert_eq!(listed("uncommitted").await.matches("<Block>").count(), 0);
    assert_eq!(platform.blob("GET", url, b"", &[]).await.body, b"b2b1");
}
