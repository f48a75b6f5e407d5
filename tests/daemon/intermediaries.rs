//! What stands between the daemon and the platform, or pretends to be it: answers that are not the platform's, that
//! have no end, that send secrets back, and connections that are closed in silence.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use itwin_syncd::emulator::{Fault, TaskFault};
use serde_json::json;

use crate::intermediary::{Answer, Asked, Middle, bytes, endless, text};
use crate::support::{Daemon, SECRET, Site, eventually, platform, write};

const HTML: (&str, &str) = ("content-type", "text/html");
const JSON: (&str, &str) = ("content-type", "application/json");

async fn site() -> (Site, std::path::PathBuf, Middle) {
    let (mut site, folder) = Site::with_folder(platform()).await;
    let middle = Middle::before(&mut site, |_| None).await;
    (site, folder, middle)
}

/// Answers the first `count` requests that `which` picks.
fn first(
    count: usize,
    which: impl Fn(&Asked) -> bool + Send + Sync + 'static,
    answer: impl Fn() -> Answer + Send + Sync + 'static,
) -> impl Fn(&Asked) -> Option<Answer> + Send + Sync + 'static {
    let seen = AtomicUsize::new(0);
    move |asked| (which(asked) && seen.fetch_add(1, Ordering::Relaxed) < count).then(&answer)
}

// --- 10 and 12: whose answer it is, and what it says ---

#[tokio::test]
async fn an_error_of_a_proxy_fails_no_file_and_is_reported_as_the_proxys() {
    let page = "<html><head><title>Web Filter</title></head><body>blocked</body></html>";
    for status in [400, 403, 413, 422] {
        for (method, part) in [
            ("POST", "/connect/token"),
            ("POST", "/files"),
            ("PUT", "/emulated/"),
            ("POST", "/complete"),
            ("POST", "/storageconnections"),
        ] {
            let (site, folder, middle) = site().await;
            let which = move |asked: &Asked| asked.is(method, part);
            middle.set(move |asked| which(asked).then(|| text(status, &[HTML], page)));
            write(&folder.join("house.ifc"), "house");
            let daemon = site.start();
            let output = format!("{status} ");
            eventually(
                || {
                    let log = daemon.log();
                    log.lines().any(|line| {
                        line.contains("response from a proxy or firewall instead of 127.0.0.1:")
                            && line.contains(&output)
                            && line.contains("Web Filter")
                    })
                },
                || format!("{method} {part} {status}: {}", daemon.log()),
            )
            .await;
            middle.set(|_| None);
            site.synchronized(1, &daemon).await;
            daemon.stop().await;
        }
    }
}

#[tokio::test]
async fn check_reports_responses_that_do_not_come_from_the_platform() {
    let (site, _folder, middle) = site().await;
    for (status, headers, shown) in [
        (403, vec![HTML], "403 Forbidden, web page \"Web Filter\""),
        (
            503,
            vec![HTML],
            "503 Service Unavailable, web page \"Web Filter\"",
        ),
        (200, vec![HTML], "200 OK, web page \"Web Filter\""),
        (
            302,
            vec![("location", "https://login.example:8443/portal?back=x")],
            "302 Found, redirect to https://login.example:8443/portal",
        ),
    ] {
        for part in ["/connect/token", "/imodels/"] {
            let headers = headers.clone();
            let page = "<html><title>Web Filter</title></html>";
            middle.set(move |asked| {
                asked
                    .path
                    .contains(part)
                    .then(|| text(status, &headers, page))
            });
            let check = site.run(&["check"]).await;
            assert_eq!(check.code, Some(1), "{check:?}");
            let host = middle.api.trim_start_matches("http://");
            let output = format!("response from a proxy or firewall instead of {host}: {shown}");
            assert!(check.out.contains(&output), "no {output}: {}", check.out);
        }
    }
}

#[tokio::test]
async fn a_success_that_does_not_come_from_storage_does_not_count() {
    let (site, folder, middle) = site().await;
    let which = |asked: &Asked| asked.to_blobs;
    middle.set(first(2, which, || {
        text(200, &[HTML], "<html>signed in</html>")
    }));
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    assert_eq!(site.stored("house.ifc").completed.unwrap().size, 5);
    // Not one that storage had to refuse.
    assert_eq!(site.requests("POST", "/complete").len(), 1);
    daemon.stop().await;
}

#[tokio::test]
async fn a_compressed_error_body_is_shown_as_text() {
    use std::io::Write as _;
    let (site, _folder, middle) = site().await;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(br#"{"error":{"code":"InsufficientPermissions","message":"not a member"}}"#)
        .unwrap();
    let body = gzip.finish().unwrap();
    middle.set(move |asked| {
        asked
            .is("GET", "/imodels/")
            .then(|| bytes(403, &[JSON, ("content-encoding", "gzip")], body.clone()))
    });
    let check = site.run(&["check"]).await;
    let output = "403 InsufficientPermissions: not a member";
    assert!(check.out.contains(output), "{}", check.out);
}

// --- 11: the token ---

#[tokio::test]
async fn any_token_response_that_contains_a_token_is_accepted() {
    for life in [
        "18446744073709551615",
        "1e300",
        "-1",
        "\"3600\"",
        "3599.5",
        "null",
        "\"soon\"",
    ] {
        let (site, folder, middle) = site().await;
        let url = format!("{}/connect/token", site.emulator.issuer_url());
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", "service-test"),
            ("client_secret", SECRET),
            ("scope", "itwin-platform"),
        ];
        let granted: serde_json::Value = reqwest::Client::new()
            .post(url)
            .form(&form)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        let token = granted["access_token"].as_str().unwrap().to_owned();
        let body = format!("\u{feff}{{\"access_token\":{token:?},\"expires_in\":{life}}}");
        middle.set(move |asked| {
            asked
                .is("POST", "/connect/token")
                .then(|| text(200, &[JSON], &body))
        });
        write(&folder.join("house.ifc"), "house");
        let daemon = site.start();
        site.synchronized(1, &daemon).await;
        let (status, log) = daemon.stop().await;
        assert!(status.success(), "{life}: {log}");
    }
    let (site, _folder, middle) = site().await;
    middle.set(|asked| {
        asked
            .is("POST", "/connect/token")
            .then(|| text(200, &[JSON], "{\"token\":1}"))
    });
    let check = site.run(&["check"]).await;
    assert!(
        check
            .out
            .contains("unexpected response (200): no access token"),
        "{}",
        check.out
    );
}

#[tokio::test]
async fn the_client_secret_is_sent_to_no_other_port_and_with_no_userinfo() {
    let (site, _folder, middle) = site().await;
    let host = middle.api.trim_start_matches("http://").to_owned();
    for endpoint in [
        "http://127.0.0.1:1/connect/token".to_owned(),
        format!("http://me:pw@{host}/connect/token"),
        format!("https://{host}/connect/token"),
    ] {
        let named = json!({ "token_endpoint": endpoint }).to_string();
        middle.set(move |asked| {
            asked
                .is("GET", "/.well-known/")
                .then(|| text(200, &[JSON], &named))
        });
        let check = site.run(&["check"]).await;
        assert_eq!(check.code, Some(1), "{check:?}");
        let output = "the token endpoint of the identity provider is on another host: \"http";
        assert!(check.out.contains(output), "{}", check.out);
        assert!(!check.out.contains("me:pw"), "{}", check.out);
    }
    assert!(site.requests("POST", "/connect/token").is_empty());
}

// --- 13: connections that are closed without a word ---

#[tokio::test]
async fn sockets_closed_silently_after_each_response_are_retried_on_a_fresh_one() {
    let (site, folder, middle) = site().await;
    middle.forget_connections();
    for number in 0..5 {
        write(&folder.join(format!("{number}.ifc")), &number.to_string());
    }
    let daemon = site.start();
    site.synchronized(5, &daemon).await;
    assert!(middle.forgotten() > 0, "the test should see it");
    assert!(middle.forgotten() < 60, "{}", middle.forgotten());
    daemon.stop().await;
    assert_eq!(site.emulator.state().files.len(), 5);
}

// --- 19: answers without an end ---

const MIB: u64 = 1024 * 1024;

/// Nothing that a host sends makes the daemon larger than this. It takes about 8 MiB of it without a host.
const MEMORY: u64 = 32 * MIB;

#[tokio::test]
async fn an_endless_response_is_cut_off_and_costs_little_memory() {
    let junk = "{\"error\":{\"message\":\"";
    for (method, part, status, begin) in [
        ("GET", "/.well-known/", 200, "{\"x\":\""),
        ("POST", "/connect/token", 200, "{\"access_token\":\""),
        ("POST", "/connect/token", 400, "{\"error\":\""),
        ("GET", "/imodels/", 200, "{\"x\":\""),
        ("GET", "/imodels/", 422, junk),
        ("GET", "/files", 200, "{\"files\":[{\"id\":\""),
        ("PUT", "/emulated/", 201, ""),
        ("PUT", "/emulated/", 400, "<Error><Message>"),
        ("POST", "/complete", 200, "{\"file\":{\"id\":\""),
        ("POST", "/run", 202, "{"),
        ("POST", "/run", 500, junk),
    ] {
        let (site, folder, middle) = site().await;
        let answered = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&answered);
        middle.set(move |asked| {
            let strikes = asked.is(method, part) && seen.load(Ordering::Relaxed) < 4;
            strikes.then(|| {
                seen.fetch_add(1, Ordering::Relaxed);
                endless(status, &[JSON, ("x-ms-request-id", "1")], begin, "junk")
            })
        });
        write(&folder.join("house.ifc"), "house");
        let daemon = site.start();
        eventually(
            || answered.load(Ordering::Relaxed) > 0,
            || format!("{method} {part}: {}", daemon.log()),
        )
        .await;
        // What storage itself refuses, by its header, is refused for good.
        if (method, status) != ("PUT", 400) {
            site.synchronized(1, &daemon).await;
        }
        let peak = daemon.peak_memory();
        assert!(peak < MEMORY, "{method} {part} {status}: {peak}");
        daemon.stop().await;
    }
}

#[tokio::test]
async fn an_endless_compressed_response_is_cut_off() {
    use std::io::Write as _;
    let (site, folder, middle) = site().await;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(b"{\"x\":\"").unwrap();
    for _ in 0..256 {
        gzip.write_all(&vec![b'a'; 1024 * 1024]).unwrap();
    }
    let bomb = gzip.finish().unwrap();
    assert!(bomb.len() < 512 * 1024);
    let answer = move || bytes(200, &[JSON, ("content-encoding", "gzip")], bomb.clone());
    middle.set(first(4, |asked| asked.is("GET", "/imodels/"), answer));
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    daemon.says("more than 1 MiB").await;
    site.synchronized(1, &daemon).await;
    let peak = daemon.peak_memory();
    assert!(peak < MEMORY, "{peak}");
    daemon.stop().await;
}

#[tokio::test]
async fn an_endless_list_is_cut_off_and_costs_little_memory() {
    let (site, folder, middle) = site().await;
    let pages = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&pages);
    // A megabyte a page.
    let items: Vec<_> = (0..100)
        .map(|item| {
            json!({ "id": format!("PAGE-{item}"), "displayName": "x".repeat(200), "description": "y".repeat(200), "more": "z".repeat(10_000) })
        })
        .collect();
    let template =
        json!({ "files": items, "_links": { "next": { "href": "http://x/" } } }).to_string();
    middle.set(move |asked| {
        asked.is("GET", "/files").then(|| {
            let page = seen.fetch_add(1, Ordering::Relaxed);
            text(200, &[JSON], &template.replace("PAGE", &page.to_string()))
        })
    });
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    daemon.says("endless list").await;
    let seen = pages.load(Ordering::Relaxed);
    // What arrives of a list has its own limit, far below what is kept of such pages.
    assert!(seen < 200, "{seen} pages");
    let peak = daemon.peak_memory();
    assert!(peak < MEMORY, "{peak}");
    daemon.stop().await;
}

#[tokio::test]
async fn an_endless_list_of_small_items_is_cut_off_and_costs_little_memory() {
    for (items_of_a_page, letters) in [(1_000, 150), (1_000, 1)] {
        let (site, folder, middle) = site().await;
        let pages = Arc::new(AtomicUsize::new(0));
        let text_of_item = "y".repeat(letters);
        let items: Vec<_> = (0..items_of_a_page)
            .map(|item| json!({ "id": format!("PAGE-{item}"), "displayName": text_of_item, "description": text_of_item }))
            .collect();
        let template =
            json!({ "files": items, "_links": { "next": { "href": "http://x/" } } }).to_string();
        middle.set(move |asked| {
            asked.is("GET", "/files").then(|| {
                let page = pages.fetch_add(1, Ordering::Relaxed);
                text(200, &[JSON], &template.replace("PAGE", &page.to_string()))
            })
        });
        write(&folder.join("house.ifc"), "house");
        let daemon = site.start();
        daemon.says("endless list").await;
        let peak = daemon.peak_memory();
        assert!(peak < MEMORY, "{items_of_a_page} items a page: {peak}");
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_page_of_countless_small_items_is_refused_and_costs_little_memory() {
    let (site, folder, middle) = site().await;
    let items: Vec<_> = (0..450_000)
        .map(|item| json!({ "id": item.to_string(), "displayName": "x" }))
        .collect();
    let page = json!({ "files": items }).to_string();
    let answer = move || text(200, &[JSON], &page);
    middle.set(first(4, |asked| asked.is("GET", "/files"), answer));
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    daemon.says("a page has more than 1000 items").await;
    site.synchronized(1, &daemon).await;
    let peak = daemon.peak_memory();
    assert!(peak < MEMORY, "{peak}");
    daemon.stop().await;
}

#[tokio::test]
async fn endlessly_nested_json_is_refused() {
    let (site, folder, middle) = site().await;
    let body = format!(
        "{{\"iModel\":{}{}}}",
        "[".repeat(400_000),
        "]".repeat(400_000)
    );
    let answer = move || text(200, &[JSON], &body);
    middle.set(first(4, |asked| asked.is("GET", "/imodels/"), answer));
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    daemon.says("nested deeper than 64 levels").await;
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
}

// --- 9: an upload that takes longer than its address lives ---

/// A site whose addresses live for `life`, where a limit of `kib` KiB/s holds.
async fn short_lived(
    life: Duration,
    kib: u64,
    switch: Option<(&str, &str)>,
) -> (Site, std::path::PathBuf) {
    let mut builder = platform().sas_lifetime(life);
    if let Some((name, word)) = switch {
        let mut switches = itwin_syncd::emulator::Switches::default();
        switches.set(name, word).unwrap();
        builder = builder.switches(switches);
    }
    let (mut site, folder) = Site::with_folder(builder).await;
    site.tables += &format!(
        "[upload]\nblock_size = \"64KiB\"\nrate = [{{ from = \"00:00\", to = \"00:00\", limit = \"{kib}KiB/s\" }}]\n"
    );
    (site, folder)
}

/// Longer than an address of six seconds lives, at 128 KiB/s.
fn large() -> Vec<u8> {
    (0..1_500_000_u32)
        .flat_map(u32::to_le_bytes)
        .take(1_500_000)
        .collect()
}

#[tokio::test]
async fn an_upload_that_outlives_its_url_continues_at_a_renewed_one() {
    let (mut site, folder) =
        short_lived(Duration::from_secs(6), 128, Some(("update-blob", "same"))).await;
    site.top += "[log]\nlevel = \"debug\"\n";
    std::fs::write(folder.join("large.ifc"), large()).unwrap();
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    let stored = site.stored("large.ifc").completed.unwrap();
    assert_eq!(stored.sha256, crate::support::sha256(&large()));
    // Each block went once: nothing was sent anew.
    let blocks: u64 = site
        .requests("PUT", "")
        .iter()
        .filter(|request| request.query.contains("comp=block&"))
        .map(|request| request.bytes)
        .sum();
    assert!(blocks < 1_500_000 + 5 * 65_536, "{blocks} bytes were sent");
    let (_, log) = daemon.stop().await;
    assert!(!log.contains("without the bandwidth limit"), "{log}");
    // Storage did not have to refuse the old address first.
    assert!(
        log.contains("upload address renewed before its end"),
        "{log}"
    );
}

#[tokio::test]
async fn when_renewed_urls_name_another_blob_the_bandwidth_limit_is_lifted() {
    let (site, folder) =
        short_lived(Duration::from_secs(6), 128, Some(("update-blob", "fresh"))).await;
    std::fs::write(folder.join("large.ifc"), large()).unwrap();
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    let stored = site.stored("large.ifc").completed.unwrap();
    assert_eq!(stored.sha256, crate::support::sha256(&large()));
    daemon.says("sending without the bandwidth limit").await;
    let (_, log) = daemon.stop().await;
    assert!(!log.contains("upload failed"), "{log}");
}

#[tokio::test]
async fn a_file_too_large_for_the_lifetime_of_a_url_fails_with_the_reason() {
    // Too slow by the limit already, and by the network only.
    for kib in [128, 2048] {
        a_file_too_large_at(kib).await;
    }
}

async fn a_file_too_large_at(kib: u64) {
    let (site, folder) =
        short_lived(Duration::from_secs(3), kib, Some(("update-blob", "fresh"))).await;
    site.emulator.fault(Fault::on("PUT *").slow(20_000));
    std::fs::write(folder.join("large.ifc"), large()).unwrap();
    let daemon = site.start();
    daemon
        .says("and a new URL starts from zero; 500000 bytes/s are needed")
        .await;
    site.emulator.clear_faults();
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
}

// --- 23 and 24: secrets come back, and words are taken literally ---

/// What was sent so far that is secret.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Heard {
    fn listen(&self, asked: &Asked) {
        let mut heard = self.0.lock().unwrap();
        let mut note = |secret: &str| {
            if !heard.iter().any(|one| one == secret) {
                heard.push(secret.to_owned());
            }
        };
        if let Some(token) = asked.headers.get("authorization") {
            note(token.to_str().unwrap().trim_start_matches("Bearer "));
        }
        for part in asked.query.split('&').chain(asked.body.split('&')) {
            if let Some(value) = part
                .strip_prefix("sig=")
                .or(part.strip_prefix("client_secret="))
            {
                let decoded = percent_encoding::percent_decode_str(value)
                    .decode_utf8()
                    .unwrap();
                note(&decoded);
            }
        }
    }

    /// All of them, which a process that begins now does not know.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn secrets(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// All of them, in the encodings in which a host may send them back, and more.
    fn echo(&self, encoding: usize) -> String {
        let all = self.secrets();
        let encoded = all.iter().map(|secret| match encoding % 7 {
            0 => secret.clone(),
            1 => percent_encoding::utf8_percent_encode(secret, percent_encoding::NON_ALPHANUMERIC)
                .to_string(),
            2 => BASE64_STANDARD.encode(secret),
            3 => BASE64_STANDARD.encode(format!("service-test:{secret}")),
            4 => secret
                .chars()
                .map(|c| {
                    if c.is_ascii_alphanumeric() {
                        c.to_string()
                    } else {
                        format!("\\u{:04x}", u32::from(c))
                    }
                })
                .collect(),
            5 => secret
                .chars()
                .collect::<Vec<_>>()
                .chunks(10)
                .map(|part| part.iter().collect::<String>())
                .collect::<Vec<_>>()
                .join("\n "),
            _ => secret
                .chars()
                .take(secret.chars().count() * 2 / 3)
                .collect(),
        });
        let encoded = encoded.collect::<Vec<_>>().join(" and ");
        format!("you sent {encoded}\nREADY=1\nMAINPID=1\u{1b}[31m\u{202e}gpj.exe")
    }
}

/// Characters of a secret that may be seen nowhere in this order, whatever is between them.
const PART: usize = 10;

/// Every part of secrets that may be seen nowhere.
struct Parts {
    parts: HashSet<Vec<u8>>,
    /// Whether a part begins with these three bytes: most of a text is no secret, and is searched fast.
    beginnings: Vec<bool>,
}

impl Parts {
    fn of(secrets: &[String]) -> Self {
        let mut parts = HashSet::new();
        for secret in secrets {
            let mut forms = vec![
                secret.to_owned(),
                percent_encoding::utf8_percent_encode(secret, percent_encoding::NON_ALPHANUMERIC)
                    .to_string(),
            ];
            for before in 0..3 {
                let encoded = BASE64_STANDARD.encode(format!("{}{secret}", "x".repeat(before)));
                forms.push(encoded.chars().skip(4).take(encoded.len() - 8).collect());
            }
            for form in forms {
                let letters = letters(form.as_bytes());
                parts.extend(letters.windows(PART).map(ToOwned::to_owned));
            }
        }
        let mut beginnings = vec![false; 1 << 24];
        for part in &parts {
            beginnings[beginning(part)] = true;
        }
        Self { parts, beginnings }
    }

    /// The first part in a text.
    fn first_in(&self, text: &[u8]) -> Option<String> {
        let letters = letters(text);
        let found = letters
            .windows(PART)
            .find(|window| self.beginnings[beginning(window)] && self.parts.contains(*window));
        found.map(|part| String::from_utf8_lossy(part).into_owned())
    }
}

fn beginning(part: &[u8]) -> usize {
    usize::from(part[0]) << 16 | usize::from(part[1]) << 8 | usize::from(part[2])
}

fn letters(text: &[u8]) -> Vec<u8> {
    let mut letters = text.to_owned();
    letters.retain(u8::is_ascii_alphanumeric);
    letters
}

#[test]
fn parts_of_secrets_are_found_in_every_encoding() {
    let secret = "lion/tiger+bear0123";
    let parts = Parts::of(&[secret.to_owned()]);
    assert_eq!(parts.first_in(b"tiger, lion/bear: lion+tiger"), None);
    let encoded = BASE64_STANDARD.encode(format!("user:{secret}"));
    for shown in ["lion tigerbear", "on%2Ftiger%2Bbear", &encoded] {
        let found = parts.first_in(format!("it is {shown}.").as_bytes());
        assert!(found.is_some(), "{shown}");
    }
}

fn assert_clean(place: &str, shown: &str, secrets: &Parts) {
    if let Some(part) = secrets.first_in(shown.as_bytes()) {
        panic!("{place} contains {part:?} of a secret: {shown}");
    }
    for bad in ["\u{1b}", "\u{202e}", "\nREADY=1", "\\u{1b}[31m"] {
        assert!(!shown.contains(bad), "{place} contains {bad:?}: {shown}");
    }
}

fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect()
}

/// Searches everything that the daemon prints or stores.
async fn assert_nothing_shown(site: &Site, daemon: &Daemon, page: &str, secrets: &[String]) {
    let secrets = &Parts::of(secrets);
    assert_clean("the log", &daemon.log(), secrets);
    for command in [&["status"][..], &["status", "--json"], &["status", "*"]] {
        let output = site.run(command).await;
        assert_clean(&command.join(" "), &output.out, secrets);
        assert_clean(&command.join(" "), &output.err, secrets);
    }
    for path in [
        "/",
        "/metrics",
        "/api/v1/status",
        "/api/v1/files",
        "/readyz",
        "/healthz",
    ] {
        if let Ok(answer) = reqwest::get(format!("{page}{path}")).await {
            let output = answer.text().await.unwrap_or_default();
            assert_clean(path, &output, secrets);
        }
    }
    for folder in ["state", "log", "alerts"] {
        for path in files_below(&site.path(folder)) {
            let bytes = std::fs::read(&path).unwrap();
            let part = secrets.first_in(&bytes);
            assert_eq!(part, None, "{path:?} contains a part of a secret");
        }
    }
}

/// Answers with what it is given.
type Make = Arc<dyn Fn(&str) -> Answer + Send + Sync>;

/// Method, part of the path, and how it is answered.
type Stage = (&'static str, &'static str, Make);

/// The platform's envelope with an echo in every field.
fn envelope(echo: &str) -> String {
    let detail = json!({ "code": echo, "message": echo, "target": echo });
    json!({ "error": { "code": echo, "message": echo, "target": echo, "details": [detail] } })
        .to_string()
}

/// What a header may carry.
fn in_header(echo: &str) -> String {
    echo.replace(['\n', '\u{1b}', '\u{202e}'], " ")
}

/// JSON with an echo in it.
fn echoing(status: u16, make: impl Fn(&str) -> serde_json::Value + Send + Sync + 'static) -> Make {
    Arc::new(move |echo| text(status, &[JSON], &make(echo).to_string()))
}

/// Answers of the identity provider and of the API.
fn stages() -> Vec<Stage> {
    vec![
        (
            "POST",
            "/connect/token",
            echoing(
                400,
                |echo| json!({ "error": echo, "error_description": echo }),
            ),
        ),
        (
            "POST",
            "/connect/token",
            Arc::new(|echo: &str| {
                let page = format!("<html><title>{echo}</title>{echo}");
                text(400, &[HTML], &page)
            }),
        ),
        (
            "GET",
            "/.well-known/",
            echoing(
                200,
                |echo| json!({ "token_endpoint": format!("http://other.example/{echo}") }),
            ),
        ),
        (
            "GET",
            "/imodels/",
            Arc::new(|echo: &str| {
                let id = in_header(echo);
                text(403, &[JSON, ("x-correlation-id", &id)], &envelope(echo))
            }),
        ),
        (
            "GET",
            "/imodels/",
            echoing(
                200,
                |echo| json!({ "iModel": { "id": "x", "iTwinId": echo, "displayName": echo, "state": echo } }),
            ),
        ),
        (
            "GET",
            "/imodels/",
            Arc::new(|echo: &str| {
                let target = format!("https://x/{}", in_header(echo));
                text(302, &[("location", &target)], "")
            }),
        ),
        (
            "GET",
            "/storage/",
            echoing(200, |echo| {
                let id =
                    percent_encoding::utf8_percent_encode(echo, percent_encoding::NON_ALPHANUMERIC);
                json!({ "_links": { "folder": { "href": format!("/storage/folders/{id}") } } })
            }),
        ),
    ]
}

/// Answers about files, content and runs.
fn later_stages() -> Vec<Stage> {
    vec![
        (
            "POST",
            "/files",
            Arc::new(|echo: &str| text(503, &[JSON], &envelope(echo))),
        ),
        (
            "PUT",
            "/emulated/",
            Arc::new(|echo: &str| {
                let short = in_header(echo);
                let headers = [("x-ms-request-id", &*short), ("x-ms-error-code", &*short)];
                let body = format!("<Error><Code>{echo}</Code><Message>{echo}</Message></Error>");
                text(403, &headers, &body)
            }),
        ),
        (
            "PUT",
            "/emulated/",
            Arc::new(|echo: &str| text(400, &[("content-type", "text/plain")], echo)),
        ),
        (
            "GET",
            "/storageconnections",
            echoing(
                200,
                |echo| json!({ "connections": [{ "id": echo, "displayName": "itwin-syncd" }], "_links": {} }),
            ),
        ),
        (
            "POST",
            "/run",
            Arc::new(|echo: &str| text(403, &[JSON], &envelope(echo))),
        ),
        (
            "GET",
            "/runs/",
            echoing(200, |echo| {
                let error = json!({ "errorKey": echo, "errorCode": echo, "message": echo, "description": echo,
                    "kbArticleLink": echo, "canUserFix": true });
                let task = json!({ "storageFileId": echo, "result": echo, "error": error,
                    "details": { "synchronizationReport": { "suggestedAction": echo } } });
                let job = json!({ "connectorType": echo, "tasks": [task] });
                json!({ "run": { "id": echo, "state": "Completed", "result": echo, "error": error, "jobs": [job] } })
            }),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_echoed_by_hosts_are_shown_and_stored_nowhere() {
    let (mut site, folder, middle) = site().await;
    let alerts = site.path("alerts");
    std::fs::create_dir(&alerts).unwrap();
    let script = format!("cat >> {}/mail", alerts.display());
    site.top += &format!(
        "[log]\nlevel = \"trace\"\ndirectory = {:?}\n",
        site.path("log")
    );
    site.tables += &format!(
        "[web]\nlisten = \"127.0.0.1:0\"\n[[alert]]\nname = \"mail\"\ncommand = [\"sh\", \"-c\", {script:?}]\ngroup = \"0s\"\n"
    );
    // Each stage takes seven attempts.
    site.tables = site
        .tables
        .replace("max_delay = \"2s\"", "max_delay = \"300ms\"");
    let mut all = Vec::new();
    let stages = stages().into_iter().chain(later_stages());
    for (stage, (method, part, make)) in stages.enumerate() {
        // A new life for each: what the last one said is over, and the daemon comes as far as the stage.
        let (heard, reached) = (Arc::new(Heard::default()), Arc::new(AtomicUsize::new(0)));
        let (ears, count, answer) = (Arc::clone(&heard), Arc::clone(&reached), Arc::clone(&make));
        middle.set(move |asked| {
            ears.listen(asked);
            asked.is(method, part).then(|| {
                let round = count.fetch_add(1, Ordering::Relaxed);
                answer(&ears.echo(round))
            })
        });
        write(&folder.join("house.ifc"), &format!("house {stage}"));
        let daemon = site.start();
        daemon.says("serving the web page").await;
        let log = daemon.log();
        let (_, rest) = log
            .split_once("serving the web page address=\"http://127.0.0.1:")
            .unwrap();
        let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
        // One round for each encoding.
        eventually(
            || reached.load(Ordering::Relaxed) > 6,
            || format!("{method} {part} is not asked: {}", daemon.log()),
        )
        .await;
        let page = format!("http://127.0.0.1:{port}");
        assert_nothing_shown(&site, &daemon, &page, &heard.secrets()).await;
        daemon.stop().await;
        all.extend(heard.take());
        // The check has a token of its own, and is sent back no other.
        let echoed = Arc::new(Heard::default());
        let ears = Arc::clone(&echoed);
        middle.set(move |asked| {
            let own = Heard::default();
            own.listen(asked);
            ears.listen(asked);
            asked.is(method, part).then(|| make(&own.echo(stage)))
        });
        let check = site.run(&["check"]).await;
        let sent = Parts::of(&echoed.take());
        assert_clean("check", &check.out, &sent);
        assert_clean("check", &check.err, &sent);
    }
    assert!(all.iter().any(|secret| secret == SECRET), "the secret");
    assert!(
        all.iter().any(|secret| secret.starts_with("eyJ")),
        "a token"
    );
    assert!(all.len() > 3, "and signatures");
    assert!(
        !files_below(&alerts).is_empty(),
        "there should be alerts to look at"
    );
    // All is well again.
    middle.set(|_| None);
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_task_error_with_control_characters_is_one_sanitized_line_everywhere() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.top += &format!("[log]\ndirectory = {:?}\n", site.path("log"));
    site.emulator.fail_task(TaskFault {
        file: "house.ifc".to_owned(),
        result: "Error".to_owned(),
        error: Some(json!({ "errorCode": "X", "description": "bad\nREADY=1\r\nSTATUS=fine\u{1b}[2J\u{202e}\u{2028}end" })),
        report: None,
        count: None,
    });
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    daemon.says("bad READY=1 STATUS=fine [2J end").await;
    let status = site.run(&["status"]).await;
    for shown in [&status.out, &daemon.log()] {
        for bad in ["\u{1b}", "\u{202e}", "\u{2028}", "\nREADY", "\nSTATUS"] {
            assert!(!shown.contains(bad), "{bad:?}: {shown}");
        }
    }
    daemon.stop().await;
}
