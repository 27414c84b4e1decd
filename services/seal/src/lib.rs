//! Where the root key of a box comes from, and the second way in when that fails.
//!
//! What lives here: the root key's type, the `Seal` trait (a key file today, a TPM behind the same trait), the recovery
//! key as words and QR with the wrap that it opens, and the signing key with its counter that checkpoints of the ledger
//! use on boxes without a TPM. What must not: anything that is encrypted *with* the root key other than that signing key
//! (the store does that), and any policy on who may recover.
//!
//! Files in the data directory: `seal.json` (which method), `root.key` (method `file` only), `recovery.json` (the root
//! key wrapped by the recovery key), `ledger-signing-key`, `ledger-counter`.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod crypto;
mod disk;
mod error;
mod file;
mod recovery;
mod root;
mod setup;
mod signer;

pub use error::SealError;
pub use file::FileSeal;
pub use recovery::{RecoveryKey, RecoveryWrap};
pub use root::RootKey;
pub use setup::{Seal, initialise, install, is_initialised, open, open_with, recover, recovery_wrap, sealed_method};
pub use signer::FileSigner;

/// Result of everything in this crate.
pub type Result<T, E = SealError> = std::result::Result<T, E>;
