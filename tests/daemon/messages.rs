//! What the program prints in its main situations, as snapshots: the report of `check`, and the log from the start to
//! the stop. Values that differ from run to run are replaced.

use crate::support::{Site, eventually, platform, write};

/// Replaces paths, ports, ids, times and versions.
fn settings(site: &Site) -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    let folder = site.path("").display().to_string();
    settings.add_filter(folder.trim_end_matches('/'), "SITE");
    settings.add_filter(r"(127\.0\.0\.1|localhost):\d+", "HOST:PORT");
    settings.add_filter(
        r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        "UUID",
    );
    settings.add_filter(r"(?m)^\d{4}-\S+ ", "");
    settings.add_filter(r"seconds=\S+", "seconds=N");
    settings.add_filter(r#"version="[^"]*"|version=\S+"#, "version=V");
    settings.add_filter(r"attempt \d+, next \S+( \S+)?", "attempt N, next TIME");
    settings.add_filter(r#"next="[^"]*""#, "next=TIME");
    settings
}

#[tokio::test]
async fn the_report_of_check() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    let good = site.run(&["check"]).await.out;
    site.secret = "lion".to_owned();
    std::fs::remove_dir(&folder).unwrap();
    let bad = site.run(&["check"]).await.out;
    settings(&site).bind(|| insta::assert_snapshot!(format!("{good}\n{bad}")));
}

#[tokio::test]
async fn the_log_from_the_start_to_the_stop() {
    let (site, folder) = Site::with_folder(platform()).await;
    let daemon = site.start();
    daemon.says("scan finished").await;
    write(&folder.join("house.ifc"), "house");
    site.synchronized(1, &daemon).await;
    write(&folder.join("house.ifc"), "house, with a roof");
    let again = || site.stored("house.ifc").completions == 2;
    eventually(again, || daemon.log()).await;
    site.synchronized(1, &daemon).await;
    write(&folder.join("empty.ifc"), "");
    daemon.says("empty.ifc").await;
    let (_, log) = daemon.stop().await;
    // What is logged at debug, and when a scan ends, depends on the moment.
    let lines = log
        .lines()
        .filter(|line| !line.contains("DEBUG") && !line.contains("scan finished"));
    let lines: Vec<_> = lines.collect();
    settings(&site).bind(|| insta::assert_snapshot!(lines.join("\n")));
}
