//! Kinds of file systems, by the magic numbers of `statfs(2)`.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// Whether changes in this directory may come from elsewhere, so that the kernel does not report them.
pub(crate) fn is_remote(directory: impl AsFd) -> io::Result<bool> {
    Ok(remote_type(rustix::fs::fstatfs(directory)?.f_type))
}

/// File systems on which every change passes through this kernel, by the magic numbers of `statfs(2)`.
/// Any other, known or not, counts as remote: looking too often is harmless, waiting for events that never come is not.
const LOCAL_TYPES: [u32; 22] = [
    0xEF53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683E, // Btrfs
    0x0102_1994, // tmpfs
    0x8584_58F6, // ramfs
    0x794C_7630, // overlayfs
    0x2FC1_2FC1, // ZFS
    0xF2F5_2010, // F2FS
    0xCA45_1A4E, // bcachefs
    0x5265_4973, // ReiserFS
    0x3153_464A, // JFS
    0x3434,      // NILFS
    0x7366_746E, // NTFS (ntfs3)
    0x4D44,      // FAT
    0x2011_BAB0, // exFAT
    0x4244,      // HFS
    0x482B,      // HFS+
    0xF15F,      // eCryptfs
    0x7371_7368, // SquashFS
    0xE0F5_E1E2, // EROFS
    0x9660,      // ISO 9660
    0x1501_3346, // UDF
];

/// Decides by the type number alone.
fn remote_type(f_type: i64) -> bool {
    !LOCAL_TYPES.contains(&as_u32(f_type))
}

/// Network file systems, on which a database is not safe; FUSE is among them because most of its kind are.
const NETWORK_TYPES: [u32; 13] = [
    0x6969,      // NFS
    0x517B,      // SMB
    0xFF53_4D42, // CIFS
    0xFE53_4D42, // SMB 2 and later
    0x6573_5546, // FUSE
    0x0102_1997, // 9P
    0x5346_414F, // AFS
    0x6B41_4653, // kAFS
    0x00C3_6400, // Ceph
    0x7375_7245, // Coda
    0x0BD0_0BD0, // Lustre
    0x4750_4653, // GPFS
    0x0161_1970, // GFS2
];

/// Whether this directory is on a network file system.
pub(crate) fn is_network(directory: &Path) -> io::Result<bool> {
    let magic = rustix::fs::statfs(directory)?.f_type;
    Ok(NETWORK_TYPES.contains(&as_u32(magic)))
}

/// It is compared as 32 bits: some kernels sign-extend it.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the type is 32 bits wide"
)]
fn as_u32(f_type: i64) -> u32 {
    f_type as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_and_unknown_file_systems_count_as_remote() {
        for (magic, name) in [
            (0x6969_i64, "NFS"),
            (0x517B, "SMB"),
            (0xFF53_4D42, "CIFS"),
            (0xFE53_4D42, "SMB2"),
            (-11_317_950, "CIFS, sign-extended"),
            (0x6573_5546, "FUSE"),
            (0x0102_1997, "9P"),
            (0x5346_414F, "AFS"),
            (0x00C3_6400, "Ceph"),
            (0x7375_7245, "Coda"),
            (0x0BD0_0BD0, "Lustre"),
            (0x4750_4653, "GPFS"),
            (0x0187, "autofs"),
            (0x1234_5678, "unknown"),
        ] {
            assert!(remote_type(magic), "{name}");
        }
        for (magic, name) in [
            (0xEF53_i64, "ext4"),
            (0x0102_1994, "tmpfs"),
            (0x794C_7630, "overlayfs"),
        ] {
            assert!(!remote_type(magic), "{name}");
        }
    }

    #[test]
    fn a_network_file_system_is_no_place_for_a_ledger() {
        assert!(!is_network(Path::new("/")).unwrap());
        for magic in [0x6969_i64, -11_317_950, 0x6573_5546] {
            assert!(NETWORK_TYPES.contains(&as_u32(magic)));
        }
        assert!(
            NETWORK_TYPES
                .iter()
                .all(|magic| !LOCAL_TYPES.contains(magic))
        );
    }
}
