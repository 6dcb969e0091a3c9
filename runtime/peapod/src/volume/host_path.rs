//! hostPath: what has to be at a path of the node, or is made there.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use super::VolumeError;
use super::error::failed;
use crate::manifest::HostPathType;

/// Whether what is at the path is what the type says; links are followed, as by kubelet.
pub(super) fn check(volume: &str, path: &Path, kind: HostPathType) -> Result<(), VolumeError> {
    let wrong =
        |reason: String| Err(VolumeError::HostPath { volume: volume.to_owned(), path: path.to_owned(), reason });
    let found = match fs::metadata(path) {
        Ok(metadata) => Some(metadata.file_type()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => None,
        Err(error) => return Err(failed("look at", path)(error)),
    };
    let Some(found) = found else {
        return match kind {
            HostPathType::Any | HostPathType::DirectoryOrCreate => Ok(()),
            HostPathType::FileOrCreate if path.parent().is_some_and(Path::is_dir) => Ok(()),
            HostPathType::FileOrCreate => wrong("its directory does not exist".to_owned()),
            _ => wrong("does not exist".to_owned()),
        };
    };
    let (fits, wanted) = match kind {
        HostPathType::Any => (true, ""),
        HostPathType::DirectoryOrCreate | HostPathType::Directory => (found.is_dir(), "a directory"),
        HostPathType::FileOrCreate | HostPathType::File => (found.is_file(), "a file"),
        HostPathType::Socket => (found.is_socket(), "a socket"),
        HostPathType::CharDevice => (found.is_char_device(), "a character device"),
        HostPathType::BlockDevice => (found.is_block_device(), "a block device"),
    };
    if fits { Ok(()) } else { wrong(format!("is not {wanted}")) }
}

/// Makes what the type says to make where nothing is. Without a type that is a directory, as containerd does.
pub(super) fn create(path: &Path, kind: HostPathType) -> Result<(), VolumeError> {
    if path.exists() {
        return Ok(());
    }
    let (made, mode) = match kind {
        HostPathType::Any | HostPathType::DirectoryOrCreate => (fs::create_dir_all(path), 0o755),
        HostPathType::FileOrCreate => (File::create_new(path).map(drop), 0o644),
        _ => return Ok(()),
    };
    made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode))).map_err(failed("make", path))
}
