//! What can go wrong with the store, in words that tell a person what happened and what to do. Values of records never
//! appear here, only kinds and ids.

use std::path::{Path, PathBuf};

use uuid::Uuid;

/// Result of everything in this crate.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Another record has the same key of a unique index.
    #[error("another {kind} has the same {index}")]
    Conflict { kind: &'static str, index: &'static str, existing: Uuid },
    /// The record was changed by somebody else since it was read.
    #[error("{kind} {id} was changed meanwhile (version {found:?}, expected {expected}): read it again")]
    Stale { kind: &'static str, id: Uuid, expected: u64, found: Option<u64> },
    #[error("{kind} {id} exists already")]
    Exists { kind: &'static str, id: Uuid },
    #[error("there is no {kind} {id}")]
    NotFound { kind: &'static str, id: Uuid },
    #[error("{kind} {id} belongs to another organization: a record never moves between organizations")]
    OtherOrganization { kind: &'static str, id: Uuid },
    #[error("{what} is larger than the {limit} bytes that fit into one record: keep large content in a file")]
    TooLarge { what: String, limit: usize },
    #[error("cannot encode {what}: {why}")]
    Encode { what: String, why: String },
    #[error("the root key does not open this store: it belongs to another box or another backup; nothing was changed")]
    WrongKey,
    #[error("the store is damaged at {place}: {what}; nothing was changed, restore a backup into a new directory")]
    Corrupt { place: String, what: String },
    #[error(
        "{} is in use by another gatehouse process: stop it first (or use its local socket), then try again",
        dir.display()
    )]
    Locked { dir: PathBuf },
    #[error("{what} was written by a newer version (format {found}, this program knows {known}): update gatehouse")]
    TooNew { what: String, found: u32, known: u32 },
    #[error(
        "{kind} {id} cannot be brought forward from schema {from}: {why}; nothing was changed, run the old version"
    )]
    Migration { kind: &'static str, id: Uuid, from: u32, why: String },
    #[error("two types share the stored kind {0:?}: this is a programming error")]
    DuplicateKind(&'static str),
    #[error("the disk of {} is full ({free} bytes free, {needed} needed): free some space; nothing was lost", dir.display())]
    DiskFull { dir: PathBuf, free: u64, needed: u64 },
    #[error("the audit ledger cannot be written, so no change is accepted: {0}")]
    LedgerFailing(String),
    #[error("the store stopped accepting changes after a failure ({0}): check the disk, then restart gatehouse")]
    Failed(String),
    #[error("the store is closed")]
    Closed,
    #[error("cannot {what} {}: {why}", path.display())]
    Io { what: &'static str, path: PathBuf, why: String },
    #[error("the storage engine failed: {0}")]
    Engine(String),
    #[error("a cryptographic operation failed: {0}")]
    Crypto(&'static str),
    #[error("the signing key of the ledger failed: {0}")]
    Signer(String),
    #[error(
        "the ledger was signed by key {expected} and this box signs with {found}: if the machine or its key was \
         replaced, open it with the recovery procedure"
    )]
    SignerChanged { expected: String, found: String },
    #[error("the data was put back to an earlier state: {0}; restore the newest backup or use the recovery procedure")]
    RolledBack(String),
    #[error("{} is not an empty directory: choose an empty one", .0.display())]
    NotEmpty(PathBuf),
    #[error("{} is no backup of gatehouse, or its beginning is damaged: {what}", path.display())]
    NotABackup { path: PathBuf, what: String },
}

impl StoreError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |e| Self::Io { what, path, why: e.to_string() }
    }

    pub(crate) fn corrupt(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Corrupt { place: place.into(), what: what.into() }
    }
}
