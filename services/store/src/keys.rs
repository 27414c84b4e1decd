//! Every key of the store, derived from the root key, and the AEAD that uses them. What must not live here: formats.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest, hkdf, hmac,
    rand::{SecureRandom, SystemRandom},
};
use parking_lot::RwLock;
use zeroize::Zeroizing;

use crate::{
    engine::TreeId,
    error::{Result, StoreError},
};

/// Bytes that [`Cipher::seal`] adds: nonce and tag.
pub(crate) const OVERHEAD: usize = NONCE_LEN + 16;

pub(crate) type Hash = [u8; 32];

pub(crate) fn fill_random(out: &mut [u8]) -> Result<()> {
    SystemRandom::new().fill(out).map_err(|_| StoreError::Crypto("the system's randomness is not available"))
}

/// SHA-256 over the concatenation of `parts`.
pub(crate) fn sha256(parts: &[&[u8]]) -> Hash {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// AES-256-GCM-SIV (RFC 8452) under one derived key.
pub(crate) struct Cipher(LessSafeKey);

impl Cipher {
    pub(crate) fn new(key: &[u8; 32]) -> Result<Self> {
        UnboundKey::new(&AES_256_GCM_SIV, key)
            .map(|key| Self(LessSafeKey::new(key)))
            .map_err(|_| StoreError::Crypto("key set-up"))
    }

    /// Appends nonce || ciphertext || tag to `out`, under a random nonce.
    pub(crate) fn seal_into(&self, out: &mut Vec<u8>, aad: &[u8], plain: &[u8]) -> Result<()> {
        let mut nonce = [0; NONCE_LEN];
        fill_random(&mut nonce)?;
        let mut body = Zeroizing::new(plain.to_vec());
        let tag = self
            .0
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), body.as_mut_slice())
            .map_err(|_| StoreError::Crypto("encryption"))?;
        out.reserve(body.len() + OVERHEAD);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&body);
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    pub(crate) fn seal(&self, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(plain.len() + OVERHEAD);
        self.seal_into(&mut out, aad, plain)?;
        Ok(out)
    }

    /// `None` when key, associated data or bytes are not those of sealing.
    pub(crate) fn open(&self, aad: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, body) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut body = Zeroizing::new(body.to_vec());
        let plain =
            self.0.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), body.as_mut_slice()).ok()?.len();
        body.truncate(plain);
        Some(body)
    }
}

/// HMAC-SHA-256 that hides names and keys from the disk.
pub(crate) struct Blind(hmac::Key);

impl Blind {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// 128 bits: enough that no two keys of one store ever meet. Each part is preceded by its length.
    pub(crate) fn tag(&self, parts: &[&[u8]]) -> [u8; 16] {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut out = [0; 16];
        if let Some(half) = context.sign().as_ref().first_chunk::<16>() {
            out = *half;
        }
        out
    }

    pub(crate) fn mac(&self, data: &[u8]) -> Hash {
        let mut out = [0; 32];
        out.copy_from_slice(hmac::sign(&self.0, data).as_ref());
        out
    }

    pub(crate) fn mac_ok(&self, data: &[u8], tag: &[u8]) -> bool {
        hmac::verify(&self.0, data, tag).is_ok()
    }
}

/// What one collection needs: where it is and how it is hidden.
pub(crate) struct KindKeys {
    pub(crate) records: TreeId,
    pub(crate) index: TreeId,
    pub(crate) cipher: Cipher,
    pub(crate) blind: Blind,
}

/// All keys of one store. Each is HKDF-SHA-256 (RFC 5869) of the root key under the store's own salt.
pub(crate) struct KeyRing {
    prk: hkdf::Prk,
    trees: Blind,
    kinds: RwLock<HashMap<&'static str, Arc<KindKeys>>>,
}

impl KeyRing {
    pub(crate) fn new(root: &[u8; 32], salt: &[u8; 32]) -> Result<Self> {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(root);
        let trees = Blind::new(&*expand(&prk, "tree names")?);
        Ok(Self { prk, trees, kinds: RwLock::default() })
    }

    pub(crate) fn derive(&self, purpose: &str) -> Result<Zeroizing<[u8; 32]>> {
        expand(&self.prk, purpose)
    }

    /// A key for another use than the store's own; apart from the store's own purposes whatever its name.
    pub(crate) fn derive_for_others(&self, purpose: &str) -> Result<Zeroizing<[u8; 32]>> {
        self.derive(&format!("for others: {purpose}"))
    }

    pub(crate) fn cipher(&self, purpose: &str) -> Result<Cipher> {
        Cipher::new(&*self.derive(purpose)?)
    }

    pub(crate) fn blind(&self, purpose: &str) -> Result<Blind> {
        Ok(Blind::new(&*self.derive(purpose)?))
    }

    pub(crate) fn tree(&self, name: &str) -> TreeId {
        TreeId(self.trees.tag(&[name.as_bytes()]))
    }

    pub(crate) fn kind(&self, kind: &'static str) -> Result<Arc<KindKeys>> {
        if let Some(keys) = self.kinds.read().get(kind) {
            return Ok(keys.clone());
        }
        let keys = Arc::new(KindKeys {
            records: self.tree(&format!("records {kind}")),
            index: self.tree(&format!("index {kind}")),
            cipher: self.cipher(&format!("records {kind}"))?,
            blind: self.blind(&format!("index {kind}"))?,
        });
        Ok(self.kinds.write().entry(kind).or_insert(keys).clone())
    }
}

fn expand(prk: &hkdf::Prk, purpose: &str) -> Result<Zeroizing<[u8; 32]>> {
    let mut out = Zeroizing::new([0; 32]);
    let info = [b"gatehouse store v1 ".as_slice(), purpose.as_bytes()];
    prk.expand(&info, hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(out.as_mut()))
        .map_err(|_| StoreError::Crypto("key derivation"))?;
    Ok(out)
}

/// A key for one purpose straight from a root key, for what is read before any store is there (backups).
pub(crate) fn derive_once(root: &[u8; 32], salt: &[u8], purpose: &str) -> Result<Zeroizing<[u8; 32]>> {
    expand(&hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(root), purpose)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Lower-case hexadecimal only: each value has one spelling, so that no flipped bit goes unnoticed.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

pub(crate) fn unhex32(text: &str) -> Option<Hash> {
    unhex(text)?.try_into().ok()
}
