//! The main job: a file that is saved in a folder gets into the iModel, once, whole, and in few runs.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use itwin_syncd::emulator::{
    DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID, Effect, Fault, RequestRecord, Switches, UpdateBlob,
};

use crate::support::{Daemon, Site, assert_in_imodel, eventually, platform, sha256, write};

const SECOND_IMODEL: &str = "bbbbbbbb-bbbb-4ccc-8ddd-eeeeeeeeeeee";
const THIRD_IMODEL: &str = "cccccccc-bbbb-4ccc-8ddd-eeeeeeeeeeee";

#[tokio::test]
async fn each_step_of_the_workflow_happens_once_and_in_order() {
    let (site, folder) = Site::with_folder(platform()).await;
    let daemon = site.start();
    write(&folder.join("bridge.ifc"), "deck");
    site.synchronized(1, &daemon).await;
    let steps: Vec<String> = site
        .emulator
        .requests()
        .iter()
        .filter(|request| !request.path.contains(".well-known"))
        .map(|request| {
            let path = request
                .path
                .split('/')
                .map(|part| if part.len() > 30 { "*" } else { part });
            format!(
                "{} {} {}",
                request.method,
                path.collect::<Vec<_>>().join("/"),
                request.status
            )
        })
        .collect();
    let mut once = steps.clone();
    once.dedup();
    let connections = "/synchronization/imodels/storageConnections";
    let expected = [
        "POST /connect/token 200".to_owned(),
        "GET /imodels/* 200".to_owned(),
        "GET /storage/ 200".to_owned(),
        // The claim of this ledger: it is looked for and created, and no other one is older.
        "GET /storage/folders/*/folders 200".to_owned(),
        "POST /storage/folders/*/folders 201".to_owned(),
        "GET /storage/folders/*/folders 200".to_owned(),
        "GET /storage/folders/*/files 200".to_owned(),
        "POST /storage/folders/*/files 202".to_owned(),
        "PUT /emulated/* 201".to_owned(),
        "POST /storage/files/*/complete 200".to_owned(),
        format!("GET {connections} 200"),
        format!("POST {connections} 201"),
        format!("GET {connections}/*/sourceFiles 200"),
        format!("POST {connections}/*/run 202"),
        format!("GET {connections}/*/runs/* 200"),
        // Whether storage still holds what the run should have read.
        "GET /storage/files/* 200".to_owned(),
    ];
    assert_eq!(once, expected, "{steps:#?}");
    let (status, log) = daemon.stop().await;
    assert!(status.success(), "{log}");
    let line = log
        .lines()
        .find(|line| line.contains("file synchronized"))
        .unwrap();
    for part in [
        "north",
        "bridge.ifc",
        "IFC",
        "synchronized",
        "bytes=4",
        "seconds=",
    ] {
        assert!(line.contains(part), "no {part} in {line}");
    }
}

#[tokio::test]
async fn six_hundred_files_of_four_watches_reach_three_imodels_in_few_runs() {
    let builder = platform()
        .itwin(DEFAULT_ITWIN_ID, "Project")
        .imodel(DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID, "First")
        .imodel(SECOND_IMODEL, DEFAULT_ITWIN_ID, "Second")
        .imodel(THIRD_IMODEL, DEFAULT_ITWIN_ID, "Third")
        .max_source_files(400);
    let mut site = Site::new(builder).await;
    site.tables = site
        .tables
        .replace("batch_window = \"300ms\"", "batch_window = \"1s\"");
    let daemon_folders = [
        ("one", DEFAULT_IMODEL_ID),
        ("two", DEFAULT_IMODEL_ID),
        ("three", SECOND_IMODEL),
        ("four", THIRD_IMODEL),
    ]
    .map(|(name, imodel)| {
        (
            name,
            site.watch(name, imodel, &format!("storage_folder = {name:?}")),
        )
    });
    let mut files = BTreeMap::new();
    for (name, folder) in &daemon_folders {
        for index in 0..150 {
            // Equal names in different folders and watches are different files.
            let path = format!(
                "{}/plan {}.dgn",
                ["north", "south", "."][index % 3],
                index / 3
            );
            let content = format!("{name} {index}");
            write(&folder.join(&path), &content);
            files.insert(format!("{name}/{path}").replace("/./", "/"), content);
        }
    }
    let daemon = site.start();
    site.synchronized(600, &daemon).await;
    let (status, log) = daemon.stop().await;
    assert!(status.success(), "{log}");
    let state = site.emulator.state();
    assert_in_imodel(&state, &files);
    assert!(
        state
            .files
            .values()
            .all(|file| file.completions == 1 && file.blob_writes == 1)
    );
    assert!(state.runs.len() <= 12, "{} runs", state.runs.len());
    // The root, those of the watches and in them, and the claims.
    assert_eq!(state.folders.len(), 1 + 4 + 8 + 4, "{:#?}", state.folders);
}

#[tokio::test]
async fn new_content_updates_the_storage_file_and_equal_content_is_sent_nowhere() {
    let (site, folder) = Site::with_folder(platform()).await;
    let path = folder.join("a/house.ifc");
    write(&path, "first");
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    let first = site.stored("a/house.ifc");

    write(&path, "second");
    let updated = || site.stored("a/house.ifc").completions == 2;
    eventually(updated, || daemon.log()).await;
    site.synchronized(1, &daemon).await;
    let second = site.stored("a/house.ifc");
    assert_eq!(second.id, first.id);
    let files = BTreeMap::from([("a/house.ifc".to_owned(), "second".to_owned())]);
    let ran = || site.emulator.state().runs.len() == 2;
    eventually(ran, || daemon.log()).await;
    eventually(
        || {
            site.emulator
                .state()
                .runs
                .values()
                .all(|run| run.state == "Completed")
        },
        || daemon.log(),
    )
    .await;
    assert_in_imodel(&site.emulator.state(), &files);

    let before = site.requests("PUT", "").len();
    write(&path, "second");
    daemon.says("unchanged").await;
    assert_eq!(site.requests("PUT", "").len(), before);
    assert_eq!(site.emulator.state().runs.len(), 2);
    daemon.stop().await;
}

#[tokio::test]
async fn a_file_that_grows_slowly_is_uploaded_once_and_whole() {
    let (site, folder) = Site::with_folder(platform()).await;
    let daemon = site.start();
    daemon.says("watch started").await;
    let mut file = std::fs::File::create(folder.join("survey.dxf")).unwrap();
    let mut content = String::new();
    // The pauses are part of what is tested: they are shorter than the settle time, the whole is longer.
    for part in 0..10 {
        let text = format!("part {part}\n");
        file.write_all(text.as_bytes()).unwrap();
        content += &text;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(file);
    site.synchronized(1, &daemon).await;
    let stored = site.stored("survey.dxf");
    assert_eq!(stored.completed.unwrap().sha256, sha256(content.as_bytes()));
    assert_eq!((stored.completions, stored.blob_writes), (1, 1));
    daemon.stop().await;
}

#[tokio::test]
async fn a_save_by_rename_is_uploaded_under_its_last_name_only() {
    let (site, folder) = Site::with_folder(platform()).await;
    let daemon = site.start();
    daemon.says("watch started").await;
    for content in ["first", "second"] {
        write(&folder.join("plan.dwg.tmp"), content);
        std::fs::rename(folder.join("plan.dwg.tmp"), folder.join("plan.dwg")).unwrap();
        let stored = || {
            let files = site.emulator.state().files;
            files.values().any(|file| {
                file.completed
                    .as_ref()
                    .is_some_and(|known| known.sha256 == sha256(content.as_bytes()))
            })
        };
        eventually(stored, || daemon.log()).await;
    }
    site.synchronized(1, &daemon).await;
    assert_eq!(site.emulator.state().files.len(), 1);
    assert_eq!(site.stored("plan.dwg").completions, 2);
    daemon.stop().await;
}

#[tokio::test]
async fn a_large_file_is_sent_in_blocks_and_arrives_complete() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.tables += "[upload]\nblock_size = \"1MiB\"\nmemory = \"4MiB\"\n";
    let content: Vec<u8> = (0..5_500_000_u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    std::fs::write(folder.join("city.nwd"), &content).unwrap();
    let done = site.run(&["run", "--once"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(
        site.stored("city.nwd").completed.unwrap().sha256,
        sha256(&content)
    );
    let puts = site.requests("PUT", "");
    assert_eq!(
        puts.iter()
            .filter(|put| put.query.contains("comp=block&"))
            .count(),
        6,
        "{puts:#?}"
    );
    assert_eq!(
        puts.iter()
            .filter(|put| put.query.contains("comp=blocklist"))
            .count(),
        1
    );
}

#[tokio::test]
async fn reference_files_are_uploaded_but_not_mapped_and_a_change_starts_a_run() {
    let mut site = Site::new(platform()).await;
    let folder = site.watch("north", DEFAULT_IMODEL_ID, "upload_only = [\"/xref/\"]");
    write(&folder.join("main.dgn"), "main");
    write(&folder.join("xref/detail.dgn"), "detail");
    let done = site.run(&["run", "--once"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(
        done.out.contains("1 synchronized") && done.out.contains("1 uploaded"),
        "{done:?}"
    );
    let connections = site.emulator.state().connections;
    let mapped: Vec<_> = connections
        .values()
        .flat_map(|one| &one.source_files)
        .collect();
    assert_eq!(mapped.len(), 1);
    assert_eq!(mapped[0].storage_file_id, site.stored("main.dgn").id);

    let runs = site.emulator.state().runs.len();
    write(&folder.join("xref/detail.dgn"), "another detail");
    let done = site.run(&["run", "--once"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(site.stored("xref/detail.dgn").completions, 2);
    assert_eq!(site.emulator.state().runs.len(), runs + 1);
}

#[tokio::test]
async fn files_without_a_connector_and_excluded_files_are_skipped() {
    let mut site = Site::new(platform()).await;
    let folder = site.watch(
        "north",
        DEFAULT_IMODEL_ID,
        "exclude = [\"*_old.*\"]\nconnectors = { dgn = \"CIVIL\", \"special/*\" = \"custom:NOVELTYPE\" }",
    );
    for name in [
        "a.dgn",
        "b_old.dgn",
        "notes.txt",
        "~$c.xlsx",
        "d.dwl",
        "special/e.xyz",
    ] {
        write(&folder.join(name), name);
    }
    std::os::unix::fs::symlink(folder.join("a.dgn"), folder.join("link.dgn")).unwrap();
    let done = site.run(&["run", "--once"]).await;
    assert_eq!(
        done.code,
        Some(1),
        "the emulator's connectors know no NOVELTYPE: {done:?}"
    );
    let state = site.emulator.state();
    let mut paths: Vec<_> = state
        .files
        .values()
        .map(|file| file.path.as_str())
        .collect();
    paths.sort_unstable();
    assert_eq!(paths, ["a.dgn", "special/e.xyz"]);
    let mut types: Vec<_> = state
        .connections
        .values()
        .flat_map(|one| &one.source_files)
        .map(|file| file.connector_type.as_str())
        .collect();
    types.sort_unstable();
    assert_eq!(types, ["CIVIL", "NOVELTYPE"]);
}

#[tokio::test]
async fn the_first_result_with_a_guessed_connector_says_so_and_how_to_change_it() {
    let mut site = Site::new(platform()).await;
    let folder = site.watch("north", DEFAULT_IMODEL_ID, "storage_folder = \"North\"");
    let confirmed = site.watch(
        "south",
        DEFAULT_IMODEL_ID,
        "storage_folder = \"South\"\nconnectors = { zip = \"SPPID\" }",
    );
    write(&folder.join("plant.zip"), "plant");
    write(&confirmed.join("plant.zip"), "plant");
    let daemon = site.start();
    site.synchronized(2, &daemon).await;
    write(&folder.join("parcels.zip"), "parcels");
    write(&folder.join("shaft.step"), "shaft");
    site.synchronized(4, &daemon).await;
    let (_, log) = daemon.stop().await;
    let guesses: Vec<_> = log
        .lines()
        .filter(|line| line.contains("connector type is a guess"))
        .collect();
    let [zip, step] = guesses[..] else {
        panic!("{guesses:#?}");
    };
    for part in ["plant.zip", "north", "SPPID", "any archive", "exclude = "] {
        assert!(zip.contains(part), "no {part}: {zip}");
    }
    assert!(step.contains("shaft.step"), "{step}");
}

#[tokio::test]
async fn an_extension_that_the_platform_does_not_document_may_fail_and_the_log_says_why() {
    let (site, folder) = Site::with_folder(platform()).await;
    let mut switches = Switches::default();
    switches.set("undocumented-extension", "failed").unwrap();
    site.emulator.set_switches(switches);
    write(&folder.join("shaft.step"), "shaft");
    let done = site.run(&["run", "--once"]).await;
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(
        done.err.contains("MSTN does not read shaft.step"),
        "{done:?}"
    );
    assert!(done.err.contains("connector type is a guess"), "{done:?}");
}

#[tokio::test]
async fn a_run_of_another_client_is_waited_for_and_never_taken_for_ours() {
    let (site, folder) = Site::with_folder(platform()).await;
    // Long enough for a busy machine to come as far as the run.
    let foreign = site
        .emulator
        .start_foreign_run(DEFAULT_IMODEL_ID, Duration::from_secs(10));
    write(&folder.join("house.ifc"), "house");
    let daemon = site.start();
    daemon.says("another run of the iModel is active").await;
    site.synchronized(1, &daemon).await;
    let answers: Vec<u16> = site
        .requests("POST", "/run")
        .iter()
        .map(|request| request.status)
        .collect();
    assert_eq!(answers.first(), Some(&303));
    assert_eq!(answers.last(), Some(&202));
    let status = site.status().await;
    assert_ne!(status["north/house.ifc"]["run"], serde_json::json!(foreign));
    let files = BTreeMap::from([("house.ifc".to_owned(), "house".to_owned())]);
    assert_in_imodel(&site.emulator.state(), &files);
    daemon.stop().await;
}

#[tokio::test]
async fn a_file_that_changes_during_its_run_gets_exactly_one_further_run() {
    let (site, folder) = Site::with_folder(platform().run_duration(Duration::from_secs(2))).await;
    write(&folder.join("house.ifc"), "one");
    let daemon = site.start();
    daemon.says("run requested").await;
    write(&folder.join("house.ifc"), "two, longer");
    eventually(
        || {
            site.emulator
                .state()
                .runs
                .values()
                .filter(|run| run.state == "Completed")
                .count()
                == 2
        },
        || daemon.log(),
    )
    .await;
    site.synchronized(1, &daemon).await;
    let files = BTreeMap::from([("house.ifc".to_owned(), "two, longer".to_owned())]);
    assert_in_imodel(&site.emulator.state(), &files);
    assert_eq!(site.emulator.state().runs.len(), 2);
    daemon.stop().await;
}

#[tokio::test]
async fn a_file_that_is_saved_again_during_every_upload_ends_as_it_was_saved_last() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.top = "settle = \"50ms\"\nupload_interval = \"0s\"\n".to_owned();
    let effect = Effect::Latency {
        ms: 30,
        jitter_ms: 60,
    };
    site.emulator.fault(Fault::on("PUT *").effect(effect));
    let daemon = site.start();
    // By hand: SAVES=1000.
    let saves: usize = std::env::var("SAVES").map_or(60, |saves| saves.parse().unwrap());
    let mut saved = std::collections::BTreeSet::new();
    for save in 0..saves {
        let content = format!("save {save} ").repeat(1000);
        saved.insert(sha256(content.as_bytes()));
        let before = site.requests("POST", "").len();
        write(&folder.join("house.ifc"), &content);
        // The next one comes while this one is on its way.
        eventually(|| site.requests("POST", "").len() > before, || daemon.log()).await;
    }
    // And the last one surely, after the bytes of the one before were read.
    site.emulator.clear_faults();
    site.emulator
        .fault(Fault::on("PUT *").latency(Duration::from_millis(2000)));
    for save in [saves, saves + 1] {
        let content = format!("save {save} ").repeat(1000);
        saved.insert(sha256(content.as_bytes()));
        let updates = || site.requests("POST", "/updateContent").len();
        let before = updates();
        write(&folder.join("house.ifc"), &content);
        if save == saves {
            eventually(|| updates() > before, || daemon.log()).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
    let last = sha256(format!("save {} ", saves + 1).repeat(1000).as_bytes());
    let current = || {
        let stored = site.stored("house.ifc").completed;
        stored.is_some_and(|stored| stored.sha256 == last)
    };
    eventually(current, || daemon.log()).await;
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
    let covered = site
        .emulator
        .state()
        .runs
        .into_values()
        .flat_map(|run| run.covered);
    for content in covered {
        assert!(
            saved.contains(&content.sha256),
            "a run read what was never saved"
        );
    }
}

/// A site whose only worker is busy for two seconds with one of these files, its daemon, and the file that waits.
async fn one_behind_the_other() -> (Site, std::path::PathBuf, Daemon, &'static str) {
    let (mut site, folder) = Site::with_folder(platform()).await;
    "settle = \"1s\"\nupload_interval = \"0s\"\n".clone_into(&mut site.top);
    site.tables += "[upload]\nworkers = 1\n";
    site.emulator.fault(
        Fault::on("PUT *")
            .latency(Duration::from_millis(2000))
            .times(1),
    );
    for name in ["one.ifc", "two.ifc"] {
        write(&folder.join(name), name);
    }
    let daemon = site.start();
    eventually(|| first(&site).is_some(), || daemon.log()).await;
    let waiting = match first(&site).unwrap().path.as_str() {
        "one.ifc" => "two.ifc",
        _ => "one.ifc",
    };
    (site, folder, daemon, waiting)
}

/// A file in storage, of which there is one at first.
fn first(site: &Site) -> Option<itwin_syncd::emulator::File> {
    site.emulator.state().files.into_values().next()
}

#[tokio::test]
async fn a_file_that_changes_while_queued_settles_again_before_it_is_sent() {
    let (site, folder, daemon, waiting) = one_behind_the_other().await;
    let mut file = std::fs::File::options()
        .append(true)
        .open(folder.join(waiting))
        .unwrap();
    let mut content = waiting.to_owned();
    // Until its turn has come and gone.
    let mut parts_after = 0;
    while parts_after < 5 {
        file.write_all(b", part").unwrap();
        content += ", part";
        tokio::time::sleep(Duration::from_millis(300)).await;
        parts_after += u32::from(
            site.emulator
                .state()
                .files
                .values()
                .any(|file| file.completed.is_some()),
        );
    }
    drop(file);
    site.synchronized(2, &daemon).await;
    daemon.stop().await;
    let stored = site.stored(waiting);
    assert_eq!(stored.blob_writes, 1, "nothing half was sent");
    assert_eq!(stored.completed.unwrap().sha256, sha256(content.as_bytes()));
}

#[tokio::test]
async fn a_file_deleted_while_queued_is_dropped_from_the_queue() {
    let (site, folder, daemon, waiting) = one_behind_the_other().await;
    std::fs::remove_file(folder.join(waiting)).unwrap();
    daemon.says("file was deleted before it was uploaded").await;
    let done = || {
        let runs = site.emulator.state().runs;
        runs.values().any(|run| run.state == "Completed")
    };
    eventually(done, || daemon.log()).await;
    daemon.stop().await;
    assert_eq!(site.emulator.state().files.len(), 1);
    let output = site.status().await;
    let gone = output.get(&format!("north/{waiting}"));
    assert!(
        gone.is_none_or(|file| file["result"] == "vanished"),
        "{output:#?}"
    );
}

/// Requests that sent a block, in their order.
fn blocks(site: &Site) -> Vec<RequestRecord> {
    let mut puts = site.requests("PUT", "");
    puts.retain(|put| put.query.contains("comp=block&"));
    puts
}

#[tokio::test]
async fn an_upload_that_was_interrupted_sends_only_what_storage_does_not_have() {
    const BLOCKS: usize = 60;
    const IN_FLIGHT: usize = 4;
    for update_blob in [UpdateBlob::Fresh, UpdateBlob::Same] {
        for (percent, cut) in [
            (10, Cut::Kill),
            (50, Cut::Kill),
            (99, Cut::Kill),
            (50, Cut::Network),
        ] {
            let mut switches = Switches::default();
            switches.update_blob = update_blob;
            let (mut site, folder) = Site::with_folder(platform().switches(switches)).await;
            site.tables += "[upload]\nblock_size = \"64KiB\"\nmemory = \"512KiB\"\n";
            let effect = Effect::Latency {
                ms: 15,
                jitter_ms: 10,
            };
            site.emulator.fault(Fault::on("PUT *").effect(effect));
            let content: Vec<u8> = (0..BLOCKS * 16 * 1024)
                .flat_map(|at| u32::try_from(at).unwrap().to_le_bytes())
                .collect();
            std::fs::write(folder.join("city.nwd"), &content).unwrap();
            let mut daemon = site.start();
            let until = BLOCKS * percent / 100;
            let far = || blocks(&site).len() >= until;
            eventually(far, || daemon.log()).await;
            match cut {
                Cut::Kill => {
                    daemon.kill().await;
                    daemon = site.start();
                }
                Cut::Network => {
                    // Longer than it is tried in place.
                    site.emulator.fault(Fault::on("PUT *").reset().times(12));
                }
            }
            site.synchronized(1, &daemon).await;
            daemon.stop().await;
            let what = format!("{update_blob:?} {percent} % {cut:?}");
            assert_eq!(
                site.stored("city.nwd").completed.unwrap().sha256,
                sha256(&content),
                "{what}"
            );
            let taken = blocks(&site).iter().filter(|put| put.status == 201).count();
            assert!(
                taken <= BLOCKS + IN_FLIGHT,
                "{what}: {taken} blocks were taken"
            );
            assert_eq!(site.stored("city.nwd").completions, 1, "{what}");
            // The address went with the upload.
            let left = std::fs::read_dir(site.path("state/unfinished")).unwrap();
            assert_eq!(left.count(), 0, "{what}");
        }
    }
}

/// How an upload is interrupted.
#[derive(Debug, Clone, Copy)]
enum Cut {
    Kill,
    Network,
}

#[tokio::test]
async fn an_upload_url_that_expires_during_an_upload_is_renewed_and_keeps_its_blocks() {
    for (update_blob, sent_again) in [(UpdateBlob::Same, false), (UpdateBlob::Fresh, true)] {
        let mut switches = Switches::default();
        switches.update_blob = update_blob;
        let (mut site, folder) = Site::with_folder(platform().switches(switches)).await;
        site.tables += "[upload]\nblock_size = \"64KiB\"\nmemory = \"512KiB\"\n";
        site.emulator.fault(
            Fault::on("PUT *")
                .status(403)
                .header("x-ms-error-code", "AuthenticationFailed")
                .skip(15)
                .times(1),
        );
        let content = vec![7; 30 * 64 * 1024];
        std::fs::write(folder.join("city.nwd"), &content).unwrap();
        let daemon = site.start();
        site.synchronized(1, &daemon).await;
        daemon.stop().await;
        assert_eq!(
            site.stored("city.nwd").completed.unwrap().sha256,
            sha256(&content)
        );
        let taken = blocks(&site).iter().filter(|put| put.status == 201).count();
        assert_eq!(taken > 34, sent_again, "{update_blob:?}: {taken}");
    }
}

#[tokio::test]
async fn uploads_stay_within_the_bandwidth_limit_of_the_hour() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.tables +=
        "[upload]\nrate = [{ from = \"00:00\", to = \"00:00\", limit = \"512KiB/s\" }]\n";
    std::fs::write(folder.join("city.nwd"), vec![7; 1536 * 1024]).unwrap();
    let daemon = site.start();
    site.synchronized(1, &daemon).await;
    daemon.stop().await;
    let created = site.requests("POST", "/files")[0].time;
    let completed = site.requests("POST", "/complete")[0].time;
    let took = completed.duration_since(created);
    assert!(took >= jiff::SignedDuration::from_millis(2500), "{took:?}");
}
