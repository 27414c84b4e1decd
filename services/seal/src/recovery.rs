//! The recovery key: 256 random bits that a person keeps on paper, and the wrap of the root key that they open.
//!
//! As words: 24 of BIP-39's English list, which carry 8 bits of checksum, so that a slip of the pen is told apart from
//! the key of another box.

use argon2::{Algorithm, Argon2, Params, Version};
use bip39::{Language, Mnemonic};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{Result, RootKey, SealError, crypto};

const WORDS: usize = 24;
const FORMAT: u32 = 1;

/// 256 bits that open a [`RecoveryWrap`]. Shown once; no `Debug`, wiped when dropped.
pub struct RecoveryKey(Zeroizing<[u8; 32]>);

impl RecoveryKey {
    pub fn generate() -> Result<Self> {
        let mut key = Self(Zeroizing::new([0; 32]));
        crypto::fill_random(key.0.as_mut())?;
        Ok(key)
    }

    /// 24 words, separated by single blanks.
    pub fn words(&self) -> Result<Zeroizing<String>> {
        let mnemonic = Zeroizing::new(self.mnemonic()?);
        let mut out = Zeroizing::new(String::with_capacity(WORDS * 9));
        for word in mnemonic.words() {
            if !out.is_empty() {
                out.push(' ');
            }
            out.push_str(word);
        }
        Ok(out)
    }

    /// What a person typed: any case, any white space, commas and line numbers such as `3.` are forgiven.
    pub fn from_words(typed: &str) -> Result<Self> {
        let mut clean = Zeroizing::new(String::with_capacity(typed.len().min(4096)));
        let mut count = 0_usize;
        for word in typed.split(|c: char| c.is_whitespace() || c == ',') {
            let word = word.trim_matches(|c: char| c.is_ascii_digit() || c == '.' || c == ')');
            if word.is_empty() {
                continue;
            }
            count += 1;
            if count > WORDS * 4 {
                break;
            }
            if !clean.is_empty() {
                clean.push(' ');
            }
            clean.extend(word.chars().flat_map(char::to_lowercase));
        }
        if count != WORDS {
            return Err(SealError::WordCount(count));
        }
        let mnemonic = Mnemonic::parse_in_normalized(Language::English, &clean).map_err(|e| match e {
            bip39::Error::UnknownWord(at) => {
                SealError::UnknownWord { position: at + 1, suggestion: clean.split(' ').nth(at).and_then(suggestion) }
            }
            bip39::Error::BadWordCount(n) => SealError::WordCount(n),
            _ => SealError::WordChecksum,
        })?;
        let mnemonic = Zeroizing::new(mnemonic);
        let (entropy, length) = mnemonic.to_entropy_array();
        let entropy = Zeroizing::new(entropy);
        match entropy.first_chunk::<32>() {
            Some(bits) if length == 32 => Ok(Self(Zeroizing::new(*bits))),
            _ => Err(SealError::WordCount(count)),
        }
    }

    /// The words as a QR code of half-block characters, for a terminal with a dark background.
    pub fn qr(&self) -> Result<Zeroizing<String>> {
        let words = self.words()?;
        let code = qrcode::QrCode::new(words.as_bytes()).map_err(|_| SealError::Crypto("qr code"))?;
        let picture = code
            .render::<qrcode::render::unicode::Dense1x2>()
            .dark_color(qrcode::render::unicode::Dense1x2::Light)
            .light_color(qrcode::render::unicode::Dense1x2::Dark)
            .build();
        Ok(Zeroizing::new(picture))
    }

    fn mnemonic(&self) -> Result<Mnemonic> {
        Mnemonic::from_entropy_in(Language::English, self.0.as_ref()).map_err(|_| SealError::Crypto("recovery words"))
    }
}

/// The word of the list that shares the longest beginning with what was typed: four letters tell all words apart.
fn suggestion(typed: &str) -> Option<&'static str> {
    (3..=typed.chars().count().min(8)).rev().find_map(|n| {
        let end = typed.char_indices().nth(n).map_or(typed.len(), |(at, _)| at);
        Language::English.words_by_prefix_iter(typed.get(..end)?).next()
    })
}

/// The root key, encrypted under a key derived from the recovery key. Public by nature: it is kept beside the store and
/// in the header of every backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoveryWrap {
    format: u32,
    kdf: String,
    /// Argon2 memory in KiB.
    memory_kib: u32,
    iterations: u32,
    lanes: u32,
    salt: String,
    wrapped: String,
    /// SHA-256 over the other fields: damage is told apart from the wrong recovery key.
    check: String,
}

impl RecoveryWrap {
    const KDF: &'static str = "argon2id";
    const MEMORY_KIB: u32 = 64 * 1024;
    const ITERATIONS: u32 = 3;
    const LANES: u32 = 1;
    /// A file may not ask for more than this: it is read before anything is trusted.
    const MAX_MEMORY_KIB: u32 = 1024 * 1024;
    const MAX_ITERATIONS: u32 = 32;
    const MAX_LANES: u32 = 16;

    /// Wrap `root` so that `recovery` opens it. Takes about 0.2 s and 64 MiB, by intention.
    pub fn new(root: &RootKey, recovery: &RecoveryKey) -> Result<Self> {
        let mut salt = [0; 32];
        crypto::fill_random(&mut salt)?;
        let mut wrap = Self {
            format: FORMAT,
            kdf: Self::KDF.into(),
            memory_kib: Self::MEMORY_KIB,
            iterations: Self::ITERATIONS,
            lanes: Self::LANES,
            salt: HEXLOWER.encode(&salt),
            wrapped: String::new(),
            check: String::new(),
        };
        let kek = wrap.kek(recovery, &salt)?;
        wrap.wrapped = HEXLOWER.encode(&crypto::seal(&kek, &wrap.parameters(), root.as_bytes())?);
        wrap.check = wrap.checksum();
        Ok(wrap)
    }

    /// The root key, if `recovery` is the one that it was wrapped with.
    pub fn open(&self, recovery: &RecoveryKey) -> Result<RootKey> {
        let kek = self.kek(recovery, &decode(&self.salt)?)?;
        let plain = crypto::unseal(&kek, &self.parameters(), &decode(&self.wrapped)?)?.ok_or(SealError::NotThisBox)?;
        let key = <&[u8; 32]>::try_from(plain.as_slice()).map_err(|_| damaged("the wrapped key has a wrong length"))?;
        Ok(RootKey::from_bytes(key))
    }

    /// Reads what [`Self::to_vec`] wrote; damage is found here, before any words are asked for.
    pub fn from_slice(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version = serde_json::from_slice(bytes).map_err(|_| damaged("it cannot be read"))?;
        if version.format > FORMAT {
            return Err(SealError::TooNew { path: crate::setup::RECOVERY.into(), found: version.format });
        }
        let wrap: Self = serde_json::from_slice(bytes).map_err(|_| damaged("it cannot be read"))?;
        if wrap.check != wrap.checksum() {
            return Err(damaged("its checksum does not match"));
        }
        let sane = wrap.kdf == Self::KDF
            && (1..=Self::MAX_MEMORY_KIB).contains(&wrap.memory_kib)
            && (1..=Self::MAX_ITERATIONS).contains(&wrap.iterations)
            && (1..=Self::MAX_LANES).contains(&wrap.lanes);
        if sane { Ok(wrap) } else { Err(damaged("its parameters are out of range")) }
    }

    pub fn to_vec(&self) -> Result<Vec<u8>> {
        serde_json::to_vec_pretty(self).map_err(|_| SealError::Crypto("encoding"))
    }

    fn kek(&self, recovery: &RecoveryKey, salt: &[u8]) -> Result<Zeroizing<[u8; 32]>> {
        let params = Params::new(self.memory_kib, self.iterations, self.lanes, Some(32))
            .map_err(|_| damaged("its parameters are out of range"))?;
        let mut kek = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(recovery.0.as_ref(), salt, kek.as_mut())
            .map_err(|_| SealError::Crypto("argon2"))?;
        Ok(kek)
    }

    fn parameters(&self) -> Vec<u8> {
        let Self { format, kdf, memory_kib, iterations, lanes, salt, .. } = self;
        format!("gatehouse recovery {format} {kdf} {memory_kib} {iterations} {lanes} {salt}").into_bytes()
    }

    fn checksum(&self) -> String {
        let mut all = self.parameters();
        all.push(b' ');
        all.extend_from_slice(self.wrapped.as_bytes());
        HEXLOWER.encode(&crypto::sha256(&all))
    }
}

fn damaged(what: &'static str) -> SealError {
    SealError::Damaged { path: crate::setup::RECOVERY.into(), what }
}

fn decode(hex: &str) -> Result<Vec<u8>> {
    HEXLOWER.decode(hex.as_bytes()).map_err(|_| damaged("it cannot be read"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_survive_sloppy_typing() {
        let key = RecoveryKey::generate().unwrap();
        let words = key.words().unwrap();
        let sloppy: String =
            words.split(' ').enumerate().map(|(i, w)| format!("{}. {},\n\t", i + 1, w.to_uppercase())).collect();
        assert!(RecoveryKey::from_words(&sloppy).unwrap().0 == key.0);
    }

    #[test]
    fn each_mistake_has_its_own_answer() {
        let key = RecoveryKey::generate().unwrap();
        let words = key.words().unwrap();
        let list: Vec<&str> = words.split(' ').collect();
        assert!(matches!(RecoveryKey::from_words(&list[..23].join(" ")), Err(SealError::WordCount(23))));
        let mut bad = list.clone();
        bad[6] = "abandonn";
        let Err(e) = RecoveryKey::from_words(&bad.join(" ")) else { panic!("accepted an unknown word") };
        assert!(matches!(e, SealError::UnknownWord { position: 7, suggestion: Some("abandon") }), "{e}");
        // Of all words that may stand last, only 8 in 2048 satisfy the checksum.
        let refused = Language::English.word_list().iter().filter(|w| {
            let mut last = list.clone();
            last[23] = w;
            matches!(RecoveryKey::from_words(&last.join(" ")), Err(SealError::WordChecksum))
        });
        assert_eq!(refused.count(), 2048 - 8);
        assert!(matches!(RecoveryKey::from_words(""), Err(SealError::WordCount(0))));
    }

    #[test]
    fn the_wrap_opens_with_its_key_only_and_damage_is_told_apart() {
        let (root, key) = (RootKey::generate().unwrap(), RecoveryKey::generate().unwrap());
        let wrap = RecoveryWrap::new(&root, &key).unwrap();
        let bytes = wrap.to_vec().unwrap();
        let back = RecoveryWrap::from_slice(&bytes).unwrap();
        assert!(back.open(&key).unwrap().as_bytes() == root.as_bytes());
        assert!(matches!(back.open(&RecoveryKey::generate().unwrap()), Err(SealError::NotThisBox)));
        let mut value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        value["memory_kib"] = 8.into();
        let weakened = serde_json::to_vec(&value).unwrap();
        assert!(matches!(RecoveryWrap::from_slice(&weakened), Err(SealError::Damaged { .. })));
        value["format"] = 2.into();
        let newer = serde_json::to_vec(&value).unwrap();
        assert!(matches!(RecoveryWrap::from_slice(&newer), Err(SealError::TooNew { found: 2, .. })));
    }

    #[test]
    fn the_qr_code_is_a_square_of_block_characters() {
        let picture = RecoveryKey::generate().unwrap().qr().unwrap();
        let widths: Vec<usize> = picture.lines().map(|l| l.chars().count()).collect();
        assert!(widths.len() > 20 && widths.iter().all(|w| *w == widths[0]));
        assert!(widths[0].abs_diff(widths.len() * 2) <= 1);
    }

    proptest! {
        #[test]
        fn no_typed_text_panics(text in ".{0,400}") {
            let _ = RecoveryKey::from_words(&text);
        }

        #[test]
        fn no_file_content_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = RecoveryWrap::from_slice(&bytes);
        }
    }
}
