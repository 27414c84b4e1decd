//! Files that hold keys: private, written whole or not at all, and on the disk before anybody is told so.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use zeroize::Zeroizing;

use crate::{Result, SealError};

/// No file of this crate is larger; a larger one is not ours and is not read into memory.
const MAX_FILE: u64 = 64 * 1024;

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> SealError {
    let path = path.to_owned();
    move |source| SealError::Io { what, path, source }
}

/// Write `bytes` to `dir/name`, mode 0600, by way of a temporary file: after a crash the old or the new content is
/// there, never a mixture.
pub(crate) fn write_private(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = dir.join(name);
    let temporary = dir.join(format!(".{name}.new"));
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io("replace", &temporary)(e)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(io("create", &temporary))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(e) = written {
        // Leaves nothing half-written behind on a full disk; the failure that matters is the first one.
        let _ = fs::remove_file(&temporary);
        return Err(io("write", &temporary)(e));
    }
    fs::rename(&temporary, &path).map_err(io("replace", &path))?;
    sync_dir(dir)
}

pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(io("sync", dir))
}

/// The whole content of a private file; refuses one that other users of the machine may read.
pub(crate) fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let bytes = read(path)?;
    let mode = fs::metadata(path).map_err(io("read", path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SealError::Exposed { path: path.to_owned(), mode });
    }
    Ok(bytes)
}

pub(crate) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(SealError::Missing { path: path.to_owned() });
        }
        Err(e) => return Err(io("open", path)(e)),
    };
    let length = file.metadata().map_err(io("read", path))?.len();
    if length > MAX_FILE {
        return Err(SealError::Damaged { path: path.to_owned(), what: "it is far too long" });
    }
    // Reserved up front: growing would leave copies of a key in freed memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1));
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(io("read", path))?;
    Ok(bytes)
}

pub(crate) fn create_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(io("create", dir))
}
