//! The key that signs the ledger's checkpoints on a box without a TPM, with a counter that only goes up.
//!
//! Both files are bound to the root key: the key is encrypted under it, the counter authenticated. What this cannot do,
//! and a TPM can: notice that the whole disk was put back to an earlier state.

use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use zeroize::Zeroizing;

use crate::{Result, RootKey, SealError, crypto, disk};

const KEY: &str = "ledger-signing-key";
const COUNTER: &str = "ledger-counter";
const KEY_MAGIC: &[u8; 8] = b"GHSIGN1\n";
const COUNTER_MAGIC: &[u8; 8] = b"GHCOUN1\n";

/// Ed25519 (RFC 8032) key and monotonic counter in files of the data directory.
pub struct FileSigner {
    dir: PathBuf,
    pair: Ed25519KeyPair,
    counter_key: Zeroizing<[u8; 32]>,
    /// Held while counting, so that two callers never get the same number.
    counter: std::sync::Mutex<u64>,
}

impl FileSigner {
    /// Make a key and a counter at zero. Refuses to replace an existing one.
    pub fn create(dir: &Path, root: &RootKey) -> Result<Self> {
        if let Some(found) = [KEY, COUNTER].into_iter().find(|name| dir.join(name).exists()) {
            return Err(SealError::AlreadyInitialised { dir: dir.to_owned(), found });
        }
        let mut seed = Zeroizing::new([0; 32]);
        crypto::fill_random(seed.as_mut())?;
        let mut file = KEY_MAGIC.to_vec();
        file.extend_from_slice(&crypto::seal(&*key_key(root)?, KEY_MAGIC, seed.as_ref())?);
        let check = crypto::sha256(&file);
        file.extend_from_slice(&check);
        // The counter first: a key without its counter would be refused for ever.
        write_counter(dir, &*counter_key(root)?, 0)?;
        disk::write_private(dir, KEY, &file)?;
        Self::open(dir, root)
    }

    pub fn open(dir: &Path, root: &RootKey) -> Result<Self> {
        let path = dir.join(KEY);
        let file = disk::read_private(&path)?;
        let damaged = |what| SealError::Damaged { path: path.clone(), what };
        let (body, check) = file.split_last_chunk::<32>().ok_or_else(|| damaged("it is too short"))?;
        if *check != crypto::sha256(body) {
            return Err(damaged("its checksum does not match"));
        }
        let sealed = body.strip_prefix(KEY_MAGIC).ok_or_else(|| damaged("it does not begin like a signing key"))?;
        let seed = crypto::unseal(&*key_key(root)?, KEY_MAGIC, sealed)?
            .ok_or_else(|| SealError::WrongKey { path: path.clone() })?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| damaged("it holds no ed25519 key"))?;
        let counter_key = counter_key(root)?;
        let counter = read_counter(dir, &counter_key)?;
        Ok(Self { dir: dir.to_owned(), pair, counter_key, counter: std::sync::Mutex::new(counter) })
    }

    /// Opens the key, or makes one when neither key nor counter is there.
    pub fn open_or_create(dir: &Path, root: &RootKey) -> Result<Self> {
        match [KEY, COUNTER].into_iter().any(|name| dir.join(name).exists()) {
            true => Self::open(dir, root),
            false => Self::create(dir, root),
        }
    }

    /// The 32 bytes of RFC 8032.
    pub fn public_key(&self) -> Vec<u8> {
        self.pair.public_key().as_ref().to_vec()
    }

    /// The first 16 hexadecimal digits of the public key's SHA-256: names the key in checkpoints.
    pub fn key_id(&self) -> String {
        let digest = crypto::sha256(self.pair.public_key().as_ref());
        data_encoding::HEXLOWER.encode(digest.get(..8).unwrap_or_default())
    }

    /// 64 bytes, Ed25519.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }

    /// The number that was given out last; 0 before the first.
    pub fn counter(&self) -> u64 {
        *self.counter.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The next number, on the disk before it is returned. Never the same number twice.
    pub fn next_counter(&self) -> Result<u64> {
        let mut counter = self.counter.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let next = counter.checked_add(1).ok_or(SealError::Crypto("counter is used up"))?;
        write_counter(&self.dir, &self.counter_key, next)?;
        *counter = next;
        Ok(next)
    }
}

fn key_key(root: &RootKey) -> Result<Zeroizing<[u8; 32]>> {
    crypto::derive(root.as_bytes(), "ledger signing key")
}

fn counter_key(root: &RootKey) -> Result<Zeroizing<[u8; 32]>> {
    crypto::derive(root.as_bytes(), "ledger counter")
}

fn write_counter(dir: &Path, key: &[u8; 32], value: u64) -> Result<()> {
    let mut bytes = COUNTER_MAGIC.to_vec();
    bytes.extend_from_slice(&value.to_be_bytes());
    let tag = crypto::mac(key, &bytes);
    bytes.extend_from_slice(&tag);
    disk::write_private(dir, COUNTER, &bytes)
}

fn read_counter(dir: &Path, key: &[u8; 32]) -> Result<u64> {
    let path = dir.join(COUNTER);
    let bytes = disk::read_private(&path)?;
    let damaged = |what| SealError::Damaged { path: path.clone(), what };
    let (body, tag) = bytes.split_last_chunk::<32>().ok_or_else(|| damaged("it is too short"))?;
    if !crypto::mac_ok(key, body, tag) {
        return Err(damaged("its authentication code does not match"));
    }
    let value = body.strip_prefix(COUNTER_MAGIC).ok_or_else(|| damaged("it does not begin like a counter"))?;
    Ok(u64::from_be_bytes(value.try_into().map_err(|_| damaged("it has a wrong length"))?))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    #[test]
    fn signatures_verify_and_the_counter_survives_a_restart() {
        let tmp = tempfile::tempdir().unwrap();
        let root = RootKey::generate().unwrap();
        let signer = FileSigner::open_or_create(tmp.path(), &root).unwrap();
        let signature = signer.sign(b"head");
        UnparsedPublicKey::new(&ED25519, signer.public_key()).verify(b"head", &signature).unwrap();
        assert_eq!((signer.next_counter().unwrap(), signer.next_counter().unwrap()), (1, 2));
        let again = FileSigner::open_or_create(tmp.path(), &root).unwrap();
        assert_eq!((again.public_key(), again.key_id()), (signer.public_key(), signer.key_id()));
        assert_eq!((again.counter(), again.next_counter().unwrap()), (2, 3));
        assert!(FileSigner::create(tmp.path(), &root).is_err(), "never replaces a key");
    }

    #[test]
    fn another_root_key_and_damage_are_told_apart() {
        let tmp = tempfile::tempdir().unwrap();
        let root = RootKey::generate().unwrap();
        drop(FileSigner::create(tmp.path(), &root).unwrap());
        let other = FileSigner::open(tmp.path(), &RootKey::generate().unwrap());
        assert!(matches!(other, Err(SealError::WrongKey { .. })));
        for name in [KEY, COUNTER] {
            let path = tmp.path().join(name);
            let good = fs::read(&path).unwrap();
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 1;
                fs::write(&path, bad).unwrap();
                let opened = FileSigner::open(tmp.path(), &root);
                assert!(matches!(opened, Err(SealError::Damaged { .. })), "{name} flipped at {at}");
            }
            fs::remove_file(&path).unwrap();
            let opened = FileSigner::open_or_create(tmp.path(), &root);
            assert!(matches!(opened, Err(SealError::Missing { .. })), "{name} missing is not a fresh start");
            fs::write(&path, good).unwrap();
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        }
        FileSigner::open(tmp.path(), &root).unwrap();
    }
}
