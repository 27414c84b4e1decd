//! Keys of a closed store, for the offline commands: the same derivation as [`crate::Store::derive_key`], without taking the
//! data directory's lock, so that recordings can be checked beside a running daemon.

use std::path::Path;

use zeroize::Zeroizing;

use crate::error::{Result, StoreError};
use crate::meta;

/// The key that `Store::derive_key(purpose)` gives for the store in `dir`. Reads only.
///
/// # Errors
/// A wrong root key, or no store in `dir`.
pub fn derive_key(dir: &Path, root: &[u8; 32], purpose: &str) -> Result<Zeroizing<[u8; 32]>> {
    let ring = meta::load(dir, root)?
        .ok_or_else(|| StoreError::corrupt(dir.display().to_string(), "there is no store in this directory"))?;
    ring.derive_for_others(purpose)
}
