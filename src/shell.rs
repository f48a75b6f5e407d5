//! Words for a shell, and commands of this program in messages: what a message prints can be copied as it is.

use std::path::Path;
use std::sync::OnceLock;

/// The option with the configuration of this process; unset if commands find it without one.
static CONFIG: OnceLock<String> = OnceLock::new();

/// From now on, commands in messages name this configuration.
pub(crate) fn name_config(path: &Path) {
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // A process has one configuration.
    CONFIG.set(config_option(&full)).ok();
}

/// The option `--config` for a path.
pub(crate) fn config_option(path: &Path) -> String {
    format!("--config {}", word(&path.to_string_lossy()))
}

/// A command of this program, such as `itwin-syncd resume north`, with the configuration of this process if it is not
/// the one that commands have by default.
pub(crate) fn command<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    with_config(words, CONFIG.get().map(String::as_str))
}

fn with_config<'a>(words: impl IntoIterator<Item = &'a str>, option: Option<&str>) -> String {
    let words = words.into_iter().map(word);
    let all = std::iter::once("itwin-syncd".to_owned()).chain(words);
    let all: Vec<String> = all.chain(option.map(ToOwned::to_owned)).collect();
    all.join(" ")
}

/// A word as a shell reads it: in quotes if it has to be.
pub(crate) fn word(text: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "/._-+,@=:".contains(letter);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_only_if_a_shell_would_split_or_change_it() {
        for (text, expected) in [
            ("north", "north"),
            (
                "/etc/itwin-syncd/plant/config.toml",
                "/etc/itwin-syncd/plant/config.toml",
            ),
            ("North Bridge", "'North Bridge'"),
            ("O'Hara", r"'O'\''Hara'"),
            ("a;b", "'a;b'"),
            ("*.dwg", "'*.dwg'"),
            ("", "''"),
        ] {
            assert_eq!(word(text), expected);
        }
    }

    #[test]
    fn a_command_names_the_configuration_that_it_would_not_find_by_itself() {
        let config = config_option(Path::new("/etc/itwin-syncd/plant/config.toml"));
        for (option, expected) in [
            (None, "itwin-syncd resume 'North Bridge'"),
            (
                Some(config.as_str()),
                "itwin-syncd resume 'North Bridge' --config /etc/itwin-syncd/plant/config.toml",
            ),
        ] {
            assert_eq!(with_config(["resume", "North Bridge"], option), expected);
        }
    }
}
