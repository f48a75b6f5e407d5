//! `itwin-syncd connectors`: the connector types, with what each reads. Reads nothing but the built-in tables.

use clap::Args;
use serde::Serialize;

use super::{EXIT_GOOD, json, print_line};
use crate::connector_type::ConnectorType;
use crate::selection::built_in_connectors;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// The list, as JSON prints it.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Connectors"))]
pub(super) struct List {
    version: u32,
    connectors: Vec<Connector>,
}

/// A connector type.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Connector {
    /// As `connectors` in the configuration names it.
    #[serde(rename = "type")]
    name: &'static str,
    reads: &'static str,
    /// What it reads without configuration.
    extensions: Vec<&'static str>,
    /// Whether the platform is likely to reject it.
    retired: bool,
}

pub(super) fn connectors(arguments: &Arguments) -> u8 {
    let all = list();
    print_line(&if arguments.json {
        json::text(&List {
            version: json::VERSION,
            connectors: all,
        })
    } else {
        table(&all)
    });
    EXIT_GOOD
}

fn list() -> Vec<Connector> {
    let names = ConnectorType::CURRENT
        .into_iter()
        .chain(ConnectorType::RETIRED);
    names
        .map(|name| {
            let kind = ConnectorType::new(name);
            Connector {
                name,
                reads: kind.reads().unwrap_or_default(),
                extensions: built_in_connectors()
                    .filter(|(_, reader)| *reader == name)
                    .map(|(extension, _)| extension)
                    .collect(),
                retired: kind.is_retired(),
            }
        })
        .collect()
}

fn table(connectors: &[Connector]) -> String {
    let mut lines = Vec::new();
    for (retired, head) in [(false, "TYPE"), (true, "RETIRED")] {
        lines.push(format!("{head:<14} {:<60} EXTENSIONS", "READS"));
        for one in connectors.iter().filter(|one| one.retired == retired) {
            let extensions = if one.extensions.is_empty() {
                "only as configured".to_owned()
            } else {
                one.extensions.join(" ")
            };
            lines.push(format!("{:<14} {:<60} {extensions}", one.name, one.reads));
        }
        lines.push(String::new());
    }
    lines.push("The platform may reject files of retired types.".to_owned());
    lines.push(
        "Another type for some files of a watch: connectors = { dgn = \"CIVIL\" }, or explain PATH for the rule of a file"
            .to_owned(),
    );
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_every_type_and_every_extension() {
        let all = list();
        let extensions: usize = all.iter().map(|one| one.extensions.len()).sum();
        assert_eq!(extensions, built_in_connectors().count());
        insta::assert_snapshot!(table(&all));
    }
}
