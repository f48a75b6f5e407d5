//! Which files belong together: a main file and its companions, such as `lots.shp` with `lots.dbf` and `lots.shx`.
//!
//! Input: file names and the table below, extended by `companions` of the watch. Output: the main files that a file may
//! accompany, the key of its set, and the parts that a set lacks. It judges names only and reads no disk: whether the
//! main file exists is known to `explain` and to the ledger. It never makes a file a source file.
//!
//! The files of a set are in one folder and have one stem. Case does not matter, within ASCII: `LOTS.SHP` and
//! `lots.dbf` are a set. Formats that refer to other files by name inside the file, such as `obj` to `mtl`, are no
//! sets.
//!
//! Sources: shapefile: desktop.arcgis.com/en/arcmap/10.5/manage-data/shapefiles/shapefile-file-extensions.htm ("shp,
//! shx, dbf: required"), `qix` from gdal.org/drivers/vector/shapefile.html. `MapInfo`: `gdal.org/drv_mitab.html`.
//! AVEVA: KB0046974 of bentleysystems.service-now.com ("an att file with a matching name to the RVM file"). Not in the
//! table although documented: `fbx` of a shapefile, because it is also the extension of a 3D format, and `atx`, whose
//! name has a column between stem and extension; both are indexes that are built again when they are missing.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::sync::Arc;

use super::{BadRule, List};

/// A format that consists of several files. It applies if a watch takes files with the main file's extension.
struct Format {
    main_file: &'static str,
    name: &'static str,
    /// Without these the format cannot be read.
    required: &'static [&'static str],
    /// With these it is read better.
    optional: &'static [&'static str],
}

static FORMATS: [Format; 4] = [
    Format {
        main_file: "shp",
        name: "shapefile",
        required: &["dbf", "shx"],
        optional: &[
            "prj", "cpg", "sbn", "sbx", "qix", "shp.xml", "fbn", "ain", "aih", "ixs", "mxs",
        ],
    },
    Format {
        main_file: "tab",
        name: "MapInfo table",
        required: &[],
        optional: &["dat", "map", "id", "ind"],
    },
    Format {
        main_file: "mif",
        name: "MapInfo interchange file",
        required: &[],
        optional: &["mid"],
    },
    Format {
        main_file: "rvm",
        name: "AVEVA review model",
        required: &[],
        optional: &["att"],
    },
];

/// Extensions with more parts than this are not supported.
const MOST_PARTS: usize = 3;

/// The sets of a watch. Cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Companions {
    /// Extension of a companion, lower-cased, to those of its main files.
    main_files: Arc<BTreeMap<String, Vec<String>>>,
}

/// A file that belongs to another one. `Display` gives the name of that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Companion {
    /// The names that its main file may have, spelled like the file itself.
    pub main_files: Vec<OsString>,
}

/// What a set lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacking {
    /// The format in words, such as "shapefile".
    pub format: &'static str,
    /// The names of the missing files, spelled like the main file.
    pub names: Vec<OsString>,
}

impl Companions {
    /// The built-in sets and those of `rules`: extension of the main file, extensions of its companions.
    pub(super) fn new(rules: &[(String, Vec<String>)], bad: &mut Vec<BadRule>) -> Self {
        let mut main_files: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut add = |companion: &str, main_file: &str| {
            let known = main_files
                .entry(companion.to_ascii_lowercase())
                .or_default();
            let main_file = main_file.to_ascii_lowercase();
            if !known.contains(&main_file) {
                known.push(main_file);
            }
        };
        for format in &FORMATS {
            for companion in format.required.iter().chain(format.optional) {
                add(companion, format.main_file);
            }
        }
        for (main_file, companions) in rules {
            bad.extend(mistake(main_file));
            if companions.is_empty() {
                bad.push(bad_rule(
                    main_file,
                    "has no companions",
                    "write at least one extension, such as [\"tfw\"], or remove the entry",
                ));
            }
            for companion in companions {
                bad.extend(mistake(companion));
                if companion.eq_ignore_ascii_case(main_file) {
                    bad.push(bad_rule(
                        companion,
                        "is listed as a companion of itself",
                        "write the extensions of the other files of the set",
                    ));
                }
                add(companion, main_file);
            }
        }
        Self {
            main_files: Arc::new(main_files),
        }
    }

    /// The names of the files that the file `name` may accompany.
    pub(super) fn main_files_of(&self, name: &OsStr) -> Vec<OsString> {
        let found = suffixes(name).find_map(|(stem, suffix)| {
            let main_files = self.main_files.get(&suffix.to_ascii_lowercase())?;
            let spelled = main_files
                .iter()
                .map(|main_file| join(stem, &spelled_like(suffix, main_file)));
            Some(spelled.collect())
        });
        found.unwrap_or_default()
    }

    /// The stem of a companion, lower-cased.
    pub(super) fn stem_of_companion(&self, name: &OsStr) -> Option<Vec<u8>> {
        suffixes(name)
            .find(|(_, suffix)| self.main_files.contains_key(&suffix.to_ascii_lowercase()))
            .map(|(stem, _)| stem.to_ascii_lowercase())
    }

    /// The stem of a file that can have companions, lower-cased.
    pub(super) fn stem_of_main_file(&self, name: &OsStr) -> Option<Vec<u8>> {
        let is_main_file = |suffix: &str| {
            let suffix = suffix.to_ascii_lowercase();
            self.main_files
                .values()
                .any(|main_files| main_files.contains(&suffix))
        };
        suffixes(name)
            .find(|(_, suffix)| is_main_file(suffix))
            .map(|(stem, _)| stem.to_ascii_lowercase())
    }
}

impl Default for Companions {
    fn default() -> Self {
        Self::new(&[], &mut Vec::new())
    }
}

impl fmt::Display for Companion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, main_file) in self.main_files.iter().enumerate() {
            let separator = if index == 0 { "" } else { " or " };
            write!(f, "{separator}{}", main_file.display())?;
        }
        Ok(())
    }
}

/// The required parts that are missing beside `main_file`. `present` are names of files in its folder. None: nothing is
/// missing, or the format requires no other file.
pub fn lacking<'n>(main_file: &OsStr, present: impl Iterator<Item = &'n OsStr>) -> Option<Lacking> {
    parts(main_file, present, |format| format.required)
}

/// The same for a shapefile without `.prj`: it can be read, but its coordinate system is unknown.
pub fn lacking_projection<'n>(
    main_file: &OsStr,
    present: impl Iterator<Item = &'n OsStr>,
) -> Option<Lacking> {
    parts(main_file, present, |format| match format.main_file {
        "shp" => &["prj"],
        _ => &[],
    })
}

fn parts<'n>(
    main_file: &OsStr,
    present: impl Iterator<Item = &'n OsStr>,
    wanted: impl Fn(&Format) -> &'static [&'static str],
) -> Option<Lacking> {
    let (stem, suffix, format) = suffixes(main_file).find_map(|(stem, suffix)| {
        let of_format = |format: &&Format| suffix.eq_ignore_ascii_case(format.main_file);
        Some((stem, suffix, FORMATS.iter().find(of_format)?))
    })?;
    let mut names: Vec<OsString> = wanted(format)
        .iter()
        .map(|part| join(stem, &spelled_like(suffix, part)))
        .collect();
    for name in present {
        names.retain(|wanted| !wanted.eq_ignore_ascii_case(name));
    }
    (!names.is_empty()).then_some(Lacking {
        format: format.name,
        names,
    })
}

/// The ways to cut a name into stem and extension, the longest extension first.
fn suffixes(name: &OsStr) -> impl Iterator<Item = (&[u8], &str)> {
    let bytes = name.as_bytes();
    let dots = bytes
        .iter()
        .enumerate()
        .rev()
        .filter(|&(at, byte)| *byte == b'.' && at > 0);
    let mut cuts: Vec<usize> = dots.map(|(at, _)| at).take(MOST_PARTS).collect();
    cuts.reverse();
    cuts.into_iter().filter_map(move |at| {
        let (stem, suffix) = (bytes.get(..at)?, bytes.get(at + 1..)?);
        Some((stem, str::from_utf8(suffix).ok()?))
    })
}

/// `extension` in capitals if `example` is.
fn spelled_like(example: &str, extension: &str) -> String {
    if example.bytes().any(|byte| byte.is_ascii_lowercase()) {
        extension.to_owned()
    } else {
        extension.to_ascii_uppercase()
    }
}

fn join(stem: &[u8], extension: &str) -> OsString {
    let mut name = stem.to_owned();
    name.push(b'.');
    name.extend(extension.as_bytes());
    OsString::from_vec(name)
}

fn mistake(extension: &str) -> Option<BadRule> {
    let bare = extension.trim_matches('.');
    if bare.is_empty() {
        Some(bad_rule(
            extension,
            "is no extension",
            "write an extension such as \"tfw\"",
        ))
    } else if bare != extension {
        let hint = format!("write {bare:?}, without a dot at its ends");
        Some(bad_rule(extension, "is no extension", &hint))
    } else if extension.contains(['/', '*', '?', '[', '{']) {
        Some(bad_rule(
            extension,
            "is a glob or a path",
            "write an extension; the files of a set are in one folder",
        ))
    } else if extension.split('.').count() > MOST_PARTS {
        Some(bad_rule(
            extension,
            "has more than three parts",
            "write at most three, as in \"tif.aux.xml\"",
        ))
    } else {
        None
    }
}

fn bad_rule(rule: &str, why: &str, hint: &str) -> BadRule {
    BadRule {
        list: List::Companions,
        rule: rule.to_owned(),
        why: why.to_owned(),
        hint: hint.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::selection::{Rules, Selection, Verdict};

    fn selection(rules: &Rules) -> Selection {
        Selection::new(rules).unwrap()
    }

    /// The verdict in short, and the key of the set.
    fn decided(selection: &Selection, path: &str) -> String {
        let path = Path::new(path);
        let verdict = selection.decide(path);
        let set = selection
            .set_stem(path, &verdict)
            .map(|stem| format!(" [{}]", String::from_utf8_lossy(&stem)))
            .unwrap_or_default();
        let what = match verdict {
            Verdict::Companion(companion) => format!("of {companion}"),
            Verdict::Source { connector, .. } => connector.to_string(),
            Verdict::UploadOnly { .. } | Verdict::Reference => "stored".to_owned(),
            Verdict::Ignored(_) => "ignored".to_owned(),
            Verdict::NoConnector => "none".to_owned(),
        };
        what + &set
    }

    #[test]
    fn a_file_belongs_to_the_main_file_of_its_stem() {
        let usual = Selection::default();
        for (path, expected) in [
            ("lots.shp", "GEOSPATIAL [lots]"),
            ("lots.dbf", "of lots.shp [lots]"),
            ("a/lots.shx", "of lots.shp [lots]"),
            ("LOTS.SHP", "GEOSPATIAL [lots]"),
            ("LOTS.DBF", "of LOTS.SHP [lots]"),
            ("lots.prj", "of lots.shp [lots]"),
            ("lots.cpg", "of lots.shp [lots]"),
            ("lots.sbn", "of lots.shp [lots]"),
            ("lots.qix", "of lots.shp [lots]"),
            ("lots.shp.xml", "of lots.shp [lots]"),
            ("lots.v2.shp", "GEOSPATIAL [lots.v2]"),
            ("lots.v2.dbf", "of lots.v2.shp [lots.v2]"),
            ("lots.v2.shp.xml", "of lots.v2.shp [lots.v2]"),
            ("lots.xml", "OPENTOWER"),
            ("lots.fbx", "MSTN"),
            ("plan.dgn", "MSTN"),
            // No connector reads the main file.
            ("lots.mid", "none"),
            ("lots.map", "none"),
            ("lots.txt", "none"),
            (".dbf", "none"),
            (".shp.xml", "OPENTOWER"),
            ("dbf", "none"),
        ] {
            assert_eq!(decided(&usual, path), expected, "{path}");
        }
    }

    #[test]
    fn a_companion_follows_its_main_file_through_the_rules() {
        let rules = Rules {
            include: vec!["*.shp".to_owned(), "*.tab".to_owned()],
            exclude: vec!["old/".to_owned(), "*_x.shp".to_owned(), "*.sbn".to_owned()],
            upload_only: vec!["refs/".to_owned(), "*_r.shp".to_owned()],
            connectors_by_glob: vec![("gis/*.tab".to_owned(), "GEOSPATIAL".to_owned())],
            connectors_by_extension: vec![("cpg".to_owned(), "custom:NEW".to_owned())],
            ..Rules::default()
        };
        let selection = selection(&rules);
        for (path, expected) in [
            ("lots.dbf", "of lots.shp [lots]"),
            ("old/lots.dbf", "ignored"),
            ("lots_x.dbf", "ignored"),
            ("lots.sbn", "ignored"),
            ("refs/lots.dbf", "of lots.shp"),
            ("refs/lots.shp", "stored"),
            ("lots_r.dbf", "of lots_r.shp"),
            ("gis/lots.map", "of lots.tab [lots]"),
            ("lots.map", "ignored"),
            ("notes.txt", "ignored"),
        ] {
            assert_eq!(decided(&selection, path), expected, "{path}");
        }
    }

    #[test]
    fn companions_of_the_watch_are_added_and_its_connectors_win() {
        let rules = Rules {
            companions: vec![
                (
                    "TIF".to_owned(),
                    vec!["tfw".to_owned(), "tif.aux.xml".to_owned()],
                ),
                ("shp".to_owned(), vec!["qgs".to_owned()]),
                ("a".to_owned(), vec!["b".to_owned()]),
                ("b".to_owned(), vec!["a".to_owned()]),
            ],
            connectors_by_extension: vec![
                ("tif".to_owned(), "custom:NEW".to_owned()),
                ("dbf".to_owned(), "custom:NEW".to_owned()),
            ],
            ..Rules::default()
        };
        let selection = selection(&rules);
        for (path, expected) in [
            ("map.tif", "NEW [map]"),
            ("map.tfw", "of map.tif [map]"),
            ("map.tif.aux.xml", "of map.tif [map]"),
            ("lots.qgs", "of lots.shp [lots]"),
            ("lots.shx", "of lots.shp [lots]"),
            ("lots.dbf", "NEW"),
            ("x.a", "none"),
            ("x.b", "none"),
        ] {
            assert_eq!(decided(&selection, path), expected, "{path}");
        }
    }

    #[test]
    fn a_set_lacks_what_its_format_requires() {
        for (main_file, present, expected) in [
            ("lots.shp", &["lots.dbf", "lots.shx"][..], &[][..]),
            ("lots.shp", &["LOTS.DBF", "Lots.shx"], &[]),
            ("LOTS.SHP", &["lots.dbf"], &["LOTS.SHX"]),
            (
                "lots.shp",
                &["other.dbf", "lots.prj"],
                &["lots.dbf", "lots.shx"],
            ),
            (
                "lots.v2.shp",
                &["lots.dbf", "lots.v2.shx"],
                &["lots.v2.dbf"],
            ),
            ("lots.tab", &[], &[]),
            ("plan.dgn", &[], &[]),
        ] {
            let present = present.iter().map(OsStr::new);
            let lacking = lacking(OsStr::new(main_file), present);
            let names = lacking.map(|lacking| lacking.names).unwrap_or_default();
            assert_eq!(names, expected, "{main_file}");
        }
        let without = lacking_projection(OsStr::new("lots.shp"), [].into_iter());
        assert_eq!(without.unwrap().names, ["lots.prj"]);
    }

    #[test]
    fn a_rule_that_cannot_be_used_is_refused_with_a_hint() {
        for (main_file, companions, expected) in [
            ("tif", &[][..], "\"tif\" has no companions"),
            (".tif", &["tfw"], "\".tif\" is no extension"),
            ("tif", &["*.tfw"], "\"*.tfw\" is a glob or a path"),
            ("tif", &[""], "\"\" is no extension"),
            (
                "tif",
                &["TIF"],
                "\"TIF\" is listed as a companion of itself",
            ),
            ("tif", &["a.b.c.d"], "\"a.b.c.d\" has more than three parts"),
        ] {
            let companions = companions.iter().map(|&one| one.to_owned()).collect();
            let rules = Rules {
                companions: vec![(main_file.to_owned(), companions)],
                ..Rules::default()
            };
            let bad = Selection::new(&rules).unwrap_err();
            assert_eq!(bad[0].to_string(), expected);
        }
    }
}
