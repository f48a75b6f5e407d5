//! The programs that are commonly used to send files to storage, each called as documented.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::measure::{installed, named};
use crate::platform::Platform;

/// A program, and its call that sends all files of a folder.
pub struct Program {
    pub name: &'static str,
    pub command: Command,
}

/// Those that are there. `home` stands in for the user's, whose settings would change what is measured.
pub fn all(platform: &Platform, folder: &Path, home: &Path) -> Vec<Program> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut programs = Vec::new();
    if installed("curl") {
        programs.push(curl(platform, &files));
    }
    if let Some(azcopy) = named("AZCOPY") {
        let mut command = Command::new(azcopy);
        command
            .arg("copy")
            .arg(folder.join("*"))
            .arg(platform.container())
            .args(["--from-to=LocalBlob", "--log-level=NONE"])
            .env("AZCOPY_LOG_LOCATION", home)
            .env("AZCOPY_JOB_PLAN_LOCATION", home);
        programs.push(Program {
            name: "AzCopy",
            command,
        });
    }
    if let Some(python) = named("AZURE_PYTHON") {
        let mut command = Command::new(python);
        command
            .args(["-c", include_str!("upload.py")])
            .arg(platform.container())
            .args(&files);
        programs.push(Program {
            name: "Python SDK",
            command,
        });
    }
    if installed("rclone") {
        let mut command = Command::new("rclone");
        command
            .args(["copy", "--transfers=8", "--azureblob-sas-url"])
            .arg(platform.container())
            .arg(folder)
            .arg(":azureblob:blob")
            // No file of settings.
            .env("RCLONE_CONFIG", "");
        programs.push(Program {
            name: "rclone",
            command,
        });
    }
    for program in &mut programs {
        program.command.env("HOME", home);
    }
    programs
}

fn curl(platform: &Platform, files: &[PathBuf]) -> Program {
    let mut command = Command::new("curl");
    command.args(["-s", "-S", "-f", "-H", "x-ms-blob-type: BlockBlob"]);
    let name = if files.len() == 1 {
        "curl -T"
    } else {
        command.args(["-Z", "--parallel-max", "8"]);
        "curl -Z8"
    };
    for file in files {
        let blob = file.file_name().unwrap().to_str().unwrap();
        command.arg("-T").arg(file).arg(platform.sink(blob));
    }
    Program { name, command }
}
