//! Signed statements about the chain: "after entry N the hash was H". They make the ledger verifiable with a public key
//! alone, and their counter shows when some of them are gone.

use std::sync::Arc;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use chrono::{DateTime, SecondsFormat, Utc};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    error::{Result, StoreError},
    keys,
};

/// The key that signs checkpoints. On an appliance it is in the TPM; the counter belongs to the ledger alone.
pub trait CheckpointSigner: Send + Sync {
    /// A short name of the key, for logs and reports.
    fn key_id(&self) -> String;
    /// Ed25519 (RFC 8032), 32 bytes.
    fn public_key(&self) -> Vec<u8>;
    /// The number given out last; 0 before the first.
    fn counter(&self) -> Result<u64>;
    /// The next number: durable before it is returned, never given out twice, without gaps.
    fn next_counter(&self) -> Result<u64>;
    /// 64 bytes, Ed25519.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>>;
}

/// A signer that lives as long as the process: for tests and for stores in memory.
pub struct MemorySigner {
    pair: Ed25519KeyPair,
    counter: Mutex<u64>,
}

impl MemorySigner {
    pub fn generate() -> Result<Arc<Self>> {
        let mut seed = Zeroizing::new([0; 32]);
        keys::fill_random(seed.as_mut())?;
        Self::from_seed(&seed)
    }

    /// The same key again from the same seed; the counter begins at zero.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Arc<Self>> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| StoreError::Crypto("signing key"))?;
        Ok(Arc::new(Self { pair, counter: Mutex::new(0) }))
    }
}

impl CheckpointSigner for MemorySigner {
    fn key_id(&self) -> String {
        key_id(self.pair.public_key().as_ref())
    }

    fn public_key(&self) -> Vec<u8> {
        self.pair.public_key().as_ref().to_vec()
    }

    fn counter(&self) -> Result<u64> {
        Ok(*self.counter.lock())
    }

    fn next_counter(&self) -> Result<u64> {
        let mut counter = self.counter.lock();
        *counter += 1;
        Ok(*counter)
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        Ok(self.pair.sign(message).as_ref().to_vec())
    }
}

/// The first 16 hexadecimal digits of the key's SHA-256.
pub(crate) fn key_id(public_key: &[u8]) -> String {
    keys::sha256(&[public_key]).get(..8).map(keys::hex).unwrap_or_default()
}

/// One line of `ledger/checkpoints`, and one frame in the segments. Binary values are lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// The last entry that it covers; 0 before the first.
    pub seq: u64,
    /// The chain hash at that entry.
    pub head: String,
    /// RFC 3339, UTC, milliseconds.
    pub at: String,
    pub counter: u64,
    /// Numbers that were spent on checkpoints which a crash kept from being written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub abandoned: Vec<u64>,
    /// The public key.
    pub key: String,
    pub signature: String,
}

impl Checkpoint {
    pub(crate) fn sign(
        signer: &dyn CheckpointSigner,
        seq: u64,
        head: &keys::Hash,
        at: DateTime<Utc>,
        counter: u64,
        abandoned: Vec<u64>,
    ) -> Result<Self> {
        let mut out = Self {
            seq,
            head: keys::hex(head),
            at: at.to_rfc3339_opts(SecondsFormat::Millis, true),
            counter,
            abandoned,
            key: keys::hex(&signer.public_key()),
            signature: String::new(),
        };
        out.signature = keys::hex(&signer.sign(out.message().as_bytes())?);
        // A signer that answers nonsense must show now, not when somebody verifies in a year.
        if !out.signature_ok() {
            return Err(StoreError::Signer("its signature does not verify".into()));
        }
        Ok(out)
    }

    /// What is signed.
    pub fn message(&self) -> String {
        let abandoned: Vec<String> = self.abandoned.iter().map(u64::to_string).collect();
        format!(
            "gatehouse ledger checkpoint 1\nseq={}\nhead={}\nat={}\ncounter={}\nabandoned={}\nkey={}\n",
            self.seq,
            self.head,
            self.at,
            self.counter,
            abandoned.join(","),
            self.key
        )
    }

    pub fn signature_ok(&self) -> bool {
        let (Some(key), Some(signature)) = (keys::unhex(&self.key), keys::unhex(&self.signature)) else { return false };
        UnparsedPublicKey::new(&ED25519, key).verify(self.message().as_bytes(), &signature).is_ok()
    }

    pub fn key_id(&self) -> String {
        keys::unhex(&self.key).map(|key| key_id(&key)).unwrap_or_default()
    }

    /// Without line end. There is one spelling: a line that does not re-encode to itself is not one of ours.
    pub(crate) fn to_line(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| StoreError::Encode { what: "a checkpoint".into(), why: e.to_string() })
    }

    pub(crate) fn from_line(line: &[u8]) -> Option<Self> {
        let parsed: Self = serde_json::from_slice(line).ok()?;
        (parsed.to_line().ok()? == line).then_some(parsed)
    }
}
