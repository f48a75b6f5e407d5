//! The versions of the ledger's schema, as sqlx applies them.
//!
//! They are the files of `src/ledger/migrations`, which `build.rs` lists: `sqlx::migrate!` would do the same, but the
//! macros of sqlx have every engine compiled a second time, for themselves.

use std::sync::LazyLock;

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

// `SQLITE` and `POSTGRES`: version, description and SQL of each file.
include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

/// Those of SQLite.
pub(super) static OF_SQLITE: LazyLock<Migrator> = LazyLock::new(|| migrator(SQLITE));

/// Those of PostgreSQL.
pub(super) static OF_POSTGRES: LazyLock<Migrator> = LazyLock::new(|| migrator(POSTGRES));

fn migrator(files: &[(i64, &'static str, &'static str)]) -> Migrator {
    let migrations = files.iter().map(|&(version, description, sql)| {
        let sql = sql.into_sql_str();
        Migration::new(
            version,
            description.into(),
            MigrationType::Simple,
            sql,
            false,
        )
    });
    Migrator::with_migrations(migrations.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ledger has the checksum of each, and refuses to start when it differs.
    #[tokio::test]
    async fn every_file_is_embedded_as_sqlx_reads_it() {
        for (embedded, folder) in [
            (&*OF_SQLITE, "src/ledger/migrations"),
            (&*OF_POSTGRES, "src/ledger/migrations/postgres"),
        ] {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
            let read = Migrator::new(folder).await.unwrap();
            let fields = |migrator: &Migrator| -> Vec<_> {
                let fields = migrator.iter().map(|one| {
                    let head = (one.version, one.description.clone(), one.migration_type);
                    (
                        head,
                        one.no_tx,
                        one.checksum.clone(),
                        one.sql.as_str().to_owned(),
                    )
                });
                fields.collect()
            };
            assert!(read.iter().count() > 0);
            assert_eq!(fields(embedded), fields(&read));
        }
    }
}
