//! Reports file systems that are mounted or unmounted: the kernel raises no file event for them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// The mounts of this process's namespace. Its descriptor is ready for `POLLPRI` when they change.
/// Source: `proc_pid_mounts(5)`
pub(super) const MOUNTS: &str = "/proc/self/mountinfo";

/// Calls `changed` with the mount points at which something was mounted or unmounted, until it returns false.
pub(super) fn follow(changed: impl Fn(&[PathBuf]) -> bool + Send + 'static) -> io::Result<()> {
    let mut file = File::open(MOUNTS)?;
    let mut known = read(&mut file)?;
    std::thread::Builder::new()
        .name("mounts".to_owned())
        .spawn(move || {
            loop {
                let mut ready = [PollFd::new(&file, PollFlags::PRI | PollFlags::ERR)];
                match poll(&mut ready, None) {
                    Ok(_) => {}
                    Err(Errno::INTR) => continue,
                    Err(_) => return,
                }
                let Ok(now) = read(&mut file) else {
                    return;
                };
                let points: Vec<PathBuf> = now
                    .symmetric_difference(&known)
                    .map(|(_, point)| point.clone())
                    .collect();
                known = now;
                if !points.is_empty() && !changed(&points) {
                    return;
                }
            }
        })?;
    Ok(())
}

fn read(file: &mut File) -> io::Result<BTreeSet<(u64, PathBuf)>> {
    let mut text = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut text)?;
    Ok(text
        .split(|byte| *byte == b'\n')
        .filter_map(mount)
        .collect())
}

/// The id and the mount point of a line: the first and the fifth field.
fn mount(line: &[u8]) -> Option<(u64, PathBuf)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let point = unescaped(fields.nth(3)?);
    Some((id, OsString::from_vec(point).into()))
}

/// Space, tab, newline and backslash are written as a backslash and three octal digits.
pub(super) fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let escape = after.first_chunk::<3>().filter(|_| *first == b'\\');
        let code = escape
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_mount_is_read_with_its_id_and_its_real_name() {
        let line = br"36 35 98:0 /mnt1 /srv/a\040b\134c rw,noatime master:1 - ext3 /dev/root rw";
        let (id, point) = mount(line).unwrap();
        assert_eq!((id, point.as_path()), (36, Path::new(r"/srv/a b\c")));
        for odd in ["", "x", "36 35 98:0 /mnt1", "1 2 3 4"] {
            assert!(mount(odd.as_bytes()).is_none(), "{odd}");
        }
        assert_eq!(unescaped(br"a\04"), br"a\04");
        assert_eq!(unescaped(br"\999"), br"\999");
    }

    #[test]
    fn the_root_is_mounted() {
        let mounts = read(&mut File::open(MOUNTS).unwrap()).unwrap();
        assert!(mounts.iter().any(|(_, point)| point == Path::new("/")));
    }
}
