//! Checks whether the first bytes of a file match the format of its name.
//!
//! Later damage passes, and so does every format that is not listed here. The check happens at the start of a run,
//! never during an upload.
//!
//! Source: the public descriptions of the formats: Open Design specification of DWG, ISO 10303-21 for IFC, [MS-CFB] for
//! RVT, XLS and DGN V8, Intergraph's standard file format for DGN V7, ESRI's shapefile whitepaper, PKWARE's APPNOTE for
//! ZIP

/// Number of bytes that are checked.
pub(super) const LENGTH: usize = 512;

const COMPOUND: &[u8] = &[0xD0, 0xCF, 0x11, 0xE0, 0xA1, 0xB1, 0x1A, 0xE1];
const SQLITE: &[u8] = b"SQLite format 3\0";
const ZIP: [&[u8]; 2] = [b"PK\x03\x04", b"PK\x05\x06"];
const BYTE_ORDER_MARK: &[u8] = &[0xEF, 0xBB, 0xBF];

/// The expected format of a file of this name, if its first bytes do not match.
pub(super) fn mismatch(name: &str, head: &[u8]) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    let (fits, format) = match extension {
        "dgn" => (is_dgn(head), "a DGN file"),
        "dwg" => (is_dwg(head), "a DWG file"),
        "dxf" => (is_dxf(head), "a DXF file"),
        "ifc" => (is_text(head, "ISO-10303-21"), "an IFC file"),
        "rvt" => (head.starts_with(COMPOUND), "a Revit file"),
        "xls" | "vsd" => (head.starts_with(COMPOUND), "an Office file"),
        "xlsx" | "zip" => (is_zip(head), "a ZIP archive"),
        "shp" => (head.starts_with(&[0, 0, 0x27, 0x0A]), "a shapefile"),
        "geojson" => (is_text(head, "{"), "a GeoJSON file"),
        "json" => (is_text(head, "{") || is_text(head, "["), "a JSON file"),
        "kml" | "xml" | "otxml" => (is_text(head, "<"), "an XML file"),
        _ => return None,
    };
    (!fits).then_some(format)
}

fn is_zip(head: &[u8]) -> bool {
    ZIP.iter().any(|signature| head.starts_with(signature))
}

/// Version strings are `AC1012` and later, or those of old versions such as `AC2.10`.
fn is_dwg(head: &[u8]) -> bool {
    head.starts_with(b"AC10")
        || head.starts_with(b"AC1.") && head.len() > 4
        || head.starts_with(b"AC2.")
}

/// V8 is a compound file, V7 starts with the header element of a 2D or 3D file or of a cell library, an i-model can be
/// SQLite.
fn is_dgn(head: &[u8]) -> bool {
    let is_v7 = matches!(head, [0x08 | 0xC8, 0x09, 0xFE, 0x02, ..] | [0x08, 0x05, ..]);
    is_v7 || head.starts_with(COMPOUND) || head.starts_with(SQLITE)
}

/// Group code 0 and SECTION, after comments with group code 999; or the binary form.
fn is_dxf(head: &[u8]) -> bool {
    if head.starts_with(b"AutoCAD Binary DXF") {
        return true;
    }
    let text = String::from_utf8_lossy(head);
    let mut lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
    loop {
        match (lines.next(), lines.next()) {
            (Some("999"), Some(_)) => {}
            (Some("0"), Some(word)) => return word == "SECTION",
            _ => return false,
        }
    }
}

/// Whether text starts with this, after a byte order mark and whitespace.
fn is_text(head: &[u8], begin: &str) -> bool {
    let head = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(head);
    head.trim_ascii_start().starts_with(begin.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_judged_by_how_it_begins() {
        for (name, head, expected) in [
            ("a.dwg", &b"AC1032\0\0"[..], None),
            ("a.dwg", b"hello", Some("a DWG file")),
            ("a.DWG", b"", Some("a DWG file")),
            ("a.dgn", COMPOUND, None),
            ("a.dgn", &[0x08, 0x09, 0xFE, 0x02, 0], None),
            ("a.dgn", &[0xC8, 0x09, 0xFE, 0x02, 0], None),
            ("a.i.dgn", SQLITE, None),
            ("a.dgn", b"a text file", Some("a DGN file")),
            ("a.ifc", b"ISO-10303-21;\nHEADER;", None),
            ("a.ifc", b"\xEF\xBB\xBF\r\nISO-10303-21;", None),
            ("a.ifc", b"PK\x03\x04", Some("an IFC file")),
            ("a.rvt", COMPOUND, None),
            ("a.rvt", b"PK\x03\x04", Some("a Revit file")),
            ("a.dxf", b"0\r\nSECTION\r\n", None),
            ("a.dxf", b"999\nmade by hand\n  0\nSECTION\n", None),
            ("a.dxf", b"AutoCAD Binary DXF\r\n", None),
            ("a.dxf", b"0\nEOF\n", Some("a DXF file")),
            ("a.shp", &[0, 0, 0x27, 0x0A, 0], None),
            ("a.shp", b"shape", Some("a shapefile")),
            ("a.zip", b"PK\x03\x04", None),
            ("a.geojson", b" {\"type\":1}", None),
            ("a.kml", b"<?xml version=\"1.0\"?>", None),
            ("a.kml", b"kml", Some("an XML file")),
            ("a.nwd", b"not known here", None),
            ("none", b"anything", None),
        ] {
            assert_eq!(mismatch(name, head), expected, "{name} {head:?}");
        }
    }
}
