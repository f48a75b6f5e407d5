//! Settings of connections and iModels: set before a run, corrected, followed by one run, and never silently refused.

use std::path::PathBuf;
use std::time::Duration;

use itwin_syncd::emulator::{DEFAULT_IMODEL_ID, Fault, Switches};
use serde_json::{Value, json};

use super::other_client::{OtherClient, shared_platform};
use super::support::{Daemon, Site, eventually, write};

/// The points at which a change of settings may be killed.
#[cfg(feature = "failpoints")]
pub(super) const POINTS: [&str; 2] = ["settings about to change", "settings changed"];

const SHEETS: &str = "[watch.settings]\nenable_sheets_and_drawings = true\n";

const CONNECTION_SETTINGS: &str = "/synchronization/configurations/connections/*";

/// A site whose watch has more keys at its end, and its folder.
async fn site(keys: &str) -> (Site, PathBuf) {
    let mut site = Site::new(shared_platform()).await;
    // The regular check must not wait for an hour.
    site.top += "rescan_interval = \"2s\"\n";
    let folder = site.watch("north", DEFAULT_IMODEL_ID, keys);
    write(&folder.join("a.dgn"), "a");
    (site, folder)
}

/// What the platform has for a scope whose name begins like this.
fn there(site: &Site, scope: &str) -> Value {
    let state = site.emulator.state();
    let mut found = state.configurations.iter();
    let found = found.find(|(name, _)| name.starts_with(scope));
    found.map_or(Value::Null, |(_, settings)| json!(settings))
}

fn runs(site: &Site) -> usize {
    site.emulator.state().runs.len()
}

/// How often settings were sent, by method.
fn sent(site: &Site, method: &str) -> usize {
    let mut requests = site.emulator.requests();
    requests.retain(|request| {
        request.method == method && request.path.contains("/synchronization/configurations/")
    });
    requests.len()
}

/// Waits until everything is done and stays so for a few of the regular checks.
async fn settles(site: &Site, daemon: &Daemon) {
    site.synchronized(1, daemon).await;
    let reads = sent(site, "GET");
    eventually(|| sent(site, "GET") >= reads + 3, || daemon.log()).await;
}

fn refusal(code: &str) -> String {
    format!("{{\"error\":{{\"code\":\"{code}\",\"message\":\"refused\"}}}}")
}

#[tokio::test]
async fn settings_are_on_the_platform_before_the_first_run_starts() {
    let (site, _) = site(SHEETS).await;
    let checked = site.run(&["check"]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    for words in [
        "technology preview",
        "set before its first run: enableSheetsAndDrawings = true",
    ] {
        assert!(checked.out.contains(words), "{checked:?}");
    }
    let daemon = site.start();
    settles(&site, &daemon).await;
    assert_eq!(
        there(&site, "connections/"),
        json!({ "enableSheetsAndDrawings": true })
    );
    let requests = site.emulator.requests();
    let at = |method: &str, words: &str| {
        let found = requests.iter().position(|request| {
            request.method == method && request.path.to_lowercase().contains(words)
        });
        found.unwrap_or_else(|| panic!("{method} {words}: {requests:#?}"))
    };
    assert!(at("POST", "/configurations/connections/") < at("POST", "/run"));
    // It is read again and again, and written once.
    assert_eq!((sent(&site, "POST"), sent(&site, "PATCH")), (1, 0));
    assert_eq!(runs(&site), 1);
    let checked = site.run(&["check"]).await.out;
    assert!(
        checked.contains("as configured, enableSheetsAndDrawings = true"),
        "{checked}"
    );
    daemon.stop().await;
}

#[tokio::test]
async fn settings_that_are_as_configured_are_never_written() {
    let (mut site, _) = site("").await;
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
    let other = OtherClient::signs_in(&site.emulator).await;
    let connection = other.connection().unwrap();
    let before = json!({ "enableSheetsAndDrawings": true, "ignoreDgnAttachments": true });
    other
        .creates_settings(&format!("connections/{connection}"), &before)
        .await;
    let posts = sent(&site, "POST");
    site.add_to_watches(SHEETS);
    let daemon = site.start();
    settles(&site, &daemon).await;
    daemon.stop().await;
    assert_eq!((sent(&site, "POST"), sent(&site, "PATCH")), (posts, 0));
    assert_eq!(
        there(&site, "connections/"),
        before,
        "the setting of another client stays"
    );
    assert_eq!(runs(&site), 1);
}

#[tokio::test]
async fn a_changed_setting_is_followed_by_one_run_and_a_removed_one_stays_on_the_platform() {
    let (mut site, _) = site(SHEETS).await;
    let daemon = site.start();
    settles(&site, &daemon).await;
    site.replace_in_watches(
        "enable_sheets_and_drawings = true",
        "enable_sheets_and_drawings = true\nignore_dgn_attachments = true",
    );
    site.config();
    daemon.signal("HUP");
    eventually(|| runs(&site) == 2, || daemon.log()).await;
    settles(&site, &daemon).await;
    let both = json!({ "enableSheetsAndDrawings": true, "ignoreDgnAttachments": true });
    assert_eq!(there(&site, "connections/"), both);
    assert_eq!((sent(&site, "POST"), sent(&site, "PATCH")), (1, 1));
    assert_eq!(runs(&site), 2);

    site.replace_in_watches("\nignore_dgn_attachments = true", "");
    site.config();
    daemon.signal("HUP");
    settles(&site, &daemon).await;
    daemon.stop().await;
    assert_eq!(there(&site, "connections/"), both);
    assert_eq!(runs(&site), 2);
}

#[tokio::test]
async fn a_setting_that_another_client_changed_or_deleted_is_corrected_at_the_next_check() {
    let (site, _) = site(SHEETS).await;
    let daemon = site.start();
    settles(&site, &daemon).await;
    let other = OtherClient::signs_in(&site.emulator).await;
    let scope = format!("connections/{}", other.connection().unwrap());
    other
        .changes_settings(&scope, &json!({ "enableSheetsAndDrawings": false }))
        .await;
    eventually(|| runs(&site) == 2, || daemon.log()).await;
    settles(&site, &daemon).await;
    assert_eq!(
        there(&site, "connections/"),
        json!({ "enableSheetsAndDrawings": true })
    );
    assert_eq!(runs(&site), 2);
    other.deletes_settings(&scope).await;
    eventually(|| runs(&site) == 3, || daemon.log()).await;
    settles(&site, &daemon).await;
    daemon.stop().await;
    assert_eq!(
        there(&site, "connections/"),
        json!({ "enableSheetsAndDrawings": true })
    );
    assert_eq!(runs(&site), 3);
}

#[tokio::test]
async fn settings_deleted_between_reading_and_writing_are_created() {
    let (site, _) = site(SHEETS).await;
    let daemon = site.start();
    settles(&site, &daemon).await;
    let gone = Fault::on(format!("PATCH {CONNECTION_SETTINGS}"));
    site.emulator
        .fault(gone.status(404).body(refusal("ConfigurationNotFound")));
    let other = OtherClient::signs_in(&site.emulator).await;
    let scope = format!("connections/{}", other.connection().unwrap());
    // Its own change passes as a new configuration.
    other
        .creates_settings(&scope, &json!({ "enableSheetsAndDrawings": false }))
        .await;
    eventually(|| runs(&site) == 2, || daemon.log()).await;
    daemon.stop().await;
    assert_eq!(
        there(&site, "connections/"),
        json!({ "enableSheetsAndDrawings": true })
    );
}

#[tokio::test]
async fn a_setting_that_the_platform_refuses_is_shown_with_its_line_and_no_run_starts() {
    for (switch, words) in [
        (
            "refused",
            "422 InvalidConfigurationRequest: The setting levitate is unknown.",
        ),
        ("ignored", "does not have levitate = true"),
    ] {
        let (mut site, _) =
            site("[watch.settings]\nlevitate = true\nenable_sheets_and_drawings = true\n").await;
        let mut switches = Switches::default();
        switches.set("unknown-setting", switch).unwrap();
        site.emulator.set_switches(switches);
        let text = std::fs::read_to_string(site.config()).unwrap();
        let line = text
            .lines()
            .position(|line| line.starts_with("levitate"))
            .unwrap()
            + 1;
        let daemon = site.start();
        site.shows(words, &daemon).await;
        let hint = format!("hint: correct or remove levitate (line {line}) in [watch.settings]");
        site.shows(&hint, &daemon).await;
        daemon.says(words).await;
        let files = site.status().await;
        assert_eq!(files["north/a.dgn"]["state"], "stored", "{files:#?}");
        assert_eq!(runs(&site), 0);
        let metrics = site.run(&["status", "--json"]).await.out;
        assert!(metrics.contains("levitate"), "{metrics}");

        // Doing what the hint says ends it.
        site.replace_in_watches("levitate = true\n", "");
        site.config();
        daemon.signal("HUP");
        site.synchronized(1, &daemon).await;
        let status = site.run(&["status"]).await.out;
        assert!(!status.contains("levitate"), "{status}");
        assert_eq!(runs(&site), 1);
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_single_pass_ends_while_a_setting_is_refused_and_again_when_it_is_corrected() {
    let (mut site, _) = site("[watch.settings]\nlevitate = true\n").await;
    let pass = site.run(&["run", "--once"]).await;
    assert_ne!(pass.code, Some(0), "{pass:?}");
    assert!(
        pass.err.contains("The setting levitate is unknown"),
        "{pass:?}"
    );
    assert_eq!(runs(&site), 0);
    site.replace_in_watches("levitate = true", "enable_sheets_and_drawings = true");
    let pass = site.run(&["run", "--once"]).await;
    assert_eq!(pass.code, Some(0), "{pass:?}");
    assert_eq!(runs(&site), 1);
}

#[tokio::test]
async fn a_refused_setting_delays_no_other_connection() {
    let (mut site, _) = site("[watch.settings]\nlevitate = true\n").await;
    let keys = "storage_folder = \"south\"\nconnection = \"south\"\n";
    let south = site.watch("south", DEFAULT_IMODEL_ID, keys);
    site.replace_in_watches(
        "name = \"north\"",
        "name = \"north\"\nstorage_folder = \"north\"",
    );
    write(&south.join("b.dgn"), "b");
    let daemon = site.start();
    site.shows("The setting levitate is unknown", &daemon).await;
    eventually(|| runs(&site) == 1, || daemon.log()).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while site.status().await["south/b.dgn"]["result"] != "synchronized" {
        assert!(tokio::time::Instant::now() < deadline, "{}", daemon.log());
    }
    daemon.stop().await;
}

#[tokio::test]
async fn failures_that_pass_are_tried_again_and_shown_only_if_they_last() {
    let (site, _) = site(SHEETS).await;
    for status in [429, 500] {
        let fault = Fault::on(format!("POST {CONNECTION_SETTINGS}")).status(status);
        site.emulator.fault(fault.times(1));
    }
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    assert_eq!(
        there(&site, "connections/"),
        json!({ "enableSheetsAndDrawings": true })
    );
    site.emulator
        .fault(Fault::on(format!("GET {CONNECTION_SETTINGS}")).status(503));
    site.shows(
        "settings of connection \"itwin-syncd\" not applied, runs wait: get settings: 503",
        &daemon,
    )
    .await;
    site.emulator.clear_faults();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while site.run(&["status"]).await.out.contains("not applied") {
        assert!(tokio::time::Instant::now() < deadline, "{}", daemon.log());
    }
    assert_eq!(runs(&site), 1);
    daemon.stop().await;
}

#[tokio::test]
async fn an_interface_that_is_not_enabled_is_named_with_what_to_do() {
    for (status, code, words) in [
        (
            403,
            "InsufficientPermissions",
            "ask Bentley whether it is enabled for this iTwin, or remove [watch.settings]",
        ),
        (
            404,
            "ResourceNotFound",
            "a technology preview that this platform does not offer",
        ),
    ] {
        let (site, _) = site(SHEETS).await;
        let fault = Fault::on(format!("* {CONNECTION_SETTINGS}"));
        site.emulator
            .fault(fault.status(status).body(refusal(code)));
        let daemon = site.start();
        site.shows(words, &daemon).await;
        let checked = site.run(&["check"]).await;
        assert_eq!(checked.code, Some(1), "{checked:?}");
        assert!(checked.out.contains(code), "{checked:?}");
        daemon.stop().await;
    }
}

#[tokio::test]
async fn settings_of_an_imodel_are_set_before_those_of_its_connections() {
    let (mut site, folder) = site(SHEETS).await;
    let table = |distance: u32| {
        format!(
            "[[imodel]]\nid = \"{DEFAULT_IMODEL_ID}\"\n[imodel.settings]\n\
             clamp_z_extent = true\noverride_rvt_reprojection_distance = {distance}\n"
        )
    };
    let before = site.tables.clone();
    site.tables += &table(500);
    let daemon = site.start();
    settles(&site, &daemon).await;
    let expected = json!({ "clampZExtent": true, "overrideRvtReprojectionDistance": 500 });
    assert_eq!(there(&site, "imodels/"), expected);
    let posts: Vec<String> = site
        .emulator
        .requests()
        .into_iter()
        .filter(|request| request.method == "POST" && request.path.contains("/configurations/"))
        .map(|request| request.path)
        .collect();
    assert!(
        posts[0].contains("/imodels/") && posts[1].contains("/connections/"),
        "{posts:?}"
    );
    let explained = site
        .run(&["explain", folder.join("a.dgn").to_str().unwrap()])
        .await
        .out;
    for words in [
        "settings of the iModel: clampZExtent = true, overrideRvtReprojectionDistance = 500",
        "settings of the connection: enableSheetsAndDrawings = true",
    ] {
        assert!(explained.contains(words), "{explained}");
    }
    site.tables = before + &table(600);
    site.config();
    daemon.signal("HUP");
    eventually(|| runs(&site) == 2, || daemon.log()).await;
    settles(&site, &daemon).await;
    daemon.stop().await;
    assert_eq!(
        there(&site, "imodels/")["overrideRvtReprojectionDistance"],
        600
    );
    assert_eq!(runs(&site), 2);
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_kill_around_a_change_of_settings_costs_no_run_and_adds_none() {
    for point in POINTS {
        let (mut site, _) = site("").await;
        let daemon = site.start();
        site.synchronized(1, &daemon).await;
        daemon.stop().await;
        site.add_to_watches(SHEETS);
        let daemon = site.start_with(&[("ITWIN_SYNCD_FAILPOINT", point)]);
        assert!(
            daemon.ended_by_itself_within(Duration::from_secs(60)).await,
            "{point} was never reached"
        );
        assert_eq!(runs(&site), 1, "{point}");
        let daemon = site.start();
        eventually(|| runs(&site) == 2, || daemon.log()).await;
        settles(&site, &daemon).await;
        daemon.stop().await;
        assert_eq!(
            there(&site, "connections/"),
            json!({ "enableSheetsAndDrawings": true })
        );
        assert_eq!(runs(&site), 2, "{point}");
    }
}
