//! Reading records: always within an organization, or by saying aloud that organizations are crossed.

use std::{ops::Bound, sync::Arc};

use gatehouse_model::record::{OrgRecord, Record, SystemRecord};
use uuid::Uuid;

use crate::{
    cache::{Entry, KindCache},
    codec,
    engine::scan_prefix,
    error::Result,
    registry,
    store::Store,
};

/// Consent to read across organizations. Easy to find in a review: there is one way to make it.
#[derive(Debug, Clone, Copy)]
pub struct AllOrgs(());

impl AllOrgs {
    /// For system administrators' views, background work on behalf of the system, and nothing else.
    pub fn crossing_organizations() -> Self {
        Self(())
    }
}

#[derive(Clone, Copy)]
enum Scope {
    One(Uuid),
    Everything,
}

impl Scope {
    fn admits(self, org: Option<Uuid>) -> bool {
        match self {
            Self::One(one) => org == Some(one),
            Self::Everything => true,
        }
    }
}

macro_rules! view {
    ($(#[$doc:meta])* $name:ident, $bound:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name {
            reader: Reader,
        }

        impl $name {
            pub fn get<T: $bound>(&self, id: Uuid) -> Result<Option<Arc<T>>> {
                Ok(self.reader.versioned(id)?.map(|(record, _)| record))
            }

            /// With the version that `Batch::update` asks for.
            pub fn versioned<T: $bound>(&self, id: Uuid) -> Result<Option<(Arc<T>, u64)>> {
                self.reader.versioned(id)
            }

            /// All, in the order of their ids (which is that of creation). For kinds that are not cached use `page`.
            pub fn list<T: $bound>(&self) -> Result<Vec<Arc<T>>> {
                self.reader.page(None, usize::MAX, false)
            }

            /// Those with this key in this index, in the order of their ids.
            pub fn find<T: $bound>(&self, index: &str, key: &[u8]) -> Result<Vec<Arc<T>>> {
                self.reader.find(index, key)
            }

            /// Up to `limit` in the order of their ids (`reverse`: newest first), beginning behind `after`.
            pub fn page<T: $bound>(&self, after: Option<Uuid>, limit: usize, reverse: bool) -> Result<Vec<Arc<T>>> {
                self.reader.page(after, limit, reverse)
            }

            pub fn count<T: $bound>(&self) -> Result<usize> {
                self.reader.count::<T>()
            }
        }
    };
}

view!(
    /// Records of one organization, or of all of them.
    OrgView,
    OrgRecord
);
view!(
    /// Records of the whole system.
    SystemView,
    SystemRecord
);

impl OrgView {
    pub(crate) fn one(store: Store, org: Uuid) -> Self {
        Self { reader: Reader { store, scope: Scope::One(org) } }
    }

    pub(crate) fn all(store: Store) -> Self {
        Self { reader: Reader { store, scope: Scope::Everything } }
    }
}

impl SystemView {
    pub(crate) fn new(store: Store) -> Self {
        Self { reader: Reader { store, scope: Scope::Everything } }
    }
}

#[derive(Clone)]
struct Reader {
    store: Store,
    scope: Scope,
}

impl Reader {
    /// The read model of a cached kind, loaded at its first use.
    fn cached<T: Record, R>(&self, read: impl Fn(&KindCache<T>) -> R) -> Result<R> {
        let shared = &self.store.handle.shared;
        loop {
            if let Some(cache) = shared.model.read().get::<T>()? {
                return Ok(read(cache));
            }
            registry::load::<T>(shared, &mut shared.model.write())?;
        }
    }

    fn admitted<'e, T: Record>(&self, entry: &'e Entry<T>) -> Option<&'e Entry<T>> {
        Some(entry).filter(|entry| self.scope.admits(entry.value.org()))
    }

    fn decode<T: Record>(&self, id: Uuid, bytes: &[u8]) -> Result<Option<(Arc<T>, u64)>> {
        let keys = self.store.handle.shared.keys.kind(T::KIND)?;
        let opened = codec::open(&keys, T::KIND, id, bytes)?;
        if !self.scope.admits(opened.org) {
            return Ok(None);
        }
        Ok(Some((Arc::new(codec::decode(id, &opened)?), opened.version)))
    }

    fn versioned<T: Record>(&self, id: Uuid) -> Result<Option<(Arc<T>, u64)>> {
        if T::CACHED {
            return self.cached(|cache: &KindCache<T>| {
                let entry = cache.all.get(&id).and_then(|entry| self.admitted(entry))?;
                Some((entry.value.clone(), entry.version))
            });
        }
        let shared = &self.store.handle.shared;
        let keys = shared.keys.kind(T::KIND)?;
        match shared.engine.get(keys.records, id.as_bytes())? {
            Some(bytes) => self.decode(id, &bytes),
            None => Ok(None),
        }
    }

    fn find<T: Record>(&self, index: &str, key: &[u8]) -> Result<Vec<Arc<T>>> {
        if T::CACHED {
            return self.cached(|cache: &KindCache<T>| {
                let found = cache.find(index, key).filter_map(|entry| self.admitted(entry));
                found.map(|entry| entry.value.clone()).collect()
            });
        }
        let shared = &self.store.handle.shared;
        let keys = shared.keys.kind(T::KIND)?;
        let tag = codec::index_tag(&keys, index, key);
        let mut out = Vec::new();
        for pair in scan_prefix(&*shared.engine, keys.index, &tag, false) {
            let id = codec::id_of(&pair?.0)?;
            out.extend(self.versioned(id)?.map(|(record, _)| record));
        }
        Ok(out)
    }

    fn page<T: Record>(&self, after: Option<Uuid>, limit: usize, reverse: bool) -> Result<Vec<Arc<T>>> {
        if T::CACHED {
            return self.cached(|cache: &KindCache<T>| self.cached_page(cache, after, limit, reverse));
        }
        let shared = &self.store.handle.shared;
        let keys = shared.keys.kind(T::KIND)?;
        let bound = after.as_ref().map_or(Bound::Unbounded, |id| Bound::Excluded(id.as_bytes().as_slice()));
        let (from, to) = if reverse { (Bound::Unbounded, bound) } else { (bound, Bound::Unbounded) };
        let mut out = Vec::new();
        for pair in shared.engine.scan(keys.records, from, to, reverse) {
            if out.len() >= limit {
                break;
            }
            let (key, bytes) = pair?;
            out.extend(self.decode(codec::id_of(&key)?, &bytes)?.map(|(record, _)| record));
        }
        Ok(out)
    }

    fn cached_page<T: Record>(
        &self,
        cache: &KindCache<T>,
        after: Option<Uuid>,
        limit: usize,
        reverse: bool,
    ) -> Vec<Arc<T>> {
        let bound = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = if reverse { (Bound::Unbounded, bound) } else { (bound, Bound::Unbounded) };
        match self.scope {
            Scope::Everything => {
                let all = cache.all.range(range).map(|(_, entry)| entry.value.clone());
                if reverse { all.rev().take(limit).collect() } else { all.take(limit).collect() }
            }
            Scope::One(org) => {
                let Some(ids) = cache.by_org.get(&Some(org)) else { return Vec::new() };
                let some = ids.range(range).filter_map(|id| Some(cache.all.get(id)?.value.clone()));
                if reverse { some.rev().take(limit).collect() } else { some.take(limit).collect() }
            }
        }
    }

    fn count<T: Record>(&self) -> Result<usize> {
        if T::CACHED {
            return self.cached(|cache: &KindCache<T>| match self.scope {
                Scope::Everything => cache.all.len(),
                Scope::One(org) => cache.by_org.get(&Some(org)).map_or(0, std::collections::BTreeSet::len),
            });
        }
        let shared = &self.store.handle.shared;
        let keys = shared.keys.kind(T::KIND)?;
        let mut count = 0;
        for pair in shared.engine.scan(keys.records, Bound::Unbounded, Bound::Unbounded, false) {
            let (key, bytes) = pair?;
            let opened = codec::open(&keys, T::KIND, codec::id_of(&key)?, &bytes)?;
            count += usize::from(self.scope.admits(opened.org));
        }
        Ok(count)
    }
}
