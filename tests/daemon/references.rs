//! References that are read from design files: what `explain` and `check` list, and that the daemon does not wait for
//! them.

use std::path::{Path, PathBuf};

use crate::support::{Site, platform, write};

/// A design file of the folder `tests/samples`.
fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/samples")
        .join(name)
}

fn place(name: &str, at: &Path) {
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    std::fs::copy(sample(name), at).unwrap();
}

#[tokio::test]
async fn explain_and_check_name_references_that_are_missing_or_not_uploaded() {
    let (site, folder) = Site::with_folder(platform()).await;
    place("deck.dxf", &folder.join("Site/Deck.dxf"));
    let deck = folder.join("Site/Deck.dxf").display().to_string();
    let explained = site.run(&["explain", &deck]).await;
    assert_eq!(explained.code, Some(0), "{explained:?}");
    for part in [
        "references: 3, 3 not uploaded by this watch",
        "refers to drawing \"Survey.dxf\" (\"Refs/Survey.dxf\"), which is not in this folder",
        "refers to drawing \"Brücke.dxf\" (\"C:\\proj\\Brücke.dxf\"), which is not in this folder",
        "refers to image \"photo.png\", which is not in this folder",
    ] {
        assert!(explained.out.contains(part), "no {part}: {}", explained.out);
    }
    let checked = site.run(&["check"]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let note = "note    watch \"north\": \"Site/Deck.dxf\" refers to drawing \"Survey.dxf\"";
    assert!(checked.out.contains(note), "{}", checked.out);

    place("deck-r12.dxf", &folder.join("Site/refs/SURVEY.DXF"));
    place("deck-r12.dxf", &folder.join("Brücke.dxf"));
    write(&folder.join("Site/photo.png"), "photo");
    let explained = site.run(&["explain", &deck]).await;
    for part in [
        "references: 3, 1 not uploaded by this watch",
        "but \"Site/photo.png\" is not uploaded: no connector for its extension",
        "hint: if the connector needs it, add \"*.png\" to upload_only",
    ] {
        assert!(explained.out.contains(part), "no {part}: {}", explained.out);
    }
    let checked = site.run(&["check"]).await.out;
    assert!(!checked.contains("\"Survey.dxf\""), "{checked}");
    assert!(checked.contains("\"photo.png\""), "{checked}");
}

#[tokio::test]
async fn explain_follows_its_own_hint_and_reads_other_variants_of_a_drawing() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.replace_in_watches("\n\n", "\nupload_only = [\"*.mtl\"]\n\n");
    write(&folder.join("house.obj"), "mtllib House.mtl\nv 0 0 0\n");
    write(&folder.join("house.mtl"), "newmtl brick\n");
    place("deck-r12.dxf", &folder.join("old.dxf"));
    place("deck-binary.dxf", &folder.join("binary.dxf"));
    write(&folder.join("plain.dxf"), "this is no drawing\n");
    for (file, expected) in [
        ("house.obj", "references: 1, all uploaded by this watch"),
        (
            "old.dxf",
            "refers to drawing \"a ü.dxf\", which is not in this folder",
        ),
        ("binary.dxf", "there may be more: it is a binary DXF file"),
        (
            "plain.dxf",
            "there may be more: it is not a DXF file, or it is damaged",
        ),
    ] {
        let path = folder.join(file).display().to_string();
        let output = site.run(&["explain", &path]).await.out;
        assert!(output.contains(expected), "{file}: {output}");
    }
}

#[tokio::test]
async fn a_file_with_missing_references_is_synchronized_at_once() {
    let (site, folder) = Site::with_folder(platform()).await;
    place("deck.dxf", &folder.join("Deck.dxf"));
    let done = site.run(&["run", "--once"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(site.stored("Deck.dxf").completions, 1);
}
