//! The store of Gatehouse: encrypted, typed collections and the audit ledger, over a narrow engine.
//!
//! What lives here: how records and entries reach the disk, stay secret, stay whole and come back; backup and restore.
//! What must not: what records mean (the model's), where the root key comes from (the seal's), and any policy.
//!
//! A record is either of an organization or of the system, and the type says which. A query for the former without an
//! organization does not compile:
//!
//! ```
//! # use gatehouse_store::{Store, AllOrgs};
//! # use gatehouse_model::record::{OrgRecord, Record};
//! # use serde::{Serialize, Deserialize};
//! # use uuid::Uuid;
//! #[derive(Clone, Serialize, Deserialize)]
//! struct Thing { id: Uuid, org: Uuid }
//! impl Record for Thing {
//!     const KIND: &'static str = "thing";
//!     fn id(&self) -> Uuid { self.id }
//!     fn org(&self) -> Option<Uuid> { Some(self.org) }
//! }
//! impl OrgRecord for Thing {}
//!
//! # fn main() -> Result<(), gatehouse_store::StoreError> {
//! let store = Store::in_memory();
//! let org = Uuid::now_v7();
//! let thing = Thing { id: Uuid::now_v7(), org };
//! let mut batch = store.batch();
//! batch.insert(thing.clone());
//! store.commit_blocking(batch)?;
//! assert!(store.in_org(org).get::<Thing>(thing.id)?.is_some());
//! assert!(store.in_org(Uuid::now_v7()).get::<Thing>(thing.id)?.is_none());
//! assert_eq!(store.all_orgs(AllOrgs::crossing_organizations()).count::<Thing>()?, 1);
//! # Ok(()) }
//! ```
//!
//! ```compile_fail,E0277
//! # use gatehouse_store::Store;
//! # use gatehouse_model::record::{OrgRecord, Record};
//! # use serde::{Serialize, Deserialize};
//! # use uuid::Uuid;
//! #[derive(Clone, Serialize, Deserialize)]
//! struct Thing { id: Uuid, org: Uuid }
//! impl Record for Thing {
//!     const KIND: &'static str = "thing";
//!     fn id(&self) -> Uuid { self.id }
//!     fn org(&self) -> Option<Uuid> { Some(self.org) }
//! }
//! impl OrgRecord for Thing {}
//!
//! let store = Store::in_memory();
//! let all = store.system().list::<Thing>(); // Thing is no SystemRecord
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod backup;
mod batch;
mod cache;
mod codec;
mod commit;
pub mod engine;
mod error;
mod files;
mod health;
mod keys;
pub mod ledger;
mod meta;
mod offline;
mod queue;
mod registry;
mod store;
mod view;

pub use batch::Batch;
pub use codec::MAX_RECORD;
pub use commit::{Change, ChangeOp};
pub use error::{Result, StoreError};
pub use health::Health;
pub use ledger::{CheckpointSigner, Expired, Ledger, LedgerOptions, MemorySigner, OrgFilter, Query, StoredEntry};
pub use offline::derive_key;
pub use registry::Registry;
pub use store::{Options, Store};
pub use view::{AllOrgs, OrgView, SystemView};
