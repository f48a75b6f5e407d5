//! What the statements of daily work cost on SQLite: none reads a whole table that grows with the files, and a new file
//! needs few of them.

use super::database::sql::executed;
use super::fixture::*;
use super::*;
use crate::ids::StorageFileId;

/// Everything that happens to a file every day, and what programs and pages ask for.
async fn daily_work(f: &Fixture) {
    let ledger = &f.ledger;
    let many: Vec<_> = (0..130).map(|n| ready(&format!("d/{n}.dgn"), 1)).collect();
    ledger.hand_over(f.watch, &many, at(0)).await.unwrap();
    f.hand_over("d/1.dgn", 2, 1).await;
    f.hand_over("d/new.dgn", 2, 1).await;
    let listed = ledger.known_in(f.watch, Path::new("d")).await.unwrap();
    assert_eq!(listed.len(), 131);
    ledger.known(f.watch, Path::new("d/1.dgn")).await.unwrap();
    let listing = ListingPart {
        watch: f.watch,
        dir: Path::new("d"),
        part: 0,
        digest: &[7; 32],
    };
    let (_, changes) = ledger.is_listing_unchanged(&listing).await.unwrap();
    ledger.record_listing(&listing, changes).await.unwrap();
    ledger.due_watches(at(2)).await.unwrap();
    ledger.next_upload_due(at(2)).await.unwrap();
    let refused = f.claim(2).await.unwrap();
    let again = refusal(Again::Never);
    ledger.put_off(&refused, &again, at(2)).await.unwrap();
    let claimed = ledger.claim_upload_of(f.watch, None, at(2)).await.unwrap();
    let mut next = claimed;
    while let Some(job) = next {
        upload(f, &job).await;
        next = f.claim(3).await;
    }
    let imodel = "imodel".into();
    ledger.backlog(&imodel, at(4)).await.unwrap();
    let run = f.begin_run(4).await;
    ledger.record_run(run, "run").await.unwrap();
    ledger.open_run(&imodel).await.unwrap();
    ledger.files_in_run(run).await.unwrap();
    f.finish_run(run, Verdict::Synchronized(None), 5).await;
    let file = ledger.results_after(0, 1).await.unwrap()[0].file;
    ledger.last_result().await.unwrap();
    ledger.hook_results(0, 10).await.unwrap();
    ledger.file_history(file).await.unwrap();
    ledger.problems(10, at(6)).await.unwrap();
    ledger.activity(&[at(0), at(7)]).await.unwrap();
    let storage_file = StorageFileId::from("storage d/2.dgn");
    ledger.owns_storage_file(&storage_file).await.unwrap();
    let connection = f.connection().await.id;
    let found = ledger.paths_of(connection, &[storage_file]).await.unwrap();
    assert_eq!(found.len(), 1);
    ledger.health(at(7)).await.unwrap();
    ledger.results_since(at(0)).await.unwrap();
    ledger.file_report(file).await.unwrap();
    ledger.files_page("north", None, 10).await.unwrap();
    ledger.forget_history(at(9000)).await.unwrap();
}

/// What an upload of a small new file records.
async fn upload(f: &Fixture, job: &UploadJob) {
    let mut place = [0; 16];
    place[..8].copy_from_slice(&job.file.0.to_be_bytes());
    f.ledger.may_be_renamed(job, 10).await.unwrap();
    let taken = f.ledger.take_place(job, &place).await.unwrap();
    assert!(taken.is_none());
    let create = f.ledger.record_create_sent(job, "marker", at(3));
    create.await.unwrap();
    f.store(job, 1, 3).await;
}

/// What may be read as a whole: tables with a row per watch, connection or iModel at most, rows of the statement
/// itself, and indexes that have what the statement asks for, in its order, and nothing else.
const SMALL: [&str; 17] = [
    "SCAN 64-ROW VALUES CLAUSE",
    "SCAN CONSTANT ROW",
    "SCAN ahead",
    "SCAN c",
    "SCAN due",
    "SCAN either",
    "SCAN f USING INDEX files_with_issues",
    "SCAN failed",
    "SCAN failure_groups",
    "SCAN j USING INDEX jobs_reported",
    "SCAN last_number",
    "SCAN o",
    "SCAN runs USING INDEX sqlite_autoindex_runs_1",
    "SCAN sign_in LEFT-JOIN",
    "SCAN sign_in_wait",
    "SCAN w",
    "SCAN watches USING INDEX sqlite_autoindex_watches_2",
];

/// Steps of the plan of a statement that read a whole table which grows with the files.
async fn scans(f: &Fixture, statement: &str) -> Vec<String> {
    let mut connection = f.ledger.db.connection().await;
    let explain = format!("EXPLAIN QUERY PLAN {statement}");
    let plan: Vec<(i64, i64, i64, String)> = sql::query_as(sqlx::AssertSqlSafe(explain))
        .fetch_all(&mut connection)
        .await
        .unwrap();
    let reads_all = |step: &String| {
        let words = ["SCAN ", "AUTOMATIC", "MATERIALIZE"];
        words.iter().any(|word| step.contains(word))
    };
    plan.into_iter()
        .map(|(.., step)| step)
        .filter(reads_all)
        .filter(|step| !SMALL.contains(&step.as_str()) && !step.starts_with("SCAN w USING"))
        .collect()
}

#[tokio::test]
async fn no_statement_of_daily_work_reads_a_whole_table() {
    let f = Fixture::on_sqlite().await;
    executed::take();
    daily_work(&f).await;
    let mut statements = executed::take();
    statements.sort_unstable();
    statements.dedup();
    assert!(statements.len() > 50, "{}", statements.len());
    let mut found = Vec::new();
    for statement in statements {
        let scans = scans(&f, &statement).await;
        if !scans.is_empty() {
            found.push(format!("{statement}\n    {scans:?}"));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Statements for each of many new files, from hand-over to the end of their run, beside those that begin and end
/// transactions. Each costs a change of threads.
const NEW_FILE_MAX: usize = 20;

#[tokio::test]
async fn a_new_file_costs_few_statements() {
    let f = Fixture::on_sqlite().await;
    let files = new_files::NEW_FILES;
    let many: Vec<_> = (0..files)
        .map(|n| ready(&format!("d/{n}.dgn"), 1))
        .collect();
    executed::take();
    f.ledger.hand_over(f.watch, &many, at(0)).await.unwrap();
    for _ in 0..files {
        f.ledger.due_watches(at(2)).await.unwrap();
        let claimed = f.ledger.claim_upload_of(f.watch, None, at(2)).await;
        upload(&f, &claimed.unwrap().unwrap()).await;
    }
    let run = f.begin_run(4).await;
    f.finish_run(run, Verdict::Synchronized(None), 5).await;
    let statements = executed::take();
    let mut counts = std::collections::BTreeMap::new();
    for statement in &statements {
        *counts.entry(statement).or_insert(0_usize) += 1;
    }
    let per_file: Vec<_> = counts
        .into_iter()
        .filter(|(_, count)| *count >= files)
        .map(|(statement, count)| format!("{} {statement}", count / files))
        .collect();
    let all = statements.len() / files;
    assert!(all <= NEW_FILE_MAX, "{all}:\n{}", per_file.join("\n"));
}
