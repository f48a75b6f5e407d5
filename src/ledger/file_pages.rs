//! Lists of files for the page and its API: by state, watch, group of failures and text, one page after the other.
//!
//! A page reads a bounded number of rows. It may therefore have fewer files than requested, or none, and say
//! nevertheless where the next one begins.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::row::join;
use super::{Error, FileId, FileReport, Ledger, sql};

/// Rows that one query reads.
const BATCH: u32 = 1000;

/// Queries for one page.
const BATCHES_MAX: u32 = 20;

/// Which files are listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileList {
    /// Those that failed, the latest first.
    Failed,
    /// Those that wait or are in progress, in the order in which they were found.
    Open,
    /// All of them, in the order in which they were found.
    All,
    /// Those of a group of failures, by its key, in the order in which they were found.
    Group(String),
}

/// What listed files have in common. None: anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileFilter {
    /// The name of their watch.
    pub watch: Option<String>,
    /// A part of their path or of their reason, in upper or lower case.
    pub text: Option<String>,
}

/// After which file a page begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilePosition {
    /// Since when it fails, in milliseconds, in a list that is ordered by that.
    since: i64,
    id: i64,
}

/// A part of a list.
#[derive(Debug, Clone)]
pub struct FilePage {
    /// Its files.
    pub files: Vec<FileReport>,
    /// Where the next part begins; None: this is the last one.
    pub next: Option<FilePosition>,
}

impl fmt::Display for FilePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.since, self.id)
    }
}

/// A text that is no position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidPosition;

impl FromStr for FilePosition {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (since, id) = text.split_once('-').ok_or(InvalidPosition)?;
        match (since.parse(), id.parse()) {
            (Ok(since), Ok(id)) => Ok(Self { since, id }),
            _ => Err(InvalidPosition),
        }
    }
}

/// What a search reads.
#[derive(sqlx::FromRow)]
struct Candidate {
    id: i64,
    since: i64,
    watch: String,
    dir: Vec<u8>,
    name: Vec<u8>,
    reason: Option<String>,
}

impl Candidate {
    fn fits(&self, filter: &FileFilter) -> bool {
        let watch = filter.watch.as_ref();
        let text = filter.text.as_ref().map(|text| text.to_lowercase());
        watch.is_none_or(|watch| *watch == self.watch)
            && text.is_none_or(|text| {
                let path = join(self.dir.clone(), self.name.clone());
                let reason = self.reason.as_deref().unwrap_or_default();
                contains(&path, &text) || reason.to_lowercase().contains(&text)
            })
    }
}

fn contains(path: &Path, lower: &str) -> bool {
    path.to_string_lossy().to_lowercase().contains(lower)
}

impl FileList {
    /// Selects the candidates after a position.
    fn query(&self) -> &'static str {
        match self {
            Self::Failed => {
                "SELECT j.file_id AS id, COALESCE(j.failing_since, 0) AS since, w.name AS watch, f.dir, f.name, \
                 j.reason FROM jobs j CROSS JOIN files f CROSS JOIN watches w WHERE f.id = j.file_id \
                 AND w.id = f.watch_id AND j.state = 'failed' AND j.failing_since <= $1 \
                 AND (j.failing_since < $1 OR j.file_id > $2) \
                 ORDER BY j.failing_since DESC, j.file_id LIMIT $3"
            }
            Self::Open => {
                "SELECT j.file_id AS id, $1 AS since, w.name AS watch, f.dir, f.name, j.reason FROM jobs j \
                 CROSS JOIN files f CROSS JOIN watches w WHERE f.id = j.file_id AND w.id = f.watch_id \
                 AND j.state <> 'failed' AND j.file_id > $2 ORDER BY j.file_id LIMIT $3"
            }
            Self::All => {
                "SELECT f.id, $1 AS since, w.name AS watch, f.dir, f.name, j.reason FROM files f \
                 JOIN watches w ON w.id = f.watch_id LEFT JOIN jobs j ON j.file_id = f.id \
                 WHERE f.id > $2 ORDER BY f.id LIMIT $3"
            }
            Self::Group(_) => {
                "SELECT j.file_id AS id, $1 AS since, w.name AS watch, f.dir, f.name, j.reason FROM jobs j \
                 CROSS JOIN files f CROSS JOIN watches w WHERE f.id = j.file_id AND w.id = f.watch_id \
                 AND j.failure_group = $4 AND j.kind IS NOT NULL AND j.reason IS NOT NULL AND j.file_id > $2 \
                 ORDER BY j.file_id LIMIT $3"
            }
        }
    }
}

impl Ledger {
    /// The first files of a list after a position that fit, at most `limit`. `limit` > 0.
    pub async fn list_files(
        &self,
        list: &FileList,
        filter: &FileFilter,
        after: Option<FilePosition>,
        limit: u32,
    ) -> Result<FilePage, Error> {
        let mut at = after.unwrap_or(FilePosition {
            since: if *list == FileList::Failed {
                i64::MAX
            } else {
                0
            },
            id: 0,
        });
        let mut found: Vec<i64> = Vec::new();
        let mut next = None;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        'batches: for _ in 0..BATCHES_MAX {
            let rows = self.candidates(list, at).await?;
            let is_last = rows.len() < usize::try_from(BATCH).unwrap_or(usize::MAX);
            for row in rows {
                if row.fits(filter) {
                    if found.len() == limit {
                        next = Some(at);
                        break 'batches;
                    }
                    found.push(row.id);
                }
                at = FilePosition {
                    since: row.since,
                    id: row.id,
                };
            }
            next = (!is_last).then_some(at);
            if is_last {
                break;
            }
        }
        let mut files = Vec::with_capacity(found.len());
        for id in found {
            files.extend(self.file_report(FileId(id)).await?);
        }
        Ok(FilePage { files, next })
    }

    async fn candidates(
        &self,
        list: &FileList,
        after: FilePosition,
    ) -> Result<Vec<Candidate>, Error> {
        self.db
            .read("list files", async |db| {
                let query = sql::query_as(list.query())
                    .bind(after.since)
                    .bind(after.id)
                    .bind(i64::from(BATCH));
                match list {
                    FileList::Group(key) => query.bind(key).fetch_all(db).await,
                    _ => query.fetch_all(db).await,
                }
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::super::*;
    use super::*;

    async fn fail(f: &Fixture, name: &str, second: i64) {
        f.hand_over(name, 1, second).await;
        let job = f.claim(second).await.unwrap();
        f.ledger
            .put_off(&job, &refusal(Again::Never), at(second))
            .await
            .unwrap();
    }

    /// The names of all pages, with a bar between two pages.
    async fn pages(f: &Fixture, list: &FileList, filter: &FileFilter, limit: u32) -> String {
        let mut pages = Vec::new();
        let mut after: Option<FilePosition> = None;
        loop {
            let page = f.ledger.list_files(list, filter, after, limit).await;
            let page = page.unwrap();
            let names = page.files.iter().map(|file| file.path.to_string_lossy());
            pages.push(names.collect::<Vec<_>>().join(" "));
            let Some(next) = page.next else {
                return pages.join(" | ");
            };
            after = Some(next.to_string().parse().unwrap());
        }
    }

    #[tokio::test]
    async fn every_file_is_on_exactly_one_page() {
        let f = Fixture::new().await;
        for (second, name) in [(1, "a.dgn"), (1, "b.dgn"), (2, "c.dgn"), (3, "d.dgn")] {
            fail(&f, name, second).await;
        }
        f.hand_over("e.dgn", 1, 4).await;
        let any = FileFilter::default();
        let failed = &FileList::Failed;
        assert_eq!(pages(&f, failed, &any, 9).await, "d.dgn c.dgn a.dgn b.dgn");
        assert_eq!(
            pages(&f, failed, &any, 1).await,
            "d.dgn | c.dgn | a.dgn | b.dgn"
        );
        let lists = Lists {
            files: 0,
            groups: 1,
            results: 0,
            runs: 0,
        };
        let groups = f.ledger.overview(lists, at(9)).await.unwrap();
        let group = FileList::Group(groups.failure_groups.largest[0].key.clone());
        assert_eq!(
            pages(&f, &group, &any, 3).await,
            "a.dgn b.dgn c.dgn | d.dgn"
        );
        let unknown = FileList::Group("unknown".to_owned());
        assert_eq!(pages(&f, &unknown, &any, 3).await, "");
        assert_eq!(pages(&f, &FileList::Open, &any, 1).await, "e.dgn");
        assert_eq!(
            pages(&f, &FileList::All, &any, 2).await,
            "a.dgn b.dgn | c.dgn d.dgn | e.dgn"
        );
    }

    #[tokio::test]
    async fn a_search_reads_paths_and_reasons_in_any_case() {
        let f = Fixture::new().await;
        fail(&f, "Bridge/Deck.dgn", 1).await;
        fail(&f, "tower.dgn", 2).await;
        let search = async |text: &str| {
            let filter = FileFilter {
                text: Some(text.to_owned()),
                ..FileFilter::default()
            };
            pages(&f, &FileList::Failed, &filter, 9).await
        };
        assert_eq!(search("bridge/d").await, "Bridge/Deck.dgn");
        assert_eq!(search("NO").await, "tower.dgn Bridge/Deck.dgn");
        assert_eq!(search("%").await, "");
        let filter = FileFilter {
            watch: Some("elsewhere".to_owned()),
            ..FileFilter::default()
        };
        assert_eq!(pages(&f, &FileList::All, &filter, 9).await, "");
    }

    #[test]
    fn a_position_is_read_as_it_was_written() {
        let position = FilePosition { since: 12, id: 7 };
        assert_eq!(position.to_string().parse(), Ok(position));
        for text in ["", "1", "-", "1-", "x-1", "1-2-3"] {
            assert_eq!(text.parse::<FilePosition>(), Err(InvalidPosition), "{text}");
        }
    }
}
