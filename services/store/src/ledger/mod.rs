//! The audit ledger: append-only encrypted segment files under `ledger/`, chained and signed.
//!
//! What lives here: the format of segments (`frame`), the way of an entry into them (`writer`, `recover`), retention
//! (`expire`), search (`query`), and checking and exporting without a running daemon (`verify`, `export`). What must not:
//! what an entry means; that is the model's and the views'.
//!
//! The chain links the JSON of entries: `hash = SHA-256(tag || previous || seq || SHA-256(json))`. Checkpoints sign that
//! hash, so an export is verifiable with the public key against the very signatures made at the time.

mod checkpoint;
pub(crate) mod core;
mod entry;
mod expire;
mod export;
mod frame;
mod query;
pub(crate) mod recover;
mod segment;
mod verify;
pub(crate) mod writer;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use gatehouse_model::ledger::LedgerEntry;
use uuid::Uuid;

pub(crate) use self::entry::EncodedEntry;
pub use self::{
    checkpoint::{Checkpoint, CheckpointSigner, MemorySigner},
    core::Head,
    entry::{MAX_ENTRY, StoredEntry},
    export::{ExportReport, export, verify_export},
    query::{OrgFilter, Query},
    verify::{Problem, ReplayCheck, Report, VerifyOptions, verify},
    writer::LedgerOptions,
};
use crate::{error::Result, store::Handle};

/// The ledger's directory inside the data directory.
pub const DIRECTORY: &str = "ledger";

/// Reading the ledger, and its upkeep. Writing goes through [`crate::Store::append`] and batches.
#[derive(Clone)]
pub struct Ledger {
    pub(crate) handle: Arc<Handle>,
}

/// What retention removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired {
    /// The last entry that is gone.
    pub through: u64,
    pub segments: usize,
}

impl Ledger {
    fn core(&self) -> &core::Core {
        &self.handle.shared.ledger
    }

    pub fn query(&self, query: &Query) -> Result<Vec<StoredEntry>> {
        query::run(self.core(), query, |_| true)
    }

    /// As [`Self::query`], of the entries for which `wanted` says yes. Reads on until the limit is reached or nothing is
    /// left: bound the times of a query whose predicate is rarely true.
    pub fn query_where(&self, query: &Query, wanted: impl FnMut(&LedgerEntry) -> bool) -> Result<Vec<StoredEntry>> {
        query::run(self.core(), query, wanted)
    }

    /// How many entries match, regardless of the limit. Without a reference only the index is read.
    pub fn count(&self, query: &Query) -> Result<u64> {
        query::count(self.core(), query)
    }

    /// The entry with this id.
    pub fn get(&self, id: Uuid) -> Result<Option<StoredEntry>> {
        query::by_id(self.core(), id)
    }

    pub fn head(&self) -> Head {
        self.core().visible.read().head
    }

    /// Entries from number `seq` on (or from the oldest that is left), up to the head as it is when each is read.
    pub fn iter_from(&self, seq: u64) -> impl Iterator<Item = Result<StoredEntry>> + Send + 'static {
        let ledger = self.clone();
        let mut next = seq.max(self.core().visible.read().first);
        std::iter::from_fn(move || {
            loop {
                let (first, head) = {
                    let visible = ledger.core().visible.read();
                    (visible.first, visible.head.seq)
                };
                next = next.max(first);
                if next > head {
                    return None;
                }
                let seq = next;
                next += 1;
                match ledger.core().load(seq) {
                    // Expired between two steps.
                    Ok(None) => {}
                    Ok(Some(entry)) => return Some(Ok(entry)),
                    Err(e) => return Some(Err(e)),
                }
            }
        })
    }

    /// Remove whole segments of which every entry happened before `before`; a signed tombstone stays. `None` when there
    /// is no such segment, or a backup is reading them just now.
    pub async fn expire(&self, before: DateTime<Utc>) -> Result<Option<Expired>> {
        self.handle.run(move |committer| committer.expire(before)).await?
    }

    /// Sign the present head now rather than when it is due.
    pub async fn checkpoint(&self) -> Result<()> {
        self.handle.run(|committer| committer.checkpoint()).await?
    }

    /// Make the search index again from the segments, after damage to the engine was repaired or a bug in an index was
    /// fixed. No change is accepted meanwhile.
    pub async fn rebuild_index(&self) -> Result<u64> {
        self.handle.run(|committer| committer.rebuild_index()).await?
    }

    /// The public key that signs from now on.
    pub fn public_key(&self) -> Vec<u8> {
        self.handle.shared.signer.public_key()
    }
}
