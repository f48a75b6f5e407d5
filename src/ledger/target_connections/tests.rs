//! Any order of changes of files, of their connector types and of the configured name, against a model of the platform:
//! what each connection holds, and what each of its runs has read.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proptest::prelude::*;

use super::super::fixture::*;
use super::super::*;
use crate::connection_name::ConnectionName;
use crate::connector_type::ConnectorType;
use crate::source_file_limit::SourceFiles;

const FILES: [&str; 4] = ["a.dgn", "b.dgn", "c.dgn", "r.dgn"];

/// None: the file is stored only.
const TYPES: [Option<&str>; 3] = [Some("MSTN"), Some("CIVIL"), None];

const NAMES: [&str; 4] = ["one", "two", "each {connector}", "other {connector}"];

#[derive(Debug, Clone, Copy)]
enum Op {
    /// A file gets new content, and is handed over.
    Save { file: usize },
    /// The configuration gives a file another connector type, and it is handed over.
    Type { file: usize, connector: usize },
    /// An upload is done.
    Upload,
    /// A run of one of the connections begins, if it has something to run.
    Begin { connection: usize },
    /// It ends.
    End,
    /// Kill, and start with this name of the connection.
    Start { name: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let file = 0..FILES.len();
    prop_oneof![
        4 => file.clone().prop_map(|file| Op::Save { file }),
        2 => (file, 0..TYPES.len()).prop_map(|(file, connector)| Op::Type { file, connector }),
        6 => Just(Op::Upload),
        4 => (0..4_usize).prop_map(|connection| Op::Begin { connection }),
        3 => Just(Op::End),
        1 => (0..NAMES.len()).prop_map(|name| Op::Start { name }),
    ]
}

/// A file as it is on disk and configured.
#[derive(Debug, Clone, Copy)]
struct Local {
    content: u8,
    connector: Option<&'static str>,
}

/// What storage has of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stored {
    content: u8,
    /// It was stored only when it was completed.
    is_reference: bool,
}

/// A run: of which connection, with which files, and all of storage as it read it.
#[derive(Debug, Clone)]
struct Reading {
    connection: String,
    files: BTreeMap<String, String>,
    storage: BTreeMap<String, Stored>,
}

struct World {
    f: Option<Fixture>,
    name: &'static str,
    second: i64,
    local: BTreeMap<String, Local>,
    storage: BTreeMap<String, Stored>,
    /// The source files: the connection and the connector type.
    mapped: BTreeMap<String, (String, String)>,
    run: Option<(RunId, ConnectionId, Reading)>,
    readings: Vec<Reading>,
}

fn named(name: &str) -> WatchSpec {
    WatchSpec {
        connection: ConnectionName::parse(name).unwrap(),
        ..spec("north")
    }
}

impl World {
    async fn new() -> Self {
        let mut world = Self {
            f: Some(Fixture::new().await),
            name: NAMES[0],
            second: 0,
            local: BTreeMap::new(),
            storage: BTreeMap::new(),
            mapped: BTreeMap::new(),
            run: None,
            readings: Vec::new(),
        };
        world.start(NAMES[2]).await;
        for (file, connector) in FILES.into_iter().zip([0, 0, 1, 2]) {
            let connector = TYPES[connector];
            let local = Local {
                content: 1,
                connector,
            };
            world.local.insert(file.to_owned(), local);
            world.hand_over(file).await;
        }
        world
    }

    fn f(&self) -> &Fixture {
        self.f.as_ref().unwrap()
    }

    async fn start(&mut self, name: &'static str) {
        // As a kill: nothing is closed in order.
        let Fixture { dir, ledger, watch } = self.f.take().unwrap();
        drop(ledger);
        let ledger = open(dir.path()).await.unwrap();
        self.f = Some(Fixture { dir, ledger, watch });
        self.name = name;
        self.f().register(&named(name), self.second).await;
    }

    async fn apply(&mut self, op: Op) {
        self.second += 1;
        match op {
            Op::Save { file } => {
                self.local.get_mut(FILES[file]).unwrap().content += 1;
                self.hand_over(FILES[file]).await;
            }
            Op::Type { file, connector } => {
                self.local.get_mut(FILES[file]).unwrap().connector = TYPES[connector];
                self.hand_over(FILES[file]).await;
            }
            Op::Upload => drop(self.upload().await),
            Op::Begin { connection } => self.begin(connection).await,
            Op::End => self.end().await,
            Op::Start { name } => self.start(NAMES[name]).await,
        }
    }

    async fn hand_over(&self, file: &str) {
        let local = self.local[file];
        let ready = Ready {
            connector: local.connector.map(ConnectorType::new),
            ..ready(file, local.content.into())
        };
        let f = self.f();
        let files = [ready];
        let handed = f.ledger.hand_over(f.watch, &files, at(self.second));
        handed.await.unwrap();
    }

    async fn upload(&mut self) -> bool {
        let Some(job) = self.f().claim(self.second).await else {
            return false;
        };
        let path = job.path.to_str().unwrap().to_owned();
        let local = self.local[&path];
        let same =
            job.stored.as_ref().map(|stored| &stored.content) == Some(&content(local.content));
        if same {
            let ledger = &self.f().ledger;
            ledger
                .finish_unchanged(&job, at(self.second))
                .await
                .unwrap();
        } else {
            self.f().store(&job, local.content, self.second).await;
            let stored = Stored {
                content: local.content,
                is_reference: local.connector.is_none(),
            };
            self.storage.insert(path, stored);
        }
        true
    }

    /// What the synchronizer does before a run of a connection, and the request.
    async fn begin(&mut self, connection: usize) {
        if self.run.is_some() {
            return;
        }
        let now = at(self.second);
        let ledger = &self.f.as_ref().unwrap().ledger;
        let all = ledger.connections(&"imodel".into()).await.unwrap();
        let Some(connection) = all.get(connection) else {
            return;
        };
        let files = ledger.connection_files(connection.id, now).await.unwrap();
        let owed = connection.moved_on.is_some()
            && ledger.holds_source_files(connection.id).await.unwrap();
        // The check that is requested finds source files that have to move here.
        let moves = connection.checked_at <= Timestamp::UNIX_EPOCH
            && !ledger.displaced(connection.id).await.unwrap().is_empty();
        if !owed && !moves && !files.iter().any(ConnectionFile::awaits_run) {
            return;
        }
        let platform_id = format!("platform {}", connection.name);
        let recorded = ledger.set_connection(connection.id, Some(&platform_id));
        recorded.await.unwrap();
        for one in ledger.displaced(connection.id).await.unwrap() {
            let path = one.path.to_str().unwrap();
            let (elsewhere, _) = self.mapped.remove(path).unwrap();
            assert_eq!(one.connection, Some(format!("platform {elsewhere}")));
            ledger
                .record_displaced_removed(one.file, now)
                .await
                .unwrap();
        }
        for one in ledger.demoted(connection.id).await.unwrap() {
            self.mapped.remove(one.path.to_str().unwrap());
            ledger.record_unmapped(&one, now).await.unwrap();
        }
        let files = ledger.connection_files(connection.id, now).await.unwrap();
        let mut mappings = Vec::new();
        for file in files {
            let is_newer_on_its_way = file.job.is_some_and(|job| job.state == JobState::Due);
            if is_newer_on_its_way || file.mapped_connector.as_ref() == Some(&file.connector) {
                continue;
            }
            let path = file.path.to_str().unwrap().to_owned();
            let mapping = (connection.name.clone(), file.connector.to_string());
            let before = self.mapped.insert(path.clone(), mapping);
            let elsewhere = before.filter(|(before, _)| *before != connection.name);
            assert_eq!(elsewhere, None, "{path} is in two connections");
            mappings.push(Mapping {
                file: file.file,
                source_file_id: format!("source {path} of {}", connection.name),
                connector: file.connector,
                last_reader: LastReader::Other,
            });
        }
        let recorded = ledger.record_mappings(connection.id, &mappings, now);
        recorded.await.unwrap();
        let found = SourceFiles {
            watched: 0,
            others: 0,
        };
        ledger.record_check(connection, found, now).await.unwrap();
        let run = ledger.begin_run(connection.id, now, now).await.unwrap();
        let mapped = self.mapped.iter();
        let here = mapped.filter(|(_, (name, _))| *name == connection.name);
        let reading = Reading {
            connection: connection.name.clone(),
            files: here
                .map(|(path, (_, connector))| (path.clone(), connector.clone()))
                .collect(),
            storage: self.storage.clone(),
        };
        self.run = Some((run, connection.id, reading));
    }

    async fn end(&mut self) {
        let Some((run, connection, reading)) = self.run.take() else {
            return;
        };
        let now = at(self.second);
        let ledger = &self.f().ledger;
        let in_run = ledger.files_in_run(run).await.unwrap();
        let files = ledger.connection_files(connection, now).await.unwrap();
        let files = files.into_iter().filter(|file| in_run.contains(&file.file));
        let outcomes: Vec<_> = files
            .map(|file| FileOutcome {
                file: file.file,
                storage_file_id: file.storage_file_id,
                stored_generation: file.stored.generation,
                verdict: Verdict::Synchronized(None),
            })
            .collect();
        let ended = ledger.finish_run(run, "Completed", "Success", &outcomes, now);
        ended.await.unwrap();
        self.readings.push(reading);
    }

    /// Each file has the target of its watch and type, and no stored-only file is ahead of a connection.
    async fn check(&self) {
        let mut connection = self.f().ledger.db.connection().await;
        let wrong: i64 = sql::query_scalar(concat!(
            "SELECT COUNT(*) FROM files f WHERE f.target_connection_id IS DISTINCT FROM ",
            target_connection!("f.watch_id", "f.connector"),
            " OR (f.connector IS NULL AND EXISTS (SELECT 1 FROM watch_connections wc \
             JOIN connections c ON c.id = wc.connection_id WHERE wc.watch_id = f.watch_id \
             AND c.generation < f.stored_generation))",
        ))
        .fetch_one(&mut connection)
        .await
        .unwrap();
        assert_eq!(wrong, 0);
        assert_counts_are_right(&mut connection).await;
    }

    /// Everything comes to its end, and is in the connection that it belongs in, where a run has read it and what it
    /// may refer to.
    async fn settle_all(&mut self) {
        for _ in 0..4 {
            self.second += 100;
            while self.upload().await {}
            self.end().await;
            for connection in 0..8 {
                self.begin(connection).await;
                self.end().await;
            }
        }
        let runs = self.readings.len();
        for connection in 0..8 {
            self.begin(connection).await;
            assert!(self.run.is_none(), "a run is owed without end");
        }
        assert_eq!(runs, self.readings.len());
        for (path, local) in &self.local {
            let file = self.f().file(path).await;
            assert_eq!(file.job, None, "{file:?}");
            let Some(connector) = local.connector else {
                continue;
            };
            let name = ConnectionName::parse(self.name).unwrap();
            let connection = name.of(&ConnectorType::new(connector));
            let mapping = Some((connection.clone(), connector.to_owned()));
            assert_eq!(self.mapped.get(path).cloned(), mapping, "{path}");
            assert_eq!(file.connector, Some(ConnectorType::new(connector)));
            let mut readings = self.readings.iter();
            let is_read = readings.any(|reading| {
                let refers_to = self.local.iter().all(|(other, state)| {
                    let stored = self.storage[other];
                    let is_reference = state.connector.is_none() && stored.is_reference;
                    !is_reference || reading.storage.get(other) == Some(&stored)
                });
                let stored = reading.storage.get(path);
                reading.connection == connection
                    && reading.files.get(path).is_some_and(|one| one == connector)
                    && stored.is_some_and(|stored| stored.content == local.content)
                    && refers_to
            });
            assert!(is_read, "{path} of {connection}: {:#?}", self.readings);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(60), max_shrink_iters: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_changes_ends_with_each_file_read_in_the_connection_that_it_belongs_in(ops in proptest::collection::vec(op(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for op in ops {
                world.apply(op).await;
                world.check().await;
            }
            world.settle_all().await;
        });
    }
}
