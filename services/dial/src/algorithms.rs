//! Which SSH algorithms we offer to assets, in which order.
//!
//! The modern list is OpenSSH's own order of key exchanges without the NTRU hybrid that russh does not have. The cipher
//! order depends on the CPU: with AES instructions AES-GCM moves almost twice as much as ChaCha20. The legacy list is only
//! for assets whose platform says so; it *appends*, so that a modern server is never talked down by it.
//! `ssh-dss` is not offered: the SSH library was built without DSA, and 1024 bit DSA proves nothing any more.

use std::borrow::Cow;

use russh::keys::{Algorithm, EcdsaCurve, HashAlg};
use russh::{Preferred, cipher, compression, kex, mac};

/// True when the CPU has AES and carry-less multiplication, i.e. AES-GCM is the fastest cipher.
pub fn cpu_prefers_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    {
        std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
    }
    #[cfg(target_arch = "aarch64")]
    {
        std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull")
    }
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    {
        false
    }
}

const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::ECDH_SHA2_NISTP256,
    kex::ECDH_SHA2_NISTP384,
    kex::ECDH_SHA2_NISTP521,
    // Group exchange costs one more round trip, so the fixed groups go first.
    kex::DH_G16_SHA512,
    kex::DH_G18_SHA512,
    kex::DH_G14_SHA256,
    kex::DH_GEX_SHA256,
];
const KEX_LEGACY: &[kex::Name] = &[kex::DH_G14_SHA1, kex::DH_GEX_SHA1, kex::DH_G1_SHA1];
const KEX_EXTENSIONS: &[kex::Name] = &[kex::EXTENSION_SUPPORT_AS_CLIENT, kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT];
const CIPHERS_AES_FIRST: &[cipher::Name] = &[
    cipher::AES_256_GCM,
    cipher::AES_128_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
];
const CIPHERS_CHACHA_FIRST: &[cipher::Name] = &[
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_GCM,
    cipher::AES_128_GCM,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
];
const CIPHERS_LEGACY: &[cipher::Name] =
    &[cipher::AES_256_CBC, cipher::AES_192_CBC, cipher::AES_128_CBC, cipher::TRIPLE_DES_CBC];
const MACS: &[mac::Name] = &[mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM, mac::HMAC_SHA256, mac::HMAC_SHA512];
const MACS_LEGACY: &[mac::Name] = &[mac::HMAC_SHA1_ETM, mac::HMAC_SHA1];
// Compressing what is already encrypted end to end costs CPU, and decompression of hostile input is a risk.
const COMPRESSION: &[compression::Name] = &[compression::NONE];

const HOST_KEYS: &[Algorithm] = &[
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
    Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
    Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
];

/// The lists for one connection. `pinned` are algorithms of host keys that we already know for this host; they go
/// first, as in OpenSSH, so that a host with several keys shows the one that we can recognise.
pub(crate) fn preferred(legacy: bool, pinned: &[String]) -> Preferred {
    let mut kex = KEX.to_vec();
    let mut ciphers = if cpu_prefers_aes() { CIPHERS_AES_FIRST } else { CIPHERS_CHACHA_FIRST }.to_vec();
    let mut macs = MACS.to_vec();
    let mut keys = HOST_KEYS.to_vec();
    if legacy {
        kex.extend_from_slice(KEX_LEGACY);
        ciphers.extend_from_slice(CIPHERS_LEGACY);
        macs.extend_from_slice(MACS_LEGACY);
        keys.push(Algorithm::Rsa { hash: None });
    }
    kex.extend_from_slice(KEX_EXTENSIONS);
    // A stable sort: known ones first, otherwise our order. An RSA key is pinned as `ssh-rsa` whatever hash signs.
    keys.sort_by_key(|algorithm| !pinned.iter().any(|p| same_key_type(p, algorithm)));
    Preferred {
        kex: Cow::Owned(kex),
        key: Cow::Owned(keys),
        host_key_certificates: Cow::Borrowed(&[]),
        cipher: Cow::Owned(ciphers),
        mac: Cow::Owned(macs),
        compression: Cow::Borrowed(COMPRESSION),
    }
}

fn same_key_type(pinned: &str, algorithm: &Algorithm) -> bool {
    match algorithm {
        Algorithm::Rsa { .. } => matches!(pinned, "ssh-rsa" | "rsa-sha2-256" | "rsa-sha2-512"),
        other => other.as_str() == pinned,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names<T: AsRef<str>>(list: &[T]) -> Vec<String> {
        list.iter().map(|n| n.as_ref().to_owned()).collect()
    }

    #[test]
    fn old_algorithms_are_off_unless_asked_for() {
        let p = preferred(false, &[]);
        let all = [names(&p.kex), names(&p.cipher), names(&p.mac), names(&p.key)].concat();
        assert!(
            all.iter().all(|n| !n.ends_with("sha1") && !n.contains("sha1-") && !n.contains("cbc") && n != "ssh-rsa")
        );
        let p = preferred(true, &[]);
        let all = [names(&p.kex), names(&p.cipher), names(&p.mac), names(&p.key)].concat();
        for old in [
            "diffie-hellman-group1-sha1",
            "diffie-hellman-group14-sha1",
            "aes128-cbc",
            "3des-cbc",
            "hmac-sha1",
            "ssh-rsa",
        ] {
            assert!(all.iter().any(|n| n == old), "{old} missing");
        }
    }

    #[test]
    fn legacy_only_appends() {
        let (modern, legacy) = (preferred(false, &[]), preferred(true, &[]));
        assert!(names(&legacy.cipher).starts_with(&names(&modern.cipher)));
        assert!(names(&legacy.mac).starts_with(&names(&modern.mac)));
    }

    #[test]
    fn a_pinned_key_type_is_asked_for_first() {
        let p = preferred(false, &["ssh-rsa".into()]);
        assert_eq!(names(&p.key)[..3], ["rsa-sha2-512", "rsa-sha2-256", "ssh-ed25519"]);
    }
}
