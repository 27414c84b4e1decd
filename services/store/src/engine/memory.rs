//! The engine of tests and of other crates' tests: a sorted map that forgets everything when it is dropped.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
};

use parking_lot::RwLock;

use super::{Engine, Pair, Scan, TreeId, Write};
use crate::error::Result;

type Key = (TreeId, Vec<u8>);

/// Pairs fetched under one lock, so that a slow reader does not hold up the writer.
const PAGE: usize = 256;

#[derive(Default)]
pub struct MemoryEngine {
    map: RwLock<BTreeMap<Key, Vec<u8>>>,
}

impl MemoryEngine {
    pub fn new() -> Self {
        Self::default()
    }

    fn page(&self, from: Bound<Key>, to: Bound<Key>, reverse: bool) -> VecDeque<(Key, Vec<u8>)> {
        if empty(&from, &to) {
            return VecDeque::new();
        }
        let map = self.map.read();
        let owned = |(key, value): (&Key, &Vec<u8>)| (key.clone(), value.clone());
        match reverse {
            false => map.range((from, to)).take(PAGE).map(owned).collect(),
            true => map.range((from, to)).rev().take(PAGE).map(owned).collect(),
        }
    }

    fn cursor(&self, mut from: Bound<Key>, mut to: Bound<Key>, reverse: bool) -> impl Iterator<Item = (Key, Vec<u8>)> {
        let mut page = VecDeque::new();
        let mut done = false;
        std::iter::from_fn(move || {
            if page.is_empty() && !done {
                page = self.page(from.clone(), to.clone(), reverse);
                done = page.len() < PAGE;
                if let Some((key, _)) = page.back() {
                    *(if reverse { &mut to } else { &mut from }) = Bound::Excluded(key.clone());
                }
            }
            page.pop_front()
        })
    }
}

/// `BTreeMap::range` panics on these.
fn empty(from: &Bound<Key>, to: &Bound<Key>) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(a), Bound::Included(b)) => a > b,
        (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => a >= b,
    }
}

impl Engine for MemoryEngine {
    fn get(&self, tree: TreeId, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.map.read().get(&(tree, key.to_vec())).cloned())
    }

    fn scan<'a>(&'a self, tree: TreeId, from: Bound<&[u8]>, to: Bound<&[u8]>, reverse: bool) -> Scan<'a> {
        let from = match from {
            Bound::Unbounded => Bound::Included((tree, Vec::new())),
            other => other.map(|key| (tree, key.to_vec())),
        };
        let to = match to {
            Bound::Unbounded => match u128::from_be_bytes(tree.0).checked_add(1) {
                Some(next) => Bound::Excluded((TreeId(next.to_be_bytes()), Vec::new())),
                None => Bound::Unbounded,
            },
            other => other.map(|key| (tree, key.to_vec())),
        };
        Box::new(self.cursor(from, to, reverse).map(|((_, key), value)| Ok((key, value))))
    }

    fn scan_all(&self) -> Scan<'_> {
        let whole = |((tree, key), value): (Key, Vec<u8>)| -> Result<Pair> {
            Ok(([tree.0.as_slice(), key.as_slice()].concat(), value))
        };
        Box::new(self.cursor(Bound::Unbounded, Bound::Unbounded, false).map(whole))
    }

    fn apply(&self, writes: &[Write]) -> Result<()> {
        let mut map = self.map.write();
        for Write { tree, key, value } in writes {
            match value {
                Some(value) => map.insert((*tree, key.clone()), value.clone()),
                None => map.remove(&(*tree, key.clone())),
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn compact(&self) -> Result<bool> {
        Ok(false)
    }

    fn size_on_disk(&self) -> Result<u64> {
        Ok(0)
    }
}
