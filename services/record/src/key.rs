//! Keys of recordings: the master key that the appliance hands over, and the key of one container derived from it.
//!
//! What lives here: key material and the AEAD that uses it. What must not: where keys come from, file layout.

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use uuid::Uuid;
use zeroize::Zeroizing;

/// The 32-byte key from which the key of every recording is derived. It comes from the store's root key; whoever has
/// it can read all recordings, so it has neither `Debug` nor a way out.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; 32]>);

impl MasterKey {
    /// Takes over 32 bytes of key material. The caller's copy is the caller's to wipe.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Derives the key of one container: HKDF-SHA256 (RFC 5869) with the container's random salt and its id. The salt
    /// makes a fresh key even if an id is ever used twice, so no nonce can repeat under one key.
    pub(crate) fn container(&self, id: Uuid, salt: &[u8; 32]) -> Result<ContainerKey, CryptoError> {
        let prk = Salt::new(HKDF_SHA256, salt).extract(self.0.as_ref());
        let mut okm = Zeroizing::new([0u8; 32]);
        prk.expand(&[b"gatehouse recording container v1", id.as_bytes()], Len32)
            .and_then(|okm_ref| okm_ref.fill(okm.as_mut()))
            .map_err(|_| CryptoError)?;
        let key = UnboundKey::new(&AES_256_GCM_SIV, okm.as_ref()).map_err(|_| CryptoError)?;
        Ok(ContainerKey(LessSafeKey::new(key)))
    }
}

impl From<Zeroizing<[u8; 32]>> for MasterKey {
    fn from(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }
}

struct Len32;

impl KeyType for Len32 {
    fn len(&self) -> usize {
        32
    }
}

/// A cryptographic operation was refused. On opening: the key is wrong or the bytes were changed; nothing tells which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CryptoError;

/// The AEAD key of one container (AES-256-GCM-SIV, RFC 8452).
pub(crate) struct ContainerKey(LessSafeKey);

impl ContainerKey {
    /// Encrypts `data` in place and returns the tag. `number` must be unique within the container.
    pub(crate) fn seal(&self, number: u64, aad: &[u8], data: &mut [u8]) -> Result<[u8; TAG_LEN], CryptoError> {
        let tag = self.0.seal_in_place_separate_tag(nonce(number), Aad::from(aad), data).map_err(|_| CryptoError)?;
        tag.as_ref().try_into().map_err(|_| CryptoError)
    }

    /// Decrypts `data` (ciphertext followed by its tag) in place and returns the plaintext part.
    pub(crate) fn open<'a>(&self, number: u64, aad: &[u8], data: &'a mut [u8]) -> Result<&'a [u8], CryptoError> {
        self.0.open_in_place(nonce(number), Aad::from(aad), data).map(|plain| &*plain).map_err(|_| CryptoError)
    }
}

/// Length of the authentication tag in bytes.
pub(crate) const TAG_LEN: usize = 16;

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0u8; NONCE_LEN];
    for (to, from) in bytes.iter_mut().rev().zip(number.to_le_bytes()) {
        *to = from;
    }
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_depends_on_master_id_and_salt() {
        let id = Uuid::now_v7();
        let sealed = |master: u8, id: Uuid, salt: u8| {
            let key = MasterKey::new([master; 32]).container(id, &[salt; 32]).unwrap();
            let mut data = *b"the same plaintext";
            let tag = key.seal(7, b"aad", &mut data).unwrap();
            (data, tag)
        };
        let base = sealed(1, id, 1);
        assert_eq!(base, sealed(1, id, 1));
        assert_ne!(base, sealed(2, id, 1));
        assert_ne!(base, sealed(1, Uuid::now_v7(), 1));
        assert_ne!(base, sealed(1, id, 2));
    }

    #[test]
    fn opening_needs_the_same_number_and_associated_data() {
        let key = MasterKey::new([1; 32]).container(Uuid::nil(), &[0; 32]).unwrap();
        let mut data = b"hello".to_vec();
        let tag = key.seal(3, b"aad", &mut data).unwrap();
        data.extend_from_slice(&tag);
        assert_eq!(key.open(3, b"aad", &mut data.clone()), Ok(&b"hello"[..]));
        assert_eq!(key.open(4, b"aad", &mut data.clone()), Err(CryptoError));
        assert_eq!(key.open(3, b"bad", &mut data.clone()), Err(CryptoError));
    }
}
