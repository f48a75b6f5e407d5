//! The built-in ignore list: temporary, lock and backup files of CAD, BIM and office programs, of file transfers and of
//! file servers.
//!
//! Input: one name as bytes. Output: the entry of the list that matches it. The list is a constant. A watch can extend
//! it (`exclude`), but not shorten it: in a list that can be replaced, the first entry of a user's own would remove the
//! safe ones.
//!
//! Folders whose name begins with a dot are ignored in general, because programs keep their own data there. A watch can
//! select one by naming it in `include`; those that are in the list by name stay ignored.
//!
//! A name is in the list only if no program saves a *finished* design under it. So `atmp*` is not in it (`ATMPlan.dgn`
//! is a real name, and the temporary file has no extension, hence no connector), nor is `*.nwc`, which is synchronized.
//! Sources: the vendors' help pages on saving and backups (Autodesk "file save process", Revit "About Backup Files",
//! Microsoft "Description of the way that Excel saves files") and the exclusion lists of Nextcloud, Dropbox, Trimble
//! Connect and abraunegg/onedrive.

/// Incremented with every change of the list, so that a log line can name the version in use.
pub const LIST_VERSION: u32 = 2;

/// A name of the list: at most one `*`, case ignored.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    /// What the name begins and ends with, around its `*`; without one it begins with all of it. Split at compile time,
    /// as every file of every scan is compared with every entry.
    ends: (&'static [u8], Option<&'static [u8]>),
    /// Who leaves such names behind.
    pub(super) what: &'static str,
}

/// The entry that ignores a file of this name.
pub(super) fn file(name: &[u8]) -> Option<&'static Entry> {
    FILES
        .iter()
        .find(|entry| entry.fits(name))
        .or_else(|| is_revit_backup(name).then_some(&REVIT_BACKUP))
        .or_else(|| is_conflict_copy(name).then_some(&CONFLICT_COPY))
}

/// The entry that ignores a folder of this name and everything in it.
pub(super) fn folder(name: &[u8]) -> Option<&'static Entry> {
    FOLDERS.iter().find(|entry| entry.fits(name))
}

/// Whether a folder of this name belongs to a program, as far as its name says.
pub(super) fn dot_folder(name: &[u8]) -> bool {
    name.starts_with(b".")
}

const fn entry(name: &'static str, what: &'static str) -> Entry {
    let (whole, mut star) = (name.as_bytes(), 0);
    while star < whole.len() && whole[star] != b'*' {
        star += 1;
    }
    let ends = match whole.split_at(star) {
        (head, [_star, tail @ ..]) => (head, Some(tail)),
        (head, []) => (head, None),
    };
    Entry { name, ends, what }
}

impl Entry {
    fn fits(&self, name: &[u8]) -> bool {
        let (head, Some(tail)) = self.ends else {
            return name.eq_ignore_ascii_case(self.ends.0);
        };
        name.len() >= head.len() + tail.len()
            && name
                .get(..head.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(head))
            && name
                .get(name.len() - tail.len()..)
                .is_some_and(|end| end.eq_ignore_ascii_case(tail))
    }
}

static FILES: [Entry; 58] = [
    entry("~*", "temporary or lock file of an office program"),
    entry(".~*", "temporary or lock file of an office program"),
    entry("*~", "backup of an editor"),
    entry("*.tmp", "temporary file"),
    entry("*.temp", "temporary file"),
    entry("*.$$$", "temporary file"),
    entry("*.bak", "backup"),
    entry("*.err", "error report"),
    entry("*.log", "log"),
    entry("*.lck", "lock file"),
    entry("*.lock", "lock file"),
    entry("*.lockfile", "lock file"),
    entry("*.dwl", "lock file of AutoCAD"),
    entry("*.dwl2", "lock file of AutoCAD"),
    entry("*.sv$", "automatic save of AutoCAD"),
    entry("*.ac$", "temporary file of AutoCAD"),
    entry("*.atmp", "temporary file of AutoCAD"),
    entry("*.slog", "worksharing log of Revit"),
    entry("*.rws", "worksharing data of Revit"),
    entry("*.rhl", "lock file of Rhino"),
    entry("*.3dmbak", "backup of Rhino"),
    entry("*.skb", "backup of SketchUp"),
    entry("AutoSave_*.skp", "automatic save of SketchUp"),
    entry("*.laccdb", "lock file of Access"),
    entry("*.ldb", "lock file of Access"),
    entry("*.swp", "swap file of an editor"),
    entry("*.swo", "swap file of an editor"),
    entry("*.swn", "swap file of an editor"),
    entry("*.swx", "swap file of an editor"),
    entry("*.part", "unfinished transfer"),
    entry("*.partial", "unfinished transfer"),
    entry("*.filepart", "unfinished transfer"),
    entry("*.crdownload", "unfinished transfer"),
    entry("*.download", "unfinished transfer"),
    entry("*.aria2", "unfinished transfer"),
    entry("*.!ut", "unfinished transfer"),
    entry("*.!qB", "unfinished transfer"),
    entry("*.opdownload", "unfinished transfer"),
    entry("*.lftp-pget-status", "unfinished transfer"),
    entry(".in.*.", "unfinished transfer of lftp"),
    entry("*.ffs_tmp", "unfinished copy of FreeFileSync"),
    entry("*.ffs_db", "database of FreeFileSync"),
    entry("*.ffs_lock", "lock file of FreeFileSync"),
    entry(".syncthing.*", "unfinished copy of Syncthing"),
    entry("*.!sync", "unfinished copy of a sync program"),
    entry(".nfs*", "deleted file still open on NFS"),
    entry(".fuse_hidden*", "deleted file still open on FUSE"),
    entry(".smbdelete*", "deleted file still open on SMB"),
    entry("._*", "metadata of macOS"),
    entry(".DS_Store", "metadata of macOS"),
    entry(".apdisk", "metadata of macOS"),
    entry("Thumbs.db", "metadata of Windows"),
    entry("ehthumbs.db", "metadata of Windows"),
    entry("desktop.ini", "metadata of Windows"),
    entry("*.lnk", "shortcut of Windows"),
    entry("*.url", "shortcut of Windows"),
    entry(".dropbox", "metadata of a sync program"),
    entry(".stignore", "metadata of a sync program"),
];

static FOLDERS: [Entry; 44] = [
    entry("*_backup", "backups of Revit"),
    entry("Revit_temp", "temporary files of Revit"),
    entry(".snapshot", "snapshots of the file server"),
    entry("~snapshot", "snapshots of the file server"),
    entry("#snapshot", "snapshots of the file server"),
    entry(".snapshots", "snapshots of the file server"),
    entry(".zfs", "snapshots of the file server"),
    entry("@Recently-Snapshot", "snapshots of the file server"),
    entry("#recycle", "recycle bin of the file server"),
    entry("@Recycle", "recycle bin of the file server"),
    entry("@eaDir", "metadata of the file server"),
    entry("$RECYCLE.BIN", "recycle bin of Windows"),
    entry("RECYCLER", "recycle bin of Windows"),
    entry("System Volume Information", "metadata of Windows"),
    entry("DfsrPrivate", "replication of Windows"),
    entry(".Trash*", "recycle bin of Linux or macOS"),
    entry(".TemporaryItems", "temporary files of macOS"),
    entry(".Spotlight-V100", "metadata of macOS"),
    entry(".fseventsd", "metadata of macOS"),
    entry("lost+found", "recovered parts of a file system"),
    entry(".stversions", "old versions kept by a sync program"),
    entry(".stfolder", "metadata of a sync program"),
    entry(".dropbox.cache", "cache of a sync program"),
    entry(".sync", "metadata of a sync program"),
    entry(".rsync-partial", "unfinished copies of rsync"),
    entry(".rsync-tmp", "unfinished copies of rsync"),
    entry(".~tmp~", "unfinished copies of rsync"),
    entry("*.ffs_tmp", "unfinished copies of FreeFileSync"),
    entry("*.ffs_trash", "deleted files of FreeFileSync"),
    entry(".lftp", "data of lftp"),
    entry(".unison", "data of Unison"),
    entry(".owncloudsync", "data of a sync program"),
    entry(".tmp.drivedownload", "unfinished copies of Google Drive"),
    entry(".tmp.driveupload", "unfinished copies of Google Drive"),
    entry(".dtrash", "deleted files of a program"),
    entry(".recycle", "recycle bin of the file server"),
    entry(".recycled", "recycle bin of the file server"),
    entry(".AppleDouble", "metadata of macOS"),
    entry(".AppleDB", "metadata of macOS"),
    entry(".AppleDesktop", "metadata of macOS"),
    entry(".DocumentRevisions-V100", "old versions kept by macOS"),
    entry(".git", "data of Git"),
    entry(".svn", "data of Subversion"),
    entry(".hg", "data of Mercurial"),
];

static REVIT_BACKUP: Entry = entry("*.0001.rvt", "numbered backup of Revit");

/// `plan.0001.rvt`, also for families and templates. A number that reads as a year (`Tower.2025.rvt`) is taken for a
/// name that a user chose: a needless upload does less harm than a design that is never synchronized.
fn is_revit_backup(name: &[u8]) -> bool {
    let mut parts = name.rsplit(|&byte| byte == b'.');
    let (Some(extension), Some(number), Some(_stem)) = (parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let is_revit = [&b"rvt"[..], b"rfa", b"rte"]
        .iter()
        .any(|revit| extension.eq_ignore_ascii_case(revit));
    let is_year = number.starts_with(b"19") || number.starts_with(b"20");
    is_revit && number.len() == 4 && number.iter().all(u8::is_ascii_digit) && !is_year
}

static CONFLICT_COPY: Entry = entry(
    "NAME (conflicted copy …)",
    "conflict copy of a sync program",
);

/// What sync programs put into the names of such copies (Dropbox, Box, Nextcloud, Syncthing), in lower case.
const CONFLICTS: [&[u8]; 3] = [b"conflicted copy", b"(case conflict", b".sync-conflict-20"];

fn is_conflict_copy(name: &[u8]) -> bool {
    let holds = |mark: &&[u8]| {
        let mut parts = name.windows(mark.len());
        parts.any(|part| part.eq_ignore_ascii_case(mark))
    };
    CONFLICTS.iter().any(holds) || is_owncloud_conflict(name)
}

/// `plan_conflict-20240131-235959.dgn`. Without the exact time it may be the name of a report on clashes.
fn is_owncloud_conflict(name: &[u8]) -> bool {
    const MARK: &[u8] = b"_conflict-";
    let is_time = |text: &[u8]| {
        text.len() == 15
            && text.iter().enumerate().all(|(at, byte)| match at {
                8 => *byte == b'-',
                _ => byte.is_ascii_digit(),
            })
    };
    name.windows(MARK.len() + 15).any(|part| {
        let (mark, time) = part.split_at(MARK.len());
        mark == MARK && is_time(time)
    })
}
