//! The id of a ledger, by which claims on the platform name it.
//!
//! It follows from the place of the ledger, so one that was lost and is built again at the same place has the same id:
//! what it claimed before is still its own. It is stored, so a ledger that is moved keeps it.

use std::path::{Path, PathBuf};

use super::{Error, Ledger, sql};
use crate::failpoint;
use crate::ledger_location::LedgerLocation;

/// Where systemd and D-Bus keep the id of the machine.
const MACHINE_IDS: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];

impl Ledger {
    /// The id of this ledger; None if no version that knows of ids has opened it yet.
    pub async fn id(&self) -> Result<Option<String>, Error> {
        self.db
            .read("look up its id", async |db| {
                sql::query_scalar("SELECT id FROM identity LIMIT 1")
                    .fetch_optional(db)
                    .await
            })
            .await
    }

    /// Gives the ledger the id of its place, or a random one, unless it has one. Whether it had none, as a new one has
    /// not.
    pub(super) async fn identify(&self, location: &LedgerLocation) -> Result<bool, Error> {
        let new = id_of_place(location);
        let new = new.unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
        let added = self
            .db
            .write_durably("keep its id", async |tx| {
                sql::query(
                    "INSERT INTO identity (id) SELECT $1 WHERE NOT EXISTS (SELECT 1 FROM identity)",
                )
                .bind(&new)
                .execute(tx)
                .await
            })
            .await?;
        Ok(added > 0)
    }
}

/// The id of a ledger that begins at this place; None if nothing distinguishes this machine from others.
pub(crate) fn id_of_place(location: &LedgerLocation) -> Option<String> {
    if let Some(server) = &location.server {
        // The options of the URL may name a schema.
        let options = server.url.query().unwrap_or_default();
        return Some(hash(&["server", &server.to_string(), options]));
    }
    let known = MACHINE_IDS
        .iter()
        .find_map(|path| machine_id(Path::new(path)));
    let machine = failpoint::machine().or(known)?;
    let host = host_name();
    let directory = absolute(location)?;
    Some(hash(&["directory", &machine, &host, directory.to_str()?]))
}

/// The path of a directory without links. It may be missing, but not the one above it.
fn absolute(directory: &Path) -> Option<PathBuf> {
    std::fs::canonicalize(directory).ok().or_else(|| {
        let above = std::fs::canonicalize(directory.parent()?).ok()?;
        Some(above.join(directory.file_name()?))
    })
}

/// The name of this host.
pub(crate) fn host_name() -> String {
    let system = rustix::system::uname();
    std::env::var(DEMO_HOST)
        .ok()
        .or_else(failpoint::machine)
        .unwrap_or_else(|| system.nodename().to_string_lossy().into_owned())
}

/// The variable with the name of a host of the demo, whose hosts are processes of one machine.
pub(crate) const DEMO_HOST: &str = "ITWIN_SYNCD_DEMO_HOST";

/// The id of this machine. Images of containers have none, or a word that says that it is not made yet.
fn machine_id(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let id = text.trim();
    let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_id && id.bytes().any(|byte| byte != b'0')).then(|| id.to_owned())
}

/// Not the id of the machine itself: that is not meant to leave it.
fn hash(parts: &[&str]) -> String {
    let mut hash = blake3::Hasher::new_derive_key("itwin-syncd id of a ledger");
    for part in parts {
        hash.update(part.as_bytes());
        hash.update(b"\0");
    }
    let hash = hash.finalize().to_hex();
    hash.get(..32).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_server(url: &str) -> LedgerLocation {
        let server = crate::ledger_location::Server {
            url: url.parse().unwrap(),
            password: None,
            ca_file: None,
        };
        LedgerLocation::on(server, Path::new("/var/lib/itwin-syncd"))
    }

    #[test]
    fn only_a_whole_machine_id_distinguishes_machines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("machine-id");
        let id = "4f0c2a1be6d94b0c8a5a6e7d3c2b1a09";
        for (text, expected) in [
            (format!("{id}\n"), Some(id.to_owned())),
            (String::new(), None),
            ("uninitialized\n".to_owned(), None),
            ("0".repeat(32), None),
            ("4f0c".to_owned(), None),
        ] {
            std::fs::write(&path, &text).unwrap();
            assert_eq!(machine_id(&path), expected, "{text:?}");
        }
        assert_eq!(machine_id(&dir.path().join("missing")), None);
    }

    #[test]
    fn a_database_has_the_same_id_from_every_host_and_for_every_user() {
        let id = id_of_place(&on_server("postgres://one@db.example.com/syncd"));
        let other = id_of_place(&on_server("postgres://two:x@db.example.com:5432/syncd"));
        assert!(id.is_some());
        assert_eq!(id, other);
        assert_ne!(
            id,
            id_of_place(&on_server("postgres://one@db.example.com/test"))
        );
    }

    #[tokio::test]
    async fn a_ledger_keeps_its_id_and_a_new_one_at_its_place_gets_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let open = async |path: &Path| {
            let ledger = Ledger::open(path).await.unwrap();
            let id = ledger.id().await.unwrap().unwrap();
            ledger.close().await;
            id
        };
        let id = open(&state).await;
        assert_eq!(open(&state).await, id);
        let elsewhere = dir.path().join("elsewhere");
        std::fs::rename(&state, &elsewhere).unwrap();
        assert_eq!(open(&elsewhere).await, id, "moved");
        // Not on a machine without an id.
        if let Some(place) = id_of_place(&LedgerLocation::from(&state)) {
            assert_eq!(place, id, "it begins there");
            assert_eq!(open(&state).await, id, "lost, and built again at its place");
        }
    }
}
