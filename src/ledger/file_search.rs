//! Searches for files: by watch and by failure, page by page.

use super::file_reports::files_where;
use super::{Error, FileReport, Ledger, Tx, sql};

/// Which files to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileSearch {
    /// Of the watches with these names; with no names of all.
    pub watches: Vec<String>,
    /// In which state.
    pub states: SearchedStates,
}

/// In which state a searched file is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SearchedStates {
    /// In any.
    #[default]
    All,
    /// It failed.
    Failed,
}

/// A page of the files that were found.
#[derive(Debug, Clone, Default)]
pub struct FoundFiles {
    /// By watch and path.
    pub files: Vec<FileReport>,
    /// How many there are on all pages.
    pub all: u64,
}

impl Ledger {
    /// The files that are searched, after the first `offset`, at most `limit`.
    pub async fn search_files(
        &self,
        search: &FileSearch,
        offset: u64,
        limit: u32,
    ) -> Result<FoundFiles, Error> {
        self.db
            .read_at_once("search files", async |tx| {
                let in_state = match search.states {
                    SearchedStates::All => "",
                    SearchedStates::Failed => "AND j.state = 'failed' ",
                };
                let in_watches = of_watches(tx, &search.watches).await?.replace("j.", "f.");
                let condition = format!("f.id IS NOT NULL {in_state}{in_watches}");
                let (files, all) = files_where(tx, &condition, offset, limit).await?;
                Ok(FoundFiles { files, all })
            })
            .await
    }
}

/// A condition on the job `j`: it belongs to one of these watches. Nothing if there are no names.
pub(super) async fn of_watches(tx: &mut Tx, names: &[String]) -> Result<String, sqlx::Error> {
    if names.is_empty() {
        return Ok(String::new());
    }
    let mut ids = Vec::with_capacity(names.len());
    for name in names {
        let id: Option<i64> = sql::query_scalar("SELECT id FROM watches WHERE name = $1")
            .bind(name)
            .fetch_optional(tx)
            .await?;
        ids.extend(id.map(|id| id.to_string()));
    }
    if ids.is_empty() {
        return Ok("AND 1 = 0".to_owned());
    }
    Ok(format!("AND j.watch_id IN ({})", ids.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::*;

    #[tokio::test]
    async fn files_are_found_by_watch_and_state_page_by_page() {
        let f = Fixture::new().await;
        for (second, path) in (1..).zip(["plans/Deck 1.dgn", "b.dgn", "a.dgn"]) {
            f.hand_over(path, second, second).await;
        }
        let job = f.claim(1).await.unwrap();
        let refusal = Refusal {
            reason: "the share is away".to_owned(),
            ..refusal(Again::Never)
        };
        f.ledger.put_off(&job, &refusal, at(5)).await.unwrap();
        let find = async |search: FileSearch, offset| {
            let found = f.ledger.search_files(&search, offset, 2).await.unwrap();
            let paths = found.files.iter();
            let paths: Vec<_> = paths.map(|file| file.path.display().to_string()).collect();
            (paths.join(", "), found.all)
        };
        let all = FileSearch::default;
        assert_eq!(find(all(), 0).await, ("a.dgn, b.dgn".to_owned(), 3));
        assert_eq!(find(all(), 2).await, ("plans/Deck 1.dgn".to_owned(), 3));
        for (search, count) in [
            (
                FileSearch {
                    states: SearchedStates::Failed,
                    ..all()
                },
                1,
            ),
            (
                FileSearch {
                    watches: vec!["south".to_owned()],
                    ..all()
                },
                0,
            ),
            (
                FileSearch {
                    watches: vec!["north".to_owned()],
                    ..all()
                },
                3,
            ),
        ] {
            assert_eq!(find(search.clone(), 0).await.1, count, "{search:?}");
        }
    }
}
