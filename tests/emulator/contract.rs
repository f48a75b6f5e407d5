//! Every cell of the table in the emulator's documentation: each operation is brought to answer with each of its
//! statuses, and each switch is set to each of its words. At the end the table and what was seen must be the same.

mod access;
mod azure;
pub mod connections;
pub mod identity;
mod management;
pub mod runs;
mod storage;
mod versions;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use itwin_syncd::emulator::{DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID, Emulator, Switches};
use serde_json::{Value, json};

use super::support::{Platform, Seen, V1};

const FORBIDDEN_ITWIN: &str = "22222222-2222-4333-8444-555555555555";

const FORBIDDEN_IMODEL: &str = "bbbbbbbb-bbbb-4ccc-8ddd-eeeeeeeeeeee";

const NOBODY: &str = "33333333-2222-4333-8444-555555555555";

#[tokio::test]
async fn every_status_of_the_table_is_returned_and_every_switch_is_set_to_every_value() {
    let seen = Arc::new(Seen::default());
    identity::identity(&seen).await;
    what_all_operations_have_in_common(&seen).await;
    management::itwins(&seen).await;
    management::imodels(&seen).await;
    storage::folders(&seen).await;
    storage::files(&seen).await;
    storage::uploads(&seen).await;
    storage::recycle_bin(&seen).await;
    azure::blobs(&seen).await;
    connections::connections(&seen).await;
    connections::source_files(&seen).await;
    runs::runs(&seen).await;
    versions::versions(&seen).await;
    access::members_and_roles(&seen).await;
    access::rehearsal(&seen).await;

    let cells = seen.cells.lock().unwrap().clone();
    let (table, switches) = table();
    let missing: Vec<_> = table.difference(&cells).collect();
    assert!(
        missing.is_empty(),
        "in the table, but not seen: {missing:#?}"
    );
    let extra: Vec<_> = cells.difference(&table).collect();
    assert!(extra.is_empty(), "seen, but not in the table: {extra:#?}");
    let set = seen.switches.lock().unwrap().clone();
    for (name, words) in Switches::ALL {
        assert!(switches.contains(*name), "{name} is not in the table");
        for word in words.iter().skip(1) {
            assert!(
                set.contains(&format!("{name}={word}")),
                "{name}={word} was never set"
            );
        }
    }
}

/// The table in the module's documentation: operations with their statuses, and the switches it names.
fn table() -> (BTreeSet<(String, u16)>, BTreeSet<String>) {
    let source = include_str!("../../src/emulator.rs");
    let (mut cells, mut switches) = (BTreeSet::new(), BTreeSet::new());
    for row in source
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `"))
    {
        let columns: Vec<&str> = row.split('|').map(str::trim).collect();
        let operation = columns[0].trim_end_matches('`');
        for status in columns[1].split_whitespace() {
            cells.insert((operation.to_owned(), status.parse().unwrap()));
        }
        switches.extend(columns[2].split(", ").map(str::to_owned));
    }
    (cells, switches)
}

#[test]
fn the_table_in_the_documentation_equals_that_of_the_module() {
    let rows = |text: &str, before: &str| {
        let rows = text.lines().filter_map(|line| line.strip_prefix(before));
        rows.filter(|row| row.starts_with("| `") && row.matches('|').count() == 4)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let module = rows(include_str!("../../src/emulator.rs"), "//! ");
    let documentation = include_str!("../../docs/emulator.md");
    let operations = documentation.split("## Operations").nth(1).unwrap();
    assert!(module.len() > 100);
    assert_eq!(rows(operations, ""), module);
}

async fn platform(seen: &Arc<Seen>) -> Platform {
    let builder = Emulator::builder()
        .itwin(DEFAULT_ITWIN_ID, "Ours")
        .itwin(FORBIDDEN_ITWIN, "Theirs")
        .imodel(DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID, "Ours")
        .imodel(FORBIDDEN_IMODEL, FORBIDDEN_ITWIN, "Theirs")
        .forbidden_imodel(FORBIDDEN_IMODEL)
        .forbidden_storage(FORBIDDEN_ITWIN)
        .run_duration(Duration::from_millis(200))
        .max_connections(4)
        .max_source_files(5)
        .page_size(3);
    Platform::seeing(builder, Arc::clone(seen)).await
}

async fn root(platform: &Platform) -> String {
    let top = platform
        .get(&format!("/storage/?iTwinId={DEFAULT_ITWIN_ID}"))
        .await
        .ok(200);
    let href = top["_links"]["folder"]["href"].as_str().unwrap();
    href.rsplit('/').next().unwrap().to_owned()
}

async fn what_all_operations_have_in_common(seen: &Arc<Seen>) {
    let mut platform = platform(seen).await;
    let top = format!("/storage?iTwinId={DEFAULT_ITWIN_ID}");
    let bare = |headers: &'static [(&'static str, &'static str)]| {
        let url = format!("{}{top}", platform.emulator.api_url());
        let mut request = platform.http.get(url).header("accept", V1);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        async move {
            let answer = request.send().await.unwrap();
            let status = answer.status().as_u16();
            let body: Value = answer.json().await.unwrap();
            (
                status,
                body["error"]["code"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
            )
        }
    };
    let is = |code: &str| (401, code.to_owned());
    assert_eq!(bare(&[]).await, is("HeaderNotFound"));
    assert_eq!(
        bare(&[("authorization", "Basic abc")]).await,
        is("InvalidAuthorizationScheme")
    );
    assert_eq!(
        bare(&[("authorization", "Bearer stale")]).await,
        is("Unauthorized")
    );

    let output = platform
        .ask_with(
            "GET",
            &top,
            Value::Null,
            &[("accept", V1), ("x-correlation-id", "abc-1")],
        )
        .await;
    assert_eq!(output.header("x-correlation-id"), "abc-1");
    assert_eq!(
        output.header("content-type"),
        "application/json; charset=utf-8"
    );
    output.ok(200);
    assert_eq!(
        platform.get(&top).await.header("x-correlation-id").len(),
        36
    );

    let accepting = async |accept: &str| {
        platform
            .ask_with("GET", &top, Value::Null, &[("accept", accept)])
            .await
    };
    for accept in [
        "application/vnd.bentley.itwin-platform.v9+json",
        "text/html",
    ] {
        accepting(accept).await.is(404, "ResourceNotFound");
    }
    accepting("*/*").await.ok(200);
    accepting("application/json").await.ok(200);
    accepting("application/json, */*").await.ok(200);
    platform.switch("accept-missing", "not-found");
    accepting("application/json")
        .await
        .is(404, "ResourceNotFound");
    accepting("*/*").await.is(404, "ResourceNotFound");
    platform.switch("media-type", "vendor");
    assert_eq!(
        platform.get(&top).await.header("content-type"),
        format!("{V1}; charset=utf-8")
    );
    platform.switches_off();

    for path in [
        "/nothing",
        "//storage",
        "/storage//folders",
        "/storage/..%2f",
        "/",
        "/_emulator",
    ] {
        platform.get(path).await.is(404, "ResourceNotFound");
    }
    platform
        .ask("PUT", &top, json!({}))
        .await
        .is(404, "ResourceNotFound");
    platform
        .get(&top.to_uppercase().replace("ITWINID", "iTwinId"))
        .await
        .ok(200);
    let long = "x".repeat(2 * 1024 * 1024);
    platform
        .post("/itwins", Value::String(long))
        .await
        .is(413, "RequestTooLarge");

    let limited =
        Platform::seeing(Emulator::builder().requests_per_minute(3), Arc::clone(seen)).await;
    for _ in 0..2 {
        limited.get(&top).await.ok(200);
    }
    let refused = limited.get(&top).await;
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait));
    assert!(!refused.header("itwinplatform-ratelimited-tier").is_empty());
    refused.is(429, "RateLimitExceeded");

    let short = Emulator::builder().token_lifetime(Duration::from_millis(150));
    platform = Platform::seeing(short, Arc::clone(seen)).await;
    platform.get(&top).await.ok(200);
    tokio::time::sleep(Duration::from_millis(200)).await;
    platform.get(&top).await.is(401, "Unauthorized");
    platform.sign_in().await;
    platform.get(&top).await.ok(200);
}
