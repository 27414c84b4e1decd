//! Types, stores and helpers that the tests share.

use std::{path::Path, sync::Arc};

use chrono::{DateTime, Utc};
use gatehouse_model::{
    ledger::{LedgerEntry, LedgerKind},
    record::{Index, OrgRecord, Record, SystemRecord},
};
use gatehouse_store::{LedgerOptions, MemorySigner, Options, Registry, Store, StoreError};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(crate) const ROOT: [u8; 32] = [0x5a; 32];

/// A cached record of an organization with a unique and a plain index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Host {
    pub(crate) id: Uuid,
    pub(crate) org: Uuid,
    pub(crate) name: String,
    pub(crate) platform: String,
    #[serde(default)]
    pub(crate) extra: serde_json::Value,
}

impl Host {
    pub(crate) fn new(org: Uuid, name: &str) -> Self {
        let id = Uuid::now_v7();
        Self { id, org, name: name.into(), platform: "linux".into(), extra: serde_json::json!(null) }
    }
}

impl Record for Host {
    const KIND: &'static str = "test-host";

    fn id(&self) -> Uuid {
        self.id
    }

    fn org(&self) -> Option<Uuid> {
        Some(self.org)
    }

    fn indexes(&self) -> Vec<Index> {
        vec![
            Index::unique("name", Index::compound(&[self.org.as_bytes(), self.name.as_bytes()])),
            Index::many("platform", self.platform.as_bytes()),
        ]
    }
}

impl OrgRecord for Host {}

/// A secret: of an organization, never cached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Secret {
    pub(crate) id: Uuid,
    pub(crate) org: Uuid,
    pub(crate) owner: Uuid,
    pub(crate) value: String,
}

impl Record for Secret {
    const KIND: &'static str = "test-secret";
    const CACHED: bool = false;

    fn id(&self) -> Uuid {
        self.id
    }

    fn org(&self) -> Option<Uuid> {
        Some(self.org)
    }

    fn indexes(&self) -> Vec<Index> {
        vec![Index::many("owner", self.owner.as_bytes()), Index::unique("value", self.value.as_bytes())]
    }
}

impl OrgRecord for Secret {}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Person {
    pub(crate) id: Uuid,
    pub(crate) username: String,
}

impl Record for Person {
    const KIND: &'static str = "test-person";

    fn id(&self) -> Uuid {
        self.id
    }

    fn indexes(&self) -> Vec<Index> {
        vec![Index::unique("username", self.username.as_bytes())]
    }
}

impl SystemRecord for Person {}

pub(crate) fn registry() -> Registry {
    Registry::new().with::<Host>().with::<Secret>().with::<Person>()
}

pub(crate) fn options(signer: &Arc<MemorySigner>) -> Options {
    Options { registry: registry(), min_free_bytes: 0, cache_bytes: 8 << 20, ..Options::new(signer.clone()) }
}

pub(crate) fn signer() -> Arc<MemorySigner> {
    MemorySigner::generate().unwrap()
}

pub(crate) fn open(dir: &Path, signer: &Arc<MemorySigner>) -> Store {
    Store::open(dir, &ROOT, options(signer)).unwrap()
}

pub(crate) fn small_segments(signer: &Arc<MemorySigner>, bytes: u64) -> Options {
    Options { ledger: LedgerOptions { segment_bytes: bytes, ..LedgerOptions::default() }, ..options(signer) }
}

pub(crate) fn entry(n: u64) -> LedgerEntry {
    entry_at(n, Utc::now(), Uuid::nil(), LedgerKind::Operate)
}

pub(crate) fn entry_at(n: u64, at: DateTime<Utc>, org: Uuid, kind: LedgerKind) -> LedgerEntry {
    LedgerEntry::new(Uuid::now_v7(), at, org, kind, serde_json::json!({ "n": n, "what": "changed a thing" }))
}

pub(crate) fn commit(store: &Store, fill: impl FnOnce(&mut gatehouse_store::Batch)) -> Result<(), StoreError> {
    let mut batch = store.batch();
    fill(&mut batch);
    store.commit_blocking(batch)
}

pub(crate) fn append(store: &Store, entries: impl IntoIterator<Item = LedgerEntry>) {
    commit(store, |batch| {
        for entry in entries {
            batch.audit(entry);
        }
    })
    .unwrap();
}

/// Every file below `dir`.
pub(crate) fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { out.extend(files(&path)) } else { out.push(path) }
    }
    out.sort();
    out
}

pub(crate) fn copy_dir(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(&file, target).unwrap();
    }
}
