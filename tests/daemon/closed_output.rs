//! Commands whose output nobody reads: a closed pipe, a full disk, a terminal that is gone. None panics.

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::support::{Site, platform, program, write};

/// A panic, or its abort.
fn panicked(status: std::process::ExitStatus) -> bool {
    status.code() == Some(101) || status.code().is_none()
}

/// A pipe that nobody reads.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    Stdio::from(writer)
}

fn full() -> Stdio {
    Stdio::from(File::options().write(true).open("/dev/full").unwrap())
}

#[tokio::test]
async fn no_command_panics_when_its_output_cannot_be_written() {
    let (mut site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("house.ifc"), "house");
    write(&folder.join("empty.ifc"), "");
    site.run(&["run", "--once"]).await;
    let path = folder.join("empty.ifc");
    let path = path.to_str().unwrap();
    let imodel = "c0ffee00-1234-4abc-8def-0123456789ab";
    for with_error in [false, true] {
        if with_error {
            site.top = "settle = 5s\n".to_owned();
        }
        for arguments in [
            &["status"][..],
            &["status", "--json"],
            &["status", "--all"],
            &["status", "--watch"],
            &["status", "empty.ifc"],
            &["status", "unknown.ifc"],
            &["explain", path],
            &["explain", path, "--json"],
            &["check"],
            &["check", "--json"],
            &["check", "--offline"],
            &["run", "--dry-run"],
            &["run", "--dry-run", "--json"],
            &["run", "--once"],
            &["run", "--once", "--json"],
            &["orphans"],
            &["orphans", "--json"],
            &["detach", "north", "--imodel", imodel],
            &["detach", "south", "--imodel", imodel],
            &["retry", "--failed"],
            &["forget", "empty.ifc", "--dry-run"],
            &["forget", "empty.ifc"],
            &["restore", "empty.ifc"],
            &["pause", "--dry-run"],
            &["rescan"],
            &["healthcheck"],
            &["alert", "test", "ops"],
        ] {
            for output in [closed as fn() -> Stdio, full] {
                let mut command = site.command(arguments);
                command.stdout(output()).stderr(output());
                let mut child = command.spawn().unwrap();
                // `status --watch` notices it with its first line, unless that never comes.
                let ended = tokio::time::timeout(Duration::from_secs(60), child.wait()).await;
                let ended = ended.unwrap_or_else(|_| panic!("{arguments:?} does not end"));
                assert!(!panicked(ended.unwrap()), "{arguments:?}");
            }
        }
    }
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["connectors"],
        &["help", "run"],
        &["nonsense"],
    ] {
        for output in [closed as fn() -> Stdio, full] {
            let mut command = program();
            command.args(arguments).stdout(output()).stderr(output());
            assert!(!panicked(command.status().await.unwrap()), "{arguments:?}");
        }
    }
}

#[tokio::test]
async fn no_command_panics_when_its_terminal_is_gone() {
    let (site, folder) = Site::with_folder(platform()).await;
    write(&folder.join("empty.ifc"), "");
    site.run(&["run", "--once"]).await;
    for arguments in [
        &["status", "--watch"][..],
        &["status"],
        &["status", "unknown.ifc"],
        &["forget", "empty.ifc"],
        &["run", "--once"],
    ] {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let open = || {
            let mut options = File::options();
            let line = options.read(true).write(true).open(name.to_str().unwrap());
            Stdio::from(line.unwrap())
        };
        let mut command = site.command(arguments);
        command
            .env("TERM", "xterm")
            .stdin(open())
            .stdout(open())
            .stderr(open());
        let mut child = command.spawn().unwrap();
        drop(command);
        // The terminal goes while the command starts, or shows its first screen.
        let mut terminal = File::from(master);
        if arguments == ["status", "--watch"] {
            let mut first = [0; 1];
            std::io::Read::read_exact(&mut terminal, &mut first).unwrap();
        }
        drop(terminal);
        let ended = tokio::time::timeout(Duration::from_secs(60), child.wait()).await;
        let ended = ended.unwrap_or_else(|_| panic!("{arguments:?} does not end"));
        assert!(!panicked(ended.unwrap()), "{arguments:?}");
    }
}
