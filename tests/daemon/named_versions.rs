//! Named versions: after each run or once a day, with the changeset, and never at the cost of a file.

use std::path::PathBuf;
use std::time::Duration;

use itwin_syncd::emulator::{DEFAULT_IMODEL_ID, Fault, NamedVersion, TaskFault};

use sqlx::Connection as _;

use super::other_client::{OtherClient, shared_platform};
use super::support::{Daemon, Site, eventually, platform, write};
use super::windows::Clock;

/// The points at which the creation of a named version may be killed.
#[cfg(feature = "failpoints")]
pub(super) const POINTS: [&str; 3] = [
    "named version intended",
    "named version answered",
    "named version recorded",
];

const ROUTE: &str = "POST /imodels/*/namedversions";

/// A site whose iModel gets named versions, and its folder.
async fn site(named_version: &str) -> (Site, PathBuf) {
    let (mut site, folder) = Site::with_folder(platform()).await;
    request(&mut site, named_version);
    (site, folder)
}

fn request(site: &mut Site, named_version: &str) {
    site.tables += &format!(
        "[[imodel]]\nid = \"{DEFAULT_IMODEL_ID}\"\nnamed_version = {{ {named_version} }}\n"
    );
}

/// An error of the platform.
fn envelope(code: &str) -> String {
    format!("{{\"error\":{{\"code\":\"{code}\",\"message\":\"refused\"}}}}")
}

fn versions(site: &Site) -> Vec<NamedVersion> {
    site.emulator.state().imodels[DEFAULT_IMODEL_ID]
        .named_versions
        .clone()
}

fn names(site: &Site) -> Vec<String> {
    let versions = versions(site).into_iter();
    versions.map(|version| version.name).collect()
}

/// Waits until the status has this text.
async fn shows(site: &Site, daemon: &Daemon, text: &str) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let shown = site.run(&["status"]).await.out;
        if shown.contains(text) {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{shown}\n{}",
            daemon.log()
        );
        daemon.logs_more().await;
    }
}

#[tokio::test]
async fn each_run_gets_a_named_version_of_its_changeset() {
    let (site, folder) =
        site("when = \"each\", name = \"{watch} {count} {run}\", description = \"{files}\"").await;
    let checked = site.run(&["check"]).await.out;
    assert!(
        checked.contains("gets a named version after each run"),
        "{checked}"
    );
    write(&folder.join("a.dgn"), "a");
    write(&folder.join("b/c.ifc"), "c");
    let daemon = site.start();
    eventually(|| versions(&site).len() == 1, || daemon.log()).await;
    let state = site.emulator.state();
    let run = state.runs.values().next().unwrap().id.clone();
    let version = &versions(&site)[0];
    assert_eq!(version.name, format!("north 2 {run}"));
    assert_eq!(version.description.as_deref(), Some("a.dgn, b/c.ifc"));
    let changesets = &state.imodels[DEFAULT_IMODEL_ID].changesets;
    assert_eq!(
        version.changeset_id.as_deref(),
        Some(changesets[0].id.as_str())
    );
    shows(
        &site,
        &daemon,
        &format!("named version \"north 2 {run}\", 2 files"),
    )
    .await;
    daemon.says("named version created").await;

    // Only what came since.
    write(&folder.join("a.dgn"), "a, changed");
    eventually(|| versions(&site).len() == 2, || daemon.log()).await;
    assert_eq!(versions(&site)[1].description.as_deref(), Some("a.dgn"));
    assert_eq!(versions(&site)[1].changeset_index, 2);
    let explained = site
        .run(&["explain", folder.join("a.dgn").to_str().unwrap()])
        .await;
    assert!(
        explained
            .out
            .contains("named version of the iModel: after each run"),
        "{explained:?}"
    );
    daemon.stop().await;
}

#[tokio::test]
async fn a_run_with_a_failed_file_is_named_only_if_the_configuration_says_so() {
    for (keys, expected) in [("", 0), (", when_partial = true", 1)] {
        let (site, folder) = site(&format!("when = \"each\", name = \"one\"{keys}")).await;
        site.emulator.fail_task(TaskFault {
            file: "bad.dgn".to_owned(),
            result: "Error".to_owned(),
            error: None,
            report: None,
            count: None,
        });
        write(&folder.join("good.dgn"), "good");
        write(&folder.join("bad.dgn"), "bad");
        let daemon = site.start();
        daemon.says("run finished").await;
        daemon.stop().await;
        // Whatever was left to do is done before this ends.
        site.run(&["run", "--once"]).await;
        assert_eq!(versions(&site).len(), expected, "{keys}");
    }
}

#[tokio::test]
async fn a_taken_name_gets_a_number_and_after_nine_the_reason_is_shown() {
    let (site, folder) = site("when = \"each\", name = \"Issue\"").await;
    let daemon = site.start();
    for round in 1..=9 {
        write(&folder.join("a.dgn"), &"a".repeat(round));
        eventually(|| versions(&site).len() == round, || daemon.log()).await;
    }
    assert_eq!(names(&site)[..3], ["Issue", "Issue (2)", "Issue (3)"]);
    assert_eq!(names(&site)[8], "Issue (9)");
    write(&folder.join("a.dgn"), "once more");
    shows(&site, &daemon, "numbers up to 9 are taken").await;
    site.synchronized(1, &daemon).await;
    let metrics = site.run(&["status", "--json"]).await.out;
    assert!(metrics.contains("\"reason\""), "{metrics}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_changeset_that_has_a_named_version_already_is_no_failure() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    let without = site.tables.clone();
    request(&mut site, "when = \"each\", name = \"first\"");
    write(&folder.join("a.dgn"), "a");
    assert_eq!(site.run(&["run", "--once"]).await.code, Some(0));
    assert_eq!(names(&site), ["first"]);
    // Without the ledger the file is run again, which brings no new content, so there is no new changeset.
    site.tables = without;
    std::fs::remove_dir_all(site.path("state")).unwrap();
    request(&mut site, "when = \"each\", name = \"second\"");
    let daemon = site.start();
    shows(
        &site,
        &daemon,
        "the newest changeset has a named version already",
    )
    .await;
    assert_eq!(names(&site), ["first"]);
    daemon.stop().await;
}

#[tokio::test]
async fn a_named_version_whose_response_was_lost_is_found_by_its_name() {
    let (site, folder) = site("when = \"each\", name = \"Issue {time}\"").await;
    site.emulator
        .fault(Fault::on(ROUTE).reset().after_effect().times(1));
    write(&folder.join("a.dgn"), "a");
    let daemon = site.start();
    daemon.says("created by an earlier request").await;
    shows(&site, &daemon, "named version \"Issue").await;
    assert_eq!(versions(&site).len(), 1);
    assert_eq!(site.requests("POST", "/namedversions").len(), 1);
    daemon.stop().await;
}

#[tokio::test]
async fn a_refused_named_version_fails_no_file_and_is_shown_with_what_to_do() {
    for (status, code, words) in [
        (403, "InsufficientPermissions", "imodels_write"),
        (404, "iModelNotFound", "404 iModelNotFound"),
        (422, "InvalidiModelsRequest", "change named_version"),
    ] {
        let (site, folder) = site("when = \"each\", name = \"Issue\"").await;
        site.emulator
            .fault(Fault::on(ROUTE).status(status).body(envelope(code)));
        write(&folder.join("a.dgn"), "a");
        let daemon = site.start();
        shows(&site, &daemon, words).await;
        site.synchronized(1, &daemon).await;
        daemon.stop().await;
        assert!(versions(&site).is_empty());
        assert_eq!(site.requests("POST", "/namedversions").len(), 1, "{status}");
        // Refused for good: the same request is not repeated, also not after a restart.
        site.run(&["run", "--once"]).await;
        let expected = if status == 422 { 1 } else { 2 };
        assert_eq!(
            site.requests("POST", "/namedversions").len(),
            expected,
            "{status}"
        );
    }
}

#[tokio::test]
async fn a_daily_version_is_created_at_the_next_start_if_its_time_was_missed() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    // A time that has just passed, so that it does not come during the test.
    let now = jiff::Timestamp::now().to_zoned_datetime(jiff::tz::TimeZone::system());
    let past = (now - jiff::SignedDuration::from_mins(2))
        .strftime("%H:%M")
        .to_string();
    request(&mut site, &format!("when = \"{past}\", name = \"Daily\""));
    write(&folder.join("a.dgn"), "a");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
    assert!(versions(&site).is_empty());

    // As if the file had been synchronized the day before.
    let ledger = format!("sqlite://{}", site.path("state/ledger.db").display());
    let mut ledger = sqlx::SqliteConnection::connect(&ledger).await.unwrap();
    sqlx::query("UPDATE named_version_files SET at = at - 86400000")
        .execute(&mut ledger)
        .await
        .unwrap();
    ledger.close().await.unwrap();
    let daemon = site.start();
    eventually(|| versions(&site).len() == 1, || daemon.log()).await;
    shows(&site, &daemon, "named version \"Daily\", 1 file").await;
    daemon.stop().await;
    assert_eq!(names(&site), ["Daily"]);
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_kill_between_any_two_steps_creates_one_named_version_for_each_changeset() {
    for point in POINTS {
        let (site, folder) = site("when = \"each\", name = \"{date}\"").await;
        write(&folder.join("a.dgn"), "a");
        let daemon = site.start_with(&[("ITWIN_SYNCD_FAILPOINT", point)]);
        assert!(
            daemon.ended_by_itself_within(Duration::from_secs(60)).await,
            "{point} was never reached"
        );
        let daemon = site.start();
        shows(&site, &daemon, "named version \"").await;
        assert_eq!(versions(&site).len(), 1, "{point}");
        // What comes later gets its own.
        write(&folder.join("a.dgn"), "a, changed");
        eventually(|| versions(&site).len() == 2, || daemon.log()).await;
        daemon.stop().await;
        let date = &names(&site)[0];
        assert_eq!(names(&site)[1], format!("{date} (2)"));
    }
}

#[tokio::test]
async fn an_imodel_without_a_changeset_gets_no_named_version_and_is_asked_once() {
    let (site, folder) = site("when = \"each\", name = \"{run}\"").await;
    let route = "GET /imodels/*/changesets";
    let nothing = Fault::on(route)
        .status(200)
        .body("{\"changesets\":[],\"_links\":{}}")
        .times(1);
    site.emulator.fault(nothing);
    write(&folder.join("a.dgn"), "a");
    let daemon = site.start();
    daemon.says("the iModel has no changeset").await;
    shows(&site, &daemon, "the iModel has no changeset").await;
    site.synchronized(1, &daemon).await;
    assert!(site.requests("POST", "/namedversions").is_empty());
    assert_eq!(site.requests("GET", "/changesets").len(), 1);
    write(&folder.join("a.dgn"), "a, changed");
    eventually(|| versions(&site).len() == 1, || daemon.log()).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_daily_version_waits_for_the_end_of_a_run_of_another_client() {
    let platform = shared_platform().run_duration(Duration::from_secs(5));
    let (mut site, folder) = Site::with_folder(platform).await;
    request(&mut site, "when = \"12:00\", name = \"Noon\"");
    let clock = Clock::new(&site);
    clock.set(11);
    write(&folder.join("a.dgn"), "a");
    let daemon = clock.start(&site);
    site.synchronized(1, &daemon).await;
    let other = OtherClient::signs_in(&site.emulator).await;
    let file = other.stores("theirs").await;
    let connection = other.connects("theirs", &file).await.unwrap();
    daemon.stop().await;
    assert!(other.runs(&connection).await);
    // A jump of the clock of a running service is not time that passes.
    clock.set(13);
    let daemon = clock.start(&site);
    let looked = || site.requests("GET", &format!("{connection}/runs")).len();
    eventually(|| looked() > 0, || daemon.log()).await;
    assert!(versions(&site).is_empty());
    eventually(|| !versions(&site).is_empty(), || daemon.log()).await;
    let runs = site.emulator.state().runs;
    let theirs = runs.values().find(|run| run.connection_id == connection);
    assert_eq!(theirs.unwrap().state, "Completed", "{theirs:?}");
    daemon.stop().await;
}
