//! `init`: a configuration from answers in a terminal, or from options, with the real program; and a run with it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use itwin_syncd::emulator::{Builder, DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID, Emulator};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};

use crate::support::{
    Finished, PATIENCE, SECRET, eventually, platform, program, program_of, write,
};

/// A platform, a folder with design files, and a place for the configuration.
struct Newcomer {
    dir: tempfile::TempDir,
    emulator: Emulator,
}

/// What is left of the program's environment.
const VARIABLES: [&str; 4] = [
    "ITWIN_SYNCD_CLIENT_ID",
    "ITWIN_SYNCD_API_URL",
    "ITWIN_SYNCD_ISSUER_URL",
    "ITWIN_SYNCD_CONFIG",
];

impl Newcomer {
    async fn new(builder: Builder) -> Self {
        let newcomer = Self {
            dir: tempfile::tempdir().unwrap(),
            emulator: builder.start().await.unwrap(),
        };
        std::fs::create_dir(newcomer.path("designs")).unwrap();
        std::fs::create_dir(newcomer.path("etc")).unwrap();
        write(&newcomer.path("designs/house.ifc"), "house");
        newcomer
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn config(&self) -> PathBuf {
        self.path("etc/config.toml")
    }

    /// The options that every call has.
    fn words(&self, more: &[&str]) -> Vec<String> {
        let config = self.config();
        let words = [
            "init",
            "--config",
            config.to_str().unwrap(),
            "--api-url",
            self.emulator.api_url(),
            "--issuer-url",
            self.emulator.issuer_url(),
        ];
        words.iter().chain(more).map(ToString::to_string).collect()
    }

    /// Runs it without a terminal.
    async fn run(&self, secret: &str, more: &[&str]) -> Finished {
        let mut command = program();
        command.args(self.words(more));
        if !secret.is_empty() {
            command.env("ITWIN_SYNCD_CLIENT_SECRET", secret);
        }
        finished(command).await
    }

    /// Everything that a call needs, with some options replaced, or left out if they are empty.
    async fn run_with(&self, secret: &str, changes: &[(&str, &str)]) -> Finished {
        let folder = self.path("designs");
        let mut all = vec![
            ("--client-id", "service-test"),
            ("--imodel", DEFAULT_IMODEL_ID),
            ("--folder", folder.to_str().unwrap()),
        ];
        for change in changes {
            all.retain(|one| one.0 != change.0);
            all.push(*change);
        }
        let mut words = vec!["--non-interactive"];
        for (name, value) in &all {
            if !value.is_empty() {
                words.extend([*name, *value]);
            }
        }
        self.run(secret, &words).await
    }

    /// Starts it in a terminal of its own.
    fn dialog(&self, more: &[&str]) -> Dialog {
        let quoted = |word: &String| format!("'{word}'");
        let words: Vec<_> = self.words(more).iter().map(quoted).collect();
        let line = format!(
            "exec '{}' {}",
            env!("CARGO_BIN_EXE_itwin-syncd"),
            words.join(" ")
        );
        let mut command = program_of("script");
        command
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .stdin(Stdio::piped());
        for name in VARIABLES {
            command.env_remove(name);
        }
        Dialog::of(command)
    }

    /// What is in the folder of the configuration.
    fn written(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("etc")).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Runs the daemon once with what was written, faster than by default.
    async fn synchronizes(&self) {
        let path = self.config();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(SECRET), "{text}");
        let text = format!(
            "settle = \"300ms\"\n{text}\n[sync]\nbatch_window = \"300ms\"\npoll_interval = \"100ms\"\npoll_max = \"200ms\"\n"
        );
        std::fs::write(&path, text).unwrap();
        let mut command = program();
        command.args(["run", "--once", "--config"]).arg(&path);
        let done = finished(command).await;
        assert_eq!(done.code, Some(0), "{done:?}");
        let runs = self.emulator.state().runs.len();
        assert_eq!(runs, 1, "{done:?}");
    }
}

async fn finished(mut command: Command) -> Finished {
    for name in VARIABLES {
        command.env_remove(name);
    }
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    Finished::from(output.expect("the command should end").unwrap())
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

/// The program in a terminal.
struct Dialog {
    child: Child,
    input: ChildStdin,
    shown: Arc<Mutex<String>>,
    /// How much of it was answered.
    answered: usize,
}

impl Dialog {
    fn of(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut out, copy) = (child.stdout.take().unwrap(), Arc::clone(&shown));
        tokio::spawn(async move {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = out.read(&mut bytes).await {
                *copy.lock().unwrap() += &String::from_utf8_lossy(&bytes[..count]);
            }
        });
        Self {
            input: child.stdin.take().unwrap(),
            child,
            shown,
            answered: 0,
        }
    }

    /// Waits for a question, and types bytes.
    async fn types(&mut self, question: &str, bytes: &str) {
        let found = || {
            let shown = self.shown.lock().unwrap();
            let rest = shown.get(self.answered..).unwrap_or_default();
            rest.find(question)
                .map(|at| self.answered + at + question.len())
        };
        let shown = || format!("{question:?} in {}", self.shown.lock().unwrap());
        eventually(|| found().is_some(), shown).await;
        self.answered = found().unwrap();
        self.input.write_all(bytes.as_bytes()).await.unwrap();
        self.input.flush().await.unwrap();
    }

    /// Waits for a question, and answers it.
    async fn answers(&mut self, question: &str, answer: &str) {
        self.types(question, &format!("{answer}\n")).await;
    }

    /// Waits for an address that has this text.
    async fn line_with(&mut self, text: &str) -> String {
        let found = || {
            let shown = self.shown.lock().unwrap();
            let mut lines = shown
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            let line = lines.find(|line| line.contains(text))?;
            Some(line.trim().to_owned())
        };
        let shown = || format!("{text:?} in {}", self.shown.lock().unwrap());
        eventually(|| found().is_some(), shown).await;
        found().unwrap()
    }

    /// Waits for the end. Exit code, and everything shown.
    async fn ends(mut self) -> (Option<i32>, String) {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = ended.unwrap_or_else(|_| panic!("{}", self.shown.lock().unwrap()));
        let shown = self.shown.lock().unwrap().clone();
        assert!(!shown.contains(SECRET), "{shown}");
        (status.unwrap().code(), shown)
    }
}

#[tokio::test]
async fn answers_in_a_terminal_become_a_configuration_that_a_run_works_with() {
    let newcomer = Newcomer::new(platform()).await;
    let folder = newcomer.path("designs");
    let mut dialog = newcomer.dialog(&[]);
    // Each wrong answer is followed by the reason, and by the same question.
    dialog.answers("Client id: ", "service-unknown").await;
    dialog.answers("(not shown): ", "  ").await;
    dialog.answers("the secret is empty", "").await;
    dialog.answers("paste it again", SECRET).await;
    dialog
        .answers("Client id [service-unknown]: ", "service-test")
        .await;
    dialog.answers("(not shown): ", "wrong").await;
    dialog.answers("Client id [service-test]: ", "").await;
    dialog.answers("(not shown): ", SECRET).await;
    dialog.answers("iTwin (number", "no such thing").await;
    dialog.answers("no iTwin has", "1").await;
    dialog.answers("iModel (number", "").await;
    for (wrong, reason) in [
        ("/no/such/folder", "does not exist"),
        ("C:\\designs", "is a path of Windows"),
        ("designs.txt", "does not exist"),
    ] {
        dialog
            .answers("Folder with the design files: ", wrong)
            .await;
        dialog.types(reason, "").await;
        dialog.types("hint: ", "").await;
    }
    let file = folder.join("house.ifc");
    dialog
        .answers("Folder with the design files: ", file.to_str().unwrap())
        .await;
    dialog.types("is not a folder", "").await;
    dialog
        .answers("Folder with the design files: ", folder.to_str().unwrap())
        .await;
    dialog.answers("[designs]: ", "").await;
    assert!(newcomer.written().is_empty());
    dialog.answers("config.toml\"? [Y/n] ", "").await;
    let (code, shown) = dialog.ends().await;
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("all that are needed"), "{shown}");
    assert!(shown.contains("Next:"), "{shown}");
    assert_eq!(newcomer.written(), ["client-secret", "config.toml"]);
    assert_eq!(mode(&newcomer.path("etc/client-secret")), 0o600);
    assert_eq!(mode(&newcomer.config()), 0o640);
    newcomer.synchronizes().await;
}

#[tokio::test]
async fn options_answer_every_question_in_advance() {
    let newcomer = Newcomer::new(platform()).await;
    let done = newcomer.run_with(SECRET, &[]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let text = std::fs::read_to_string(newcomer.config()).unwrap();
    assert!((15..=30).contains(&text.lines().count()), "{text}");
    newcomer.synchronizes().await;
    // What is there is replaced only on request.
    let text = std::fs::read_to_string(newcomer.config()).unwrap();
    let done = newcomer.run_with(SECRET, &[]).await;
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.contains("exists already"), "{done:?}");
    assert_eq!(std::fs::read_to_string(newcomer.config()).unwrap(), text);
    let done = newcomer
        .run_with("", &[("--force", ""), ("--name", "new"), ("--folder", "")])
        .await;
    assert_eq!(done.code, Some(1), "{done:?}");
    let folder = newcomer.path("designs");
    let folder = folder.to_str().unwrap();
    // The secret that is there is used.
    let options = [
        "--non-interactive",
        "--force",
        "--client-id",
        "service-test",
        "--imodel",
        DEFAULT_IMODEL_ID,
        "--folder",
        folder,
        "--name",
        "new",
    ];
    let done = newcomer.run("", &options).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let text = std::fs::read_to_string(newcomer.config()).unwrap();
    assert!(text.contains("name = \"new\""), "{text}");
    assert_eq!(newcomer.written().len(), 3, "{:?}", newcomer.written());
}

#[tokio::test]
async fn what_cannot_work_is_refused_with_a_remedy_and_writes_nothing() {
    let newcomer = Newcomer::new(
        platform()
            .outsider("service-outsider", SECRET)
            .itwin(DEFAULT_ITWIN_ID, "Open")
            .imodel(DEFAULT_IMODEL_ID, DEFAULT_ITWIN_ID, "Open model")
            .itwin("11111111-0000-4000-8000-000000000001", "Empty")
            .itwin("11111111-0000-4000-8000-000000000002", "Closed")
            .imodel(
                "22222222-0000-4000-8000-000000000002",
                "11111111-0000-4000-8000-000000000002",
                "Closed model",
            )
            .forbidden_storage("11111111-0000-4000-8000-000000000002"),
    )
    .await;
    let file = newcomer.path("designs/house.ifc");
    let file = file.to_str().unwrap();
    for (secret, changes, reason, remedy) in [
        (
            "",
            &[][..],
            "--client-secret-file is missing",
            "ITWIN_SYNCD_CLIENT_SECRET",
        ),
        (
            SECRET,
            &[("--client-id", "")],
            "--client-id is missing",
            "add --client-id",
        ),
        (
            SECRET,
            &[("--folder", "")],
            "--folder is missing",
            "add --folder",
        ),
        (
            SECRET,
            &[("--imodel", "")],
            "--imodel is missing",
            "add --imodel",
        ),
        ("lion-and-lamb", &[], "get token", "the client secret"),
        (
            SECRET,
            &[("--folder", "/no/such")],
            "does not exist",
            "mkdir -p /no/such",
        ),
        (
            SECRET,
            &[("--folder", file)],
            "is not a folder",
            "enter the folder that contains it",
        ),
        (SECRET, &[("--name", "a/b")], "name: ", "hint: "),
        (
            SECRET,
            &[("--proxy", "not a proxy")],
            "network.proxy",
            "hint: ",
        ),
        (
            SECRET,
            &[("--itwin", "Empty"), ("--imodel", "any")],
            "no iModel has the id or the name",
            "without --imodel",
        ),
        (
            SECRET,
            &[("--itwin", "Nowhere"), ("--imodel", "any")],
            "no iTwin has the id or the name",
            "give the application access",
        ),
        (
            SECRET,
            &[("--client-id", "service-outsider")],
            "get iModel",
            "service-outsider@apps.imsoidc.bentley.com",
        ),
        (
            SECRET,
            &[("--itwin", "Closed"), ("--imodel", "Closed model")],
            "a check failed",
            "storage_read",
        ),
    ] {
        let done = newcomer.run_with(secret, changes).await;
        let printed = format!("{}{}", done.out, done.err);
        assert_eq!(done.code, Some(1), "{changes:?} {printed}");
        assert!(printed.contains(reason), "{changes:?} {printed}");
        assert!(printed.contains(remedy), "{changes:?} {printed}");
        assert!(newcomer.written().is_empty(), "{changes:?}");
    }
}

#[tokio::test]
async fn many_itwins_are_shown_page_by_page_and_found_by_a_part_of_the_name() {
    let mut builder = platform();
    for number in 1..=45 {
        let id = format!("11111111-0000-4000-8000-0000000000{number:02}");
        builder = builder.itwin(&id, &format!("Bridge {number:02}"));
    }
    let builder = builder.itwin(DEFAULT_ITWIN_ID, "Harbor").imodel(
        DEFAULT_IMODEL_ID,
        DEFAULT_ITWIN_ID,
        "Pier",
    );
    let newcomer = Newcomer::new(builder).await;
    let mut dialog = newcomer.dialog(&["--client-id", "service-test"]);
    dialog.answers("(not shown): ", SECRET).await;
    dialog.answers("Enter for more): ", "").await;
    dialog.answers("Enter for more): ", "").await;
    dialog
        .answers("Enter for the first page): ", "bridge 4")
        .await;
    // Six of them; one without an iModel is not the end.
    dialog.answers("part of a name to search): ", "6").await;
    dialog.answers("Press Enter to choose again: ", "").await;
    dialog.answers("Enter for more): ", DEFAULT_ITWIN_ID).await;
    dialog.types("iModel (number", "\u{3}").await;
    let (code, shown) = dialog.ends().await;
    assert_ne!(code, Some(0), "{shown}");
    assert!(shown.contains("Bridge 45"), "{shown}");
    assert!(shown.contains("has no iModel"), "{shown}");
    let lists = newcomer.emulator.requests();
    let longest = lists.iter().filter(|one| one.path.contains("/itwins"));
    assert!(longest.count() <= 8);
    assert!(newcomer.written().is_empty());
}

#[tokio::test]
async fn an_interruption_at_any_question_leaves_nothing_behind() {
    let newcomer = Newcomer::new(platform()).await;
    let folder = newcomer.path("designs");
    let answers = [
        ("Client id: ", "service-test"),
        ("(not shown): ", SECRET),
        ("iTwin (number", "1"),
        ("iModel (number", "1"),
        ("Folder with the design files: ", folder.to_str().unwrap()),
        ("[designs]: ", ""),
        ("config.toml\"? [Y/n] ", ""),
    ];
    for (at, (question, _)) in answers.iter().enumerate() {
        let mut dialog = newcomer.dialog(&[]);
        for (question, answer) in &answers[..at] {
            dialog.answers(question, answer).await;
        }
        dialog.types(question, "\u{3}").await;
        let (code, shown) = dialog.ends().await;
        assert_eq!(code, Some(130), "{question}: {shown}");
        assert!(newcomer.written().is_empty(), "{question}");
    }
}

#[tokio::test]
async fn an_application_without_an_itwin_gets_its_address_and_can_look_again() {
    let newcomer = Newcomer::new(platform().outsider("service-outsider", SECRET)).await;
    let mut dialog = newcomer.dialog(&["--client-id", "service-outsider"]);
    dialog.answers("(not shown): ", SECRET).await;
    dialog.types("is not a member of any iTwin", "").await;
    let remedy = "adds service-outsider@apps.imsoidc.bentley.com as a member";
    dialog.types(remedy, "").await;
    dialog.answers("Press Enter to look again: ", "").await;
    dialog.types("Press Enter to look again: ", "\u{3}").await;
    dialog.ends().await;
    assert!(newcomer.written().is_empty());
}

#[tokio::test]
async fn without_a_terminal_nothing_is_asked() {
    let newcomer = Newcomer::new(platform()).await;
    let done = newcomer.run(SECRET, &[]).await;
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.contains("not a terminal"), "{done:?}");
    assert!(newcomer.written().is_empty());
}

/// The client of an identity provider's pages.
async fn returned(address: &str) -> String {
    let http = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let answer = http.get(address).send().await.unwrap();
    answer.headers()["location"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_user_signs_in_with_a_browser_elsewhere() {
    let newcomer = Newcomer::new(platform()).await;
    let folder = newcomer.path("designs");
    let mut dialog = newcomer.dialog(&[]);
    dialog.answers("Client id: ", "native-emulator").await;
    dialog.answers("with a browser? [Y/n] ", "").await;
    let address = dialog.line_with("/connect/authorize?").await;
    dialog
        .answers("address here:", &returned(&address).await)
        .await;
    let page = dialog.line_with("/connect/consent?").await;
    returned(&page).await;
    dialog.answers("Then press Enter here.", "").await;
    dialog.answers("iTwin (number", "1").await;
    dialog.answers("iModel (number", "").await;
    dialog
        .answers("Folder with the design files: ", folder.to_str().unwrap())
        .await;
    dialog.answers("[designs]: ", "").await;
    dialog.answers("config.toml\"? [Y/n] ", "").await;
    let (code, shown) = dialog.ends().await;
    assert_eq!(code, Some(0), "{shown}");
    for text in ["Signed in as native-emulator", "Stored the sign-in in"] {
        assert!(shown.contains(text), "{shown}");
    }
    assert_eq!(newcomer.written(), ["config.toml", "itwin-syncd-state"]);
    assert_eq!(mode(&newcomer.path("etc/itwin-syncd-state/login")), 0o600);
    newcomer.synchronizes().await;
}

#[tokio::test]
async fn a_user_cannot_sign_in_without_a_terminal() {
    let newcomer = Newcomer::new(platform()).await;
    let done = newcomer.run_with(SECRET, &[("--sign-in", "user")]).await;
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(
        done.err.contains("needs a terminal and a browser"),
        "{done:?}"
    );
    assert!(newcomer.written().is_empty());
}
