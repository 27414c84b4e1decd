//! An audit entry on its way into the ledger: encoded once, by the writer's own thread.

use std::{collections::BTreeSet, sync::Arc};

use gatehouse_model::ledger::LedgerEntry;
use serde::Serialize;
use uuid::Uuid;

use crate::{
    error::{Result, StoreError},
    keys::{Hash, sha256},
};

/// Bytes of one entry as JSON.
pub const MAX_ENTRY: usize = 1024 * 1024;
/// Smaller entries gain nothing from compression.
const COMPRESS_FROM: usize = 1024;
const RAW: u8 = 0;
const ZSTD: u8 = 1;

/// An entry with its place in the ledger.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoredEntry {
    /// Counts from 1 without gaps.
    pub seq: u64,
    pub entry: Arc<LedgerEntry>,
}

#[derive(Clone)]
pub(crate) struct EncodedEntry {
    pub(crate) entry: Arc<LedgerEntry>,
    /// SHA-256 of the JSON; what the chain links.
    pub(crate) digest: Hash,
    /// A flag byte, then the JSON, raw or compressed.
    pub(crate) payload: Vec<u8>,
}

impl EncodedEntry {
    pub(crate) fn new(entry: LedgerEntry) -> Result<Self> {
        let name = || format!("ledger entry {}", entry.id);
        let json = serde_json::to_vec(&entry).map_err(|e| StoreError::Encode { what: name(), why: e.to_string() })?;
        if json.len() > MAX_ENTRY {
            return Err(StoreError::TooLarge { what: name(), limit: MAX_ENTRY });
        }
        let digest = sha256(&[&json]);
        let mut payload = Vec::new();
        if json.len() >= COMPRESS_FROM {
            let packed =
                zstd::bulk::compress(&json, 1).map_err(|e| StoreError::Encode { what: name(), why: e.to_string() })?;
            payload.reserve_exact(packed.len() + 1);
            payload.push(ZSTD);
            payload.extend_from_slice(&packed);
        }
        if payload.is_empty() || payload.len() > json.len() {
            payload = Vec::with_capacity(json.len() + 1);
            payload.push(RAW);
            payload.extend_from_slice(&json);
        }
        Ok(Self { entry: Arc::new(entry), digest, payload })
    }

    /// From what was stored; the bytes were authenticated before.
    pub(crate) fn from_payload(payload: Vec<u8>) -> Option<Self> {
        let json = json(&payload)?;
        let entry = serde_json::from_slice(&json).ok()?;
        Some(Self { entry: Arc::new(entry), digest: sha256(&[&json]), payload })
    }

    pub(crate) fn size(&self) -> usize {
        self.payload.len() + 64 * self.entry.refs.len()
    }

    /// Every object under which the entry is found.
    pub(crate) fn references(&self) -> BTreeSet<Uuid> {
        self.entry.refs.iter().copied().chain(self.entry.actor).collect()
    }
}

/// The JSON in a payload.
pub(crate) fn json(payload: &[u8]) -> Option<Vec<u8>> {
    match payload.split_first()? {
        (&RAW, json) => Some(json.to_vec()),
        (&ZSTD, packed) => zstd::bulk::decompress(packed, MAX_ENTRY).ok(),
        _ => None,
    }
}

/// The chain: each link covers all entries before it.
pub(crate) fn link(previous: &Hash, seq: u64, digest: &Hash) -> Hash {
    sha256(&[b"gatehouse ledger entry\n", previous, &seq.to_be_bytes(), digest])
}
