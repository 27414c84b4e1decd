//! The seal of development and of boxes without a TPM: the root key in a file that only the daemon may read.
//! Whoever copies the disk has the key, which is why status pages say so in red.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::{Result, RootKey, Seal, SealError, crypto, disk};

const NAME: &str = "root.key";
/// Format 1: magic, key, SHA-256 of both. The checksum tells damage from a key of another box.
const MAGIC: &[u8; 8] = b"GHROOT1\n";

/// Keeps the root key in `DIR/root.key`, mode 0600.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileSeal;

impl FileSeal {
    pub const METHOD: &'static str = "file";

    fn path(dir: &Path) -> PathBuf {
        dir.join(NAME)
    }
}

impl Seal for FileSeal {
    fn method(&self) -> &'static str {
        Self::METHOD
    }

    fn is_hardware(&self) -> bool {
        false
    }

    fn seal(&self, dir: &Path, root: &RootKey) -> Result<()> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(72));
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(root.as_bytes());
        let check = crypto::sha256(&bytes);
        bytes.extend_from_slice(&check);
        disk::write_private(dir, NAME, &bytes)
    }

    fn unseal(&self, dir: &Path) -> Result<RootKey> {
        let path = Self::path(dir);
        let bytes = disk::read_private(&path)?;
        let damaged = |what| SealError::Damaged { path: path.clone(), what };
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| damaged("it does not begin like a key file"))?;
        let (key, check) = rest.split_first_chunk::<32>().ok_or_else(|| damaged("it is too short"))?;
        let signed = bytes.get(..MAGIC.len() + 32).ok_or_else(|| damaged("it is too short"))?;
        if check != crypto::sha256(signed) {
            return Err(damaged("its checksum does not match"));
        }
        Ok(RootKey::from_bytes(key))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn the_key_comes_back_and_the_file_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let root = RootKey::generate().unwrap();
        FileSeal.seal(dir.path(), &root).unwrap();
        assert!(FileSeal.unseal(dir.path()).unwrap().as_bytes() == root.as_bytes());
        let mode = fs::metadata(FileSeal::path(dir.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn every_flipped_byte_and_every_truncation_is_damage_not_another_key() {
        let dir = tempfile::tempdir().unwrap();
        FileSeal.seal(dir.path(), &RootKey::generate().unwrap()).unwrap();
        let path = FileSeal::path(dir.path());
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            fs::write(&path, &bad).unwrap();
            assert!(matches!(FileSeal.unseal(dir.path()), Err(SealError::Damaged { .. })), "flip at {at}");
            fs::write(&path, &good[..at]).unwrap();
            assert!(matches!(FileSeal.unseal(dir.path()), Err(SealError::Damaged { .. })), "cut at {at}");
        }
        fs::write(&path, [good.as_slice(), b"x"].concat()).unwrap();
        assert!(matches!(FileSeal.unseal(dir.path()), Err(SealError::Damaged { .. })));
    }

    #[test]
    fn a_key_file_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        FileSeal.seal(dir.path(), &RootKey::generate().unwrap()).unwrap();
        fs::set_permissions(FileSeal::path(dir.path()), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(FileSeal.unseal(dir.path()), Err(SealError::Exposed { mode: 0o640, .. })));
    }
}
