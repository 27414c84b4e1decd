//! The read model: records of cached kinds, decoded once, with their indexes, in memory. It shows what is durable.

use std::{
    any::{Any, TypeId},
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use gatehouse_model::record::Record;
use uuid::Uuid;

use crate::error::{Result, StoreError};

pub(crate) type AnyRecord = Arc<dyn Any + Send + Sync>;

pub(crate) struct Entry<T> {
    pub(crate) value: Arc<T>,
    pub(crate) version: u64,
}

/// One kind's records.
pub(crate) struct KindCache<T> {
    pub(crate) all: BTreeMap<Uuid, Entry<T>>,
    pub(crate) by_org: HashMap<Option<Uuid>, BTreeSet<Uuid>>,
    index: HashMap<&'static str, HashMap<Vec<u8>, BTreeSet<Uuid>>>,
}

impl<T> Default for KindCache<T> {
    fn default() -> Self {
        Self { all: BTreeMap::new(), by_org: HashMap::new(), index: HashMap::new() }
    }
}

impl<T: Record> KindCache<T> {
    pub(crate) fn put(&mut self, value: Arc<T>, version: u64) {
        let id = value.id();
        self.remove(id);
        for index in value.indexes() {
            self.index.entry(index.name).or_default().entry(index.key).or_default().insert(id);
        }
        self.by_org.entry(value.org()).or_default().insert(id);
        self.all.insert(id, Entry { value, version });
    }

    pub(crate) fn remove(&mut self, id: Uuid) {
        let Some(old) = self.all.remove(&id) else { return };
        let org = old.value.org();
        if let Some(ids) = self.by_org.get_mut(&org) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_org.remove(&org);
            }
        }
        for index in old.value.indexes() {
            let Some(keys) = self.index.get_mut(index.name) else { continue };
            let Some(ids) = keys.get_mut(&index.key) else { continue };
            ids.remove(&id);
            if ids.is_empty() {
                keys.remove(&index.key);
            }
        }
    }

    pub(crate) fn find(&self, name: &str, key: &[u8]) -> impl Iterator<Item = &Entry<T>> {
        let ids = self.index.get(name).and_then(|keys| keys.get(key));
        ids.into_iter().flatten().filter_map(|id| self.all.get(id))
    }
}

trait AnyCache: Any + Send + Sync {
    fn put_any(&mut self, value: AnyRecord, version: u64);
    fn remove_any(&mut self, id: Uuid);
}

impl<T: Record> AnyCache for KindCache<T> {
    fn put_any(&mut self, value: AnyRecord, version: u64) {
        if let Ok(value) = value.downcast::<T>() {
            self.put(value, version);
        }
    }

    fn remove_any(&mut self, id: Uuid) {
        self.remove(id);
    }
}

/// What a committed change does to the read model.
pub(crate) enum Effect {
    Put { kind: &'static str, value: AnyRecord, version: u64 },
    Remove { kind: &'static str, id: Uuid },
}

/// All cached kinds. One lock around it makes a batch visible at once, across kinds.
#[derive(Default)]
pub(crate) struct ReadModel {
    kinds: HashMap<&'static str, (TypeId, Box<dyn AnyCache>)>,
}

impl ReadModel {
    pub(crate) fn get<T: Record>(&self) -> Result<Option<&KindCache<T>>> {
        let Some((_, cache)) = self.kinds.get(T::KIND) else { return Ok(None) };
        let cache: &dyn Any = cache.as_ref();
        cache.downcast_ref().map(Some).ok_or(StoreError::DuplicateKind(T::KIND))
    }

    pub(crate) fn install<T: Record>(&mut self, cache: KindCache<T>) -> Result<()> {
        if self.kinds.get(T::KIND).is_some_and(|(known, _)| *known != TypeId::of::<T>()) {
            return Err(StoreError::DuplicateKind(T::KIND));
        }
        self.kinds.insert(T::KIND, (TypeId::of::<T>(), Box::new(cache)));
        Ok(())
    }

    /// Kinds that were not loaded yet are left alone: they will be read from the engine, which has the change.
    pub(crate) fn apply(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Put { kind, value, version } => {
                    if let Some((_, cache)) = self.kinds.get_mut(kind) {
                        cache.put_any(value, version);
                    }
                }
                Effect::Remove { kind, id } => {
                    if let Some((_, cache)) = self.kinds.get_mut(kind) {
                        cache.remove_any(id);
                    }
                }
            }
        }
    }
}
