//! Lists of files for the page, its API and `status`: by state, watch, group of failures and text, one page after the
//! other.
//!
//! A page reads a bounded number of rows. It may therefore have fewer files than requested, or none, and say
//! nevertheless where the next one begins. The list of failed files can also be had by path, with their number.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::failing_jobs::fails;
use super::row::join;
use super::{Error, FileId, FileReport, Ledger, sql};

/// Rows that one query reads.
const BATCH: u32 = 1000;

/// Queries for one page: few, so that it takes some milliseconds however many files there are.
const BATCHES_MAX: u32 = 5;

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
    /// The names of their watches; none: any.
    pub watches: Vec<String>,
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

sql::row! {
    /// What a search reads.
    struct Candidate {
        id: i64,
        since: i64,
        watch: String,
        dir: Vec<u8>,
        name: Vec<u8>,
        reason: Option<String>,
    }
}

impl Candidate {
    fn fits(&self, filter: &FileFilter) -> bool {
        let path = || join(self.dir.clone(), self.name.clone());
        filter.fits(&self.watch, path, self.reason.as_deref())
    }
}

impl FileFilter {
    /// Whether a file fits.
    #[must_use]
    pub fn fits_report(&self, file: &FileReport) -> bool {
        self.fits(&file.watch, || &file.path, file.reason.as_deref())
    }

    fn fits<P: AsRef<Path>>(
        &self,
        watch: &str,
        path: impl FnOnce() -> P,
        reason: Option<&str>,
    ) -> bool {
        if !self.watches.is_empty() && !self.watches.iter().any(|name| name == watch) {
            return false;
        }
        let Some(text) = self.text.as_ref().map(|text| text.to_lowercase()) else {
            return true;
        };
        let contains = |found: &str| found.to_lowercase().contains(&text);
        contains(&path().as_ref().to_string_lossy()) || contains(reason.unwrap_or_default())
    }
}

/// A part of the files that were found.
#[derive(Debug, Clone, Default)]
pub struct FoundFiles {
    /// By watch and path.
    pub files: Vec<FileReport>,
    /// How many there are with those of the other parts.
    pub all: u64,
}

impl FileList {
    /// Before the first file.
    fn start(&self) -> FilePosition {
        FilePosition {
            since: if *self == Self::Failed { i64::MAX } else { 0 },
            id: 0,
        }
    }

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
            Self::Group(_) => concat!(
                "SELECT j.file_id AS id, $1 AS since, w.name AS watch, f.dir, f.name, j.reason FROM jobs j \
                 CROSS JOIN files f CROSS JOIN watches w WHERE f.id = j.file_id AND w.id = f.watch_id \
                 AND j.failure_group = $4 AND ",
                fails!(),
                " AND j.file_id > $2 ORDER BY j.file_id LIMIT $3"
            ),
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
        let mut at = after.unwrap_or_else(|| list.start());
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

    /// The files of a list that fit, by watch and path: those after the first `offset`, at most `limit`, and how many
    /// there are. The whole list is read, so that it should be a short one.
    pub async fn find_files(
        &self,
        list: &FileList,
        filter: &FileFilter,
        offset: u64,
        limit: u32,
    ) -> Result<FoundFiles, Error> {
        let mut found = Vec::new();
        let mut at = list.start();
        loop {
            let rows = self.candidates(list, at).await?;
            let Some(last) = rows.last() else { break };
            at = FilePosition {
                since: last.since,
                id: last.id,
            };
            found.extend(rows.into_iter().filter(|row| row.fits(filter)));
        }
        found.sort_by(|one, other| {
            (&one.watch, &one.dir, &one.name).cmp(&(&other.watch, &other.dir, &other.name))
        });
        let all = found.len() as u64;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut files = Vec::new();
        for row in found.iter().skip(offset).take(limit) {
            files.extend(self.file_report(FileId(row.id)).await?);
        }
        Ok(FoundFiles { files, all })
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
            watches: vec!["elsewhere".to_owned()],
            ..FileFilter::default()
        };
        assert_eq!(pages(&f, &FileList::All, &filter, 9).await, "");
    }

    #[tokio::test]
    async fn failed_files_are_found_by_path_with_their_number() {
        let f = Fixture::new().await;
        for (second, name) in [(1, "plans/c.dgn"), (2, "b.dgn"), (3, "a.dgn"), (4, "d.ifc")] {
            fail(&f, name, second).await;
        }
        f.hand_over("e.dgn", 1, 5).await;
        let find = async |filter: &FileFilter, offset, limit| {
            let found = f
                .ledger
                .find_files(&FileList::Failed, filter, offset, limit);
            let found = found.await.unwrap();
            let names = found.files.iter().map(|file| file.path.to_string_lossy());
            (names.collect::<Vec<_>>().join(" "), found.all)
        };
        let any = FileFilter::default();
        let first = ("a.dgn b.dgn".to_owned(), 4);
        assert_eq!(find(&any, 0, 2).await, first);
        assert_eq!(find(&any, 2, 9).await, ("d.ifc plans/c.dgn".to_owned(), 4));
        let dgn = FileFilter {
            watches: vec!["north".to_owned()],
            text: Some(".DGN".to_owned()),
        };
        assert_eq!(find(&dgn, 2, 9).await, ("plans/c.dgn".to_owned(), 3));
        let south = FileFilter {
            watches: vec!["south".to_owned()],
            text: None,
        };
        assert_eq!(find(&south, 0, 9).await, (String::new(), 0));
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
