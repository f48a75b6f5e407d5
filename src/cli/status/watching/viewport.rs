//! Which part of a report a terminal shows. Pure.
//!
//! Input: the text, the size of the terminal and the keys that are pressed. Output: the lines to draw, never wider or
//! more than fit. Long lines are continued below, so that no reason is cut off. The first line, the overall state,
//! stays in view.

use unicode_width::UnicodeWidthChar as _;

use crate::text::plural;

/// What the last row says of the keys.
const HELP: &str = "scroll: ↑ ↓ PgUp PgDn; quit: q";

/// Narrower terminals get lines that are cut off there.
const WIDTH_MIN: usize = 20;

/// In place of a character that is none on a terminal.
const REPLACEMENT: char = '\u{fffd}';

/// A key that does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Quit,
}

/// Keys and what terminals send for them. Source: xterm's control sequences, PC-style function keys.
const SEQUENCES: &[(&[u8], Key)] = &[
    (b"\x1b[A", Key::Up),
    (b"\x1bOA", Key::Up),
    (b"k", Key::Up),
    (b"\x1b[B", Key::Down),
    (b"\x1bOB", Key::Down),
    (b"j", Key::Down),
    (b"\x1b[5~", Key::PageUp),
    (b"b", Key::PageUp),
    (b"\x1b[6~", Key::PageDown),
    (b" ", Key::PageDown),
    (b"\x1b[H", Key::Home),
    (b"\x1bOH", Key::Home),
    (b"\x1b[1~", Key::Home),
    (b"g", Key::Home),
    (b"\x1b[F", Key::End),
    (b"\x1bOF", Key::End),
    (b"\x1b[4~", Key::End),
    (b"G", Key::End),
    (b"q", Key::Quit),
    (b"Q", Key::Quit),
];

/// The keys in what was read; anything else is skipped.
pub(super) fn keys(mut bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    while let Some((_, next)) = bytes.split_first() {
        let known = SEQUENCES
            .iter()
            .find(|(sequence, _)| bytes.starts_with(sequence));
        bytes = match known {
            Some((sequence, key)) => {
                keys.push(*key);
                bytes.get(sequence.len()..).unwrap_or_default()
            }
            None if bytes.starts_with(b"\x1b[") => after_sequence(bytes),
            None => next,
        };
    }
    keys
}

/// What comes after a control sequence: its letters are no keys.
fn after_sequence(bytes: &[u8]) -> &[u8] {
    let end = bytes
        .iter()
        .skip(2)
        .position(|byte| (0x40..=0x7e).contains(byte));
    end.and_then(|end| bytes.get(end + 3..)).unwrap_or_default()
}

/// A report, and the part of it that is shown.
#[derive(Debug, Default)]
pub(super) struct Viewport {
    text: String,
    /// Lines above the part that is shown.
    top: usize,
    /// Lines that the last frame had room for, and all lines at its width.
    page: usize,
    lines: usize,
}

impl Viewport {
    pub(super) fn set_text(&mut self, text: &str) {
        text.clone_into(&mut self.text);
    }

    pub(super) fn press(&mut self, key: Key) {
        // One line of the last page stays in view.
        let step = self.page.saturating_sub(1).max(1);
        self.top = match key {
            Key::Up => self.top.saturating_sub(1),
            Key::Down => self.top.saturating_add(1),
            Key::PageUp => self.top.saturating_sub(step),
            Key::PageDown => self.top.saturating_add(step),
            Key::Home => 0,
            Key::End => usize::MAX,
            Key::Quit => self.top,
        }
        .min(self.last_top());
    }

    fn last_top(&self) -> usize {
        self.lines.saturating_sub(self.page)
    }

    /// The lines for a terminal of this size, each with its line break but the last one.
    pub(super) fn frame(&mut self, width: usize, height: usize) -> String {
        let mut all = self.text.lines();
        let head = all.next().unwrap_or_default();
        let head = wrapped(head, width);
        let head: Vec<_> = head.into_iter().take(height.saturating_sub(2)).collect();
        let lines: Vec<String> = all.flat_map(|line| wrapped(line, width)).collect();
        self.lines = lines.len();
        self.page = height.saturating_sub(head.len() + 1);
        self.top = self.top.min(self.last_top());
        let shown = lines.iter().skip(self.top).take(self.page);
        let count = shown.len();
        let mut frame = String::new();
        for line in head.iter().chain(shown) {
            frame.push_str(line);
            frame.push('\n');
        }
        // The last row is always at the bottom.
        for _ in count..self.page {
            frame.push('\n');
        }
        frame + &cut(&self.last_row(count), width)
    }

    fn last_row(&self, shown: usize) -> String {
        let end = self.top + shown;
        let below = self.lines.saturating_sub(end);
        let lines = |count: usize| plural(count as u64, "line", "lines");
        match (self.top, below) {
            (0, 0) => "q: quit; the daemon keeps running".to_owned(),
            (0, below) => format!("{} below; {HELP}", lines(below)),
            (top, 0) => format!("{} above; {HELP}", lines(top)),
            (top, below) => format!("{} above, {below} below; {HELP}", lines(top)),
        }
    }
}

/// Columns of a character.
fn columns(letter: char) -> usize {
    letter.width().unwrap_or(1)
}

/// The line without what a terminal does not show as one character.
fn printable(line: &str) -> impl Iterator<Item = char> {
    line.chars().map(|letter| match letter.width() {
        Some(_) => letter,
        None => REPLACEMENT,
    })
}

/// The beginning of the line that fits.
fn cut(line: &str, width: usize) -> String {
    let mut used = 0;
    printable(line)
        .take_while(|letter| {
            used += columns(*letter);
            used <= width
        })
        .collect()
}

/// The line in as many rows as it needs, broken between words, and indented a little deeper from the second one on.
fn wrapped(line: &str, width: usize) -> Vec<String> {
    if width < WIDTH_MIN {
        return vec![cut(line, width)];
    }
    let indent = line.chars().take_while(|letter| *letter == ' ').count();
    let indent = " ".repeat((indent + 4).min(width / 2));
    let mut rows = Vec::new();
    let mut row = String::new();
    let mut used = 0;
    // Where the row can be broken: bytes of it, and columns.
    let mut space: Option<(usize, usize)> = None;
    for letter in printable(line) {
        if used + columns(letter) > width {
            let (rest, rest_columns) = match space.take() {
                // A word that does not fit is broken itself.
                Some((at, columns)) if letter != ' ' && columns > indent.len() => {
                    let rest = row.split_off(at).trim_start().to_owned();
                    (rest, used.saturating_sub(columns + 1))
                }
                _ => (String::new(), 0),
            };
            rows.push(std::mem::replace(&mut row, indent.clone()));
            row.push_str(&rest);
            used = indent.len() + rest_columns;
            if letter == ' ' && rest.is_empty() {
                continue;
            }
        }
        if letter == ' ' {
            space = Some((row.len(), used));
        }
        row.push(letter);
        used += columns(letter);
    }
    rows.push(row);
    rows
}

#[cfg(test)]
mod tests {
    use unicode_width::UnicodeWidthStr as _;

    use super::*;

    #[test]
    fn keys_are_recognized_and_anything_else_is_skipped() {
        use Key::{Down, End, Home, PageDown, PageUp, Quit, Up};
        let cases: [(&[u8], &[Key]); 6] = [
            (b"jk", &[Down, Up]),
            (b"\x1b[A\x1bOB\x1b[5~\x1b[6~", &[Up, Down, PageUp, PageDown]),
            (b"\x1b[H\x1b[F gG", &[Home, End, PageDown, Home, End]),
            (b"x\x1b[1;5Aq", &[Quit]),
            (b"\x1b[200~", &[]),
            (b"\x1b[", &[]),
        ];
        for (bytes, expected) in cases {
            assert_eq!(keys(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn every_row_fits_and_nothing_is_lost() {
        let text = "      hint:   list the master files in masters; every other file is stored\n\
                    averyveryveryverylongwordwithoutanyspacesinit and 漢字漢字漢字漢字漢字漢字漢字 \u{1b}[2Jx\n\n";
        for width in 20..90 {
            for line in text.lines() {
                let rows = wrapped(line, width);
                for row in &rows {
                    assert!(row.width() <= width, "{width}: {row:?}");
                    assert!(!row.contains('\u{1b}'));
                }
                let letters = |text: &str| text.replace(' ', "").replace('\u{1b}', "\u{fffd}");
                assert_eq!(letters(&rows.concat()), letters(line), "{width}");
            }
        }
        assert_eq!(
            wrapped("  one two three four five", 20),
            ["  one two three four", "      five"]
        );
        assert_eq!(wrapped("one two", 5), ["one t"]);
    }

    fn viewport(lines: usize) -> Viewport {
        let mut viewport = Viewport::default();
        let lines: Vec<String> = (0..=lines).map(|line| format!("line {line}")).collect();
        viewport.set_text(&lines.join("\n"));
        viewport
    }

    #[test]
    fn a_frame_has_the_height_of_the_terminal_at_every_place() {
        for (height, lines) in [(1, 5), (2, 5), (3, 5), (10, 5), (10, 100), (10, 0)] {
            let mut viewport = viewport(lines);
            for key in [
                Key::End,
                Key::PageDown,
                Key::Down,
                Key::PageUp,
                Key::Home,
                Key::Up,
            ] {
                let frame = viewport.frame(80, height);
                assert_eq!(
                    frame.split('\n').count(),
                    height,
                    "{height}, {lines}: {frame}"
                );
                viewport.press(key);
            }
        }
    }

    #[test]
    fn scrolling_stops_at_both_ends_and_keeps_the_first_line() {
        let mut viewport = viewport(100);
        let mut after = |keys: &[Key], height| {
            viewport.frame(80, height);
            for key in keys {
                viewport.press(*key);
            }
            let frame = viewport.frame(80, height);
            let lines: Vec<&str> = frame.split('\n').collect();
            assert_eq!(lines[0], "line 0");
            format!("{}, {}", lines[1], lines[height - 2])
        };
        assert_eq!(after(&[], 12), "line 1, line 10");
        assert_eq!(
            after(&[Key::Down, Key::Down, Key::Up], 12),
            "line 2, line 11"
        );
        assert_eq!(after(&[Key::PageDown], 12), "line 11, line 20");
        assert_eq!(after(&[Key::PageUp, Key::PageUp], 12), "line 1, line 10");
        assert_eq!(after(&[Key::End, Key::PageDown], 12), "line 91, line 100");
        // A larger terminal shows what is above.
        assert_eq!(after(&[], 52), "line 51, line 100");
        assert_eq!(after(&[Key::Home], 52), "line 1, line 50");
    }
}
