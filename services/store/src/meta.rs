//! `store.json`: format of the store, the salt of its keys, and the check that tells a wrong root key from damage.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Result, StoreError},
    files,
    keys::{self, KeyRing},
};

pub(crate) const NAME: &str = "store.json";
/// A restore that was cut short leaves this; such a directory is never opened.
pub(crate) const RESTORING: &str = "restoring";
/// There from the first step of making a store to the moment before it takes its first change.
const SETTING_UP: &str = "setting-up";
const FORMAT: u32 = 1;
const PROOF: &[u8] = b"this root key opens this store";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    format: u32,
    salt: String,
    /// A known text under a key derived from root key and salt.
    key_check: String,
    /// SHA-256 over the other fields.
    checksum: String,
}

impl Meta {
    fn sum(&self) -> String {
        let text = format!("{} {} {}", self.format, self.salt, self.key_check);
        keys::hex(&keys::sha256(&[text.as_bytes()]))
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

/// A store is about to be made here. Until `finish` nothing in it was acknowledged to anybody.
pub(crate) fn begin(dir: &Path) -> Result<()> {
    files::write_atomic(&dir.join(SETTING_UP), b"", true)
}

/// Whether making the store was cut short.
pub(crate) fn is_unfinished(dir: &Path) -> bool {
    dir.join(SETTING_UP).exists()
}

pub(crate) fn finish(dir: &Path) -> Result<()> {
    let path = dir.join(SETTING_UP);
    if !path.exists() {
        return Ok(());
    }
    std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
    files::sync_dir(dir)
}

/// Make the keys of a new store.
pub(crate) fn create(dir: &Path, root: &[u8; 32], sync: bool) -> Result<KeyRing> {
    let mut salt = [0; 32];
    keys::fill_random(&mut salt)?;
    let ring = KeyRing::new(root, &salt)?;
    let key_check = keys::hex(&ring.cipher("key check")?.seal(&salt, PROOF)?);
    let mut meta = Meta { format: FORMAT, salt: keys::hex(&salt), key_check, checksum: String::new() };
    meta.checksum = meta.sum();
    let bytes =
        serde_json::to_vec_pretty(&meta).map_err(|e| StoreError::Encode { what: NAME.into(), why: e.to_string() })?;
    files::write_atomic(&path(dir), &bytes, sync)?;
    Ok(ring)
}

/// The keys of the store in `dir`; `None` when there is no store.
pub(crate) fn load(dir: &Path, root: &[u8; 32]) -> Result<Option<KeyRing>> {
    if dir.join(RESTORING).exists() {
        return Err(StoreError::corrupt(
            dir.display().to_string(),
            "a restore into this directory did not finish; empty it and restore again",
        ));
    }
    let path = path(dir);
    let Some(bytes) = files::read_small(&path, 64 * 1024)? else { return Ok(None) };
    parse(&path, &bytes, root).map(Some)
}

/// Also used on the copy inside a backup, before anything is written.
pub(crate) fn parse(path: &Path, bytes: &[u8], root: &[u8; 32]) -> Result<KeyRing> {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let corrupt = |what: &str| StoreError::corrupt(path.display().to_string(), what);
    let version: Version = serde_json::from_slice(bytes).map_err(|_| corrupt("it cannot be read"))?;
    if version.format > FORMAT {
        return Err(StoreError::TooNew { what: "the store".into(), found: version.format, known: FORMAT });
    }
    let meta: Meta = serde_json::from_slice(bytes).map_err(|_| corrupt("it cannot be read"))?;
    if meta.checksum != meta.sum() {
        return Err(corrupt("its checksum does not match"));
    }
    let salt = keys::unhex32(&meta.salt).ok_or_else(|| corrupt("its salt cannot be read"))?;
    let check = keys::unhex(&meta.key_check).ok_or_else(|| corrupt("its key check cannot be read"))?;
    let ring = KeyRing::new(root, &salt)?;
    match ring.cipher("key check")?.open(&salt, &check) {
        Some(proof) if proof.as_slice() == PROOF => Ok(ring),
        _ => Err(StoreError::WrongKey),
    }
}
