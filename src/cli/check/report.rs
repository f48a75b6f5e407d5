//! The lines of `check`, printed one by one, or collected for JSON.

use serde::Serialize;

use crate::cli::{EXIT_CONFIG, EXIT_FAILED, EXIT_GOOD, chain, json, print_line};
use crate::itwin;

/// Prints or collects the lines, and remembers failures.
pub(in crate::cli) struct Report {
    good: bool,
    /// None: they are printed.
    collected: Option<Vec<Check>>,
}

/// One check, as JSON.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct Check {
    result: CheckResult,
    text: String,
    hint: Option<String>,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
enum CheckResult {
    Ok,
    /// It does not fail, but may not be what the user wants.
    Note,
    Failed,
}

/// All checks, as JSON.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct Checks {
    version: u32,
    /// No check failed.
    ok: bool,
    #[serde(rename = "checks")]
    all: Vec<Check>,
}

impl Report {
    /// Prints each line at once.
    pub(in crate::cli) fn new() -> Self {
        Self {
            good: true,
            collected: None,
        }
    }

    /// The same, or collects the lines for JSON.
    pub(super) fn with_json(json: bool) -> Self {
        Self {
            good: true,
            collected: json.then(Vec::new),
        }
    }

    /// Whether nothing failed.
    pub(in crate::cli) fn is_good(&self) -> bool {
        self.good
    }

    pub(in crate::cli) fn ok(&mut self, what: &str) {
        self.add(CheckResult::Ok, what, None);
    }

    pub(in crate::cli) fn wrong(&mut self, what: &str, hint: Option<&str>) {
        self.good = false;
        self.add(CheckResult::Failed, what, hint);
    }

    /// Something that does not fail, but may not be what the user wants.
    pub(in crate::cli) fn note(&mut self, what: &str, hint: &str) {
        self.add(CheckResult::Note, what, Some(hint));
    }

    pub(in crate::cli) fn refused(&mut self, what: &str, error: &itwin::Error) {
        self.wrong(
            &format!("{what}: {}", chain(error)),
            error.hint().as_deref(),
        );
    }

    fn add(&mut self, result: CheckResult, text: &str, hint: Option<&str>) {
        if let Some(collected) = &mut self.collected {
            collected.push(Check {
                result,
                text: text.to_owned(),
                hint: hint.map(ToOwned::to_owned),
            });
            return;
        }
        let word = match result {
            CheckResult::Ok => "ok",
            CheckResult::Note => "note",
            CheckResult::Failed => "FAILED",
        };
        let mut lines = text.lines();
        print_line(&format!("{word:<6}  {}", lines.next().unwrap_or_default()));
        for line in lines {
            print_line(&format!("        {line}"));
        }
        if let Some(hint) = hint {
            print_line(&format!("        hint: {hint}"));
        }
    }

    /// Prints what is collected; the exit code.
    pub(super) fn finish(self) -> u8 {
        let code = if self.good { EXIT_GOOD } else { EXIT_FAILED };
        self.print();
        code
    }

    /// The same after errors of the configuration.
    pub(super) fn finish_invalid(self) -> u8 {
        self.print();
        EXIT_CONFIG
    }

    fn print(self) {
        if let Some(checks) = self.collected {
            print_line(&json::text(&Checks {
                version: json::VERSION,
                ok: self.good,
                all: checks,
            }));
        }
    }
}
