//! Recordings: the `.ghr` container, written while a session runs, sealed when it ends, read, verified and exported.
//!
//! What lives here: the container's format, the pool of threads that compresses, encrypts and writes for all open
//! recordings, readers, the verifier, exports, and the kept content of transferred files (same container, other
//! track). What must not: sessions, users, permissions, retention policy, or where the master key comes from.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod chain;
mod disk;
mod engine;
mod error;
mod event;
pub mod export;
mod format;
#[cfg(test)]
mod hostile;
mod keeper;
mod key;
mod lane;
pub mod library;
mod reader;
mod recorder;
mod scan;
#[cfg(test)]
mod tests;
mod verify;

pub use error::{ReadError, Reason, RecordError, VerifyError};
pub use event::{Entry, Event, Header, MAX_TEXT, TrackKind};
pub use export::Exported;
pub use keeper::{FileKeeper, KeeperOptions, Kept, KeptFile, KeptReader};
pub use key::MasterKey;
pub use reader::{Events, Reader};
pub use recorder::{PoolOptions, Recorder, RecorderPool, Sealed};
pub use verify::{ChainReport, VerifyReport, seal_interrupted, verify, verify_chain};
