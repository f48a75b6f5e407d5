//! The lines of a file, within limits.

use std::io::{self, Read};
use std::time::Instant;

use super::Limits;

/// Bytes of a line that are kept; the rest is skipped. Paths are shorter.
const LINE_MAX: usize = 4096;

/// Bytes per read; the time limit is checked between two reads.
const BUFFER: usize = 64 * 1024;

/// Reads lines that end in LF or CR LF.
pub(super) struct Lines<R> {
    content: R,
    buffer: Vec<u8>,
    next: usize,
    filled: usize,
    left: u64,
    until: Instant,
    line: Vec<u8>,
}

/// What came next.
#[derive(Debug)]
pub(super) enum Next<'l> {
    /// A line, without its end, and cut at a maximum length.
    Line(&'l [u8]),
    /// The file ended.
    End,
    /// A limit was reached.
    Limit,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(content: R, limits: Limits) -> Self {
        Self {
            content,
            buffer: vec![0; BUFFER],
            next: 0,
            filled: 0,
            left: limits.bytes,
            until: limits.until,
            line: Vec::new(),
        }
    }

    pub(super) fn next(&mut self) -> io::Result<Next<'_>> {
        self.line.clear();
        let mut began = false;
        loop {
            if self.next == self.filled {
                if self.left == 0 || Instant::now() >= self.until {
                    return Ok(Next::Limit);
                }
                self.filled = self.fill()?;
                self.next = 0;
                if self.filled == 0 {
                    return Ok(if began {
                        Next::Line(self.kept())
                    } else {
                        Next::End
                    });
                }
            }
            began = true;
            let rest = self.buffer.get(self.next..self.filled).unwrap_or_default();
            let end = rest.iter().position(|&byte| byte == b'\n');
            let part = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
            let room = LINE_MAX - self.line.len();
            self.line.extend(part.iter().take(room));
            self.next += part.len() + usize::from(end.is_some());
            if end.is_some() {
                return Ok(Next::Line(self.kept()));
            }
        }
    }

    fn kept(&self) -> &[u8] {
        self.line.strip_suffix(b"\r").unwrap_or(&self.line)
    }

    fn fill(&mut self) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(BUFFER).min(BUFFER);
        loop {
            match self
                .content
                .read(self.buffer.get_mut(..most).unwrap_or_default())
            {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(read) => {
                    // A reader that returns more than it was given room for is not believed.
                    let read = read.min(most);
                    self.left -= read as u64;
                    return Ok(read);
                }
                Err(error) => return Err(error),
            }
        }
    }
}
