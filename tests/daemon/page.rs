//! The page in a real browser, and what programs ask beside it.

use std::process::Stdio;
use std::time::Duration;

use fantoccini::Locator;
use itwin_syncd::emulator::TaskFault;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::common::browser::Browser;
use crate::support::{Daemon, Site, platform, write};

const HOSTILE: &str = "<img src=x onerror=document.title='owned'>.dwg";

pub(crate) const TOKEN: &str = "tiger-burning-bright-in-the-forests";

/// Nothing that the page shows takes longer.
pub(crate) const PATIENCE: Duration = crate::support::PATIENCE;

/// Where the page of a daemon is, as its log says.
pub(crate) async fn address(daemon: &Daemon) -> String {
    daemon.says("serving the web page").await;
    let log = daemon.log();
    let line = log
        .lines()
        .find(|line| line.contains("serving the web page"))
        .unwrap();
    let (_, rest) = line.split_once("http://").unwrap();
    format!("http://{}", rest.split('"').next().unwrap())
}

pub(crate) async fn site() -> (Site, std::path::PathBuf) {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.tables += "[web]\nlisten = \"127.0.0.1:0\"\n";
    (site, folder)
}

impl Browser {
    /// What a script returns.
    pub(crate) async fn eval(&self, script: &str) -> serde_json::Value {
        self.page.execute(script, Vec::new()).await.unwrap()
    }

    pub(crate) async fn text(&self) -> String {
        let text = self.eval("return document.body.innerText").await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the script returns true.
    pub(crate) async fn until(&self, script: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.eval(script).await != true {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{script}\n{}",
                self.text().await
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the list of results has this file with this result on top of it.
    async fn until_result(&self, file: &str, result: &str) {
        let script = format!(
            "const row = [...document.querySelectorAll('#results > li')].find(row => row.querySelector('.name').textContent === {file:?}); \
             return row !== undefined && row.querySelector('.what').textContent === {result:?}"
        );
        self.until(&script).await;
    }

    pub(crate) async fn press(&self, label: &str) {
        let css = format!("button[aria-label={label:?}]");
        let button = self.page.find(Locator::Css(&css)).await.unwrap();
        button.click().await.unwrap();
    }

    /// Saves a screenshot, when one is wanted.
    pub(crate) async fn picture(&self, name: &str) {
        let Some(folder) = std::env::var_os("TEST_SCREENSHOTS") else {
            return;
        };
        let png = self.page.screenshot().await.unwrap();
        std::fs::write(std::path::Path::new(&folder).join(name), png).unwrap();
    }
}

#[tokio::test]
#[ignore = "needs Chromium and its driver (Debian: chromium, chromium-driver)"]
async fn the_page_shows_results_retries_files_and_escapes_names() {
    let (site, folder) = site().await;
    site.emulator.fail_task(TaskFault {
        file: "refused.ifc".to_owned(),
        result: "Failed".to_owned(),
        error: None,
        report: None,
        count: Some(1),
    });
    let daemon = site.start();
    let address = address(&daemon).await;
    let browser = Browser::start(&["--window-size=1100,900"]).await;
    browser.page.goto(&address).await.unwrap();
    browser
        .until("return document.getElementById('summary').textContent.startsWith('OK: nothing needs attention')")
        .await;
    browser.picture("all-well.png").await;

    // Dropped while the page is open: it gets there without being loaded again.
    write(&folder.join("house.ifc"), "house");
    browser.until_result("house.ifc", "synchronized").await;
    browser
        .until("return document.body.innerText.includes('iModel: 1 source file')")
        .await;

    std::fs::write(folder.join(HOSTILE), "x").unwrap();
    write(&folder.join("refused.ifc"), "refused");
    browser.until_result(HOSTILE, "failed").await;
    browser.until_result("refused.ifc", "failed").await;
    browser
        .until("return document.getElementById('failed-title').textContent === 'Failures (2)'")
        .await;
    let title = browser.eval("return document.title").await;
    let title = title.as_str().unwrap();
    assert!(title.starts_with("(2 failed) itwin-syncd on "), "{title}");
    assert_eq!(
        browser
            .eval("return document.querySelectorAll('img').length")
            .await,
        0
    );
    browser.picture("failed.png").await;

    // The story of a file: open by keyboard, closed by Escape.
    browser
        .eval("document.querySelector('#results button.link').focus()")
        .await;
    let keys = browser.page.active_element().await.unwrap();
    keys.send_keys("\u{E007}").await.unwrap();
    browser
        .until("return document.getElementById('history').open && document.querySelectorAll('#history-lines > li').length >= 2")
        .await;
    browser.picture("history.png").await;
    let keys = browser.page.active_element().await.unwrap();
    keys.send_keys("\u{E00C}").await.unwrap();
    browser
        .until("return !document.getElementById('history').open")
        .await;

    let retry = "[...document.querySelectorAll('#groups > li')].find(group => group.textContent.includes('refused.ifc')).querySelector('.buttons button')";
    browser.eval(&format!("{retry}.click()")).await;
    browser.until_result("refused.ifc", "synchronized").await;
    browser
        .until("return document.querySelectorAll('#groups > li').length === 1")
        .await;

    browser.press("Pause north").await;
    browser
        .until(
            "return document.querySelector('#watches .suspended').textContent.startsWith('Paused')",
        )
        .await;
    browser.press("Resume north").await;
    browser
        .until("return document.querySelector('#watches .suspended').hidden")
        .await;

    // A phone.
    browser.page.set_window_size(500, 800).await.unwrap();
    browser
        .until("return document.documentElement.scrollWidth <= window.innerWidth")
        .await;
    browser.picture("phone.png").await;

    // The service goes, and the page says so.
    daemon.stop().await;
    browser
        .until("return !document.getElementById('connection').hidden")
        .await;
    browser.page.close().await.unwrap();
}

pub(crate) async fn status(request: reqwest::RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn the_page_checks_host_token_and_origin() {
    use std::os::unix::fs::PermissionsExt as _;
    let (mut site, _folder) = site().await;
    let token = site.path("token");
    write(&token, &format!("{TOKEN}\n"));
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    site.tables += &format!("token_file = {token:?}\n");
    let daemon = site.start();
    let address = address(&daemon).await;
    let http = reqwest::Client::new();
    let get = |path: &str| http.get(format!("{address}{path}"));
    assert_eq!(status(get("healthz")).await, 200);
    for path in [
        "metrics",
        "nowhere",
        "api/v1/status",
        "api/v1/events",
        "api/v1/files/1",
    ] {
        assert_eq!(status(get(path)).await, 401, "{path}");
        assert_eq!(status(get(path).bearer_auth("lion")).await, 401, "{path}");
    }
    assert_eq!(status(get("")).await, 200);
    let basic = get("api/v1/status").basic_auth("me", Some(TOKEN));
    assert_eq!(status(basic).await, 200);
    assert_eq!(status(get("metrics").bearer_auth(TOKEN)).await, 200);
    assert_eq!(status(get("api/v1/files/1").bearer_auth(TOKEN)).await, 404);
    assert_eq!(
        status(get("").bearer_auth(TOKEN).header("host", "evil.example")).await,
        421
    );
    // A browser runs no script but the page's own, whatever is in the answer.
    for path in ["", "app.js", "metrics", "nowhere"] {
        let answer = get(path).bearer_auth(TOKEN).send().await.unwrap();
        let header = |name: &str| answer.headers()[name].to_str().unwrap();
        let policy = header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self';"),
            "{path}: {policy}"
        );
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
    }
    let post = |origin: Option<&str>| {
        let request = http.post(format!("{address}api/v1/pause"));
        let request = request
            .basic_auth("me", Some(TOKEN))
            .header("content-type", "application/json")
            .body(r#"{"watches":["north"]}"#);
        match origin {
            Some(origin) => request.header("origin", origin),
            None => request,
        }
    };
    assert_eq!(status(post(None)).await, 403);
    assert_eq!(status(post(Some("http://evil.example"))).await, 403);
    let printed = site.run(&["status"]).await.out;
    assert!(!printed.contains("  paused "), "{printed}");
    assert_eq!(status(post(Some(address.trim_end_matches('/')))).await, 200);
    let printed = site.run(&["status"]).await.out;
    assert!(printed.contains("  paused "), "{printed}");
    let (_, log) = daemon.stop().await;
    assert!(!log.contains(TOKEN), "{log}");
}

#[tokio::test]
async fn a_single_pass_serves_no_page() {
    let (site, _folder) = site().await;
    let done = site.run(&["run", "--once"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(!done.err.contains("serving the web page"), "{done:?}");
}

#[tokio::test]
async fn token_guesses_are_delayed_logged_and_counted() {
    use std::os::unix::fs::PermissionsExt as _;
    let (mut site, _folder) = site().await;
    let token = site.path("token");
    write(&token, TOKEN);
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    site.tables += &format!("token_file = {token:?}\n");
    let daemon = site.start();
    let address = address(&daemon).await;
    let http = reqwest::Client::new();
    let ask = async |token: &str| {
        let request = http.get(format!("{address}metrics")).bearer_auth(token);
        let answer = request.send().await.unwrap();
        let wait = answer.headers().contains_key("retry-after");
        (answer.status().as_u16(), wait, answer.text().await.unwrap())
    };
    let began = tokio::time::Instant::now();
    let mut looked_at = 0;
    for guess in 0..500 {
        match ask(&format!("guess-{guess}")).await {
            (401, false, _) => looked_at += 1,
            (429, true, text) => assert!(text.contains("try again in"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    // Five, and one for each delay that has passed.
    let delays = began.elapsed().as_secs() + 1;
    assert!((6..=6 + delays).contains(&looked_at), "{looked_at}");
    // Nor is a right one checked meanwhile.
    assert_eq!(ask(TOKEN).await.0, 429);
    assert_eq!(status(http.get(format!("{address}healthz"))).await, 200);
    let deadline = began + PATIENCE;
    let metrics = loop {
        let (status, _, text) = ask(TOKEN).await;
        if status == 200 {
            break text;
        }
        assert!(tokio::time::Instant::now() < deadline, "{text}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let wanted = format!("itwin_syncd_page_wrong_tokens_total {looked_at}");
    assert!(metrics.lines().any(|line| line == wanted), "{metrics}");
    let (_, log) = daemon.stop().await;
    let lines = log.lines().filter(|line| line.contains("wrong token"));
    let lines: Vec<_> = lines.collect();
    assert!((1..=3).contains(&lines.len()), "{lines:#?}");
    assert!(lines[0].contains("127.0.0.1"), "{lines:#?}");
    assert!(!log.contains("guess-"), "{log}");
}

/// A request from another address of this machine, its head not finished unless `whole`.
async fn request_from(
    peer: &str,
    address: &str,
    whole: bool,
) -> std::io::Result<tokio::net::TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(format!("{peer}:0").parse().unwrap())?;
    let host = address.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = socket.connect(host.parse().unwrap()).await?;
    let end = if whole { "\r\n" } else { "" };
    let head = format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{end}");
    stream.write_all(head.as_bytes()).await?;
    Ok(stream)
}

/// Whether a whole request from this address is answered.
async fn is_served(peer: &str, address: &str) -> bool {
    use tokio::io::AsyncReadExt as _;
    let mut answer = String::new();
    let read = async {
        let mut stream = request_from(peer, address, true).await?;
        stream.read_to_string(&mut answer).await
    };
    let read = tokio::time::timeout(PATIENCE, read).await;
    read.is_ok_and(|read| read.is_ok()) && answer.starts_with("HTTP/1.1 200")
}

#[tokio::test]
async fn half_open_requests_starve_neither_the_work_nor_other_peers() {
    let (site, folder) = site().await;
    let daemon = site.start_under(&["sh", "-c", "ulimit -n 256; exec \"$@\"", "sh"]);
    let address = address(&daemon).await;
    let mut half = Vec::new();
    for _ in 0..300 {
        // One that is refused may be closed before it is written to.
        half.extend(request_from("127.0.0.1", &address, false).await);
    }
    write(&folder.join("house.ifc"), "house");
    site.synchronized(1, &daemon).await;
    assert!(is_served("127.0.0.2", &address).await, "{}", daemon.log());
    daemon.says("too many connections to the page").await;
    assert!(!is_served("127.0.0.1", &address).await);
    // They are closed in time, though each is kept open on its other side.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !is_served("127.0.0.1", &address).await {
        assert!(tokio::time::Instant::now() < deadline, "{}", daemon.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let metrics = reqwest::get(format!("{address}metrics")).await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let refused = metrics
        .lines()
        .find_map(|line| line.strip_prefix("itwin_syncd_page_connections_refused_total "))
        .unwrap();
    assert!(refused.parse::<u64>().unwrap() >= 280, "{refused}");
    drop(half);
    daemon.stop().await;
}

#[tokio::test]
async fn metrics_count_results_and_readyz_waits_for_the_folders() {
    let (site, folder) = site().await;
    write(&folder.join("house.ifc"), "house");
    write(&folder.join("empty.ifc"), "");
    let daemon = site.start();
    let address = address(&daemon).await;
    let http = reqwest::Client::new();
    let get = async |path: &str| {
        let answer = http.get(format!("{address}{path}")).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let wanted = [
        "itwin_syncd_file_results_total{watch=\"north\",result=\"synchronized\"} 1",
        "itwin_syncd_file_results_total{watch=\"north\",result=\"failed\"} 1",
        "itwin_syncd_jobs{watch=\"north\",state=\"failed\"} 1",
        "itwin_syncd_runs_total{result=\"Success\"} 1",
        "itwin_syncd_sent_bytes_total 5",
        "itwin_syncd_upload_duration_seconds_count 1",
        "itwin_syncd_run_duration_seconds_count 1",
    ];
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (status, printed) = get("metrics").await;
        assert_eq!(status, 200, "{printed}");
        if wanted
            .iter()
            .all(|line| printed.lines().any(|one| one == *line))
        {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{printed}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(get("readyz").await, (200, "ready\n".to_owned()));
    std::fs::rename(&folder, site.path("away")).unwrap();
    while get("readyz").await.0 != 503 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    daemon.stop().await;
}

#[tokio::test]
#[ignore = "needs promtool (Debian: prometheus)"]
async fn promtool_accepts_the_metrics_and_the_example_rules() {
    let (site, folder) = site().await;
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    let address = address(&daemon).await;
    site.synchronized(1, &daemon).await;
    let metrics = reqwest::get(format!("{address}metrics")).await.unwrap();
    let metrics = metrics.text().await.unwrap();
    daemon.stop().await;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool should be installed");
    let mut input = promtool.stdin.take().unwrap();
    input.write_all(metrics.as_bytes()).await.unwrap();
    drop(input);
    let printed = promtool.wait_with_output().await.unwrap();
    assert!(
        printed.status.success() && printed.stdout.is_empty() && printed.stderr.is_empty(),
        "{printed:?}\n{metrics}"
    );
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/alert-rules.yml");
    let printed = Command::new("promtool")
        .args(["check", "rules", "--lint-fatal", rules])
        .output()
        .await
        .unwrap();
    assert!(printed.status.success(), "{printed:?}");
    // A rule on a metric that is not there would never fire.
    let rules = std::fs::read_to_string(rules).unwrap();
    let dashboard = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/docs/grafana-dashboard.json"
    ))
    .unwrap();
    for text in [rules, dashboard] {
        for after in text.split("itwin_syncd_").skip(1) {
            let name: String = after
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '_')
                .collect();
            // One that is absent now, such as the time of the oldest pending file, has its help.
            assert!(
                metrics.contains(&format!("\nitwin_syncd_{name}"))
                    || metrics.contains(&format!("# HELP itwin_syncd_{name} ")),
                "there is no metric {name}"
            );
        }
    }
}
