//! The few primitives that seals need, over aws-lc-rs. What must not live here: formats of files.

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf, hmac,
    rand::{SecureRandom, SystemRandom},
};
use zeroize::Zeroizing;

use crate::{Result, SealError};

/// Bytes that sealing adds to a plaintext: nonce and tag.
pub(crate) const OVERHEAD: usize = NONCE_LEN + 16;

pub(crate) fn fill_random(out: &mut [u8]) -> Result<()> {
    SystemRandom::new().fill(out).map_err(|_| SealError::Randomness)
}

/// A 32-byte key for one purpose (HKDF-SHA-256, RFC 5869).
pub(crate) fn derive(secret: &[u8], purpose: &str) -> Result<Zeroizing<[u8; 32]>> {
    let mut out = Zeroizing::new([0; 32]);
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"gatehouse seal v1").extract(secret);
    let info = [purpose.as_bytes()];
    let okm = prk.expand(&info, hkdf::HKDF_SHA256).map_err(|_| SealError::Crypto("key derivation"))?;
    okm.fill(out.as_mut()).map_err(|_| SealError::Crypto("key derivation"))?;
    Ok(out)
}

fn cipher(key: &[u8; 32]) -> Result<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM_SIV, key).map(LessSafeKey::new).map_err(|_| SealError::Crypto("key set-up"))
}

/// nonce || ciphertext || tag, AES-256-GCM-SIV (RFC 8452) under a random nonce.
pub(crate) fn seal(key: &[u8; 32], aad: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
    let mut nonce = [0; NONCE_LEN];
    fill_random(&mut nonce)?;
    let mut out = Vec::with_capacity(plain.len() + OVERHEAD);
    out.extend_from_slice(&nonce);
    let mut body = Zeroizing::new(plain.to_vec());
    let tag = cipher(key)?
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), body.as_mut_slice())
        .map_err(|_| SealError::Crypto("encryption"))?;
    out.extend_from_slice(&body);
    out.extend_from_slice(tag.as_ref());
    Ok(out)
}

/// The reverse of [`seal`]; `None` when the key, the associated data or the bytes are not those of sealing.
pub(crate) fn unseal(key: &[u8; 32], aad: &[u8], sealed: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let Some((nonce, body)) = sealed.split_first_chunk::<NONCE_LEN>() else { return Ok(None) };
    let mut body = Zeroizing::new(body.to_vec());
    let opened = cipher(key)?.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), body.as_mut_slice());
    let Ok(plain) = opened.map(|plain| plain.len()) else { return Ok(None) };
    body.truncate(plain);
    Ok(Some(body))
}

pub(crate) fn mac(key: &[u8; 32], data: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data);
    out.copy_from_slice(tag.as_ref());
    out
}

/// Compares in constant time.
pub(crate) fn mac_ok(key: &[u8; 32], data: &[u8], tag: &[u8]) -> bool {
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, key), data, tag).is_ok()
}

pub(crate) fn sha256(data: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, data).as_ref());
    out
}
