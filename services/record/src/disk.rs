//! The few operations on disk that writing needs, behind a trait so that tests can make them slow or fail.
//!
//! What lives here: creating, appending, syncing. What must not: formats, threads, policy.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// An open file that only grows. Shared between the thread that writes and the one that syncs.
pub(crate) trait Sink: Send + Sync {
    /// Appends all bytes.
    fn append(&self, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was appended survive power loss.
    fn sync(&self) -> io::Result<()>;
    /// The same for every file on this file system, in one go.
    fn sync_filesystem(&self) -> io::Result<()>;
}

/// Where containers are created.
pub(crate) trait Disk: Send + Sync {
    /// Creates a new file with its directory; fails if it exists.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn Sink>>;
    /// Makes the directory entries of `path` survive power loss: of the file in its directory, and of that in its.
    fn sync_entry(&self, path: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The real one.
pub(crate) struct LocalDisk;

impl Sink for File {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut file = self;
        file.write_all(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn sync_filesystem(&self) -> io::Result<()> {
        nix::unistd::syncfs(self).map_err(io::Error::from)
    }
}

impl Disk for LocalDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn Sink>> {
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
        Ok(Arc::new(file))
    }

    fn sync_entry(&self, path: &Path) -> io::Result<()> {
        for dir in path.ancestors().skip(1).take(2) {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }
}
