//! A secret that cannot be printed by accident.
//!
//! In comes the text of a client secret, out it goes through [`Secret::expose`] only, so that every use can be found by that word.
//! It never shows in `Debug`, and it has no `Display` and no serde. It is not wiped from memory: the requests that carry it copy it anyway.

use std::fmt;

/// Text that must not reach a log, an error or a `Debug` print.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text` as it is.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the request that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_the_text() {
        let secret = Some(Secret::new("tiger"));
        assert_eq!(format!("{secret:?}"), "Some([redacted])");
        assert_eq!(format!("{secret:#?}"), "Some(\n    [redacted],\n)");
    }

    #[test]
    fn expose_gives_the_text_back() {
        assert_eq!(Secret::new("tiger").expose(), "tiger");
    }
}
