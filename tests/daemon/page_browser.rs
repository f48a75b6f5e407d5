//! What the page does in a browser beyond showing the state: many tabs, lost connections, tokens, many failures.

use std::time::Duration;

use fantoccini::Locator;
use fantoccini::wd::WebDriverCompatibleCommand;
use itwin_syncd::emulator::{DEFAULT_IMODEL_ID, TaskFault};

use crate::common::browser::Browser;
use crate::page::{PATIENCE, TOKEN, address, site};
use crate::support::{Daemon, Site, platform, write};

/// A script that Chromium runs before those of each page that it loads in the window.
#[derive(Debug)]
struct BeforeEachPage(&'static str);

impl WebDriverCompatibleCommand for BeforeEachPage {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap()))
    }

    fn method_and_body(&self, _: &url::Url) -> (reqwest::Method, Option<String>) {
        let body = serde_json::json!({
            "cmd": "Page.addScriptToEvaluateOnNewDocument",
            "params": { "source": self.0 },
        });
        (reqwest::Method::POST, Some(body.to_string()))
    }
}

impl Browser {
    /// Opens an address, and waits for the state of the service.
    async fn open(&self, address: &str) {
        self.page.goto(address).await.unwrap();
        self.until("return !document.getElementById('main').hidden")
            .await;
    }

    async fn focused(&self) -> String {
        let script = "const focused = document.activeElement; return focused.getAttribute('aria-label') || focused.id || focused.outerHTML";
        self.eval(script)
            .await
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    async fn type_keys(&self, keys: &str) {
        let focused = self.page.active_element().await.unwrap();
        focused.send_keys(keys).await.unwrap();
    }
}

/// Keys, as `WebDriver` names them.
const ENTER: &str = "\u{E007}";
const SPACE: &str = " ";
const TAB: &str = "\u{E004}";

/// A page with a token; the path of its file.
async fn site_with_token() -> Site {
    use std::os::unix::fs::PermissionsExt as _;
    let (mut site, _) = site().await;
    let token = site.path("token");
    write(&token, TOKEN);
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    site.tables += &format!("token_file = {token:?}\n");
    site
}

async fn stopped(daemon: Daemon, browser: Browser) {
    browser.page.close().await.unwrap();
    daemon.stop().await;
}

#[tokio::test]
#[ignore = "needs Chromium and its driver (Debian: chromium, chromium-driver)"]
async fn eight_tabs_work_with_and_without_shared_workers() {
    let (site, _folder) = site().await;
    let daemon = site.start();
    let address = address(&daemon).await;
    for script in ["", "delete window.SharedWorker"] {
        let browser = Browser::start(&["--window-size=1100,900"]).await;
        for _ in 0..8 {
            let tab = browser.page.new_window(true).await.unwrap();
            browser.page.switch_to_window(tab.handle).await.unwrap();
            let before = BeforeEachPage(script);
            browser.page.issue_cmd(before).await.unwrap();
            browser.open(&address).await;
        }
        // The last one executes commands and sees what they do.
        browser.press("Pause north").await;
        browser
            .until("return document.querySelector('#watches .suspended').textContent === 'Paused'")
            .await;
        browser.press("Resume north").await;
        browser
            .until("return document.querySelector('#watches .suspended').hidden")
            .await;
        // So does the first one, when it is shown.
        let first = browser.page.windows().await.unwrap()[1].clone();
        browser.page.switch_to_window(first).await.unwrap();
        browser.press("Pause north").await;
        browser
            .until("return document.querySelector('#watches .suspended').textContent === 'Paused'")
            .await;
        browser.press("Resume north").await;
        browser.page.close().await.unwrap();
    }
    daemon.stop().await;
}

#[tokio::test]
#[ignore = "needs Chromium and its driver (Debian: chromium, chromium-driver)"]
async fn a_lost_connection_is_shown_with_its_time_until_the_service_is_back() {
    let (mut site, _folder) = site().await;
    // The same address after the restart.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = free.local_addr().unwrap().to_string();
    drop(free);
    site.tables = site.tables.replace("127.0.0.1:0", &listen);
    let daemon = site.start();
    let address = address(&daemon).await;
    let browser = Browser::start(&["--window-size=1100,900"]).await;
    browser.open(&address).await;
    browser
        .until("return document.getElementById('connection').hidden && document.title.startsWith('itwin-syncd on ')")
        .await;
    daemon.stop().await;
    browser
        .until("return document.title.startsWith('(no connection) ')")
        .await;
    let banner = browser
        .eval("return document.getElementById('connection').textContent")
        .await;
    let banner = banner.as_str().unwrap();
    assert!(
        banner.starts_with("No connection to the service since "),
        "{banner}"
    );
    browser.picture("no-connection.png").await;
    let daemon = site.start();
    browser
        .until("return document.getElementById('connection').hidden && document.title.startsWith('itwin-syncd on ')")
        .await;
    stopped(daemon, browser).await;
}

#[tokio::test]
#[ignore = "needs Chromium and its driver (Debian: chromium, chromium-driver)"]
async fn a_token_in_the_address_is_used_and_removed_and_a_wrong_one_is_asked_for_again() {
    let site = site_with_token().await;
    let daemon = site.start();
    let address = address(&daemon).await;
    for part in ["#token=", "?token="] {
        let browser = Browser::start(&[]).await;
        // Without a token, the page asks for it.
        browser.page.goto(&address).await.unwrap();
        browser
            .until("return document.activeElement.id === 'token' && document.getElementById('main').hidden")
            .await;
        browser.open(&format!("{address}{part}{TOKEN}")).await;
        assert_eq!(browser.page.current_url().await.unwrap().as_str(), address);
        // Other tabs have it.
        let tab = browser.page.new_window(true).await.unwrap();
        browser.page.switch_to_window(tab.handle).await.unwrap();
        browser.open(&address).await;
        browser.press("Pause north").await;
        browser
            .until("return document.querySelector('#watches .suspended').textContent === 'Paused'")
            .await;
        browser.press("Resume north").await;
        browser.page.close().await.unwrap();
    }
    let browser = Browser::start(&[]).await;
    browser
        .page
        .goto(&format!("{address}#token=lion"))
        .await
        .unwrap();
    browser
        .until("return document.getElementById('login-text').textContent === 'the token is wrong'")
        .await;
    assert_eq!(browser.page.current_url().await.unwrap().as_str(), address);
    browser.picture("token.png").await;
    browser
        .until("return document.activeElement.id === 'token'")
        .await;
    browser.type_keys(&format!("{TOKEN}{ENTER}")).await;
    browser
        .until("return !document.getElementById('main').hidden && document.getElementById('login').hidden")
        .await;
    // It is kept until it is forgotten on request.
    browser.open(&address).await;
    let forget = browser.page.find(Locator::Id("sign-out")).await.unwrap();
    forget.click().await.unwrap();
    browser
        .until("return !document.getElementById('login').hidden && localStorage.length === 0")
        .await;
    browser.page.close().await.unwrap();
    let (_, log) = daemon.stop().await;
    assert!(!log.contains(TOKEN), "{log}");
    drop(site);
}

#[tokio::test]
#[ignore = "needs Chromium and its driver (Debian: chromium, chromium-driver)"]
async fn the_page_shows_the_progress_of_a_run() {
    // Its last phase is a tenth of it, long enough for a busy machine.
    let builder = platform().run_duration(Duration::from_secs(50));
    let (mut site, folder) = Site::with_folder(builder).await;
    site.tables += "[web]\nlisten = \"127.0.0.1:0\"\n";
    let daemon = site.start();
    let address = address(&daemon).await;
    let browser = Browser::start(&["--window-size=1100,900"]).await;
    browser.open(&address).await;
    // A phase may be over before the next look at the page.
    browser
        .eval(
            "window.shown = '';
            const note = () => { window.shown += document.body.innerText; };
            new MutationObserver(note).observe(document.body, { childList: true, subtree: true, characterData: true, attributes: true });",
        )
        .await;
    for name in ["a.ifc", "b\u{202e}.ifc"] {
        write(&folder.join(name), name);
    }
    for text in [
        "2 of 2 files uploaded",
        "MasterFile, 0 of 1 job and 0 of 2 tasks done, now a.ifc",
        "MasterFile, 0 of 1 job and 1 of 2 tasks done, now b\\u{202e}.ifc",
        "ReferenceFile, 1 of 1 job and 2 of 2 tasks done",
    ] {
        let shown = serde_json::to_string(text).unwrap();
        browser
            .until(&format!("return window.shown.includes({shown})"))
            .await;
    }
    browser.picture("run.png").await;
    browser
        .until("return document.getElementById('batch').hidden")
        .await;
    browser.page.close().await.unwrap();
    daemon.stop().await;
}

/// The page reads its lists again when something changes, also while more files are on their way.
#[tokio::test]
#[ignore = "needs Chromium and its driver (Debian: chromium, chromium-driver)"]
async fn more_files_are_shown_although_something_changes_meanwhile() {
    let (site, folder) = site().await;
    for number in 0..230 {
        std::fs::write(folder.join(format!("empty {number}.ifc")), "").unwrap();
    }
    let daemon = site.start();
    let address = address(&daemon).await;
    let browser = Browser::start(&[]).await;
    browser.open(&address).await;
    browser
        .until("return document.title.startsWith('(230 failed) ')")
        .await;
    let shown = async |files: usize| {
        let count = "document.querySelectorAll('#groups .files > li').length";
        browser.until(&format!("return {count} === {files}")).await;
    };
    browser
        .eval("document.querySelector('#groups button[aria-expanded]').click()")
        .await;
    let more = "[...document.querySelectorAll('#groups button')].find((button) => button.textContent === 'Show more').click()";
    for files in [50, 100, 150] {
        shown(files).await;
        browser.eval(more).await;
    }
    shown(200).await;
    // The answer to the first request for more comes when the list was read again.
    browser
        .eval(
            "const real = window.fetch; let held = null; window.again = 0;
            window.fetch = (path, options) => {
                if (!String(path).startsWith('/api/v1/files?')) return real(path, options);
                if (held) { window.again += 1; return real(path, options); }
                return new Promise((answer) => { held = true; window.release = () => answer(real(path, options)); });
            };",
        )
        .await;
    browser.eval(more).await;
    std::fs::write(folder.join("empty, too.ifc"), "").unwrap();
    browser.until("return window.again > 0").await;
    browser.eval("window.release()").await;
    shown(231).await;
    browser.page.close().await.unwrap();
    daemon.stop().await;
}

#[tokio::test]
#[ignore = "needs Chromium and its driver (Debian: chromium, chromium-driver)"]
#[allow(clippy::too_many_lines, reason = "one visit to the page")]
async fn many_failures_are_grouped_searched_and_retried_with_the_keyboard() {
    let (mut site, folder) = site().await;
    let south = site.watch("south", DEFAULT_IMODEL_ID, "storage_folder = \"south\"");
    site.add_to_watches("");
    site.replace_in_watches(
        "name = \"north\"",
        "name = \"north\"\nstorage_folder = \"north\"",
    );
    for number in 0..500 {
        std::fs::write(folder.join(format!("empty {number:03}.ifc")), "").unwrap();
    }
    site.emulator.fail_task(TaskFault {
        file: "broken.ifc".to_owned(),
        result: "Failed".to_owned(),
        error: None,
        report: None,
        count: None,
    });
    write(&south.join("broken.ifc"), "broken");
    let daemon = site.start();
    let address = address(&daemon).await;
    let browser = Browser::start(&["--window-size=1400,900"]).await;
    browser.open(&address).await;
    browser
        .until("return document.querySelectorAll('#groups > li').length === 2 && document.title.startsWith('(501 failed) ')")
        .await;
    browser
        .until(
            "return document.querySelector('#groups h3').textContent === '500 files: it is empty'",
        )
        .await;
    browser.picture("groups.png").await;
    // The folder and the iModel of a watch are named; the emulator has no portal to link to.
    browser
        .until("return document.querySelector('#watches .place').textContent.endsWith('iModel Emulated iModel') && document.querySelectorAll('#watches a[href]').length === 0")
        .await;
    assert!(browser.text().await.contains(folder.to_str().unwrap()));

    // The files of a group, page by page.
    browser
        .eval("document.querySelector('#groups button[aria-expanded]').focus()")
        .await;
    browser.type_keys(ENTER).await;
    browser
        .until("return document.querySelectorAll('#groups .files > li').length === 50")
        .await;
    browser
        .eval("[...document.querySelectorAll('#groups button')].find(button => button.textContent === 'Show more').focus()")
        .await;
    browser.type_keys(ENTER).await;
    browser
        .until("return document.querySelectorAll('#groups .files > li').length === 100")
        .await;
    // A retry of one file leaves the focus where it is.
    browser
        .eval("document.querySelector('#groups .files .retry button').focus()")
        .await;
    let retried = browser.focused().await;
    assert!(retried.starts_with("Retry empty "), "{retried}");
    browser.type_keys(SPACE).await;
    let said = format!(
        "return document.getElementById('announcements').textContent.startsWith('{}')",
        retried.replace("Retry", "Retrying")
    );
    browser.until(&said).await;
    browser
        .until("return document.title.startsWith('(501 failed) ')")
        .await;
    let focused = browser.focused().await;
    assert!(focused.starts_with("Retry empty "), "{focused}");

    // So do commands of a watch.
    browser
        .eval("document.querySelector('button[aria-label=\"Pause south\"]').focus()")
        .await;
    browser.type_keys(SPACE).await;
    browser
        .until("return document.activeElement.getAttribute('aria-label') === 'Resume south'")
        .await;
    browser.type_keys(SPACE).await;
    browser
        .until("return document.activeElement.getAttribute('aria-label') === 'Pause south'")
        .await;

    // Search in paths and reasons.
    browser
        .eval("document.getElementById('filter-text').focus()")
        .await;
    browser.type_keys("EMPTY 49").await;
    browser
        .until("return document.querySelectorAll('#found .files > li').length === 10 && document.getElementById('groups').hidden")
        .await;
    browser.picture("search.png").await;
    browser
        .eval("const text = document.getElementById('filter-text'); text.value = ''; text.dispatchEvent(new Event('input'))")
        .await;
    browser
        .until("return !document.getElementById('groups').hidden")
        .await;

    // One button for the group; when the group ends, the focus moves to its neighbor.
    for number in 0..500 {
        let name = format!("empty {number:03}.ifc");
        if number > 0 {
            std::fs::remove_file(folder.join(name)).unwrap();
        } else {
            write(&folder.join(name), "house");
        }
    }
    browser
        .eval("document.querySelector('#groups .buttons button').focus()")
        .await;
    browser.type_keys(ENTER).await;
    browser
        .until("return document.querySelectorAll('#groups > li').length === 1")
        .await;
    let focused = browser.focused().await;
    assert!(focused.starts_with("Retry 1 file: "), "{focused}");

    // Every control can be reached without a mouse, and has a name.
    browser.open(&address).await;
    let names = "const name = e => e.getAttribute('aria-label') || e.textContent.trim() || (e.labels && e.labels.length && e.labels[0].textContent); \
                 return [...document.querySelectorAll('button, a[href], input, select, summary')].filter(e => e.checkVisibility() && (!name(e) || e.tabIndex < 0)).map(e => e.outerHTML)";
    assert_eq!(browser.eval(names).await, serde_json::json!([]));
    browser.type_keys(TAB).await;
    assert_eq!(
        browser
            .eval("return document.activeElement.textContent")
            .await,
        "Skip to content"
    );
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while browser.eval("return document.activeElement.id").await != "retry-all" {
        assert!(tokio::time::Instant::now() < deadline);
        browser.type_keys(TAB).await;
    }
    stopped(daemon, browser).await;
}
