//! The platform's client against servers that answer anything: no status, header or body makes it panic, each refusal
//! has words, and none of the words is a secret.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use futures_util::StreamExt as _;
use itwin_syncd::connector_type::ConnectorType;
use itwin_syncd::itwin::{Checksum, Client, Error, Network, NewConnection, Settings, Speed};
use itwin_syncd::secret::Secret;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::SECRET;

/// What a well-behaved platform could say to one request or another.
fn good_answers() -> Vec<Value> {
    let link = |href: &str| json!({ "href": href });
    let file = json!({ "id": "f", "type": "file", "displayName": "a.ifc", "size": 3, "createdDateTime": "2026-01-01T00:00:00.1234567Z" });
    let run = json!({ "id": "r", "state": "Completed", "result": "PartialSuccess", "startDateTime": "2026-01-01T00:00:00Z",
        "jobs": [{ "tasks": [{ "storageFileId": "f", "result": "Error", "error": { "bridgeExitCode": 4_294_967_295_u64 } }] }] });
    let connection = json!({ "id": "c", "displayName": "itwin-syncd", "authenticationType": "Service", "iModelId": "m" });
    vec![
        json!({ "access_token": "lion-token", "expires_in": 3600, "token_type": "Bearer" }),
        json!({ "iModel": { "id": "m", "iTwinId": "i", "state": "initialized" } }),
        json!({ "items": [file], "_links": { "folder": link("http://127.0.0.1/storage/folders/root"), "next": link("http://x/?$skip=1") } }),
        json!({ "files": [file, file], "_links": {} }),
        json!({ "folders": [{ "id": "d", "displayName": "a" }], "_links": { "next": null } }),
        json!({ "folder": { "id": "d", "displayName": "a" } }),
        json!({ "file": file }),
        json!({ "_links": { "uploadUrl": link("http://127.0.0.1:1/x?sig=secret"), "completeUrl": link("http://127.0.0.1/storage/files/f/complete") } }),
        json!({ "connections": [connection], "connection": connection, "_links": {} }),
        json!({ "sourceFiles": [{ "id": "s", "storageFileId": "f", "connectorType": "IFC" }], "sourceFile": { "id": "s" } }),
        json!({ "runs": [run], "run": run }),
        json!({ "error": { "code": "FileNotFound", "message": "no", "details": [{ "code": "InvalidValue", "target": null }] } }),
    ]
}

/// One place of a value becomes something else.
fn spoil(value: &mut Value, random: &mut Rng) {
    let other = [
        Value::Null,
        json!(-1),
        json!(1e300),
        json!(""),
        json!([]),
        json!({}),
        json!(true),
        json!("\u{0}\u{202e}"),
        json!("x".repeat(5000)),
    ];
    match value {
        Value::Object(fields) if !fields.is_empty() && random.u8(0..5) > 0 => {
            let at = random.usize(0..fields.len());
            if let Some(field) = fields.values_mut().nth(at) {
                spoil(field, random);
            }
        }
        Value::Array(items) if !items.is_empty() && random.u8(0..5) > 0 => {
            let at = random.usize(0..items.len());
            spoil(&mut items[at], random);
        }
        value => value.clone_from(random.choice(&other).unwrap()),
    }
}

fn body(random: &mut Rng) -> Vec<u8> {
    let answers = good_answers();
    let mut value = random.choice(&answers).unwrap().clone();
    match random.u8(0..8) {
        0 => {
            let mut bytes = vec![0; random.usize(0..300)];
            random.fill(&mut bytes);
            bytes
        }
        1 => b"<html><body>502 Bad Gateway</body></html>".to_vec(),
        2 => Vec::new(),
        3 => {
            let mut text = value.to_string().into_bytes();
            text.truncate(random.usize(0..text.len()));
            text
        }
        4 => format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)).into_bytes(),
        5 => value.to_string().into_bytes(),
        _ => {
            for _ in 0..random.u8(1..4) {
                spoil(&mut value, random);
            }
            value.to_string().into_bytes()
        }
    }
}

/// Answers one request with anything.
async fn answer(mut socket: TcpStream, mut random: Rng) {
    let mut request = vec![0; 16 * 1024];
    let Ok(1..) = socket.read(&mut request).await else {
        return;
    };
    let request = String::from_utf8_lossy(&request).to_lowercase();
    let token = request.contains("/connect/token") && random.u8(0..4) > 0;
    // Without a token now and then nothing but the token would be tried.
    let (status, body) = if token {
        (200, good_answers()[0].to_string().into_bytes())
    } else {
        let statuses = [
            200, 201, 202, 204, 302, 303, 400, 401, 403, 404, 409, 413, 422, 429, 500, 503, 599,
            999,
        ];
        (*random.choice(&statuses).unwrap(), body(&mut random))
    };
    let headers = [
        "",
        "Retry-After: 1\r\n",
        "Retry-After: -7\r\n",
        "Retry-After: 99999999999999999999\r\n",
        "Retry-After: Sun, 01 Mar 9999 12:00:20 GMT\r\n",
        "Location: ::::\r\n",
        "Location: /a/b/runs/\r\n",
        "Location: http://127.0.0.1/synchronization/imodels/storageConnections/c/runs/r\r\n",
        "Date: never\r\n",
        "Date: Fri, 31 Dec 9999 23:59:59 GMT\r\n",
        "Content-Encoding: gzip\r\n",
        "x-correlation-id: \u{1b}[31mred\r\n",
    ];
    let length = match random.u8(0..10) {
        0 => body.len() + 100,
        1 => body.len() / 2,
        _ => body.len(),
    };
    let head = format!(
        "HTTP/1.1 {status} Any\r\n{}{}Content-Length: {length}\r\nConnection: close\r\n\r\n",
        random.choice(&headers).unwrap(),
        random.choice(&headers).unwrap()
    );
    drop(socket.write_all(head.as_bytes()).await);
    drop(socket.write_all(&body).await);
    drop(socket.shutdown().await);
}

fn judge<T>(result: Result<T, Error>) -> bool {
    let Err(error) = result else { return true };
    let output = format!("{error} {error:?} {:?} {:?}", error.hint(), error.class());
    assert!(output.len() < 5000, "too many words: {output}");
    assert!(!error.to_string().chars().any(char::is_control), "{output}");
    for secret in [SECRET, "sig=", "lion-token"] {
        assert!(!output.contains(secret), "{output}");
    }
    false
}

/// Makes every call once, and counts how many were answered well.
async fn call_everything(client: &Client) -> usize {
    let (file, connector) = ("f".into(), ConnectorType::new("IFC"));
    let new = NewConnection {
        imodel_id: "m",
        display_name: "itwin-syncd",
        source_files: &[(&file, &connector)],
    };
    let mut good = vec![
        judge(client.check_token().await),
        judge(client.imodel("m").await),
        judge(client.root_folder("i").await),
        judge(client.folders("d").await),
        judge(client.files("d").await),
        judge(client.file(&"f".into()).await),
        judge(client.create_folder("d", "a", None).await),
        judge(client.connections(&"m".into()).await),
        judge(client.create_connection(&new).await),
        judge(client.source_files("c").await),
        judge(client.add_source_file("c", &file, &connector).await),
        judge(client.run("c").await),
        judge(client.runs("c").await),
        judge(client.run_state("c", "r").await),
        judge(client.complete(&"f".into()).await),
        judge(client.download(&"f".into(), |_| {}).await),
    ];
    for links in [
        client.create_file("d", "a.ifc", "x").await,
        client.update_content(&"f".into()).await,
    ] {
        let url = links.as_ref().ok().map(|links| links.upload_url.clone());
        good.push(judge(links));
        if let Some(url) = url {
            let block = bytes::Bytes::from_static(b"abc");
            good.push(judge(
                client
                    .put_block(&url, "aWQ=", block, Checksum::Crc64(0), Speed::Limited)
                    .await,
            ));
            good.push(judge(
                client.put_block_list(&url, &["aWQ=".to_owned()]).await,
            ));
        }
    }
    good.into_iter().filter(|good| *good).count()
}

fn client_of(base: &str) -> Client {
    let base: url::Url = base.parse().unwrap();
    Client::new(Settings {
        api_url: base.clone(),
        issuer_url: base,
        client_id: "service-test".to_owned(),
        credentials: itwin_syncd::itwin::Credentials::Service(Secret::new(SECRET).into()),
        scope: "itwin-platform".to_owned(),
        limits: itwin_syncd::itwin::RequestLimits::per_minute(1_000_000),
        rate: Vec::new(),
        network: Network {
            proxy: None,
            no_proxy: Vec::new(),
            extra_certificates: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(10),
            total_timeout: Duration::from_secs(10),
        },
    })
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_response_makes_the_client_panic_or_reveal_a_secret() {
    let seed = std::env::var("ANSWERS_SEED")
        .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    let output = format!("ANSWERS_SEED={seed}");
    let random = Arc::new(std::sync::Mutex::new(Rng::with_seed(seed)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let fork = random.lock().unwrap().fork();
            tokio::spawn(answer(socket, fork));
        }
    });
    let clients = (0..200).map(|_| {
        let client = client_of(&base);
        // A host that wants a long pause is not asked again; the next client asks.
        async move {
            tokio::time::timeout(Duration::from_secs(120), call_everything(&client)).await
        }
    });
    let good: Vec<_> = futures_util::stream::iter(clients)
        .buffer_unordered(100)
        .collect()
        .await;
    let good: usize = good
        .into_iter()
        .map(|good| good.expect("each call ends"))
        .sum();
    assert!(good > 100, "{output}: only {good} calls were answered well");
}

/// A platform that answers each request with what `respond` makes of its text, or with a token. Returns its address.
async fn serve(respond: impl Fn(&str) -> Option<Value> + Send + 'static) -> String {
    let token = good_answers().swap_remove(0);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = vec![0; 16 * 1024];
            let read = socket.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..read]).to_lowercase();
            let body = respond(&request).unwrap_or_else(|| token.clone());
            let body = body.to_string();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            socket.write_all((head + &body).as_bytes()).await.unwrap();
        }
    });
    base
}

#[tokio::test]
async fn the_runs_of_years_are_listed_although_each_had_hundreds_of_tasks() {
    const RUNS: usize = 3_000;
    let listed = |number: usize, minimal: bool| {
        let mut run =
            json!({ "id": format!("run-{number}"), "state": "Completed", "result": "Success" });
        if !minimal {
            // A page of these is larger than the client accepts.
            let task = json!({ "storageFileId": "file", "state": "Completed", "result": "Error",
                "error": { "description": "x".repeat(1_000) } });
            run["jobs"] = json!([{ "tasks": vec![task; 250] }]);
        }
        run
    };
    let base = serve(move |request| {
        let (_, skip) = request.split_once("skip=")?;
        let digits: String = skip.chars().take_while(char::is_ascii_digit).collect();
        let from: usize = digits.parse().unwrap();
        let minimal = request.contains("return=minimal");
        let page = (from..RUNS.min(from + 100)).map(|number| listed(number, minimal));
        Some(json!({ "runs": page.collect::<Vec<_>>(), "_links": { "next": { "href": "https://next.example" } } }))
    })
    .await;
    let runs = client_of(&base).runs("c").await.unwrap();
    assert_eq!(runs.len(), RUNS);
}

/// A run has a task for each file, and a task may have a long message.
#[tokio::test]
async fn a_run_with_thousands_of_tasks_is_read_to_the_last() {
    let tasks: Vec<_> = (0..5_000)
        .map(|number| {
            json!({ "storageFileId": format!("file-{number}"), "state": "Completed", "result": "Error",
                "error": { "description": "x".repeat(1_000) } })
        })
        .collect();
    let run = json!({ "run": { "id": "r", "state": "Completed", "jobs": [{ "tasks": tasks }] } });
    let base = serve(move |request| request.contains("/runs/").then(|| run.clone())).await;
    let read = client_of(&base).run_state("c", "r").await.unwrap();
    assert_eq!(read.jobs[0].tasks.len(), 5_000);
}
