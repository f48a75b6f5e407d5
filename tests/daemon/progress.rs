//! Progress of runs and batches: in the status, on the page and in a terminal.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::support::{Site, platform, program_of, write};

const PATIENCE: Duration = Duration::from_secs(60);

/// Uploads that take some seconds, and are counted often.
const SLOW_UPLOADS: &str = "[upload]\nblock_size = \"64KiB\"\nrate = [{ from = \"00:00\", to = \"00:00\", limit = \"400KiB/s\" }]\n";

async fn json(site: &Site) -> Value {
    let printed = site.run(&["status", "--json"]).await.out;
    serde_json::from_str(&printed).unwrap_or(Value::Null)
}

/// Phase, jobs, tasks and files in a task, as the emulator plays them for two IFC files and a DGN file.
const STAGES: [(&str, u64, u64, &[&str]); 6] = [
    ("Preprocessor", 0, 0, &[]),
    ("MasterFile", 0, 0, &["a.ifc"]),
    ("MasterFile", 0, 1, &["b.ifc"]),
    ("MasterFile", 1, 2, &["c.dgn"]),
    ("ReferenceFile", 1, 2, &["c.dgn"]),
    ("ReferenceFile", 2, 3, &[]),
];

fn stage(progress: &Value) -> Option<usize> {
    if progress["phase"].is_null() {
        return None;
    }
    let found = STAGES.iter().position(|(phase, jobs, tasks, current)| {
        progress["phase"] == *phase
            && (&progress["jobs"], &progress["jobs_done"]) == (&2.into(), &(*jobs).into())
            && (&progress["tasks"], &progress["tasks_done"]) == (&3.into(), &(*tasks).into())
            && progress["current"] == serde_json::json!(current)
    });
    assert!(found.is_some(), "not a stage of the emulator: {progress}");
    found
}

#[tokio::test]
async fn status_shows_the_phase_the_counts_and_the_current_files_of_a_run() {
    let (site, folder) = Site::with_folder(platform().run_duration(Duration::from_secs(10))).await;
    for name in ["a.ifc", "b.ifc", "c.dgn"] {
        write(&folder.join(name), name);
    }
    let daemon = site.start();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut seen = BTreeSet::new();
    let mut texts = String::new();
    loop {
        let status = json(&site).await;
        let run = &status["watches"][0]["last_run"];
        if !run["ended_at"].is_null() {
            assert!(
                run["progress"].is_null() && run["elapsed_seconds"].is_null(),
                "{run}"
            );
            break;
        }
        if let Some(stage) = stage(&run["progress"]) {
            assert!(
                seen.iter().all(|earlier| *earlier <= stage),
                "{seen:?} {stage}"
            );
            assert!(
                run["elapsed_seconds"].is_u64() && run["usual_seconds"].is_null(),
                "{run}"
            );
            seen.insert(stage);
            texts += &site.run(&["status"]).await.out;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{status}\n{}",
            daemon.log()
        );
    }
    // A loaded machine may miss some.
    assert!(seen.len() >= 3, "{seen:?}");
    for part in [
        "MasterFile, ",
        "of 2 jobs and ",
        "of 3 tasks done, now \"",
        "3 of 3 files uploaded",
    ] {
        assert!(texts.contains(part), "{part:?} is missing: {texts}");
    }

    // The next run is compared with this one.
    write(&folder.join("a.ifc"), "a.ifc again");
    site.shows("; the run should end in about ", &daemon).await;
    let status = json(&site).await;
    let run = &status["watches"][0]["last_run"];
    let usual = run["usual_seconds"].as_f64().unwrap();
    assert!((10.0..20.0).contains(&usual), "{run}");
    let left = status["batch"]["run_seconds_left"].as_f64().unwrap();
    assert!(left <= usual, "{status}");
    assert!(site.run(&["status"]).await.out.contains("usually takes 1"));
    daemon.stop().await;
}

#[tokio::test]
async fn status_estimates_the_uploads_of_a_batch_from_bytes_and_rate() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    site.tables += SLOW_UPLOADS;
    for name in ["a.ifc", "b.ifc"] {
        std::fs::write(folder.join(name), vec![7; 2 << 20]).unwrap();
    }
    let daemon = site.start();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let batch = loop {
        let batch = json(&site).await["batch"].clone();
        if batch["upload_seconds_left"].is_u64() {
            break batch;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{batch}\n{}",
            daemon.log()
        );
    };
    assert!(batch["bytes_left"].as_u64().unwrap() <= 4 << 20, "{batch}");
    let text = batch["text"].as_str().unwrap();
    assert!(
        text.starts_with("2 files to upload, about ") && text.ends_with(" left"),
        "{batch}"
    );
    site.synchronized(2, &daemon).await;
    assert!(json(&site).await["batch"].is_null());
    daemon.stop().await;
}

/// Columns of the terminal; no line of the log is longer.
const WIDTH: usize = 400;

/// `run --once` in a terminal of its own, by `script` of util-linux.
fn in_terminal(site: &Site, term: &str) -> Command {
    let inner = site.command(&["run", "--once"]);
    let inner = inner.as_std();
    let words: Vec<String> = std::iter::once(inner.get_program())
        .chain(inner.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    let inner = format!("stty cols {WIDTH} rows 40; exec {}", words.join(" "));
    let mut command = program_of("script");
    command
        .args([
            "--quiet",
            "--return",
            "--flush",
            "--command",
            &inner,
            "/dev/null",
        ])
        .env("ITWIN_SYNCD_CLIENT_SECRET", &site.secret)
        .env("TERM", term)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// What a terminal shows at the end, line by line: with the sequences that programs of lines use.
fn screen(output: &str) -> Vec<String> {
    let mut lines: Vec<Vec<char>> = vec![Vec::new()];
    let (mut row, mut column) = (0, 0);
    let mut characters = output.chars();
    while let Some(character) = characters.next() {
        match character {
            '\r' => column = 0,
            '\n' => {
                row += 1;
                if row == lines.len() {
                    lines.push(Vec::new());
                }
            }
            '\u{1b}' => {
                assert_eq!(characters.next(), Some('['), "{output:?}");
                let mut number = String::new();
                let end = loop {
                    match characters.next().unwrap() {
                        digit if digit.is_ascii_digit() || "?;".contains(digit) => {
                            number.push(digit);
                        }
                        end => break end,
                    }
                };
                match end {
                    'm' => {}
                    'A' => row -= number.parse().unwrap_or(1).min(row),
                    'B' => row += number.parse().unwrap_or(1),
                    'K' if number == "2" => lines[row].clear(),
                    'K' => lines[row].truncate(column),
                    'h' | 'l' => panic!("the cursor is hidden: {output:?}"),
                    other => panic!("unknown sequence {other:?} in {output:?}"),
                }
            }
            character => {
                if column == WIDTH {
                    (row, column) = (row + 1, 0);
                    lines.resize(lines.len().max(row + 1), Vec::new());
                }
                let line = &mut lines[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = character;
                column += 1;
            }
        }
    }
    lines
        .into_iter()
        .map(|line| line.into_iter().collect::<String>().trim_end().to_owned())
        .collect()
}

#[tokio::test]
async fn a_single_pass_in_a_terminal_shows_progress_and_leaves_only_whole_log_lines() {
    let builder = platform().run_duration(Duration::from_secs(5));
    let (mut site, folder) = Site::with_folder(builder).await;
    site.tables += SLOW_UPLOADS;
    std::fs::write(folder.join("a.ifc"), vec![7; 1 << 20]).unwrap();
    let output = tokio::time::timeout(PATIENCE, in_terminal(&site, "xterm").output());
    let output = output.await.unwrap().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}");
    for part in [
        "1 file to upload",
        " % of 1.00 MiB \"a.ifc\" of \"north\"",
        "1 of 1 file uploaded",
        "run of \"north\": MasterFile, 0 of 1 job",
        "now \"a.ifc\"",
    ] {
        assert!(printed.contains(part), "{part:?} is missing: {printed:?}");
    }
    let lines = screen(&printed);
    let (log, summary) = lines.split_at(lines.len().saturating_sub(2));
    assert_eq!(summary[0], "1 synchronized", "{printed:?} {lines:#?}");
    assert!(
        log.iter().any(|line| line.contains("run requested")),
        "{lines:#?}"
    );
    for line in log {
        assert!(
            line.starts_with("20") && line.contains(" INFO "),
            "not a line of the log: {line:?} in {lines:#?}"
        );
    }
}

#[tokio::test]
async fn ctrl_c_leaves_the_terminal_clean() {
    let (site, folder) = Site::with_folder(platform().run_duration(Duration::from_secs(600))).await;
    write(&folder.join("a.ifc"), "house");
    let mut child = in_terminal(&site, "xterm").spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut printed = Vec::new();
    let all = async {
        let mut interrupted = false;
        while output.read_buf(&mut printed).await.unwrap() > 0 {
            let text = String::from_utf8_lossy(&printed);
            if !interrupted && text.contains("run of \"north\": ") {
                input.write_all(b"\x03").await.unwrap();
                interrupted = true;
            }
        }
        child.wait().await.unwrap()
    };
    let ended = tokio::time::timeout(PATIENCE, all).await.unwrap();
    let printed = String::from_utf8(printed).unwrap();
    assert_eq!(ended.code(), Some(1), "{printed}");
    let lines = screen(&printed);
    assert!(
        !lines.iter().any(|line| line.contains("run of ")),
        "{lines:#?}"
    );
    let last = lines.iter().rev().find(|line| !line.is_empty());
    assert_eq!(
        last.map(String::as_str),
        Some("pending files: 1; the next run continues with them"),
        "{lines:#?}"
    );
}

#[tokio::test]
async fn no_progress_is_drawn_without_a_terminal_that_can() {
    let (site, folder) = Site::with_folder(platform().run_duration(Duration::from_secs(2))).await;
    write(&folder.join("a.ifc"), "house");
    let output = in_terminal(&site, "dumb").output().await.unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("1 synchronized"), "{printed}");
    write(&folder.join("b.ifc"), "house");
    let piped = site.run(&["run", "--once"]).await;
    for text in [printed, piped.err] {
        assert!(
            !text.contains("run of ") && !text.contains("\u{1b}[2K"),
            "{text:?}"
        );
    }
}
