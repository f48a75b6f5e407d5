//! The claim on a storage folder, as it is written on the platform, and who created a storage file.

use crate::config::Watch;
use crate::itwin::{self, Client, Folder};
use crate::ledger::{self, OtherLedger};
use crate::upload::destination::DESCRIPTION;

/// Longest name of a host that is believed.
const HOST_MAX: usize = 64;

/// Whose files a storage folder has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The id of the ledger.
    pub(crate) ledger: String,
    /// The host of its daemon.
    pub(crate) host: String,
    /// The daemon that wanted it last and did not get it.
    pub(super) refused: Option<Refused>,
}

/// A daemon that did not get a storage folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) ledger: String,
    pub(super) host: String,
    /// Different each time, so that nobody has to compare clocks.
    pub(super) at: i64,
}

impl Claim {
    pub(super) fn own(ledger: &str) -> Self {
        Self {
            ledger: ledger.to_owned(),
            host: word(&ledger::host_name()),
            refused: None,
        }
    }

    /// From the description of a folder. None: it names no ledger.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let mut expect = |expected: &str| words.next().filter(|word| *word == expected).map(drop);
        expect(DESCRIPTION)?;
        expect("ledger")?;
        let ledger = id(words.next()?)?;
        let mut expect = |expected: &str| words.next().filter(|word| *word == expected).map(drop);
        expect("on")?;
        let host = word(words.next()?);
        let refused = match words.collect::<Vec<_>>().as_slice() {
            ["refused", other, "on", host, "at", at] => match (id(other), at.parse()) {
                (Some(ledger), Ok(at)) => Some(Refused {
                    ledger,
                    host: word(host),
                    at,
                }),
                _ => None,
            },
            _ => None,
        };
        Some(Self {
            ledger,
            host,
            refused,
        })
    }

    pub(super) fn text(&self) -> String {
        let Self { ledger, host, .. } = self;
        let mut text = format!("{DESCRIPTION} ledger {ledger} on {host}");
        if let Some(Refused { ledger, host, at }) = &self.refused {
            text += &format!(" refused {ledger} on {host} at {at}");
        }
        text
    }

    pub(super) fn owner(&self) -> OtherLedger {
        OtherLedger {
            id: self.ledger.clone(),
            host: self.host.clone(),
        }
    }
}

/// The id of a ledger.
fn id(word: &str) -> Option<String> {
    let is_id = word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| word.to_ascii_lowercase())
}

/// The name of a host as one harmless word.
pub(super) fn word(host: &str) -> String {
    let is_fine = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let word: String = host.chars().filter(is_fine).take(HOST_MAX).collect();
    if word.is_empty() {
        return "unknown".to_owned();
    }
    word
}

/// Who created a storage file, by its description: None: another client; else the id of the ledger, if it names one.
/// Earlier versions and pushes name none.
pub(crate) fn creator(description: &str) -> Option<Option<&str>> {
    let mut words = description.strip_prefix(DESCRIPTION)?.split_whitespace();
    Some(match (words.next(), words.next()) {
        (Some(ledger), Some(_)) => Some(ledger),
        _ => None,
    })
}

/// The name of the folder that is the claim on a storage folder for the files of an iModel.
pub(super) fn claim_name(watch: &Watch) -> String {
    format!("{DESCRIPTION} {}", watch.imodel_id)
}

/// The claim among the folders of a storage folder: of several the oldest, so that every daemon reads the same.
fn oldest(folders: Vec<Folder>, name: &str) -> Option<Folder> {
    let named = folders.into_iter().filter(|one| one.display_name == name);
    named.min_by(|a, b| (&a.created, &a.id).cmp(&(&b.created, &b.id)))
}

/// The claim on the storage folder of a watch; None: there is none. Changes nothing.
///
/// # Errors
/// Not allowed, or not reachable.
pub(crate) async fn read_claim(
    client: &Client,
    root_folder_id: &str,
    watch: &Watch,
) -> Result<Option<Claim>, itwin::Error> {
    let mut folder_id = root_folder_id.to_owned();
    let name = claim_name(watch);
    for segment in watch.storage_folder.iter().chain([&name]) {
        match oldest(client.folders(&folder_id).await?, segment) {
            Some(found) => folder_id = found.id,
            None => return Ok(None),
        }
    }
    let description = client.folder(&folder_id).await?.description;
    Ok(description.as_deref().and_then(Claim::parse))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_read_as_it_was_written() {
        let own = Claim {
            ledger: "0a".repeat(16),
            host: "cad1.example.com".to_owned(),
            refused: None,
        };
        let contested = Claim {
            refused: Some(Refused {
                ledger: "0b".repeat(16),
                host: "cad2".to_owned(),
                at: 1_800_000_000,
            }),
            ..own.clone()
        };
        for claim in [own, contested] {
            assert_eq!(Claim::parse(&claim.text()), Some(claim.clone()));
            assert!(claim.text().len() < 200, "{}", claim.text());
        }
        let longest = "x".repeat(300);
        assert_eq!(word(&longest).len(), HOST_MAX);
    }

    #[test]
    fn text_of_others_is_no_claim_and_a_name_in_it_is_made_harmless() {
        let id = "0a".repeat(16);
        for text in [
            String::new(),
            "Drawings of the north".to_owned(),
            format!("itwin-syncd {id}"),
            "itwin-syncd ledger 12 on cad1".to_owned(),
            format!("itwin-syncd ledger {id}"),
        ] {
            assert_eq!(Claim::parse(&text), None, "{text:?}");
        }
        let claim = Claim::parse(&format!(
            "itwin-syncd ledger {id} on \u{1b}[31m;\u{202e} refused"
        ));
        assert_eq!(claim.unwrap().host, "31m");
        let claim = Claim::parse(&format!("itwin-syncd ledger {id} on \u{202e} at"));
        assert_eq!(claim.unwrap().host, "unknown");
    }
}
