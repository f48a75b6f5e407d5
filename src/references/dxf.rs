//! References in a drawing interchange file (dxf) that is text.
//!
//! Such a file is a sequence of pairs: a line with a group code and a line with its value. Code 0 begins an entity.
//! Source: Autodesk's DXF reference: BLOCK (code 70 bits 4 and 8: external reference; code 1: its path), IMAGEDEF,
//! PDFDEFINITION, DWFDEFINITION and DGNDEFINITION (code 1: path of the file).

use std::io::{self, Read};

use super::lines::{Lines, Next};
use super::{End, Found, Limits};

/// The bits of code 70 of a block that make it an external reference: attached, or as an overlay.
const EXTERNAL: i64 = 4 | 8;

/// The first bytes of the binary variant, in which lengths depend on the version.
const BINARY: &[u8] = b"AutoCAD Binary DXF";

/// An entity that can refer to a file.
enum Entity {
    Block { external: bool },
    Definition(&'static str),
    Other,
}

pub(super) fn read(
    lines: &mut Lines<impl Read>,
    found: &mut Found,
    limits: Limits,
) -> io::Result<End> {
    let (mut entity, mut path) = (Entity::Other, Vec::new());
    let mut first = true;
    loop {
        let code = match lines.next()? {
            Next::Line(line) if first && line.starts_with(BINARY) => {
                return Ok(End::Unknown("it is a binary DXF file"));
            }
            Next::Line(line) => code(line, first),
            Next::End if first => return Ok(End::Unknown("it is empty")),
            Next::End => {
                finish(&entity, &path, found);
                return Ok(End::Complete);
            }
            Next::Limit => return Ok(End::Limit),
        };
        first = false;
        let Some(code) = code else {
            return Ok(End::Unknown("it is not a DXF file, or it is damaged"));
        };
        let value = match lines.next()? {
            Next::Line(line) => line,
            Next::End => return Ok(End::Unknown("it ends within an entry")),
            Next::Limit => return Ok(End::Limit),
        };
        match code {
            0 => {
                finish(&entity, &path, found);
                if found.references.len() >= limits.references {
                    found.references.truncate(limits.references);
                    return Ok(End::Limit);
                }
                path.clear();
                entity = match value.trim_ascii() {
                    b"BLOCK" => Entity::Block { external: false },
                    b"IMAGEDEF" => Entity::Definition("image"),
                    b"PDFDEFINITION" | b"DWFDEFINITION" | b"DGNDEFINITION" => {
                        Entity::Definition("underlay")
                    }
                    b"EOF" => return Ok(End::Complete),
                    _ => Entity::Other,
                };
            }
            1 if !matches!(entity, Entity::Other) => value.clone_into(&mut path),
            70 => {
                if let Entity::Block { external } = &mut entity {
                    *external = number(value).is_some_and(|flags| flags & EXTERNAL != 0);
                }
            }
            _ => {}
        }
    }
}

fn finish(entity: &Entity, path: &[u8], found: &mut Found) {
    match entity {
        Entity::Block { external: true } => found.add("drawing", &unescaped(path)),
        Entity::Definition(what) => found.add(what, &unescaped(path)),
        Entity::Block { external: false } | Entity::Other => {}
    }
}

/// A group code. The first line may begin with a byte order mark.
fn code(line: &[u8], first: bool) -> Option<i64> {
    let mark = b"\xef\xbb\xbf";
    number(line.strip_prefix(mark).filter(|_| first).unwrap_or(line))
}

fn number(text: &[u8]) -> Option<i64> {
    str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
}

/// Resolves `\U+XXXX`, by which older versions write characters outside of their code page.
fn unescaped(path: &[u8]) -> Vec<u8> {
    let (mut rest, mut result) = (path, Vec::with_capacity(path.len()));
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = rest
            .strip_prefix(b"\\U+")
            .and_then(|tail| tail.split_at_checked(4));
        let character = escaped.and_then(|(digits, tail)| {
            let digits = str::from_utf8(digits).ok()?;
            let character = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
            Some((character, tail))
        });
        if let Some((character, tail)) = character {
            result.extend(character.encode_utf8(&mut [0; 4]).as_bytes());
            rest = tail;
        } else {
            result.push(byte);
            rest = tail;
        }
    }
    result
}
