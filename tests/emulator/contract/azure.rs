//! The blob storage: what only Azure's documentation says.

use std::sync::Arc;

use md5::Digest as _;

use super::{platform, root};
use crate::support::{Platform, Seen, base64, encoded, sha256};

pub async fn blobs(seen: &Arc<Seen>) {
    let platform = platform(seen).await;
    let root = root(&platform).await;
    let (file, url) = platform.create(&root, "a.dgn").await;
    let whole = ("x-ms-blob-type", "BlockBlob");
    let put = async |headers: &[(&str, &str)]| platform.blob("PUT", &url, b"hello", headers).await;
    put(&[]).await.is(400, "MissingRequiredHeader");
    put(&[("x-ms-blob-type", "PageBlob")])
        .await
        .is(400, "InvalidHeaderValue");
    put(&[whole, ("authorization", "Bearer x")])
        .await
        .is(400, "InvalidAuthenticationInfo");
    put(&[whole, ("content-md5", "nonsense")])
        .await
        .is(400, "InvalidMd5");
    put(&[whole, ("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")])
        .await
        .is(400, "Md5Mismatch");
    put(&[whole, ("x-ms-content-crc64", "AAAAAAAAAAA=")])
        .await
        .is(400, "Crc64Mismatch");
    put(&[whole, ("x-ms-content-crc64", "AA==")])
        .await
        .is(400, "InvalidHeaderValue");
    let both = [
        whole,
        ("x-ms-content-crc64", "AAAAAAAAAAA="),
        ("content-md5", "AAAAAAAAAAAAAAAAAAAAAA=="),
    ];
    put(&both).await.is(400, "BothCrc64AndMd5HeaderPresent");
    put(&[whole, ("x-ms-blob-content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")])
        .await
        .is(400, "Md5Mismatch");
    let chunked = platform.http.put(&url).header(whole.0, whole.1);
    let pieces = futures_util::stream::iter([Ok::<_, std::io::Error>("hello")]);
    let refused = chunked
        .body(reqwest::Body::wrap_stream(pieces))
        .send()
        .await
        .unwrap();
    assert_eq!(
        refused.headers()["x-ms-error-code"],
        "MissingContentLengthHeader"
    );
    seen.cells
        .lock()
        .unwrap()
        .insert(("PUT /emulated/{id}".to_owned(), refused.status().as_u16()));
    platform
        .blob("GET", &url, b"", &[])
        .await
        .is(404, "BlobNotFound");
    platform
        .blob("GET", &format!("{url}&comp=blocklist"), b"", &[])
        .await
        .is(404, "BlobNotFound");

    let md5 = base64(&md5::Md5::digest(b"hello"));
    // The check value of this CRC for the text "hello", least significant byte first.
    let mut crc64 = crc64fast_nvme::Digest::new();
    crc64.write(b"hello");
    let crc64 = base64(&crc64.sum64().to_le_bytes());
    let stored = put(&[whole, ("content-md5", &md5)]).await;
    assert_eq!(
        (stored.status, stored.header("content-md5")),
        (201, md5.as_str())
    );
    assert_eq!(stored.header("x-ms-version"), "2019-07-07");
    assert_eq!(
        put(&[whole, ("x-ms-content-crc64", &crc64)])
            .await
            .header("x-ms-content-crc64"),
        crc64
    );
    let head = platform.blob("HEAD", &url, b"", &[]).await;
    assert_eq!((head.status, head.header("content-length")), (200, "5"));
    let part = platform
        .blob("GET", &url, b"", &[("range", "bytes=1-3")])
        .await;
    assert_eq!(
        (part.status, part.body.as_slice()),
        (206, b"ell".as_slice())
    );
    assert_eq!(part.header("content-range"), "bytes 1-3/5");
    platform
        .blob("GET", &url, b"", &[("range", "bytes=9-")])
        .await
        .is(416, "InvalidRange");
    for other in [
        url.replace("sp=rw", "sp=rwd"),
        url.replace("sig=", "sig=A"),
        url.replacen("emulated/", "emulated/0", 1),
        url.replace("/emulated/", "/elsewhere/"),
        url.split('?').next().unwrap().to_owned(),
    ] {
        let refused = platform.blob("PUT", &other, b"x", &[whole]).await;
        assert_eq!(refused.header("content-type"), "application/xml");
        assert!(
            String::from_utf8_lossy(&refused.body).contains("<Code>AuthenticationFailed</Code>")
        );
        assert_eq!(refused.status, 403);
    }
    seen.cells
        .lock()
        .unwrap()
        .retain(|(operation, _)| !operation.starts_with("PUT /{id}"));
    platform
        .blob("PUT", &format!("{url}&comp=lease"), b"x", &[whole])
        .await
        .is(400, "InvalidQueryParameterValue");

    blocks(&platform, &url).await;
    platform.complete(&file).await.ok(200);
    assert_eq!(
        platform.emulator.state().files[&file]
            .completed
            .as_ref()
            .unwrap()
            .sha256,
        sha256(b"b2b1")
    );

    platform.switch("sas-permissions", "w");
    let (_, url) = platform.create(&root, "b.dgn").await;
    platform
        .blob("GET", &format!("{url}&comp=blocklist"), b"", &[])
        .await
        .is(403, "AuthorizationPermissionMismatch");
    platform.put(&url, b"written").await;
    platform.switches_off();
    limits(&url, seen).await;
}

pub async fn blocks(platform: &Platform, url: &str) {
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
    let commit = async |inner: &str| {
        let xml =
            format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{inner}</BlockList>");
        put(&list, xml.as_bytes(), &[]).await
    };
    let latest = |id: &str| format!("<Latest>{}</Latest>", base64(id.as_bytes()));
    put(&format!("{url}&comp=block&blockid=%21"), b"x", &[])
        .await
        .is(400, "InvalidQueryParameterValue");
    put(&block(&"x".repeat(65)), b"x", &[])
        .await
        .is(400, "InvalidQueryParameterValue");
    for (id, content) in [
        ("001", "b1"),
        ("002", "old"),
        ("003", "never listed"),
        ("002", "b2"),
    ] {
        let stored = put(&block(id), content.as_bytes(), &[]).await;
        assert_eq!(stored.status, 201);
        assert!(!stored.header("x-ms-content-crc64").is_empty());
    }
    put(&block("0004"), b"x", &[])
        .await
        .is(400, "InvalidBlobOrBlock");
    put(
        &block("004"),
        b"x",
        &[("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")],
    )
    .await
    .is(400, "Md5Mismatch");
    let output = platform
        .blob("GET", &format!("{list}&blocklisttype=all"), b"", &[])
        .await;
    let output = String::from_utf8(output.body).unwrap();
    assert!(
        output.contains("<CommittedBlocks></CommittedBlocks>"),
        "{output}"
    );
    assert!(
        output.contains(&format!("<Name>{}</Name><Size>2</Size>", base64(b"002"))),
        "{output}"
    );
    platform
        .blob("GET", &format!("{list}&blocklisttype=some"), b"", &[])
        .await
        .is(400, "InvalidQueryParameterValue");
    put(&list, b"no list", &[])
        .await
        .is(400, "InvalidXmlDocument");
    commit(&latest("004")).await.is(400, "InvalidBlockList");
    let committed = format!("<Committed>{}</Committed>", base64(b"001"));
    commit(&committed).await.is(400, "InvalidBlockList");
    put(
        &list,
        b"<BlockList/>",
        &[("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")],
    )
    .await
    .is(400, "Md5Mismatch");
    let both = latest("002") + &latest("001");
    commit(&both).await.ok(201);
    // Once more, as after an answer that was lost; only with `Latest`.
    commit(&both).await.ok(201);
    commit(&format!("<Uncommitted>{}</Uncommitted>", base64(b"001")))
        .await
        .is(400, "InvalidBlockList");
    let output = platform.blob("GET", &list, b"", &[]).await;
    let output = String::from_utf8(output.body).unwrap();
    assert_eq!(output.matches("<Block>").count(), 2, "{output}");
    let output = platform
        .blob(
            "GET",
            &format!("{list}&blocklisttype=uncommitted"),
            b"",
            &[],
        )
        .await;
    assert!(
        !String::from_utf8(output.body).unwrap().contains("<Block>"),
        "the third block was dropped"
    );
    assert_eq!(platform.blob("GET", url, b"", &[]).await.body, b"b2b1");
}

/// Bodies that are too large are refused by their announced length; none of their bytes have to be sent.
pub async fn limits(url: &str, seen: &Arc<Seen>) {
    const MIB: u64 = 1024 * 1024;
    let block = format!("{url}&comp=block&blockid=MDAx");
    for (target, version, length, status) in [
        (url, "2019-07-07", 256 * MIB + 1, 413),
        (url, "2021-12-02", 5000 * MIB + 1, 413),
        (&block, "2019-07-07", 100 * MIB + 1, 413),
        (&block, "2021-12-02", 4000 * MIB + 1, 413),
    ] {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let target = url::Url::parse(target).unwrap();
        let address = format!("{}:{}", target.host_str().unwrap(), target.port().unwrap());
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let head = format!(
            "PUT {}?{} HTTP/1.1\r\nHost: localhost\r\nx-ms-blob-type: BlockBlob\r\nx-ms-version: {version}\r\n\
             content-length: {length}\r\nexpect: 100-continue\r\n\r\n",
            target.path(),
            target.query().unwrap()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let read = stream.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{version} {length}: {answer}"
        );
        assert!(answer.contains("RequestBodyTooLarge"), "{answer}");
    }
    for operation in ["PUT /emulated/{id}", "PUT /emulated/{id}?comp=block"] {
        seen.cells
            .lock()
            .unwrap()
            .insert((operation.to_owned(), 413));
    }
}
