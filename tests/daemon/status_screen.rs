//! `status --watch` in a pseudo terminal: it gives the terminal back, whatever ends it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::support::{Site, eventually, is_stopped, platform, write};

const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?25h\u{1b}[?1049l";

/// A command in a terminal of its own.
struct Terminal {
    keyboard: File,
    /// The other side, which keeps the terminal open.
    line: File,
    output: Arc<Mutex<String>>,
    child: Child,
}

impl Terminal {
    async fn start(site: &Site, arguments: &[&str], (columns, rows): (u16, u16)) -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let open = || {
            let mut options = File::options();
            options.read(true).write(true).open(name.to_str().unwrap())
        };
        let line = open().unwrap();
        let keyboard = File::from(master);
        let command = site.command(arguments);
        let command = command.as_std();
        let mut in_terminal = Command::new("setsid");
        in_terminal
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::from(open().unwrap()))
            .stdout(Stdio::from(open().unwrap()))
            .stderr(Stdio::from(open().unwrap()));
        let output = Arc::new(Mutex::new(String::new()));
        let mut reader = keyboard.try_clone().unwrap();
        let received = Arc::clone(&output);
        std::thread::spawn(move || {
            let mut pending = Vec::new();
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                pending.extend_from_slice(&bytes[..count]);
                let complete = match std::str::from_utf8(&pending) {
                    Ok(text) => text.len(),
                    Err(error) => error.valid_up_to(),
                };
                let rest = pending.split_off(complete);
                let text = String::from_utf8(std::mem::replace(&mut pending, rest)).unwrap();
                received.lock().unwrap().push_str(&text);
            }
        });
        let terminal = Self {
            keyboard,
            line,
            output,
            child: {
                set_size(&open().unwrap(), columns, rows);
                in_terminal.spawn().unwrap()
            },
        };
        terminal.shows(|_| true).await;
        terminal
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// The rows of the last frame that was drawn completely.
    fn rows(&self) -> Option<Vec<String>> {
        let output = self.output();
        let (before, _) = output.rsplit_once("\u{1b}[?2026l")?;
        let (_, frame) = before.rsplit_once("\u{1b}[?2026h\u{1b}[H")?;
        let frame = frame.replace("\u{1b}[K", "").replace("\u{1b}[J", "");
        // The terminal adds a return of its own to each line break.
        let rows = frame.split('\n').map(|row| row.trim_end_matches('\r'));
        Some(rows.map(ToOwned::to_owned).collect())
    }

    /// Waits for such rows.
    async fn shows(&self, condition: impl Fn(&[String]) -> bool) -> Vec<String> {
        let shown = || self.rows().is_some_and(|rows| condition(&rows));
        eventually(shown, || format!("{:#?}\n{}", self.rows(), self.output())).await;
        self.rows().unwrap()
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(id, signal).unwrap();
    }

    fn is_quiet(&self) -> bool {
        let modes = tcgetattr(&self.line).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO)
    }

    /// The terminal is as it was, and the command has left its screen.
    async fn is_given_back(&self) {
        let left = || !self.is_quiet() && ends_outside(&self.output());
        eventually(left, || self.output()).await;
        let modes = tcgetattr(&self.line).unwrap().local_modes;
        assert!(modes.contains(LocalModes::ICANON | LocalModes::ECHO));
    }

    async fn is_suspended(&self) {
        self.is_given_back().await;
        eventually(|| is_stopped(self.child.id()), || self.output()).await;
    }

    async fn ends(mut self) -> Option<i32> {
        self.is_given_back().await;
        self.child.wait().unwrap().code()
    }
}

fn set_size(terminal: &File, columns: u16, rows: u16) {
    let size = Winsize {
        ws_col: columns,
        ws_row: rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(terminal, size).unwrap();
}

fn ends_outside(output: &str) -> bool {
    output.rfind(LEAVE) > output.rfind(ENTER)
}

async fn site_with_failures() -> Site {
    let (site, folder) = Site::with_folder(platform()).await;
    for number in 0..40 {
        write(
            &folder.join(format!(
                "{number} with a long name that no row has room for.ifc"
            )),
            "",
        );
        write(&folder.join(format!("odd:{number}.ifc")), "odd");
    }
    site.run(&["run", "--once"]).await;
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_is_given_back_whatever_ends_the_status() {
    let site = site_with_failures().await;
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let terminal = Terminal::start(&site, &["status", "--watch"], (80, 24)).await;
        assert!(terminal.is_quiet());
        terminal.signal(signal);
        assert_eq!(terminal.ends().await, Some(0), "{signal:?}");
    }
    let mut terminal = Terminal::start(&site, &["status", "--watch"], (80, 24)).await;
    terminal.press("\u{1a}");
    terminal.is_suspended().await;
    let frames = terminal.output().matches(ENTER).count();
    terminal.signal(Signal::CONT);
    terminal
        .shows(|_| terminal.output().matches(ENTER).count() > frames)
        .await;
    assert!(terminal.is_quiet());
    // Again, and ended meanwhile: `kill %1` of a shell sends these two.
    terminal.press("\u{1a}");
    terminal.is_suspended().await;
    terminal.signal(Signal::TERM);
    terminal.signal(Signal::CONT);
    assert_eq!(terminal.ends().await, Some(0));
    let mut terminal = Terminal::start(&site, &["status", "--watch"], (80, 24)).await;
    terminal.press("\u{3}");
    assert_eq!(terminal.ends().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_fits_the_terminal_and_scrolls() {
    let site = site_with_failures().await;
    let mut terminal = Terminal::start(&site, &["status", "--watch"], (60, 12)).await;
    let fits = |rows: &[String], columns: usize, count: usize| {
        assert_eq!(rows.len(), count, "{rows:#?}");
        for row in rows {
            assert!(row.chars().count() <= columns, "{row:?}");
        }
    };
    let first = terminal
        .shows(|rows| rows[0].starts_with("ATTENTION: "))
        .await;
    fits(&first, 60, 12);
    assert!(first[11].contains(" lines below"), "{first:#?}");
    terminal.press("j");
    // The first line takes two rows, which stay.
    let second = terminal.shows(|rows| rows[2] != first[2]).await;
    assert_eq!(second[0], first[0]);
    terminal.press("\u{1b}[6~");
    terminal.shows(|rows| rows[2] != second[2]).await;
    terminal.press("\u{1b}[4~");
    let end = terminal
        .shows(|rows| rows[11].contains(" lines above;"))
        .await;
    fits(&end, 60, 12);
    set_size(&terminal.line, 90, 20);
    let larger = terminal.shows(|rows| rows.len() == 20).await;
    fits(&larger, 90, 20);
    terminal.press("g");
    terminal
        .shows(|rows| rows[19].contains(" lines below"))
        .await;
    terminal.press("q");
    assert_eq!(terminal.ends().await, Some(0));
}
