//! How many requests the daemon needs: an application has a limited number per minute.

use std::collections::BTreeMap;
use std::time::Duration;

use itwin_syncd::emulator::{DEFAULT_ITWIN_ID, RequestRecord};
use tokio::time::Instant;

use crate::support::{PATIENCE, Site, eventually, platform, write};

/// Requests to the API by kind: ids in the path are left out.
fn by_kind(requests: &[RequestRecord]) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for request in requests.iter().filter(|request| request.origin == "api") {
        let words = request.path.split('/').filter(|word| !word.is_empty());
        let path: Vec<&str> = words
            .map(|word| {
                let is_id = word.len() > 20 || word.contains(|c: char| c.is_ascii_digit());
                if is_id { "*" } else { word }
            })
            .collect();
        *kinds
            .entry(format!("{} {}", request.method, path.join("/")))
            .or_default() += 1;
    }
    kinds
}

/// Runs and what follows them go by the time that the platform takes.
fn is_of_a_run(kind: &str) -> bool {
    kind.ends_with("/run") || kind.contains("/runs")
}

#[tokio::test]
async fn a_first_upload_of_many_files_creates_and_completes_each_and_asks_for_little_else() {
    const FILES: usize = 250;
    const FOLDERS: usize = 5;
    let (site, folder) = Site::with_folder(platform()).await;
    for number in 0..FILES {
        let path = format!("part {}/drawing {number}.dgn", number % FOLDERS);
        write(&folder.join(path), &format!("drawing {number}"));
    }
    let daemon = site.start();
    site.synchronized(FILES, &daemon).await;
    daemon.stop().await;
    let requests = site.emulator.requests();
    let kinds = by_kind(&requests);
    let count: usize = kinds
        .iter()
        .filter(|(kind, _)| !is_of_a_run(kind))
        .map(|(_, count)| count)
        .sum();
    assert!(count * 10 <= FILES * 22, "{count} requests: {kinds:#?}");
    // Nothing is read twice before anything has changed there, and the claim of the folder again after 30 s.
    let time = requests[requests.len() - 1]
        .time
        .duration_since(requests[0].time);
    let claim_read_again = usize::try_from(time.as_secs() / 29).unwrap();
    for (kind, most) in [
        ("POST connect/token", 1),
        ("GET imodels/*", 1),
        ("GET storage", 1),
        // Of the folder of the iTwin, before the claim is created and after it: a page with it, and one that shows that
        // there is no more.
        ("GET storage/folders/*/folders", 3 + 2 * claim_read_again),
        ("POST storage/folders/*/folders", FOLDERS + 1),
        // After the run, once for each folder: a page with its files, and one that shows that there are no more.
        ("GET storage/folders/*/files", FOLDERS * 2),
        ("POST storage/folders/*/files", FILES),
        ("POST storage/files/*/complete", FILES),
        ("GET synchronization/imodels/storageConnections", 1),
        ("POST synchronization/imodels/storageConnections", 1),
        (
            "POST synchronization/imodels/storageConnections/*/sourceFiles",
            0,
        ),
    ] {
        let found = kinds.get(kind).copied().unwrap_or(0);
        assert!(found <= most, "{found} × {kind}: {kinds:#?}");
    }
}

#[tokio::test]
async fn an_idle_daemon_asks_once_per_interval_and_imodel() {
    const IMODELS: usize = 10;
    const INTERVAL: Duration = Duration::from_millis(300);
    /// How many requests of each iModel are counted: two rounds of turns.
    const COUNTED: usize = 24;
    let id = |number: usize| format!("aaaaaaaa-0000-4000-8000-{number:012}");
    let mut builder = platform();
    for number in 0..IMODELS {
        builder = builder.imodel(&id(number), DEFAULT_ITWIN_ID, &format!("Imodel {number}"));
    }
    let mut site = Site::new(builder).await;
    site.top += &format!("rescan_interval = \"{}ms\"\n", INTERVAL.as_millis());
    for number in 0..IMODELS {
        let folder = site.watch(
            &format!("watch{number}"),
            &id(number),
            &format!("storage_folder = \"Folder {number}\""),
        );
        write(&folder.join("drawing.dgn"), "drawing");
    }
    let daemon = site.start();
    site.synchronized(IMODELS, &daemon).await;
    // Everything was read for the run. So the first check of each connection reads its source files and nothing else.
    let connections: Vec<String> = site.emulator.state().connections.keys().cloned().collect();
    assert_eq!(connections.len(), IMODELS);
    let first_after_run = |connection: &String| {
        let requests = site.emulator.requests();
        let of_it = requests.into_iter().map(|request| request.path);
        let of_it: Vec<String> = of_it
            .filter(|path| path.contains(connection.as_str()))
            .collect();
        let run = of_it.iter().rposition(|path| path.contains("/runs"))?;
        of_it.into_iter().nth(run + 1)
    };
    for connection in &connections {
        let checked = || first_after_run(connection).is_some();
        eventually(checked, || daemon.log()).await;
        let first = first_after_run(connection).unwrap();
        assert!(first.contains("/sourceFiles"), "{first}");
    }
    let before = site.emulator.requests().len();
    let began = Instant::now();
    while site.emulator.requests().len() < before + COUNTED * IMODELS {
        assert!(began.elapsed() < PATIENCE, "{}", daemon.log());
        tokio::time::sleep(INTERVAL / 10).await;
    }
    let intervals = began.elapsed().as_secs_f64() / INTERVAL.as_secs_f64();
    daemon.stop().await;
    let kinds = by_kind(&site.emulator.requests()[before..]);
    // A slow machine has fewer requests in an interval, never more. The count may begin before a part that takes three.
    assert!(
        intervals > 0.85 * f64::from(u32::try_from(COUNTED).unwrap()),
        "{COUNTED} requests of each iModel in {intervals} intervals: {kinds:#?}"
    );
}
