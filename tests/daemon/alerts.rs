//! Where failures are reported, how often, and what is never part of a message.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use serde_json::Value;

use crate::support::{Site, eventually, platform, write};

/// A word in the address of the receiver that must not be shown.
const TIGER: &str = "T00/tiger";

/// Receives the messages of alerts.
#[derive(Clone, Default)]
struct Receiver {
    output: Arc<Mutex<Vec<(String, Value)>>>,
    /// How many requests are refused first.
    refuse: Arc<Mutex<u32>>,
}

impl Receiver {
    /// Listens, and returns its address.
    async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(take).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("http://{address}/{TIGER}")
    }

    fn output(&self) -> Vec<(String, Value)> {
        self.output.lock().unwrap().clone()
    }

    fn events(&self) -> Vec<String> {
        let output = self.output();
        let event = |output: &Value| output["event"].as_str().unwrap_or_default().to_owned();
        output.iter().map(|(_, body)| event(body)).collect()
    }
}

async fn take(State(receiver): State<Receiver>, uri: Uri, body: String) -> StatusCode {
    let mut refuse = receiver.refuse.lock().unwrap();
    if *refuse > 0 {
        *refuse -= 1;
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let body = serde_json::from_str(&body).unwrap_or_default();
    receiver
        .output
        .lock()
        .unwrap()
        .push((uri.path().to_owned(), body));
    StatusCode::OK
}

#[tokio::test]
async fn a_burst_of_failures_sends_one_alert_across_a_restart_and_then_a_resolved_message() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    let receiver = Receiver::default();
    *receiver.refuse.lock().unwrap() = 1;
    let url = receiver.start().await;
    site.tables += &format!("[[alert]]\nname = \"team\"\nurl = {url:?}\ngroup = \"3s\"\n");
    for n in 0..5 {
        write(&folder.join(format!("{n}.ifc")), "");
    }
    write(&folder.join("good.ifc"), "good");
    let daemon = site.start();
    daemon.says("cannot deliver the alert").await;
    eventually(|| receiver.events().len() == 1, || daemon.log()).await;
    let output = &receiver.output()[0].1;
    assert_eq!(output["event"], "problem", "{output:#}");
    assert_eq!(output["total"], 5, "{output:#}");
    let problems = output["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 5, "{output:#}");
    assert_eq!(problems[0]["watch"], "north");
    assert!(
        problems[0]["reason"]
            .as_str()
            .unwrap()
            .contains("it is empty"),
        "{output:#}"
    );
    daemon.says("alert sent").await;
    let (_, mut log) = daemon.stop().await;

    let daemon = site.start();
    for n in 0..5 {
        write(&folder.join(format!("{n}.ifc")), "mended");
    }
    site.synchronized(6, &daemon).await;
    eventually(|| receiver.events().len() == 2, || daemon.log()).await;
    assert_eq!(receiver.events(), ["problem", "resolved"]);
    log += &daemon.stop().await.1;
    assert!(log.contains("http://127.0.0.1/…"), "{log}");
    assert!(!log.contains("tiger"), "{log}");
}

#[tokio::test]
async fn a_page_that_cannot_be_served_raises_an_alert_until_it_can() {
    let (mut site, _folder) = Site::with_folder(platform()).await;
    let receiver = Receiver::default();
    let url = receiver.start().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    site.tables += &format!(
        "[web]\nlisten = \"{address}\"\n[[alert]]\nname = \"team\"\nurl = {url:?}\ngroup = \"1s\"\n"
    );
    let daemon = site.start();
    eventually(|| receiver.events().len() == 1, || daemon.log()).await;
    let message = &receiver.output()[0].1;
    assert_eq!(message["problems"][0]["kind"], "page", "{message:#}");
    let title = message["title"].as_str().unwrap();
    assert!(
        title.ends_with("the status page cannot be served"),
        "{title}"
    );
    let reason = message["problems"][0]["reason"].as_str().unwrap();
    assert!(reason.contains(&address.to_string()), "{message:#}");
    drop(taken);
    eventually(
        || receiver.events() == ["problem", "resolved"],
        || daemon.log(),
    )
    .await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_command_alert_gets_text_and_reminders_and_no_secret() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    let out = site.path("output");
    let script = format!(
        "{{ echo \"event $ITWIN_SYNCD_EVENT\"; cat; env; }} >> {}",
        out.display()
    );
    site.tables += &format!(
        "[[alert]]\nname = \"mail\"\ncommand = [\"sh\", \"-c\", {script:?}]\ngroup = \"0s\"\nremind = \"1s\"\n"
    );
    write(&folder.join("empty.ifc"), "");
    let daemon = site.start();
    let output = || std::fs::read_to_string(&out).unwrap_or_default();
    eventually(
        || output().contains("event reminder"),
        || format!("{}{}", output(), daemon.log()),
    )
    .await;
    let text = output();
    assert!(text.contains("event problem"), "{text}");
    assert!(
        text.contains("1 file failed\nnorth: \"empty.ifc\": cannot upload"),
        "{text}"
    );
    assert!(
        text.contains("  hint: save the file with content"),
        "{text}"
    );
    assert!(!text.contains(crate::support::SECRET), "{text}");
    daemon.stop().await;
}

#[tokio::test]
async fn an_unreachable_folder_is_reported_in_the_formats_of_teams_and_slack() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    let receiver = Receiver::default();
    let url = receiver.start().await;
    for shape in ["teams", "slack"] {
        site.tables += &format!(
            "[[alert]]\nname = {shape:?}\nurl = \"{url}/{shape}\"\nformat = {shape:?}\ngroup = \"0s\"\n"
        );
    }
    let daemon = site.start();
    daemon.says("scan finished").await;
    std::fs::rename(&folder, site.path("away")).unwrap();
    eventually(|| receiver.output().len() >= 2, || daemon.log()).await;
    daemon.stop().await;
    for (path, body) in receiver.output() {
        let text = body.to_string();
        assert!(text.contains("folder unavailable"), "{body:#}");
        if path.ends_with("teams") {
            assert_eq!(body["attachments"][0]["content"]["type"], "AdaptiveCard");
        } else {
            assert!(
                body["text"].is_string() && body["blocks"].is_array(),
                "{body:#}"
            );
        }
    }
}

#[tokio::test]
async fn the_heartbeat_is_sent_as_long_as_the_service_works() {
    let (mut site, _folder) = Site::with_folder(platform()).await;
    let receiver = Receiver::default();
    let url = receiver.start().await;
    site.tables += &format!("[heartbeat]\nurl = {url:?}\ninterval = \"1s\"\n");
    let daemon = site.start();
    eventually(|| receiver.output().len() >= 2, || daemon.log()).await;
    daemon.stop().await;
}
