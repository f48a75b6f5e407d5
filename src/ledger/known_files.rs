//! What the ledger knows of the local files: the version that was handed over last.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use super::row::{join, split};
use super::{Absence, Difference, Error, Ledger, Ready, WatchId, count_value, sql};
use crate::connector_type::ConnectorType;

/// Distinguishes two states of a file without reading it. Compared with `!=` only: times may go backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// Size in bytes.
    pub size: u64,
    /// Modification time in nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Change time in nanoseconds since the epoch; no program can set it.
    pub ctime_ns: i64,
}

/// A file of a folder as the ledger last saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// None when any content counts as new.
    pub fingerprint: Option<Fingerprint>,
    /// The connector type it was handed over with; None for a reference file.
    pub connector: Option<ConnectorType>,
    /// Recent scans did not find it, or it is not selected.
    pub absence: Option<Absence>,
    /// The stem of the set that it belongs to, if it belongs to one.
    pub set_stem: Option<Vec<u8>>,
}

sql::row! {
    /// The columns of a [`Known`].
    pub(super) struct KnownRow {
        name: Vec<u8>,
        version: VersionColumns = ..,
        connector: Option<ConnectorType>,
        absence: Option<Absence>,
        set_stem: Option<Vec<u8>>,
    }
}

sql::row! {
    /// The columns of a [`Fingerprint`].
    pub(super) struct VersionColumns {
        known: i64,
        size: i64,
        mtime_ns: i64,
        ctime_ns: i64,
    }
}

impl VersionColumns {
    /// None when any content counts as new.
    pub(super) fn fingerprint(&self) -> Option<Fingerprint> {
        (self.known != 0).then(|| Fingerprint {
            size: count_value(self.size),
            mtime_ns: self.mtime_ns,
            ctime_ns: self.ctime_ns,
        })
    }
}

impl Known {
    /// Whether this version, found with this fingerprint and selected for this connector, was handed over already.
    ///
    /// The one place that decides it, for scans and events, hand-over, `plan` and `explain`.
    #[must_use]
    pub fn is_version(&self, found: Fingerprint, connector: Option<&ConnectorType>) -> bool {
        self.fingerprint == Some(found) && self.connector.as_ref() == connector
    }

    /// How a file differs from this one; `settle`: a change is at least this far away.
    #[must_use]
    pub fn difference(&self, file: &Ready, settle: Duration) -> Difference {
        match self.fingerprint {
            Some(known) if self.connector == file.connector && self.set_stem == file.set_stem => {
                known.compare(file.fingerprint, settle)
            }
            _ => Difference::Version,
        }
    }

    /// Whether the ledger has this version, and the set that it belongs to.
    #[must_use]
    pub fn is_handed_over(&self, file: &Ready) -> bool {
        self.is_version(file.fingerprint, file.connector.as_ref()) && self.set_stem == file.set_stem
    }
}

impl From<KnownRow> for Known {
    fn from(row: KnownRow) -> Self {
        Self {
            absence: row.absence,
            set_stem: row.set_stem,
            fingerprint: row.version.fingerprint(),
            connector: row.connector,
        }
    }
}

/// How many files of a folder one statement looks up.
const NAMES: usize = 64;

/// Files of a watch, `$1`, in a folder, `$2`, by their names.
static SOME_KNOWN: LazyLock<String> = LazyLock::new(|| {
    let names: Vec<String> = (3..3 + NAMES).map(|at| format!("${at}")).collect();
    format!(
        "SELECT name, known, size, mtime_ns, ctime_ns, connector, absence, set_stem FROM files WHERE watch_id = $1 \
         AND dir = $2 AND name IN ({})",
        names.join(", ")
    )
});

impl Ledger {
    /// All files of one folder by name, in no order (`dir` relative to the root, empty for the root itself).
    pub async fn known_in(
        &self,
        watch: WatchId,
        dir: &Path,
    ) -> Result<Vec<(OsString, Known)>, Error> {
        let rows: Vec<KnownRow> =
            self.db
                .read("list the known files of a folder", async |db| {
                    sql::query_as(
            "SELECT name, known, size, mtime_ns, ctime_ns, connector, absence, set_stem \
             FROM files WHERE watch_id = $1 AND dir = $2",
        )
        .bind(watch.0)
        .bind(dir.as_os_str().as_bytes())
        .fetch_all(db).await
                })
                .await?;
        let files = rows.into_iter();
        Ok(files
            .map(|row| (OsString::from_vec(row.name.clone()), Known::from(row)))
            .collect())
    }

    /// One file by its path relative to the root.
    pub async fn known(&self, watch: WatchId, path: &Path) -> Result<Option<Known>, Error> {
        let (dir, name) = split(path);
        let row: Option<KnownRow> = self
            .db
            .read("look up a file", async |db| {
                sql::query_as(
                    "SELECT name, known, size, mtime_ns, ctime_ns, connector, absence, set_stem \
                     FROM files WHERE watch_id = $1 AND dir = $2 AND name = $3",
                )
                .bind(watch.0)
                .bind(dir)
                .bind(name)
                .fetch_optional(db)
                .await
            })
            .await?;
        Ok(row.map(Known::from))
    }

    /// Those of some files that are known, by their paths relative to the root.
    pub async fn known_of(
        &self,
        watch: WatchId,
        paths: impl Iterator<Item = &Path>,
    ) -> Result<HashMap<PathBuf, Known>, Error> {
        let mut folders: BTreeMap<&[u8], Vec<&[u8]>> = BTreeMap::new();
        for (dir, name) in paths.map(split) {
            folders.entry(dir).or_default().push(name);
        }
        let mut known = HashMap::new();
        for (dir, names) in folders {
            for names in names.chunks(NAMES) {
                let rows: Vec<KnownRow> = self
                    .db
                    .read("look up files", async |db| {
                        let mut query = sql::query_as(SOME_KNOWN.as_str()).bind(watch).bind(dir);
                        // The last name as often as there is none left.
                        for at in 0..NAMES {
                            query = query.bind(names.get(at).or(names.last()).copied());
                        }
                        query.fetch_all(db).await
                    })
                    .await?;
                let found = rows.into_iter();
                known.extend(found.map(|row| (join(dir.to_vec(), row.name.clone()), row.into())));
            }
        }
        Ok(known)
    }

    /// One file by the name of its watch and its path relative to the root.
    pub async fn known_by_name(&self, watch: &str, path: &Path) -> Result<Option<Known>, Error> {
        let id: Option<i64> = self
            .db
            .read("look up a watch", async |db| {
                sql::query_scalar("SELECT id FROM watches WHERE name = $1")
                    .bind(watch)
                    .fetch_optional(db)
                    .await
            })
            .await?;
        match id {
            Some(id) => self.known(WatchId(id), path).await,
            None => Ok(None),
        }
    }

    /// How many files of a watch were in its folder when that was scanned last.
    pub async fn files_present(&self, watch: WatchId) -> Result<u64, Error> {
        let files: i64 = self
            .db
            .read("count files of a watch", async |db| {
                sql::query_scalar(
                    "SELECT CAST(COALESCE(SUM(files), 0) AS BIGINT) FROM counts WHERE watch_id = $1 \
                     AND absent = 0 AND vanished = 0",
                )
                .bind(watch.0)
                .fetch_one(db)
                .await
            })
            .await?;
        Ok(count_value(files))
    }

    /// Every folder of a watch in which a file is known, in no order.
    pub async fn known_folders(&self, watch: WatchId) -> Result<Vec<PathBuf>, Error> {
        // Steps from folder to folder in the index, instead of reading the row of each file.
        let rows: Vec<Vec<u8>> = self
            .db
            .read("list the known folders of a watch", async |db| {
                sql::query_scalar(
                    "WITH RECURSIVE folder(dir) AS (SELECT (SELECT dir FROM files \
                     WHERE watch_id = $1 ORDER BY dir LIMIT 1) UNION ALL SELECT (SELECT f.dir FROM files f \
                     WHERE f.watch_id = $1 AND f.dir > folder.dir ORDER BY f.dir LIMIT 1) FROM folder \
                     WHERE folder.dir IS NOT NULL) SELECT dir FROM folder WHERE dir IS NOT NULL",
                )
                .bind(watch.0)
                .fetch_all(db)
                .await
            })
            .await?;
        Ok(rows
            .into_iter()
            .map(|dir| PathBuf::from(OsString::from_vec(dir)))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::print;
    use super::*;

    #[test]
    fn a_version_is_known_by_its_fingerprint_and_its_connector() {
        let handed_over = Some(print(1));
        for (fingerprint, connector, found, selected, expected) in [
            (handed_over, Some("MSTN"), print(1), Some("MSTN"), true),
            (handed_over, None, print(1), None, true),
            (handed_over, Some("MSTN"), print(2), Some("MSTN"), false),
            (handed_over, Some("MSTN"), print(1), Some("CIVIL"), false),
            (handed_over, Some("MSTN"), print(1), None, false),
            (handed_over, None, print(1), Some("MSTN"), false),
            // Nothing is known of it any more: it vanished, or its watch moved to another iModel.
            (None, Some("MSTN"), print(1), Some("MSTN"), false),
        ] {
            let known = Known {
                fingerprint,
                connector: connector.map(ConnectorType::new),
                absence: None,
                set_stem: None,
            };
            assert_eq!(
                known.is_version(found, selected.map(ConnectorType::new).as_ref()),
                expected,
                "{known:?}, found {found:?} for {selected:?}"
            );
        }
        let longer = Fingerprint {
            size: 11,
            ..print(1)
        };
        let known = Known {
            fingerprint: handed_over,
            connector: None,
            absence: None,
            set_stem: None,
        };
        assert!(!known.is_version(longer, None), "another size");
    }

    #[tokio::test]
    async fn many_files_are_looked_up_just_as_one_by_one() {
        use super::super::fixture::{Fixture, at, ready};
        let f = Fixture::new().await;
        let paths: Vec<PathBuf> = (0..NAMES + 3)
            .flat_map(|n| [format!("{n}.dgn"), format!("folder/{n}.dgn")])
            .map(PathBuf::from)
            .collect();
        let known = paths
            .iter()
            .filter(|path| path.to_string_lossy().contains('1'));
        for path in known {
            let file = [ready(path.to_str().unwrap(), 1)];
            f.ledger.hand_over(f.watch, &file, at(0)).await.unwrap();
        }
        let found = f
            .ledger
            .known_of(f.watch, paths.iter().map(PathBuf::as_path))
            .await
            .unwrap();
        for path in &paths {
            let one = f.ledger.known(f.watch, path).await.unwrap();
            assert_eq!(found.get(path), one.as_ref(), "{path:?}");
        }
        assert_eq!(found.len(), 2 * 16);
        assert!(
            f.ledger
                .known_of(f.watch, std::iter::empty())
                .await
                .unwrap()
                .is_empty()
        );
    }
}
