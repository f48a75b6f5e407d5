//! The manual page of the configuration file, made from `docs/configuration.md`: itwin-syncd.toml(5).
//!
//! Understands the Markdown that the page uses: headings, paragraphs, lists, tables, fences, code, emphasis and links.

use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::Lines;

use crate::version;

/// The name of the file.
pub(super) const FILE: &str = "itwin-syncd.toml.5";

/// The page in roff.
pub(super) fn page() -> String {
    let description = roff(include_str!("../../../docs/configuration.md"));
    format!(
        ".TH itwin\\-syncd.toml 5 \"\" \"itwin\\-syncd {}\"\n\
         .SH NAME\n\
         itwin\\-syncd.toml \\- configuration of itwin\\-syncd\n\
         .SH DESCRIPTION\n\
         {description}\
         .SH FILES\n\
         .TP\n/etc/itwin\\-syncd/config.toml\nThe configuration of the service.\n\
         .TP\n/etc/itwin\\-syncd/NAME/config.toml\nThat of the service itwin\\-syncd@NAME.\n\
         .TP\n/usr/share/itwin\\-syncd/config.example.toml\nEvery key with its default.\n\
         .SH SEE ALSO\n\
         .BR itwin\\-syncd (1)\n",
        literal(version::NUMBER)
    )
}

/// Markdown in roff. The title is left out: the page has a name.
fn roff(markdown: &str) -> String {
    let mut out = String::new();
    let mut lines = markdown.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("```") {
            fence(&mut out, &mut lines);
        } else if let Some(heading) = line.strip_prefix("### ") {
            writeln!(out, ".SS {}", inline(heading)).ok();
        } else if let Some(heading) = line.strip_prefix("## ") {
            writeln!(out, ".SH {}", inline(heading)).ok();
        } else if line.starts_with('|') {
            table(&mut out, line, &mut lines);
        } else if let Some((mark, text)) = item(line) {
            let text = joined(text, &mut lines);
            writeln!(out, ".IP {mark} 4\n{}", line_of(&text)).ok();
        } else if !line.trim().is_empty() && !line.starts_with('#') {
            let text = joined(line, &mut lines);
            writeln!(out, ".PP\n{}", line_of(&text)).ok();
        }
    }
    out
}

/// A fence, whose first line was read.
fn fence(out: &mut String, lines: &mut Peekable<Lines<'_>>) {
    out.push_str(".PP\n.RS 4\n.nf\n");
    for line in lines.take_while(|line| !line.starts_with("```")) {
        writeln!(out, "{}", guarded(&literal(line))).ok();
    }
    out.push_str(".fi\n.RE\n");
}

/// A table, whose first line was read: one entry for each row, with the first cell as its term.
fn table(out: &mut String, header: &str, lines: &mut Peekable<Lines<'_>>) {
    let columns = cells(header);
    while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
        if row.starts_with("|-") {
            continue;
        }
        let row = cells(row);
        let mut texts = Vec::new();
        for (column, cell) in columns.iter().zip(&row).skip(1) {
            match (*column, *cell) {
                (_, "–" | "") => {}
                (_, "required") => texts.push("Required.".to_owned()),
                ("meaning", text) => texts.push(text.to_owned()),
                (column, text) => texts.push(format!("{}: {text}.", capitalized(column))),
            }
        }
        let term = row.first().copied().unwrap_or_default();
        let text = line_of(&texts.join(" "));
        writeln!(out, ".TP\n\\fB{}\\fP\n{text}", inline(term)).ok();
    }
}

fn cells(row: &str) -> Vec<&str> {
    row.trim_matches('|').split(" | ").map(str::trim).collect()
}

fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    let first = chars.next().into_iter().flat_map(char::to_uppercase);
    first.chain(chars).collect()
}

/// The mark and the text of an entry of a list.
fn item(line: &str) -> Option<(&str, &str)> {
    if let Some(text) = line.strip_prefix("- ") {
        return Some(("\\(bu", text));
    }
    let (number, text) = line.split_once(". ")?;
    number.parse::<u32>().ok().map(|_| (number, text))
}

/// A paragraph or entry on one line: `first`, and the lines that continue it.
fn joined(first: &str, lines: &mut Peekable<Lines<'_>>) -> String {
    let mut text = first.trim().to_owned();
    while let Some(line) = lines.next_if(|line| continues(line)) {
        text.push(' ');
        text.push_str(line.trim());
    }
    text
}

fn continues(line: &str) -> bool {
    let begins_a_block = ["|", "#", "```"].iter().any(|mark| line.starts_with(mark));
    !(line.trim().is_empty() || begins_a_block || item(line).is_some())
}

fn line_of(text: &str) -> String {
    guarded(&inline(text))
}

/// A line of text that roff does not read as a request.
fn guarded(line: &str) -> String {
    if line.starts_with(['.', '\'']) {
        format!("\\&{line}")
    } else {
        line.to_owned()
    }
}

/// Code, emphasis and links.
fn inline(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(next) = rest.chars().next() {
        let (part, after) = if let Some((code, after)) = enclosed(rest, "`", "`") {
            (format!("\\fB{}\\fP", literal(code)), after)
        } else if let Some((bold, after)) = enclosed(rest, "**", "**") {
            (format!("\\fB{}\\fP", inline(bold)), after)
        } else if let Some((italic, after)) = enclosed(rest, "*", "*") {
            (format!("\\fI{}\\fP", inline(italic)), after)
        } else if let Some((label, after)) = enclosed(rest, "[", "](") {
            let (target, after) = after.split_once(')').unwrap_or((after, ""));
            let address = if target.starts_with("https:") {
                format!(" <{}>", literal(target))
            } else {
                String::new()
            };
            (inline(label) + &address, after)
        } else {
            let after = rest.strip_prefix(next).unwrap_or_default();
            (literal(next.encode_utf8(&mut [0; 4])), after)
        };
        out.push_str(&part);
        rest = after;
    }
    out
}

/// The text between two marks at the beginning, and what follows.
fn enclosed<'t>(text: &'t str, open: &str, close: &str) -> Option<(&'t str, &'t str)> {
    text.strip_prefix(open)?.split_once(close)
}

/// Text without markup. Characters beyond ASCII have names that every roff knows.
fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\\' => out.push_str("\\e"),
            '-' => out.push_str("\\-"),
            // Few fonts of terminals have it.
            '↻' => out.push_str("(R)"),
            char if char.is_ascii() => out.push(char),
            char => {
                write!(out, "\\[u{:04X}]", u32::from(char)).ok();
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_becomes_roff() {
        let cases = [
            ("# Title\n\nOne\nline.", ".PP\nOne line.\n"),
            ("## `[web]`\n### More", ".SH \\fB[web]\\fP\n.SS More\n"),
            (
                "- one\n  more\n- two",
                ".IP \\(bu 4\none more\n.IP \\(bu 4\ntwo\n",
            ),
            ("1. see [the page](page.md)", ".IP 1 4\nsee the page\n"),
            (
                "a [page](https://example.com/a-b), *thin* and **fat**",
                ".PP\na page <https://example.com/a\\-b>, \\fIthin\\fP and \\fBfat\\fP\n",
            ),
            (
                "```toml\n.hidden = 'a-b\\c'\n```\nend",
                ".PP\n.RS 4\n.nf\n\\&.hidden = 'a\\-b\\ec'\n.fi\n.RE\n.PP\nend\n",
            ),
            (
                "| key | default | meaning |\n|---|---|---|\n| `a` | `\"5s\"` | ↻ one |\n| `b` | – | ±2 |\n| `c` | required | |",
                ".TP\n\\fB\\fBa\\fP\\fP\nDefault: \\fB\"5s\"\\fP. (R) one\n.TP\n\\fB\\fBb\\fP\\fP\n\\[u00B1]2\n.TP\n\\fB\\fBc\\fP\\fP\nRequired.\n",
            ),
        ];
        for (markdown, expected) in cases {
            assert_eq!(roff(markdown), expected, "{markdown}");
        }
    }

    #[test]
    fn the_page_has_every_key_of_the_example_and_no_markup() {
        let page = page();
        for line in include_str!("../../../config.example.toml").lines() {
            let Some((key, _)) = line.trim_start_matches("# ").split_once(" = ") else {
                continue;
            };
            let is_key = key
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            let entry = format!(".TP\n\\fB\\fB{key}\\fP\\fP\n");
            assert!(!is_key || page.contains(&entry), "no entry for {key}");
        }
        for markup in ["](", "```", "\n|", "**`", "`"] {
            assert!(!page.contains(markup), "{markup:?} in the page");
        }
        assert!(page.is_ascii());
    }
}
