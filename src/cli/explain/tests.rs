//! The explanations of paths, recorded as snapshots.

use std::fs;

use super::*;
use crate::config::Environment;
use crate::connection_name::ConnectionName;
use crate::ledger::WatchSpec;

const WATCH: &str = "[[watch]]\nname = \"north\"\npath = \"$/north\"\nimodel_id = \"c0ffee00-1234-4abc-8def-0123456789ab\"\n\
                     exclude = [\"/Archive/\"]\nupload_only = [\"/References/\"]\n!\n[state]\npath = \"$/state\"\n[itwin]\nclient_id = \"one\"\n";

/// The explanations of these paths in a watch, as they are printed.
async fn explained(root: &Path, paths: &[&str]) -> String {
    explained_with(root, "", paths).await
}

/// The same with more keys of the watch.
async fn explained_with(root: &Path, keys: &str, paths: &[&str]) -> String {
    let root = root.to_str().unwrap();
    let text = WATCH.replace('$', root).replace('!', keys);
    let config = ReadOnlyConfig::parse(&text, "config.toml", &Environment::default()).unwrap();
    let known = Knowledge::gather(&config).await;
    let mut shown = String::new();
    for path in paths {
        let path = Path::new(root).join(path);
        let place = matching::place(&path, &config.watches);
        let place = place.map(|place| {
            let on_disk = disk(place.0, &place.1);
            (place, on_disk)
        });
        let explanation = one(place, &config, &known).await;
        shown += &format!("{}: {}\n", QuotedPath(&path), explanation.answer);
        for line in explanation.lines {
            shown += &format!("  {line}\n");
        }
    }
    shown.replace(root, "$")
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["north/Archive", "north/References", "north/.hidden"] {
        fs::create_dir_all(folder.path().join(name)).unwrap();
    }
    for name in [
        "deck.dgn",
        "References/site.dgn",
        "a:b.ifc",
        "Archive/old.ifc",
        "lots.shp",
        "lots.dbf",
    ] {
        fs::write(folder.path().join("north").join(name), "content").unwrap();
    }
    fs::write(folder.path().join("north/empty.ifc"), "").unwrap();
    std::os::unix::fs::symlink("deck.dgn", folder.path().join("north/link.dgn")).unwrap();
    folder
}

#[tokio::test]
async fn paths_without_a_ledger() {
    let folder = folder();
    let text = explained(
        folder.path(),
        &[
            "north/deck.dgn",
            "north/References/site.dgn",
            "north/empty.ifc",
            "north/absent.ifc",
            "north/a:b.ifc",
            "north/lots.dbf",
            "north/link.dgn",
            "north/Archive/old.ifc",
            "north/.hidden/deck.dgn",
            "north/plan.dwl",
            "north/notes.txt",
            "north",
            "elsewhere.dgn",
        ],
    )
    .await;
    insta::with_settings!({filters => vec![("modified [^\n]+", "modified [time]")]}, {
        insta::assert_snapshot!(text);
    });
}

#[tokio::test]
async fn masters_and_references() {
    let folder = folder();
    let paths = [
        "north/deck.dgn",
        "north/References/site.dgn",
        "north/absent.ifc",
    ];
    let text = explained_with(folder.path(), "masters = [\"deck*\"]", &paths).await;
    insta::with_settings!({filters => vec![("modified [^\n]+", "modified [time]")]}, {
        insta::assert_snapshot!(text);
    });
}

#[tokio::test]
async fn a_connection_for_each_connector_type() {
    let folder = folder();
    let paths = ["north/deck.dgn", "north/References/site.dgn"];
    let keys = "connection = \"ours {connector}\"";
    let text = explained_with(folder.path(), keys, &paths).await;
    insta::with_settings!({filters => vec![("modified [^\n]+", "modified [time]")]}, {
        insta::assert_snapshot!(text);
    });
}

#[tokio::test]
async fn a_file_of_a_paused_watch() {
    let folder = folder();
    let ledger = Ledger::open(&folder.path().join("state")).await.unwrap();
    let now = crate::clock::now();
    let spec = WatchSpec {
        settings: String::new(),
        name: "north".to_owned(),
        follows: None,
        formerly: None,
        path: folder.path().to_owned(),
        imodel_wait: None,
        imodel_id: "c0ffee00-1234-4abc-8def-0123456789ab".into(),
        storage_folder: String::new(),
        connection: ConnectionName::from("itwin-syncd".to_owned()),
        withdrawal: crate::ledger::WithdrawalPolicy::default(),
        bulk_change_limits: crate::ledger::BulkChangeLimits {
            changed_files: 1000,
            new_files: 1000,
        },
    };
    ledger.register_watches(&[spec], now).await.unwrap();
    ledger
        .pause_watches(&["north".to_owned()], now)
        .await
        .unwrap();
    let text = explained(folder.path(), &["north/deck.dgn"]).await;
    insta::with_settings!({filters => vec![("modified [^\n]+", "modified [time]")]}, {
        insta::assert_snapshot!(text);
    });
}
