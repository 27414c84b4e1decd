//! A set of changes and audit entries that happen together or not at all. What must not live here: any look at the
//! store's present state; that is the committer's.

use std::sync::Arc;

use gatehouse_model::{
    ledger::LedgerEntry,
    record::{Index, Record},
};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    cache::AnyRecord,
    codec,
    error::{Result, StoreError},
    ledger::EncodedEntry,
};

/// What must be true of the stored record for a put to go through.
#[derive(Clone, Copy)]
pub(crate) enum Expect {
    Absent,
    Version(u64),
    Anything,
}

pub(crate) struct Put {
    pub(crate) org: Option<Uuid>,
    pub(crate) schema: u32,
    pub(crate) indexes: Vec<Index>,
    pub(crate) payload: Zeroizing<Vec<u8>>,
    pub(crate) expect: Expect,
    /// For the read model; `None` for kinds that are not cached.
    pub(crate) value: Option<AnyRecord>,
}

pub(crate) struct Op {
    pub(crate) kind: &'static str,
    pub(crate) id: Uuid,
    /// `None` deletes.
    pub(crate) put: Option<Put>,
}

/// Collects changes; nothing happens before [`crate::Store::commit`].
#[derive(Default)]
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch {
    pub(crate) ops: Vec<Op>,
    pub(crate) entries: Vec<EncodedEntry>,
    /// What could not be encoded; told when the batch is committed, so that building one needs no error handling.
    pub(crate) error: Option<StoreError>,
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    /// A record that must not exist yet.
    pub fn insert<T: Record>(&mut self, record: T) -> &mut Self {
        self.add(record, Expect::Absent)
    }

    /// A record that must exist in exactly this version (as `versioned` told it).
    pub fn update<T: Record>(&mut self, record: T, expected_version: u64) -> &mut Self {
        self.add(record, Expect::Version(expected_version))
    }

    /// A record whatever was there before: the last writer wins.
    pub fn put<T: Record>(&mut self, record: T) -> &mut Self {
        self.add(record, Expect::Anything)
    }

    /// Deleting what is not there is no error.
    pub fn delete<T: Record>(&mut self, id: Uuid) -> &mut Self {
        self.ops.push(Op { kind: T::KIND, id, put: None });
        self
    }

    /// An entry that is in the ledger exactly when the changes are in the store.
    pub fn audit(&mut self, entry: LedgerEntry) -> &mut Self {
        let encoded = EncodedEntry::new(entry);
        self.keep(encoded, |batch, entry| batch.entries.push(entry));
        self
    }

    pub fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.entries.is_empty() && self.error.is_none()
    }

    fn add<T: Record>(&mut self, record: T, expect: Expect) -> &mut Self {
        let payload = codec::encode(&record);
        self.keep(payload, |batch, payload| {
            let id = record.id();
            let (org, indexes) = (record.org(), record.indexes());
            let value: Option<AnyRecord> = if T::CACHED { Some(Arc::new(record)) } else { None };
            let put = Put { org, schema: T::SCHEMA, indexes, payload, expect, value };
            batch.ops.push(Op { kind: T::KIND, id, put: Some(put) });
        });
        self
    }

    fn keep<V>(&mut self, value: Result<V>, then: impl FnOnce(&mut Self, V)) {
        match value {
            Ok(value) => then(self, value),
            Err(e) => {
                self.error.get_or_insert(e);
            }
        }
    }

    /// A measure of the memory that the batch holds while it waits, in units of about a kilobyte.
    pub(crate) fn weight(&self) -> usize {
        let records: usize = self.ops.iter().map(|op| op.put.as_ref().map_or(0, |put| put.payload.len())).sum();
        let entries: usize = self.entries.iter().map(EncodedEntry::size).sum();
        1 + self.ops.len() + (records + entries) / 1024
    }
}
