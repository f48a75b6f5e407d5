//! How much of a response is read and believed: bytes, depth, items.

/// Maximum size of a response body, after decompression, by its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// A token, or one object of the platform.
    Answer,
    /// A page of a list, a run with its tasks, or the blocks of a blob.
    List,
}

/// Maximum size of an error response, in bytes; the rest is dropped with its connection.
pub(super) const REFUSAL_MAX: usize = 64 * 1024;

/// Maximum nesting of JSON; the platform's is flatter.
pub(super) const DEPTH_MAX: usize = 64;

/// Maximum number of items on a page: more than are ever requested, in case the size is ignored.
pub(super) const ITEMS_MAX: usize = 1_000;

impl Limit {
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Answer => 1024 * 1024,
            Self::List => 16 * 1024 * 1024,
        }
    }
}

/// Whether JSON nests too deep. Nesting is cheap to send and expensive to parse.
pub(super) fn is_too_deep(json: &[u8]) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => depth += 1,
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_is_limited_and_ignores_brackets_in_strings() {
        assert!(is_too_deep("[".repeat(DEPTH_MAX + 1).as_bytes()));
        assert!(!is_too_deep("[]".repeat(DEPTH_MAX + 1).as_bytes()));
        let text = format!(r#"["{}\"{}"]"#, "[".repeat(100), "{".repeat(100));
        assert!(!is_too_deep(text.as_bytes()));
    }
}
