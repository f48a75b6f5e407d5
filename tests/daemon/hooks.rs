//! Hooks: every result reaches the receiver at least once and in order, whatever fails in between.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use itwin_syncd::emulator::DEFAULT_IMODEL_ID;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::support::{Site, eventually, platform, write};

/// A message is delivered, and that is not recorded.
pub const DELIVERED: &str = "hook message delivered";

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Receives messages, and refuses every second request.
#[derive(Clone, Default)]
struct Receiver {
    /// Delivery id, signature and body of each accepted message.
    taken: Arc<Mutex<Vec<(String, String, Value)>>>,
    requests: Arc<Mutex<u32>>,
    refuses: Arc<Mutex<Refuses>>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Refuses {
    #[default]
    Nothing,
    EverySecond,
    All,
}

impl Receiver {
    /// Listens on an address, or on a free one.
    async fn start(&self, address: Option<SocketAddr>) -> (SocketAddr, JoinHandle<()>) {
        // On an address of its own, so that nobody takes the port while the receiver is down.
        let address =
            address.unwrap_or_else(|| ([127, 1, fastrand::u8(..), fastrand::u8(1..255)], 0).into());
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(take).with_state(self.clone());
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (address, serving)
    }

    fn refuse(&self, refuses: Refuses) {
        *self.refuses.lock().unwrap() = refuses;
    }

    fn bodies(&self) -> Vec<Value> {
        let taken = self.taken.lock().unwrap();
        taken.iter().map(|(_, _, body)| body.clone()).collect()
    }

    /// Paths with their results, in the order in which they came.
    fn results(&self) -> Vec<String> {
        let bodies = self.bodies();
        let files = bodies.iter().filter_map(|body| body["files"].as_array());
        let text = |file: &Value| {
            let word = |key: &str| file[key].as_str().unwrap_or_default().to_owned();
            format!("{} {}", word("path"), word("result"))
        };
        files.flatten().map(text).collect()
    }
}

async fn take(State(receiver): State<Receiver>, headers: HeaderMap, body: String) -> StatusCode {
    let refused = {
        let mut requests = receiver.requests.lock().unwrap();
        *requests += 1;
        match *receiver.refuses.lock().unwrap() {
            Refuses::Nothing => false,
            Refuses::EverySecond => *requests % 2 == 1,
            Refuses::All => true,
        }
    };
    if refused {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let header = |name: &str| {
        let value = headers.get(name).map(|value| value.to_str().unwrap());
        value.unwrap_or_default().to_owned()
    };
    let parsed = serde_json::from_str(&body).unwrap();
    let taken = (
        header("ITwin-Syncd-Delivery"),
        header("ITwin-Syncd-Signature"),
        parsed,
    );
    receiver.taken.lock().unwrap().push(taken);
    StatusCode::NO_CONTENT
}

fn hook(site: &mut Site, address: SocketAddr, keys: &str) {
    site.tables += &format!("[[hook]]\nname = \"build\"\nurl = \"http://{address}/tiger\"\n{keys}");
}

#[tokio::test]
async fn results_of_a_run_are_one_signed_message() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    let receiver = Receiver::default();
    let (address, _serving) = receiver.start(None).await;
    let secret = site.path("hook-secret");
    std::fs::write(&secret, "key\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&secret, mode).unwrap();
    hook(&mut site, address, &format!("secret_file = {secret:?}\n"));
    let daemon = site.start();
    daemon.says("scan finished").await;
    write(&folder.join("a.ifc"), "a");
    write(&folder.join("b.ifc"), "b");
    site.synchronized(2, &daemon).await;
    eventually(|| receiver.results().len() == 2, || daemon.log()).await;
    let (_, log) = daemon.stop().await;
    assert!(!log.contains("tiger"), "{log}");
    let (delivery, signature, body) = receiver.taken.lock().unwrap()[0].clone();
    assert_eq!(body["event"], "run", "{body:#}");
    assert_eq!(body["delivery"], delivery.as_str(), "{body:#}");
    assert!(signature.starts_with("sha256="), "{signature}");
    let file = &body["files"][0];
    assert_eq!(file["watch"], "north", "{body:#}");
    assert_eq!(file["imodel_id"], DEFAULT_IMODEL_ID, "{body:#}");
    assert_eq!(file["connector"], "IFC", "{body:#}");
    let stored = site.stored(file["path"].as_str().unwrap()).id;
    assert_eq!(file["storage_file_id"], stored.as_str(), "{body:#}");
    for key in ["itwin_id", "connection_id", "source_file_id", "run_id"] {
        assert!(file[key].is_string(), "{key}: {body:#}");
    }
    // As `printf … | openssl dgst -sha256 -hmac key` does.
    let mut openssl = std::process::Command::new("openssl");
    let text = site.path("body");
    std::fs::write(&text, body.to_string()).unwrap();
    let openssl = openssl.args(["dgst", "-sha256", "-hmac", "key"]).arg(&text);
    if let Ok(output) = openssl.output() {
        let output = String::from_utf8(output.stdout).unwrap();
        let signed = output.trim().rsplit(' ').next().unwrap();
        assert_eq!(signature, format!("sha256={signed}"));
    }
}

#[tokio::test]
async fn a_named_version_is_a_message_with_its_changeset_and_follows_its_run() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    let receiver = Receiver::default();
    let (address, _serving) = receiver.start(None).await;
    site.tables += &format!(
        "[[imodel]]\nid = \"{DEFAULT_IMODEL_ID}\"\nnamed_version = {{ when = \"each\", name = \"Issue {{run}}\" }}\n"
    );
    hook(&mut site, address, "on = [\"run\", \"version\"]\n");
    let daemon = site.start();
    daemon.says("scan finished").await;
    write(&folder.join("a.ifc"), "a");
    eventually(|| receiver.bodies().len() == 2, || daemon.log()).await;
    daemon.stop().await;
    // The next start repeats nothing.
    let daemon = site.start();
    write(&folder.join("a.ifc"), "a, changed");
    eventually(|| receiver.bodies().len() == 4, || daemon.log()).await;
    daemon.stop().await;
    let bodies = receiver.bodies();
    let created = site.emulator.state().imodels[DEFAULT_IMODEL_ID]
        .named_versions
        .clone();
    for (pair, created) in bodies.chunks(2).zip(&created) {
        let [run, version] = pair else { unreachable!() };
        assert_eq!(run["event"], "run", "{run:#}");
        assert_eq!(version["event"], "version", "{version:#}");
        assert_eq!(version["run_id"], run["run_id"], "{version:#}");
        let version = &version["named_version"];
        assert_eq!(version["id"], created.id.as_str(), "{version:#}");
        assert_eq!(version["name"], created.name.as_str(), "{version:#}");
        let changeset = created.changeset_id.as_deref();
        assert_eq!(version["changeset_id"].as_str(), changeset, "{version:#}");
        assert_eq!(version["files"], 1, "{version:#}");
        assert_eq!(version["watches"][0], "north", "{version:#}");
    }
    assert_eq!(created.len(), 2);
}

#[tokio::test]
async fn every_result_arrives_in_order_although_receiver_and_daemon_are_killed() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    let receiver = Receiver::default();
    let (address, mut serving) = receiver.start(None).await;
    receiver.refuse(Refuses::EverySecond);
    hook(&mut site, address, "on = [\"file\"]\n");
    let mut daemon = site.start();
    daemon.says("scan finished").await;
    let mut expected = Vec::new();
    for round in 0..6 {
        serving.abort();
        assert!(serving.await.is_err(), "it served until here");
        let name = format!("{round}.ifc");
        // An empty file fails before any run.
        let content = if round == 3 { "" } else { "content" };
        write(&folder.join(&name), content);
        let result = if round == 3 { "failed" } else { "synchronized" };
        expected.push(format!("{name} {result}"));
        let has = || receiver.results().contains(&expected[round]);
        match round % 3 {
            // Between delivery and record.
            0 => {
                daemon.kill().await;
                let at = [("ITWIN_SYNCD_FAILPOINT", DELIVERED)];
                let failing = site.start_with(&at);
                serving = receiver.start(Some(address)).await.1;
                assert!(failing.ended_by_itself_within(PATIENCE).await);
                daemon = site.start();
            }
            // Before the delivery.
            1 => {
                daemon.says("cannot deliver the message of the hook").await;
                daemon.kill().await;
                daemon = site.start();
                serving = receiver.start(Some(address)).await.1;
            }
            _ => serving = receiver.start(Some(address)).await.1,
        }
        eventually(has, || daemon.log()).await;
    }
    daemon.stop().await;
    let mut seen = receiver.results();
    let taken = receiver.taken.lock().unwrap().clone();
    assert!(
        seen.len() > expected.len(),
        "nothing was repeated: {seen:?}"
    );
    seen.dedup();
    assert_eq!(seen, expected);
    // What is repeated has the same delivery id.
    for (delivery, _, body) in &taken {
        let same = taken
            .iter()
            .filter(|(_, _, other)| other["files"] == body["files"]);
        assert!(
            same.clone().all(|(other, _, _)| other == delivery),
            "{taken:?}"
        );
    }
}

#[tokio::test]
async fn a_hook_whose_messages_are_refused_is_shown_until_one_is_delivered() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    let receiver = Receiver::default();
    let (address, _serving) = receiver.start(None).await;
    receiver.refuse(Refuses::All);
    hook(&mut site, address, "");
    let daemon = site.start();
    daemon.says("scan finished").await;
    write(&folder.join("a.ifc"), "a");
    site.shows(
        "ATTENTION: messages of hook \"build\" not delivered",
        &daemon,
    )
    .await;
    let shown = site.run(&["status", "--json"]).await;
    assert_eq!(shown.code, Some(1), "{shown:?}");
    let json: Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!(json["undelivered"][0]["receiver"], "hook \"build\"");
    assert!(!shown.out.contains("tiger"), "{shown:?}");
    receiver.refuse(Refuses::Nothing);
    site.shows("OK: nothing needs attention", &daemon).await;
    assert_eq!(receiver.results(), ["a.ifc synchronized"]);
    daemon.stop().await;
}

#[tokio::test]
async fn a_message_is_dropped_after_three_days_and_the_next_one_follows() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    let receiver = Receiver::default();
    let (address, _serving) = receiver.start(None).await;
    receiver.refuse(Refuses::All);
    hook(&mut site, address, "");
    let clock = site.path("clock");
    let clock_variable = [("ITWIN_SYNCD_CLOCK", clock.to_str().unwrap())];
    let daemon = site.start_with(&clock_variable);
    daemon.says("scan finished").await;
    write(&folder.join("a.ifc"), "a");
    daemon.says("cannot deliver the message of the hook").await;
    daemon.stop().await;
    std::fs::write(&clock, (4 * 86_400).to_string()).unwrap();
    let daemon = site.start_with(&clock_variable);
    daemon.says("message of the hook dropped").await;
    receiver.refuse(Refuses::Nothing);
    write(&folder.join("b.ifc"), "b");
    eventually(|| !receiver.bodies().is_empty(), || daemon.log()).await;
    assert_eq!(receiver.results(), ["b.ifc synchronized"]);
    daemon.stop().await;
}

#[tokio::test]
async fn a_day_is_summed_up_once_also_when_the_service_was_down_at_that_time() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    let receiver = Receiver::default();
    let (address, _serving) = receiver.start(None).await;
    // Not at this time of day.
    let now = jiff::Timestamp::now().to_zoned_datetime(jiff::tz::TimeZone::UTC);
    let hour = (now.hour() + 12) % 24;
    hook(
        &mut site,
        address,
        &format!("on = [\"day\"]\ndigest_at = \"{hour:02}:00\"\n"),
    );
    let clock = site.path("clock");
    let clock_variable = [
        ("ITWIN_SYNCD_CLOCK", clock.to_str().unwrap()),
        ("TZ", "UTC"),
    ];
    let daemon = site.start_with(&clock_variable);
    daemon.says("scan finished").await;
    write(&folder.join("a.ifc"), "a");
    write(&folder.join("empty.ifc"), "");
    daemon.says("result=\"failed\"").await;
    daemon.says("result=\"synchronized\"").await;
    assert!(receiver.bodies().is_empty());
    daemon.stop().await;
    std::fs::write(&clock, "86400").unwrap();
    let daemon = site.start_with(&clock_variable);
    eventually(|| !receiver.bodies().is_empty(), || daemon.log()).await;
    let body = receiver.bodies().remove(0);
    assert_eq!(body["event"], "day", "{body:#}");
    assert_eq!(body["results"]["synchronized"], 1, "{body:#}");
    assert_eq!(body["problems"][0]["path"], "empty.ifc", "{body:#}");
    daemon.stop().await;
    let daemon = site.start_with(&clock_variable);
    daemon.says("scan finished").await;
    write(&folder.join("b.ifc"), "b");
    daemon.says("result=\"synchronized\"").await;
    daemon.stop().await;
    assert_eq!(receiver.bodies().len(), 1);
}

#[tokio::test]
async fn a_hook_sends_what_it_is_for_to_a_program_or_a_chat() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.replace_in_watches("imodel_id", "storage_folder = \"North\"\nimodel_id");
    site.watch("south", DEFAULT_IMODEL_ID, "storage_folder = \"South\"\n");
    let receiver = Receiver::default();
    let (address, _serving) = receiver.start(None).await;
    hook(&mut site, address, "format = \"slack\"\non = [\"file\"]\n");
    let out = site.path("output");
    site.tables += &format!(
        "[[hook]]\nname = \"program\"\non = [\"file\"]\nresults = [\"failed\"]\nwatches = [\"north\"]\n\
         command = [\"sh\", \"-c\", \"cat >> {}\"]\n",
        out.display()
    );
    let daemon = site.start();
    daemon.says("scan finished watch=\"south\"").await;
    write(&site.path("south").join("empty.ifc"), "");
    write(&folder.join("a.ifc"), "a");
    write(&folder.join("none.ifc"), "");
    eventually(|| receiver.bodies().len() == 3, || daemon.log()).await;
    let output = || std::fs::read_to_string(&out).unwrap_or_default();
    eventually(|| output().contains("none.ifc"), || daemon.log()).await;
    daemon.stop().await;
    assert!(receiver.bodies()[0]["blocks"].is_array());
    assert!(
        !output().contains("a.ifc") && !output().contains("south"),
        "{}",
        output()
    );
}
