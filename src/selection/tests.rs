//! The rules of selection, as tables.
//!
//! Longer than most files because most of it is tables: names of programs, globs and connectors.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot continue has failed"
)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use proptest::prelude::*;

use super::*;

fn selection(rules: &Rules) -> Selection {
    Selection::new(rules).unwrap()
}

fn globs(globs: &[&str]) -> Vec<String> {
    globs.iter().map(|&glob| glob.to_owned()).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|&(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// The verdict in short: "ignored: why", "none", "upload: glob" or "TYPE: why".
fn verdict(selection: &Selection, rel: impl AsRef<Path>) -> String {
    match selection.decide(rel.as_ref()) {
        Verdict::Ignored(reason) => format!("ignored: {reason}"),
        Verdict::NoConnector => "none".to_owned(),
        Verdict::UploadOnly { glob } => format!("upload: {glob}"),
        Verdict::Companion(companion) => format!("companion: {companion}"),
        Verdict::Reference => "reference".to_owned(),
        Verdict::Source {
            master: None,
            connector,
            why,
        } => format!("{connector}: {why}"),
        Verdict::Source {
            master: Some(glob), ..
        } => format!("master: {glob}"),
    }
}

/// The connector alone, or the verdict's first word.
fn connector(selection: &Selection, rel: impl AsRef<Path>) -> String {
    verdict(selection, rel)
        .split(": ")
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn usual_names_get_the_most_generic_connector() {
    let usual = Selection::default();
    for (name, expected) in [
        ("plan.dgn", "MSTN"),
        ("Bridge/Deck 12.DGN", "MSTN"),
        ("plan.dwg", "DWG"),
        ("plan.dxf", "DWG"),
        ("a.b.c.ifc", "IFC"),
        ("house.rvt", "REVIT"),
        ("house.nwc", "NWD"),
        ("house.nwd", "NWD"),
        ("roads.shp", "GEOSPATIAL"),
        ("roads.geojson", "GEOSPATIAL"),
        ("roads.kml", "GEOSPATIAL"),
        ("roads.geodb", "GEOSPATIAL"),
        ("tower.xml", "OPENTOWER"),
        ("tower.otxml", "OPENTOWER"),
        ("site.land.xml", "MSTN"),
        ("site.LAND.XML", "MSTN"),
        ("land.xml", "OPENTOWER"),
        ("model.i.dgn", "MSTN"),
        ("plant.zip", "SPPID"),
        ("plant.pid", "SPPID"),
        ("plant.vue", "SPXREVIEW"),
        ("flow.vsd", "AVEVADIAGRAMS"),
        ("list.json", "INTELLIPID"),
        ("list.xls", "PSEXCEL"),
        ("list.xlsx", "PSEXCEL"),
        ("list.csv", "SHELLEDWCSV"),
        ("chair.3dm", "MSTN"),
        ("chair.3ds", "MSTN"),
        ("chair.skp", "MSTN"),
        ("chair.fbx", "MSTN"),
        ("chair.obj", "MSTN"),
        ("chair.dae", "MSTN"),
        ("chair.hln", "MSTN"),
        ("chair.igs", "MSTN"),
        ("chair.jt", "MSTN"),
        ("chair.sat", "MSTN"),
        ("chair.stl", "MSTN"),
        ("chair.stp", "MSTN"),
        ("chair.x_t", "MSTN"),
        ("readme.txt", "none"),
        ("noextension", "none"),
        (".dgn", "none"),
        ("plan.", "none"),
        ("plan.dgn.", "none"),
        ("B1A2C3D4", "none"),
        ("", "none"),
    ] {
        assert_eq!(connector(&usual, name), expected, "{name}");
    }
}

#[test]
fn every_type_of_the_table_is_known_and_retired_ones_are_marked() {
    let table = connectors::table();
    assert!(table.values().all(|(connector, _)| connector.is_known()));
    let retired: Vec<&str> = table
        .iter()
        .filter(|(_, (connector, _))| connector.is_retired())
        .map(|(extension, _)| extension.as_str())
        .collect();
    assert_eq!(retired, ["csv", "json", "vsd", "xls", "xlsx"]);
    assert!(!ConnectorType::new("TOMORROW").is_known());
}

#[test]
fn what_copy_and_sync_programs_keep_beside_designs_is_ignored() {
    let usual = Selection::default();
    for path in [
        ".rsync-partial/plan.dgn",
        "Plans/.~tmp~/plan.dgn",
        "plan.dgn.ffs_tmp",
        "Plans.ffs_tmp/plan.dgn",
        ".lftp/plan.dgn",
        ".git/plan.dgn",
        "a/.svn/pristine/plan.dgn",
        ".recycle/user/plan.dgn",
        ".AppleDouble/plan.dgn",
        ".syncthing.plan.dgn.tmp",
        ".anything/deep/plan.dgn",
        "plan (Anna's conflicted copy 2024-01-31).dgn",
        "plan (Case Conflict).dgn",
        "plan.sync-conflict-20240131-235959-ABCDEFG.dgn",
        "plan_conflict-20240131-235959.dgn",
    ] {
        let verdict = verdict(&usual, path);
        assert!(verdict.starts_with("ignored: "), "{path}: {verdict}");
    }
    for path in [
        "clash-conflict-2024.ifc",
        "pipes_conflict-20240131.ifc",
        "conflict.dgn",
        "sync/plan.dgn",
        "git/plan.dgn",
        "v1.2/plan.dgn",
        "..a/../plan.dgn",
        ".plan.dgn",
    ] {
        let path = path.trim_start_matches("..a/../");
        let verdict = verdict(&usual, path);
        assert!(!verdict.starts_with("ignored: "), "{path}: {verdict}");
    }
}

#[test]
fn a_dot_folder_is_entered_only_when_include_names_it() {
    let file = ".archive/2024/plan.dgn";
    for (include, path, taken) in [
        (&[][..], file, false),
        (&["*"], file, false),
        (&["**"], file, false),
        (&["*.dgn"], file, false),
        (&["*", ".archive/**"], file, true),
        (&["*", ".archive"], file, true),
        (&["*", ".archive/"], file, true),
        (&["/.archive"], file, true),
        (&["*", ".archive/**/*.dgn"], file, true),
        (&["*", ".ARCHIVE"], file, true),
        (&["*", ".arch*"], file, true),
        (&["*", ".other"], file, false),
        (&["*", ".archive"], "deep/.archive/plan.dgn", true),
        (&["*", ".archive/**"], "deep/.archive/plan.dgn", false),
        (&["*", "deep/.archive"], "deep/.archive/plan.dgn", true),
        (&["*", ".archive"], ".archive/.more/plan.dgn", false),
        (&["*", ".git"], ".git/plan.dgn", false),
    ] {
        let rules = Rules {
            include: globs(include),
            ..Rules::default()
        };
        let selection = selection(&rules);
        let path = Path::new(path);
        let ignored = matches!(selection.decide(path), Verdict::Ignored(_));
        assert_eq!(!ignored, taken, "{include:?} {path:?}");
        let pruned = path
            .ancestors()
            .skip(1)
            .any(|folder| selection.prunes(folder).is_some());
        assert_eq!(!pruned, taken, "{include:?} {path:?}");
    }
}

#[test]
fn names_that_programs_leave_behind_are_ignored() {
    let usual = Selection::default();
    for name in [
        "~$report.xlsx",
        "~WRD0001.tmp",
        ".~lock.list.xlsx#",
        "plan.dgn~",
        "plan.tmp",
        "SAV1234.TMP",
        "plan.bak",
        "plan.DWL",
        "plan.dwl2",
        "plan.sv$",
        "plan.ac$",
        "x.$$$",
        "x.atmp",
        "acad.err",
        "plot.log",
        "plan.lck",
        "house.slog",
        "house.rws",
        "house.0001.rvt",
        "door.0012.RFA",
        "house.1234.rte",
        "chair.rhl",
        "chair.3dmbak",
        "chair.skb",
        "AutoSave_chair.skp",
        "db.laccdb",
        "db.ldb",
        ".plan.dgn.swp",
        "plan.dgn.part",
        "plan.dgn.filepart",
        "plan.dwg.crdownload",
        ".nfs0000000000a1",
        ".fuse_hidden0001",
        "._plan.dgn",
        ".DS_Store",
        "THUMBS.DB",
        "Desktop.ini",
        "plan.dgn.lnk",
        "house_backup/house.rvt",
        "a/HOUSE_BACKUP/b/house.rvt",
        "Revit_temp/x.rvt",
        "#snapshot/hourly.0/plan.dgn",
        ".snapshot/plan.dgn",
        "~snapshot/plan.dgn",
        "$RECYCLE.BIN/S-1/plan.dgn",
        "System Volume Information/x.dgn",
        "DfsrPrivate/x.dgn",
        "lost+found/x.dgn",
        "@eaDir/plan.dgn/x.json",
        ".Trash-1000/files/plan.dgn",
        ".stversions/plan.dgn",
    ] {
        let verdict = verdict(&usual, name);
        assert!(
            verdict.starts_with("ignored: \"") && verdict.contains("of the built-in ignore list ("),
            "{name}: {verdict}"
        );
    }
    assert_eq!(
        verdict(&usual, "a/plan.dwl"),
        "ignored: \"*.dwl\" of the built-in ignore list (lock file of AutoCAD)"
    );
}

#[test]
fn names_that_users_choose_are_not_ignored() {
    let usual = Selection::default();
    for name in [
        "Tower.2024.rvt",
        "Tower.1999.rvt",
        "house.12.rvt",
        "0001.rvt",
        "house.0001.dgn",
        "ATMPlan.dgn",
        "atmp1.dwg",
        "savings.dgn",
        "Backup/plan.dgn",
        "plan_backup.dgn",
        "plan backup.dwg",
        "snapshot/plan.dgn",
        "Template.dgn",
        "tmp/plan.dgn",
        "temp.dgn",
        "lock.dgn",
        "Catalog.dwg",
        "recycler plant/a.dgn",
        ".hidden.dgn",
        "plan~1.dgn",
        "#12 bridge.dwg",
        "$cost.ifc",
        "@north.dgn",
        "part.dgn",
        "Part/plan.dgn",
        "autosave.skp",
        "Trash/plan.dgn",
    ] {
        assert!(
            matches!(usual.decide(Path::new(name)), Verdict::Source { .. }),
            "{name}: {}",
            verdict(&usual, name)
        );
    }
}

#[test]
fn names_need_not_be_utf8() {
    let usual = Selection::default();
    let name = |bytes: &[u8]| Path::new(OsStr::from_bytes(bytes)).to_owned();
    assert_eq!(connector(&usual, name(b"Br\xfccke/Stra\xdfe.dgn")), "MSTN");
    assert_eq!(connector(&usual, name(b"Br\xfccke.dwl")), "ignored");
    assert_eq!(connector(&usual, name(b"plan.d\xfcn")), "none");
    assert_eq!(connector(&usual, name(b"x.\xfc.dgn")), "MSTN");
    let rules = Rules {
        exclude: globs(&["Br*/"]),
        ..Rules::default()
    };
    assert_eq!(
        connector(&selection(&rules), name(b"a/br\xfccke/x.dgn")),
        "ignored"
    );
}

#[test]
fn globs_fit_as_in_gitignore() {
    for (glob, path, expected) in [
        ("*.dgn", "plan.dgn", true),
        ("*.dgn", "a/b/PLAN.DGN", true),
        ("*.dgn", "plan.dwg", false),
        ("plan.dgn", "a/plan.dgn", true),
        ("/plan.dgn", "plan.dgn", true),
        ("/plan.dgn", "a/plan.dgn", false),
        ("a/*.dgn", "a/plan.dgn", true),
        ("a/*.dgn", "a/b/plan.dgn", false),
        ("a/*.dgn", "x/a/plan.dgn", false),
        ("a/**/*.dgn", "a/plan.dgn", true),
        ("a/**/*.dgn", "a/b/c/plan.dgn", true),
        ("**/b/*.dgn", "a/b/plan.dgn", true),
        ("old", "old/plan.dgn", true),
        ("old", "a/Old/b/plan.dgn", true),
        ("old/", "a/old/plan.dgn", true),
        ("old/", "a/old", false),
        ("/old/", "a/old/plan.dgn", false),
        ("old/**", "old/b/plan.dgn", true),
        ("old/**", "a/old/plan.dgn", false),
        ("a?.dgn", "a1.dgn", true),
        ("a?.dgn", "a/.dgn", false),
        ("*.{dgn,dwg}", "a/x.dwg", true),
        ("[ab].dgn", "b.dgn", true),
        ("[[]1].dgn", "[1].dgn", true),
        ("**", "a/x.dgn", true),
        ("*", "x.dgn", true),
    ] {
        let rules = Rules {
            exclude: globs(&[glob]),
            ..Rules::default()
        };
        let verdict = selection(&rules).decide(Path::new(path));
        let excluded = verdict
            == Verdict::Ignored(Reason::Exclude {
                glob: glob.to_owned(),
            });
        assert_eq!(excluded, expected, "{glob} {path}: {verdict:?}");
    }
}

#[test]
fn the_first_rule_that_fits_decides() {
    let rules = Rules {
        include: globs(&["*.dgn", "*.dwg", "*.dwl", "Refs/"]),
        exclude: globs(&["Old/", "*_x.*"]),
        masters: Vec::new(),
        upload_only: globs(&["Refs/", "*_ref.dgn"]),
        connectors_by_extension: pairs(&[
            ("DGN", "CIVIL"),
            ("foo", "custom:TOMORROW"),
            ("dgn", "OBD"),
        ]),
        connectors_by_glob: pairs(&[
            ("Piping/**/*.dwg", "AUTOPLANT"),
            ("Piping/", "MSTN"),
            ("*.foo", "custom:LATER"),
        ]),
        ..Rules::default()
    };
    let selection = selection(&rules);
    for (path, expected) in [
        (
            "plan.dwl",
            "ignored: \"*.dwl\" of the built-in ignore list (lock file of AutoCAD)",
        ),
        ("Old/plan.dgn", "ignored: exclude has \"Old/\""),
        ("Refs/a_x.dgn", "ignored: exclude has \"*_x.*\""),
        ("plan.ifc", "ignored: no glob of include fits"),
        ("plan.foo", "ignored: no glob of include fits"),
        ("Refs/notes.txt", "upload: Refs/"),
        ("a_ref.dgn", "upload: *_ref.dgn"),
        (
            "Piping/a/b.dwg",
            "AUTOPLANT: connectors has \"Piping/**/*.dwg\"",
        ),
        ("Piping/a/b.dgn", "MSTN: connectors has \"Piping/\""),
        ("plan.dgn", "OBD: connectors has \"dgn\""),
        ("plan.dwg", "DWG: usual for \"dwg\""),
    ] {
        assert_eq!(verdict(&selection, path), expected, "{path}");
    }
}

#[test]
fn an_override_replaces_its_own_extension_only() {
    let rules = Rules {
        connectors_by_extension: pairs(&[
            ("xml", "custom:FIRST"),
            ("I.DGN", "custom:SECOND"),
            ("foo", "custom:TOMORROW"),
        ]),
        ..Rules::default()
    };
    let selection = selection(&rules);
    for (path, expected) in [
        ("a.xml", "FIRST"),
        ("a.land.xml", "MSTN"),
        ("a.i.dgn", "SECOND"),
        ("a.dgn", "MSTN"),
        ("a.FOO", "TOMORROW"),
    ] {
        assert_eq!(connector(&selection, path), expected, "{path}");
    }
}

#[test]
fn folders_with_nothing_in_them_for_us_are_not_entered() {
    let rules = Rules {
        exclude: globs(&["Archive/**", "/Top/", "*.old", "a/b"]),
        ..Rules::default()
    };
    let selection = selection(&rules);
    for (folder, expected) in [
        ("", None),
        ("Projects", None),
        ("Archive", Some("exclude has \"Archive/**\"")),
        ("Archive/x/y", Some("exclude has \"Archive/**\"")),
        ("Top", Some("exclude has \"/Top/\"")),
        ("x/Top", None),
        ("x/y.old", Some("exclude has \"*.old\"")),
        ("a/b/c", Some("exclude has \"a/b\"")),
        (
            "House_backup",
            Some("\"*_backup\" of the built-in ignore list (backups of Revit)"),
        ),
        (
            "#snapshot/hourly",
            Some("\"#snapshot\" of the built-in ignore list (snapshots of the file server)"),
        ),
    ] {
        assert_eq!(
            selection
                .prunes(Path::new(folder))
                .map(|reason| reason.to_string())
                .as_deref(),
            expected,
            "{folder}"
        );
    }
}

#[test]
fn each_bad_rule_is_named_with_its_reason() {
    let rules = Rules {
        include: globs(&["", "/", "{a", "fine"]),
        exclude: globs(&["!keep.dgn", "a\\b", "../x", "a//b"]),
        masters: Vec::new(),
        upload_only: globs(&["./x"]),
        connectors_by_extension: pairs(&[
            (".dgn", "CIVIL"),
            ("", "CIVIL"),
            ("a.b.c", "CIVIL"),
            ("dgn", " "),
        ]),
        connectors_by_glob: pairs(&[("*.dgn", "")]),
        ..Rules::default()
    };
    let bad: Vec<_> = Selection::new(&rules)
        .unwrap_err()
        .iter()
        .map(|bad| format!("{}: {bad}; {}", bad.list, bad.hint))
        .collect();
    let empty =
        "is empty; write a name such as \"*.dgn\", or a path from the root such as \"Archive/**\"";
    let parts = "has an empty part, \".\" or \"..\" in it and fits nothing; write the path as it is below the watched folder, such as \"Archive/**\"";
    let untyped = "has no connector type; write a type such as \"CIVIL\"; to leave such files alone, add them to exclude";
    let expected = [
        format!("include: \"\" {empty}"),
        format!("include: \"/\" {empty}"),
        "include: \"{a\" is no glob: unclosed alternate group; missing '}' (maybe escape '{' with '[{]'?); close every \"[\" and \"{\", or write \"[[]\" and \"[{]\" for the characters themselves".to_owned(),
        "exclude: \"!keep.dgn\" starts with \"!\", which has no meaning here; name what is wanted in include, or write \"[!]\" for the character".to_owned(),
        "exclude: \"a\\\\b\" has a backslash; write \"/\" between folders, brackets around a special character, as in \"[*]\", and \"?\" for a backslash in a name".to_owned(),
        format!("exclude: \"../x\" {parts}"),
        format!("exclude: \"a//b\" {parts}"),
        format!("upload_only: \"./x\" {parts}"),
        "connectors: \".dgn\" has a dot too many; write \"dgn\"".to_owned(),
        "connectors: \"\" names no extension; write an extension such as \"dgn\"".to_owned(),
        "connectors: \"a.b.c\" has more than two parts; at most two are supported; write the glob \"*.a.b.c\"".to_owned(),
        format!("connectors: \"dgn\" {untyped}"),
        format!("connectors: \"*.dgn\" {untyped}"),
    ];
    assert_eq!(bad, expected);
}

/// Names that are likely to hit something: pieces of both lists, in any case, with odd bytes between.
fn component() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "~",
            "~$",
            "._",
            ".",
            "_backup",
            "#snapshot",
            "Revit_temp",
            "house",
            "0001",
            "2024",
            "tmp",
            "bak",
            "dwl",
            "dgn",
            "DWG",
            "rvt",
            "i.dgn",
            "land.xml",
            "old",
            "Refs",
            "lost+found",
            ".Trash",
            "desktop.ini",
        ])
        .prop_map(|piece| piece.as_bytes().to_vec()),
        prop::collection::vec(
            any::<u8>().prop_filter("no separator", |&byte| byte != b'/' && byte != 0),
            1..4
        ),
    ];
    prop::collection::vec((piece, any::<bool>()), 1..5)
        .prop_map(|pieces| {
            pieces
                .into_iter()
                .flat_map(|(piece, dot)| {
                    if dot {
                        [b".".to_vec(), piece].concat()
                    } else {
                        piece
                    }
                })
                .collect::<Vec<u8>>()
        })
        .prop_filter("a name", |name| name != b"." && name != b"..")
}

fn path() -> impl Strategy<Value = std::path::PathBuf> {
    prop::collection::vec(component(), 1..4)
        .prop_map(|parts| Path::new(OsStr::from_bytes(&parts.join(&b'/'))).to_owned())
}

/// Rules that reach for everything, so that only the order of rules can keep a file out.
fn greedy(exclude: &[&str]) -> Selection {
    selection(&Rules {
        include: globs(&["**", "*"]),
        exclude: globs(exclude),
        masters: Vec::new(),
        upload_only: globs(&["Refs/"]),
        connectors_by_extension: pairs(&[("tmp", "DWG"), ("bak", "DWG")]),
        connectors_by_glob: pairs(&[("**", "DWG")]),
        ..Rules::default()
    })
}

proptest! {
    #[test]
    fn no_rule_brings_back_what_the_built_in_list_ignores(path in path()) {
        if let Verdict::Ignored(reason) = Selection::default().decide(&path) {
            let built_in = matches!(reason, Reason::BuiltIn { .. } | Reason::DotFolder);
            prop_assert!(built_in, "{:?}", reason);
            prop_assert_eq!(greedy(&["old"]).decide(&path), Verdict::Ignored(reason));
        }
    }

    #[test]
    fn what_nothing_ignores_is_never_lost(path in path()) {
        if !matches!(Selection::default().decide(&path), Verdict::Ignored(_)) {
            let verdict = greedy(&[]).decide(&path);
            let kept = verdict.clone().connector().is_some();
            prop_assert!(kept, "{:?}", verdict);
        }
    }

    #[test]
    fn a_folder_that_is_not_entered_holds_ignored_files_only(folder in path(), file in path()) {
        let selection = greedy(&["old", "*.dgn/", "lost*/**"]);
        if let Some(reason) = selection.prunes(&folder) {
            let verdict = selection.decide(&folder.join(&file));
            prop_assert!(matches!(verdict, Verdict::Ignored(_)), "{:?} {:?}", reason, verdict);
            prop_assert!(selection.prunes(&folder.join(&file)).is_some());
        }
    }

    #[test]
    fn case_makes_no_difference(path in path()) {
        let upper = path.as_os_str().as_bytes().to_ascii_uppercase();
        let selection = greedy(&["old", "*.dgn/"]);
        prop_assert_eq!(selection.decide(&path), selection.decide(Path::new(OsStr::from_bytes(&upper))));
    }
}

#[test]
fn with_masters_every_other_file_with_a_connector_is_a_reference() {
    let rules = Rules {
        include: globs(&["/north/"]),
        exclude: globs(&["/north/Old/"]),
        masters: globs(&["*_MASTER.dgn", "/north/Composite/"]),
        upload_only: globs(&["*.tif", "/north/Composite/Refs/", "x_MASTER.dgn"]),
        ..Rules::default()
    };
    let selection = selection(&rules);
    for (name, expected) in [
        ("north/a_master.DGN", "master: *_MASTER.dgn"),
        ("north/Composite/all.dwg", "master: /north/Composite/"),
        ("north/Composite/Refs/b.dgn", "master: /north/Composite/"),
        ("north/x_MASTER.dgn", "master: *_MASTER.dgn"),
        ("north/plan.dgn", "reference"),
        ("north/plan.ifc", "reference"),
        ("north/ortho.tif", "upload: *.tif"),
        ("north/Composite/ortho.tif", "upload: *.tif"),
        ("north/Composite/readme.txt", "none"),
        ("north/readme.txt", "none"),
        (
            "north/Old/a_MASTER.dgn",
            "ignored: exclude has \"/north/Old/\"",
        ),
        ("south/a_MASTER.dgn", "ignored: no glob of include fits"),
        (
            "north/a_MASTER.dgn.bak",
            "ignored: \"*.bak\" of the built-in ignore list (backup)",
        ),
    ] {
        assert_eq!(verdict(&selection, name), expected, "{name}");
    }
    assert!(selection.has_masters() && !Selection::default().has_masters());
    let both = Rules {
        masters: globs(&["a.dgn", "/Refs/"]),
        upload_only: globs(&["/Refs/"]),
        ..Rules::default()
    };
    let bad = Selection::new(&both).unwrap_err();
    let bad: Vec<String> = bad.iter().map(ToString::to_string).collect();
    assert_eq!(bad, ["\"/Refs/\" is in masters too"]);
}
