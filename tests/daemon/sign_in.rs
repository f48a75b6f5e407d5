//! A user signs in with a browser, which here is an HTTP client that follows redirects.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use itwin_syncd::emulator::{Builder, DEFAULT_NATIVE_CLIENT_ID, Fault, Switches};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Child;

use crate::support::{Daemon, PATIENCE, Site, eventually, platform, write};

/// Points at which a renewal of the sign-in can end.
pub const POINTS: [&str; 4] = [
    "sign-in about to be renewed",
    "sign-in renewed",
    "sign-in written",
    "sign-in stored",
];

/// A port that nothing listens on.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn user_account(site: &mut Site) {
    DEFAULT_NATIVE_CLIENT_ID.clone_into(&mut site.client_id);
    let port = free_port();
    site.itwin = format!(
        "sign_in = \"user\"\nredirect_urls = [\"http://localhost:{port}/signin-callback\"]\n"
    );
}

async fn site_of_a_user(builder: Builder) -> (Site, PathBuf) {
    let (mut site, folder) = Site::with_folder(builder).await;
    user_account(&mut site);
    (site, folder)
}

/// The command `login`, with what it has printed.
struct SignIn {
    child: Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
    printed: String,
}

impl SignIn {
    fn start(site: &Site, arguments: &[&str]) -> Self {
        let mut child = site
            .command(&[&["login"], arguments].concat())
            .stdin(Stdio::piped())
            .env_remove("DISPLAY")
            .env_remove("WAYLAND_DISPLAY")
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            child,
            lines,
            printed: String::new(),
        }
    }

    /// The next address that it prints for the browser.
    async fn address(&mut self) -> String {
        loop {
            let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
            let line = line.expect("an address").unwrap();
            let line = line.unwrap_or_else(|| panic!("no address in: {}", self.printed));
            self.printed += &line;
            self.printed += "\n";
            if let Some(address) = line.strip_prefix("  http") {
                return format!("http{address}");
            }
        }
    }

    async fn paste(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().unwrap();
        input
            .write_all(format!("{line}\n").as_bytes())
            .await
            .unwrap();
    }

    /// Its exit code, and everything that it printed.
    async fn ended(mut self) -> (Option<i32>, String) {
        while let Some(line) = self.lines.next_line().await.unwrap() {
            self.printed += &line;
            self.printed += "\n";
        }
        let output = tokio::time::timeout(PATIENCE, self.child.wait_with_output()).await;
        let output = output.unwrap().unwrap();
        let printed = self.printed + &String::from_utf8(output.stderr).unwrap();
        (output.status.code(), printed)
    }
}

/// What the browser shows in the end.
async fn browse(address: &str) -> (u16, String) {
    let shown = reqwest::get(address).await.unwrap();
    (shown.status().as_u16(), shown.text().await.unwrap())
}

/// Where the browser is sent first.
async fn redirected(address: &str) -> String {
    let http = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let answer = http.get(address).send().await.unwrap();
    let location = answer.headers()["location"].to_str().unwrap();
    location.to_owned()
}

/// Signs in and consents.
async fn sign_in(site: &Site) -> String {
    let mut command = SignIn::start(site, &[]);
    let (status, page) = browse(&command.address().await).await;
    assert_eq!(status, 200, "{page}");
    assert!(page.contains("You are signed in"), "{page}");
    if site.emulator.state().authorized_users.is_empty() {
        let (status, page) = browse(&command.address().await).await;
        assert_eq!(status, 200, "{page}");
    }
    let (code, printed) = command.ended().await;
    assert_eq!(code, Some(0), "{printed}");
    printed
}

/// Renews the consent.
async fn consent(site: &Site) {
    let mut command = SignIn::start(site, &["--connector"]);
    let (status, page) = browse(&command.address().await).await;
    assert_eq!(status, 200, "{page}");
    let (code, printed) = command.ended().await;
    assert_eq!(code, Some(0), "{printed}");
}

async fn control(site: &Site, route: &str) {
    let address = format!("{}/_emulator/{route}", site.emulator.api_url());
    let answer = reqwest::Client::new().post(address).send().await.unwrap();
    assert!(answer.status().is_success());
}

fn sign_in_file(site: &Site) -> PathBuf {
    site.path("state/login")
}

fn content(file: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// Waits until the status has this text.
async fn shows(site: &Site, text: &str, daemon: &Daemon) {
    site.shows(text, daemon).await;
}

/// What the status says of the watch.
async fn watch_of(site: &Site) -> serde_json::Value {
    let printed = site.run(&["status", "--json"]).await;
    let printed: serde_json::Value = serde_json::from_str(&printed.out).unwrap();
    printed["watches"][0].clone()
}

/// Number of requests for tokens so far.
fn token_requests(site: &Site) -> usize {
    site.requests("POST", "/connect/token").len()
}

#[tokio::test]
async fn a_waiting_daemon_continues_when_a_user_signs_in() {
    let (site, folder) = site_of_a_user(platform()).await;
    write(&folder.join("a.ifc"), "a");
    let daemon = site.start();
    shows(&site, "no user is signed in", &daemon).await;
    assert_eq!(token_requests(&site), 0, "nobody is asked in vain");
    let failed = site.run(&["check"]).await;
    assert_eq!(failed.code, Some(1));
    assert!(
        failed.out.contains("run `itwin-syncd login`"),
        "{}",
        failed.out
    );
    let printed = sign_in(&site).await;
    site.synchronized(1, &daemon).await;
    let user = "native-emulator (native-emulator@example.com)";
    assert!(
        printed.contains(&format!("Signed in as {user}")),
        "{printed}"
    );
    let file = sign_in_file(&site);
    assert_eq!(
        file.metadata().unwrap().permissions().mode() & 0o7777,
        0o600
    );
    let state = site.emulator.state();
    let connection = state.connections.values().next().unwrap();
    assert_eq!(connection.authentication_type, "User");
    let checked = site.run(&["check"]).await;
    assert_eq!(checked.code, Some(0), "{} {}", checked.out, checked.err);
    for line in [
        format!("signed in as {user}"),
        format!("runs may act for {user}"),
    ] {
        assert!(checked.out.contains(&line), "{}", checked.out);
    }
    let (status, log) = daemon.stop().await;
    assert!(status.success(), "{log}");
    let stored = content(&file);
    let token = stored["refresh_token"].as_str().unwrap();
    for text in [&log, &printed, &checked.out] {
        assert!(!text.contains(token), "{text}");
    }
}

#[tokio::test]
async fn the_browser_of_the_desktop_opens() {
    let (site, _folder) = site_of_a_user(platform()).await;
    let opened = site.path("opened");
    let programs = site.path("programs");
    std::fs::create_dir(&programs).unwrap();
    let program = programs.join("xdg-open");
    let script =
        format!("#!/bin/sh\nprintf '%s' \"$1\" > {opened:?}.new && mv {opened:?}.new {opened:?}\n");
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let command = site
        .command(&["login"])
        .env("DISPLAY", ":99")
        .env("PATH", format!("{}:{path}", programs.display()))
        .spawn()
        .unwrap();
    let mut seen = String::new();
    for wanted in ["/connect/authorize?", "/connect/consent?"] {
        let is_open = || std::fs::read_to_string(&opened).is_ok_and(|text| text.contains(wanted));
        eventually(is_open, || format!("{wanted} was not opened: {seen}")).await;
        seen = std::fs::read_to_string(&opened).unwrap();
        assert_eq!(browse(&seen).await.0, 200);
    }
    let output = command.wait_with_output().await.unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}");
    assert!(printed.contains("A browser opens"), "{printed}");
}

#[tokio::test]
async fn without_a_browser_the_address_is_pasted() {
    let (site, _folder) = site_of_a_user(platform()).await;
    let mut command = SignIn::start(&site, &["--no-browser"]);
    let address = command.address().await;
    let returned = redirected(&address).await;
    let (_, code) = returned.split_once("code=").unwrap();
    let code = code.split('&').next().unwrap().to_owned();
    let other_state = returned.replace("state=", "state=x");
    for wrong in ["", "https://example.com/", &other_state] {
        command.paste(wrong).await;
    }
    command.paste(&returned).await;
    let consent = command.address().await;
    assert!(redirected(&consent).await.contains("/signin-callback"));
    command.paste("").await;
    let (exit, printed) = command.ended().await;
    assert_eq!(exit, Some(0), "{printed}");
    for text in [
        "not the address that the browser returned to",
        "the address belongs to another sign-in",
        "Runs may act for native-emulator",
    ] {
        assert!(printed.contains(text), "{printed}");
    }
    assert!(!printed.contains(&code), "{printed}");
    assert!(sign_in_file(&site).exists());
}

#[tokio::test]
async fn only_the_browser_of_this_sign_in_ends_it() {
    let (site, _folder) = site_of_a_user(platform()).await;
    let mut command = SignIn::start(&site, &[]);
    let address = command.address().await;
    let returned = redirected(&address).await;
    let (base, _) = returned.split_once('?').unwrap();
    for (wrong, status) in [
        (base.to_owned(), 400),
        (format!("{base}?code=stolen&state=guess"), 400),
        (format!("{base}?error=access_denied"), 400),
        (base.replace("signin-callback", "other"), 404),
    ] {
        assert_eq!(browse(&wrong).await.0, status, "{wrong}");
    }
    assert!(!sign_in_file(&site).exists());
    // The port is in use now, so a second sign-in cannot listen.
    let second = site.run(&["login"]).await;
    assert_eq!(second.code, Some(1));
    assert!(
        second.err.contains("cannot listen on http://localhost:"),
        "{}",
        second.err
    );
    let (_, state) = returned.split_once("state=").unwrap();
    let refused = format!("{base}?error=access_denied&error_description=not+today&state={state}");
    assert_eq!(browse(&refused).await.0, 400);
    let (exit, printed) = command.ended().await;
    assert_eq!(exit, Some(1), "{printed}");
    let reason = "the identity provider refused the sign-in: access_denied: not today";
    assert!(printed.contains(reason), "{printed}");
    assert!(!sign_in_file(&site).exists());
}

/// A kill during a renewal loses the sign-in only if the next token was on the way; then a user signs in again.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_kill_during_a_renewal_leaves_a_sign_in_or_a_wait_for_one() {
    for (kept, point, survives) in [
        (false, POINTS[0], true),
        (false, POINTS[1], false),
        (false, POINTS[2], false),
        (false, POINTS[3], true),
        (true, POINTS[1], true),
    ] {
        let mut switches = Switches::default();
        if kept {
            switches.set("refresh-token", "kept").unwrap();
        }
        let (site, folder) = site_of_a_user(platform().switches(switches)).await;
        sign_in(&site).await;
        write(&folder.join("a.ifc"), "a");
        let daemon = site.start_with(&[("ITWIN_SYNCD_FAILPOINT", point)]);
        assert!(
            daemon.ended_by_itself_within(PATIENCE).await,
            "{point} was never reached"
        );
        let daemon = site.start();
        if !survives {
            shows(&site, "the sign-in of native-emulator", &daemon).await;
            assert_eq!(watch_of(&site).await["files"]["failed"], 0);
            sign_in(&site).await;
        }
        site.synchronized(1, &daemon).await;
        daemon.stop().await;
        assert!(!site.path("state/login.next").exists(), "{point}");
    }
}

#[tokio::test]
async fn a_revoked_sign_in_keeps_all_work_waiting_and_fails_no_file() {
    let (site, folder) = site_of_a_user(platform()).await;
    sign_in(&site).await;
    write(&folder.join("a.ifc"), "a");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    control(&site, "sign-out").await;
    for name in ["b.ifc", "c.ifc", "d.ifc"] {
        write(&folder.join(name), name);
    }
    shows(&site, "the sign-in of native-emulator", &daemon).await;
    let asked = token_requests(&site);
    let again = site.run(&["check"]).await;
    assert!(again.out.contains("has ended"), "{}", again.out);
    let deadline = tokio::time::Instant::now() + crate::support::PATIENCE;
    loop {
        let files = watch_of(&site).await["files"].clone();
        assert_eq!(files["failed"], 0, "{files}");
        // Until they are settled, they do not count as waiting.
        if files["waiting"] == 3 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{files}");
    }
    // A refused token is not sent again; the other process does not know it.
    assert!(token_requests(&site) <= asked + 1);
    sign_in(&site).await;
    site.synchronized(4, &daemon).await;
    let (_, log) = daemon.stop().await;
    assert!(
        log.contains("all work waits for a user to sign in"),
        "{log}"
    );
    assert!(log.contains("signed in; work continues"), "{log}");
}

#[tokio::test]
async fn a_token_that_expires_is_renewed_and_one_that_is_refused_too() {
    let lifetime = Duration::from_secs(2);
    let (site, folder) = site_of_a_user(platform().token_lifetime(lifetime)).await;
    sign_in(&site).await;
    let daemon = site.start();
    let first = content(&sign_in_file(&site))["refresh_token"].clone();
    let mut count = 0;
    // Each file takes a while, so that some of them need another token.
    while site.emulator.state().tokens_issued < 6 {
        count += 1;
        assert!(count < 60, "tokens are never renewed: {}", daemon.log());
        write(&folder.join(format!("{count}.ifc")), "content");
        site.synchronized(count, &daemon).await;
    }
    assert_ne!(content(&sign_in_file(&site))["refresh_token"], first);
    site.emulator.fault(
        Fault::on("POST /storage/folders/*/files")
            .status(401)
            .times(1),
    );
    write(&folder.join("last.ifc"), "content");
    site.synchronized(count + 1, &daemon).await;
    daemon.stop().await;
    assert_eq!(site.run(&["check"]).await.code, Some(0));
}

#[tokio::test]
async fn processes_take_turns_with_the_refresh_token() {
    let lifetime = Duration::from_secs(1);
    let (site, folder) = site_of_a_user(platform().token_lifetime(lifetime)).await;
    sign_in(&site).await;
    let daemon = site.start();
    for round in 1..=2 {
        write(&folder.join(format!("{round}.ifc")), "content");
        let checks = (0..4).map(|_| site.run(&["check"]));
        for check in futures_util::future::join_all(checks).await {
            assert_eq!(check.code, Some(0), "{} {}", check.out, check.err);
        }
        site.synchronized(round, &daemon).await;
    }
    let (_, log) = daemon.stop().await;
    assert!(!log.contains("waits for a user"), "{log}");
}

#[tokio::test]
async fn after_logout_all_work_waits() {
    let (site, folder) = site_of_a_user(platform()).await;
    sign_in(&site).await;
    let daemon = site.start();
    write(&folder.join("a.ifc"), "a");
    site.synchronized(1, &daemon).await;
    let token = content(&sign_in_file(&site))["refresh_token"].clone();
    let out = site.run(&["logout"]).await;
    assert_eq!(
        (out.code, out.out.as_str()),
        (Some(0), "Signed out\n"),
        "{}",
        out.err
    );
    assert!(!sign_in_file(&site).exists());
    write(&folder.join("b.ifc"), "b");
    shows(&site, "no user is signed in", &daemon).await;
    let again = site.run(&["logout"]).await;
    assert_eq!(
        (again.code, again.out.as_str()),
        (Some(0), "Nobody is signed in\n")
    );
    // The platform does not accept a copy.
    let issuer = site.emulator.issuer_url();
    let form = [
        ("grant_type", "refresh_token"),
        ("client_id", DEFAULT_NATIVE_CLIENT_ID),
        ("refresh_token", token.as_str().unwrap()),
    ];
    let copy = reqwest::Client::new()
        .post(format!("{issuer}/connect/token"))
        .form(&form);
    assert_eq!(copy.send().await.unwrap().status(), 400);
    sign_in(&site).await;
    site.synchronized(2, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_run_without_consent_fails_no_file_and_is_repeated_after_it() {
    let (site, folder) = site_of_a_user(platform()).await;
    sign_in(&site).await;
    let daemon = site.start();
    write(&folder.join("a.ifc"), "a");
    site.synchronized(1, &daemon).await;
    // As after 30 days: the daemon learns it from the run.
    control(&site, "end-consents").await;
    write(&folder.join("b.ifc"), "b");
    shows(&site, "ended with UserNotAuthenticated", &daemon).await;
    let missing = "runs may not act for native-emulator";
    shows(&site, missing, &daemon).await;
    let runs = site.emulator.state().runs.len();
    let watch = watch_of(&site).await;
    assert_eq!(watch["owner"]["waits"], true, "{watch}");
    assert_eq!(
        (&watch["files"]["failed"], &watch["files"]["waiting"]),
        (&0.into(), &1.into())
    );
    let check = site.run(&["check"]).await;
    assert_eq!(check.code, Some(1));
    assert!(check.out.contains(missing), "{}", check.out);
    assert_eq!(
        site.emulator.state().runs.len(),
        runs,
        "no run without consent"
    );
    consent(&site).await;
    site.synchronized(2, &daemon).await;
    eventually(|| daemon.log().contains("no longer"), || daemon.log()).await;
    daemon.stop().await;
    assert!(watch_of(&site).await["owner"].is_null());
}

#[tokio::test]
async fn the_end_of_a_consent_is_announced_until_it_is_renewed() {
    let (site, folder) = site_of_a_user(platform()).await;
    sign_in(&site).await;
    let daemon = site.start();
    write(&folder.join("a.ifc"), "a");
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
    let file = sign_in_file(&site);
    let mut stored = content(&file);
    let ago = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(25 * 24);
    stored["authorized_at"] = ago.to_string().into();
    std::fs::write(&file, stored.to_string()).unwrap();
    let daemon = site.start();
    shows(
        &site,
        "runs may act for native-emulator (native-emulator@example.com) until about",
        &daemon,
    )
    .await;
    let check = site.run(&["check"]).await;
    assert_eq!(check.code, Some(0), "{}", check.out);
    assert!(
        check.out.contains("note    runs may act for"),
        "{}",
        check.out
    );
    // It is only announced.
    write(&folder.join("b.ifc"), "b");
    site.synchronized(2, &daemon).await;
    consent(&site).await;
    let renewed = async || watch_of(&site).await["owner"].is_null();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !renewed().await {
        assert!(tokio::time::Instant::now() < deadline, "{}", daemon.log());
    }
    daemon.stop().await;
}

#[tokio::test]
async fn a_connection_of_a_service_application_is_taken_over_only_with_the_key() {
    for owner in ["caller", "creator"] {
        let mut switches = Switches::default();
        switches.set("changed-owner", owner).unwrap();
        let (mut site, folder) = Site::with_folder(platform().switches(switches)).await;
        write(&folder.join("a.ifc"), "a");
        let daemon = site.start();
        site.synchronized(1, &daemon).await;
        daemon.stop().await;
        user_account(&mut site);
        sign_in(&site).await;
        write(&folder.join("b.ifc"), "b");
        let daemon = site.start();
        shows(&site, "is that of a service application", &daemon).await;
        assert_eq!(watch_of(&site).await["files"]["failed"], 0);
        let check = site.run(&["check"]).await;
        assert!(check.out.contains("itwin.takeover = true"), "{}", check.out);
        site.itwin += "takeover = true\n";
        site.config();
        daemon.signal("HUP");
        if owner == "caller" {
            site.synchronized(2, &daemon).await;
            let state = site.emulator.state();
            assert_eq!(state.connections.len(), 1);
            let connection = state.connections.values().next().unwrap();
            assert_eq!(connection.authentication_type, "User");
        } else {
            shows(&site, "ended with UserNotAuthenticated", &daemon).await;
            assert_eq!(watch_of(&site).await["files"]["failed"], 0);
        }
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_single_pass_without_a_sign_in_ends_and_says_why() {
    let (site, folder) = site_of_a_user(platform()).await;
    write(&folder.join("a.ifc"), "a");
    let pass = site.run(&["run", "--once"]).await;
    assert_eq!(pass.code, Some(1), "{}", pass.out);
    assert!(pass.out.contains("no user is signed in"), "{}", pass.out);
    sign_in(&site).await;
    let pass = site.run(&["run", "--once"]).await;
    assert_eq!(pass.code, Some(0), "{} {}", pass.out, pass.err);
}

#[tokio::test]
async fn a_service_application_needs_no_sign_in() {
    let (site, _folder) = Site::with_folder(platform()).await;
    let refused = site.run(&["login"]).await;
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.err.contains("itwin.sign_in = \"user\""),
        "{}",
        refused.err
    );
    assert_eq!(site.run(&["logout"]).await.out, "Nobody is signed in\n");
}
