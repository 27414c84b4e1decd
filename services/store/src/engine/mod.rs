//! The narrow door to whatever keeps bytes. Everything above (encryption, indexes, versions, the ledger's outbox) is the
//! same for every engine; an engine that passes the conformance suite can be put beneath it.

use std::ops::Bound;

use crate::error::Result;

mod memory;
mod sled;

pub use self::{memory::MemoryEngine, sled::SledEngine};

/// A tree's name on the disk: blinded, so that it says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeId(pub [u8; 16]);

/// One put (`Some`) or delete (`None`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub tree: TreeId,
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

/// Key and value, as stored.
pub type Pair = (Vec<u8>, Vec<u8>);
pub type Scan<'a> = Box<dyn Iterator<Item = Result<Pair>> + Send + 'a>;

/// Ordered trees of byte strings. There is one writer at a time; readers run beside it.
pub trait Engine: Send + Sync + 'static {
    fn get(&self, tree: TreeId, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// Pairs of `tree` in the order of their keys, or in the reverse one. What is written meanwhile may or may not be
    /// seen; each pair is whole.
    fn scan<'a>(&'a self, tree: TreeId, from: Bound<&[u8]>, to: Bound<&[u8]>, reverse: bool) -> Scan<'a>;

    /// All pairs of all trees; the tree's 16 bytes precede each key. For backups and for moving to another engine.
    fn scan_all(&self) -> Scan<'_>;

    /// All or nothing, across trees, also after a crash. Visible to readers at once, durable after the next `flush`.
    /// Of several writes to one key the last counts.
    fn apply(&self, writes: &[Write]) -> Result<()>;

    /// Everything applied before survives the loss of power when this returns.
    fn flush(&self) -> Result<()>;

    /// Give back wasted space if there is more of it than the engine's bound; says whether it did.
    fn compact(&self) -> Result<bool>;

    fn size_on_disk(&self) -> Result<u64>;
}

/// The smallest key that is greater than every key that begins with `prefix`.
pub(crate) fn after_prefix(prefix: &[u8]) -> Bound<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Bound::Excluded(end);
        }
    }
    Bound::Unbounded
}

pub(crate) fn scan_prefix<'a>(engine: &'a dyn Engine, tree: TreeId, prefix: &[u8], reverse: bool) -> Scan<'a> {
    let end = after_prefix(prefix);
    engine.scan(tree, Bound::Included(prefix), end.as_ref().map(Vec::as_slice), reverse)
}
