//! The root key itself: 32 bytes that wipe themselves and that nothing can print.

use zeroize::Zeroizing;

use crate::{Result, crypto};

/// The key from which every other key of a box is derived. No `Debug`, no `Display`, wiped when dropped.
#[derive(Clone)]
pub struct RootKey(Zeroizing<[u8; 32]>);

impl RootKey {
    /// A new key from the operating system's randomness.
    pub fn generate() -> Result<Self> {
        let mut key = Self(Zeroizing::new([0; 32]));
        crypto::fill_random(key.0.as_mut())?;
        Ok(key)
    }

    /// Takes 32 bytes that are a root key already. The caller wipes its own copy.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(Zeroizing::new(*bytes))
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}
