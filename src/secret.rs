//! Secrets that cannot be printed by accident, and their removal from text that other hosts sent.
//!
//! The text of a secret is available through [`Secret::expose`] only, which makes every use easy to find. `Debug` never
//! prints it, and there is no `Display` and no serde. It is not wiped from memory: the requests that carry it make
//! copies anyway.
//!
//! While a secret is in use, and for some time after, it is registered: [`redact`] removes it from any text, in every
//! encoding in which a host could send it back, whole or in parts. Text from outside is redacted once, where it
//! arrives; the log is redacted again.

mod command;
mod encoded;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

pub use command::{ClientSecret, CommandError, SecretCommand};

/// Text that must not reach a log, an error or a `Debug` print.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<Registered>);

/// The text; registered as long as it exists.
#[derive(PartialEq, Eq)]
struct Registered(String);

impl Secret {
    /// Wraps `text` as it is.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        registry(|registry| registry.add(&text));
        Self(Arc::new(Registered(text)))
    }

    /// The secret in `text`: one line, which may begin with the byte order mark of an editor and end with a line break.
    /// Other invisible characters are refused here: sent along, they would only come back as "invalid client".
    ///
    /// # Errors
    /// What is wrong, to follow "the secret".
    pub fn of_line(text: &str) -> Result<Self, &'static str> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let text = text.trim_end_matches(['\r', '\n']);
        let hidden = |letter: char| {
            letter.is_whitespace() && letter != ' '
                || matches!(letter, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        };
        if text.trim().is_empty() {
            Err("is empty")
        } else if text.len() as u64 > LINE_MAX {
            Err("is too long")
        } else if text.chars().any(char::is_control) {
            Err("contains a line break or control character")
        } else if text.starts_with(' ') || text.ends_with(' ') {
            Err("starts or ends with a space")
        } else if text.chars().any(hidden) {
            Err("contains an invisible character, such as a non-breaking space (U+00A0)")
        } else {
            Ok(Self::new(text))
        }
    }

    /// The text itself, for the request that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0.0
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        registry(|registry| registry.retire(&self.0));
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// The longest secret in bytes: anything longer is something else.
pub(crate) const LINE_MAX: u64 = 4096;

/// Replaces a secret.
pub const REDACTED: &str = "[redacted]";

/// How much of a secret is enough to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Eight letters or digits in a row. For text that is only shown.
    Short,
    /// Sixteen in a row, or half of a shorter secret. For ids and names, which a chance hit would change.
    Long,
}

/// Removes every secret in use from `text`: raw, percent-encoded, form-encoded, as base64, escaped as in JSON or HTML,
/// in any case, and cut into lines or pieces of at least the length that `part` gives.
#[must_use]
pub fn redact(text: &str, part: Part) -> Cow<'_, str> {
    let registry = REGISTRY.read().unwrap_or_else(PoisonError::into_inner);
    if registry.windows.is_empty() && registry.short.is_empty() {
        return Cow::Borrowed(text);
    }
    let found = encoded::views(text)
        .iter()
        .flat_map(|view| registry.find(view, part))
        .collect::<Vec<_>>();
    drop(registry);
    encoded::without(text, found)
}

static REGISTRY: LazyLock<RwLock<Registry>> = LazyLock::new(RwLock::default);

fn registry(change: impl FnOnce(&mut Registry)) {
    change(&mut REGISTRY.write().unwrap_or_else(PoisonError::into_inner));
}

/// Number of letters and digits that are compared at once.
const WINDOW: usize = 8;

/// See [`Part::Long`].
const LONG: usize = 16;

/// Number of secrets that stay registered after their last use: the response to their last request can still be on its
/// way.
const REMEMBERED: usize = 256;

/// The secrets in use.
#[derive(Default)]
struct Registry {
    /// Number of uses of each.
    texts: HashMap<String, usize>,
    /// No longer in use, the oldest first.
    dropped: VecDeque<String>,
    /// Every [`WINDOW`] of every encoding: the number of secrets with it, and how many letters in a row suffice for
    /// [`Part::Long`].
    windows: HashMap<u64, (usize, usize)>,
    /// Secrets that are shorter than a window, in their encodings.
    short: HashMap<Vec<u8>, usize>,
}

impl Registry {
    fn add(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let uses = self.texts.entry(text.to_owned()).or_default();
        *uses += 1;
        let before = self.dropped.iter().position(|known| known == text);
        if let Some(at) = before {
            self.dropped.remove(at);
        } else if *uses == 1 {
            let (windows, short) = patterns(text);
            for (window, long) in windows {
                let known = self.windows.entry(window).or_insert((0, long));
                *known = (known.0 + 1, known.1.min(long));
            }
            for whole in short {
                *self.short.entry(whole).or_default() += 1;
            }
        }
    }

    fn retire(&mut self, text: &str) {
        let Some(uses) = self.texts.get_mut(text) else {
            return;
        };
        *uses -= 1;
        if *uses > 0 {
            return;
        }
        self.dropped.push_back(text.to_owned());
        if self.dropped.len() <= REMEMBERED {
            return;
        }
        let Some(oldest) = self.dropped.pop_front() else {
            return;
        };
        self.texts.remove(&oldest);
        let (windows, short) = patterns(&oldest);
        for (window, _) in windows {
            if let Some(known) = self.windows.get_mut(&window) {
                known.0 -= 1;
                if known.0 == 0 {
                    self.windows.remove(&window);
                }
            }
        }
        for whole in short {
            if let Some(known) = self.short.get_mut(&whole) {
                *known -= 1;
                if *known == 0 {
                    self.short.remove(&whole);
                }
            }
        }
    }

    /// The positions of secrets, as ranges of the text.
    fn find(&self, view: &[encoded::Unit], part: Part) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        let mut run: Option<(usize, usize, usize)> = None;
        let mut window = 0_u64;
        let mut close = |run: Option<(usize, usize, usize)>| {
            if let Some((first, last, enough)) = run
                && (part == Part::Short || last - first + 1 >= enough)
                && let (Some(first), Some(last)) = (view.get(first), view.get(last))
            {
                found.push((first.start, last.end));
            }
        };
        for (at, unit) in view.iter().enumerate() {
            window = window << 8 | u64::from(unit.byte);
            let hit = if at + 1 >= WINDOW {
                self.windows.get(&window)
            } else {
                None
            };
            match (hit, run) {
                (Some((_, long)), None) => run = Some((at + 1 - WINDOW, at, *long)),
                (Some((_, long)), Some((first, _, enough))) => {
                    run = Some((first, at, enough.min(*long)));
                }
                (None, Some(_)) => {
                    close(run.take());
                }
                (None, None) => {}
            }
        }
        close(run);
        if part == Part::Short {
            for whole in self.short.keys() {
                for (at, part) in view.windows(whole.len()).enumerate() {
                    if part.iter().map(|unit| unit.byte).eq(whole.iter().copied())
                        && let (Some(first), Some(last)) =
                            (view.get(at), view.get(at + whole.len() - 1))
                    {
                        found.push((first.start, last.end));
                    }
                }
            }
        }
        found
    }
}

/// All windows of a secret in all its encodings, each once, and the encodings shorter than a window.
fn patterns(text: &str) -> (HashMap<u64, usize>, HashSet<Vec<u8>>) {
    let mut windows = HashMap::new();
    let mut short = HashSet::new();
    for pattern in encoded::patterns(text) {
        if pattern.len() < WINDOW {
            // A secret of two letters would match everywhere.
            if pattern.len() > 2 {
                short.insert(pattern);
            }
            continue;
        }
        let long = (pattern.len() / 2).clamp(WINDOW, LONG);
        for part in pattern.windows(WINDOW) {
            let window = part
                .iter()
                .fold(0_u64, |window, byte| window << 8 | u64::from(*byte));
            let known = windows.entry(window).or_insert(long);
            *known = long.min(*known);
        }
    }
    (windows, short)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

    use super::*;

    #[test]
    fn debug_hides_the_text() {
        let secret = Some(Secret::new("tiger"));
        assert_eq!(format!("{secret:?}"), "Some([redacted])");
        assert_eq!(format!("{secret:#?}"), "Some(\n    [redacted],\n)");
    }

    #[test]
    fn expose_returns_the_text() {
        assert_eq!(Secret::new("tiger").expose(), "tiger");
    }

    #[test]
    fn a_secret_is_removed_in_every_encoding() {
        const TEXT: &str = "Zq8+mV/2pL=Xw\"7\\Rk9~Tn4";
        let _secret = Secret::new(TEXT);
        let login = format!("service-test:{TEXT}");
        let basic = BASE64_STANDARD.encode(&login);
        for echoed in [
            TEXT.to_owned(),
            TEXT.to_lowercase(),
            "Zq8%2BmV%2F2pL%3DXw%227%5CRk9~Tn4".to_owned(),
            "Zq8%252BmV%252F2pL%253DXw%25227%255CRk9~Tn4".to_owned(),
            r#"Zq8+mV\/2pL=Xw\"7\\Rk9~Tn4"#.to_owned(),
            r"Zq8\u002bmV\u002F2pL\u003dXw\u00227\u005cRk9~Tn4".to_owned(),
            "Zq8&#43;mV&#x2F;2pL=Xw&quot;7&#92;Rk9~Tn4".to_owned(),
            basic.clone(),
            basic.replace('=', "%3D"),
            BASE64_URL_SAFE_NO_PAD.encode(&login),
            BASE64_STANDARD.encode(format!("x{login}")),
            BASE64_STANDARD.encode(format!("xy{login}")),
            "Zq8+mV/2pL\r\n=Xw\"7\\Rk9~Tn4".to_owned(),
            "Zq8+ mV/2 pL=X w\"7\\ Rk9~ Tn4".to_owned(),
            "Zq8+mV/2pL=Xw".to_owned(),
            "Xw\"7\\Rk9~Tn4".to_owned(),
            "Zq8+mV\u{200b}/2pL=Xw\"7\\Rk9~\u{202e}Tn4".to_owned(),
        ] {
            let text = format!("invalid: {echoed}, sorry");
            let shown = redact(&text, Part::Short);
            assert!(shown.starts_with("invalid: "), "{shown}");
            assert!(shown.ends_with(", sorry"), "{shown}");
            let plain: String = shown.chars().filter(char::is_ascii_alphanumeric).collect();
            // The last three are of base64, at each place where it can begin.
            for part in [
                "8mV", "mV2", "2pL", "Xw7", "Rk9", "YdyI3X", "WHciN1", "dcUms5",
            ] {
                assert!(!plain.contains(part), "{echoed}: {shown}");
            }
        }
    }

    #[test]
    fn other_text_stays_unchanged() {
        let _secret = Secret::new("harbour-bridge-0451-example");
        for text in [
            "bridge.ifc",
            "Harbour/Deck.dgn",
            "",
            "100 % ready & \\srv\\north",
            "é日本",
        ] {
            assert_eq!(redact(text, Part::Long), text);
        }
        assert_eq!(redact("harbour-bridge-0451-example", Part::Long), REDACTED);
    }

    #[test]
    fn a_secret_stays_registered_for_a_while() {
        let text = |number: usize| format!("mZ4x{number}uW8r{number}qK2p");
        drop(Secret::new(text(7_000_000)));
        assert_eq!(redact(&text(7_000_000), Part::Long), REDACTED);
        // Other tests of this process register secrets too.
        for number in 7_000_001..7_000_001 + 2 * REMEMBERED {
            drop(Secret::new(text(number)));
        }
        assert_eq!(redact(&text(7_000_000), Part::Long), text(7_000_000));
    }
}
