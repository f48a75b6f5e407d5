#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn limits() -> Limits {
    Limits {
        bytes: 1 << 20,
        references: 100,
        until: Instant::now() + Duration::from_secs(60),
    }
}

/// The references as text, and how the reading ended.
fn shown(format: Format, content: &[u8], limits: Limits) -> String {
    let found = read(format, content, limits);
    let mut text: Vec<String> = found
        .references
        .iter()
        .map(|one| format!("{} {}", one.what, one.written))
        .collect();
    match found.end {
        End::Complete => {}
        End::Limit => text.push("limit".to_owned()),
        End::Unknown(why) => text.push(why.to_owned()),
        End::Failed(error) => text.push(error.to_string()),
    }
    text.join("; ")
}

/// A drawing of these entries, one pair of code and value each.
fn dxf(entries: &[(i32, &str)]) -> Vec<u8> {
    let lines = entries.iter();
    lines
        .flat_map(|(code, value)| format!("{code:>3}\r\n{value}\r\n").into_bytes())
        .collect()
}

#[test]
fn a_drawing_names_its_external_references_images_and_underlays() {
    let drawing = dxf(&[
        (0, "SECTION"),
        (2, "BLOCKS"),
        (0, "BLOCK"),
        (70, "0"),
        (1, "not external.dxf"),
        (0, "BLOCK"),
        (8, "0"),
        (2, "Survey"),
        (70, "4"),
        (1, "..\\Refs\\Survey.dxf"),
        (0, "LINE"),
        (1, "text.dxf"),
        (0, "BLOCK"),
        // The flags may follow the path.
        (1, "C:\\Proj\\Gel\\U+00E4nde.dwg"),
        (70, "12"),
        (0, "BLOCK"),
        (70, "4"),
        (1, "..\\Refs\\Survey.dxf"),
        (0, "IMAGEDEF"),
        (1, "photo.png"),
        (0, "PDFDEFINITION"),
        (1, "plan.pdf"),
        (0, "EOF"),
    ]);
    let all = "drawing ..\\Refs\\Survey.dxf; drawing C:\\Proj\\Gelände.dwg; image photo.png; underlay plan.pdf";
    assert_eq!(shown(Format::Dxf, &drawing, limits()), all);
    let marked = [b"\xef\xbb\xbf".as_slice(), &drawing].concat();
    assert_eq!(shown(Format::Dxf, &marked, limits()), all);

    let one = Limits {
        references: 1,
        ..limits()
    };
    assert_eq!(
        shown(Format::Dxf, &drawing, one),
        "drawing ..\\Refs\\Survey.dxf; limit"
    );
    let cut = drawing.get(..drawing.len() - 20).unwrap();
    assert!(shown(Format::Dxf, cut, limits()).starts_with("drawing ..\\Refs\\Survey.dxf; "));
    for (content, expected) in [
        (b"".as_slice(), "it is empty"),
        (b"AutoCAD Binary DXF\r\n\x1a\0\0", "it is a binary DXF file"),
        (b"AC1032\0\0", "it is not a DXF file, or it is damaged"),
        (b"  0\nSECTION\n  2", "it ends within an entry"),
        (
            b"  0\nBLOCK\n 70\n4\n  1\nBr\xfccke.dxf\n",
            "drawing Brücke.dxf",
        ),
    ] {
        assert_eq!(shown(Format::Dxf, content, limits()), expected);
    }
}

#[test]
fn an_object_names_its_material_libraries() {
    for (content, expected) in [
        (
            "# made by hand\nmtllib house.mtl\no house\n",
            "material library house.mtl",
        ),
        (
            "mtllib a.mtl b.MTL",
            "material library a.mtl; material library b.MTL",
        ),
        (
            "  mtllib  my house.mtl \r\nmtllib my house.mtl",
            "material library my house.mtl",
        ),
        ("mtllibrary x.mtl\nmtllib\n# mtllib y.mtl\n", ""),
        ("v 0 0 0\n\0", "it is not text"),
    ] {
        assert_eq!(
            shown(Format::Obj, content.as_bytes(), limits()),
            expected,
            "{content:?}"
        );
    }
}

#[test]
fn a_reference_is_found_in_any_case_by_its_path_or_beside_the_file() {
    let files = [
        "Site/Deck.dxf",
        "Site/local.dxf",
        "Refs/Survey.DXF",
        "Refs/straße.dwg",
        "top.dxf",
    ];
    let mut names = |folder: &Path| -> Vec<OsString> {
        let below = files
            .iter()
            .filter_map(|file| Path::new(file).strip_prefix(folder).ok());
        let names: BTreeSet<OsString> = below
            .filter_map(|path| Some(path.iter().next()?.to_owned()))
            .collect();
        names.into_iter().collect()
    };
    for (written, expected) in [
        ("local.dxf", "Site/local.dxf"),
        (".\\LOCAL.dxf", "Site/local.dxf"),
        ("..\\refs\\survey.dxf", "Refs/Survey.DXF"),
        ("../Refs/STRASSE.dwg", "-"),
        ("..\\Refs\\Straße.dwg", "Refs/straße.dwg"),
        ("C:\\Proj\\Refs\\Survey.dxf", "Refs/Survey.DXF"),
        ("\\\\server\\share\\top.dxf", "top.dxf"),
        ("/home/me/local.dxf", "Site/local.dxf"),
        ("C:local.dxf", "Site/local.dxf"),
        // It leads out of the root; the name alone is left.
        ("..\\..\\..\\local.dxf", "Site/local.dxf"),
        ("..\\..\\..\\Survey.dxf", "-"),
        ("Survey.dxf", "-"),
        ("", "-"),
        ("..", "-"),
        ("C:", "-"),
        ("https://host/local.dxf", "remote"),
    ] {
        let located = match locate(Path::new("Site/Deck.dxf"), written, &mut names) {
            Located::At(path) => path.to_string_lossy().into_owned(),
            Located::Missing => "-".to_owned(),
            Located::Remote => "remote".to_owned(),
        };
        assert_eq!(located, expected, "{written}");
    }
}

/// Content that never ends, and how much of it was read.
struct Endless<'c> {
    content: &'c [u8],
    at: usize,
    read: &'c Cell<u64>,
}

impl Read for Endless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for byte in buffer.iter_mut() {
            *byte = *self.content.get(self.at % self.content.len()).unwrap();
            self.at += 1;
        }
        self.read.set(self.read.get() + buffer.len() as u64);
        Ok(buffer.len())
    }
}

#[test]
fn endless_content_ends_at_the_limits() {
    let past = Limits {
        until: Instant::now(),
        ..limits()
    };
    for content in [
        b"0\nBLOCK\n70\n4\n1\nx.dxf\n".as_slice(),
        b"mtllib a.mtl\n",
        b"a",
        b"\n",
    ] {
        for format in [Format::Dxf, Format::Obj] {
            for limits in [limits(), past] {
                let read = Cell::new(0);
                let endless = Endless {
                    content,
                    at: 0,
                    read: &read,
                };
                let found = super::read(format, endless, limits);
                assert!(
                    !matches!(found.end, End::Complete | End::Failed(_)),
                    "{found:?}"
                );
                let most = if limits.until == past.until {
                    0
                } else {
                    limits.bytes
                };
                assert!(read.get() <= most, "{} of {most}", read.get());
                assert!(found.references.len() <= 1);
            }
        }
    }
}

/// Pieces that a reader looks for, mixed with any bytes.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let pieces = vec![
        "0\n",
        "BLOCK\n",
        "70\n",
        "4\n",
        "1\n",
        "\\U+00E4",
        "\\U+",
        "IMAGEDEF\r\n",
        "EOF\n",
        "mtllib ",
        ".mtl",
        "..\\",
        "C:\\",
        "\n",
        "\u{feff}",
        "  ",
    ];
    let piece = prop_oneof![
        4 => prop::sample::select(pieces).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_content_panics_or_exceeds_a_limit(content in content(), bytes in 0_u64..400, references in 0_usize..4) {
        let limits = Limits { bytes, references, ..limits() };
        for format in [Format::Dxf, Format::Obj] {
            let found = read(format, content.as_slice(), limits);
            prop_assert!(found.references.len() <= references.max(1));
            for reference in &found.references {
                let mut asked = 0_u32;
                let located = locate(Path::new("a/b.dxf"), &reference.written, &mut |_| {
                    asked += 1;
                    vec!["a".into(), "x.dxf".into()]
                });
                if let Located::At(path) = located {
                    prop_assert!(path.is_relative());
                }
                prop_assert!(asked < 10_000);
            }
        }
    }
}
