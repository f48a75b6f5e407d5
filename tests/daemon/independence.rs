//! The emulator and the client must not share anything: the one would repeat the other's mistakes.

use std::path::Path;

/// The `crate::` paths that the files of a room name, with the files.
fn imports(room: &str) -> Vec<(String, String)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![source.join(format!("{room}.rs"))];
    files.extend(
        std::fs::read_dir(source.join(room))
            .unwrap()
            .map(|entry| entry.unwrap().path()),
    );
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        // Out of the room by another door.
        let text = if file.ends_with(format!("{room}.rs")) {
            text.replace("use super::", "use crate::")
        } else {
            text.replace("super::super::", "crate::")
        };
        for after in text.split("crate::").skip(1) {
            let word: String = after
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            found.push((word, file.display().to_string()));
        }
    }
    found
}

#[test]
fn the_emulator_uses_no_other_room() {
    let foreign: Vec<_> = imports("emulator")
        .into_iter()
        .filter(|(word, _)| word != "emulator")
        .collect();
    assert!(foreign.is_empty(), "{foreign:#?}");
}

#[test]
fn the_client_uses_pauses_limits_and_secrets_only() {
    let found = imports("itwin");
    assert!(!found.is_empty(), "the guard should see imports");
    let foreign: Vec<_> = found
        .into_iter()
        .filter(|(word, _)| {
            !["bandwidth", "clock", "itwin", "retry", "secret"].contains(&word.as_str())
        })
        .collect();
    assert!(foreign.is_empty(), "{foreign:#?}");
}

#[test]
fn the_backoff_crate_is_named_in_one_room_only() {
    let mut named = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if std::fs::read_to_string(&path)
                .unwrap()
                .contains("backoff::")
            {
                named.push(path.file_name().unwrap().to_owned());
            }
        }
    }
    assert_eq!(named, ["retry.rs"]);
}
