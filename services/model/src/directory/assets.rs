//! Assets in their two orders, each with a small number (slot) by which sets of assets are kept, and with the text that
//! searches look in.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use uuid::Uuid;

use crate::asset::Asset;

/// An asset with what is derived from it.
pub(super) struct Entry {
    pub(super) slot: u32,
    pub(super) asset: Arc<Asset>,
    /// Name, address and comment in lower case, a line each.
    pub(super) folded: Box<str>,
    ip: Option<IpAddr>,
}

impl Entry {
    fn new(slot: u32, asset: Arc<Asset>) -> Self {
        let text = format!("{}\n{}\n{}", asset.name, asset.address, asset.meta.comment.replace('\n', " "));
        Self { slot, folded: text.to_lowercase().into(), ip: asset.address.parse().ok(), asset }
    }
}

macro_rules! ordered_entry {
    ($name:ident, $cmp:expr) => {
        #[derive(Clone)]
        pub(super) struct $name(pub(super) Arc<Entry>);
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                let by: fn(&Entry, &Entry) -> Ordering = $cmp;
                by(&self.0, &other.0).then_with(|| self.0.asset.id.cmp(&other.0.asset.id))
            }
        }
        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }
        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.cmp(other).is_eq()
            }
        }
        impl Eq for $name {}
    };
}

// The folded text starts with the name, and a line's end sorts before all that names contain.
ordered_entry!(ByName, |a, b| a.folded.cmp(&b.folded));
// Addresses by number, then host names.
ordered_entry!(ByAddress, |a, b| match (a.ip, b.ip) {
    (Some(a), Some(b)) => a.cmp(&b),
    (Some(_), None) => Ordering::Less,
    (None, Some(_)) => Ordering::Greater,
    (None, None) => a.asset.address.cmp(&b.asset.address),
});

#[derive(Default)]
pub(super) struct Assets {
    by_id: HashMap<Uuid, Arc<Entry>>,
    by_slot: Vec<Option<Arc<Entry>>>,
    free: Vec<u32>,
    pub(super) by_name: BTreeSet<ByName>,
    pub(super) by_address: BTreeSet<ByAddress>,
    by_org: HashMap<Uuid, Slots>,
    by_platform: HashMap<Uuid, Slots>,
}

impl Assets {
    pub(super) fn get(&self, id: Uuid) -> Option<&Arc<Entry>> {
        self.by_id.get(&id)
    }

    pub(super) fn at(&self, slot: u32) -> Option<&Arc<Entry>> {
        self.by_slot.get(slot as usize)?.as_ref()
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// One more than the highest slot.
    pub(super) fn slots(&self) -> usize {
        self.by_slot.len()
    }

    pub(super) fn upsert(&mut self, asset: Arc<Asset>) -> u32 {
        if let Some(old) = self.by_id.get(&asset.id).cloned() {
            self.replace(&old, asset);
            return old.slot;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.by_slot.push(None);
            u32::try_from(self.by_slot.len() - 1).unwrap_or(u32::MAX)
        });
        self.put(Entry::new(slot, asset));
        slot
    }

    /// A new version of the asset in the same slot.
    pub(super) fn replace(&mut self, old: &Arc<Entry>, asset: Arc<Asset>) {
        self.leave(old);
        self.put(Entry::new(old.slot, asset));
    }

    fn put(&mut self, entry: Entry) {
        let entry = Arc::new(entry);
        if let Some(place) = self.by_slot.get_mut(entry.slot as usize) {
            *place = Some(Arc::clone(&entry));
        }
        self.by_name.insert(ByName(Arc::clone(&entry)));
        self.by_address.insert(ByAddress(Arc::clone(&entry)));
        self.by_org.entry(entry.asset.org_id).or_default().insert_growing(entry.slot);
        self.by_platform.entry(entry.asset.platform).or_default().insert_growing(entry.slot);
        self.by_id.insert(entry.asset.id, entry);
    }

    /// Out of the orders and the sets.
    fn leave(&mut self, old: &Arc<Entry>) {
        self.by_name.remove(&ByName(Arc::clone(old)));
        self.by_address.remove(&ByAddress(Arc::clone(old)));
        for (sets, key) in [(&mut self.by_org, old.asset.org_id), (&mut self.by_platform, old.asset.platform)] {
            if let Some(set) = sets.get_mut(&key) {
                set.take(old.slot);
                if set.is_empty() {
                    sets.remove(&key);
                }
            }
        }
    }

    /// Slots of an organization's assets.
    pub(super) fn of_org(&self, org: Uuid) -> Slots {
        self.by_org.get(&org).cloned().unwrap_or_default()
    }

    /// Slots of the assets of a platform.
    pub(super) fn of_platform(&self, platform: Uuid) -> Option<&Slots> {
        self.by_platform.get(&platform)
    }

    pub(super) fn platforms(&self) -> impl Iterator<Item = (Uuid, &Slots)> {
        self.by_platform.iter().map(|(id, slots)| (*id, slots))
    }

    pub(super) fn remove(&mut self, old: &Arc<Entry>) {
        self.leave(old);
        self.by_id.remove(&old.asset.id);
        if let Some(place) = self.by_slot.get_mut(old.slot as usize) {
            *place = None;
            self.free.push(old.slot);
        }
    }
}

/// A set of slots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Slots(Vec<u64>);

impl Slots {
    pub(super) fn with_room(slots: usize) -> Self {
        Self(vec![0; slots.div_ceil(64)])
    }

    pub(super) fn insert(&mut self, slot: u32) {
        if let Some(word) = self.0.get_mut(slot as usize / 64) {
            *word |= 1 << (slot % 64);
        }
    }

    /// For sets that are kept while slots are added.
    fn insert_growing(&mut self, slot: u32) {
        let words = slot as usize / 64 + 1;
        if self.0.len() < words {
            self.0.resize(words, 0);
        }
        self.insert(slot);
    }

    fn take(&mut self, slot: u32) {
        if let Some(word) = self.0.get_mut(slot as usize / 64) {
            *word &= !(1 << (slot % 64));
        }
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|w| *w == 0)
    }

    /// How many are in both.
    pub(super) fn common(&self, other: &Self) -> usize {
        self.0.iter().zip(&other.0).map(|(a, b)| (a & b).count_ones() as usize).sum()
    }

    pub(super) fn contains(&self, slot: u32) -> bool {
        self.0.get(slot as usize / 64).is_some_and(|word| word & (1 << (slot % 64)) != 0)
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|w| w.count_ones() as usize).sum()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..).zip(&self.0).flat_map(|(at, word)| {
            let rest = |w: u64| (w != 0).then_some(w);
            // Each step takes the lowest bit away.
            std::iter::successors(rest(*word), move |w| rest(w & (w - 1))).map(move |w| at * 64 + w.trailing_zeros())
        })
    }

    pub(super) fn add(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }

    pub(super) fn keep(&mut self, other: &Self) {
        let other = other.0.iter().copied().chain(std::iter::repeat(0));
        self.0.iter_mut().zip(other).for_each(|(a, b)| *a &= b);
    }
}
