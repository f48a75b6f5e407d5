//! Small real design files, out of packages that `tests/all` fetches, synchronized as a user would.

use std::collections::{BTreeMap, BTreeSet};

use crate::common::tools;
use crate::support::{Site, platform};

/// Files below the folder of the test tools or of this project, and the connector that they get by default.
const FILES: [(&str, &str); 12] = [
    ("crates/acadrust/tests/anonymous-names.dwg", "DWG"),
    ("crates/acadrust/tests/datatable/point_object_id.dxf", "DWG"),
    (
        "crates/acadrust/tests/fixtures/r12/cad-created/native-geometry.dxf",
        "DWG",
    ),
    (
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples/house.ifc"),
        "IFC",
    ),
    ("crates/obj-rs/tests/fixtures/cube.obj", "MSTN"),
    ("crates/kml/tests/fixtures/sample.kml", "GEOSPATIAL"),
    (
        "crates/geojson/tests/fixtures/countries.geojson",
        "GEOSPATIAL",
    ),
    (
        "node_modules/shapefile/test/mixed-properties.shp",
        "GEOSPATIAL",
    ),
    (
        "node_modules/occt-import-js/test/testfiles/simple-basic-cube/cube.stp",
        "MSTN",
    ),
    (
        "node_modules/occt-import-js/test/testfiles/cube-units/cube-mm.step",
        "MSTN",
    ),
    (
        "node_modules/occt-import-js/test/testfiles/cube-10x10mm/Cube 10x10.igs",
        "MSTN",
    ),
    (
        "node_modules/occt-import-js/test/testfiles/cube-10x10mm/Cube 10x10.stl",
        "MSTN",
    ),
];

/// Files that belong to one of these, in the same folder.
const BESIDE: [&str; 4] = [
    "crates/obj-rs/tests/fixtures/cube.mtl",
    "node_modules/shapefile/test/mixed-properties.dbf",
    "node_modules/shapefile/test/mixed-properties.shx",
    "node_modules/shapefile/test/mixed-properties.prj",
];

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

#[tokio::test]
#[ignore = "needs packages with design files: run tests/all"]
async fn real_files_of_many_formats_are_synchronized_and_their_references_read() {
    let (site, folder) = Site::with_folder(platform().file_check(true)).await;
    for file in FILES.iter().map(|(file, _)| file).chain(&BESIDE) {
        let from = tools().join(file);
        std::fs::copy(&from, folder.join(name(file)))
            .unwrap_or_else(|error| panic!("{from:?}: {error}"));
    }
    let done = site.run(&["run", "--once"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");

    let state = site.emulator.state();
    let names: BTreeMap<_, _> = state
        .files
        .values()
        .map(|file| (file.id.as_str(), file.path.as_str()))
        .collect();
    let mapped: BTreeMap<&str, &str> = state
        .connections
        .values()
        .flat_map(|connection| &connection.source_files)
        .map(|source| {
            (
                names[source.storage_file_id.as_str()],
                source.connector_type.as_str(),
            )
        })
        .collect();
    let expected = FILES
        .iter()
        .map(|(file, connector)| (name(file), *connector));
    assert_eq!(mapped, expected.collect());
    // The materials of an object are no companion of it: `explain` says that they stay behind.
    let stored: BTreeSet<_> = names.values().copied().collect();
    let all = FILES
        .iter()
        .map(|(file, _)| file)
        .chain(&BESIDE)
        .map(|file| name(file));
    assert_eq!(stored, all.filter(|file| *file != "cube.mtl").collect());

    for (file, references) in [
        (
            "cube.obj",
            "but \"cube.mtl\" is not uploaded: no connector for its extension",
        ),
        ("point_object_id.dxf", "references: none"),
        ("native-geometry.dxf", "references: none"),
    ] {
        let path = folder.join(file).display().to_string();
        let explained = site.run(&["explain", &path]).await;
        assert!(explained.out.contains(references), "{explained:?}");
        assert!(
            !explained.out.contains("there may be more"),
            "{explained:?}"
        );
    }
    let checked = site.run(&["check"]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let notes: Vec<_> = checked
        .out
        .lines()
        .filter(|line| line.starts_with("note"))
        .collect();
    assert_eq!(
        notes.len(),
        2,
        "materials, and the guess for step: {checked:?}"
    );
}
