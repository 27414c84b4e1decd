//! The kinds that a program knows: what is brought forward and loaded when the store opens.

use std::any::TypeId;
use std::ops::Bound::Unbounded;

use gatehouse_model::record::Record;
use uuid::Uuid;

use crate::{
    batch::{Expect, Put},
    cache::{KindCache, ReadModel},
    codec,
    commit::Staging,
    engine::Write,
    error::{Result, StoreError},
    store::Shared,
};

#[derive(Clone)]
struct Registered {
    kind: &'static str,
    type_id: TypeId,
    migrate: fn(&Shared, &mut Staging<'_>) -> Result<u64>,
    load: Option<fn(&Shared, &mut ReadModel) -> Result<()>>,
}

/// All kinds of a program. A kind that is not registered works too, but is loaded at its first use and not brought
/// forward on the disk. Whoever changes `Record::indexes` of a kind raises its `SCHEMA`: index entries are made again
/// when a record is brought forward.
#[derive(Clone, Default)]
pub struct Registry {
    kinds: Vec<Registered>,
}

impl Registry {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn with<T: Record>(mut self) -> Self {
        self.kinds.push(Registered {
            kind: T::KIND,
            type_id: TypeId::of::<T>(),
            migrate: migrate::<T>,
            load: if T::CACHED { Some(load::<T>) } else { None },
        });
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        for (n, one) in self.kinds.iter().enumerate() {
            if self.kinds.iter().skip(n + 1).any(|other| other.kind == one.kind && other.type_id != one.type_id) {
                return Err(StoreError::DuplicateKind(one.kind));
            }
        }
        Ok(())
    }

    /// All kinds forward, in one transaction.
    pub(crate) fn migrate(&self, shared: &Shared) -> Result<()> {
        let mut staging = Staging::new(&*shared.engine);
        let mut moved = 0;
        for registered in &self.kinds {
            moved += (registered.migrate)(shared, &mut staging)?;
        }
        let writes = staging.into_writes();
        if !writes.is_empty() {
            shared.engine.apply(&writes)?;
            shared.engine.flush()?;
        }
        if moved > 0 {
            tracing::info!(records = moved, "records were brought forward to this version");
        }
        Ok(())
    }

    pub(crate) fn load(&self, shared: &Shared) -> Result<()> {
        let mut model = shared.model.write();
        for load in self.kinds.iter().filter_map(|registered| registered.load) {
            load(shared, &mut model)?;
        }
        Ok(())
    }
}

fn migrate<T: Record>(shared: &Shared, staging: &mut Staging<'_>) -> Result<u64> {
    let keys = shared.keys.kind(T::KIND)?;
    let schemas = shared.keys.tree("schemas");
    let stored = staging.get(schemas, &keys.records.0)?.and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
    match stored {
        Some(stored) if stored == T::SCHEMA => return Ok(0),
        Some(found) if found > T::SCHEMA => {
            return Err(StoreError::TooNew { what: T::KIND.into(), found, known: T::SCHEMA });
        }
        _ => {}
    }
    let mut moved = 0;
    for pair in shared.engine.scan(keys.records, Unbounded, Unbounded, false) {
        let (key, bytes) = pair?;
        let id = codec::id_of(&key)?;
        let opened = codec::open(&keys, T::KIND, id, &bytes)?;
        if opened.schema == T::SCHEMA {
            continue;
        }
        let record: T = codec::decode(id, &opened)?;
        let wrong = |why: &str| StoreError::Migration { kind: T::KIND, id, from: opened.schema, why: why.into() };
        if record.id() != id || record.org() != opened.org {
            return Err(wrong("it would change the record's id or organization"));
        }
        let put = Put {
            org: opened.org,
            schema: T::SCHEMA,
            indexes: record.indexes(),
            payload: codec::encode(&record)?,
            expect: Expect::Anything,
            value: None,
        };
        staging.put_record(&keys, T::KIND, id, &put, opened.version, &opened.indexes)?;
        moved += 1;
    }
    let value = Some(T::SCHEMA.to_be_bytes().to_vec());
    staging.write(Write { tree: schemas, key: keys.records.0.to_vec(), value });
    Ok(moved)
}

/// Decode all records of a cached kind into the read model.
pub(crate) fn load<T: Record>(shared: &Shared, model: &mut ReadModel) -> Result<()> {
    if model.get::<T>()?.is_some() {
        return Ok(());
    }
    let keys = shared.keys.kind(T::KIND)?;
    let mut cache = KindCache::<T>::default();
    for pair in shared.engine.scan(keys.records, Unbounded, Unbounded, false) {
        let (key, bytes) = pair?;
        let id: Uuid = codec::id_of(&key)?;
        let opened = codec::open(&keys, T::KIND, id, &bytes)?;
        cache.put(std::sync::Arc::new(codec::decode(id, &opened)?), opened.version);
    }
    model.install(cache)
}
