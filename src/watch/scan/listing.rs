//! What a walk reports of one folder.

use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use crate::connector_type::ConnectorType;
use crate::ledger::{Fingerprint, Ready};

/// Wanted files of one folder; a large folder comes in several of these.
#[derive(Debug)]
pub(in crate::watch) struct Listing {
    pub(in crate::watch) dir: PathBuf,
    pub(in crate::watch) files: Vec<Listed>,
    /// Which part of the folder it is, in this walk; from 0.
    pub(in crate::watch) part: u32,
    /// The folder was listed to its end with it. None of a folder whose listing broke off is the last one.
    pub(in crate::watch) last: bool,
}

/// A wanted file.
#[derive(Debug)]
pub(in crate::watch) struct Listed {
    pub(in crate::watch) path: PathBuf,
    pub(in crate::watch) fingerprint: Fingerprint,
    /// None: it is stored only.
    pub(in crate::watch) connector: Option<ConnectorType>,
    /// The stem of the set that it belongs to, if it belongs to one.
    pub(in crate::watch) set_stem: Option<Vec<u8>>,
}

impl From<&Listed> for Ready {
    fn from(file: &Listed) -> Self {
        Self {
            path: file.path.clone(),
            fingerprint: file.fingerprint,
            connector: file.connector.clone(),
            set_stem: file.set_stem.clone(),
        }
    }
}

impl Listing {
    /// A digest of everything by which its files are known.
    pub(in crate::watch) fn digest(&self) -> [u8; 32] {
        let mut all = Vec::new();
        for file in &self.files {
            let name = file.path.file_name().unwrap_or_default().as_bytes();
            let connector = file.connector.as_ref().map(ConnectorType::as_str);
            let print = &file.fingerprint;
            all.extend((name.len() as u64).to_le_bytes());
            all.extend(name);
            all.extend(print.size.to_le_bytes());
            all.extend(print.mtime_ns.to_le_bytes());
            all.extend(print.ctime_ns.to_le_bytes());
            all.extend(
                connector
                    .map_or(u64::MAX, |name| name.len() as u64)
                    .to_le_bytes(),
            );
            all.extend(connector.unwrap_or_default().as_bytes());
            if let Some(stem) = &file.set_stem {
                all.extend((stem.len() as u64).to_le_bytes());
                all.extend(stem);
            }
        }
        // A folder that ends here may have had more parts before.
        all.push(u8::from(self.last));
        *blake3::hash(&all).as_bytes()
    }
}
