//! The life of a sealed directory: set up once, opened at every start, recovered with the words.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{FileSeal, RecoveryKey, RecoveryWrap, Result, RootKey, SealError, disk};

const DESCRIPTION: &str = "seal.json";
pub(crate) const RECOVERY: &str = "recovery.json";
const FORMAT: u32 = 1;
/// Any of these in a directory means that keys or data are there already.
const TRACES: [&str; 5] = [DESCRIPTION, RECOVERY, "root.key", "store.json", "ledger-signing-key"];

/// Binds the root key to something: a file, a TPM's measured state. An implementation keeps its own files in the data
/// directory and must be able to `seal` again over an earlier state (recovery does that).
pub trait Seal: Send + Sync {
    /// The name in `seal.json`, in the configuration and in the ledger; never changes meaning.
    fn method(&self) -> &'static str;
    /// Whether a copy of the disk is useless without this machine.
    fn is_hardware(&self) -> bool;
    /// Durable when it returns.
    fn seal(&self, dir: &Path, root: &RootKey) -> Result<()>;
    fn unseal(&self, dir: &Path) -> Result<RootKey>;
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    format: u32,
    method: String,
}

/// Whether `initialise` has completed here.
pub fn is_initialised(dir: &Path) -> bool {
    dir.join(DESCRIPTION).exists()
}

/// Make a new root key and a recovery key for it. Refuses a directory that holds keys or data. The recovery key exists
/// only in the answer: show it once.
pub fn initialise(dir: &Path, seal: &dyn Seal) -> Result<(RootKey, RecoveryKey)> {
    if let Some(found) = TRACES.into_iter().find(|name| dir.join(name).exists()) {
        return Err(SealError::AlreadyInitialised { dir: dir.to_owned(), found });
    }
    disk::create_dir(dir)?;
    let (root, recovery) = (RootKey::generate()?, RecoveryKey::generate()?);
    let wrap = RecoveryWrap::new(&root, &recovery)?;
    seal.seal(dir, &root)?;
    disk::write_private(dir, RECOVERY, &wrap.to_vec()?)?;
    // Last: only now the directory counts as set up.
    describe(dir, seal.method())?;
    Ok((root, recovery))
}

/// The root key, by the method that `seal.json` names, of those built into this crate.
pub fn open(dir: &Path) -> Result<RootKey> {
    open_with(dir, &[&FileSeal])
}

/// As [`open`], offering the given methods.
pub fn open_with(dir: &Path, seals: &[&dyn Seal]) -> Result<RootKey> {
    let method = sealed_method(dir)?;
    match seals.iter().find(|seal| seal.method() == method) {
        Some(seal) => seal.unseal(dir),
        None => Err(SealError::UnknownMethod { method }),
    }
}

/// The method that seals this directory.
pub fn sealed_method(dir: &Path) -> Result<String> {
    let path = dir.join(DESCRIPTION);
    let bytes = match disk::read(&path) {
        Err(SealError::Missing { .. }) => return Err(SealError::NotInitialised { dir: dir.to_owned() }),
        other => other?,
    };
    let description: Description = serde_json::from_slice(&bytes)
        .map_err(|_| SealError::Damaged { path: path.clone(), what: "it cannot be read" })?;
    if description.format > FORMAT {
        return Err(SealError::TooNew { path, found: description.format });
    }
    Ok(description.method)
}

/// The wrap kept beside the store, to be put into backups too.
pub fn recovery_wrap(dir: &Path) -> Result<RecoveryWrap> {
    let path = dir.join(RECOVERY);
    RecoveryWrap::from_slice(&disk::read(&path)?).map_err(|e| at(path, e))
}

/// Open with the recovery words and seal again (cleared TPM, replaced hardware, lost key file). The recovery key stays
/// the same. Nothing is changed when the words are wrong.
pub fn recover(dir: &Path, words: &str, seal: &dyn Seal) -> Result<RootKey> {
    let recovery = RecoveryKey::from_words(words)?;
    let root = recovery_wrap(dir)?.open(&recovery)?;
    seal.seal(dir, &root)?;
    describe(dir, seal.method())?;
    Ok(root)
}

/// Seal a root key that came from elsewhere (a backup, opened with its recovery words) into a directory that has none,
/// with the wrap it came with.
pub fn install(dir: &Path, root: &RootKey, wrap: &RecoveryWrap, seal: &dyn Seal) -> Result<()> {
    if let Some(found) = [DESCRIPTION, RECOVERY, "root.key"].into_iter().find(|name| dir.join(name).exists()) {
        return Err(SealError::AlreadyInitialised { dir: dir.to_owned(), found });
    }
    seal.seal(dir, root)?;
    disk::write_private(dir, RECOVERY, &wrap.to_vec()?)?;
    describe(dir, seal.method())
}

fn describe(dir: &Path, method: &str) -> Result<()> {
    let description = Description { format: FORMAT, method: method.into() };
    let bytes = serde_json::to_vec_pretty(&description).map_err(|_| SealError::Crypto("encoding"))?;
    disk::write_private(dir, DESCRIPTION, &bytes)
}

fn at(path: PathBuf, e: SealError) -> SealError {
    match e {
        SealError::Damaged { what, .. } => SealError::Damaged { path, what },
        SealError::TooNew { found, .. } => SealError::TooNew { path, found },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Stands in for hardware whose state was cleared.
    struct Cleared;

    impl Seal for Cleared {
        fn method(&self) -> &'static str {
            "cleared"
        }

        fn is_hardware(&self) -> bool {
            true
        }

        fn seal(&self, _: &Path, _: &RootKey) -> Result<()> {
            Ok(())
        }

        fn unseal(&self, _: &Path) -> Result<RootKey> {
            Err(SealError::Crypto("pcr policy"))
        }
    }

    #[test]
    fn set_up_once_open_often_recover_with_the_words() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("data");
        assert!(matches!(open(&dir), Err(SealError::NotInitialised { .. })));
        let (root, recovery) = initialise(&dir, &FileSeal).unwrap();
        assert!(open(&dir).unwrap().as_bytes() == root.as_bytes());
        assert!(matches!(initialise(&dir, &FileSeal), Err(SealError::AlreadyInitialised { .. })));

        fs::remove_file(dir.join("root.key")).unwrap();
        assert!(matches!(open(&dir), Err(SealError::Missing { .. })));
        let other = RecoveryKey::generate().unwrap().words().unwrap();
        assert!(matches!(recover(&dir, &other, &FileSeal), Err(SealError::NotThisBox)));
        assert!(!dir.join("root.key").exists(), "wrong words change nothing");
        let words = recovery.words().unwrap();
        assert!(recover(&dir, &words, &FileSeal).unwrap().as_bytes() == root.as_bytes());
        assert!(open(&dir).unwrap().as_bytes() == root.as_bytes());
    }

    #[test]
    fn a_set_up_that_did_not_finish_is_not_overwritten() {
        let tmp = tempfile::tempdir().unwrap();
        fs::write(tmp.path().join("store.json"), "{}").unwrap();
        let refused = initialise(tmp.path(), &FileSeal);
        assert!(matches!(refused, Err(SealError::AlreadyInitialised { found: "store.json", .. })));
        assert!(!is_initialised(tmp.path()));
    }

    #[test]
    fn another_method_is_named_and_recovery_moves_to_a_new_one() {
        let tmp = tempfile::tempdir().unwrap();
        let (root, recovery) = initialise(tmp.path(), &Cleared).unwrap();
        assert!(matches!(open(tmp.path()), Err(SealError::UnknownMethod { method }) if method == "cleared"));
        assert!(open_with(tmp.path(), &[&FileSeal, &Cleared]).is_err());
        recover(tmp.path(), &recovery.words().unwrap(), &FileSeal).unwrap();
        assert_eq!(sealed_method(tmp.path()).unwrap(), "file");
        assert!(open(tmp.path()).unwrap().as_bytes() == root.as_bytes());
    }

    #[test]
    fn damage_of_each_file_is_said_with_its_name() {
        let tmp = tempfile::tempdir().unwrap();
        initialise(tmp.path(), &FileSeal).unwrap();
        for name in ["seal.json", "recovery.json", "root.key"] {
            let path = tmp.path().join(name);
            let good = fs::read(&path).unwrap();
            fs::write(&path, &good[..good.len() / 2]).unwrap();
            let e = match name {
                "recovery.json" => recovery_wrap(tmp.path()).err().unwrap(),
                _ => open(tmp.path()).err().unwrap(),
            };
            assert!(matches!(&e, SealError::Damaged { path: p, .. } if *p == path), "{name}: {e}");
            fs::write(&path, &good).unwrap();
        }
    }
}
